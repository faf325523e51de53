"""Intervals and contrasts against their formulas, literal resampling and simulations with a known answer."""

import warnings

import numpy as np
import pytest
import scipy.stats

from qkov.errors import NonFiniteError, OptionError, ShapeError, StatisticsError, StatisticsWarning
from qkov.statistics import confidence_interval, head_contrast, intervals, jackknife
from tests.statistics_cases import gradients, quietly
from validation import statistics_loops as loops

LABELS_A, LABELS_B = list("aabbbcd"), list("vwwxyyyz")
CLUSTERS = {"clusters_a": LABELS_A, "clusters_b": LABELS_B}


def leave_each_out(rows_a, rows_b, estimand):
    """Scores from raw gradients: whole, without each cluster of A, without each of B."""
    labels_a, labels_b = np.array(LABELS_A), np.array(LABELS_B)
    return (
        loops.score(rows_a, rows_b, estimand),
        [loops.score(rows_a[labels_a != one], rows_b, estimand) for one in dict.fromkeys(LABELS_A)],
        [loops.score(rows_a, rows_b[labels_b != one], estimand) for one in dict.fromkeys(LABELS_B)],
    )


def spread(values):
    return (len(values) - 1) / len(values) * sum((one - np.mean(values)) ** 2 for one in values)


@pytest.mark.parametrize("estimand", jackknife.ESTIMANDS)
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_jackknife_interval_is_its_formula(estimand, level):
    g_a, g_b = gradients(1, 7, 2), gradients(2, 8, 2)
    found = quietly(confidence_interval, g_a, g_b, **CLUSTERS, estimand=estimand, level=level)
    for one in range(2):
        full, *sides = leave_each_out(g_a[:, one], g_b[:, one], estimand)
        variances = [spread(np.log(side)) for side in sides]
        df = sum(variances) ** 2 / sum(v**2 / (len(side) - 1) for v, side in zip(variances, sides, strict=True))
        estimate = full - sum((len(side) - 1) * (np.mean(side) - full) for side in sides)
        half = scipy.stats.t.ppf((1 + level) / 2, df) * np.sqrt(sum(variances))
        assert found.estimate[one] == pytest.approx(estimate, rel=1e-8)
        assert found.low[one] == pytest.approx(estimate * np.exp(-half), rel=1e-8)
        assert found.high[one] == pytest.approx(estimate * np.exp(half), rel=1e-8)
        assert found.df[one] == pytest.approx(df, rel=1e-7)
    assert (found.level, found.estimand, found.method) == (level, estimand, "jackknife")


def test_what_is_returned_by_default():
    found = confidence_interval(gradients(3, 12), gradients(4, 12), clusters_a="iid", clusters_b="iid")
    assert (found.estimand, found.method, found.level) == ("lift", "jackknife", 0.95)
    assert "approximate" in found.note
    assert (found.low < found.estimate).all()
    assert (found.estimate < found.high).all()


@pytest.mark.parametrize("estimand", jackknife.ESTIMANDS)
def test_pigeonhole_equals_a_literal_double_resampling(estimand):
    g_a, g_b = gradients(5, 7, 2), gradients(6, 8, 2)
    found = quietly(
        confidence_interval, g_a, g_b, **CLUSTERS, estimand=estimand, method="pigeonhole", seed=3, n_draws=60, level=0.9
    )
    members = [
        [[i for i, x in enumerate(side) if x == one] for one in dict.fromkeys(side)] for side in (LABELS_A, LABELS_B)
    ]
    times = [picked_by_hand(len(side), 60, 3, stream) for side, stream in zip(members, (2, 3), strict=True)]
    for one in range(2):
        rows = g_a[:, one], g_b[:, one]
        frozen = loops.fisher_of(loops.normalised(rows[0]) + loops.normalised(rows[1]))
        values = []
        for drawn in zip(*times, strict=True):
            again = [
                np.concatenate([side[members[which][code]] for code in drawn[which]]) for which, side in enumerate(rows)
            ]
            values.append(loops.score(*again, estimand, frozen))
        assert found.estimate[one] == pytest.approx(loops.score(*rows, estimand), rel=1e-9)
        assert [found.low[one], found.high[one]] == pytest.approx(np.quantile(values, [0.05, 0.95]).tolist(), rel=1e-9)
    assert found.df is None
    assert "conservative" in found.note
    assert (found.level, found.estimand, found.method) == (0.9, estimand, "pigeonhole")


