"""The Fisher diagonal against plain autograd, one way of adding it up against the other, and its files."""

import copy
import dataclasses
import gc
import json
import logging
import weakref

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import qkov
from qkov import formula, gradients, linear_weights
from qkov.errors import (
    EmptyTaskError,
    LayoutError,
    MemoryLimitError,
    NonFiniteError,
    OptionError,
    ResultFileError,
    SampleIdError,
    ShapeError,
    UnknownTaskError,
)
from tests.builders import VOCABULARY, build_batch, build_model, collect

LENGTHS = (5, 8, 3, 7)
GROUPS = ("attention", "mlp")
BOUND = 1e-11


# Plain autograd, one sample at a time


def causal_sum(logits, labels):
    """Summed cross-entropy of one sample and its number of predicted tokens."""
    return torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum"), len(labels) - 1


def masked_sum(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum"), int((labels != -100).sum())


def squares_one_by_one(model, batch, loss=causal_sum, normalisation="tokens"):
    """``{param_name: mean g^2 / tokens}`` and ``{param_name: mean g}``: ``.backward()`` without padding, square, mean."""
    model = copy.deepcopy(model).double().eval().requires_grad_(True)
    squares = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    means = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    labels = batch.get("labels", batch["input_ids"])
    for row, mask in enumerate(batch["attention_mask"].bool()):
        model.zero_grad()
        total, tokens = loss(model(input_ids=batch["input_ids"][row, mask][None]).logits[0], labels[row, mask])
        total.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                squares[name] += parameter.grad**2 / (tokens if normalisation == "tokens" else 1)
                means[name] += parameter.grad
    count = len(batch["input_ids"])
    return {name: one / count for name, one in squares.items()}, {name: one / count for name, one in means.items()}


def largest_error(found, expected):
    """Largest error relative to the largest entry of all weights held."""
    assert found
    scale = max(float(expected[name].abs().max()) for name in found)
    return max(float((tensor - expected[name]).abs().max()) for name, tensor in found.items()) / scale


def masked_lm_loss(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none")
    return losses.sum(1), (batch["labels"] != -100).sum(1)


@pytest.mark.parametrize("normalisation", ["tokens", "none"])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "phi3"])
def test_agrees_with_plain_autograd(family, padding, normalisation):
    model, batch = build_model(family), build_batch(LENGTHS, padding=padding)
    squares, means = squares_one_by_one(model, batch, normalisation=normalisation)
    found = qkov.collect_fisher_diagonal(
        model, batch, "a", weights="all", micro_batch=3, contribution_normalisation=normalisation, progress=False
    )
    assert {name: tuple(one.shape) for name, one in found.values.items()} == {
        one.param_name: tuple(model.get_parameter(one.param_name).shape) for one in found.weights
    }
    assert largest_error(found.values, squares) < BOUND
    assert largest_error(found.grad_mean, means) < BOUND


@pytest.mark.parametrize("padding", ["right", "left"])
def test_agrees_with_plain_autograd_on_a_masked_language_model(padding):
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=24, num_attention_heads=6, intermediate_size=20, num_hidden_layers=2,
        max_position_embeddings=32, position_embedding_type="relative_key", tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config).double().eval()
    torch.nn.init.zeros_(model.bert.embeddings.position_embeddings.weight)  # positions would move with the padding
    batch = build_batch(LENGTHS, padding=padding)
    chosen = (torch.arange(batch["input_ids"].shape[1]) % 3 != 1) & batch["attention_mask"].bool()
    batch["labels"] = batch["input_ids"].masked_fill(~chosen, -100)
    squares, means = squares_one_by_one(model, batch, masked_sum)
    found = qkov.collect_fisher_diagonal(model, batch, "a", weights="all", loss_fn=masked_lm_loss, progress=False)
    assert "cls.predictions.decoder.weight" in found.values
    assert largest_error(found.values, squares) < BOUND
    assert largest_error(found.grad_mean, means) < BOUND


