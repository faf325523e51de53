"""Per-sample gradients of one batched backward agree with one sample at a time, and the model is left as it was."""

import contextlib

import numpy as np
import pytest
import torch

import qkov
from qkov import gradients, losses, reference
from qkov.errors import NonFiniteError
from tests.builders import (
    CAUSAL_FAMILIES,
    FAMILIES,
    VOCABULARY,
    build_batch,
    build_model,
    collect,
    gradient_error,
    loss_of,
    reference_gradients,
)

LENGTHS = (5, 8, 3, 7, 6)
FLOAT32_BOUND, FLOAT64_BOUND = 1e-5, 1e-11
# Most families take the softmax of eager attention in float32 whatever the model's dtype.
LIBRARY_FLOAT32_BOUND = 1e-6
# A row of padding on the left sees no token; the library's smallest float64 cast to float32 is -inf, and softmax NaN.
NAN_FAMILIES = {"llama", "opt", "gpt_neox", "phi3", "qwen2", "qwen3"}


# Agreement with the reference


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_the_reference(family, dtype, attention, padding):
    model = build_model(family, dtype=dtype, attention=attention)
    batch = build_batch(LENGTHS, padding=padding, width=10)
    if dtype == torch.float64 and attention == "eager" and padding == "left" and family in NAN_FAMILIES:
        with pytest.raises(NonFiniteError, match=r"sample 0 has loss nan.*pad on the right or use sdpa"):
            collect(model, batch)
        return
    expected, tokens = reference_gradients(family, attention, LENGTHS)
    collector = collect(model, batch, loss_fn=loss_of(family))
    bound = FLOAT64_BOUND if dtype == torch.float64 else FLOAT32_BOUND
    assert gradient_error(collector, "a", expected) < bound
    assert [one.num_tokens for one in collector.samples("a")] == tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_implementations_agree_where_the_library_drops_to_float32(family):
    collector = collect(build_model(family, attention="eager"), build_batch(LENGTHS), loss_fn=loss_of(family))
    assert gradient_error(collector, "a", reference_gradients(family, "sdpa", LENGTHS)[0]) < LIBRARY_FLOAT32_BOUND


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_samples_per_pass_do_not_matter(family, micro_batch, padding):
    batch = build_batch(LENGTHS, padding=padding)
    collector = collect(build_model(family), batch, micro_batch=micro_batch)
    assert gradient_error(collector, "a", reference_gradients(family, "sdpa", LENGTHS)[0]) < FLOAT64_BOUND


@pytest.mark.parametrize("size", [1, 2, 4])
def test_batch_size_does_not_matter(size):
    whole = build_batch(LENGTHS)
    batches = [{name: value[at : at + size] for name, value in whole.items()} for at in range(0, len(LENGTHS), size)]
    collector = collect(build_model("phi3"), batches)
    assert gradient_error(collector, "a", reference_gradients("phi3", "sdpa", LENGTHS)[0]) < FLOAT64_BOUND


def test_order_in_a_batch_does_not_matter():
    order = [3, 0, 4, 2, 1]
    batch = {name: value[order] for name, value in build_batch(LENGTHS).items()}
    expected = reference_gradients("qwen3", "sdpa", LENGTHS)[0]
    collector = collect(build_model("qwen3"), batch)
    assert gradient_error(collector, "a", [expected[row] for row in order]) < FLOAT64_BOUND


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", CAUSAL_FAMILIES)
def test_label_masks_agree_with_the_reference(family, padding):
    model = build_model(family)
    batch = build_batch(LENGTHS, padding=padding)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, losses.IGNORED)
    labels[:, 5] = losses.IGNORED
    labels[1, :4] = losses.IGNORED  # a prompt
    batch["labels"] = labels
    right = build_batch(LENGTHS)
    right["labels"] = torch.full_like(labels, losses.IGNORED)
    for row, length in enumerate(LENGTHS):
        right["labels"][row, :length] = labels[row][batch["attention_mask"][row] == 1]
    expected, tokens = reference.sample_gradients(model, right)
    collector = collect(model, batch)
    assert gradient_error(collector, "a", expected) < FLOAT64_BOUND
    assert [one.num_tokens for one in collector.samples("a")] == tokens


