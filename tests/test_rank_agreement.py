"""Correlations, slopes and their jackknife against scipy and written-out loops."""

import numpy as np
import pytest
from scipy import stats

from validation import rank_agreement


@pytest.fixture
def drawn():
    order = np.random.default_rng(0)
    scores = order.normal(size=(12, 9))
    scores[:, 3] = scores[:, 5]  # a tie
    return scores, 0.5 * scores[:10] + order.normal(size=(10, 9))


def test_figures_are_scipys(drawn):
    x, y = drawn[0].mean(0), drawn[1].mean(0)
    assert rank_agreement.rank_correlation(x, y)[0] == pytest.approx(stats.spearmanr(x, y)[0])
    line = stats.linregress(x, y)
    assert rank_agreement.slope(x, y)[0] == pytest.approx(line.slope)
    assert rank_agreement.r_squared(x, y)[0] == pytest.approx(line.rvalue**2)
    assert rank_agreement.identity_r_squared(y, y)[0] == 1
    assert rank_agreement.identity_r_squared(np.full(9, y.mean()), y)[0] == pytest.approx(0)


def test_the_jackknife_leaves_out_clusters_of_both_sides(drawn):
    scores, real = drawn
    codes_a = np.repeat(np.arange(4), 3)
    codes_held = np.arange(10)
    found = rank_agreement.agree(rank_agreement.rank_correlation, scores, codes_a, real, codes_held)
    assert found.value == pytest.approx(stats.spearmanr(scores.mean(0), real.mean(0))[0])
    variance = 0.0
    left = [stats.spearmanr(scores[codes_a != g].mean(0), real.mean(0))[0] for g in range(4)]
    variance += 3 / 4 * sum((one - np.mean(left)) ** 2 for one in left)
    left = [stats.spearmanr(scores.mean(0), real[codes_held != g].mean(0))[0] for g in range(10)]
    variance += 9 / 10 * sum((one - np.mean(left)) ** 2 for one in left)
    assert found.error == pytest.approx(variance**0.5)


def test_a_score_without_samples_has_the_error_of_the_truth_alone(drawn):
    scores, real = drawn
    one = rank_agreement.agree(rank_agreement.slope, scores[:1], np.arange(12), real, np.arange(10))
    left = [stats.linregress(scores[0], np.delete(real, g, 0).mean(0)).slope for g in range(10)]
    assert one.error == pytest.approx((9 / 10 * sum((x - np.mean(left)) ** 2 for x in left)) ** 0.5)


def test_some_slices_alone(drawn):
    scores, real = drawn
    chosen = np.arange(9) < 5
    found = rank_agreement.agree(rank_agreement.rank_correlation, scores, np.arange(12), real, np.arange(10), chosen)
    assert found.value == pytest.approx(stats.spearmanr(scores.mean(0)[:5], real.mean(0)[:5])[0])


def test_labels_become_numbers():
    assert rank_agreement.codes_of(["b", "a", "b"], 3).tolist() == [1, 0, 1]
    assert rank_agreement.codes_of(None, 3).tolist() == [0, 1, 2]
