"""Intervals, sizes of effects, reliability of maps and single samples."""

import numpy as np
from scipy import stats

from qkov import statistics
from qkov.statistics import (
    exchange,
    jackknife,
    pair_forms,
    splits,
)

from ... import statistics_loops as loops
from .registry import ESTIMANDS, LABELS_A, LABELS_B, LABELS_R, check, cluster_means, codes_of, gradients, read


def left_out(g_a, g_b, estimand):
    """Log scores of all, without each cluster of A, without each of B: gradients left out, F fitted again."""
    codes_a, codes_b = codes_of(LABELS_A), codes_of(LABELS_B)

    def scored(keep_a, keep_b):
        return np.log([loops.score(g_a[keep_a, one], g_b[keep_b, one], estimand) for one in range(g_a.shape[1])])

    every_a, every_b = codes_a >= 0, codes_b >= 0
    without_a = np.array([scored(codes_a != one, every_b) for one in range(codes_a.max() + 1)])
    without_b = np.array([scored(every_a, codes_b != one) for one in range(codes_b.max() + 1)])
    return scored(every_a, every_b), without_a, without_b


def spread(*sides):
    """Jackknife variance and Satterthwaite's degrees of freedom."""
    parts = [(len(one) - 1) / len(one) * ((one - one.mean(0)) ** 2).sum(0) for one in sides]
    return sum(parts), sum(parts) ** 2 / sum(part**2 / (len(one) - 1) for part, one in zip(parts, sides, strict=True))


@check("scores without a cluster")
def _left_out(compared):
    g_a, g_b = gradients(24, 7), gradients(25, 8)
    for estimand in ESTIMANDS:
        found = jackknife.leave_out(g_a, g_b, read(LABELS_A), read(LABELS_B), estimand)
        for one, other in zip(
            (found.full, found.without_a, found.without_b), left_out(g_a, g_b, estimand), strict=True
        ):
            compared.near(one, other)


@check("jackknife error")
def _jackknife(compared):
    generator = np.random.default_rng(26)
    full, a, b = generator.normal(size=3), generator.normal(size=(5, 3)), generator.normal(size=(8, 3)) * 0.1
    found = jackknife.LeftOut(full, a, b)
    for one, other in zip(found.error(), spread(a, b), strict=True):
        compared.near(one, other)
    compared.near(found.logs(), full - 4 * (a.mean(0) - full) - 7 * (b.mean(0) - full))


@check("jackknife interval")
def _interval(compared):
    g_a, g_b = gradients(24, 7), gradients(25, 8)
    full, a, b = left_out(g_a, g_b, "lift")
    found = statistics.confidence_interval(g_a, g_b, clusters_a=LABELS_A, clusters_b=LABELS_B, level=0.9)
    estimate = np.exp(full) - sum((len(x) - 1) * (np.exp(x).mean(0) - np.exp(full)) for x in (a, b))
    variance, dof = spread(a, b)
    half = stats.t.ppf(0.95, dof) * np.sqrt(variance)
    compared.near(found.estimate, estimate)
    compared.near(found.low, estimate * np.exp(-half))
    compared.near(found.high, estimate * np.exp(half))
    compared.near(found.df, dof)


@check("head against its layer")
def _contrast(compared):
    g_a, g_b = gradients(24, 7, 4), gradients(25, 8, 4)
    weights = np.array([[1, -0.5, -0.5, 0], [-0.5, 1, -0.5, 0], [-0.5, -0.5, 1, 0]])
    full, a, b = (part @ weights.T for part in left_out(g_a, g_b, "lift"))
    found = statistics.head_contrast(
        g_a, g_b, clusters_a=LABELS_A, clusters_b=LABELS_B, layer_of_slice=[0, 0, 0, 1], level=0.9
    )
    variance, dof = spread(a, b)
    compared.near(found.estimate[:3], full)
    compared.near(found.statistic[:3], full / np.sqrt(variance))
    compared.near(found.high[:3] - found.low[:3], 2 * stats.t.ppf(0.95, dof) * np.sqrt(variance))
    compared.near(found.p[:3], 2 * stats.t.sf(np.abs(full / np.sqrt(variance)), dof))
    compared.true(np.isnan([found.estimate[3], found.p[3], found.p_adjusted[3]]).all(), 3)


