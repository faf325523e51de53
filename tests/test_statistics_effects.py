"""Effect sizes against SciPy and loops."""

import numpy as np
import pytest
import scipy.stats

from qkov.errors import ShapeError, StatisticsError
from qkov.statistics import cross_within, effects, source_effect, splits
from tests.statistics_cases import gradients, of_sizes, whole_scores
from validation import statistics_loops as loops

LABELS_A, LABELS_R = list("aabbbcd"), list("vwwyyyyz")


def cluster_means(lifts, labels):
    return np.array([
        np.mean([x for x, other in zip(lifts, labels, strict=True) if other == label]) for label in dict.fromkeys(labels)
    ])  # fmt: skip


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_ratio_and_its_interval_are_those_of_welch(level):
    g_a, g_r, g_b = gradients(1, 7), gradients(2, 8), gradients(3, 6)
    found = source_effect(g_a, g_r, g_b, clusters_a=LABELS_A, clusters_r=LABELS_R, level=level)
    for one in range(3):
        lifts = loops.log_lifts(np.concatenate([g_a[:, one], g_r[:, one]]), g_b[:, one])
        of_a, of_r = cluster_means(lifts[:7], LABELS_A), cluster_means(lifts[7:], LABELS_R)
        ends = scipy.stats.ttest_ind(of_a, of_r, equal_var=False).confidence_interval(level)
        assert found.ratio[one] == pytest.approx(np.exp(of_a.mean() - of_r.mean()), rel=1e-10)
        assert [found.low[one], found.high[one]] == pytest.approx(np.exp(ends).tolist(), rel=1e-9)
        wins = [(x > y) + 0.5 * (x == y) for x in of_a for y in of_r]
        assert found.superiority[one] == pytest.approx(np.mean(wins))
    assert found.level == level


def test_superiority_is_mann_whitneys_u_and_counts_ties_half():
    lifts = np.round(whole_scores(1, 9, 2) / 400.0)
    found = effects.effect_of_lifts(lifts, of_sizes([1] * 4), of_sizes([1] * 5))
    expected = [scipy.stats.mannwhitneyu(lifts[:4, one], lifts[4:, one]).statistic / 20 for one in range(2)]
    np.testing.assert_allclose(found.superiority, expected)
    assert len(np.unique(lifts[:, 0])) < 9


def test_no_spread_at_all_is_an_interval_of_one_point():
    found = effects.effect_of_lifts(np.repeat([1.0, 0.5], 4)[:, None], of_sizes([1] * 4), of_sizes([1] * 4))
    assert found.ratio == found.low == found.high == pytest.approx(np.exp(0.5))


def test_no_spread_of_two_clusters_each_is_a_point_too():
    found = effects.effect_of_lifts(np.repeat([1.0, 0.5], 2)[:, None], of_sizes([1] * 2), of_sizes([1] * 2))
    assert found.low == found.high == pytest.approx(np.exp(0.5))


@pytest.mark.parametrize("level", [0, 1, 1.5, np.nan])
def test_level_is_a_share(level):
    with pytest.raises(StatisticsError, match="expected a coverage between 0 and 1"):
        effects.effect_of_lifts(np.arange(4.0)[:, None], of_sizes([1] * 2), of_sizes([1] * 2), level=level)


def test_slice_without_gradient_has_no_effect():
    g_a = gradients(4, 7)
    g_a[3, 2] = 0
    found = source_effect(g_a, gradients(5, 8), gradients(6, 6), clusters_a=LABELS_A, clusters_r=LABELS_R)
    for values in (found.ratio, found.low, found.high, found.superiority):
        assert np.isnan(values).tolist() == [False, False, True]


def test_level_and_clusters_are_checked():
    given = gradients(1, 7), gradients(2, 8), gradients(3, 6)
    with pytest.raises(StatisticsError, match="level=2; expected a coverage between 0 and 1"):
        source_effect(*given, clusters_a=LABELS_A, clusters_r=LABELS_R, level=2)
    with pytest.raises(StatisticsError, match="clusters have samples in both task A and the reference task"):
        source_effect(*given, clusters_a=LABELS_A, clusters_r=list("awwyyyyz"))
    with pytest.raises(StatisticsError, match="task B has 3 independent clusters; expected at least 4"):
        cross_within(*given[:2], clusters_a="iid", clusters_b=list("xxxxxyyz"), seed=0)
    with pytest.raises(StatisticsError, match="seed=None"):
        cross_within(*given[:2], clusters_a="iid", clusters_b="iid", seed=None)
    with pytest.raises(StatisticsError, match="n_splits=0; expected a positive int"):
        cross_within(*given[:2], clusters_a="iid", clusters_b="iid", seed=0, n_splits=0)


@pytest.mark.parametrize("name", ["g_a", "g_r", "g_b"])
def test_a_source_effect_names_the_gradients_that_it_refuses(name):
    given = {"g_a": gradients(1, 7), "g_r": gradients(2, 8), "g_b": gradients(3, 6)} | {name: np.ones((7, 5))}
    with pytest.raises(ShapeError, match=rf"^{name} has shape \(7, 5\)"):
        source_effect(**given, clusters_a=LABELS_A, clusters_r=LABELS_R)


