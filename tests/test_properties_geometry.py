"""Properties of layouts: every head of every geometry lies where the model's own forward pass splits it."""

import re

import numpy as np
import pytest
import torch
from hypothesis import example
from hypothesis import strategies as st

from qkov import geometry, layout
from qkov.errors import LayoutError, ShapeError, SliceIndexError
from qkov.geometry import BLOCKS, Projection
from validation import strategies

from .properties import holds, noticing


def features(sizes):
    """Which output features (input features for O) of its module each unit of a block has, by splitting whole numbers.

    Shares nothing with `qkov`: this is how `SyntheticAttention` splits what its projections return.
    """
    heads, kv_heads, width, v_width = sizes.num_heads, sizes.num_kv_heads, sizes.head_dim, sizes.v_head_dim
    group = heads // kv_heads
    queries, keys, values = heads * width, kv_heads * width, kv_heads * v_width
    found = {"O": np.arange(heads * v_width).reshape(heads, v_width)}
    if sizes.packing == "split":
        parts = np.arange(queries), np.arange(keys), np.arange(values)
    elif sizes.packing == "concatenated":
        parts = np.split(np.arange(queries + keys + values), [queries, queries + keys])
    else:
        grouped = np.arange(queries + keys + values).reshape(kv_heads, -1)
        parts = np.split(grouped, [group * width, group * width + width], axis=1)
    shapes = (heads, width), (kv_heads, width), (kv_heads, v_width)
    return found | {block: part.reshape(shape) for block, part, shape in zip("QKV", parts, shapes, strict=True)}


def modules(sizes, layer):
    """Names of the modules that hold Q, K, V and O."""
    names = ("query", "key", "value") if sizes.packing == "split" else ("fused",) * 3
    return dict(zip("QKVO", [f"layers.{layer}.{name}" for name in (*names, "output")], strict=True))


def cut(array, sizes, block, chosen):
    """Take output features (input features for O) from the last two axes of a weight as it is stored."""
    axis = -2 if (sizes.orientation == "linear") == (block != "O") else -1
    return np.take(array, chosen, axis=axis)


def plain(function):
    """A wrong function in place of a right one."""
    return lambda _original: function


@holds(
    {
        "all rows are the first row": (
            "geometry.BlockHeadSlice.index",
            plain(property(lambda self: (slice(*(self.row_slice or (0, 1))), slice(*(self.col_slice or (0, 1)))))),
        ),
        "the first unit again": (
            "geometry.Projection.slice_of",
            lambda original: lambda self, unit: original(self, 0),
        ),
    },
    drawn=strategies.layouts(),
)
def test_slices_cover_every_weight_exactly_once(drawn):
    _, config = drawn
    covered = {}
    for found in config.layers:
        for projection in found.projections:
            count = covered.setdefault(projection.param_name, np.zeros(projection.weight_shape, dtype=int))
            for unit in range(projection.num_units):
                count[projection.slice_of(unit).index] += 1
    for name, count in covered.items():
        assert (count == 1).all(), name


@holds(
    {
        "by the remainder": (
            "layout.QKOVIndexer.slice_tensor",
            lambda original: (
                lambda self, tensor, layer, head, block: original(
                    self, tensor, layer, (head + 1) % self.config.layers[0].num_heads, block
                )
            ),
        ),
        "of the next block": (
            "layout.QKOVIndexer.slice_tensor",
            lambda original: (
                lambda self, tensor, layer, head, block: (
                    original(self, tensor, layer, head, {"Q": "K", "K": "Q"}.get(block, block))
                    if self.config.layers[0].packing != "split"
                    else original(self, tensor, layer, head, block)
                )
            ),
        ),
    },
    drawn=strategies.layouts(),
    dtype=st.sampled_from(strategies.DTYPES),
    arrangement=st.sampled_from(("contiguous", "transposed", "part", "every other")),
    stacked=st.integers(0, 2),
    layer=st.integers(0, 1),
    head=st.integers(0, 5),
    block=st.sampled_from(BLOCKS),
)
def test_slice_of_a_tensor_is_what_numpy_takes(drawn, dtype, arrangement, stacked, layer, head, block):
    sizes, config = drawn
    layer, head = layer % sizes.num_layers, head % sizes.num_heads
    shape = config.layers[layer].projection(block).weight_shape
    whole = np.arange(np.prod(shape), dtype=np.float64).reshape(shape) % 251  # exact in bfloat16
    tensor = strategies.arranged(torch.tensor(whole).to(dtype), arrangement)
    stack = torch.stack([tensor] * stacked) if stacked else tensor
    unit = head if block in "QO" else head // (sizes.num_heads // sizes.num_kv_heads)
    expected = cut(whole, sizes, block, features(sizes)[block][unit])
    found = layout.QKOVIndexer(config).slice_tensor(stack, layer, head, block)
    assert found.dtype == dtype
    assert found.shape == (*((stacked,) if stacked else ()), *expected.shape)
    assert np.array_equal(found.double().numpy(), np.broadcast_to(expected, found.shape))
    if arrangement == "contiguous" and not stacked:
        assert found.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


