"""Each term of the metric against loops over plain floats, at ordinary and at extreme numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qkov import formula
from qkov.errors import OptionError, PrecisionError, ShapeError

EXTREMES = [0.0, -0.0, 5e-324, -1e-310, 1e-160, -1e-100, 1e75, -1e75]  # squares underflow or stay in range
NUMBERS = st.one_of(st.floats(-1e3, 1e3), st.sampled_from(EXTREMES))


@st.composite
def two_tasks(draw, elements=NUMBERS):
    """Gradients ``[n_a, K]`` and ``[n_b, K]`` with token counts, all float64."""
    size = draw(st.integers(1, 5))
    sides = []
    for _ in range(2):
        samples = draw(st.integers(1, 4))
        grad = draw(arrays.arrays(np.float64, (samples, size), elements=elements))
        tokens = draw(arrays.arrays(np.int64, samples, elements=st.integers(1, 50)))
        sides.append((torch.from_numpy(grad), torch.from_numpy(tokens)))
    return sides


def term(variant, g_i, g_j, h_i, h_j, d_a, d_b, tokens_j):
    """One parameter's share of a score, from plain floats."""
    if variant == "unsigned":
        return h_i * h_i / d_a * (abs(g_j) / tokens_j)
    if variant == "natural":
        return h_i * h_i / d_a * (abs(h_j) / math.sqrt(d_b))
    if variant == "signed":
        return h_i / d_a * h_j
    if variant == "symmetric":
        return abs(h_i) / d_a * abs(h_j)
    return g_i * g_j


def score_by_loops(variant, grad_a, h_a, grad_b, h_b, damped_a, damped_b, tokens_b):
    """The definition of each variant, one pair and one parameter at a time."""
    result = np.zeros((len(grad_a), len(grad_b)))
    for i, j in np.ndindex(*result.shape):
        columns = zip(grad_a[i], grad_b[j], h_a[i], h_b[j], damped_a, damped_b, strict=True)
        result[i, j] = math.fsum(term(variant, *map(float, column), int(tokens_b[j])) for column in columns)
    return result


@pytest.mark.parametrize("normalize_gj", ["none", "per_token"])
@pytest.mark.parametrize("variant", formula.VARIANTS)
@given(sides=two_tasks())
@example(sides=[(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([1]))] * 2)
def test_factors_multiply_to_the_definition(variant, normalize_gj, sides):
    (grad_a, tokens_a), (grad_b, tokens_b) = sides
    h_a, h_b = formula.normalise(grad_a, tokens_a), formula.normalise(grad_b, tokens_b)
    damped = [1e-3 + formula.contribution(h).mean(0) for h in (h_a, h_b)]
    left = formula.left_factor(variant, grad_a, h_a, damped[0])
    right = formula.right_factor(variant, grad_b, h_b, damped[1], tokens_b, normalize_gj)
    found = formula.pair_scores(left, right).numpy()
    per_token = tokens_b if normalize_gj == "per_token" else torch.ones_like(tokens_b)
    expected = score_by_loops(variant, grad_a, h_a, grad_b, h_b, *damped, per_token)
    scale = (left.abs() @ right.abs().T).numpy()  # rounding is relative to the terms, which may cancel
    assert (np.abs(found - expected) <= 1e-14 * scale + 1e-300).all()


@given(grad=arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2), elements=NUMBERS))
def test_contribution_is_the_square_of_each_number(grad):
    expected = np.array([[value * value for value in row] for row in grad])
    assert np.array_equal(formula.contribution(torch.from_numpy(grad)).numpy(), expected)


@given(
    grad=arrays.arrays(np.float64, (3, 4), elements=NUMBERS),
    tokens=arrays.arrays(np.int64, 3, elements=st.integers(1, 99)),
)
def test_token_normalisation_divides_by_the_root_of_the_count(grad, tokens):
    found = formula.normalise(torch.from_numpy(grad), torch.from_numpy(tokens)).numpy()
    expected = np.array([[value / math.sqrt(count) for value in row] for row, count in zip(grad, tokens, strict=True)])
    np.testing.assert_allclose(found, expected, rtol=4e-16, atol=5e-324)  # torch's root may differ in the last bit


def test_normalisation_none_returns_the_gradient_itself():
    grad = torch.tensor([[1.0, 2.0]])
    assert formula.normalise(grad, torch.tensor([9]), "none") is grad


def test_normalised_gradient_keeps_its_dtype():
    assert formula.normalise(torch.ones(1, 2, dtype=torch.float32), torch.tensor([3])).dtype == torch.float32