def test_squaring_after_averaging_is_seen():
    """The wrong order of square and mean, planted: far from plain autograd, on any model."""
    model, batch = build_model("llama"), build_batch(LENGTHS)
    squares, _ = squares_one_by_one(model, batch, normalisation="none")
    found = qkov.collect_fisher_diagonal(model, batch, "a", contribution_normalisation="none", progress=False)
    wrong = {name: mean**2 for name, mean in found.grad_mean.items()}
    assert largest_error(wrong, squares) > 1e9 * BOUND
    for name, one in found.values.items():  # the difference is a variance
        assert (one - wrong[name] >= -1e-12 * one.max()).all()


@pytest.mark.parametrize("wrong", ["absolute value", "divided by tokens", "transposed"])
def test_a_wrong_square_or_place_is_seen(monkeypatch, wrong):
    model, batch = build_model("gpt2"), build_batch(LENGTHS)
    squares, _ = squares_one_by_one(model, batch)
    if wrong == "absolute value":
        monkeypatch.setattr(formula, "contribution", torch.abs)
    elif wrong == "divided by tokens":
        monkeypatch.setattr(formula, "normalise", lambda grad, tokens, _normalisation: grad / tokens)
    else:
        right = gradients.parameter_gradient
        monkeypatch.setattr(gradients, "parameter_gradient", lambda *args: (grad := right(*args)).T.reshape(grad.shape))
    found = qkov.collect_fisher_diagonal(model, batch, "a", progress=False)
    assert largest_error(found.values, squares) > 1e9 * BOUND


# Both ways give the same bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_both_ways_give_the_same_bits(family, dtype):
    model, batch = build_model(family, dtype=dtype), build_batch(LENGTHS)
    options = {"micro_batch": 3, "sample_ids": list("pqrs")}
    at_once = qkov.collect_fisher_diagonal(model, batch, "a", weights="all", progress=False, **options)
    collector = collect(model, batch, weights="all", **options)
    assert at_once.identical(qkov.FisherDiagonal.of(collector, "a"))
    for name, mean in qkov.FisherDiagonal.of(collector, "a").grad_mean.items():
        assert torch.equal(mean, at_once.grad_mean[name])
    assert {one.dtype for one in at_once.values.values()} == {
        torch.float64 if dtype == torch.float64 else torch.float32
    }


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4), micro_batch=st.one_of(st.none(), st.integers(1, 4)),
    seed=st.integers(0, 99), named=st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=15)
def test_both_ways_give_the_same_bits_however_batches_are_cut(sizes, micro_batch, seed, named):
    model = build_model("llama", dtype=torch.float32, layers=1)
    batches = [
        build_batch([2 + (seed + 3 * row) % 6 for row in range(size)], seed=seed + at) for at, size in enumerate(sizes)
    ]
    ids = [f"s{number}" for number in range(sum(sizes))] if named else None
    options = {"micro_batch": micro_batch, "sample_ids": ids}
    at_once = qkov.collect_fisher_diagonal(model, iter(batches), "a", progress=False, **options)
    collector = collect(model, batches, weights=GROUPS, **options)
    assert at_once.identical(qkov.FisherDiagonal.of(collector, "a"))
    assert at_once.num_samples == sum(sizes)
    expected = {name: 0.0 for name in at_once.values}
    for contributions in collector.contribution_cache["a"].values():
        expected = {name: total + contributions[name].double() for name, total in expected.items()}
    for name, total in expected.items():
        assert torch.equal(at_once.values[name], (total / sum(sizes)).float())


def test_other_passes_change_rounding_only():
    model, batch = build_model("llama"), build_batch(LENGTHS)
    one, four = (
        qkov.collect_fisher_diagonal(model, batch, "a", micro_batch=size, progress=False).values for size in (1, 4)
    )
    assert largest_error(one, four) < 1e-13


