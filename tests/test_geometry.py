"""Slices as plain numbers: what they cover, and what is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qkov.errors import LayoutError, QKOVError, SliceIndexError
from qkov.geometry import BLOCKS, AttentionLayout, BlockHeadSlice, Projection, checked_index, kv_head_of


@st.composite
def layouts(draw):
    """One attention module of any packing, orientation, sizes and bias."""
    packing = draw(st.sampled_from(["split", "concatenated", "interleaved"]))
    kv_heads = draw(st.integers(1, 4))
    heads = kv_heads * (1 if packing == "interleaved" else draw(st.integers(1, 4)))
    d_k, d_v, hidden = (draw(st.integers(1, 6)) for _ in range(3))
    return layout_of(packing, heads, kv_heads, d_k, d_v, hidden, draw(st.booleans()), draw(st.booleans()))


def layout_of(packing, heads, kv_heads, d_k, d_v, hidden, transposed=False, bias=False):
    """Lay heads out by writing every feature's owner in order and reading the owners back."""
    units = {"Q": (heads, d_k), "K": (kv_heads, d_k), "V": (kv_heads, d_v), "O": (heads, d_v)}
    order = [(block, unit) for block in "QKV" for unit in range(units[block][0])]
    if packing == "interleaved":
        order.sort(key=lambda owner: owner[1])
    begin, starts = {}, {block: [] for block in BLOCKS}
    for block in [*(block for block, _ in order), *["O"] * heads]:
        weight = block if packing == "split" or block == "O" else "QKV"
        starts[block].append(begin.get(weight, 0))
        begin[weight] = begin.get(weight, 0) + units[block][1]
    parts = []
    for block in BLOCKS:
        weight = block if block in begin else "QKV"
        reads_heads = block == "O"
        axis = int(reads_heads) ^ int(transposed)
        shape = (begin[weight], hidden) if axis == 0 else (hidden, begin[weight])
        side = "input" if reads_heads else "output"
        name = f"a.{weight}.bias" if bias and not reads_heads else None
        width = units[block][1]
        parts.append(
            Projection(block, f"a.{weight}", f"a.{weight}.w", name, shape, axis, side, tuple(starts[block]), width)
        )
    return AttentionLayout(0, "a", packing, heads, kv_heads, d_k, d_v, hidden, tuple(parts))


SMALL = layout_of("split", 4, 2, 3, 5, 7)


@given(layouts())
@example(layout_of("split", 1, 1, 1, 1, 1))
def test_slices_cover_every_weight_exactly_once(layout):
    count = {p.param_name: np.zeros(p.weight_shape, dtype=int) for p in layout.projections}
    for projection in layout.projections:
        for unit in range(projection.num_units):
            part = projection.slice_of(unit)
            count[part.param_name][part.index] += 1
    assert all((times == 1).all() for times in count.values())


@given(layouts(), st.data())
def test_slice_has_the_shape_of_its_head(layout, data):
    block = data.draw(st.sampled_from(BLOCKS))
    head = data.draw(st.integers(0, layout.num_heads - 1))
    projection = layout.projection(block)
    part = projection.slice_of(layout.unit(block, head))
    cut = np.zeros(projection.weight_shape)[part.index].shape
    width = layout.head_dim if block in "QK" else layout.v_head_dim
    assert cut[projection.head_axis] == width == projection.width
    assert cut[1 - projection.head_axis] == projection.weight_shape[1 - projection.head_axis]
    assert (part.row_slice is None) == (projection.head_axis == 1)
    assert (part.col_slice is None) == (projection.head_axis == 0)
    assert part.bias_slice == (projection.interval(layout.unit(block, head)) if projection.bias_name else None)


