"""Sums under many labellings at once against loops in whole numbers: the same bits, whatever the order of summation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from qkov.statistics import pair_forms
from tests.statistics_cases import gradients, of_sizes, whole_scores
from validation import statistics_loops as loops

SIZES = [(1, 1, 1, 1), (2, 2, 2, 2), (1, 4, 2, 3, 1, 2)]


def labellings(number):
    """All labellings with two or more clusters on both sides."""
    every = np.array(list(itertools.product([False, True], repeat=number)))
    return every[(every.sum(1) >= 2) & (every.sum(1) <= number - 2)]


def forms_of(scores, sizes):
    codes = of_sizes(sizes).codes
    return codes, pair_forms.PairForm.of(scores, codes), pair_forms.Labellings.of(labellings(len(sizes)), sizes)


def assert_equal_to_loops(scores, sizes):
    codes, form, given_to = forms_of(scores, sizes)
    rows = labellings(len(sizes))
    assert form.sym(given_to).tolist() == [loops.symmetric_on_grid(scores, codes, row) for row in rows]
    assert form.asym(given_to).tolist() == [loops.leaning_on_grid(scores, codes, row) for row in rows]


@pytest.mark.parametrize("sizes", SIZES)
def test_all_labellings_equal_the_loop_bit_by_bit(sizes):
    count = sum(sizes)
    assert_equal_to_loops(whole_scores(1, count, count) / 64.0, sizes)
    assert_equal_to_loops(np.exp(gradients(1, count, 1, count)[:, 0]), sizes)


@pytest.mark.parametrize("sizes", SIZES)
def test_rounding_is_far_below_the_statistic(sizes):
    count = sum(sizes)
    scores = np.exp(gradients(2, count, 1, count)[:, 0])
    codes, form, given_to = forms_of(scores, sizes)
    for row, sym, asym in zip(labellings(len(sizes)), form.sym(given_to), form.asym(given_to), strict=True):
        means = loops.pair_means(scores, codes, row)
        assert sym == pytest.approx(means["AA"] + means["BB"] - means["AB"] - means["BA"], abs=1e-5)
        assert asym == pytest.approx(means["AB"] - means["BA"], abs=1e-5)


@given(
    values=st.lists(st.integers(-(2**40), 2**40), min_size=36, max_size=36),
    exponent=st.integers(-100, 100),
)
@settings(max_examples=40)
@example(values=[0, 2**24, *[0] * 34], exponent=0)
@example(values=[0, 1, *[0] * 34], exponent=-100)
def test_whole_numbers_of_any_size_equal_the_loop(values, exponent):
    scores = np.ldexp(np.array(values, dtype=np.float64).reshape(6, 6), exponent)
    assume((scores != scores.T).any())
    form = pair_forms.PairForm.of(scores, np.arange(6))
    assert np.abs(form.grid.astype(np.float64)).sum(1).max() <= 2**24
    assert_equal_to_loops(scores, (1,) * 6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_scales_lose_nothing(scale):
    scores = whole_scores(3, 6, 6) * scale
    assert_equal_to_loops(scores, (1,) * 6)


def test_row_sums_of_the_grid_are_whole_numbers_of_float32():
    for count in (4, 7, 65, 200):
        form = pair_forms.PairForm.of(whole_scores(4, count, count) / 3.0, np.arange(count))
        assert form.grid.dtype == np.float32
        assert (form.grid == np.rint(form.grid)).all()
        assert np.abs(form.grid.astype(np.float64)).sum(1).max() <= pair_forms.EXACT
        assert np.abs(form.grid).max() > pair_forms.EXACT / count / 4  # and the grid is no coarser than it must be


@pytest.mark.parametrize("largest", [2.0**20, np.nextafter(2.0**20, 0), np.nextafter(2.0**20, np.inf)])
def test_step_is_the_next_power_of_two_also_beside_one(largest):
    values = np.zeros((16, 16))
    values[0, 1] = largest
    whole, step = pair_forms._rounded(values)
    bound = largest * 16 / pair_forms.EXACT
    assert math.frexp(step)[0] == 0.5
    assert step / 2 < bound <= step
    assert whole[0, 1] * step == pytest.approx(largest, rel=1e-6)


def test_scores_of_the_same_cluster_enter_nowhere():
    sizes = (2, 3, 2, 2)
    codes = of_sizes(sizes).codes
    scores = whole_scores(5, 9, 9).astype(float)
    loud = np.where(codes[:, None] == codes[None], 1e6, scores)
    one, other = (pair_forms.PairForm.of(given_scores, codes) for given_scores in (scores, loud))
    np.testing.assert_array_equal(one.grid, other.grid)
    np.testing.assert_array_equal(one.leaning, other.leaning)


def test_equal_scores_give_zero():
    form = pair_forms.PairForm.of(np.full((6, 6), 0.7), np.arange(6))
    given_to = pair_forms.Labellings.of(labellings(6), (1,) * 6)
    assert np.abs(form.sym(given_to)).max() < 1e-15
    assert not form.asym(given_to).any()


def test_constant_is_taken_off_first_so_that_the_grid_is_fine():
    scores = whole_scores(6, 6, 6) / 1024.0
    one, other = (pair_forms.PairForm.of(scores + constant, np.arange(6)) for constant in (0.0, 1024.0))
    assert other.step <= 2 * one.step


def test_order_of_clusters_does_not_change_a_bit():
    scores, order = np.exp(gradients(7, 8, 1, 8)[:, 0]), np.array([3, 0, 7, 5, 1, 2, 6, 4])
    rows = labellings(8)
    one = pair_forms.PairForm.of(scores, np.arange(8)).sym(pair_forms.Labellings.of(rows, [1] * 8))
    turned = pair_forms.PairForm.of(scores[np.ix_(order, order)], np.arange(8))
    np.testing.assert_array_equal(turned.sym(pair_forms.Labellings.of(rows[:, order], [1] * 8)), one)


def test_swapping_the_names_keeps_sym_and_negates_asym_exactly():
    sizes = (1, 4, 2, 3, 1, 2)
    scores = np.exp(gradients(8, 13, 1, 13)[:, 0])
    form = pair_forms.PairForm.of(scores, of_sizes(sizes).codes)
    rows = labellings(6)
    one, other = (pair_forms.Labellings.of(chosen, sizes) for chosen in (rows, ~rows))
    np.testing.assert_array_equal(form.sym(one), form.sym(other))
    np.testing.assert_array_equal(form.asym(one), -form.asym(other))


@pytest.mark.parametrize("plant", [np.multiply, np.add], ids=["blocks", "loud clusters"])
def test_sums_beyond_the_whole_numbers_of_float32_are_exact(plant):
    count = 60
    # Sums over many clusters grow far beyond 2^24 where they have one sign, within a side or over a row.
    side = np.arange(count) < count // 2
    sign = np.where(side, 1.0, -1.0)
    scores = 1000.0 * plant(sign[:, None], sign[None]) + whole_scores(9, count, count) / 7.0
    form = pair_forms.PairForm.of(scores, np.arange(count))
    first = np.stack([side, ~side, np.arange(count) < 41, np.arange(count) % 3 > 0])
    labellings = pair_forms.Labellings.of(first, np.ones(count, int))
    grid, sizes = [[int(value) for value in row] for row in form.grid], []
    for found, chosen in zip(form.sym(labellings), first, strict=True):
        a, b = np.flatnonzero(chosen).tolist(), np.flatnonzero(~chosen).tolist()
        within, outside, across = (sum(grid[g][h] for g in x for h in y) for x, y in ((a, a), (b, b), (a, b)))
        sizes.append(max(map(abs, (within, outside, across))))
        pairs = len(a) * (len(a) - 1), len(b) * (len(b) - 1), len(a) * len(b)
        assert found == form.step * (within / pairs[0] + outside / pairs[1] - 2 * across / pairs[2])
    assert max(sizes) > 2**26


def test_more_labellings_than_are_taken_at_a_time(monkeypatch):
    _, form, given_to = forms_of(whole_scores(9, 13, 13).astype(float), (1, 4, 2, 3, 1, 2))
    expected = form.sym(given_to)
    monkeypatch.setattr(pair_forms, "ROWS", 7)
    np.testing.assert_array_equal(form.sym(given_to), expected)
