"""Single samples against a reference, by definition."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qkov.errors import NonFiniteError, ShapeError, StatisticsError, StatisticsWarning
from qkov.statistics import conformal_samples
from tests.statistics_cases import quietly, whole_scores


def scores(count):
    return arrays.arrays(np.float64, count, elements=st.integers(-5, 5).map(float))


@given(given_scores=st.tuples(st.integers(1, 6), st.integers(1, 30)).flatmap(lambda n: st.tuples(*map(scores, n))))
def test_p_is_its_definition(given_scores):
    of_a, of_r = given_scores
    found = quietly(conformal_samples, of_a, of_r)
    assert found.p.tolist() == [(1 + sum(bool(r >= one) for r in of_r)) / (1 + len(of_r)) for one in of_a]
    np.testing.assert_allclose(found.q, scipy.stats.false_discovery_control(found.p))
    assert found.selected.tolist() == (found.q <= 0.1).tolist()
    assert ((found.p > 0) & (found.p <= 1) & (found.q >= found.p)).all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scores_in_any_unit_give_the_same(scale):
    of_a, of_r = whole_scores(1, 1, 8)[0], whole_scores(2, 1, 99)[0]
    np.testing.assert_array_equal(
        quietly(conformal_samples, of_a * scale, of_r * scale).p, quietly(conformal_samples, of_a, of_r).p
    )


def test_all_slices_at_once_are_one_family():
    of_a, of_r = whole_scores(3, 4, 3), whole_scores(4, 59, 3)
    found = quietly(conformal_samples, of_a, of_r)
    assert found.p.shape == found.q.shape == found.selected.shape == (4, 3)
    for one in range(3):
        np.testing.assert_array_equal(found.p[:, one], quietly(conformal_samples, of_a[:, one], of_r[:, one]).p)
    np.testing.assert_allclose(found.q.ravel(), scipy.stats.false_discovery_control(found.p.ravel()))


def test_p_of_an_exchangeable_sample_is_uniform():
    values = np.random.default_rng(0).normal(size=(20, 400))
    p = np.concatenate([quietly(conformal_samples, values[:1, one], values[1:, one]).p for one in range(400)])
    counts = np.bincount(np.rint(p * 20).astype(int), minlength=21)[1:]
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_samples_that_stand_out_are_selected():
    found = conformal_samples(np.array([9.0, 0.5, 8.0]), np.linspace(0, 1, 99), q=0.1)
    assert found.selected.tolist() == [True, False, True]
    assert found.level == 0.1


def test_a_rate_that_is_met_exactly_is_enough():
    found = conformal_samples([1.0], np.zeros(9), q=0.1)
    assert found.q.tolist() == [0.1]
    assert found.selected.tolist() == [True]


def test_warns_that_the_reference_is_too_small():
    with pytest.warns(
        StatisticsWarning, match=r"one sample among 2 cannot be selected by itself at q = 0\.1.*0\.0526"
    ) as one:
        conformal_samples([1.0, 2.0], np.zeros(18))
    assert one[0].filename == __file__
    conformal_samples(
        [1.0, 2.0], np.zeros(19)
    )  # the nineteen for each sample of A that a pair would need at .05 and .1
    conformal_samples([1.0], np.zeros(9))
    with pytest.warns(StatisticsWarning, match="one sample among 4"):  # all slices are one family
        conformal_samples(np.ones((2, 2)), np.zeros((19, 2)))


@pytest.mark.parametrize("shapes", [((2, 3), (5, 4)), ((2,), (5, 1)), ((2, 2, 2), (3, 2, 2)), ((), ())])
def test_scores_that_do_not_belong_together_are_refused(shapes):
    with pytest.raises(ShapeError, match=r"expected \[samples\], or \[samples, slices\] with as many slices in both"):
        conformal_samples(*(np.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("q", [0, 1, -0.1, np.nan])
def test_rate_outside_zero_to_one_is_refused(q):
    with pytest.raises(StatisticsError, match="expected a false discovery rate between 0 and 1"):
        conformal_samples([1.0], [1.0], q=q)


def test_nothing_to_compare_is_refused():
    with pytest.raises(StatisticsError, match="0 samples and 1 of the reference; expected some of both"):
        conformal_samples([], [1.0])
    with pytest.raises(StatisticsError, match="1 samples and 0 of the reference"):
        conformal_samples([1.0], [])
    for values in ([np.nan], [np.inf], [None]):
        with pytest.raises(NonFiniteError, match="Leave out samples without a gradient"):
            conformal_samples(values, [1.0])
        with pytest.raises(NonFiniteError, match="a score is NaN or infinite"):
            conformal_samples([1.0], values)