@holds(
    {
        "as the first of its layer": (
            "geometry.Projection.slice_of",
            lambda original: lambda self, unit: original(self, 0 if self.block == "V" else unit),
        )
    },
    drawn=strategies.layouts(),
)
def test_slices_are_where_the_forward_pass_splits(drawn):
    sizes, config = drawn
    expected = features(sizes)
    for layer, block, unit, part in layout.QKOVIndexer(config):
        shape = config.layer(layer).projection(block).weight_shape
        whole = np.arange(np.prod(shape)).reshape(shape)
        assert part.param_name == f"{modules(sizes, layer)[block]}.weight"
        assert np.array_equal(whole[part.index], cut(whole, sizes, block, expected[block][unit]))


@holds(
    {
        "cut as the weight of O": (
            "geometry.BlockHeadSlice.bias_index",
            plain(
                property(lambda self: slice(0, self.bias_slice[1] - self.bias_slice[0]) if self.bias_slice else None)
            ),
        ),
        "O has one": (
            "linear.Linear.projection",
            lambda original: lambda self, block, starts, width: _with_bias(original(self, block, starts, width), self),
        ),
    },
    drawn=strategies.layouts(),
)
def test_bias_slices_are_the_output_features(drawn):
    sizes, config = drawn
    for layer, block, unit, part in layout.QKOVIndexer(config):
        if block == "O" or not sizes.bias:
            assert (part.bias_name, part.bias_slice, part.bias_index) == (None, None, None)
            continue
        assert part.bias_name == f"{modules(sizes, layer)[block]}.bias"
        outputs, _ = strategies.module_sizes(config.layer(layer).projection(block))
        assert np.array_equal(np.arange(outputs)[part.bias_index], features(sizes)[block][unit])


def _with_bias(projection, linear):
    object.__setattr__(projection, "bias_name", f"{linear.name}.bias" if linear.has_bias else None)
    return projection


@holds(
    {
        "by the remainder": ("geometry.kv_head_of", plain(lambda head, heads, kv_heads: head % kv_heads)),
        "each its own": ("geometry.kv_head_of", plain(lambda head, heads, kv_heads: min(head, kv_heads - 1))),
    },
    num_kv_heads=st.integers(1, 24),
    group=st.integers(1, 24),
)
def test_neighbours_share_a_kv_head(num_kv_heads, group):
    found = [geometry.kv_head_of(head, group * num_kv_heads, num_kv_heads) for head in range(group * num_kv_heads)]
    assert found == np.repeat(np.arange(num_kv_heads), group).tolist()


@holds(
    {
        "units of K are heads": (
            "geometry.AttentionLayout.unit",
            lambda original: lambda self, block, head: original(self, block, 0 if block == "K" else head),
        ),
        "without V": (
            "layout.QKOVIndexer.__iter__",
            lambda original: lambda self: (one for one in original(self) if one[1] != "V" or one[2] == 0),
        ),
    },
    drawn=strategies.layouts(),
)
def test_every_unit_is_reached_by_its_heads_and_no_other(drawn):
    sizes, config = drawn
    indexer, group = layout.QKOVIndexer(config), sizes.num_heads // sizes.num_kv_heads
    walked = {(layer, block, unit): part for layer, block, unit, part in indexer}
    assert len(walked) == sizes.num_layers * 2 * (sizes.num_heads + sizes.num_kv_heads)
    reached = {}
    for layer in range(sizes.num_layers):
        for block in BLOCKS:
            for head in range(sizes.num_heads):
                reached.setdefault((layer, block, indexer.get_slice(layer, head, block)), []).append(head)
    assert len(reached) == len(walked)
    for (layer, block, unit), part in walked.items():
        heads = [unit] if block in "QO" else list(range(unit * group, (unit + 1) * group))
        assert reached[layer, block, part] == heads


