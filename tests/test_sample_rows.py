"""The sample of every row of activations is found wherever samples lie, and rows of several samples are refused."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qkov
from qkov import gradients, losses, reference, sample_rows
from qkov.errors import BatchError, NonFiniteError
from tests.builders import collect, gradient_error
from validation import models, synthetic

ELSEWHERE = tuple(one for one in synthetic.ARRANGEMENTS if one != "samples")
BOUND = 1e-12


def arranged_model(arrangement, **sizes):
    return synthetic.SyntheticLM(synthetic.SyntheticConfig(arrangement=arrangement, **sizes)).eval()


def random_batch(lengths, seed=1):
    return models.random_batch(lengths, vocab_size=23, first_token=1, pad_id=0, seed=seed)


def count_backwards(monkeypatch):
    """A list that grows by the number of outputs of every ``torch.autograd.grad``."""
    calls, original = [], torch.autograd.grad

    def grad(outputs, inputs, *arguments, **options):
        calls.append(len(inputs))
        return original(outputs, inputs, *arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    return calls


# Agreement with one sample at a time


@pytest.mark.parametrize("lengths", [(5, 8, 3, 7, 6), (5, 3, 5, 2, 4), (4, 4, 3, 4), (6,), (3, 2)], ids=str)
@pytest.mark.parametrize("packing", ["split", "interleaved"])
@pytest.mark.parametrize("arrangement", synthetic.ARRANGEMENTS)
def test_agrees_with_the_reference(arrangement, packing, lengths):
    # Five samples of five tokens, and four of four: the leading size is the number of samples by accident.
    model, batch = arranged_model(arrangement, packing=packing), random_batch(lengths)
    expected, tokens = reference.sample_gradients(model, batch)
    collector = collect(model, batch)
    assert gradient_error(collector, "a", expected) < BOUND
    assert [one.num_tokens for one in collector.samples("a")] == tokens


@settings(max_examples=25, deadline=None)
@given(
    arrangement=st.sampled_from(ELSEWHERE),
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=9),
    micro_batch=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_any_lengths_in_any_passes_agree_with_samples_first(arrangement, lengths, micro_batch, seed):
    batch = random_batch(lengths, seed)
    sizes = {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "rotary": True}
    expected = collect(arranged_model("samples", **sizes), batch)
    found = collect(arranged_model(arrangement, **sizes), batch, micro_batch=micro_batch)
    for sample_id in expected.sample_ids("a"):
        grads, wanted = found.get_sample_gradients("a", sample_id), expected.get_sample_gradients("a", sample_id)
        for name in wanted:
            torch.testing.assert_close(grads[name], wanted[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arrangement", ELSEWHERE)
def test_coarse_numbers_find_the_same_rows(arrangement, dtype):
    batch = random_batch((5, 8, 3, 7, 6))
    model = arranged_model(arrangement, rotary=True)
    expected, _ = reference.sample_gradients(model, batch)
    error = gradient_error(collect(model.to(dtype), batch), "a", expected)
    assert error < (1e-5 if dtype == torch.float32 else 0.2)


def test_factors_hold_the_tokens_of_their_sample_and_share_inputs():
    lengths = (5, 8, 3)
    collector = collect(arranged_model("tokens"), random_batch(lengths))
    for length, one in zip(lengths, collector.samples("a"), strict=True):
        assert {len(pair.inputs) for pair in one.factors.values()} == {length - 1}
        shared = {one.factors[f"layers.0.attention.{name}"].inputs.data_ptr() for name in ("query", "key", "value")}
        assert len(shared) == 1


def permuted(model, batch):
    order = torch.arange(len(batch["input_ids"])).roll(1)
    loss, tokens = losses.causal_lm_loss(model, {name: value[order] for name, value in batch.items()})
    back = order.argsort()
    return loss[back], tokens[back]


def test_a_model_that_reorders_its_samples_agrees_with_the_reference():
    model, batch = arranged_model("samples"), random_batch((5, 8, 3, 7))
    expected, _ = reference.sample_gradients(model, batch)
    assert gradient_error(collect(model, batch, loss_fn=permuted), "a", expected) < BOUND


def checkpointed(model):
    for layer in model.layers:
        forward = layer.forward
        layer.forward = lambda *args, forward=forward: torch.utils.checkpoint.checkpoint(
            forward, *args, use_reentrant=False
        )
    return model


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("change", [checkpointed, compiled])
@pytest.mark.parametrize("arrangement", ["tokens", "joined"])
def test_compiled_and_checkpointed_models_give_the_same_gradients(arrangement, change):
    batch = random_batch((5, 8, 3))
    expected, _ = reference.sample_gradients(arranged_model(arrangement), batch)
    model = change(arranged_model(arrangement))
    assert gradient_error(collect(model, batch), "a", expected) < BOUND


# What it costs


def test_samples_first_are_verified_once(monkeypatch):
    calls = count_backwards(monkeypatch)
    model = arranged_model("samples")
    collector = qkov.FisherCollector()
    for number, seed in enumerate((1, 2, 3)):
        collector.collect_fisher(model, random_batch((5, 4, 3), seed), "a", progress=False)
        assert len(calls) == 2 + number
    collector.collect_fisher(model, random_batch((4, 3)), "b", loss_fn=permuted, progress=False)
    assert len(calls) == 4 + 2 + 2  # another loss: verified, and found in two more passes to be in another order


@pytest.mark.parametrize(("num_samples", "passes"), [(1, 0), (2, 2), (3, 3), (6, 4), (7, 5), (20, 6), (21, 7)])
def test_number_of_passes_elsewhere(monkeypatch, num_samples, passes):
    calls = count_backwards(monkeypatch)
    collect(arranged_model("tokens", num_layers=1), random_batch([8] * num_samples), micro_batch=num_samples)
    assert len(calls) == 1 + passes


def test_verification_changes_no_bit():
    model, batch = arranged_model("samples"), random_batch((5, 8, 3))
    config, names = qkov.QKOVConfig.from_model(model), ["a", "b", "c"]
    verified = sample_rows.FirstAxis(is_sample=True)
    plain = gradients.collect_factors(model, batch, config, losses.causal_lm_loss, names, verified)
    checked = gradients.collect_factors(model, batch, config, losses.causal_lm_loss, names)
    for (one, _), (other, _) in zip(plain, checked, strict=True):
        for name in one:
            assert torch.equal(one[name].inputs, other[name].inputs)
            assert torch.equal(one[name].deltas, other[name].deltas)


@pytest.mark.parametrize("first", [(7, 4, 5), (3, 2, 3)], ids=["another size", "same size"])
def test_an_accident_of_sizes_is_none_after_any_pass(first):
    model = arranged_model("tokens")
    collector = qkov.FisherCollector()
    collector.collect_fisher(model, random_batch(first), "a", progress=False)
    equal = random_batch((4, 3, 4, 2), seed=2)  # four samples of four tokens
    collector.collect_fisher(model, equal, "b", progress=False)
    assert gradient_error(collector, "b", reference.sample_gradients(model, equal)[0]) < BOUND


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5, 11, 40])
def test_codes_tell_samples_and_their_unions_apart(num_samples):
    found = [set(code) for code in sample_rows.codes(num_samples)]
    assert len(found) == num_samples
    assert all(not one <= other for one, other in itertools.permutations(found, 2))
    unions = [one | other for one, other in itertools.combinations(found, 2)]
    assert not any(union in found for union in unions)


# What is refused


def centre_samples(_module, args):
    return (args[0] - args[0].mean(0) / 2, *args[1:])


def centre_faintly(_module, args):
    return (args[0] - 1e-30 * args[0].mean(0), *args[1:])


@pytest.mark.parametrize("mix", [centre_samples, centre_faintly])
@pytest.mark.parametrize("arrangement", ELSEWHERE)
def test_a_model_that_mixes_samples_is_refused(arrangement, mix):
    model = arranged_model(arrangement)
    model.layers[1].register_forward_pre_hook(mix)
    collector = qkov.FisherCollector()
    with pytest.raises(BatchError, match=r"projection 'layers\.0\.attention\.\w+'.*of several samples.*micro_batch=1"):
        collector.collect_fisher(model, random_batch((5, 8, 3)), "a", progress=False)
    assert collector.tasks == ()


def test_a_model_that_mixes_samples_is_refused_with_samples_first():
    model = arranged_model("samples")
    model.layers[1].register_forward_pre_hook(centre_samples)
    batch = random_batch((5, 5, 5))
    with pytest.raises(BatchError, match=r"have gradients of several samples"):
        collect(model, batch)
    expected, _ = reference.sample_gradients(model, batch)
    assert gradient_error(collect(model, batch, micro_batch=1), "a", expected) < BOUND


@pytest.mark.parametrize("arrangement", synthetic.ARRANGEMENTS)
def test_losses_that_compare_samples_are_refused(arrangement):
    def contrasted(model, batch):
        loss, tokens = losses.causal_lm_loss(model, batch)
        return loss - loss.roll(1), tokens  # in the sum of all losses everything cancels

    with pytest.raises(BatchError, match=r"have gradients of several samples"):
        collect(arranged_model(arrangement), random_batch((5, 8, 3, 4)), loss_fn=contrasted)


def test_tokens_read_by_projections_of_different_samples_are_refused():
    owners = {"query": torch.tensor([0, 1, -1]), "key": torch.tensor([0, -1, 1]), "value": torch.tensor([0, 0, 1])}
    with pytest.raises(BatchError, match="projection 'value'"):
        sample_rows._merged(owners, dict.fromkeys(owners, "hidden"))
    apart = sample_rows._merged(owners, {"query": 1, "key": 1, "value": 2})
    assert apart["query"].tolist() == apart["key"].tolist() == [0, 1, 1]
    assert apart["value"].tolist() == [0, 0, 1]


def rooted(factors):
    def loss_fn(model, batch):
        loss, tokens = losses.causal_lm_loss(model, batch)
        return (loss * torch.tensor(factors, dtype=loss.dtype)).sqrt(), tokens

    return loss_fn


@pytest.mark.parametrize("arrangement", ELSEWHERE)
def test_gradient_that_is_not_finite_is_refused(arrangement):
    with pytest.raises(NonFiniteError, match=r"a sample among 'x', 'y', 'z' has a NaN or infinite gradient at 'layers"):
        collect(
            arranged_model(arrangement), random_batch((5, 8, 3)), loss_fn=rooted([1, 0, 1]), sample_ids=["x", "y", "z"]
        )


def test_kernels_that_do_not_repeat_their_bits_cost_passes_once(monkeypatch):
    monkeypatch.setattr(sample_rows, "_scales_by_sample", lambda *arguments: False)
    calls = count_backwards(monkeypatch)
    model, batch = arranged_model("samples"), random_batch((5, 8, 3))
    collector = collect(model, batch)
    assert gradient_error(collector, "a", reference.sample_gradients(model, batch)[0]) < BOUND
    assert len(calls) == 1 + 3
    collector.collect_fisher(model, random_batch((4, 4), seed=2), "b", progress=False)
    assert len(calls) == 1 + 3 + 1


def test_rows_of_the_passes_of_one_sample_keep_what_they_were_in_the_sum():
    rows = torch.tensor([[1.0], [1.0]], requires_grad=True)
    outputs = {"layer": rows * 1}
    # The first row is of sample 0 alone; of the second, the gradients of samples 0 and 1 cancel in the sum.
    only, both = outputs["layer"][:, 0]
    losses_of = torch.stack([only + both, -both])
    deltas = {"layer": torch.autograd.grad(losses_of.sum(), list(outputs.values()), retain_graph=True)[0]}
    with pytest.raises(BatchError, match="1 of 2 rows of activations of projection 'layer' \\(the first is row 1 "):
        sample_rows.identify(losses_of, outputs, deltas)
