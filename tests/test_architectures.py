"""Heads of the families of transformers are where the layout says, and what cannot be placed is refused with a reason."""

import collections
import dataclasses
import importlib

import pytest
import torch

from qkov import known_attention, locate, reference, refused_attention
from qkov.errors import LayoutError
from qkov.layout import QKOVConfig
from qkov.linear import qualified_name
from tests.builders import collect, gradient_error
from tests.layout_proof import prove_layout
from validation import architectures, tiny_models
from validation.architectures import ARCHITECTURES, REFUSED, TOKENS, build, decouple
from validation.encoder_decoders import ENCODER_DECODERS

CAUSAL = [name for name, one in ARCHITECTURES.items() if one.is_causal_lm and one.attention is None]

# Two samples of different length take other paths through float64 than one; these families multiply in float32 there.
FLOAT64_BOUND, LIBRARY_FLOAT32_BOUND = 1e-11, 1e-6
LIBRARY_FLOAT32 = {"bailing_hybrid", "beam", "deepseek_v2", "falcon_h1", "granite_swa", "laguna", "mpt", "nemotron_h"}


needs_the_version_of_the_tables = pytest.mark.skipif(
    tiny_models.is_older(), reason=f"counts what is in transformers {tiny_models.WRITTEN_WITH}; this one is older"
)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layout_states_the_heads_of_the_configuration_and_is_what_the_model_computes(name):
    architecture = ARCHITECTURES[name]
    model, inputs = build(architecture)
    config = QKOVConfig.from_model(model, attention=architecture.attention)
    assert config.layer_indices == architecture.layers
    assert {layout.packing for layout in config.layers} == {architecture.packing}
    found = (config.num_heads, config.num_kv_heads, config.head_dim, config.v_head_dim, config.hidden_size)
    assert found == architecture.heads
    decouple(model, architecture)
    num_heads, _, _, v_head_dim, _ = architecture.heads
    for place, layout in enumerate(config.layers):
        sizes = {"num_heads": of_layer(num_heads, place), "v_head_dim": of_layer(v_head_dim, place)}
        prove_layout(model, layout, inputs, **sizes)


def of_layer(size, place):
    """A size of one layer, where layers (stages of a vision model) differ in it."""
    return size[place] if isinstance(size, tuple) else size


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_an_encoder_decoder_is_looked_at_one_kind_at_a_time(name):
    architecture, kinds = ENCODER_DECODERS[name]
    with pytest.raises(LayoutError, match="has 3 kinds of attention") as caught:
        locate.find_attention(build(architecture)[0])
    assert all(repr(kind) in str(caught.value) for kind in kinds)


@pytest.mark.parametrize("name", CAUSAL)
def test_gradients_of_the_slices_agree_with_the_reference(name):
    model, _ = build(ARCHITECTURES[name])
    batch = {
        "input_ids": torch.tensor([TOKENS, (8, 3, 11, 6, 0, 0)]),
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
    }
    expected, _ = reference.sample_gradients(model, batch)
    bound = LIBRARY_FLOAT32_BOUND if name in LIBRARY_FLOAT32 else FLOAT64_BOUND
    assert gradient_error(collect(model, batch), "a", expected) < bound


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_heads_of_its_own_is_refused_with_the_reason(name):
    architecture, reason = REFUSED[name]
    model, _ = build(architecture)
    with pytest.raises(LayoutError) as caught:
        locate.find_attention(model)
    assert reason in str(caught.value)
    classes = {type(module).__name__ for module in model.modules()}
    assert any(f"{kind})" in str(caught.value) or str(caught.value).startswith(kind) for kind in classes)


@needs_the_version_of_the_tables
def test_every_registered_class_is_proved_on_a_family():
    used = set()
    for architecture in ARCHITECTURES.values():
        model, _ = build(architecture)
        for layout in locate.find_attention(model, architecture.attention):
            used.add(qualified_name(type(model.get_submodule(layout.module_name))))
    assert set(known_attention.FINDERS) < used
    assert len(used - set(known_attention.FINDERS)) == 356  # found by the general rule


@needs_the_version_of_the_tables
def test_every_reason_is_shown_on_a_family():
    used = set()
    for architecture, _ in REFUSED.values():
        used |= {qualified_name(type(module)) for module in build(architecture)[0].modules()}
    reasons = collections.Counter(refused_attention.REASONS[kind] for kind in used & set(refused_attention.REASONS))
    assert set(reasons) == set(refused_attention.REASONS.values())