@pytest.mark.parametrize("family", CAUSAL_FAMILIES)
def test_gaps_in_the_mask_agree_with_the_reference(family):
    model = build_model(family)
    batch = build_batch((8, 6))
    batch["attention_mask"][0, 3] = batch["attention_mask"][1, 2] = 0
    expected, tokens = reference.sample_gradients(model, batch)
    collector = collect(model, batch)
    assert gradient_error(collector, "a", expected) < FLOAT64_BOUND
    assert [one.num_tokens for one in collector.samples("a")] == tokens == [5, 3]


@pytest.mark.parametrize("padding", ["right", "left"])
def test_real_tokens_equal_to_the_padding_id_agree_with_the_reference(padding):
    model = build_model("gpt2")
    batch = build_batch((6, 4), padding=padding, start=0, seed=2)
    batch["input_ids"][0, 2] = batch["input_ids"][1, -2 if padding == "left" else 1] = 0
    right = build_batch((6, 4))
    for row, length in enumerate((6, 4)):
        right["input_ids"][row, :length] = batch["input_ids"][row][batch["attention_mask"][row] == 1]
    expected, _ = reference.sample_gradients(model, right)
    assert gradient_error(collect(model, batch), "a", expected) < FLOAT64_BOUND


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_input_embeddings_agree_with_token_ids(family, padding):
    model = build_model(family)
    batch = build_batch(LENGTHS, padding=padding)
    embedded = {
        "inputs_embeds": model.get_input_embeddings()(batch["input_ids"]).detach(),
        "attention_mask": batch["attention_mask"],
        "labels": batch["input_ids"],
    }
    collector = collect(model, embedded)
    assert gradient_error(collector, "a", reference_gradients(family, "sdpa", LENGTHS)[0]) < FLOAT64_BOUND
    expected, _ = reference.sample_gradients(model, embedded)
    assert gradient_error(collector, "a", expected) < FLOAT64_BOUND


def test_wrapped_model_padded_on_the_left_agrees_with_the_reference():
    class Wrapper(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, **inputs):
            return self.inner(**inputs)

    expected = [
        {f"inner.{name}": grad for name, grad in grads.items()}
        for grads in reference_gradients("gpt2", "sdpa", LENGTHS)[0]
    ]
    collector = collect(Wrapper(build_model("gpt2")), build_batch(LENGTHS, padding="left"))
    assert gradient_error(collector, "a", expected) < FLOAT64_BOUND


def test_bfloat16_agrees_roughly():
    collector = collect(build_model("llama", dtype=torch.bfloat16), build_batch(LENGTHS))
    error = gradient_error(collector, "a", reference_gradients("llama", "sdpa", LENGTHS)[0])
    assert 1e-5 < error < 0.1  # eight bits of mantissa
    assert collector.get_sample_gradients("a", 0)["model.layers.0.self_attn.q_proj.weight"].dtype == torch.float32


# Surroundings of the call


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad, contextlib.nullcontext])
def test_grad_mode_of_the_caller_does_not_matter(context):
    model = build_model("llama")
    with context():
        collector = collect(model, build_batch(LENGTHS))  # under inference_mode the batch too is made there
        assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)
    assert gradient_error(collector, "a", reference_gradients("llama", "sdpa", LENGTHS)[0]) < FLOAT64_BOUND


@pytest.mark.parametrize("frozen", ["all", "attention", "none"])
def test_frozen_parameters_do_not_matter(frozen):
    model = build_model("opt")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen == "none" or (frozen == "attention" and "attn" not in name))
    collector = collect(model, build_batch(LENGTHS))
    assert gradient_error(collector, "a", reference_gradients("opt", "sdpa", LENGTHS)[0]) < FLOAT64_BOUND


def test_training_mode_does_not_matter():
    model = build_model("gpt2", attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5).train()
    collector = collect(model, build_batch(LENGTHS))
    assert gradient_error(collector, "a", reference_gradients("gpt2", "sdpa", LENGTHS)[0]) < FLOAT64_BOUND


def test_activation_checkpointing_does_not_matter():
    model = build_model("llama").train()
    # Newer versions warn about the older name.
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    collector = collect(model, build_batch(LENGTHS))
    assert gradient_error(collector, "a", reference_gradients("llama", "sdpa", LENGTHS)[0]) < FLOAT64_BOUND


def state_of(model):
    """Everything that collection might touch and must not."""
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()],
        [parameter.detach().clone() for parameter in model.parameters()],
        [(len(module._forward_hooks), len(module._backward_hooks)) for module in model.modules()],
        torch.is_grad_enabled(),
    )


