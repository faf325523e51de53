"""Random halves and what their agreement says about the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkov.errors import StatisticsError
from qkov.statistics import splits
from tests.statistics_cases import whole_scores


@given(clusters=st.integers(2, 15), number=st.integers(1, 20), seed=st.integers(0, 2**65))
def test_halves_hold_half_of_the_clusters(clusters, number, seed):
    halves = splits.draw_halves(clusters, number, seed, 4)
    assert halves.shape == (number, clusters)
    assert (halves.sum(1) == clusters // 2).all()
    np.testing.assert_array_equal(halves, splits.draw_halves(clusters, number, seed, 4))


def test_every_cluster_is_as_often_in_the_first_half():
    counts = splits.draw_halves(6, 4000, 0, 4).sum(0)
    assert (np.abs(counts - 2000) < 5 * np.sqrt(1000)).all()


def test_streams_and_seeds_give_other_halves():
    one = splits.draw_halves(12, 20, 0, 4)
    assert not np.array_equal(one, splits.draw_halves(12, 20, 0, 5))
    assert not np.array_equal(one, splits.draw_halves(12, 20, 1, 4))


def test_correlation_is_pearsons():
    one, other = whole_scores(1, 2, 9).astype(float)
    assert splits.correlation(one, other) == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert np.isnan(splits.correlation(one, np.ones(9)))


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_correlation_has_no_unit(unit):
    one, other = whole_scores(1, 2, 9).astype(float)
    assert splits.correlation(unit * one, unit * other) == pytest.approx(splits.correlation(one, other))


def test_split_half_is_the_mean_over_splits():
    sums, halves = whole_scores(2, 6, 8) / 10.0, splits.draw_halves(6, 7, 1, 4)
    expected = [np.corrcoef(sums[half].sum(0), sums[~half].sum(0))[0, 1] for half in halves]
    assert splits.split_half(sums, halves) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_stepped_up_reliability_is_that_of_the_whole(noise):
    # Feature means of variance 1 and noise of known variance: what two independent wholes would correlate.
    rng, clusters = np.random.default_rng(0), 12
    truth = rng.normal(size=4000)
    sums = truth + noise * rng.normal(size=(clusters, 4000))
    r = splits.split_half(sums, splits.draw_halves(clusters, 20, 0, 4))
    assert r == pytest.approx(1 / (1 + noise**2 / (clusters / 2)), abs=0.02)
    assert splits.stepped_up(r) == pytest.approx(1 / (1 + noise**2 / clusters), abs=0.02)


def test_stepped_up_keeps_zero_and_one_and_has_no_value_at_minus_one():
    assert splits.stepped_up(0.0) == 0
    assert splits.stepped_up(1.0) == 1
    assert splits.stepped_up(0.5) == pytest.approx(2 / 3)
    assert np.isnan(splits.stepped_up(-1.0))


def test_number_and_seed_are_checked():
    with pytest.raises(StatisticsError, match="n_splits=0; expected a positive int"):
        splits.draw_halves(6, 0, 0, 4)
    with pytest.raises(StatisticsError, match="seed=None"):
        splits.draw_halves(6, 5, None, 4)
