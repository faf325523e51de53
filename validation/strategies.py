"""Hypothesis strategies for layouts and gradients: every geometry, and numbers at the edges of float64.

A drawn geometry comes with a model of its own (:class:`validation.synthetic.SyntheticLM`), so that properties can be
tried on real modules as well as on plain numbers.
"""

import math

import torch
from hypothesis import strategies as st

from qkov.gradients import Factors
from qkov.layout import QKOVConfig

from .synthetic import SyntheticAttention, SyntheticConfig

PACKINGS = ("split", "concatenated", "interleaved")


@st.composite
def configs(draw, *, most_heads=6, most_width=5):
    """Draw a :class:`SyntheticConfig`: any packing and orientation, MHA, GQA or MQA, d_k and d_v apart or equal."""
    num_kv_heads = draw(st.integers(1, 3))
    group = draw(st.integers(1, max(1, most_heads // num_kv_heads)))
    orientation = draw(st.sampled_from(("linear", "conv1d")))
    head_dim = draw(st.integers(1, most_width))
    return SyntheticConfig(
        packing=draw(st.sampled_from(PACKINGS)),
        orientation=orientation,
        num_heads=num_kv_heads * group,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        v_head_dim=draw(st.integers(1, most_width)),
        hidden_size=draw(st.integers(2, 12)),
        bias=orientation == "conv1d" or draw(st.booleans()),
        rotary=head_dim % 2 == 0 and draw(st.booleans()),
        num_layers=draw(st.integers(1, 2)),
    )


def lengths(*, most_samples=4, longest=8):
    """Draw the numbers of tokens of a batch's samples, each at least 2, so that one token is predicted."""
    return st.lists(st.integers(2, longest), min_size=1, max_size=most_samples)


def gradient_values(*, largest_exponent=60):
    """Draw one number of a gradient: signs, exact zeros, and magnitudes from 1e-60 to 1e60.

    Squares of these are finite and normal in float64, which is what the formulas promise to handle.
    """
    magnitudes = st.builds(
        lambda mantissa, exponent, sign: sign * mantissa * 10.0**exponent,
        st.floats(1.0, 9.99),
        st.integers(-largest_exponent, largest_exponent),
        st.sampled_from((-1.0, 1.0)),
    )
    return st.one_of(st.just(0.0), magnitudes, st.sampled_from((-1.0, 1.0, 1e-16)))


@st.composite
def gradients(draw, *, num_samples=None, size=None, values=None):
    """Draw per-sample gradients of a slice, float64 ``[num_samples, size]``.

    Args:
        num_samples, size: Given, or drawn from 1 to 5 and 1 to 8.
        values: Strategy for one number; by default :func:`gradient_values`.
    """
    num_samples = draw(st.integers(1, 5)) if num_samples is None else num_samples
    size = draw(st.integers(1, 8)) if size is None else size
    values = gradient_values() if values is None else values
    rows = st.lists(st.lists(values, min_size=size, max_size=size), min_size=num_samples, max_size=num_samples)
    return torch.tensor(draw(rows), dtype=torch.float64).reshape(num_samples, size)


@st.composite
def gradient_pairs(draw, **options):
    """Draw gradients of two tasks on one slice, ``([n_a, size], [n_b, size])``."""
    size = draw(st.integers(1, 8))
    return draw(gradients(size=size, **options)), draw(gradients(size=size, **options))


DTYPES = (torch.float32, torch.float64, torch.bfloat16)
LARGEST_EXPONENT = {torch.float32: 15, torch.bfloat16: 15, torch.float64: 60}
"""Products of two such numbers, and sums of some hundred of them, stay finite in float32; in float64 their squares too."""


def numbers(dtype, *, largest_exponent=None, tiny=True):
    """Draw one number at the edges of a type: both zeros, denormals, the smallest normal, large ones of either sign.

    Args:
        dtype: Of torch.
        largest_exponent: Of 10; by default as in :data:`LARGEST_EXPONENT`.
        tiny: Whether numbers may be so small that a product with them vanishes.
    """
    largest = LARGEST_EXPONENT[dtype] if largest_exponent is None else largest_exponent
    found = torch.finfo(dtype)
    edges = [0.0, -0.0, 1.0, -1.0, found.eps, 10.0**largest, -(10.0**largest)]
    edges += [found.tiny, -found.tiny, found.smallest_normal * found.eps] if tiny else []
    least = -largest if tiny else 0
    wide = st.builds(
        lambda sign, exponent: sign * 10.0**exponent, st.sampled_from((-1.7, 1.3)), st.integers(least, largest)
    )
    return st.one_of(st.sampled_from(edges), wide, st.floats(-4, 4, width=16, allow_subnormal=False))


@st.composite
def tensors(draw, shape, dtype, *, values=None, strides=True):
    """Draw a tensor of any :func:`numbers`, lying in memory in any way.

    Args:
        shape, dtype: Of the tensor.
        values: Strategy for one number.
        strides: Whether it may be transposed in memory, a part of something larger, every other entry of it, or expanded
            from one row (all rows are then the same).
    """
    values = numbers(dtype) if values is None else values
    arrangement = draw(st.sampled_from(ARRANGEMENTS)) if strides and len(shape) == 2 and min(shape) else "contiguous"
    rows = (1, *shape[1:]) if arrangement == "expanded" else shape
    size = math.prod(rows)
    drawn = draw(st.lists(values, min_size=min(size, MOST_DRAWN), max_size=min(size, MOST_DRAWN)))
    drawn = [drawn[place % MOST_DRAWN] for place in range(size)]
    return arranged(torch.tensor(drawn, dtype=torch.float64).to(dtype).reshape(rows), arrangement, shape)


ARRANGEMENTS = ("contiguous", "transposed", "part", "every other", "expanded")
MOST_DRAWN = 7  # of a larger tensor, entries repeat with this period: drawing is what takes the time


def arranged(tensor, arrangement, shape=None):
    """Return equal values that lie in memory in another way; "expanded" repeats the one row of ``tensor`` to ``shape``."""
    if arrangement == "contiguous":
        return tensor
    if arrangement == "transposed":
        return tensor.T.contiguous().T
    if arrangement == "expanded":
        return tensor[:1].expand(tensor.shape if shape is None else shape)
    rows, columns = tensor.shape
    if arrangement == "part":
        larger = torch.full((rows + 2, columns + 3), 7, dtype=tensor.dtype)
        larger[1:-1, 2:-1] = tensor
        return larger[1:-1, 2:-1]
    larger = torch.full((2 * rows, 3 * columns), 7, dtype=tensor.dtype)
    larger[::2, ::3] = tensor
    return larger[::2, ::3]


class Attentions(torch.nn.Module):
    """Attention layers of :mod:`validation.synthetic` alone: enough to find their heads, quick to build."""

    def __init__(self, sizes):
        super().__init__()
        self.layers = torch.nn.ModuleList(SyntheticAttention(sizes) for _ in range(sizes.num_layers))


@st.composite
def layouts(draw, **options):
    """Draw ``(sizes, config)``: a :class:`SyntheticConfig` and the ``QKOVConfig`` that is found for it."""
    sizes = draw(configs(**options))
    return sizes, QKOVConfig.from_model(Attentions(sizes))


@st.composite
def factors(draw, config, *, layer=0, dtype=None, most_tokens=4, values=None, fewest_tokens=0):
    """Draw what is kept of one sample at the projections of a layer, ``{module_name: Factors}``.

    Modules that read the hidden state share one tensor, as Q, K and V do when they are collected.
    """
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    tokens = draw(st.integers(fewest_tokens, most_tokens))
    values = numbers(dtype) if values is None else values
    inputs, found = {}, {}
    for projection in config.layers[layer].projections:
        outputs, width = module_sizes(projection)
        side = (projection.side, width)
        if side not in inputs:
            inputs[side] = draw(tensors((tokens, width), dtype, values=values))
        if projection.module_name not in found:
            deltas = draw(tensors((tokens, outputs), dtype, values=values))
            found[projection.module_name] = Factors(inputs[side], deltas)
    return found


def module_sizes(projection):
    """Return output and input features of the linear module that holds a block."""
    output_axis = projection.head_axis if projection.side == "output" else 1 - projection.head_axis
    return projection.weight_shape[output_axis], projection.weight_shape[1 - output_axis]
