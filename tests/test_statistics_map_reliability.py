"""Whether a map of slices is stable, and what it is about: against halves scored again from raw gradients."""

import numpy as np
import pytest

from qkov.errors import NonFiniteError, OptionError, ShapeError, StatisticsError
from qkov.statistics import map_reliability, reliability, splits
from tests.statistics_cases import gradients
from validation import statistics_loops as loops

LABELS_A, LABELS_B = list("aabbcdd"), list("vwwxyyyz")
IID = {"clusters_a": "iid", "clusters_b": "iid"}


def halves_of(labels, stream, number):
    codes = np.array([list(dict.fromkeys(labels)).index(label) for label in labels])
    return [half[codes] for half in splits.draw_halves(codes.max() + 1, number, 3, stream)]


@pytest.mark.parametrize("estimand", ["lift", "mean"])
def test_reliability_and_validity_equal_maps_from_raw_gradients(estimand):
    g_a, g_b, g_other = gradients(1, 7, 5), gradients(2, 8, 5), gradients(3, 6, 5)

    def map_of(one, other):
        return np.array([np.log(loops.score(one[:, slot], other[:, slot], estimand)) for slot in range(5)])

    found = reliability(
        g_a, g_b, clusters_a=LABELS_A, clusters_b=LABELS_B, seed=3, g_other=g_other, estimand=estimand, n_splits=6
    )
    pairs = zip(halves_of(LABELS_A, 6, 6), halves_of(LABELS_B, 7, 6), strict=True)
    half = np.mean([np.corrcoef(map_of(g_a[x], g_b[y]), map_of(g_a[~x], g_b[~y]))[0, 1] for x, y in pairs])
    norms = np.log(np.abs(g_b).sum(2).mean(0))
    assert found.half == pytest.approx(half, rel=1e-9)
    assert found.reliability == pytest.approx(2 * half / (1 + half), rel=1e-9)
    assert found.norm_correlation == pytest.approx(np.corrcoef(map_of(g_a, g_b), norms)[0, 1], rel=1e-9)
    swapped = np.corrcoef(map_of(g_a, g_b), map_of(g_other, g_b))[0, 1]
    assert found.swap_change == pytest.approx(1 - swapped, rel=1e-9)
    assert (found.num_slices, found.estimand) == (5, estimand)


def test_averaged_heatmap_of_the_seeds_is_reliable_and_not_about_a():
    loud = np.exp(gradients(4, 1, 12, 1)[0])
    g_a, g_b, g_other = gradients(5, 8, 12), gradients(6, 8, 12) * loud, gradients(7, 8, 12)
    found = reliability(g_a, g_b, seed=0, g_other=g_other, estimand="marginal", n_splits=20, **IID)
    assert found.reliability > 0.95
    assert found.norm_correlation == pytest.approx(1)
    assert found.swap_change == pytest.approx(0, abs=1e-12)
    lift = reliability(g_a, g_b, seed=0, g_other=g_other, n_splits=20, **IID)
    assert abs(lift.norm_correlation) < 0.7
    assert lift.swap_change > 0.1


def test_map_of_a_planted_effect_is_reliable_and_about_a():
    planted = range(0, 12, 2)
    g_a, g_b = gradients(8, 24, 12, planted=planted), gradients(9, 24, 12, planted=planted)
    for one in range(1, 12, 2):
        g_a[:, one, 2:] *= 3  # A and B look elsewhere
        g_b[:, one, :2] *= 3
    found = reliability(g_a, g_b, seed=0, g_other=gradients(10, 24, 12), n_splits=20, **IID)
    assert found.reliability > 0.8
    assert found.reliability > found.half
    assert found.swap_change > 0.05
    noise = reliability(gradients(11, 24, 12), gradients(12, 24, 12), seed=0, n_splits=20, **IID)
    assert noise.half < 0.5
    assert noise.swap_change is None


def test_lists_and_slices_one_at_a_time_give_the_same():
    g_a, g_b = gradients(13, 8, 4), gradients(14, 8, 4)
    found = reliability(g_a, g_b, seed=1, n_splits=5, **IID)
    assert reliability(list(g_a.transpose(1, 0, 2)), list(g_b.transpose(1, 0, 2)), seed=1, n_splits=5, **IID) == found
    sides = [map_reliability.read_clusters("iid", 8, "a task") for _ in range(2)]
    measured = map_reliability.MapReliability(*sides, seed=1, n_splits=5)
    for one in range(4):
        measured.add(g_a[:, one], g_b[:, one])
        assert measured.num_slices == one + 1
    assert measured.result() == found


def test_rescaled_samples_give_the_same_map():
    g_a, g_b = gradients(15, 8, 4), gradients(16, 8, 4)
    found = reliability(g_a, g_b, seed=1, n_splits=5, **IID)
    assert reliability(g_a * 2.0 ** np.arange(8)[:, None, None], g_b, seed=1, n_splits=5, **IID) == found