@pytest.mark.parametrize("arrange", [lambda x: x.T.contiguous().T, lambda x: torch.stack([x, x], -1)[..., 0]])
def test_storage_order_changes_nothing(arrange):
    generator = torch.Generator().manual_seed(0)
    grad = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    damped = grad.square().mean(0)
    expected = formula.interference(grad.square(), damped, grad)
    assert torch.allclose(
        formula.interference(arrange(grad).square(), damped, arrange(grad)), expected, rtol=1e-15, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_coarse_numbers_are_refused(dtype):
    with pytest.raises(PrecisionError, match=str(dtype)):
        formula.contribution(torch.ones(2, 2, dtype=dtype))
    with pytest.raises(PrecisionError, match=str(dtype)):
        formula.interference(torch.ones(2, 2, dtype=dtype), torch.ones(2), torch.ones(1, 2))


def test_coarse_numbers_are_called_what_they_are():
    advice = "Squares of gradients underflow in half precision: convert with .float() before squaring."
    half = torch.ones(2, 2, dtype=torch.float16)
    for refuse, what in ((formula.require_wide, "contributions"), (formula.contribution, "gradients")):
        with pytest.raises(PrecisionError) as caught:
            refuse(half)
        assert (
            str(caught.value) == f"{what} have dtype torch.float16; expected torch.float32 or torch.float64. {advice}"
        )


# Damping


@given(
    fisher=arrays.arrays(
        np.float64, 4, elements=st.one_of(st.floats(0, 1e3), st.sampled_from([0.0, 5e-324, 1e-310, 1e300]))
    ),
    epsilon=st.one_of(st.none(), st.sampled_from([0.0, 1e-10, 1e-3])),
    ridge=st.one_of(st.none(), st.sampled_from([0.0, 1e-8, 1e-2])),
)
def test_absolute_damping_is_the_floor_plus_the_ridge(fisher, epsilon, ridge):
    if epsilon is None and ridge is None:
        return  # relative damping; below
    found = formula.damp(torch.from_numpy(fisher), 1e9, epsilon=epsilon, ridge_lambda=ridge).numpy()
    floor, added = 1e-10 if epsilon is None else epsilon, 1e-8 if ridge is None else ridge
    assert np.array_equal(found, np.array([max(value, floor) + added for value in fisher]))


@given(fisher=arrays.arrays(np.float64, 4, elements=st.floats(0, 1e3)), mean=st.floats(0, 1e3), rate=st.floats(0, 1))
def test_relative_damping_adds_a_share_of_the_block_mean(fisher, mean, rate):
    found = formula.damp(torch.from_numpy(fisher), mean, ridge_lambda_rel=rate).numpy()
    tiny = np.finfo(np.float64).tiny
    np.testing.assert_allclose(found, [value + rate * mean + tiny for value in fisher], rtol=1e-15)
    assert (found > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_slice_scores_zero_under_relative_damping(dtype):
    zeros = torch.zeros(2, 3, dtype=dtype)
    for mean in (0.0, 1.0):
        damped = formula.damp(zeros.mean(0), mean)
        assert damped.dtype == dtype
        assert torch.equal(
            formula.interference(zeros, damped, torch.ones(2, 3, dtype=dtype)), torch.zeros(2, 2, dtype=dtype)
        )


def test_rounding_noise_is_not_normalised_up_by_relative_damping():
    noise = torch.full((2, 3), 1e-16, dtype=torch.float64).square()  # beside heads whose Fisher is about 1
    damped = formula.damp(noise.mean(0), 1.0)
    scores = formula.interference(noise, damped, torch.ones(2, 3, dtype=torch.float64))
    assert scores.max() < 1e-20
    undamped = formula.interference(
        noise, formula.damp(noise.mean(0), 1.0, ridge_lambda_rel=0.0), torch.ones(2, 3, dtype=torch.float64)
    )
    assert undamped.min() > 1  # what the floor protects from


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("largest", [2.0**-40, 1.0, 2.0**40])
def test_a_block_is_noise_up_to_the_square_of_sixteen_roundings(dtype, largest):
    rounding = 1.0
    while torch.tensor(1.0 + rounding / 2, dtype=dtype) > 1:
        rounding /= 2
    bound = 256 * rounding**2 * largest
    assert formula.is_noise(bound, largest, dtype)
    assert not formula.is_noise(bound * (1 + 1e-9), largest, dtype)
    assert formula.is_noise(0.0, 0.0, dtype)


@pytest.mark.parametrize("variant", formula.VARIANTS)
@pytest.mark.parametrize("scaled", ["a", "b", "both"])
def test_doubling_a_loss_scales_scores_by_an_exact_power_of_two(variant, scaled):
    degrees = {
        "unsigned": (0, 1), "natural": (0, 0), "signed": (-1, 1), "symmetric": (-1, 1), "dot": (1, 1),
    }[variant]  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    grad_a, grad_b = (torch.randn(n, 7, generator=generator, dtype=torch.float64) for n in (3, 4))

    def score(factor_a, factor_b):
        a, b = factor_a * grad_a, factor_b * grad_b
        damped = [formula.damp(g.square().mean(0), float(g.square().mean())) for g in (a, b)]
        tokens = torch.ones(4, dtype=torch.long)
        return formula.pair_scores(
            formula.left_factor(variant, a, a, damped[0]), formula.right_factor(variant, b, b, damped[1], tokens)
        )

    factors = {"a": (2, 1), "b": (1, 2), "both": (2, 2)}[scaled]
    power = sum(degree for degree, factor in zip(degrees, factors, strict=True) if factor == 2)
    assert torch.equal(score(*factors), score(1, 1) * 2.0**power)


# Aggregation and shapes


def test_mean_and_sum_differ_by_the_number_of_parameters():
    total = torch.tensor([[6.0]])
    assert formula.aggregate_scores(total, 3).item() == 2
    assert formula.aggregate_scores(total, 3, "sum").item() == 6


def test_slices_of_different_sizes_are_refused():
    with pytest.raises(ShapeError, match=r"3 parameters and task B's has 4"):
        formula.pair_scores(torch.ones(1, 3), torch.ones(1, 4))
    with pytest.raises(ShapeError, match=r"3 parameters and the Fisher diagonal 4"):
        formula.interference(torch.ones(1, 3), torch.ones(4), torch.ones(1, 3))


def test_refused_sizes_say_what_was_found_and_what_to_do():
    with pytest.raises(ShapeError) as of_pair:
        formula.pair_scores(torch.ones(2, 3), torch.ones(5, 4))
    assert str(of_pair.value) == (
        "task A's slice has 3 parameters and task B's has 4; expected the same slice of the same model on both sides. "
        "Collect both tasks with one model."
    )
    with pytest.raises(ShapeError) as of_fisher:
        formula.interference(torch.ones(2, 3), torch.ones(4), torch.ones(5, 3))
    assert str(of_fisher.value) == (
        "contributions have 3 parameters and the Fisher diagonal 4; expected one Fisher value per parameter of the slice."
    )


def test_unknown_choice_names_the_known_ones():
    with pytest.raises(OptionError, match=r"variant='sum' is not known; expected one of 'a', 'b'"):
        formula.require_choice("variant", "sum", ("a", "b"))


# Lift


def test_lift_is_one_where_a_is_even_and_counts_the_concentration_elsewhere():
    grad_b = torch.tensor([[1.0, 3.0, 0.0, 0.0]], dtype=torch.float64)
    even, on_b, off_b = torch.ones(4), torch.tensor([0.0, 1, 0, 0]), torch.tensor([0.0, 0, 1, 0])
    lift = formula.lift(torch.stack([even, on_b, off_b]).double(), grad_b, torch.ones(4, dtype=torch.float64))
    np.testing.assert_allclose(lift.numpy(), [1.0, 3.0, 0.0], rtol=1e-15)


def test_lift_is_its_definition():
    generator = torch.Generator().manual_seed(2)
    grad_a, grad_b = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (3, 4))
    grad_b[1] = 0  # a sample without a gradient is one with no direction, and counts in the mean
    grad_b[2] *= 1e3  # a loud one counts as much as any other
    damped = torch.tensor([3.0, 50.0, 7.0, 400.0, 90.0], dtype=torch.float64)
    units = [[[float(x) / (math.hypot(*row) or 1) for x in row] for row in grad.tolist()] for grad in (grad_a, grad_b)]
    profile = [sum(abs(row[k]) for row in units[1]) / 4 for k in range(5)]
    for found, row in zip(formula.lift(grad_a, grad_b, damped).tolist(), units[0], strict=True):
        u = [x * x / float(d) for x, d in zip(row, damped, strict=True)]
        both = sum(x * y for x, y in zip(u, profile, strict=True))
        assert found == pytest.approx(5 * both / (sum(u) * sum(profile)), rel=1e-13)


def test_lift_of_a_zero_gradient_is_zero():
    lift = formula.lift(torch.zeros(2, 3), torch.ones(1, 3), torch.ones(3))
    assert torch.equal(lift, torch.zeros(2))


@given(
    sides=two_tasks(elements=st.floats(-1e3, 1e3).filter(lambda x: x == 0 or abs(x) > 1e-3)),
    power=st.integers(-400, 400),
    side=st.sampled_from([0, 1]),
)
@example(
    sides=[(torch.ones(2, 2, dtype=torch.float64), torch.ones(2)), (torch.eye(2, dtype=torch.float64), torch.ones(2))],
    power=-50,
    side=1,
)
def test_lift_does_not_move_when_a_sample_is_rescaled(sides, power, side):
    grads = [grad for grad, _ in sides]
    damped = torch.linspace(1, 2, grads[0].shape[1], dtype=torch.float64)
    before = formula.lift(*grads, damped)
    scaled = [grad.clone() for grad in grads]
    scaled[side][0] *= 2.0**power
    assert torch.equal(formula.lift(*scaled, damped), before)