def test_a_class_is_registered_or_refused_and_not_both():
    assert not set(known_attention.FINDERS) & (set(refused_attention.REASONS) | refused_attention.WITHOUT_HEADS)


@needs_the_version_of_the_tables
def test_every_class_in_the_tables_exists():
    for name in [*known_attention.FINDERS, *refused_attention.REASONS, *refused_attention.WITHOUT_HEADS]:
        module, _, kind = name.rpartition(".")
        assert hasattr(importlib.import_module(module), kind), name


def test_number_of_families_is_as_announced():
    # A second name of a family ends in "-" and what differs.
    families = {name.partition("-")[0] for name in ARCHITECTURES}
    assert len(families) == 422
    by_packing = collections.Counter(one.packing for one in ARCHITECTURES.values())
    assert by_packing == {
        "split": 588, "concatenated": 64, "interleaved": 9, "grouped": 1, "blocked": 1, "multi-latent": 18,
    }  # fmt: skip
    assert len(REFUSED) == 61


def test_no_entry_hides_another_of_its_name():
    for named, every in ((ARCHITECTURES, "families"), (REFUSED, "refused")):
        tables = [table for table in architectures.TABLES if hasattr(table, every)]
        assert len(named) == sum(len(list(getattr(table, every)())) for table in tables)


def test_a_gate_in_the_query_projection_belongs_to_no_block():
    (layout,) = locate.find_attention(build(ARCHITECTURES["qwen3_next"])[0])
    query = layout.projection("Q")
    assert query.weight_shape[0] == 2 * layout.num_heads * layout.head_dim
    assert query.starts == tuple(range(0, query.weight_shape[0], 2 * layout.head_dim))


def test_the_experiment_needs_the_gate_held():
    architecture = ARCHITECTURES["qwen3_next"]
    model, inputs = build(architecture)
    (layout,) = locate.find_attention(model)
    with pytest.raises(AssertionError, match="moves outside of its slices"):
        prove_layout(model, layout, inputs, num_heads=layout.num_heads, v_head_dim=layout.v_head_dim)


def moved(layout, **starts):
    """The layout with the slices of some blocks elsewhere, all at once: slices may not overlap in between."""
    parts = (dataclasses.replace(one, starts=starts.get(one.block, one.starts)) for one in layout.projections)
    return dataclasses.replace(layout, projections=tuple(parts))


def keys_and_values_exchanged(layout):
    return moved(layout, K=layout.projection("V").starts, V=layout.projection("K").starts)


def key_heads_in_reverse(layout):
    return moved(layout, K=layout.projection("K").starts[::-1])


def queries_before_everything(layout):
    width, heads, kv_heads = layout.head_dim, layout.num_heads, layout.num_kv_heads
    rows = [step * width for step in range(heads + 2 * kv_heads)]
    return moved(
        layout, Q=tuple(rows[:heads]), K=tuple(rows[heads : heads + kv_heads]), V=tuple(rows[heads + kv_heads :])
    )


def gate_before_query(layout):
    return moved(layout, Q=tuple(start + layout.head_dim for start in layout.projection("Q").starts))


def gate_after_all_queries(layout):
    return moved(layout, Q=tuple(range(0, layout.num_heads * layout.head_dim, layout.head_dim)))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("falcon", keys_and_values_exchanged),
        ("falcon-groups", keys_and_values_exchanged),
        ("falcon-groups", key_heads_in_reverse),
        ("falcon-groups", queries_before_everything),
        ("falcon-heads", queries_before_everything),
        ("gpt_bigcode", keys_and_values_exchanged),
        ("gpt_bigcode-heads", queries_before_everything),
        ("codegen", keys_and_values_exchanged),
        ("codegen", key_heads_in_reverse),
        ("codegen", queries_before_everything),
        ("qwen3_next", gate_before_query),
        ("qwen3_next", gate_after_all_queries),
        ("mimo_v2_flash", key_heads_in_reverse),
    ],
)
def test_the_experiment_refutes_a_wrong_layout_in_every_packing(name, wrong):
    architecture = ARCHITECTURES[name]
    model, inputs = build(architecture)
    layout = locate.find_attention(model)[-1]
    decouple(model, architecture)
    num_heads, _, _, v_head_dim, _ = architecture.heads
    prove_layout(model, layout, inputs, num_heads=num_heads, v_head_dim=v_head_dim)
    with pytest.raises(AssertionError, match=r"^(head|[QKVO]) \d"):
        prove_layout(model, wrong(layout), inputs, num_heads=num_heads, v_head_dim=v_head_dim)