def picked_by_hand(count, draws, seed, stream):
    """Clusters drawn with replacement, from the upper halves of raw words."""
    words = np.random.Philox(key=[seed, stream]).random_raw(draws * count).tolist()
    picked = [(word >> 32) * count >> 32 for word in words]
    return [picked[count * one : count * (one + 1)] for one in range(draws)]


def test_resampling_draws_every_cluster_as_often():
    times = intervals._resampled(7, 5000, 1, 2)
    assert (times.sum(1) == 7).all()
    assert (np.abs(times.sum(0) - 5000) < 5 * np.sqrt(5000)).all()


def test_sides_are_resampled_apart():
    assert not np.array_equal(intervals._resampled(7, 20, 1, 2), intervals._resampled(7, 20, 1, 3))


@pytest.mark.parametrize("seed", [None, -1, True])
def test_bootstrap_demands_a_seed(seed):
    with pytest.raises(StatisticsError, match=f"seed={seed}; expected a non-negative int"):
        confidence_interval(
            gradients(1, 12), gradients(2, 12), clusters_a="iid", clusters_b="iid", method="pigeonhole", seed=seed
        )


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("method", intervals.METHODS)
def test_slice_without_gradient_has_no_interval(method, side):
    g_a, g_b = gradients(7, 12), gradients(8, 12)
    (g_a, g_b)[side][4, 1] = 0
    found = confidence_interval(g_a, g_b, clusters_a="iid", clusters_b="iid", method=method, seed=0, n_draws=20)
    for values in (found.estimate, found.low, found.high, *([found.df] if method == "jackknife" else [])):
        assert np.isnan(values).tolist() == [False, True, False]


@pytest.mark.parametrize("method", intervals.METHODS)
def test_lists_of_slices_give_the_same_interval(method):
    g_a, g_b = gradients(9, 7), gradients(10, 8)
    options = {**CLUSTERS, "method": method, "seed": 0, "n_draws": 20}
    found = quietly(confidence_interval, g_a, g_b, **options)
    listed = quietly(confidence_interval, list(g_a.transpose(1, 0, 2)), list(g_b.transpose(1, 0, 2)), **options)
    np.testing.assert_array_equal(found.low, listed.low)


def test_rescaled_samples_have_the_same_interval():
    g_a, g_b = gradients(11, 12), gradients(12, 12)
    options = {"clusters_a": "iid", "clusters_b": "iid"}
    louder = g_a * 2.0 ** np.arange(12)[:, None, None]
    found, other = (confidence_interval(one, g_b, **options) for one in (g_a, louder))
    np.testing.assert_array_equal(found.low, other.low)


def test_interval_covers_the_truth_as_often_as_it_says():
    # Every parameter is as large on average in both tasks: the lift of the population is 1.
    rng, hits = np.random.default_rng(5), []
    for _ in range(30):
        g_a, g_b = rng.normal(size=(2, 16, 10, 12))
        found = confidence_interval(g_a, g_b, clusters_a="iid", clusters_b="iid")
        hits += ((found.low <= 1) & (found.high >= 1)).tolist()
    assert 0.88 <= np.mean(hits) <= 0.99


# Contrasts


