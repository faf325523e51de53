"""Properties of the formula: its laws on any numbers, and no NaN at the edges of float32 and float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example
from hypothesis import strategies as st

from qkov import formula
from qkov.errors import PrecisionError, ShapeError
from validation import strategies

from .properties import holds, noticing

WIDE = st.sampled_from((torch.float32, torch.float64))
VARIANTS = st.sampled_from(formula.VARIANTS)
DEGREES = {"unsigned": (0, 1), "natural": (0, 0), "signed": (-1, 1), "symmetric": (-1, 1), "dot": (1, 1)}
"""Powers of A's and of B's loss in a score, F from A (book/metric.md)."""


@st.composite
def pairs(draw, *, dtype=None, **options):
    """Gradients of two tasks on one slice, lying in memory in any way: ``[n_a, size], [n_b, size]``."""
    dtype = draw(WIDE) if dtype is None else dtype
    size = draw(st.integers(1, 6))
    return tuple(
        draw(strategies.tensors((draw(st.integers(1, 4)), size), dtype, values=strategies.numbers(dtype, **options)))
        for _ in range(2)
    )


def moderate(dtype):
    """Numbers whose squares are normal, so that a power of 2 is exact."""
    return strategies.numbers(dtype, largest_exponent=6, tiny=False)


def scores(variant, grad_a, grad_b, normalize_gj="none"):
    """Score all pairs of one slice, F of each task by itself and no damping but the smallest number."""
    damped = [formula.damp(formula.contribution(one).mean(0), 0.0) for one in (grad_a, grad_b)]
    tokens = torch.ones(len(grad_b))
    left = formula.left_factor(variant, grad_a, grad_a, damped[0])
    right = formula.right_factor(variant, grad_b, grad_b, damped[1], tokens, normalize_gj)
    return formula.pair_scores(left, right)


def plain(function):
    """A wrong function in place of a right one."""
    return lambda _original: function


def absolute(fisher, block_mean, **_):
    """The damping of the seeds, whatever the loss's unit."""
    return fisher + 1e-8


def with_reduction(h):
    """Averaged over samples first, squared second."""
    return h.mean(0, keepdim=True).square().expand(h.shape)


@holds(
    {
        "absolute damping": ("formula.damp", plain(absolute)),
        "contributions not squared": ("formula.contribution", plain(lambda h: h.abs())),
        "natural by B's Fisher, not its root": (
            "formula.right_factor",
            lambda original: (
                lambda variant, g, h, d, *rest: (
                    h.abs() / d if variant == "natural" else original(variant, g, h, d, *rest)
                )
            ),
        ),
    },
    drawn=pairs(dtype=torch.float64, largest_exponent=6, tiny=False),
    variant=VARIANTS,
    powers=st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
)
def test_scaled_losses_scale_scores_by_their_degrees(drawn, variant, powers):
    grad_a, grad_b = drawn
    base = scores(variant, grad_a, grad_b)
    scaled = scores(variant, grad_a * 2.0 ** powers[0], grad_b * 2.0 ** powers[1])
    degrees = DEGREES[variant]
    expected = base * 2.0 ** (degrees[0] * powers[0] + degrees[1] * powers[1])
    # Only the smallest normal number beside F does not scale: as good as exact.
    assert torch.allclose(scaled, expected, rtol=1e-12, atol=1e-250)


@holds(
    {
        "mean over the slice": ("formula.pair_scores", plain(lambda left, right: left @ right.T / left.shape[-1])),
        "magnitudes": ("formula.pair_scores", plain(lambda left, right: left.abs() @ right.abs().T)),
        "transposed": (
            "formula.pair_scores",
            plain(lambda left, right: (right @ left.T).reshape(len(left), len(right))),
        ),
    },
    drawn=pairs(),
    cut=st.integers(0, 6),
)
def test_pair_scores_are_sums_over_parameters_and_add_up(drawn, cut):
    left, right = drawn
    found = formula.pair_scores(left, right)
    rows, others = left.double().tolist(), right.double().tolist()
    expected = np.array([[math.fsum(x * y for x, y in zip(one, two, strict=True)) for two in others] for one in rows])
    size = left.double().abs().numpy() @ right.double().abs().numpy().T
    eps, tiny = torch.finfo(left.dtype).eps, torch.finfo(left.dtype).smallest_normal
    slack = (left.shape[1] + 2) * (eps * size + tiny)
    assert (np.abs(found.double().numpy() - expected) <= slack).all()
    parts = formula.pair_scores(left[:, :cut], right[:, :cut]) + formula.pair_scores(left[:, cut:], right[:, cut:])
    assert (np.abs((parts - found).double().numpy()) <= 2 * slack).all()