@pytest.mark.parametrize(("side", "name"), [("clusters_a", "task A"), ("clusters_r", "the reference task")])
def test_a_source_effect_names_the_task_without_clusters(side, name):
    given = {"clusters_a": LABELS_A, "clusters_r": LABELS_R} | {side: None}
    with pytest.raises(StatisticsError, match=f"^clusters of {name} are not known"):
        source_effect(gradients(1, 7), gradients(2, 8), gradients(3, 6), **given)
    with pytest.raises(StatisticsError, match="have samples in both task A and the reference task: 'a'"):
        source_effect(
            gradients(1, 7),
            gradients(2, 7),
            gradients(3, 6),
            clusters_a=LABELS_A,
            clusters_r=LABELS_A[:1] + LABELS_R[2:],
        )


# Two tasks


@pytest.mark.parametrize("name", ["g_a", "g_b"])
def test_cross_within_names_the_gradients_that_it_refuses(name):
    given = {"g_a": gradients(1, 7), "g_b": gradients(2, 8)} | {name: np.ones((7, 5))}
    with pytest.raises(ShapeError, match=rf"^{name} has shape \(7, 5\)"):
        cross_within(**given, clusters_a=LABELS_A, clusters_b=LABELS_R, seed=0)


@pytest.mark.parametrize(("side", "name"), [("clusters_a", "task A"), ("clusters_b", "task B")])
def test_cross_within_names_the_task_with_too_few_clusters(side, name):
    given = {"clusters_a": "iid", "clusters_b": "iid"} | {side: [1, 1, 2, 2, 3, 3, 3, 3]}
    with pytest.raises(StatisticsError, match=f"^{name} has 3 independent clusters; expected at least 4"):
        cross_within(gradients(1, 8), gradients(2, 8), **given, seed=0)
    labels = [1, 2, 3, 4, 4, 4, 4, 4]
    with pytest.raises(StatisticsError, match=r"^4 clusters have samples in both task A and task B: 1, 2, 3, 4\."):
        cross_within(gradients(1, 8), gradients(2, 8), clusters_a=labels, clusters_b=labels, seed=0)


def test_cross_against_within_equals_the_loop():
    g_a, g_b = gradients(7, 7), gradients(8, 8)
    found = cross_within(g_a, g_b, clusters_a=LABELS_A, clusters_b=LABELS_R, seed=0)
    codes = [(LABELS_A + LABELS_R).index(label) for label in LABELS_A + LABELS_R]
    codes = [sorted(set(codes)).index(code) for code in codes]
    for one in range(3):
        pairs = loops.pair_scores(np.concatenate([g_a[:, one], g_b[:, one]]))
        means = loops.pair_means(pairs, codes, np.arange(8) < 4)
        expected = np.log((means["AB"] + means["BA"]) / 2 / np.sqrt(means["AA"] * means["BB"]))
        assert found.log_ratio[one] == pytest.approx(expected, rel=1e-9)
        profiles = [np.square(loops.normalised(one_task[:, one])).mean(0) for one_task in (g_a, g_b)]
        assert found.similarity[one] == pytest.approx(np.corrcoef(*profiles)[0, 1], rel=1e-9)


def test_ceiling_is_the_geometric_mean_of_both_reliabilities():
    # Both tasks have a profile of their own, far above the noise of single samples.
    loud = np.exp(gradients(9, 1, 2, 12)[0])
    g_a, g_b = gradients(10, 16, 2, 12) * loud, gradients(11, 16, 2, 12) * loud
    found = cross_within(g_a, g_b, clusters_a="iid", clusters_b="iid", seed=3, n_splits=15)
    for one in range(2):
        kept = []
        for stream, rows in ((4, g_a[:, one]), (5, g_b[:, one])):
            squares, halves = np.square(loops.normalised(rows)), splits.draw_halves(16, 15, 3, stream)
            r = np.mean([np.corrcoef(squares[half].sum(0), squares[~half].sum(0))[0, 1] for half in halves])
            kept.append(2 * r / (1 + r))
        assert found.ceiling[one] == pytest.approx(np.sqrt(kept[0] * kept[1]), rel=1e-9)
        assert found.of_ceiling[one] == pytest.approx(found.similarity[one] / found.ceiling[one])
    assert (found.ceiling > 0.8).all()
    assert (found.of_ceiling > found.similarity).all()


def test_task_that_does_not_agree_with_itself_has_no_ceiling():
    g_a, g_b = gradients(12, 4, 1, 4), gradients(13, 8, 1, 4)
    g_a[:, 0] = np.eye(4)  # each cluster has its own parameter: halves have nothing in common
    found = cross_within(g_a, g_b, clusters_a="iid", clusters_b="iid", seed=0)
    assert np.isnan(found.ceiling).all()
    assert np.isnan(found.of_ceiling).all()


def test_halves_that_have_nothing_in_common_leave_no_ceiling(monkeypatch):
    monkeypatch.setattr(splits, "split_half", lambda *given: 0.0)
    found = cross_within(gradients(14, 8), gradients(15, 8), clusters_a="iid", clusters_b="iid", seed=0)
    assert np.isnan(found.ceiling).all()


def test_ceiling_is_of_twenty_splits_by_default():
    given = gradients(10, 16, 1, 12, [0], 9.0), gradients(11, 16, 1, 12, [0], 9.0)
    options = {"clusters_a": "iid", "clusters_b": "iid", "seed": 0}
    assert cross_within(*given, **options).ceiling == cross_within(*given, **options, n_splits=20).ceiling > 0


def test_slice_without_gradient_has_no_ratio():
    g_a, g_b = gradients(14, 8), gradients(15, 8)
    g_a[0, 1] = 0
    found = cross_within(g_a, g_b, clusters_a="iid", clusters_b="iid", seed=0)
    assert np.isnan(found.log_ratio).tolist() == [False, True, False]