@pytest.mark.parametrize("estimand", jackknife.ESTIMANDS)
def test_contrast_is_its_formula(estimand):
    g_a, g_b = gradients(13, 7), gradients(14, 8)
    found = quietly(head_contrast, g_a, g_b, **CLUSTERS, layer_of_slice=["x", "x", "x"], estimand=estimand, level=0.9)
    parts = [leave_each_out(g_a[:, one], g_b[:, one], estimand) for one in range(3)]
    for one in range(3):
        others = [other for other in range(3) if other != one]
        full = np.log(parts[one][0]) - np.mean([np.log(parts[other][0]) for other in others])
        sides = [
            np.log(parts[one][side]) - np.mean([np.log(parts[other][side]) for other in others], axis=0)
            for side in (1, 2)
        ]
        estimate = full  # the bias is common to the heads of a layer
        variances = [spread(side) for side in sides]
        df = sum(variances) ** 2 / sum(v**2 / (len(side) - 1) for v, side in zip(variances, sides, strict=True))
        t = estimate / np.sqrt(sum(variances))
        half = scipy.stats.t.ppf(0.95, df) * np.sqrt(sum(variances))
        assert found.estimate[one] == pytest.approx(estimate, rel=1e-6, abs=1e-9)
        assert found.statistic[one] == pytest.approx(t, rel=1e-6)
        assert found.df[one] == pytest.approx(df, rel=1e-6)
        assert found.p[one] == pytest.approx(2 * scipy.stats.t.sf(abs(t), df), rel=1e-6)
        assert [found.low[one], found.high[one]] == pytest.approx([estimate - half, estimate + half], rel=1e-5)
    assert (found.level, found.estimand, found.adjust) == (0.9, estimand, "holm")


def test_heads_are_compared_within_their_layer_only():
    g_a, g_b = gradients(15, 12, 6), gradients(16, 12, 6)
    options = {"clusters_a": "iid", "clusters_b": "iid"}
    layers = [("Q", 0), ("Q", 1), ("Q", 0), ("Q", 1), ("Q", 0), ("Q", 1)]
    found = head_contrast(g_a, g_b, layer_of_slice=layers, **options)
    alone = head_contrast(g_a[:, 1::2], g_b[:, 1::2], layer_of_slice=[1, 1, 1], **options)
    np.testing.assert_allclose(found.estimate[1::2], alone.estimate, rtol=1e-9)


def test_contrasts_of_a_layer_add_up_to_zero():
    found = head_contrast(
        gradients(17, 12, 4), gradients(18, 12, 4), clusters_a="iid", clusters_b="iid", layer_of_slice=[0] * 4
    )
    assert found.estimate.sum() == pytest.approx(0, abs=1e-9)


def test_two_heads_are_each_others_contrast():
    given = gradients(17, 12, 2), gradients(18, 12, 2)
    found = head_contrast(*given, clusters_a="iid", clusters_b="iid", layer_of_slice=[0, 0])
    logs = [np.log(loops.score(given[0][:, one], given[1][:, one], "lift")) for one in range(2)]
    assert found.estimate.tolist() == pytest.approx([logs[0] - logs[1], logs[1] - logs[0]])


@pytest.mark.parametrize("difference", [0.0, 1.0])
def test_contrast_without_any_spread_has_no_statistic(difference):
    full = np.array([difference, 0.0])
    left = jackknife.LeftOut(full, np.tile(full, (3, 1)), np.tile(full, (4, 1)))
    found = intervals.contrast_of(left, [0, 0], estimand="lift", adjust="holm", level=0.95)
    assert np.isnan(found.statistic).all()
    assert np.isnan(found.p).all()
    assert found.low.tolist() == found.estimate.tolist() == found.high.tolist() == [difference, -difference]


def test_head_without_others_has_no_contrast_and_is_no_hypothesis():
    g_a, g_b = gradients(19, 12, 4), gradients(20, 12, 4)
    g_a[0, 3] = 0
    options = {"clusters_a": "iid", "clusters_b": "iid"}
    found = head_contrast(g_a, g_b, layer_of_slice=[0, 0, 1, 0], **options)
    for name in ("estimate", "low", "high", "statistic", "df", "p", "p_adjusted"):
        assert np.isnan(getattr(found, name)).tolist() == [False, False, True, True], name
    pair = head_contrast(g_a[:, :2], g_b[:, :2], layer_of_slice=[0, 0], **options)
    np.testing.assert_allclose(found.p_adjusted[:2], pair.p_adjusted)