@holds(
    {
        "squared again": ("formula.interference", plain(lambda c, d, g: (c / d).square() @ g.abs().T)),
        "signs of B": ("formula.interference", plain(lambda c, d, g: (c / d) @ g.T)),
    },
    drawn=pairs(),
)
def test_scores_are_bounded_by_samples_times_the_norm(drawn):
    grad_a, grad_b = drawn
    contribution = formula.contribution(grad_a)
    found = formula.interference(contribution, formula.damp(contribution.mean(0), 0.0), grad_b)
    norms = grad_b.double().abs().sum(1)
    limit = len(grad_a) * norms * (1 + 16 * torch.finfo(grad_a.dtype).eps)
    assert bool((found >= 0).all())
    assert bool((found.double() <= limit + torch.finfo(grad_a.dtype).smallest_normal).all())


@holds(
    {
        "reduced first": ("formula.contribution", plain(with_reduction)),
        "magnitudes": ("formula.contribution", plain(lambda h: h.abs())),
        "rounded": ("formula.contribution", plain(lambda h: h.bfloat16().to(h).square())),
    },
    grad=st.sampled_from((torch.float32, torch.float64)).flatmap(
        lambda dtype: strategies.tensors((3, 4), dtype, values=strategies.numbers(dtype))
    ),
)
def test_squares_come_before_sums(grad):
    found = formula.contribution(grad)
    assert found.dtype == grad.dtype
    eps, tiny = torch.finfo(grad.dtype).eps, torch.finfo(grad.dtype).smallest_normal
    wide = grad.double().numpy()
    assert (np.abs(found.double().numpy() - wide**2) <= eps * wide**2 + tiny).all()
    variance = found.double().numpy().mean(0) - wide.mean(0) ** 2
    slack = 4 * (eps * (wide**2).mean(0) + tiny)
    assert (np.abs(variance - wide.var(0)) <= slack).all()
    assert (variance >= -slack).all()


@holds(
    {
        "symmetric keeps A's sign": (
            "formula.left_factor",
            lambda original: lambda variant, g, h, d: h / d if variant == "symmetric" else original(variant, g, h, d),
        ),
        "signed squares A": (
            "formula.left_factor",
            lambda original: (
                lambda variant, g, h, d: h * h.abs() / d if variant == "signed" else original(variant, g, h, d)
            ),
        ),
    },
    drawn=pairs(largest_exponent=6, tiny=False),
)
def test_signed_is_at_most_symmetric_and_equal_without_signs(drawn):
    grad_a, grad_b = drawn
    signed, symmetric = (scores(variant, grad_a, grad_b) for variant in ("signed", "symmetric"))
    eps = 32 * torch.finfo(grad_a.dtype).eps
    assert bool((signed.abs() <= symmetric * (1 + eps)).all())
    assert torch.equal(scores("signed", grad_a.abs(), grad_b.abs()), symmetric)
    # With one and the same D the symmetric score reads the same from B to A.
    damped = formula.damp(formula.contribution(torch.cat([grad_a, grad_b])).mean(0), 0.0)
    there, back = (
        formula.pair_scores(
            formula.left_factor("symmetric", one, one, damped),
            formula.right_factor("symmetric", two, two, damped, None),
        )
        for one, two in ((grad_a, grad_b), (grad_b, grad_a))
    )
    assert torch.allclose(there, back.T, rtol=eps, atol=0)