@check("bootstrap of both sides")
def _pigeonhole(compared):
    g_a, g_b = gradients(27, 7, 1), gradients(28, 8, 1)
    found = statistics.confidence_interval(
        g_a, g_b, clusters_a=LABELS_A, clusters_b=LABELS_B, method="pigeonhole", seed=3, n_draws=40, level=0.9
    )
    fisher = loops.fisher_of(loops.normalised(g_a[:, 0]) + loops.normalised(g_b[:, 0]))
    sides = []
    for stream, labels, grads in ((2, LABELS_A, g_a), (3, LABELS_B, g_b)):
        codes, count = codes_of(labels), len(set(labels))
        words = np.random.Philox(key=(stream << 64) + 3).random_raw(40 * count).tolist()
        picked = np.array([(word >> 32) * count >> 32 for word in words]).reshape(40, count)
        sides.append([np.concatenate([grads[codes == one, 0] for one in row]) for row in picked])
    values = [loops.score(one, other, "lift", fisher) for one, other in zip(*sides, strict=True)]
    compared.near([found.low[0], found.high[0]], np.quantile(values, [0.05, 0.95]))
    compared.near(found.estimate[0], loops.score(g_a[:, 0], g_b[:, 0], "lift"))


@check("size of an effect")
def _effect(compared):
    lifts = np.random.default_rng(29).normal(size=(14, 2))
    lifts[:3, 1] = lifts[7:10, 1] = 0.25  # ties
    a, r = read(LABELS_A), read(LABELS_R)
    found = statistics.effects.effect_of_lifts(lifts, a, r, level=0.9)
    x, y = cluster_means(lifts[:7], LABELS_A), cluster_means(lifts[7:], LABELS_R)
    interval = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.9)
    compared.near(found.ratio, np.exp(x.mean(0) - y.mean(0)))
    compared.near(found.low, np.exp(interval.low))
    compared.near(found.high, np.exp(interval.high))
    compared.near(found.superiority, stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)))


@check("halves")
def _halves(compared):
    halves = splits.draw_halves(7, 600, 1, 4)
    compared.near(halves.sum(1), np.full(600, 3))
    compared.true(np.abs(halves.mean(0) - 3 / 7).max() < 5 * np.sqrt(12 / 49 / 600), 7)
    compared.true((halves != splits.draw_halves(7, 600, 1, 5)).any())
    sums = np.random.default_rng(30).normal(size=(7, 6))
    expected = [np.corrcoef(sums[one].sum(0), sums[~one].sum(0))[0, 1] for one in halves[:9]]
    compared.near(splits.split_half(sums, halves[:9]), np.mean(expected))


@check("full length")
def _stepped_up(compared):
    # Two halves, each the truth plus noise of variance s: their correlation is 1 / (1 + s), that of the whole 1 / (1 + s / 2).
    for noise in (0.1, 1.0, 9.0):
        compared.near(splits.stepped_up(1 / (1 + noise)), 1 / (1 + noise / 2))
    compared.true(np.isnan(splits.stepped_up(-1.0)))


@check("reliability of a map")
def _reliability(compared):
    g_a, g_b, other = gradients(31, 7, 5), gradients(32, 8, 5), gradients(33, 6, 5)
    found = statistics.reliability(
        g_a, g_b, clusters_a=LABELS_A, clusters_b=LABELS_B, seed=3, g_other=other, n_splits=4
    )

    def map_of(one, two):
        return np.log([loops.score(one[:, slot], two[:, slot], "lift") for slot in range(5)])

    halves = [half_of(labels, stream) for labels, stream in ((LABELS_A, 6), (LABELS_B, 7))]
    half = np.mean(
        [np.corrcoef(map_of(g_a[x], g_b[y]), map_of(g_a[~x], g_b[~y]))[0, 1] for x, y in zip(*halves, strict=True)]
    )
    compared.near(found.half, half)
    compared.near(found.reliability, 2 * half / (1 + half))
    compared.near(found.norm_correlation, np.corrcoef(map_of(g_a, g_b), np.log(np.abs(g_b).sum(2).mean(0)))[0, 1])
    compared.near(found.swap_change, 1 - np.corrcoef(map_of(g_a, g_b), map_of(other, g_b))[0, 1])


