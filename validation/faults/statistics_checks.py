"""What every function of :mod:`qkov.statistics` must return, by routes that share no code with it.

Each check takes a moment: loops in float64, closed forms, SciPy, and whole numbers that were written down once. They stand
beside the studies (:mod:`validation.statistics_evidence`), which ask whether the tests keep their level; these ask whether
the code is the formula. Each is named "statistics: ..." in the evidence.
"""

import itertools
import time
import warnings

import numpy as np
from scipy import stats

from qkov import statistics
from qkov.checks import CheckResult, Comparison
from qkov.errors import StatisticsError
from qkov.statistics import (
    cluster_mass,
    exchange,
    jackknife,
    multiplicity,
    pair_forms,
    relabelings,
    slices,
    source,
    splits,
)
from qkov.statistics import clusters as clusters_module
from qkov.statistics import head_result as results

from .. import statistics_loops as loops

MODEL = "drawn gradients"
CHECKS = {}  # name -> function returning a Comparison
BOUND = 1e-9  # rounding of sums of some hundred terms, relative to the largest; the loops add up exactly

LABELS_A, LABELS_B, LABELS_R = list("aabcced"), list("vwwxyyyz"), list("kllmmno")
ESTIMANDS = ("lift", "mean")


def check(name):
    """Register a check."""

    def register(function):
        CHECKS[f"statistics: {name}"] = function
        return function

    return register


def run_check(name):
    """Run one check; whatever breaks in it is a failure, told by its message."""
    started, model = time.perf_counter(), MODEL
    compared = Comparison()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the data are deliberately few
            CHECKS[name](compared)
    except Exception as error:  # noqa: BLE001  # told as failed with its message, whatever a wrong implementation breaks
        seconds = time.perf_counter() - started
        return CheckResult(name, model, "failed", None, None, 0, seconds, f"{type(error).__name__}: {error}")
    measured = compared.measurement(BOUND)
    status = "passed" if measured.passed else "failed"
    reason = "" if measured.passed else "the error exceeds the bound" if measured.compared else "nothing was compared"
    seconds = time.perf_counter() - started
    return CheckResult(name, model, status, measured.error, measured.bound, measured.compared, seconds, reason)


def gradients(seed, samples, num_slices=3, parameters=5):
    """Normal gradients, ``[samples, slices, parameters]``."""
    return np.random.default_rng(seed).normal(size=(samples, num_slices, parameters))


def codes_of(labels):
    """Number of each label in the order of first appearance."""
    names = list(dict.fromkeys(labels))
    return np.array([names.index(one) for one in labels])


def read(labels):
    """Labels as the package reads them."""
    return clusters_module.read_clusters(labels, len(labels), "the task")


def cluster_means(values, labels):
    """Means of rows within clusters, by a loop."""
    codes = codes_of(labels)
    return np.array(
        [
            np.mean([row for row, of in zip(values, codes, strict=True) if of == one], axis=0)
            for one in range(max(codes) + 1)
        ]
    )


def all_labellings(num_first, total):
    """Every way to call some clusters first, the given one first of all."""
    return [np.isin(np.arange(total), chosen) for chosen in itertools.combinations(range(total), num_first)]


# --- what everything is computed from


@check("lifts")
def _lifts(compared):
    sources, target = gradients(1, 9), gradients(2, 5)
    for one in range(3):
        compared.near(
            slices.log_lifts(sources[:, one], target[:, one]), loops.log_lifts(sources[:, one], target[:, one])
        )


@check("pair scores")
def _pair_scores(compared):
    grads = gradients(3, 8)[:, 0]
    compared.near(slices.pair_scores(grads), loops.pair_scores(grads))


@check("rescaled samples")
def _rescaled(compared):
    sources, target = gradients(4, 6)[:, 0], gradients(5, 5)[:, 0]
    factors = np.array([1e-200, 1e200, 1.0, 1e-3, 7.0, 1e100])[:, None]
    compared.near(slices.log_lifts(sources * factors, target), slices.log_lifts(sources, target), 1.0)
    compared.near(slices.log_lifts(sources, target * factors[:5]), slices.log_lifts(sources, target), 1.0)


@check("relative damping")
def _damping(compared):
    fisher = np.array([1e-30, 3e-30, 0.0, 2e-30])
    for scale in (1.0, 2.0**60, 2.0**-60):
        compared.near(slices.damped(fisher * scale), fisher * scale + 1e-8 * np.mean(fisher * scale))