@holds(
    {
        "undamped": ("formula.damp", plain(lambda fisher, block_mean, **_: fisher)),
        "root of a sum": (
            "formula.left_factor",
            lambda original: lambda variant, g, h, d: original(variant, g, h, d) / h.square().sum(-1, keepdim=True),
        ),
    },
    drawn=pairs(),
    variant=VARIANTS,
    normalize_gj=st.sampled_from(formula.GRAD_NORMALISATIONS),
)
def test_scores_are_finite_at_the_edges_of_the_type(drawn, variant, normalize_gj):
    grad_a, grad_b = drawn
    assert bool(torch.isfinite(scores(variant, grad_a, grad_b, normalize_gj)).all())
    dead = torch.zeros_like(grad_a)
    assert not scores(variant, dead, grad_b, normalize_gj).any()
    assert not scores(variant, grad_a, torch.zeros_like(grad_b), normalize_gj).any()


@holds(
    {
        "by the count itself": (
            "formula.normalise",
            plain(lambda g, n, how="tokens": g if how == "none" else g / n[:, None]),
        ),
        "by the mean count": (
            "formula.normalise",
            plain(lambda g, n, how="tokens": g if how == "none" else g / n.double().mean().sqrt().to(g)),
        ),
    },
    grad=WIDE.flatmap(lambda dtype: strategies.tensors((3, 4), dtype)),
    tokens=st.lists(st.integers(1, 5000), min_size=3, max_size=3),
)
def test_contribution_is_divided_by_the_tokens(grad, tokens):
    counts = torch.tensor(tokens)
    assert torch.equal(formula.normalise(grad, counts, "none"), grad)
    found = formula.normalise(grad, counts).double().numpy()
    expected = np.array(
        [[x / math.sqrt(n) for x in row] for row, n in zip(grad.double().tolist(), tokens, strict=True)]
    )
    assert (
        np.abs(found - expected) <= 4 * torch.finfo(grad.dtype).eps * np.abs(expected) + torch.finfo(grad.dtype).tiny
    ).all()
    assert np.array_equal(np.signbit(found), np.signbit(grad.double().numpy()))


@holds(
    {"taken as it is": ("formula.require_wide", plain(lambda tensor, what="": tensor))},
    values=st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=4),
    dtype=st.sampled_from((torch.float16, torch.bfloat16, torch.int64)),
)
def test_narrow_contributions_are_refused(values, dtype):
    narrow = torch.tensor([values]).to(dtype)
    for refused in (
        lambda: formula.contribution(narrow),
        lambda: formula.interference(narrow, torch.ones(len(values)), torch.ones(1, len(values))),
    ):
        with pytest.raises(PrecisionError) as caught:
            refused()
        assert str(dtype) in str(caught.value)


@holds(
    {
        "damping of the slice itself": (
            "formula.damp",
            plain(
                lambda fisher, block_mean, *, ridge_lambda_rel=1e-8, epsilon=None, ridge_lambda=None: (
                    fisher * (1 + ridge_lambda_rel) + 1e-300
                )
            ),
        ),
        "the floor is added": (
            "formula.damp",
            lambda original: (
                lambda fisher, block_mean, **options: (
                    fisher + sum(filter(None, options.values())) + float(block_mean) * 1e-8
                    if "epsilon" in options
                    else original(fisher, block_mean, **options)
                )
            ),
        ),
    },
    fisher=WIDE.flatmap(lambda dtype: strategies.tensors((4,), dtype)).map(torch.abs),
    share=st.floats(0.1, 3),
    absolute=st.tuples(st.floats(1e-12, 1), st.floats(1e-12, 1)),
)
def test_damping_is_its_formula_and_positive(fisher, share, absolute):
    eps, tiny = torch.finfo(fisher.dtype).eps, torch.finfo(fisher.dtype).tiny
    mean = float(fisher.double().mean()) * share
    found = formula.damp(fisher, mean).double().numpy()
    expected = np.array([value + 1e-8 * mean + tiny for value in fisher.double().tolist()])
    assert (found > 0).all()
    assert (found >= fisher.double().numpy()).all()
    assert (np.abs(found - expected) <= 4 * eps * expected).all()
    epsilon, ridge = absolute
    seeds = formula.damp(fisher, mean, epsilon=epsilon, ridge_lambda=ridge).double().numpy()
    written = np.array([max(value, epsilon) + ridge for value in fisher.double().tolist()])
    assert (np.abs(seeds - written) <= 4 * eps * written).all()


