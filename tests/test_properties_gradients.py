"""Properties of gradients from factors: float64 loops over tokens give the same, whatever the geometry, type and strides."""

import dataclasses

import numpy as np
import torch
from hypothesis import strategies as st

from qkov import gradients
from qkov.geometry import BLOCKS
from qkov.gradients import Factors
from qkov.linear_weights import LinearWeight
from validation import strategies

from .properties import holds, noticing

OUT = st.sampled_from((torch.float32, torch.float64))


@st.composite
def cases(draw, **options):
    """A layout and the factors of one sample in it."""
    sizes, config = draw(strategies.layouts(most_heads=4, most_width=3))
    return sizes, config, draw(strategies.factors(config, **options))


def outer_products(pair):
    """Gradient ``[outputs, inputs]`` as a float64 loop over tokens, and the same of magnitudes, for rounding."""
    inputs, deltas = (tensor.double().numpy() for tensor in (pair.inputs, pair.deltas))
    total = np.zeros((deltas.shape[1], inputs.shape[1]))
    size = np.zeros_like(total)
    for token in range(len(inputs)):
        total += np.outer(deltas[token], inputs[token])
        size += np.abs(np.outer(deltas[token], inputs[token]))
    return total, size


def of_unit(array, projection, unit):
    """A unit's part of ``[outputs, inputs]``, head first: ``[width, other]``."""
    start = projection.starts[unit]
    return (array if projection.side == "output" else array.T)[start : start + projection.width]


def rounding(size, dtype, terms):
    """What sums of some terms may be off by: each rounded once, and small ones lost."""
    found = torch.finfo(dtype)
    return (terms + 2) * found.eps * size + (terms + 1) * found.smallest_normal


def near(found, expected, size, dtype, terms):
    """Whether a result is what the loop says, but for rounding."""
    return (np.abs(found.double().numpy() - expected) <= rounding(size, dtype, terms)).all()


def plain(function):
    """A wrong function in place of a right one."""
    return lambda _original: function


def by_output(factors, projection, unit):
    """O is cut by its output features, as Q is."""
    start, stop = projection.interval(unit)
    pair = factors[projection.module_name]
    size = min(pair.deltas.shape[1], stop)
    return pair.deltas[:, min(start, size - 1) : size], pair.inputs


@holds(
    {
        "one unit for all": (
            "gradients.slice_factors",
            lambda original: lambda factors, projection, unit: original(factors, projection, 0),
        ),
        "sides exchanged": (
            "gradients.slice_factors",
            lambda original: (
                lambda factors, projection, unit: tuple(
                    part.flip(0) if place else part for place, part in enumerate(original(factors, projection, unit))
                )
            ),
        ),
    },
    case=cases(),
    block=st.sampled_from(BLOCKS),
)
def test_slice_factors_multiply_to_the_slice(case, block):
    _, config, factors = case
    projection = config.layers[0].projection(block)
    total, size = outer_products(factors[projection.module_name])
    for unit in range(projection.num_units):
        head, other = gradients.slice_factors(factors, projection, unit)
        assert head.shape[1] == projection.width
        found = head.double().T @ other.double()
        expected = of_unit(total, projection, unit)
        assert near(found, expected, of_unit(size, projection, unit), torch.float64, len(head))