@check("samples without a gradient")
def _dead(compared):
    grads, target = gradients(6, 5)[:, 0], gradients(7, 4)[:, 0]
    grads[2] = 0.0
    found, pairs = slices.log_lifts(grads, target), slices.pair_scores(grads)
    compared.true(np.isnan(found).tolist() == [False, False, True, False, False], 5)
    dead = np.arange(5) == 2
    compared.true((np.isnan(pairs) == (dead[:, None] | dead[None])).all(), 25)
    compared.true(np.isnan(slices.log(np.array([0.0, -1.0]))).all(), 2)


@check("order of the tasks")
def _swapped(compared):
    a, b = gradients(8, 6), gradients(9, 7)
    there, back = slices.sensitivities(a[:, 0], b[:, 0]), slices.sensitivities(b[:, 0], a[:, 0])[::-1]
    for one, other in zip(there, back, strict=True):
        compared.near(one, other)


# --- units


@check("clusters")
def _clusters(compared):
    labels, values = list("bcabbc"), np.arange(12.0).reshape(6, 2) ** 2
    found = read(labels)
    compared.near(found.codes, codes_of(labels))
    compared.true((found.number, found.labels) == (3, ("b", "c", "a")))
    compared.near(found.sizes, [3, 2, 1])
    compared.near(found.means(values), cluster_means(values, labels))
    compared.near(found.sums(values), cluster_means(values, labels) * np.array([3, 2, 1])[:, None])


@check("tasks of different clusters")
def _disjoint(compared):
    a, b = gradients(10, 7), gradients(11, 8)
    for function in (statistics.test_exchange, statistics.cross_within):
        try:
            function(a, b, clusters_a=LABELS_A, clusters_b=list("aavvwxyz"), seed=1)
        except StatisticsError as error:
            compared.true("'a'" in str(error))
        else:
            compared.true(False)


# --- relabelings


@check("words of the generator")
def _words(compared):
    golden = {
        (7, 0): [16086915834549238692, 5448529601018347655, 7749434361382612120],
        (2**63 + 1, 3): [1011920913876302278, 3442061329412027241, 17768566469525914309],
    }
    for (seed, stream), words in golden.items():
        found = relabelings.raw_words(1, 3, seed, stream)[0].tolist()
        compared.true(found == words, 3)


@check("relabelings")
def _relabelings(compared):
    drawn = relabelings.draw(5, 6, 400, 1)
    compared.true((drawn.first.shape, drawn.num_distinct, drawn.exhaustive) == ((400, 11), 462, False))
    compared.near(drawn.first.sum(1), np.full(400, 5))
    compared.true(np.abs(drawn.first.mean(0) - 5 / 11).max() < 5 * np.sqrt(5 / 11 * 6 / 11 / 400), 11)
    compared.true((drawn.first != relabelings.draw(5, 6, 400, 2).first).any())
    compared.true((drawn.first != relabelings.draw_apart(5, 6, 400, 1)).any())
    listed = relabelings.draw(2, 3, 99, 1)
    compared.true((listed.num_distinct, listed.exhaustive) == (10, True))
    compared.near(listed.first, all_labellings(2, 5)[1:])


@check("number of relabelings")
def _default(compared):
    for num_slices, expected in ((1, 9999), (249, 9999), (250, 10000), (576, 23040)):
        compared.true(relabelings.default_number(num_slices) == expected)


# --- p values


@check("ties")
def _ties(compared):
    null = np.array([[1.0], [2.0], [3.0], [3.0 + 4e-11], [3.0 - 4e-11], [2.9]])
    compared.near(multiplicity.permutation_p(np.array([3.0]), null), [4 / 7])
    rounding = np.array([[1e-17], [-1e-17], [0.5]])
    compared.near(multiplicity.permutation_p(np.array([0.0]), rounding), [1.0])


@check("permutation p")
def _permutation_p(compared):
    null = np.random.default_rng(12).normal(size=(60, 4))
    observed = np.array([null[5, 0], 9.0, -9.0, 0.3])
    expected = [loops.p_value(value, null[:, one]) for one, value in enumerate(observed)]
    compared.near(multiplicity.permutation_p(observed, null), expected)
    compared.true(np.isnan(multiplicity.permutation_p(np.array([np.nan]), null[:, :1])[0]))


