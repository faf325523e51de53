"""Leaving one cluster out: against closed forms, and against scores computed again from raw gradients."""

import numpy as np
import pytest
import scipy.stats

from qkov.statistics import clusters, jackknife
from tests.statistics_cases import gradients, of_sizes, whole_scores
from validation import statistics_loops as loops

LABELS_A, LABELS_B = list("aabbbcd"), list("vwwxyyyz")


def means_left_out(one, other):
    """The sum of two means, as if it were a log score."""
    without = [
        np.array([np.delete(values, index).mean() for index in range(len(values))]) for values in (one, other)
    ]  # fmt: skip
    full = one.mean() + other.mean()
    return jackknife.LeftOut(
        np.array([full]), (without[0] + other.mean())[:, None], (one.mean() + without[1])[:, None]
    )  # fmt: skip


def test_variance_of_a_mean_is_its_closed_form_and_has_no_bias():
    one, other = whole_scores(1, 1, 9)[0] / 64.0, whole_scores(2, 1, 14)[0] / 256.0
    left = means_left_out(one, other)
    variance, df = left.error()
    assert variance[0] == pytest.approx(one.var(ddof=1) / 9 + other.var(ddof=1) / 14, rel=1e-12)
    assert left.logs()[0] == pytest.approx(one.mean() + other.mean(), rel=1e-12)
    assert df[0] == pytest.approx(scipy.stats.ttest_ind(one, -other, equal_var=False).df, rel=1e-10)


def test_degrees_of_freedom_are_satterthwaites():
    rows = whole_scores(3, 11, 1) / 100.0
    left = jackknife.LeftOut(np.zeros(1), rows[:4], rows[4:])
    v_a, v_b = 3 / 4 * ((rows[:4] - rows[:4].mean()) ** 2).sum(), 6 / 7 * ((rows[4:] - rows[4:].mean()) ** 2).sum()
    variance, df = left.error()
    assert variance[0] == pytest.approx(v_a + v_b)
    assert df[0] == pytest.approx((v_a + v_b) ** 2 / (v_a**2 / 3 + v_b**2 / 6))
    assert 3 <= df[0] <= 9


def test_degrees_of_freedom_without_any_spread_are_the_fewest():
    left = jackknife.LeftOut(np.zeros(2), np.zeros((4, 2)), np.zeros((6, 2)))
    assert [values.tolist() for values in left.error()] == [[0, 0], [3, 3]]


def test_bias_of_a_population_variance_is_removed_exactly():
    values = whole_scores(4, 1, 12)[0] / 100.0
    without = np.log([np.delete(values, index).var() for index in range(12)])[:, None]
    left = jackknife.LeftOut(np.log([values.var()]), without, np.full((5, 1), np.log(values.var())))
    assert left.scores()[0] == pytest.approx(values.var(ddof=1), rel=1e-10)


def test_scores_far_below_one_are_scores():
    values = whole_scores(4, 1, 12)[0] / 1e6
    without = np.log([np.delete(values, index).var() for index in range(12)])[:, None]
    left = jackknife.LeftOut(np.log([values.var()]), without, np.full((5, 1), np.log(values.var())))
    assert left.scores()[0] == pytest.approx(values.var(ddof=1), rel=1e-10)


def test_slices_are_corrected_and_judged_one_by_one():
    rows = whole_scores(9, 12, 2) / 1000.0 + [0, 7]  # two slices far apart, both sides biased
    left = jackknife.LeftOut(rows[0], rows[1:6], rows[6:])
    for one in range(2):
        full, a, b = rows[0, one], rows[1:6, one], rows[6:, one]
        assert left.logs()[one] == pytest.approx(full - 4 * (a.mean() - full) - 5 * (b.mean() - full))
        spreads = 4 / 5 * np.sum((a - a.mean()) ** 2), 5 / 6 * np.sum((b - b.mean()) ** 2)
        variance, df = left.error()
        assert variance[one] == pytest.approx(sum(spreads))
        assert df[one] == pytest.approx(sum(spreads) ** 2 / (spreads[0] ** 2 / 4 + spreads[1] ** 2 / 5))