def test_some_weights_are_those_of_all():
    model, batch = build_model("llama", dtype=torch.float32), build_batch(LENGTHS)
    everything = qkov.collect_fisher_diagonal(model, batch, "a", weights="all", progress=False)
    for weights in ("mlp", "attention", "lm_head", ("model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj")):
        part = qkov.collect_fisher_diagonal(model, batch, "a", weights=weights, progress=False)
        assert 0 < len(part.values) < len(everything.values)
        for name, one in part.values.items():
            assert torch.equal(one, everything.values[name]), (weights, name)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt"])
def test_what_else_is_held_changes_no_bit_of_attention(family):
    model, batch = build_model(family, dtype=torch.float32), build_batch(LENGTHS)
    plain = collect(model, batch)
    for weights in (GROUPS, "all"):
        more = collect(model, batch, weights=weights)
        for sample_id in plain.sample_ids("a"):
            grads, wanted = more.get_sample_gradients("a", sample_id), plain.get_sample_gradients("a", sample_id)
            assert list(grads)[: len(wanted)] == list(wanted)
            assert len(grads) > len(wanted)
            assert all(torch.equal(grads[name], wanted[name]) for name in wanted)
        assert list(more.contribution_cache["a"]["a_0"]) == list(grads)


def test_a_feed_forward_part_that_joins_all_tokens_leaves_attention_as_it_is():
    """Tokens of all samples in one axis, inside the feed-forward part only, as mixtures of experts have them."""
    model, batch = build_model("llama", dtype=torch.float32), build_batch(LENGTHS)
    joined = copy.deepcopy(model)
    for layer in joined.model.layers:
        layer.mlp = _Joined(layer.mlp)
    plain = collect(model, batch, weights=GROUPS)
    for micro_batch in (None, 1):
        found = collect(joined, batch, weights=GROUPS, micro_batch=micro_batch)
        for sample_id in plain.sample_ids("a"):
            grads, wanted = found.get_sample_gradients("a", sample_id), plain.get_sample_gradients("a", sample_id)
            for name, grad in grads.items():
                expected = wanted[name.replace("mlp.inner.", "mlp.")]
                if ".mlp." in name or micro_batch == 1:
                    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
                else:
                    assert torch.equal(grad, expected)