@check("step-down")
def _step_down(compared):
    generator = np.random.default_rng(13)
    for _ in range(4):
        null, observed = generator.normal(size=(80, 6)), np.sort(generator.normal(size=6)) * 2.0
        compared.near(multiplicity.step_down(observed, null), loops.step_down(observed, null))


@check("many hypotheses")
def _adjust(compared):
    p = np.array([0.02, 0.5, 0.001, 0.04, 0.02, 1.0])
    order = np.argsort(p, kind="stable")
    rank, n = np.arange(1, 7), 6
    raw = {
        "fdr_bh": p[order] * n / rank,
        "fdr_by": p[order] * n / rank * np.sum(1.0 / rank),
        "holm": p[order] * (n + 1 - rank),
        "bonferroni": p[order] * n,
    }
    for method, values in raw.items():
        steps = np.minimum.accumulate(values[::-1])[::-1] if method.startswith("fdr") else np.maximum.accumulate(values)
        expected = np.empty(n)
        expected[order] = np.minimum(steps if method != "bonferroni" else values, 1)
        compared.near(multiplicity.adjust(p, method), expected)


@check("smallest p")
def _smallest_p(compared):
    for symmetric, expected in ((True, 0.1), (False, 0.05)):
        drawn = relabelings.draw(3, 3, 99, 1)
        compared.near(results.smallest_p(drawn, symmetric=symmetric), expected)
    compared.near(results.smallest_p(relabelings.draw(9, 9, 99, 1), symmetric=True), 0.01)


# --- tests of slices


@check("Welch's t")
def _welch(compared):
    values = np.random.default_rng(14).normal(size=(9, 3)) * [1.0, 100.0, 1e-6]
    for first in all_labellings(4, 9)[:20]:
        expected = stats.ttest_ind(values[first], values[~first], equal_var=False).statistic
        compared.near(source.welch(values, first[None])[0], expected)
    even = np.array([[0.1], [0.1], [0.1], [0.4], [0.4], [0.4]])
    given, mirrored = (
        source.welch(even, np.array([first]))[0, 0] for first in ([1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1])
    )
    compared.true(np.isfinite(given) and given == -mirrored)
    shifted = source.welch(even + 0.2, np.array([[1, 1, 1, 0, 0, 0]], dtype=bool))[0, 0]
    compared.near(shifted, given)


@check("source test")
def _source(compared):
    a, r, b = gradients(15, 7), gradients(16, 7), gradients(17, 6)
    labels = {"clusters_a": LABELS_A, "clusters_r": LABELS_R}
    columns = [loops.log_lifts(np.concatenate([a[:, one], r[:, one]]), b[:, one]) for one in range(3)]
    means = np.concatenate([cluster_means(np.array(columns).T[part], of) for part, of in (
        (slice(0, 7), LABELS_A), (slice(7, 14), LABELS_R))])  # fmt: skip
    t = np.array([stats.ttest_ind(means[one], means[~one], equal_var=False).statistic for one in all_labellings(5, 10)])
    for alternative, turned in (("greater", t), ("less", -t), ("two-sided", np.abs(t))):
        found = statistics.test_source(a, r, b, **labels, n_permutations=999, seed=1, alternative=alternative)
        compared.near(found.statistic, t[0])
        compared.near(found.p, [loops.p_value(turned[0, one], turned[1:, one]) for one in range(3)])
        compared.near(found.p_maxt, loops.step_down(turned[0], turned[1:]))
        compared.near(found.effect, np.exp(means[:5].mean(0) - means[5:].mean(0)))
        compared.near(found.min_p, (1 + (alternative == "two-sided")) / 252)


@check("false discovery rate of a test")
def _q_of_a_test(compared):
    a, r, b = gradients(15, 7), gradients(16, 7), gradients(17, 6)
    found = statistics.test_source(a, r, b, clusters_a=LABELS_A, clusters_r=LABELS_R, n_permutations=199, seed=1)
    order = np.argsort(found.p, kind="stable")
    steps = np.minimum.accumulate((found.p[order] * 3 / np.arange(1, 4))[::-1])[::-1]
    expected = np.empty(3)
    expected[order] = np.minimum(steps, 1)
    compared.near(found.q_bh, expected)


