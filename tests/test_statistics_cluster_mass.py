"""Cluster mass over layers that follow each other, against a loop and MNE-Python."""

import numpy as np
import pytest

from qkov.errors import ShapeError, StatisticsError
from qkov.statistics import relabelings, source, test_cluster_mass
from tests.statistics_cases import of_sizes, quietly, whole_scores
from validation import statistics_loops as loops

LAYERS = np.array([0, 0, 1, 1, 2, 2, 3, 3, 5, 5])


def lifts_with_effect(layers=(1, 2)):
    lifts = whole_scores(1, 12, len(LAYERS)) / 1024.0
    lifts[:6, np.isin(LAYERS, layers)] += 1.5
    return lifts


def heads(lifts, alternative="greater", number=120):
    sides = of_sizes([1] * 6), of_sizes([1] * 6)
    return quietly(source.from_lifts, lifts, *sides, n_permutations=number, seed=2, alternative=alternative)


def by_loop(statistics, threshold, layers=LAYERS):
    """Runs of layers with a member each, grown one by one: {first and last layer: (slices, mass)}."""
    members = {}
    for slot, layer in enumerate(layers):
        if statistics[slot] > threshold:
            members.setdefault(int(layer), []).append(slot)
    runs = {}
    for layer in sorted(members):
        first = next((start for start, end in runs if end == layer - 1), layer)
        slots = runs.pop((first, layer - 1), []) + members[layer]
        runs[first, layer] = slots
    return {ends: (sorted(slots), float(sum(statistics[slot] for slot in slots))) for ends, slots in runs.items()}


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("threshold", [0.2, 1.0, 2.0])
def test_clusters_and_their_null_equal_the_loop(alternative, threshold):
    turn = {"greater": np.positive, "less": np.negative, "two-sided": np.abs}[alternative]
    head_test = heads(lifts_with_effect(), alternative)
    found = test_cluster_mass(head_test, LAYERS, threshold=threshold)
    expected = by_loop(turn(head_test.statistic), threshold)
    assert dict(zip(found.layers, [one.tolist() for one in found.slices], strict=True)) == {
        ends: slots for ends, (slots, _) in expected.items()
    }
    np.testing.assert_allclose(found.mass, [expected[ends][1] for ends in found.layers])
    largest = [max([0.0, *(mass for _, mass in by_loop(turn(row), threshold).values())]) for row in head_test.null]
    np.testing.assert_allclose(found.null, largest)
    assert found.p.tolist() == [loops.p_value(mass, largest) for mass in found.mass]
    assert (np.diff(found.mass) <= 0).all()


def test_effect_over_two_layers_is_one_cluster():
    found = test_cluster_mass(heads(lifts_with_effect(), number=999), LAYERS, threshold=2.0)
    assert found.layers[0] == (1, 2)
    assert found.slices[0].tolist() == [2, 3, 4, 5]
    assert found.p[0] <= 0.01
    assert found.threshold == 2.0
    assert found.null_statement.startswith("in no slice at all: A and R are exchangeable")


def test_result_says_that_it_does_not_localise():
    found = test_cluster_mass(heads(lifts_with_effect()), LAYERS, threshold=2.0)
    assert "27 to 32 % of the layers in significant clusters had none" in found.note
    assert "not where" in found.note


def test_layers_that_do_not_follow_each_other_are_not_joined():
    found = test_cluster_mass(heads(lifts_with_effect((3, 5))), LAYERS, threshold=2.0)
    assert {(3, 3), (5, 5)} <= set(found.layers)
    joined = test_cluster_mass(heads(lifts_with_effect((3, 5))), np.minimum(LAYERS, 4), threshold=2.0)
    assert (3, 4) in joined.layers


def test_order_of_slices_within_a_layer_means_nothing():
    order = np.array([1, 0, 3, 2, 4, 5, 7, 6, 9, 8])
    one = test_cluster_mass(heads(lifts_with_effect()), LAYERS, threshold=1.0)
    other = test_cluster_mass(heads(lifts_with_effect()[:, order]), LAYERS[order], threshold=1.0)
    assert one.layers == other.layers
    np.testing.assert_allclose(one.mass, other.mass)
    np.testing.assert_array_equal(one.p, other.p)