class _Joined(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def test_the_model_is_left_as_it_was():
    model, batch = build_model("llama").train(), build_batch(LENGTHS)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    expected = qkov.collect_fisher_diagonal(build_model("llama"), batch, "a", progress=False)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        found = qkov.collect_fisher_diagonal(model, batch, "a", progress=False)
    assert found.identical(expected)  # frozen weights, training mode and no_grad make no difference
    assert model.training
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_no_factor_outlives_its_pass(monkeypatch):
    """When a pass starts, of the passes before it no more than the last sample is still there."""
    alive, real = [], gradients.collect_factors

    def counted(*arguments):
        gc.collect()
        assert sum(ref() is not None for ref in alive) <= per_sample
        results = real(*arguments)
        alive.extend(weakref.ref(pair.deltas) for factors, _ in results for pair in factors.values())
        return results

    model = build_model("llama")
    per_sample = len(linear_weights.find_linear_weights(model, qkov.QKOVConfig.from_model(model), GROUPS))
    monkeypatch.setattr(gradients, "collect_factors", counted)
    qkov.collect_fisher_diagonal(model, build_batch([5] * 6), "a", micro_batch=2, progress=False)
    assert len(alive) == 6 * per_sample


def test_a_pass_without_memory_is_halved_and_said(caplog):
    model, batch = build_model("llama", dtype=torch.float32), build_batch([6] * 7)
    sizes = []

    def hungry(model, batch):
        sizes.append(len(batch["input_ids"]))
        if len(batch["input_ids"]) > 2:
            raise torch.OutOfMemoryError("planted")
        return qkov.losses.causal_lm_loss(model, batch)

    with caplog.at_level(logging.WARNING, logger="qkov"):
        found = qkov.collect_fisher_diagonal(model, batch, "a", loss_fn=hungry, micro_batch=5, progress=False)
    assert sizes == [5, 2, 2, 2, 1]
    assert "out of memory with 5 samples per pass; at most 2 from here on" in caplog.text
    expected = qkov.collect_fisher_diagonal(model, batch, "a", loss_fn=hungry, micro_batch=2, progress=False)
    assert found.identical(expected)
    collector = collect(model, batch, loss_fn=hungry, micro_batch=7, weights=GROUPS)
    assert collector.sample_ids("a") == tuple(range(7))


def test_a_sample_without_memory_is_an_error():
    def starving(model, batch):
        raise torch.OutOfMemoryError("planted")

    with pytest.raises(MemoryLimitError, match="single sample"):
        qkov.collect_fisher_diagonal(build_model("llama"), build_batch((4, 4)), "a", loss_fn=starving, progress=False)


# What is refused


@pytest.mark.parametrize("batch", [[], build_batch((4,)) | {"input_ids": torch.zeros(0, 4, dtype=torch.long),
                                                            "attention_mask": torch.zeros(0, 4)}])  # fmt: skip
def test_an_empty_task_is_refused(batch):
    model = build_model("llama")
    with pytest.raises(EmptyTaskError, match=r"task 'math' has no samples"):
        qkov.collect_fisher_diagonal(model, batch, "math", progress=False)
    with pytest.raises(EmptyTaskError, match=r"task 'a' has no samples"):
        qkov.FisherDiagonal.of(collect(model, batch), "a")


def test_an_unknown_task_is_refused():
    with pytest.raises(UnknownTaskError):
        qkov.FisherDiagonal.of(collect(build_model("llama"), build_batch((4,))), "b")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sample_ids": [1]}, SampleIdError), ({"sample_ids": [1, 1]}, SampleIdError),
        ({"sample_ids": [1, 2, 3]}, SampleIdError), ({"micro_batch": 0}, OptionError), ({"task": ""}, OptionError),
        ({"contribution_normalisation": "mean"}, OptionError), ({"weights": "heads"}, OptionError),
        ({"attention": "decoder"}, LayoutError),
    ],
)  # fmt: skip
def test_arguments_without_meaning_are_refused(options, error):
    with pytest.raises(error):
        qkov.collect_fisher_diagonal(
            build_model("llama"), build_batch((4, 5)), options.pop("task", "a"), progress=False, **options
        )


def test_a_collector_says_what_it_holds():
    collector = qkov.FisherCollector(weights="mlp")
    assert collector.weights == ()
    model = build_model("gpt2")
    collector.collect_fisher(model, build_batch((4,)), "a", progress=False)
    assert collector.weights == linear_weights.find_linear_weights(model, collector.config, GROUPS)
    assert collector.left_out == {}
    names = [one.param_name for one in collector.weights if one.kind == "mlp"]
    assert list(collector.get_sample_gradients("a", 0))[-len(names) :] == names


# Files


@pytest.fixture(scope="module")
def found():
    model = build_model("gpt2", dtype=torch.float32)
    return qkov.collect_fisher_diagonal(model, build_batch(LENGTHS), "math", weights="all", progress=False)


def test_a_file_holds_fisher_alone_under_the_names_of_the_checkpoint(found, tmp_path):
    path = found.save(tmp_path / "fisher.safetensors")
    plain = load_file(path)
    checkpoint = build_model("gpt2").state_dict()
    assert plain.keys() == found.values.keys() <= checkpoint.keys()
    assert all(
        one.shape == checkpoint[name].shape and torch.equal(one, found.values[name]) for name, one in plain.items()
    )
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["qkov"])
    assert facts["content"]["attributes"]["left_out"]["transformer.wte.weight"].startswith("tied")