@check("sums over pairs")
def _pair_forms(compared):
    codes = codes_of(list("aabbbcde"))
    scores = np.random.default_rng(18).gamma(1.0, size=(8, 8))
    firsts = [first for number in (2, 3) for first in all_labellings(number, 5)]
    form = pair_forms.PairForm.of(scores, codes)
    counted = pair_forms.Labellings.of(np.array(firsts), np.bincount(codes))
    exact = [loops.symmetric_on_grid(scores, codes.tolist(), first) for first in firsts]
    leaning = [loops.leaning_on_grid(scores, codes.tolist(), first) for first in firsts]
    compared.true(np.array_equal(form.sym(counted), exact), len(exact))
    compared.true(np.array_equal(form.asym(counted), leaning), len(leaning))
    means = [loops.pair_means(scores, codes.tolist(), first) for first in firsts]
    close = np.array([one["AA"] + one["BB"] - one["AB"] - one["BA"] for one in means])
    compared.true(np.abs(form.sym(counted) - close).max() < 1e-5 * np.abs(close).max(), len(close))


@check("exchange test")
def _exchange(compared):
    a, b = gradients(19, 7, 2), gradients(20, 8, 2)
    codes = np.concatenate([codes_of(LABELS_A), 5 + codes_of(LABELS_B)])
    firsts = all_labellings(5, 10)
    for statistic, loop in (("sym", loops.symmetric_on_grid), ("asym", loops.leaning_on_grid)):
        found = statistics.test_exchange(
            a, b, clusters_a=LABELS_A, clusters_b=LABELS_B, statistic=statistic, n_permutations=999, seed=1
        )
        for one in range(2):
            scores = np.array(loops.pair_scores(np.concatenate([a[:, one], b[:, one]])))
            values = np.array([loop(scores, codes.tolist(), first) for first in firsts])
            values = (values - (values.mean() if statistic == "sym" else 0.0)) / (
                values.std() if statistic == "sym" else np.sqrt(np.mean(values**2))
            )
            turned = values if statistic == "sym" else np.abs(values)
            compared.near(found.statistic[one], values[0])
            compared.near(found.p[one], loops.p_value(turned[0], turned[1:]))
            means = loops.pair_means(scores, codes.tolist(), firsts[0])
            effect = np.log(means["AB"] / means["BA"]) if statistic == "asym" else np.log(
                (means["AB"] + means["BA"]) / 2 / np.sqrt(means["AA"] * means["BB"]))  # fmt: skip
            compared.near(found.effect[one], effect)


@check("tests of layers")
def _layers(compared):
    a, r, b = gradients(21, 7, 5), gradients(22, 7, 5), gradients(23, 6, 5)
    of_layer = np.array([0, 1, 0, 1, 1])
    for alternative, turn in (("greater", np.asarray), ("less", np.negative), ("two-sided", np.abs)):
        heads = statistics.test_source(
            a, r, b, clusters_a=LABELS_A, clusters_r=LABELS_R, n_permutations=99, seed=1, alternative=alternative
        )
        found = statistics.test_layers(heads, of_layer)
        observed = np.array([turn(heads.statistic)[of_layer == one].mean() for one in (0, 1)])
        null = np.array([turn(heads.null)[:, of_layer == one].mean(1) for one in (0, 1)]).T
        compared.near(found.statistic, observed)
        compared.near(found.p, [loops.p_value(observed[one], null[:, one]) for one in (0, 1)])
        compared.near(found.p_maxt, loops.step_down(observed, null))


@check("stretches of layers")
def _cluster_mass(compared):
    of_layer = np.array([0, 0, 1, 2, 4, 5, 7])
    rows = np.array([[3, 1, 4, 0, 5, 2.5, 6], [0, 0, 3, 3, 3, 0, 3], [0, 0, 0, 0, 0, 0, 0], [9, 9, 0, 9, 0, 9, 9.0]])
    component, masses = cluster_mass.components(rows, of_layer, 2.0)
    for row, values in zip(component, rows, strict=True):
        mass = {layer: float(values[(of_layer == layer) & (values > 2)].sum()) for layer in (0, 1, 2, 4, 5, 7)}
        runs = []
        for layer in sorted(mass):
            joined = runs and layer == runs[-1][-1] + 1 and mass[layer] and mass[runs[-1][-1]]
            runs[-1].append(layer) if joined else runs.append([layer])
        expected = [sum(mass[layer] for layer in run) for run in runs for _ in run]
        compared.near(masses[row], expected, 1.0)
        compared.true(len(set(row.tolist())) == len(runs))


# --- scores with errors


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


# --- sizes of effects, maps, single samples


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