def test_bias_that_is_the_score_leaves_no_estimate():
    left = jackknife.LeftOut(np.zeros(1), np.full((2, 1), np.log(2.0)), np.zeros((2, 1)))  # 1 - 1 * (2 - 1)
    assert np.isnan(left.scores()).all()


def test_bias_as_large_as_the_score_leaves_no_estimate():
    left = jackknife.LeftOut(np.zeros(1), np.full((10, 1), np.log(1.2)), np.zeros((10, 1)))
    assert np.isnan(left.scores()).all()


@pytest.mark.parametrize("estimand", jackknife.ESTIMANDS)
@pytest.mark.parametrize("labels", [(LABELS_A, LABELS_B), (list("abcdefg"), list("stuvwxyz"))])
def test_scores_left_out_equal_those_from_raw_gradients_with_f_fitted_again(estimand, labels):
    g_a, g_b = gradients(1, 7, 2), gradients(2, 8, 2)
    a, b = (clusters.read_clusters(one, len(one), "a task") for one in labels)
    left = jackknife.leave_out(g_a, g_b, a, b, estimand)
    for one in range(2):
        rows_a, rows_b = g_a[:, one], g_b[:, one]
        assert left.full[one] == pytest.approx(np.log(loops.score(rows_a, rows_b, estimand)), rel=1e-10)
        for code in range(a.number):
            expected = np.log(loops.score(rows_a[a.codes != code], rows_b, estimand))
            assert left.without_a[code, one] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        for code in range(b.number):
            expected = np.log(loops.score(rows_a, rows_b[b.codes != code], estimand))
            assert left.without_b[code, one] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("estimand", jackknife.ESTIMANDS)
def test_parameter_that_lives_in_one_cluster_is_gone_without_it(estimand):
    g_a, g_b = gradients(3, 4, 1), gradients(4, 4, 1)
    g_a[1:, 0, 0], g_b[:, 0, 0] = 0, 0
    a = b = of_sizes([1] * 4)
    left = jackknife.leave_out(g_a, g_b, a, b, estimand)
    expected = np.log(loops.score(g_a[1:, 0], g_b[:, 0], estimand))
    assert left.without_a[0, 0] == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("size", [0.1, 0.3, 0.7])
def test_score_that_rests_on_one_cluster_is_nothing_without_it(size):
    # Rounding left by a sum minus a share, of about 1e-17, must not pass for a score.
    g_a, g_b = np.zeros((6, 1, 3)), np.zeros((6, 1, 3))
    g_a[:, 0, 1:] = gradients(8, 6, 1, 2)[:, 0]
    g_a[2:4, 0, 0] = size, size / 3
    g_b[:, 0, 0] = 1
    a, b = clusters.read_clusters(list("aabbcc"), 6, "A"), of_sizes([1] * 6)
    left = jackknife.leave_out(g_a, g_b, a, b, "lift")
    assert np.isnan(left.without_a[:, 0]).tolist() == [False, True, False]


@pytest.mark.parametrize("side", [0, 1])
def test_slice_without_gradient_or_score_is_nan(side):
    g_a, g_b = gradients(5, 4, 3), gradients(6, 4, 3)
    (g_a, g_b)[side][2, 1] = 0
    g_a[:, 2, :3], g_b[:, 2, 3:] = 0, 0
    sides = of_sizes([1] * 4)
    left = jackknife.leave_out(g_a, g_b, sides, sides, "lift")
    for values in (left.full, left.without_a[0], left.without_b[0]):
        assert np.isnan(values).tolist() == [False, True, True]


def test_contrasts_are_weighted_sums():
    rows = whole_scores(7, 9, 3) / 100.0
    left = jackknife.LeftOut(rows[0], rows[1:5], rows[5:])
    weights = np.array([[1.0, -0.5, -0.5], [0, 1, -1]])
    found = left.contrasted(weights)
    assert found.full.tolist() == pytest.approx([rows[0] @ weights[0], rows[0] @ weights[1]])
    np.testing.assert_allclose(found.without_a, rows[1:5] @ weights.T)
    np.testing.assert_allclose(found.without_b, rows[5:] @ weights.T)