@pytest.mark.parametrize("adjust", ["holm", "fdr_bh", "fdr_by", "bonferroni"])
def test_contrasts_are_adjusted_as_asked(adjust):
    from statsmodels.stats.multitest import multipletests

    found = head_contrast(
        gradients(21, 12, 4),
        gradients(22, 12, 4),
        clusters_a="iid",
        clusters_b="iid",
        layer_of_slice=[0, 0, 1, 1],
        adjust=adjust,
    )
    np.testing.assert_allclose(found.p_adjusted, multipletests(found.p, method=adjust)[1])


# Refusals and warnings


@pytest.mark.parametrize("call", [confidence_interval, lambda *a, **k: head_contrast(*a, layer_of_slice=[0] * 3, **k)])
def test_requests_that_make_no_sense_are_refused(call):
    g_a, g_b = gradients(1, 12), gradients(2, 12)
    iid = {"clusters_a": "iid", "clusters_b": "iid"}
    for level in (0, 1, -0.5, 95, np.nan):
        with pytest.raises(StatisticsError, match=r"expected a coverage between 0 and 1, such as 0\.95"):
            call(g_a, g_b, level=level, **iid)
    with pytest.raises(OptionError, match=r"^estimand='median' is not known"):
        call(g_a, g_b, estimand="median", **iid)
    with pytest.raises(StatisticsError, match="clusters of task B are not known"):
        call(g_a, g_b, clusters_a="iid", clusters_b=None)
    with pytest.raises(StatisticsError, match="task A has 1 independent clusters"):
        call(g_a, g_b, clusters_a=[0] * 12, clusters_b="iid")
    with pytest.raises(ShapeError, match="g_a 3, g_b 2 slices"):
        call(g_a, g_b[:, :2], **iid)
    with pytest.raises(NonFiniteError, match="sample 1 of g_b"):
        call(g_a, np.where(np.arange(12)[:, None, None] == 1, np.nan, g_b), **iid)
    with pytest.warns(StatisticsWarning, match="a task has 7 independent clusters; below 10") as caught:
        call(g_a[:7], g_b, **iid)
    assert len(caught) == 1


def test_other_options_are_refused():
    given = gradients(1, 12), gradients(2, 12)
    iid = {"clusters_a": "iid", "clusters_b": "iid"}
    with pytest.raises(OptionError, match=r"^method='bca' is not known"):
        confidence_interval(*given, method="bca", **iid)
    with pytest.raises(StatisticsError, match="n_draws=0; expected a positive int"):
        confidence_interval(*given, method="pigeonhole", seed=0, n_draws=0, **iid)
    with pytest.raises(OptionError, match=r"^adjust='sidak' is not known"):
        head_contrast(*given, layer_of_slice=[0] * 3, adjust="sidak", **iid)
    with pytest.raises(ShapeError, match="layer_of_slice has 2 entries; expected one for each of the 3 slices"):
        head_contrast(*given, layer_of_slice=[0] * 2, **iid)


@pytest.mark.parametrize("call", [confidence_interval, lambda *a, **k: head_contrast(*a, layer_of_slice=[0] * 3, **k)])
@pytest.mark.parametrize("side", ["a", "b"])
def test_what_is_refused_is_named(call, side):
    given = {"a": gradients(1, 12), "b": gradients(2, 12)}
    iid = {"clusters_a": "iid", "clusters_b": "iid"}
    with pytest.raises(ShapeError, match=rf"^g_{side} has shape \(7, 5\)"):
        call(*(given | {side: np.ones((7, 5))}).values(), **iid)
    with pytest.raises(StatisticsError, match=f"^clusters of task {side.upper()} are not known"):
        call(*given.values(), **(iid | {f"clusters_{side}": None}))


@pytest.mark.parametrize("count", [9, 10])
def test_few_clusters_are_warned_of_at_the_line_that_asked(count):
    given = gradients(1, count), gradients(2, 12)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        confidence_interval(*given, clusters_a="iid", clusters_b="iid")
        head_contrast(*given, clusters_a="iid", clusters_b="iid", layer_of_slice=[0] * 3)
    assert [one.filename for one in caught] == [__file__] * (2 if count < 10 else 0)
