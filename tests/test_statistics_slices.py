"""Normalised gradients, lifts and pair scores against loops, and what may not change them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkov.errors import NonFiniteError, ShapeError
from qkov.statistics import slices
from tests.statistics_cases import gradients
from validation import statistics_loops as loops

SCALES = st.floats(-30, 30).map(lambda exponent: 10.0**exponent)


def test_lifts_equal_the_loop():
    sources, target = gradients(1, 6)[:, 0], gradients(2, 4)[:, 0]
    np.testing.assert_allclose(slices.log_lifts(sources, target), loops.log_lifts(sources, target), rtol=1e-12)


def test_pair_scores_equal_the_loop():
    grads = gradients(3, 7)[:, 0]
    np.testing.assert_allclose(slices.pair_scores(grads), loops.pair_scores(grads), rtol=1e-12)


def test_lift_does_not_move_when_a_sample_is_rescaled():
    sources, target = gradients(4, 6)[:, 0], gradients(5, 4)[:, 0]
    expected = slices.log_lifts(sources, target)
    for sample in range(len(sources)):
        louder = sources.copy()
        louder[sample] *= 1024.0  # a power of two: the bits stay
        np.testing.assert_array_equal(slices.log_lifts(louder, target), expected)
    louder = target.copy()
    louder[2] *= 1024.0
    np.testing.assert_array_equal(slices.log_lifts(sources, louder), expected)


@given(scales=st.lists(SCALES, min_size=10, max_size=10))
def test_any_scale_of_any_sample_leaves_lifts_and_pairs(scales):
    sources, target = gradients(6, 6)[:, 0], gradients(7, 4)[:, 0]
    scales = np.array(scales)[:, None]
    found = slices.log_lifts(sources * scales[:6], target * scales[6:])
    np.testing.assert_allclose(found, slices.log_lifts(sources, target), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(slices.pair_scores(sources * scales[:6]), slices.pair_scores(sources), rtol=1e-11)


def test_lift_is_one_where_a_task_has_no_preference():
    sources = np.ones((3, 8)) * [[1.0], [2.0], [3.0]]
    np.testing.assert_allclose(slices.log_lifts(sources, gradients(8, 5, parameters=8)[:, 0]), 0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1.0, 1e200, 1.7e308])
def test_unit_neither_vanishes_nor_overflows(scale):
    np.testing.assert_allclose(slices.unit(np.array([[1.0, -1.0, 0, 0]]) * scale), [[0.5**0.5, -(0.5**0.5), 0, 0]])


def test_fisher_does_not_know_which_samples_are_called_a():
    grads = gradients(9, 8)[:, 0]
    one, other = slices.sensitivities(grads[:3], grads[3:])
    joined = np.concatenate([one, other])
    two, three = slices.sensitivities(grads[:5], grads[5:])
    np.testing.assert_array_equal(joined, np.concatenate([two, three]))
    np.testing.assert_allclose(joined.mean(0), 1, rtol=1e-6)  # u is in units of its own mean


def test_damping_is_relative():
    fisher = np.array([1.0, 3.0, 0.0])
    np.testing.assert_allclose(slices.damped(fisher * 1e-20) / slices.damped(fisher), 1e-20, rtol=1e-12)
    assert slices.damped(fisher)[2] == pytest.approx(1e-8 * 4 / 3)


def test_damping_takes_the_mean_of_each_row_and_is_never_zero():
    rows = np.array([[1.0, 3.0, 0.0], [100.0, 0.0, 0.0]])
    np.testing.assert_array_equal(slices.damped(rows), [slices.damped(row) for row in rows])
    assert (slices.damped(np.zeros(3)) > 0).all()


def test_lift_against_a_task_that_mostly_has_no_gradient():
    # u is 1 in two of three parameters; a quarter of the target looks at one of them, the rest nowhere.
    sources = np.array([[1.0, 1.0, 0], [1.0, -1.0, 0]])
    target = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(slices.log_lifts(sources, target), np.log(1.5), rtol=1e-7)


def test_sample_without_gradient_is_nan():
    sources, target = gradients(10, 4)[:, 0], gradients(11, 4)[:, 0]
    sources[1] = 0
    assert np.isnan(slices.log_lifts(sources, target)).tolist() == [False, True, False, False]
    assert np.isnan(slices.log_lifts(target, np.zeros((2, 5)))).all()
    pairs = np.isnan(slices.pair_scores(sources))
    assert pairs[1].all()
    assert pairs[:, 1].all()
    assert not np.delete(np.delete(pairs, 1, 0), 1, 1).any()


def test_lift_of_zero_has_no_logarithm_and_gives_no_warning():
    sources = np.array([[1.0, 1.0, 0, 0], [0, 0, 1.0, 1.0]])
    assert np.isnan(slices.log_lifts(sources, np.array([[1.0, 2.0, 0, 0]]))).tolist() == [False, True]


def test_lists_of_slices_and_arrays_agree():
    g_a, g_b = gradients(12, 4), gradients(13, 5)
    walked = list(slices.by_slice(g_a=list(g_a.transpose(1, 0, 2)), g_b=g_b.astype(np.float32)))
    assert len(walked) == slices.num_slices("g_a", list(g_a.transpose(1, 0, 2))) == slices.num_slices("g_a", g_a) == 3
    for index, (one_a, one_b) in enumerate(walked):
        np.testing.assert_array_equal(one_a, g_a[:, index])
        np.testing.assert_array_equal(one_b, g_b[:, index].astype(np.float32))
        assert one_a.dtype == one_b.dtype == np.float64


def test_slices_of_different_size_are_taken_as_a_list():
    parts = [np.ones((4, 2)), np.ones((4, 7))]
    assert [one.shape for (one,) in slices.by_slice(g_a=parts)] == [(4, 2), (4, 7)]
    assert slices.num_samples("g_a", parts) == 4


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"g_a": np.ones((2, 3))}, r"g_a has shape \(2, 3\); expected \[samples, slices, parameters\]"),
        ({"g_a": np.float64(1)}, r"g_a has shape \(\)"),
        ({"g_a": []}, "g_a holds no slice; expected at least one"),
        ({"g_a": np.ones((2, 0, 3))}, "g_a holds no slice"),
        ({"g_a": np.ones((0, 1, 3))}, r"a slice of g_a has shape \(0, 3\)"),
        ({"g_a": np.ones((2, 1, 0))}, r"a slice of g_a has shape \(2, 0\)"),
        ({"g_a": [np.ones(3)]}, r"a slice of g_a has shape \(3,\)"),
        ({"g_a": np.ones((2, 2, 3)), "g_b": np.ones((2, 2, 4))}, "gradients of one slice have g_a 3, g_b 4 parameters"),
        (
            {"g_a": np.ones((2, 2, 3)), "g_b": np.ones((2, 1, 3))},
            "gradients have g_a 2, g_b 1 slices; expected the same",
        ),
    ],
)
def test_gradients_that_do_not_belong_together_are_refused(groups, message):
    with pytest.raises(ShapeError, match=message):
        list(slices.by_slice(**groups))


def test_refused_shape_says_what_is_expected():
    with pytest.raises(ShapeError) as caught:
        slices.num_samples("g_a", np.ones((2, 3)))
    assert str(caught.value) == (
        "g_a has shape (2, 3); expected [samples, slices, parameters], or a list of [samples, parameters] where slices "
        "differ in size."
    )


def test_slices_with_different_samples_are_refused():
    with pytest.raises(ShapeError, match=r"g_a has slices of \[2, 3\] samples; expected the same number in all"):
        slices.num_samples("g_a", [np.ones((2, 2)), np.ones((3, 2))])
    with pytest.raises(ShapeError, match=r"g_b has slices of \[2, 3\] samples"):
        list(slices.by_slice(g_a=np.ones((4, 2, 2)), g_b=[np.ones((2, 2)), np.ones((3, 2))]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_gradient_that_is_no_number_is_refused(value):
    grads = gradients(14, 4)
    grads[2, 1, 3] = value
    with pytest.raises(NonFiniteError, match=r"sample 2 of g_r \(counted from 0\) has a NaN or infinite gradient"):
        list(slices.by_slice(g_r=grads))