@holds(
    {
        "rows for columns": (
            "geometry.BlockHeadSlice.__str__",
            lambda original: lambda self: f"{self.param_name}[{self.row_slice}, {self.col_slice}]".replace("None", ":"),
        )
    },
    drawn=strategies.layouts(),
)
def test_description_can_be_read_back(drawn):
    sizes, config = drawn
    lines = config.describe().splitlines()[1:]
    group = sizes.num_heads // sizes.num_kv_heads
    pattern = re.compile(
        r" *(\d+)  (\w) +([-\d]+) +([-\d]+) +([\w.]+)\[([\d:]+), ([\d:]+)\](?: \+ bias\[(\d+):(\d+)\])?"
    )
    for line, (layer, block, unit, part) in zip(lines, layout.QKOVIndexer(config), strict=True):
        read = pattern.fullmatch(line)
        assert read, line
        rows, columns = (None if text == ":" else tuple(map(int, text.split(":"))) for text in read.groups()[5:7])
        bias = tuple(map(int, read.groups()[7:])) if read[8] else None
        assert (int(read[1]), read[2], read[5]) == (layer, block, part.param_name)
        assert (rows, columns, bias) == (part.row_slice, part.col_slice, part.bias_slice)
        first = unit if block in "QO" else unit * group
        assert int(read[3].split("-")[0]) == first
        assert read[4] == ("-" if block in "QO" else str(unit))


@holds(
    {
        "wraps around": ("geometry.checked_index", plain(lambda value, size, what: int(value or 0) % size)),
        "rounds": (
            "geometry.checked_index",
            lambda original: (
                lambda value, size, what: original(int(value) if isinstance(value, float | bool) else value, size, what)
            ),
        ),
    },
    index=st.one_of(
        st.integers(max_value=-1), st.integers(6), st.booleans(), st.none(), st.floats(0, 5), st.text(max_size=3)
    ),
    block=st.sampled_from(BLOCKS),
    drawn=strategies.layouts(),
)
@example(index=True, block="Q", drawn=None)
def test_heads_that_do_not_exist_are_refused(index, block, drawn):
    _, config = drawn or (None, layout.QKOVConfig.from_model(strategies.Attentions(strategies.SyntheticConfig())))
    indexer = layout.QKOVIndexer(config)
    with pytest.raises(SliceIndexError) as caught:
        indexer.get_slice(0, index, block)
    assert f"0 to {config.num_heads - 1}" in str(caught.value)


@holds(
    {
        "anything fits": (
            "layout.QKOVIndexer.slice_tensor",
            plain(lambda self, tensor, layer, head, block: tensor[(..., *self.get_slice(layer, head, block).index)]),
        )
    },
    drawn=strategies.layouts(),
    block=st.sampled_from(BLOCKS),
    more=st.tuples(st.integers(-1, 2), st.integers(-1, 2)).filter(any),
)
def test_tensors_of_another_shape_are_refused(drawn, block, more):
    _, config = drawn
    shape = config.layers[0].projection(block).weight_shape
    wrong = torch.zeros([size + extra for size, extra in zip(shape, more, strict=True)])
    with pytest.raises(ShapeError) as caught:
        layout.QKOVIndexer(config).slice_tensor(wrong, 0, 0, block)
    assert f"{shape[0]}, {shape[1]}" in str(caught.value)


@holds(
    {
        "overlaps are not seen": ("geometry._check_disjoint", plain(lambda found: None)),
        "only neighbours in the list": ("geometry._check_disjoint", plain(lambda found: _compare_in_order(found))),
    },
    starts=st.lists(st.integers(0, 14), min_size=6, max_size=6),
    widths=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_fused_slices_are_accepted_only_apart_and_inside(starts, widths):
    width, v_width = widths
    parts = list(zip("QQKKVV", starts, [width] * 4 + [v_width] * 2, strict=True))
    count = np.zeros(40, dtype=int)
    for _, start, size in parts:
        count[start : start + size] += 1
    valid = count.max() == 1 and not count[16:].any()
    try:
        _fused(parts, v_width, width)
    except LayoutError:
        assert not valid
    else:
        assert valid


def _fused(parts, v_width, width):
    blocks = {block: [start for name, start, _ in parts if name == block] for block in "QKV"}
    fused = [
        Projection(
            block,
            "a.qkv",
            "a.qkv.weight",
            None,
            (16, 5),
            0,
            "output",
            tuple(starts),
            v_width if block == "V" else width,
        )
        for block, starts in blocks.items()
    ]
    output = Projection("O", "a.o", "a.o.weight", None, (5, 2 * v_width), 1, "input", (0, v_width), v_width)
    return geometry.AttentionLayout(0, "a", "concatenated", 2, 2, width, v_width, 5, (*fused, output))


def _compare_in_order(found):
    q, k = found.projections[:2]
    if max(q.starts) + q.width > min(k.starts) and min(q.starts) < max(k.starts) + k.width:
        raise LayoutError("Q and K overlap")


test_wrong_implementation_is_noticed = noticing(__name__)


@pytest.mark.parametrize("arrangement", strategies.ARRANGEMENTS)
def test_arrangements_in_memory_are_what_they_say(arrangement):
    tensor = torch.arange(12.0).reshape(3, 4)
    found = strategies.arranged(tensor, arrangement)
    assert torch.equal(found, tensor[:1].expand(3, 4) if arrangement == "expanded" else tensor)
    assert found.is_contiguous() == (arrangement == "contiguous")