def assert_same_state(before, after):
    for was, now in zip(before[2] + before[3], after[2] + after[3], strict=True):
        assert (was is None and now is None) or torch.equal(was, now)
    assert [before[part] for part in (0, 1, 4, 5)] == [after[part] for part in (0, 1, 4, 5)]


def fail(model, batch):
    model(**batch)
    raise ZeroDivisionError("the user's own")


@pytest.mark.parametrize("loss_fn", [None, fail], ids=["success", "error inside"])
def test_model_is_left_as_it_was(loss_fn):
    model = build_model("llama").train()
    model.model.layers[1].eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 > 0)
        if number % 2:
            parameter.grad = torch.full_like(parameter, 0.5)
    before = state_of(model)
    expected = contextlib.nullcontext() if loss_fn is None else pytest.raises(ZeroDivisionError, match="own")
    with expected:
        collect(model, build_batch(LENGTHS), loss_fn=loss_fn)
    assert_same_state(before, state_of(model))


# What is refused


def scaled_loss(factors, power=1):
    """A causal loss whose samples are multiplied by numbers, or end in a root without slope."""

    def loss_fn(model, batch):
        loss, tokens = losses.causal_lm_loss(model, batch)
        factor = torch.tensor(factors, dtype=loss.dtype)
        return (loss * factor) if power == 1 else (loss * factor).sqrt(), tokens

    return loss_fn


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_loss_that_is_not_finite_names_its_sample(value):
    with pytest.raises(NonFiniteError, match=f"sample 'second' has loss {value}"):
        collect(
            build_model("gpt2"),
            build_batch((4, 5, 6)),
            loss_fn=scaled_loss([1.0, value, 1.0]),
            sample_ids=["first", "second", "third"],
        )


def test_gradient_that_is_not_finite_names_its_sample():
    with pytest.raises(NonFiniteError, match=r"sample 11 has a NaN or infinite gradient at 'transformer"):
        collect(
            build_model("gpt2"),
            build_batch((4, 5, 6)),
            loss_fn=scaled_loss([1.0, 0.0, 1.0], power=0.5),
            sample_ids=[10, 11, 12],
        )


@pytest.mark.parametrize("family", sorted(NAN_FAMILIES))
def test_padded_sample_that_becomes_nan_is_named_and_nothing_is_kept(family):
    collector = qkov.FisherCollector()
    batch = build_batch((7, 7, 4, 7), padding="left")
    with pytest.raises(NonFiniteError, match="sample 'padded' has loss nan"):
        collector.collect_fisher(
            build_model(family, attention="eager"), batch, "a", sample_ids=["a", "b", "padded", "c"], progress=False
        )
    assert collector.tasks == ()


