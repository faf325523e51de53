"""Scores, units, relabelings and p values: what every test is computed from."""

import numpy as np

from qkov import statistics
from qkov.errors import StatisticsError
from qkov.statistics import head_result as results
from qkov.statistics import multiplicity, relabelings, slices

from ... import statistics_loops as loops
from .registry import LABELS_A, all_labellings, check, cluster_means, codes_of, gradients, read


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
        known = np.array([True, False, True, True, False, True])
        found = multiplicity.step_down(np.where(known, observed, np.nan), null)
        compared.near(found[known], loops.step_down(observed[known], null[:, known]))
        compared.true(np.isnan(found[~known]).all(), 2)


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