@holds(
    {
        "not scaled to length 1": ("formula._direction", plain(lambda grad: grad)),
        "squares may leave the range": (
            "formula._direction",
            plain(lambda grad: grad / grad.square().sum(-1, keepdim=True).sqrt()),
        ),
        "not relative to even": ("formula.lift", lambda original: lambda a, b, d: original(a, b, d) / a.shape[-1]),
    },
    drawn=st.integers(2, 5).flatmap(
        lambda size: st.tuples(
            *[strategies.tensors((2, size), torch.float64, values=strategies.numbers(torch.float64))] * 2
        )
    ),
    powers=st.lists(st.integers(-400, 400), min_size=2, max_size=2),
)
def test_lift_is_unmoved_by_scale_and_one_where_even(drawn, powers):
    grad_a, grad_b = drawn
    damped = formula.damp(torch.ones(grad_a.shape[1], dtype=torch.float64), 0.0)
    found = formula.lift(grad_a, grad_b, damped)
    assert bool(((found >= 0) & (found <= grad_a.shape[1] * (1 + 1e-12))).all())
    factors = torch.tensor([2.0 ** (power // 4) for power in powers], dtype=torch.float64)[:, None]
    assume(all(bool(((grad == 0) | (grad.abs() > 1e-250)).all()) for grad in drawn))
    assert torch.equal(formula.lift(grad_a * factors, grad_b, damped), found)
    assert torch.equal(formula.lift(grad_a, grad_b * factors, damped), found)
    even = formula.lift(torch.full_like(grad_a, 3.0), grad_b, damped)
    assert torch.allclose(even, torch.where(grad_b.any(), 1.0, 0.0).double(), rtol=1e-12, atol=0)
    assert bool((formula.lift(torch.zeros_like(grad_a), grad_b, damped) == 0).all())


@holds(
    {"always the mean": ("formula.aggregate_scores", plain(lambda total, number, aggregate="mean": total / number))},
    total=WIDE.flatmap(lambda dtype: strategies.tensors((2, 3), dtype)),
    number=st.sampled_from((1, 2, 64, 4096)),
)
def test_mean_over_a_slice_is_its_sum_over_its_size(total, number):
    assert torch.equal(formula.aggregate_scores(total, number, "sum"), total)
    found = formula.aggregate_scores(total, number)
    if number > 1:
        assert not (torch.equal(found, total) and bool((total.abs() > 1e-30).any()))
    large = total.abs() > 1e-30  # what is as small as that loses digits when it is divided
    assert torch.equal((found * number)[large], total[large])
    assert torch.equal(formula.aggregate_scores(total, number, "mean"), found)


@holds(
    {
        "never": ("formula.is_noise", plain(lambda mean, largest, dtype: False)),
        "by an absolute size": ("formula.is_noise", plain(lambda mean, largest, dtype: mean <= 1e-20)),
    },
    dtype=WIDE,
    largest=st.floats(1e-20, 1e20),
    share=st.floats(1e-3, 0.99),
)
@example(dtype=torch.float64, largest=1.0, share=0.5)
def test_noise_is_relative_to_the_largest_block(dtype, largest, share):
    limit = (16 * torch.finfo(dtype).eps) ** 2 * largest
    assert formula.is_noise(limit * share, largest, dtype)
    assert not formula.is_noise(limit / share, largest, dtype)
    assert formula.is_noise(0.0, 0.0, dtype)


@holds(
    {
        "cut to fit": (
            "formula.pair_scores",
            plain(
                lambda left, right: (
                    left[:, : min(left.shape[1], right.shape[1])] @ right[:, : min(left.shape[1], right.shape[1])].T
                )
            ),
        )
    },
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)).filter(lambda sizes: sizes[0] != sizes[1]),
)
def test_slices_of_other_sizes_are_refused(sizes):
    with pytest.raises(ShapeError) as caught:
        formula.pair_scores(*(torch.zeros(2, size) for size in sizes))
    assert str(sizes[0]) in str(caught.value)
    assert str(sizes[1]) in str(caught.value)


test_wrong_implementation_is_noticed = noticing(__name__)


def test_degrees_are_those_of_all_variants():
    assert set(DEGREES) == set(formula.VARIANTS)
    with pytest.raises(KeyError):
        DEGREES["full"]
