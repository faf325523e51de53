"""Every packing with every size different, on attention written here, and the sizes they refuse."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from qkov.errors import LayoutError
from qkov.linear import Linear
from qkov.packings import (
    blocked_layout,
    concatenated_layout,
    grouped_layout,
    interleaved_layout,
    query_apart_layout,
    split_layout,
)
from tests.layout_proof import prove_layout

FINDERS = {
    "split": split_layout,
    "concatenated": concatenated_layout,
    "interleaved": partial(interleaved_layout, fused="qkv_proj", output="o_proj"),
    "grouped": partial(grouped_layout, fused="qkv_proj", output="o_proj"),
    "apart": partial(query_apart_layout, query="q_proj", fused="kv_proj", output="o_proj"),
    "apart by kv head": partial(
        query_apart_layout, query="q_proj", fused="kv_proj", output="o_proj", order="interleaved"
    ),
}
# The packing that a layout bears, where it is not the name here.
BORNE = {"apart": "concatenated", "apart by kv head": "interleaved"}


class Attention(nn.Module):
    """Causal attention without positions; `linear(inputs, outputs)` makes its projections."""

    def __init__(self, packing, hidden, heads, kv_heads, head_dim, v_head_dim, linear=nn.Linear):
        super().__init__()
        self.packing = packing
        self.num_heads, self.num_kv_heads, self.head_dim, self.v_head_dim = heads, kv_heads, head_dim, v_head_dim
        self.widths = (heads * head_dim, kv_heads * head_dim, kv_heads * v_head_dim)
        if packing == "split":
            for name, width in zip(("q_proj", "k_proj", "v_proj"), self.widths, strict=True):
                setattr(self, name, linear(hidden, width))
        elif packing.startswith("apart"):
            self.q_proj, self.kv_proj = linear(hidden, self.widths[0]), linear(hidden, sum(self.widths[1:]))
        else:
            self.qkv_proj = linear(hidden, sum(self.widths))
        self.o_proj = linear(heads * v_head_dim, hidden)

    def queries_keys_values(self, x):
        """Return ``[heads, tokens, width]`` of Q, K and V."""
        d_k, d_v = self.head_dim, self.v_head_dim
        if self.packing == "interleaved":
            joint = self.qkv_proj(x).unflatten(-1, (self.num_heads, 2 * d_k + d_v)).transpose(0, 1)
            return joint[..., :d_k], joint[..., d_k : 2 * d_k], joint[..., 2 * d_k :]
        if self.packing == "grouped":
            group = self.num_heads // self.num_kv_heads
            joint = self.qkv_proj(x).unflatten(-1, (self.num_kv_heads, -1)).transpose(0, 1)
            queries, keys, values = joint.split([group * d_k, d_k, d_v], -1)
            return queries.unflatten(-1, (group, d_k)).transpose(1, 2).flatten(0, 1), keys, values
        if self.packing == "split":
            flat = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        elif self.packing == "apart":
            flat = self.q_proj(x), *self.kv_proj(x).split(self.widths[1:], -1)
        elif self.packing == "apart by kv head":
            keys, values = self.kv_proj(x).unflatten(-1, (self.num_kv_heads, d_k + d_v)).split([d_k, d_v], -1)
            flat = self.q_proj(x), keys.flatten(-2), values.flatten(-2)
        else:
            flat = self.qkv_proj(x).split(self.widths, -1)
        counts = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        return tuple(part.unflatten(-1, (n, -1)).transpose(0, 1) for part, n in zip(flat, counts, strict=True))

    def forward(self, x):
        queries, keys, values = self.queries_keys_values(x)
        group = self.num_heads // self.num_kv_heads
        keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        weights = (queries @ keys.mT / self.head_dim**0.5).masked_fill(later, -torch.inf).softmax(-1)
        return self.o_proj((weights @ values).transpose(0, 1).flatten(1))


def transposed_linear(inputs, outputs):
    return Conv1D(outputs, inputs)


def attention(packing, hidden=10, heads=6, kv_heads=2, head_dim=3, v_head_dim=5, linear=nn.Linear):
    torch.manual_seed(1)
    kv_heads = heads if packing == "interleaved" else kv_heads
    return Attention(packing, hidden, heads, kv_heads, head_dim, v_head_dim, linear).double()


def refusal(finder, module, config=None):
    """Return the message with which a packing refuses a module."""
    with pytest.raises(LayoutError) as caught:
        finder(module, "layers.3.attn", config)
    return str(caught.value)


@pytest.mark.parametrize("linear", [nn.Linear, partial(nn.Linear, bias=False), transposed_linear])
@pytest.mark.parametrize("packing", FINDERS)
def test_layout_is_what_the_module_computes_with_d_v_apart(packing, linear):
    module = attention(packing, linear=linear)
    with torch.no_grad():
        for parameter in module.parameters():
            # Small enough that softmax looks at every position.
            parameter.copy_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    model = nn.ModuleDict({"attn": module})
    model.forward = module.forward
    layout = FINDERS[packing](module, "attn", None)
    assert (layout.packing, layout.head_dim, layout.v_head_dim) == (BORNE.get(packing, packing), 3, 5)
    prove_layout(model, layout, {"x": torch.randn(4, 10, dtype=torch.float64)}, num_heads=6, v_head_dim=5)


@given(
    packing=st.sampled_from(sorted(FINDERS)),
    transposed=st.booleans(),
    group=st.integers(1, 4),
    kv_heads=st.integers(1, 4),
    head_dim=st.integers(1, 5),
    v_head_dim=st.integers(1, 5),
    hidden=st.integers(1, 9),
)
def test_slices_tile_every_weight_exactly_once(packing, transposed, group, kv_heads, head_dim, v_head_dim, hidden):
    linear = transposed_linear if transposed else nn.Linear
    module = attention(packing, hidden, group * kv_heads, kv_heads, head_dim, v_head_dim, linear)
    layout = FINDERS[packing](module, "", None)
    covered = {name: torch.zeros(weight.shape) for name, weight in module.named_parameters()}
    for projection in layout.projections:
        for unit in range(projection.num_units):
            part = projection.slice_of(unit)
            covered[part.param_name.lstrip(".")][part.index] += 1
            if part.bias_name is not None:
                covered[part.bias_name.lstrip(".")][part.bias_index] += 1
    del covered["o_proj.bias"]
    assert all(bool((count == 1).all()) for count in covered.values())


@pytest.mark.parametrize("packing", FINDERS)
def test_sizes_stated_only_by_the_configuration_suffice(packing):
    module = attention(packing)
    expected = FINDERS[packing](module, "attn", None)
    kv_heads = module.num_kv_heads
    del module.num_heads, module.num_kv_heads, module.head_dim, module.v_head_dim
    config = SimpleNamespace(num_attention_heads=6, num_key_value_heads=kv_heads, head_dim=None)
    assert FINDERS[packing](module, "attn", config) == expected


@pytest.mark.parametrize("packing", FINDERS)
def test_without_a_head_count_nothing_is_guessed(packing):
    module = attention(packing)
    del module.num_heads, module.head_dim
    assert "is stated by the module or its configuration" in refusal(FINDERS[packing], module)


def test_grouped_needs_the_number_of_kv_heads():
    module = attention("grouped")
    del module.num_kv_heads
    assert "no number of kv heads is stated" in refusal(FINDERS["grouped"], module)


def test_grouped_with_a_kv_head_per_head_is_interleaved():
    module = attention("interleaved")
    expected = FINDERS["interleaved"](module, "attn", None)
    assert FINDERS["grouped"](module, "attn", None) == expected


def test_blocks_hold_queries_then_values_then_keys_of_their_heads():
    module = nn.Module()
    module.num_heads, module.qkv_proj, module.out_proj = 4, nn.Linear(5, 36), nn.Linear(12, 5)
    layout = blocked_layout(module, "attn", None, blocks=2)
    assert layout.packing == "blocked"
    assert {one.block: one.starts for one in layout.projections} == {
        "Q": (0, 3, 18, 21),
        "V": (6, 9, 24, 27),
        "K": (12, 15, 30, 33),
        "O": (0, 3, 6, 9),
    }


def test_heads_that_do_not_fill_the_blocks_are_refused():
    module = nn.Module()
    module.num_heads, module.qkv_proj, module.out_proj = 4, nn.Linear(5, 36), nn.Linear(12, 5)
    assert "multiple of 3 (blocks of heads)" in refusal(partial(blocked_layout, blocks=3), module)
    del module.num_heads
    assert "no number of heads is stated" in refusal(partial(blocked_layout, blocks=2), module)


def test_gate_rows_follow_the_query_rows_of_their_head():
    module = attention("split")
    plain = split_layout(module, "attn", None)
    module.q_proj = nn.Linear(10, 36)
    gated = split_layout(module, "attn", None, gate_rows=True)
    assert gated.projection("Q").starts == tuple(range(0, 36, 6))
    assert gated.projections[1:] == plain.projections[1:]
    assert "num_heads = 12; expected 6" in refusal(split_layout, module)


def test_concatenated_needs_head_dim_or_kv_heads():
    module = attention("concatenated")
    del module.num_kv_heads, module.head_dim
    assert "neither head_dim nor the number of kv heads" in refusal(concatenated_layout, module)


@pytest.mark.parametrize("packing", FINDERS)
@pytest.mark.parametrize("size", ["num_heads", "num_kv_heads", "head_dim", "v_head_dim"])
def test_a_wrong_statement_is_refused_whichever_it_is(packing, size):
    module = attention(packing)
    setattr(module, size, getattr(module, size) + 1)
    message = refusal(FINDERS[packing], module)
    assert "layers.3.attn" in message
    assert "Attention" in message
    assert "register_layout" in message


@pytest.mark.parametrize("packing", FINDERS)
def test_statements_that_contradict_each_other_are_refused(packing):
    message = refusal(FINDERS[packing], attention(packing), SimpleNamespace(num_attention_heads=3))
    assert "contradicting statements of num_heads: module.num_heads = 6, config.num_attention_heads = 3" in message


def test_group_size_is_compared_too():
    module = attention("split")
    module.num_key_value_groups = 2
    assert "heads_per_kv_head = 3; expected 2 (module.num_key_value_groups)" in refusal(split_layout, module)


def test_heads_not_divisible_by_kv_heads_are_refused():
    message = refusal(split_layout, attention("split", heads=6, kv_heads=4))
    assert "'layers.3.attn' has 6 query heads and 4 kv heads" in message


def test_what_is_no_count_is_no_statement():
    module = attention("split")
    config = SimpleNamespace(num_attention_heads=True, num_key_value_heads=[2, 2], head_dim=None)
    assert split_layout(module, "attn", config).num_heads == 6


def test_bias_of_the_output_projection_belongs_to_no_head():
    layout = split_layout(attention("split"), "attn", None)
    assert [projection.bias_name for projection in layout.projections] == [
        "attn.q_proj.bias",
        "attn.k_proj.bias",
        "attn.v_proj.bias",
        None,
    ]


def test_orientation_is_read_from_the_module():
    plain = Linear("a", (4, 6), 0, False)
    assert (plain.outputs, plain.inputs) == (4, 6)
    stored_transposed = dataclasses.replace(plain, output_axis=1)
    assert (stored_transposed.outputs, stored_transposed.inputs) == (6, 4)
    assert [plain.projection(block, (0,), 1).head_axis for block in "QO"] == [0, 1]
    assert [stored_transposed.projection(block, (0,), 1).head_axis for block in "QO"] == [1, 0]


class TestProjectionsThatAreNotPlain:
    """Anything that computes more than weight times input plus bias."""

    def test_subclass(self):
        class LoraLinear(nn.Linear):
            pass

        module = attention("split")
        module.k_proj = LoraLinear(10, 6)
        message = refusal(split_layout, module)
        assert "'layers.3.attn.k_proj'" in message
        assert "LoraLinear" in message
        assert "Merge adapters" in message

    def test_parametrized(self):
        module = attention("split")
        torch.nn.utils.parametrizations.orthogonal(module.q_proj)
        assert "'layers.3.attn.q_proj'" in refusal(split_layout, module)

    def test_weight_computed_from_something_else(self):
        module = attention("concatenated")
        weight = module.qkv_proj.weight.detach()
        del module.qkv_proj.weight
        module.qkv_proj.weight = weight
        assert "'layers.3.attn.qkv_proj' (torch.nn.modules.linear.Linear) holds a Tensor of torch.float64" in refusal(
            concatenated_layout, module
        )

    def test_integers(self):
        module = attention("split")
        module.o_proj.weight = nn.Parameter(torch.zeros(10, 30, dtype=torch.int8), requires_grad=False)
        assert "torch.int8" in refusal(split_layout, module)

    def test_meta_device(self):
        assert "Load the weights first" in refusal(split_layout, attention("split").to("meta"))

    def test_bias_of_another_length(self):
        module = attention("split")
        module.q_proj.bias = nn.Parameter(torch.zeros(3))
        assert "a bias of (3,); expected (18,)" in refusal(split_layout, module)

    def test_missing(self):
        assert "has no projection 'wq'; its children are: q_proj, k_proj, v_proj, o_proj" in refusal(
            partial(split_layout, query="wq"), attention("split")
        )


def test_unknown_order_of_keys_and_values_is_refused():
    with pytest.raises(LayoutError, match="order is 'sideways'; expected"):
        query_apart_layout(attention("apart"), "attn", None, query="q_proj", fused="kv_proj", order="sideways")
