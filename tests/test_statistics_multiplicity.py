"""Adjusted p values, permutation p values and step-down max-T against other libraries and loops."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from statsmodels.stats.multitest import multipletests

from qkov.errors import OptionError, StatisticsError
from qkov.statistics import multiplicity
from tests.statistics_cases import whole_scores
from validation import statistics_loops as loops

# Subnormal numbers have few digits, and no relative tolerance holds for them.
P = arrays.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1, allow_subnormal=False))
STATISTICS = st.tuples(st.integers(1, 5), st.integers(1, 12)).flatmap(
    lambda shape: st.tuples(
        arrays.arrays(np.float64, shape[0], elements=st.integers(-3, 3).map(float)),
        arrays.arrays(np.float64, (shape[1], shape[0]), elements=st.integers(-3, 3).map(float)),
    )
)


# False discovery rate


@given(p=P)
def test_bh_and_by_equal_those_of_scipy(p):
    np.testing.assert_allclose(multiplicity.adjust(p), scipy.stats.false_discovery_control(p), rtol=1e-12)
    by = scipy.stats.false_discovery_control(p, method="by")
    np.testing.assert_allclose(multiplicity.adjust(p, "fdr_by"), by, rtol=1e-12)


@given(p=P)
def test_holm_and_bonferroni_equal_their_definition(p):
    order, before, holm = np.argsort(p, kind="stable"), 0.0, np.zeros(len(p))
    for rank, one in enumerate(order):
        before = holm[one] = max(before, min(1.0, (len(p) - rank) * p[one]))
    np.testing.assert_allclose(multiplicity.adjust(p, method="holm"), holm, rtol=1e-12)
    np.testing.assert_allclose(multiplicity.adjust(p, "bonferroni"), np.minimum(1, len(p) * p), rtol=1e-12)


@pytest.mark.parametrize("method", multiplicity.METHODS)
def test_adjusted_values_equal_those_of_statsmodels(method):
    p = np.array([0.01, 0.04, 0.04, 0.001, 0.9, 1.0, 0.0, 0.02])
    np.testing.assert_allclose(multiplicity.adjust(p, method), multipletests(p, method=method)[1], rtol=1e-12)


@given(p=P, method=st.sampled_from(multiplicity.METHODS))
def test_adjusted_values_are_no_smaller_and_keep_the_order(p, method):
    adjusted = multiplicity.adjust(p, method)
    assert (adjusted >= p * (1 - 1e-12)).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-15).all()


def test_slices_without_a_p_value_are_no_hypotheses():
    p = np.array([[0.01, np.nan, 0.04], [0.03, 0.5, np.nan]])
    found = multiplicity.adjust(p)
    assert found.shape == p.shape
    np.testing.assert_allclose(found[~np.isnan(p)], scipy.stats.false_discovery_control(p[~np.isnan(p)]))
    assert np.isnan(found[np.isnan(p)]).all()
    assert np.isnan(multiplicity.adjust([np.nan, np.nan])).all()


def test_unknown_method_is_refused():
    with pytest.raises(OptionError, match=r"method='fdr_tst' is not known; expected one of 'fdr_bh', 'fdr_by'"):
        multiplicity.adjust([0.1], "fdr_tst")


@pytest.mark.parametrize("p", [-0.01, 1.01, np.inf])
def test_p_outside_zero_to_one_is_refused(p):
    with pytest.raises(StatisticsError, match="outside of"):
        multiplicity.adjust([0.5, p])


def test_none_is_no_hypothesis():
    assert multiplicity.adjust([0.02, None], "bonferroni").tolist() == pytest.approx([0.02, np.nan], nan_ok=True)


# Permutation p values


@given(both=STATISTICS)
def test_p_and_step_down_equal_the_loops(both):
    observed, null = both
    expected = [loops.p_value(value, null[:, one]) for one, value in enumerate(observed)]
    assert multiplicity.permutation_p(observed, null).tolist() == expected
    np.testing.assert_array_equal(multiplicity.step_down(observed, null), loops.step_down(observed, null))


@given(both=STATISTICS)
def test_p_is_never_zero_and_the_family_wise_one_is_larger(both):
    observed, null = both
    p, family = multiplicity.permutation_p(observed, null), multiplicity.step_down(observed, null)
    assert (p > 0).all()
    assert (p <= 1).all()
    assert (family >= p).all()
    assert (family <= 1).all()
    assert (np.diff(family[np.argsort(-observed, kind="stable")]) >= 0).all()  # p values follow the statistics
    assert (multiplicity.adjust(p) >= p).all()


def test_given_labelling_counts_among_the_relabelings():
    assert multiplicity.permutation_p(np.array([5.0]), np.zeros((99, 1))).tolist() == [0.01]


def test_ties_count():
    null = np.array([[1.0], [1.0 - 5e-11], [1.0 - 5e-10], [1.0 + 1e-9], [0.0]])
    assert multiplicity.permutation_p(np.array([1.0]), null).tolist() == [4 / 6]
    assert multiplicity.step_down(np.array([1.0]), null).tolist() == [4 / 6]


def test_statistics_that_are_zero_but_for_rounding_tie():
    null = np.array([[-1e-16], [1e-17], [0.0], [-1.0]])
    assert multiplicity.permutation_p(np.array([2e-16]), null).tolist() == [4 / 5]


def test_tolerance_of_statistics_is_that_of_one_error():
    null = np.array([[-0.5e-10], [-1.5e-10]])
    assert multiplicity.permutation_p(np.array([0.0]), null).tolist() == [2 / 3]


def test_zero_reaches_zero():
    assert multiplicity.reaches(np.array([0.0, -1e-300]), 0.0).tolist() == [True, False]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_values_in_any_unit_are_compared_relative_to_each_other(scale):
    values = np.array([1.0, 1 - 5e-11, 1 - 5e-10, 2.0, 0.0, -1.0]) * scale
    assert multiplicity.reaches(values, scale).tolist() == [True, True, False, True, False, False]


def test_one_slice_is_no_family():
    null = whole_scores(1, 50, 1).astype(float)
    observed = np.array([400.0])
    np.testing.assert_array_equal(multiplicity.step_down(observed, null), multiplicity.permutation_p(observed, null))


def test_step_down_is_sharper_than_single_step():
    null = whole_scores(2, 199, 3) / 500.0
    null[:, 0] *= 5  # a wide slice that is rejected first, and then bars no other
    observed = np.array([20.0, 1.9, 0.3])
    found = multiplicity.step_down(observed, null)
    single = [loops.p_value(value, null.max(1)) for value in observed]
    assert (found <= single).all()
    assert found[1] < single[1] / 2


def test_slice_without_a_statistic_stays_out_of_the_family():
    null = whole_scores(3, 99, 3) / 500.0
    observed = np.array([1.0, np.nan, 2.0])
    null[:, 1] = np.nan
    for function in (multiplicity.permutation_p, multiplicity.step_down):
        found = function(observed, null)
        assert np.isnan(found).tolist() == [False, True, False]
        np.testing.assert_array_equal(found[[0, 2]], function(observed[[0, 2]], null[:, [0, 2]]))


def test_step_down_by_hand():
    null = np.zeros((99, 3))
    null[:1, 0], null[1:3, 1], null[3:13, 2] = 10, 6, 2
    # Ten as the largest of all three; six of the last two; two of the last one.
    found = multiplicity.step_down(np.array([9.0, 5.0, 1.0]), null)
    assert found.tolist() == [2 / 100, 3 / 100, 11 / 100]
    # A slice behind one that is not rejected is not rejected either.
    null[:, 0] = 20
    assert multiplicity.step_down(np.array([9.0, 5.0, 1.0]), null).tolist() == [1, 1, 1]
