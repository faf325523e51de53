"""Means, variances, exponential weights and pools of contributions against sums written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qkov import fisher
from qkov.errors import EmptyTaskError, OptionError, PrecisionError, ShapeError
from qkov.fisher import ExponentialMean, Welford

SQUARES = st.one_of(st.floats(0, 1e3), st.sampled_from([0.0, 5e-324, 1e-310, 1e-160, 1e150]))
CONTRIBUTIONS = arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=SQUARES)


def exponential_by_loop(values, decay):
    """The running average, its start-up bias divided out at the end."""
    running, weight = 0.0, 0.0
    for value in values:
        running, weight = decay * running + (1 - decay) * value, decay * weight + (1 - decay)
    return running / weight


# Weights


@given(count=st.integers(1, 400), source=st.sampled_from(fisher.FISHER_SOURCES), decay=st.floats(0.01, 0.999))
def test_weights_are_positive_and_sum_to_one(count, source, decay):
    weights = fisher.sample_weights(count, source, decay)
    assert weights.dtype == torch.float64
    assert weights.shape == (count,)
    assert (weights >= 0).all()
    assert math.fsum(weights.tolist()) == pytest.approx(1, rel=1e-12)


@given(values=arrays.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 10)), decay=st.floats(0.05, 0.995))
def test_ema_weights_are_those_of_the_running_average(values, decay):
    weights = fisher.sample_weights(len(values), "ema", decay)
    found = float(fisher.weighted_fisher(torch.from_numpy(values)[:, None], weights)[0])
    assert found == pytest.approx(exponential_by_loop(values, decay), rel=1e-11, abs=1e-300)


@given(contributions=CONTRIBUTIONS, decay=st.floats(0.05, 0.995))
def test_exponential_mean_equals_the_weighted_mean(contributions, decay):
    running = ExponentialMean(decay)
    for one in torch.from_numpy(contributions):
        running = running.update(one)
    weights = fisher.sample_weights(len(contributions), "ema", decay)
    expected = fisher.weighted_fisher(torch.from_numpy(contributions), weights)
    np.testing.assert_allclose(running.mean.numpy(), expected.numpy(), rtol=1e-11, atol=1e-300)
    assert running.count == len(contributions)


def test_ema_of_one_sample_is_that_sample():
    value = torch.tensor([3.0, 0.5], dtype=torch.float64)
    assert torch.allclose(ExponentialMean(0.9).update(value).mean, value, rtol=1e-15)


def test_exponential_mean_of_nothing_is_refused():
    with pytest.raises(EmptyTaskError, match="0 samples"):
        _ = ExponentialMean().mean


def test_weights_of_no_samples_are_refused():
    with pytest.raises(EmptyTaskError, match="found 0"):
        fisher.sample_weights(0)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 1.5, math.nan])
def test_decay_outside_zero_to_one_is_refused(decay):
    with pytest.raises(OptionError, match="between 0 and 1"):
        fisher.sample_weights(3, "ema", decay)


def test_unknown_source_is_refused():
    with pytest.raises(OptionError, match="fisher_source='hessian'"):
        fisher.sample_weights(3, "hessian")


# Means


@given(contributions=CONTRIBUTIONS)
@example(contributions=np.zeros((1, 1)))
@example(contributions=np.full((3, 1), 5e-324))
def test_plain_fisher_is_the_mean_over_samples(contributions):
    weights = fisher.sample_weights(len(contributions))
    found = fisher.weighted_fisher(torch.from_numpy(contributions), weights).numpy()
    expected = [math.fsum(column) / len(column) for column in contributions.T]
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-322)


def test_fisher_of_a_non_contiguous_view_is_the_same():
    values = torch.rand(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = fisher.sample_weights(4)
    expected = fisher.weighted_fisher(values[:, ::2].contiguous(), weights)
    assert torch.allclose(fisher.weighted_fisher(values[:, ::2], weights), expected, rtol=1e-15, atol=0)


def test_fisher_needs_one_weight_for_each_sample():
    with pytest.raises(ShapeError, match="3 samples but 2 weights"):
        fisher.weighted_fisher(torch.ones(3, 1), fisher.sample_weights(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: fisher.weighted_fisher(x, fisher.sample_weights(2)),
        fisher.reduce_heads,
        Welford.of,
        ExponentialMean().update,
    ],
    ids=["mean", "head sum", "Welford", "EMA"],
)
def test_half_precision_is_refused(function, dtype):
    with pytest.raises(PrecisionError, match="underflow"):
        function(torch.ones(2, 3, dtype=dtype))


@pytest.mark.parametrize(("pool", "expected"), [("A", 1.0), ("B", 4.0), ("pooled", 2.5)])
def test_pool_chooses_or_averages(pool, expected):
    assert fisher.pool_fisher(torch.tensor([1.0]), torch.tensor([4.0]), pool).item() == expected


def test_pool_is_that_of_a_by_default():
    assert fisher.pool_fisher(torch.tensor([1.0]), torch.tensor([4.0])).item() == 1


def test_unknown_pool_is_refused():
    with pytest.raises(OptionError, match="fisher_pool='C'"):
        fisher.pool_fisher(torch.ones(1), torch.ones(1), "C")


def test_head_reduction_squares_before_it_sums():
    grad = torch.tensor([[1.0, -1.0]])
    assert fisher.reduce_heads(grad.square()).item() == 2
    assert fisher.reduce_heads(grad.square()).dtype == torch.float64


def test_head_reduction_leaves_one_number_for_each_sample():
    assert fisher.reduce_heads(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])).tolist() == [3, 7, 11]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fisher_keeps_the_dtype_of_the_contributions(dtype):
    assert fisher.weighted_fisher(torch.ones(3, 2, dtype=dtype), fisher.sample_weights(3)).dtype == dtype


def test_head_reduction_of_float32_sums_in_float64():
    many = torch.full((1, 2**20), 0.1)
    assert fisher.reduce_heads(many).item() == pytest.approx(2**20 * float(torch.tensor(0.1)), rel=1e-14)


# Welford


@given(
    contributions=arrays.arrays(np.float64, st.tuples(st.integers(2, 8), st.integers(1, 3)), elements=st.floats(0, 1e3))
)
def test_welford_gives_mean_variance_and_standard_error(contributions):
    state = Welford.of(torch.from_numpy(contributions))
    count = len(contributions)
    for column, mean, variance, error in zip(
        contributions.T, state.mean, state.variance, state.standard_error, strict=True
    ):
        expected = math.fsum(column) / count
        spread = math.fsum((value - expected) ** 2 for value in column) / (count - 1)
        assert float(mean) == pytest.approx(expected, rel=1e-13, abs=1e-300)
        assert float(variance) == pytest.approx(spread, rel=1e-9, abs=1e-22)
        assert float(error) == pytest.approx(math.sqrt(spread / count), rel=1e-9, abs=1e-11)


@st.composite
def groupings(draw):
    """Contributions ``[samples, 2]``, cut into parts (some empty), and an order to merge them in."""
    values = draw(arrays.arrays(np.float64, st.tuples(st.integers(0, 9), st.just(2)), elements=st.floats(0, 1e3)))
    cuts = sorted(draw(st.lists(st.integers(0, len(values)), max_size=4)))
    parts = [torch.from_numpy(part) for part in np.split(values, cuts)]
    return torch.from_numpy(values), parts, draw(st.randoms(use_true_random=False))


@given(case=groupings())
def test_merging_in_any_grouping_equals_one_pass(case):
    values, parts, random = case
    states = [Welford.of(part) for part in parts]
    while len(states) > 1:  # a random binary tree over a random order
        random.shuffle(states)
        states.append(states.pop().merge(states.pop()))
    expected = Welford.of(values)
    assert states[0].count == expected.count == len(values)
    np.testing.assert_allclose(states[0].mean.numpy(), expected.mean.numpy(), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(states[0].m2.numpy(), expected.m2.numpy(), rtol=1e-9, atol=1e-9)


def test_welford_keeps_small_spread_beside_a_large_mean():
    values = 1e8 + torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    merged = Welford.of(values[:1]).merge(Welford.of(values[1:]))
    assert merged.variance.item() == pytest.approx(1, rel=1e-7)


@pytest.mark.parametrize("count", [0, 1])
def test_variance_below_two_samples_is_not_a_number(count):
    state = Welford.of(torch.ones(count, 2))
    assert state.variance.isnan().all()
    assert state.standard_error.isnan().all()


def test_state_of_no_samples_is_wide_and_zero():
    state = Welford.of(torch.ones(0, 2))
    for values in (state.mean, state.m2):
        assert values.dtype == torch.float64
        assert values.tolist() == [0, 0]


def test_means_of_different_shapes_do_not_merge():
    with pytest.raises(ShapeError, match=r"\(2,\) and \(3,\)"):
        Welford.of(torch.ones(1, 2)).merge(Welford.of(torch.ones(1, 3)))


# Health


def test_health_summarises_spectrum_and_damping():
    values, damping = torch.tensor([0.0, 1.0, 4.0]), torch.tensor([0.5, 0.5, 1.0])
    health = fisher.slice_health(values, values + damping, epsilon=0.1)
    assert tuple(health) == fisher.HEALTH_STATISTICS
    assert health == pytest.approx({
        "fisher_min": 0, "fisher_median": 1, "fisher_max": 4, "share_below_epsilon": 1 / 3, "damping": 0.5,
        "fisher_over_damped": 1 / 1.5,
    })  # fmt: skip


@pytest.mark.parametrize(("epsilon", "below"), [(0.0, 0), (1.0, 1), (1.5, 2), (9.0, 3)])
def test_health_counts_what_lies_below_the_floor_and_not_on_it(epsilon, below):
    values = torch.tensor([0.0, 1.0, 4.0])
    assert fisher.slice_health(values, values + 1, epsilon)["share_below_epsilon"] == pytest.approx(below / 3)