def test_slices_without_gradient_or_score_are_left_out():
    g_a, g_b, g_other = gradients(17, 8, 6), gradients(18, 8, 6), gradients(19, 8, 6)
    g_a[2, 1] = 0
    g_a[:, 4, :3], g_b[:, 4, 3:] = 0, 0  # nothing in common
    g_other[0, 5] = 0
    kept = [0, 2, 3, 5]
    found = reliability(g_a, g_b, seed=1, g_other=g_other, n_splits=5, **IID)
    assert found.num_slices == 4
    other = reliability(g_a[:, kept], g_b[:, kept], seed=1, n_splits=5, **IID)
    assert (found.reliability, found.norm_correlation) == (other.reliability, other.norm_correlation)
    three = [0, 2, 3]
    assert found.swap_change == pytest.approx(
        reliability(g_a[:, three], g_b[:, three], seed=1, g_other=g_other[:, three], n_splits=5, **IID).swap_change
    )
    g_other[0, 3] = 0
    assert np.isnan(reliability(g_a, g_b, seed=1, g_other=g_other, n_splits=5, **IID).swap_change)


def test_two_slices_are_no_map():
    g_a, g_b = gradients(20, 8, 3), gradients(21, 8, 3)
    g_a[0, 0] = 0
    with pytest.raises(ShapeError, match=r"2 slices have a gradient of every sample and a score; .* at least 3"):
        reliability(g_a, g_b, seed=1, **IID)


def test_requests_that_make_no_sense_are_refused():
    g_a, g_b = gradients(22, 8), gradients(23, 8)
    with pytest.raises(StatisticsError, match="task A has 3 independent clusters; expected at least 4"):
        reliability(g_a, g_b, clusters_a=list("aabbbccc"), clusters_b="iid", seed=0)
    with pytest.raises(StatisticsError, match="clusters of task B are not known"):
        reliability(g_a, g_b, clusters_a="iid", clusters_b=None, seed=0)
    with pytest.raises(StatisticsError, match="seed=None"):
        reliability(g_a, g_b, seed=None, **IID)
    with pytest.raises(StatisticsError, match="n_splits=0"):
        reliability(g_a, g_b, seed=0, n_splits=0, **IID)
    with pytest.raises(OptionError, match=r"^estimand='median' is not known"):
        reliability(g_a, g_b, seed=0, estimand="median", **IID)
    with pytest.raises(ShapeError, match="g_a 3, g_b 3, g_other 2 slices"):
        reliability(g_a, g_b, seed=0, g_other=g_b[:, :2], **IID)
    g_b[1, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="sample 1 of g_b"):
        reliability(g_a, g_b, seed=0, **IID)


@pytest.mark.parametrize("side", ["a", "b"])
def test_what_is_refused_is_named(side):
    given = {"g_a": gradients(22, 8), "g_b": gradients(23, 8)}
    with pytest.raises(ShapeError, match=rf"^g_{side} has shape \(7, 5\)"):
        reliability(**(given | {f"g_{side}": np.ones((7, 5))}), seed=0, **IID)
    with pytest.raises(StatisticsError, match=f"^task {side.upper()} has 3 independent clusters; expected at least 4"):
        reliability(**given, seed=0, **(IID | {f"clusters_{side}": list("aabbcccc")}))


def test_a_hundred_splits_are_drawn_by_default():
    given = gradients(25, 8, 4), gradients(26, 8, 4)
    found = reliability(*given, seed=0, **IID)
    assert found == reliability(*given, seed=0, n_splits=100, **IID)
    sides = [map_reliability.read_clusters("iid", 8, "a task") for _ in range(2)]
    measured = map_reliability.MapReliability(*sides, seed=0)
    for one in range(4):
        measured.add(given[0][:, one], given[1][:, one])
    assert measured.result() == found


@pytest.mark.parametrize("estimand", ["lift", "mean"])
def test_maps_and_norms_of_slices_of_any_size(estimand):
    sizes = (2, 9, 4, 6)
    g_a, g_b = ([gradients(seed + size, 8, 1, size)[:, 0] for size in sizes] for seed in (30, 60))
    found = reliability(g_a, g_b, seed=0, estimand=estimand, n_splits=5, **IID)
    logs = np.log([loops.score(one_a, one_b, estimand) for one_a, one_b in zip(g_a, g_b, strict=True)])
    norms = np.log([np.abs(one_b).sum(1).mean() for one_b in g_b])
    assert found.norm_correlation == pytest.approx(np.corrcoef(logs, norms)[0, 1], rel=1e-9)


def test_a_task_of_one_sample_in_the_place_of_a_is_refused_by_name():
    given = gradients(22, 8), gradients(23, 8)
    with pytest.raises(StatisticsError, match=r"^the other task has 1 independent clusters; expected at least 2"):
        reliability(*given, seed=0, g_other=gradients(24, 1), **IID)