def test_slices_without_a_statistic_belong_to_no_cluster():
    lifts = lifts_with_effect()
    lifts[0, LAYERS == 1] = np.nan
    found = test_cluster_mass(heads(lifts), LAYERS, threshold=1.5)
    assert all(1 not in LAYERS[one] for one in found.slices)
    assert (2, 2) in found.layers


def test_slice_at_the_threshold_is_not_above_it():
    head_test = heads(lifts_with_effect())
    largest = float(head_test.statistic.max())
    assert test_cluster_mass(head_test, LAYERS, threshold=largest).layers == ()
    assert len(test_cluster_mass(head_test, LAYERS, threshold=np.nextafter(largest, 0)).layers) == 1


def test_slice_at_the_threshold_is_no_member_of_the_cluster_of_its_layer():
    head_test = heads(lifts_with_effect())
    lower, higher = sorted((2, 3), key=lambda slot: head_test.statistic[slot])  # both of layer 1
    found = test_cluster_mass(head_test, LAYERS, threshold=float(head_test.statistic[lower]))
    members = np.concatenate(found.slices)
    assert higher in members
    assert lower not in members


def test_no_slice_above_the_threshold_is_no_cluster():
    found = test_cluster_mass(heads(lifts_with_effect()), LAYERS, threshold=1e6)
    assert found.layers == found.slices == ()
    assert found.mass.shape == found.p.shape == (0,)
    assert not found.null.any()
    assert "null" not in repr(found).replace("null_statement", "")


def test_equals_the_clusters_of_mne():
    mne = pytest.importorskip("mne", reason="MNE-Python is not installed; the loop above is the other route")
    lifts = lifts_with_effect()
    found = test_cluster_mass(heads(lifts), LAYERS, threshold=1.0)
    from scipy import sparse

    def welch(one, other):
        return source.welch(np.concatenate([one, other]), np.arange(12)[None] < 6)[0]

    adjacency = np.abs(LAYERS[:, None] - LAYERS[None]) <= 1
    observed, clusters, _, _ = mne.stats.permutation_cluster_test(
        [lifts[:6], lifts[6:]],
        threshold=1.0,
        tail=1,
        stat_fun=welch,
        adjacency=sparse.coo_array(adjacency.astype(int)),
        n_permutations=10,
        out_type="indices",
        verbose="error",
    )
    masses = {tuple(sorted(one[0].tolist())): observed[one[0]].sum() for one in clusters}
    assert {tuple(one.tolist()) for one in found.slices} == set(masses)
    np.testing.assert_allclose(found.mass, [masses[tuple(one.tolist())] for one in found.slices])


def test_layers_must_be_numbers_one_for_each_slice():
    head_test = heads(lifts_with_effect())
    with pytest.raises(ShapeError, match=r"has shape \(9,\) and type int64; expected the number of a layer.*10 slices"):
        test_cluster_mass(head_test, LAYERS[:9], threshold=1.0)
    with pytest.raises(ShapeError, match="type float64"):
        test_cluster_mass(head_test, LAYERS / 1.0, threshold=1.0)


@pytest.mark.parametrize("threshold", [0, -1.0, np.inf, np.nan, True])
def test_threshold_must_be_positive(threshold):
    with pytest.raises(StatisticsError, match="expected a positive number, such as 2 for a t statistic"):
        test_cluster_mass(heads(lifts_with_effect()), LAYERS, threshold=threshold)


def test_mass_under_relabelings_uses_those_of_the_slices():
    head_test = heads(lifts_with_effect())
    assert len(test_cluster_mass(head_test, LAYERS, threshold=1.0).null) == head_test.n_permutations
    assert head_test.n_permutations == len(relabelings.draw(6, 6, 120, 2).first)