@given(layouts())
def test_kv_heads_serve_equally_many_neighbouring_heads(layout):
    shared = [layout.unit("K", head) for head in range(layout.num_heads)]
    assert shared == sorted(shared)
    assert {shared.count(unit) for unit in shared} == {layout.num_heads // layout.num_kv_heads}
    assert set(shared) == set(range(layout.num_kv_heads))
    assert shared == [layout.unit("V", head) for head in range(layout.num_heads)]
    assert [layout.unit("O", head) for head in range(layout.num_heads)] == list(range(layout.num_heads))


@given(layouts(), st.integers(-5, 40), st.sampled_from(BLOCKS))
def test_heads_that_do_not_exist_are_refused_with_the_valid_range(layout, head, block):
    if 0 <= head < layout.num_heads:
        assert 0 <= layout.unit(block, head) < layout.num_units(block)
        return
    with pytest.raises(SliceIndexError, match=f"index {head}; valid are the integers 0 to {layout.num_heads - 1}"):
        layout.unit(block, head)


@pytest.mark.parametrize("value", [-1, 4, 1.0, "1", None, True])
def test_what_is_no_index_is_refused(value):
    with pytest.raises(SliceIndexError, match="valid are the integers 0 to 3"):
        SMALL.unit("Q", value)
    with pytest.raises(IndexError):
        SMALL.projection("O").slice_of(value)


def test_numpy_integers_are_indices_and_come_back_plain():
    assert type(SMALL.unit("O", np.int64(3))) is int
    assert SMALL.unit("K", np.int64(3)) == 1
    assert checked_index(np.uint8(2), 3, "head") == 2


def test_unknown_block_is_refused_with_the_valid_ones():
    with pytest.raises(SliceIndexError, match="'q' does not exist; valid blocks are Q, K, V, O"):
        SMALL.projection("q")


def test_kv_slice_of_a_kv_head_that_does_not_exist_names_the_module():
    with pytest.raises(SliceIndexError, match=r"kv head of block K in 'a\.K' with index 2; .* 0 to 1"):
        SMALL.projection("K").slice_of(2)


def test_slice_reads_like_the_expression_it_stands_for():
    assert str(SMALL.projection("O").slice_of(1)) == "a.O.w[:, 5:10]"
    assert str(SMALL.projection("V").slice_of(1)) == "a.V.w[5:10, :]"
    assert BlockHeadSlice("w", (0, 2), None).bias_index is None
    assert BlockHeadSlice("w", (0, 2), None, "b", (0, 2)).bias_index == slice(0, 2)


def test_kv_head_is_the_integer_part_not_the_remainder():
    assert [kv_head_of(head, 6, 3) for head in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [SMALL.kv_head(head) for head in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 4), (2, 4), (0, 1), (4, 0)])
def test_heads_that_do_not_divide_are_refused(heads, kv_heads):
    with pytest.raises(LayoutError, match=f"{heads} query heads and {kv_heads} kv heads"):
        kv_head_of(0, heads, kv_heads)
    with pytest.raises(LayoutError, match="'a' has"):
        dataclasses.replace(SMALL, num_heads=heads, num_kv_heads=kv_heads)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block": "X"}, "expected a block of"),
        ({"head_axis": 2}, "head_axis 0 or 1"),
        ({"side": "rows"}, "side 'output' or 'input'"),
        ({"starts": ()}, "do not lie inside"),
        ({"starts": (-1, 3)}, "do not lie inside"),
        ({"starts": (0, 4, 10)}, "do not lie inside"),
        ({"width": 0}, "do not lie inside"),
        ({"starts": tuple(range(40))}, r"starts \[0, 1, ..., 39\]"),
    ],
)
def test_impossible_projections_are_refused(changes, words):
    with pytest.raises(LayoutError, match=words):
        dataclasses.replace(SMALL.projection("Q"), **changes)


def replaced(layout, block, **changes):
    return tuple(dataclasses.replace(p, **changes) if p.block == block else p for p in layout.projections)


@pytest.mark.parametrize(
    ("projections", "words"),
    [
        (SMALL.projections[::-1], "expected projections"),
        (SMALL.projections[:3], "expected projections"),
        (replaced(SMALL, "K", starts=(0,)), "block K has 1 slices of width 3; expected 2 kv heads of width 3"),
        (replaced(SMALL, "V", width=3), "block V has 2 slices of width 3; expected 2 kv heads of width 5"),
        (replaced(SMALL, "Q", starts=(0, 3, 6, 8)), "overlap"),
        (replaced(SMALL, "K", param_name="a.Q.w"), "disagree on the shape"),
    ],
)
def test_layouts_whose_parts_do_not_fit_are_refused(projections, words):
    with pytest.raises(LayoutError, match=words):
        dataclasses.replace(SMALL, projections=projections)


def test_blocks_that_overlap_in_a_shared_weight_are_refused():
    fused = layout_of("concatenated", 2, 2, 3, 3, 5)
    with pytest.raises(LayoutError, match=r"slices \(6, 9\) of block K and \(6, 9\) of V overlap"):
        dataclasses.replace(fused, projections=replaced(fused, "V", starts=(6, 9)))


def test_unknown_packing_is_refused():
    with pytest.raises(LayoutError, match="a packing of"):
        dataclasses.replace(SMALL, packing="guessed")


def test_errors_are_ours_and_the_built_in_ones():
    assert issubclass(SliceIndexError, QKOVError)
    assert issubclass(SliceIndexError, IndexError)
    assert issubclass(LayoutError, ValueError)
