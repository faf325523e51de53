"""Properties of Fisher diagonals: partial means merge in any grouping, and every mean is the loop over samples."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from qkov import fisher
from qkov.errors import OptionError
from validation import strategies

from .properties import holds, noticing

WIDE = st.sampled_from((torch.float32, torch.float64))


@st.composite
def contributions(draw, *, fewest=1, dtype=None, **options):
    """Squared gradients ``[samples, 3]`` from 0 to large, lying in memory in any way."""
    dtype = draw(WIDE) if dtype is None else dtype
    values = strategies.numbers(dtype, **options).map(abs)
    return draw(strategies.tensors((draw(st.integers(fewest, 6)), 3), dtype, values=values))


def plain(function):
    """A wrong function in place of a right one."""
    return lambda _original: function


def loop_moments(rows):
    """Mean and sum of squared deviations of columns, added up exactly."""
    means = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    return means, [
        math.fsum((x - m) ** 2 for x in column) for m, column in zip(means, zip(*rows, strict=True), strict=True)
    ]


def merge_without_the_gap(self, other):
    """Squared deviations are added, the distance of the means is not."""
    count = self.count + other.count
    if not count:
        return self
    return fisher.Welford(count, (self.count * self.mean + other.count * other.mean) / count, self.m2 + other.m2)


def merge_by_halves(self, other):
    """Both means count alike."""
    if not self.count or not other.count:
        return other if other.count else self
    right = original_merge(self, other)
    return fisher.Welford(right.count, (self.mean + other.mean) / 2, right.m2)


original_merge = fisher.Welford.merge


@holds(
    {
        "without the gap": ("fisher.Welford.merge", plain(merge_without_the_gap)),
        "by halves": ("fisher.Welford.merge", plain(merge_by_halves)),
        "n, not n - 1": ("fisher.Welford.variance", plain(property(lambda self: self.m2 / max(self.count, 1)))),
    },
    values=contributions(largest_exponent=15),
    cuts=st.lists(st.integers(0, 6), max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_any_grouping_of_partial_means_is_the_whole(values, cuts, order):
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    parts = [fisher.Welford.of(values[first:last]) for first, last in itertools.pairwise(edges)]
    order.shuffle(parts)
    while len(parts) > 1:  # neighbours merge in any order: a tree of any shape
        place = order.randrange(len(parts) - 1)
        parts[place : place + 2] = [parts[place].merge(parts[place + 1])]
    means, squares = loop_moments(values.double().tolist())
    scale = values.double().numpy().max(0)
    assert parts[0].count == len(values)
    assert (np.abs(parts[0].mean.numpy() - means) <= 1e-13 * scale + 1e-300).all()
    assert (np.abs(parts[0].m2.numpy() - squares) <= 1e-12 * scale**2 + 1e-300).all()
    if len(values) > 1:
        variance = np.array(squares) / (len(values) - 1)
        assert (np.abs(parts[0].variance.numpy() - variance) <= 1e-12 * scale**2 + 1e-300).all()
        error = np.abs(parts[0].standard_error.square().numpy() - variance / len(values))
        assert (error <= 1e-12 * scale**2 + 1e-300).all()
    else:
        assert bool(parts[0].variance.isnan().all())


@holds(
    {
        "counts one too many": (
            "fisher.Welford.merge",
            lambda original: lambda self, other: _counted(original(self, other), other),
        )
    },
    values=contributions(),
    first=st.booleans(),
)
def test_merging_with_nothing_changes_no_bit(values, first):
    state, nothing = fisher.Welford.of(values), fisher.Welford.of(values[:0])
    found = nothing.merge(state) if first else state.merge(nothing)
    assert found.count == state.count
    assert torch.equal(found.mean, state.mean)
    assert torch.equal(found.m2, state.m2)
    both = nothing.merge(nothing)
    assert (both.count, both.mean.tolist(), both.m2.tolist()) == (0, [0.0] * 3, [0.0] * 3)


def _counted(state, other):
    return fisher.Welford(state.count + (not other.count), state.mean, state.m2)


@holds(
    {
        "start-up bias": ("fisher.ExponentialMean.mean", plain(property(lambda self: self.biased))),
        "oldest weighs most": ("fisher.sample_weights", lambda original: lambda *rest: original(*rest).flip(0)),
        "plain mean": ("fisher.sample_weights", lambda original: lambda count, *_: original(count)),
    },
    values=contributions(fewest=2, largest_exponent=15),
    decay=st.floats(0.05, 0.999),
)
def test_exponential_mean_is_the_weighted_mean(values, decay):
    state = fisher.ExponentialMean(decay)
    for row in values:
        state = state.update(row)
    raw = [decay ** (len(values) - 1 - place) for place in range(len(values))]
    rows = values.double().tolist()
    expected = [math.fsum(w * row[k] for w, row in zip(raw, rows, strict=True)) / math.fsum(raw) for k in range(3)]
    scale = values.double().numpy().max(0)
    assert (np.abs(state.mean.numpy() - expected) <= 1e-11 * scale + 1e-300).all()
    weights = fisher.sample_weights(len(values), "ema", decay)
    assert np.allclose(weights.numpy(), np.array(raw) / math.fsum(raw), rtol=1e-10, atol=0)
    weighted = fisher.weighted_fisher(values.double(), weights).numpy()
    assert (np.abs(weighted - expected) <= 1e-11 * scale + 1e-300).all()


@holds(
    {
        "sum": ("fisher.weighted_fisher", plain(lambda values, weights: values.sum(0))),
        "first sample": ("fisher.weighted_fisher", plain(lambda values, weights: values[0])),
        "weights by place": (
            "fisher.sample_weights",
            plain(lambda count, *_: torch.arange(1, count + 1).double() / count),
        ),
    },
    values=contributions(),
    order=st.randoms(use_true_random=False),
)
def test_fisher_is_the_mean_in_any_order_of_samples(values, order):
    weights = fisher.sample_weights(len(values))
    assert abs(float(weights.sum()) - 1) <= 1e-15 * len(values)
    found = fisher.weighted_fisher(values, weights)
    assert found.dtype == values.dtype
    rows = values.double().tolist()
    expected = np.array([math.fsum(row[k] for row in rows) / len(rows) for k in range(3)])
    eps, tiny = torch.finfo(values.dtype).eps, torch.finfo(values.dtype).tiny
    assert (np.abs(found.double().numpy() - expected) <= 8 * eps * expected + tiny).all()
    places = list(range(len(values)))
    order.shuffle(places)
    again = fisher.weighted_fisher(values[places], weights).double().numpy()
    assert (np.abs(again - found.double().numpy()) <= 16 * eps * expected + tiny).all()
    # 0 <= C / F <= n, the bound of the book
    assert (values.double().numpy() <= len(values) * found.double().numpy() * (1 + 16 * eps) + len(values) * tiny).all()


@holds(
    {
        "B for A": ("fisher.pool_fisher", lambda original: lambda a, b, pool="A": original(b, a, pool)),
        "the larger": (
            "fisher.pool_fisher",
            lambda original: lambda a, b, pool="A": torch.maximum(a, b) if pool == "pooled" else original(a, b, pool),
        ),
        "the sum": (
            "fisher.pool_fisher",
            lambda original: lambda a, b, pool="A": a + b if pool == "pooled" else original(a, b, pool),
        ),
    },
    one=contributions(dtype=torch.float64),
    other=contributions(dtype=torch.float64),
)
def test_pools_are_one_task_the_other_and_their_mean(one, other):
    a, b = one.mean(0), other.mean(0)
    assert torch.equal(fisher.pool_fisher(a, b, "A"), a)
    assert torch.equal(fisher.pool_fisher(a, b, "B"), b)
    pooled = fisher.pool_fisher(a, b, "pooled")
    assert torch.equal(pooled, fisher.pool_fisher(b, a, "pooled"))
    assert pooled.tolist() == [(x + y) / 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)]


@holds(
    {
        "in its own type": ("fisher.reduce_heads", plain(lambda values: values.sum(-1))),
        "square of the sum of roots": (
            "fisher.reduce_heads",
            plain(lambda values: values.double().sqrt().sum(-1).square()),
        ),
    },
    values=contributions(largest_exponent=30),
)
def test_slices_are_summed_in_float64(values):
    found = fisher.reduce_heads(values)
    expected = np.array([math.fsum(row) for row in values.double().tolist()])
    assert found.dtype == torch.float64
    assert (np.abs(found.numpy() - expected) <= 4e-16 * expected).all()


@holds(
    {
        "median for mean": (
            "fisher.slice_health",
            lambda original: lambda f, d, e: original(f, d, e) | {"fisher_median": float(f.double().mean())},
        ),
        "counts epsilon itself": (
            "fisher.slice_health",
            lambda original: (
                lambda f, d, e: original(f, d, e) | {"share_below_epsilon": float((f.double() <= e).double().mean())}
            ),
        ),
        "ratio upside down": (
            "fisher.slice_health",
            lambda original: (
                lambda f, d, e: original(f, d, e) | {"fisher_over_damped": float((d.double() / f.double()).median())}
            ),
        ),
    },
    values=st.integers(1, 5).flatmap(
        lambda size: st.lists(strategies.numbers(torch.float64).map(abs), min_size=size, max_size=size)
    ),
    ridge=st.floats(1e-12, 1e12),
)
def test_health_is_counted_from_the_values(values, ridge):
    values = sorted(values)
    f = torch.tensor(values, dtype=torch.float64)
    lower = (len(values) - 1) // 2  # torch's median of an even number is the lower one
    for epsilon in (1e-10, values[-1]):
        found = fisher.slice_health(f, f + ridge, epsilon)
        assert (found["fisher_min"], found["fisher_max"], found["fisher_median"]) == (
            values[0],
            values[-1],
            values[lower],
        )
        assert math.isclose(found["share_below_epsilon"], sum(v < epsilon for v in values) / len(values))
        assert found["damping"] == sorted((v + ridge) - v for v in values)[lower]
        assert found["fisher_over_damped"] == sorted(v / (v + ridge) for v in values)[lower]
    assert set(found) == set(fisher.HEALTH_STATISTICS)


@holds(
    {
        "any decay": (
            "fisher.sample_weights",
            plain(lambda count, source="contributions", decay=0.99: torch.ones(count)),
        )
    },
    decay=st.one_of(st.floats(max_value=0.0), st.floats(min_value=1.0), st.just(math.nan)),
    count=st.integers(1, 20),
)
def test_decay_outside_of_0_to_1_is_refused(decay, count):
    with pytest.raises(OptionError) as caught:
        fisher.sample_weights(count, "ema", decay)
    assert str(decay) in str(caught.value)


test_wrong_implementation_is_noticed = noticing(__name__)
