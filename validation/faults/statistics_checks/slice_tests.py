"""Tests of slices and of layers, against every relabelling there is."""

import numpy as np
from scipy import stats

from qkov import statistics
from qkov.statistics import (
    cluster_mass,
    pair_forms,
    source,
)

from ... import statistics_loops as loops
from .registry import LABELS_A, LABELS_R, all_labellings, check, cluster_means, codes_of, gradients

FOUR_A, FOUR_B, FOUR_R = list("aabccdb"), list("vwwxyyyx"), list("kllmmnk")  # few, so that all relabelings are tried


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
    labels = {"clusters_a": FOUR_A, "clusters_r": FOUR_R}
    columns = [loops.log_lifts(np.concatenate([a[:, one], r[:, one]]), b[:, one]) for one in range(3)]
    means = np.concatenate([cluster_means(np.array(columns).T[part], of) for part, of in (
        (slice(0, 7), FOUR_A), (slice(7, 14), FOUR_R))])  # fmt: skip
    t = np.array([stats.ttest_ind(means[one], means[~one], equal_var=False).statistic for one in all_labellings(4, 8)])
    for alternative, turned in (("greater", t), ("less", -t), ("two-sided", np.abs(t))):
        found = statistics.test_source(a, r, b, **labels, n_permutations=999, seed=1, alternative=alternative)
        compared.near(found.statistic, t[0])
        compared.near(found.p, [loops.p_value(turned[0, one], turned[1:, one]) for one in range(3)])
        compared.near(found.p_maxt, loops.step_down(turned[0], turned[1:]))
        compared.near(found.effect, np.exp(means[:4].mean(0) - means[4:].mean(0)))
        compared.near(found.min_p, (1 + (alternative == "two-sided")) / 70)


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
    codes = np.concatenate([codes_of(FOUR_A), 4 + codes_of(FOUR_B)])
    firsts = all_labellings(4, 8)
    for statistic, loop in (("sym", loops.symmetric_on_grid), ("asym", loops.leaning_on_grid)):
        found = statistics.test_exchange(
            a, b, clusters_a=FOUR_A, clusters_b=FOUR_B, statistic=statistic, n_permutations=999, seed=1
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