def test_a_result_comes_back(found, tmp_path):
    path, beside = tmp_path / "fisher", tmp_path / "mean"
    assert found.save(path, grad_mean=beside) == path
    back = qkov.load_fisher_diagonal(path, grad_mean=beside)
    assert back.identical(found)
    assert (back.config, back.weights, back.num_samples) == (found.config, found.weights, len(LENGTHS))
    assert list(back.values) == list(back.grad_mean) == list(found.values)
    assert all(torch.equal(back.grad_mean[name], one) for name, one in found.grad_mean.items())
    alone = qkov.load_fisher_diagonal(path)
    assert (alone.identical(found), alone.grad_mean) == (True, {})
    with pytest.raises(OptionError, match=r"loaded without its mean gradient"):
        alone.save(path, grad_mean=beside)
    assert found.save(tmp_path / "again").read_bytes() == path.read_bytes()


def test_means_of_another_result_are_refused(found, tmp_path):
    found.save(tmp_path / "one", grad_mean=tmp_path / "mean")
    dataclasses.replace(found, task="other").save(tmp_path / "two")
    with pytest.raises(ResultFileError, match=r"mean gradient of another result"):
        qkov.load_fisher_diagonal(tmp_path / "two", grad_mean=tmp_path / "mean")
    with pytest.raises(ResultFileError, match=r"holds format 'qkov-gradient-mean'"):
        qkov.load_fisher_diagonal(tmp_path / "mean")


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=60)
def test_a_damaged_file_is_refused(found, tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("damaged") / "x"
    content = bytearray(found.save(path).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(ResultFileError):
        qkov.load_fisher_diagonal(path)


def test_a_file_that_contradicts_itself_is_refused(found, tmp_path):
    path = tmp_path / "x"
    name = found.weights[0].param_name
    for change in (
        lambda content, arrays: content["weights"].pop(),
        lambda content, arrays: content.update(num_samples=0),
        lambda content, arrays: content.pop("task"),
        lambda content, arrays: content["weights"][0].update(unknown=1),
        lambda content, arrays: content["weights"][0].update(role="up"),
        lambda content, arrays: content["layers"][0].update(num_heads=5),
        lambda content, arrays: arrays.update({name: -arrays[name]}),
        lambda content, arrays: arrays.update({name: arrays[name].T}),
        lambda content, arrays: arrays.update({name: arrays[name] * float("nan")}),
        lambda content, arrays: arrays.update({name: arrays[name].astype("float16")}),
    ):
        content, arrays = copy.deepcopy(found._parts())
        change(content, arrays)
        qkov.diagonal.result_file.write(path, content, arrays, format_name="qkov-fisher-diagonal", format_version=1)
        with pytest.raises(ResultFileError):
            qkov.load_fisher_diagonal(path)


def test_a_checkpoint_is_no_result(tmp_path):
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "x")
    with pytest.raises(ResultFileError, match=r"was not written by this package"):
        qkov.load_fisher_diagonal(tmp_path / "x")
    torch.save({"a.weight": torch.ones(2, 2)}, tmp_path / "pickle")
    with pytest.raises(ResultFileError, match=r"not a whole safetensors file"):
        qkov.load_fisher_diagonal(tmp_path / "pickle")


def test_tensors_that_do_not_fit_their_weights_are_refused(found):
    name = found.weights[0].param_name
    with pytest.raises(ShapeError, match=r"values of task 'math' do not fit"):
        dataclasses.replace(found, values={name: found.values[name]})
    with pytest.raises(NonFiniteError, match=r"negative"):
        dataclasses.replace(found, values=found.values | {name: -found.values[name]})
    with pytest.raises(EmptyTaskError):
        dataclasses.replace(found, num_samples=0)


def test_a_result_says_what_its_numbers_mean(found):
    said = repr(found)
    assert "FisherDiagonal of 'math'" in said
    assert "4 samples" in said
    assert "labels of the data" in said
    assert "labels sampled" in repr(dataclasses.replace(found, attributes=found.attributes | {"labels": "sampled"}))