def test_rows_beside_those_of_the_samples_do_not_matter():
    def doubled(model, batch):
        twice = {name: torch.cat([value, value]) for name, value in batch.items()}
        loss, tokens = losses.causal_lm_loss(model, twice)
        return loss[: len(loss) // 2], tokens[: len(loss) // 2]

    collector = collect(build_model("gpt2"), build_batch(LENGTHS), loss_fn=doubled)
    assert gradient_error(collector, "a", reference_gradients("gpt2", "sdpa", LENGTHS)[0]) < FLOAT64_BOUND


# Factors and slices


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox", "phi3"])
def factored(request):
    """A collector and the reference gradients of the same two samples."""
    model = build_model(request.param)
    return collect(model, build_batch((5, 7))), reference_gradients(request.param, "sdpa", (5, 7))[0]


def every_slice(collector):
    return [
        (layout, projection, unit)
        for layout in collector.config.layers
        for projection in layout.projections
        for unit in range(projection.num_units)
    ]


def test_slice_gradient_is_the_part_of_the_whole(factored):
    collector, expected = factored
    for layout, projection, unit in every_slice(collector):
        factors = collector.samples("a")[1].factors
        head, other = gradients.slice_factors(factors, projection, unit)
        out = torch.empty(head.shape[1], other.shape[1], dtype=torch.float64)
        gradients.slice_gradient(factors, projection, unit, out)
        truth = reference.cut(expected[1], layout, projection.block, unit)
        stored = out if projection.head_axis == 0 else out.T
        np.testing.assert_allclose(stored.flatten().numpy(), truth, rtol=1e-9, atol=1e-13 * np.abs(truth).max())


def test_columns_of_a_slice_are_those_of_the_whole_slice(factored):
    collector, _ = factored
    factors = collector.samples("a")[0].factors
    projection = collector.config.layers[0].projection("K")
    whole = torch.empty(projection.width, 24, dtype=torch.float64)
    gradients.slice_gradient(factors, projection, 1, whole)
    part = torch.empty(projection.width, 7, dtype=torch.float64)
    gradients.slice_gradient(factors, projection, 1, part, (3, 10))
    assert torch.allclose(part, whole[:, 3:10], rtol=1e-14, atol=0)


def test_squared_norms_are_those_of_all_heads_of_a_block(factored):
    collector, expected = factored
    for layout in collector.config.layers:
        for projection in layout.projections:
            parts = [reference.cut(expected[0], layout, projection.block, unit) for unit in range(projection.num_units)]
            found = gradients.squared_norm(collector.samples("a")[0].factors, projection)
            assert found == pytest.approx(sum(float(part @ part) for part in parts), rel=1e-10)


def test_squared_bias_norms_are_those_of_all_heads_of_a_block():
    collector = collect(build_model("llama"), build_batch((5, 7)))
    expected = reference_gradients("llama", "sdpa", (5, 7))[0]
    for projection in collector.config.layers[0].projections[:3]:
        found = gradients.squared_bias_norm(collector.samples("a")[0].factors, projection)
        assert found == pytest.approx(float((expected[0][projection.bias_name] ** 2).sum()), rel=1e-10)


def test_tokens_without_gradient_are_not_kept():
    batch = build_batch((4, 4), width=9)
    batch["labels"] = torch.full_like(batch["input_ids"], losses.IGNORED)
    batch["labels"][:, 2] = 5  # positions 0 and 1 predict it; later ones have no gradient in a causal model
    collector = collect(build_model("llama"), batch)
    for one in collector.samples("a"):
        assert {len(pair.inputs) for pair in one.factors.values()} == {2}


def test_inputs_shared_by_projections_are_kept_once():
    factors = collect(build_model("llama"), build_batch((5,))).samples("a")[0].factors
    pointers = {factors[f"model.layers.0.self_attn.{name}_proj"].inputs.data_ptr() for name in "qkv"}
    assert len(pointers) == 1


def test_parameters_without_influence_have_zero_gradients():
    def from_first_layer(model, batch):
        states = model(**batch, output_hidden_states=True).hidden_states[1]
        return states.square().sum((1, 2))

    collector = collect(build_model("bert"), build_batch((5, 5)), loss_fn=from_first_layer)
    grads = collector.get_sample_gradients("a", 0)
    assert grads["encoder.layer.0.attention.self.query.weight"].abs().max() > 0
    assert all(not grad.any() for name, grad in grads.items() if ".layer.1." in name)


def test_vocabulary_is_wide_enough_for_the_batches_here():
    assert int(build_batch(LENGTHS)["input_ids"].max()) < VOCABULARY


def compiled_whole(model):
    return torch.compile(model, backend="eager")


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def compiled_by_layer(model):
    for layer in model.model.layers:
        layer.compile(backend="eager")
    return model


def checkpointed(model):
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()  # its name since 5.x
    return model.train()


@pytest.mark.parametrize("change", [compiled_whole, compiled_in_place, compiled_by_layer, checkpointed])
def test_compiled_and_checkpointed_models_give_the_same_gradients(change, recwarn):
    batch = build_batch((5, 6, 4))
    expected = collect(build_model("llama"), batch)
    model = change(build_model("llama"))
    with torch.no_grad():
        model(**batch)  # compiled before anything is hooked
    found = collect(model, batch)
    assert found.config == expected.config == qkov.QKOVConfig.from_model(model)
    for sample_id in expected.sample_ids("a"):
        grads, wanted = found.get_sample_gradients("a", sample_id), expected.get_sample_gradients("a", sample_id)
        assert list(grads) == list(wanted)
        for name in wanted:
            torch.testing.assert_close(grads[name], wanted[name], rtol=1e-12, atol=1e-14)


def test_laws_hold_on_a_compiled_model():
    model = compiled_whole(build_model("llama"))
    batch = build_batch((5, 6, 4))
    results = qkov.check_model(
        model, batch, batch, checks=["reference_gradients", "gauge", "head_rows"], progress=False
    )
    assert [result.status for result in results] == ["passed"] * 3
