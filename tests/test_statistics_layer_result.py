"""Layers against the relabelings that their slices were tested with."""

import numpy as np
import pytest

from qkov.errors import ShapeError
from qkov.statistics import source, test_layers
from tests.statistics_cases import of_sizes, quietly, whole_scores
from validation import statistics_loops as loops

LAYERS = [2, 0, 2, 0, 1, 2]


def heads(alternative="greater", lifts=None):
    lifts = whole_scores(1, 9, 6) / 512.0 if lifts is None else lifts
    return quietly(
        source.from_lifts,
        lifts,
        of_sizes([1] * 4),
        of_sizes([1] * 5),
        n_permutations=80,
        seed=2,
        alternative=alternative,
    )


@pytest.mark.parametrize(
    ("alternative", "turn"), [("greater", lambda x: x), ("less", np.negative), ("two-sided", np.abs)]
)
def test_layer_is_the_mean_of_its_slices(alternative, turn):
    found = test_layers(heads(alternative), LAYERS)
    values, null = turn(heads(alternative).statistic), turn(heads(alternative).null)
    members = [[slot for slot, layer in enumerate(LAYERS) if layer == one] for one in (0, 1, 2)]
    expected = np.array([np.mean(values[one]) for one in members])
    nulls = np.column_stack([null[:, one].mean(1) for one in members])
    assert found.layers == (0, 1, 2)
    np.testing.assert_allclose(found.statistic, expected, rtol=1e-12)
    assert found.p.tolist() == [loops.p_value(expected[one], nulls[:, one]) for one in range(3)]
    np.testing.assert_array_equal(found.p_maxt, loops.step_down(expected, nulls))
    assert (found.q_bh >= found.p).all()
    assert found.null_statement == "in no slice of the layer: A and R are exchangeable as sources of what B changes"


def test_layers_of_one_slice_are_the_slices():
    head_test = heads()
    found = test_layers(head_test, range(6))
    np.testing.assert_allclose(found.statistic, head_test.statistic)
    np.testing.assert_array_equal(found.p, head_test.p)
    np.testing.assert_array_equal(found.p_maxt, head_test.p_maxt)


def test_slices_without_a_statistic_are_left_out_of_their_layer():
    lifts = whole_scores(1, 9, 6) / 512.0
    lifts[0, [0, 4]] = np.nan
    head_test = heads(lifts=lifts)
    found = test_layers(head_test, LAYERS)
    assert np.isnan(found.statistic).tolist() == [False, True, False]
    assert np.isnan(found.p).tolist() == np.isnan(found.p_maxt).tolist() == [False, True, False]
    assert found.statistic[2] == pytest.approx(head_test.statistic[[2, 5]].mean())


def test_opposite_slices_do_not_cancel_where_both_signs_count():
    lifts = np.column_stack([np.arange(9.0), -np.arange(9.0)])
    assert test_layers(heads("two-sided", lifts), [0, 0]).p[0] < 0.05
    assert test_layers(heads("greater", lifts), [0, 0]).p[0] == 1


def test_names_of_layers_may_be_words():
    assert test_layers(heads(), list("babbab")).layers == ("a", "b")


def test_one_layer_for_every_slice_is_demanded():
    with pytest.raises(
        ShapeError, match=r"layer_of_slice has shape \(5,\); expected one layer for each of the 6 slices"
    ):
        test_layers(heads(), LAYERS[:5])