@holds(
    {
        "in the factors' own precision": (
            "gradients.slice_gradient",
            plain(
                lambda factors, projection, unit, out, columns=(None, None): _own_precision(
                    factors, projection, unit, out, columns
                )
            ),
        ),
        "columns from the left": (
            "gradients.slice_gradient",
            lambda original: (
                lambda factors, projection, unit, out, columns=(None, None): original(
                    factors, projection, unit, out, (0, out.shape[1])
                )
            ),
        ),
        "mean over tokens": (
            "gradients.slice_gradient",
            plain(
                lambda factors, projection, unit, out, columns=(None, None): _averaged(
                    factors, projection, unit, out, columns
                )
            ),
        ),
    },
    case=cases(),
    block=st.sampled_from(BLOCKS),
    dtype=OUT,
    part=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_slice_gradient_is_the_loop_over_tokens(case, block, dtype, part):
    _, config, factors = case
    if dtype == torch.float32:  # float64 factors may be outside of what float32 holds
        factors = {name: _narrowed(pair) for name, pair in factors.items()}
    projection = config.layers[0].projection(block)
    total, size = outer_products(factors[projection.module_name])
    other = of_unit(total, projection, 0).shape[1]
    first, last = sorted(round(share * other) for share in part)
    for unit in range(projection.num_units):
        out = torch.full((projection.width, last - first), torch.nan, dtype=dtype)
        gradients.slice_gradient(factors, projection, unit, out, (first, last))
        expected, scale = (of_unit(array, projection, unit)[:, first:last] for array in (total, size))
        tokens = len(factors[projection.module_name].inputs)
        assert near(out, expected, scale, dtype, tokens)


def _narrowed(pair):
    return Factors(
        *(torch.where(t.abs() > 1e15, 1.0, t) if t.dtype == torch.float64 else t for t in (pair.inputs, pair.deltas))
    )


def _own_precision(factors, projection, unit, out, columns):
    head, other = gradients.slice_factors(factors, projection, unit)
    out.copy_((head.T @ other[:, slice(*columns)]).bfloat16())


def _averaged(factors, projection, unit, out, columns):
    head, other = gradients.slice_factors(factors, projection, unit)
    torch.matmul(head.T.to(out), other[:, slice(*columns)].to(out), out=out)
    out /= max(len(head), 1)


@holds(
    {
        "of the input": (
            "gradients.bias_gradient",
            plain(
                lambda factors, projection, unit, out: torch.mean(
                    gradients.slice_factors(factors, projection, unit)[0].to(out), dim=0, out=out
                )
            ),
        ),
        "rounded": ("gradients.widened", plain(lambda tensor: tensor.bfloat16().float())),
    },
    case=cases(fewest_tokens=1),
    block=st.sampled_from("QKV"),
    dtype=OUT,
)
def test_bias_gradient_is_the_sum_over_tokens(case, block, dtype):
    _, config, factors = case
    if dtype == torch.float32:
        factors = {name: _narrowed(pair) for name, pair in factors.items()}
    projection = config.layers[0].projection(block)
    pair = factors[projection.module_name]
    expected, size = ([abs(v) if take else v for v in _sums(pair.deltas, take)] for take in (False, True))
    wide = torch.float64 if pair.deltas.dtype == torch.float64 else torch.float32
    assert near(pair.delta_sum, np.array(expected), np.array(size), wide, len(pair.deltas))
    for unit in range(projection.num_units):
        out = torch.full((projection.width,), torch.nan, dtype=dtype)
        gradients.bias_gradient(factors, projection, unit, out)
        part = slice(projection.starts[unit], projection.starts[unit] + projection.width)
        assert near(out, np.array(expected[part]), np.array(size[part]), dtype, len(pair.deltas))


def _sums(deltas, magnitudes):
    rows = deltas.double().tolist()
    return [sum(abs(row[k]) if magnitudes else row[k] for row in rows) for k in range(deltas.shape[1])]


@holds(
    {
        "as nn.Linear stores": (
            "gradients.parameter_gradient",
            lambda original: (
                lambda factors, weight: original(factors, dataclasses.replace(weight, out_axis=0)).reshape(
                    weight.weight_shape
                )
            ),
        ),
        "first token only": (
            "gradients.parameter_gradient",
            lambda original: (
                lambda factors, weight: original(
                    {name: Factors(pair.inputs[:1], pair.deltas[:1]) for name, pair in factors.items()}, weight
                )
            ),
        ),
    },
    case=cases(),
    block=st.sampled_from(BLOCKS),
)
def test_parameter_gradient_lies_as_its_weight(case, block):
    _, config, factors = case
    projection = config.layers[0].projection(block)
    weight = _weight(projection)
    pair = factors[projection.module_name]
    total, size = outer_products(pair)
    found = gradients.parameter_gradient(factors, weight)
    wide = torch.float64 if pair.deltas.dtype == torch.float64 else torch.float32
    assert found.dtype == wide
    assert tuple(found.shape) == projection.weight_shape
    stored = (total, size) if weight.out_axis == 0 else (total.T, size.T)
    assert near(found, *stored, wide, len(pair.inputs))


def _weight(projection):
    out_axis = projection.head_axis if projection.side == "output" else 1 - projection.head_axis
    return LinearWeight(
        projection.param_name, projection.module_name, 0, "attention", projection.weight_shape, out_axis, "in"
    )


@holds(
    {
        "without products of tokens": (
            "gradients.squared_norm",
            plain(lambda factors, projection: _diagonal(factors, projection)),
        ),
        "square of the sum": (
            "gradients.squared_norm",
            plain(lambda factors, projection: _summed(factors, projection)),
        ),
    },
    case=cases(values=strategies.numbers(torch.float64, largest_exponent=6)),
    block=st.sampled_from(BLOCKS),
)
def test_squared_norm_is_that_of_all_slices(case, block):
    _, config, factors = case
    projection = config.layers[0].projection(block)
    pair = factors[projection.module_name]
    total, size = outer_products(pair)
    parts = [
        (of_unit(total, projection, unit), of_unit(size, projection, unit)) for unit in range(projection.num_units)
    ]
    expected, scale = sum((one**2).sum() for one, _ in parts), sum((one**2).sum() for _, one in parts)
    found = gradients.squared_norm(factors, projection)
    dtype = torch.float64 if pair.deltas.dtype == torch.float64 else torch.float32
    terms = len(pair.inputs) ** 2 + sum(projection.weight_shape)
    assert found >= 0
    assert abs(found - expected) <= rounding(scale, dtype, 2 * terms)


def _diagonal(factors, projection):
    parts = [gradients.slice_factors(factors, projection, unit) for unit in range(projection.num_units)]
    return float(sum((head.double().square().sum(1) * other.double().square().sum(1)).sum() for head, other in parts))


def _summed(factors, projection):
    parts = [gradients.slice_factors(factors, projection, unit) for unit in range(projection.num_units)]
    return float(sum((head.double().T @ other.double()).sum() ** 2 for head, other in parts))


@holds(
    {
        "of every output": (
            "gradients.squared_bias_norm",
            plain(lambda factors, projection: float(factors[projection.module_name].delta_sum.double().square().sum())),
        ),
        "square of the sum": (
            "gradients.squared_bias_norm",
            plain(
                lambda factors, projection: float(
                    sum(
                        gradients._head_bias(factors, projection, unit).double().sum() ** 2
                        for unit in range(projection.num_units)
                    )
                )
            ),
        ),
    },
    case=cases(values=strategies.numbers(torch.float64, largest_exponent=6)),
    block=st.sampled_from("QKV"),
)
def test_squared_bias_norm_is_that_of_all_heads(case, block):
    _, config, factors = case
    projection = config.layers[0].projection(block)
    deltas = factors[projection.module_name].deltas
    sums, sizes = np.array(_sums(deltas, False)), np.array(_sums(deltas, True))
    chosen = np.concatenate([np.arange(start, start + projection.width) for start in projection.starts])
    dtype = torch.float64 if deltas.dtype == torch.float64 else torch.float32
    found = gradients.squared_bias_norm(factors, projection)
    assert abs(found - (sums[chosen] ** 2).sum()) <= rounding(
        (sizes[chosen] ** 2).sum(), dtype, 2 * len(deltas) + len(chosen)
    )


@holds(
    {
        "the bias is summed again": (
            "gradients._head_bias",
            plain(
                lambda factors, projection, unit: gradients.widened(
                    gradients.slice_factors(factors, projection, unit)[0]
                ).sum(0)
            ),
        ),
        "the bias is forgotten": (
            "gradients.Factors.delta_sum",
            plain(property(lambda self: gradients.widened(self.deltas).sum(0))),
        ),
    },
    case=cases(
        fewest_tokens=1, dtype=torch.float64, values=strategies.numbers(torch.float64, largest_exponent=6, tiny=False)
    ),
    block=st.sampled_from("QKV"),
)
def test_whole_gradients_say_what_tokens_say(case, block):
    _, config, factors = case
    whole = {}
    for name, pair in factors.items():
        inputs = torch.eye(pair.inputs.shape[1], dtype=torch.float64)
        whole[name] = Factors(inputs, (pair.deltas.T @ pair.inputs).T, pair.delta_sum)
    projection = config.layers[0].projection(block)
    scale = 1e-11 * (1 + gradients.squared_norm(factors, projection))
    assert abs(gradients.squared_norm(whole, projection) - gradients.squared_norm(factors, projection)) <= scale
    sums = [gradients.squared_bias_norm(one, projection) for one in (whole, factors)]
    assert abs(sums[0] - sums[1]) <= 1e-11 * (1 + sums[1])
    assert torch.equal(whole[projection.module_name].delta_sum, factors[projection.module_name].delta_sum)
    weight = _weight(projection)
    assert torch.allclose(
        gradients.parameter_gradient(whole, weight), gradients.parameter_gradient(factors, weight), rtol=1e-12
    )
    for unit in range(projection.num_units):
        outs = [torch.empty(projection.width, dtype=torch.float64) for _ in range(2)]
        for one, out in zip((whole, factors), outs, strict=True):
            gradients.bias_gradient(one, projection, unit, out)
        assert torch.allclose(*outs, rtol=1e-12, atol=1e-9)


@holds(
    {
        "per token": (
            "gradients.slice_gradient",
            plain(
                lambda factors, projection, unit, out, columns=(None, None): _averaged(
                    factors, projection, unit, out, columns
                )
            ),
        ),
    },
    case=cases(fewest_tokens=1, dtype=torch.float64, values=st.integers(-9, 9).map(float)),
    order=st.randoms(use_true_random=False),
    silent=st.integers(1, 3),
    block=st.sampled_from(BLOCKS),
)
def test_order_of_tokens_and_silent_tokens_change_nothing(case, order, silent, block):
    _, config, factors = case
    projection = config.layers[0].projection(block)
    others = {name: _shuffled(pair, order, silent) for name, pair in factors.items()}
    for unit in range(projection.num_units):
        outs = []
        for one in (factors, others):
            outs.append(torch.empty(projection.width, of_unit(*_blank(projection), unit).shape[1], dtype=torch.float64))
            gradients.slice_gradient(one, projection, unit, outs[-1])
        assert torch.equal(*outs)  # whole numbers: exact in any order
    assert gradients.squared_norm(factors, projection) == gradients.squared_norm(others, projection)


def _blank(projection):
    outputs, inputs = strategies.module_sizes(projection)
    return np.zeros((outputs, inputs)), projection


def _shuffled(pair, order, silent):
    rows = list(range(len(pair.inputs))) + [-1] * silent
    order.shuffle(rows)
    deltas = torch.cat([pair.deltas, torch.zeros_like(pair.deltas[:1])])
    return Factors(pair.inputs[[max(row, 0) for row in rows]], deltas[rows])


test_wrong_implementation_is_noticed = noticing(__name__)