def half_of(labels, stream, number=4, seed=3):
    """First halves of samples, from the published generator: the clusters with the smallest words."""
    codes = codes_of(labels)
    count = int(codes.max()) + 1
    words = np.random.Philox(key=(stream << 64) + seed).random_raw(number * count).reshape(number, count)
    return [np.isin(codes, np.argsort(row, kind="stable")[: count // 2]) for row in words]


@check("ceiling of likeness")
def _cross_within(compared):
    shared = np.exp(gradients(36, 1, 2, 6))  # both tasks sensitive to the same parameters, or no split half correlates
    g_a, g_b = gradients(34, 7, 2, 6) * shared, gradients(35, 8, 2, 6) * shared
    found = statistics.cross_within(g_a, g_b, clusters_a=LABELS_A, clusters_b=LABELS_B, seed=3, n_splits=4)
    for one in range(2):
        squares = [np.square(loops.normalised(grads[:, one])) for grads in (g_a, g_b)]
        kept = []
        for labels, stream, rows in ((LABELS_A, 4, squares[0]), (LABELS_B, 5, squares[1])):
            parts = half_of(labels, stream)
            r = np.mean([np.corrcoef(rows[x].sum(0), rows[~x].sum(0))[0, 1] for x in parts])
            kept.append(2 * r / (1 + r))
        similarity = np.corrcoef(squares[0].mean(0), squares[1].mean(0))[0, 1]
        compared.near(found.similarity[one], similarity)
        compared.near(found.ceiling[one], np.sqrt(kept[0] * kept[1]))


@check("single samples")
def _conformal(compared):
    generator = np.random.default_rng(37)
    scores_a, scores_r = generator.integers(0, 9, size=(4, 2)), generator.integers(0, 9, size=(40, 2))
    scores_a[0] = 20
    found = statistics.conformal_samples(scores_a, scores_r, q=0.2)
    expected = [[(1 + sum(r >= one for r in scores_r[:, k])) / 41 for k, one in enumerate(row)] for row in scores_a]
    compared.near(found.p, expected)
    compared.true((found.selected == (found.q <= 0.2)).all(), 8)
    compared.true(found.selected[0].all(), 2)


@check("likeness of diagonals")
def _alignment(compared):
    g_a, g_b = gradients(38, 6, 2, 6), gradients(39, 7, 2, 6)
    found = statistics.alignment_exploratory(g_a, g_b, seed=1, width=3, n_permutations=39)
    for one in range(2):
        logs = [
            np.log([np.mean([row[k] ** 2 for row in loops.normalised(grads[:, one])]) for k in range(6)])
            for grads in (g_a, g_b)
        ]
        compared.true(abs(found.correlation[one] - np.corrcoef(*logs)[0, 1]) < 1e-6)  # beside a damping of 1e-8
        words = np.random.Philox(key=(8 << 64) + 1).random_raw(39 * 3).reshape(39, 3)
        rows = [logs[1].reshape(3, 2)[np.argsort(row, kind="stable")].ravel() for row in words]
        null = [np.corrcoef(logs[0], row)[0, 1] for row in rows]
        compared.near(found.p_exploratory[one], loops.p_value(np.corrcoef(*logs)[0, 1], null))


@check("scale of the exchange test")
def _scale(compared):
    generator = np.random.default_rng(40)
    a, b = read(list(range(9))), read(list(range(9, 18)))
    test = exchange.Exchange(1, a, b, statistic="sym", n_permutations=50, seed=5)
    scores = generator.gamma(1.0, size=(18, 18))
    test.add(scores)
    found = test.result()
    words = np.random.Philox(key=(1 << 64) + 5).random_raw(512 * 18).reshape(512, 18)
    apart = [np.isin(np.arange(18), np.argsort(row, kind="stable")[:9]) for row in words]
    form = [loops.symmetric_on_grid(scores, list(range(18)), first) for first in (np.arange(18) < 9, *apart[:60])]
    every = pair_forms.PairForm.of(scores, np.arange(18)).sym(pair_forms.Labellings.of(np.array(apart), np.ones(18)))
    compared.near(every[:60], form[1:])
    compared.near(found.statistic, [(form[0] - every.mean()) / every.std()])
