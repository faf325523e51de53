"""Procedures that look like tests and are none: the negative controls of the calibration.

Each was proposed for maps of heads at some time. They are kept here, never in the product, so that every run shows them
failing on data sets on which ours hold: a calibration that could not tell the two apart would prove nothing.
:data:`WHY` says in a sentence what is wrong with each.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, stats

from qkov.statistics import relabelings, slices, source

ROWS_PERMUTED = "rows of the contributions permuted, then averaged"
PAIRS_Z = "z-test of the mean over pairs"
PAIRS_WELCH = "Welch's test over pairs"
FROZEN_FISHER = "labels permuted, Fisher kept from the observed A"
CLUSTERS_IGNORED = "samples permuted where clusters are the units"
MODEL_NORM = "each sample divided by its norm over the whole model, then slices tested"
CELL_CLUSTERS = "clusters of neighbouring sample indices above a threshold"
PAIRS_BOOTSTRAP = "bootstrap over pairs"
NORM_EFFECT = "effect size as half the distance of unit mean gradients"

WHY = {
    ROWS_PERMUTED: "the mean over all samples does not depend on their order: the null has no spread but that of rounding, "
    "and rounding decides the p value",
    PAIRS_Z: "the score is a sum of non-negative terms; that its mean is 0 was never in question, and every slice is "
    "significant",
    PAIRS_WELCH: "pairs that share a sample are not independent: n_A n_B numbers carry the information of n_A + n_B",
    FROZEN_FISHER: "the observed A is divided by its own Fisher and every relabelled A by that of another set, so the "
    "labels are not exchangeable",
    CLUSTERS_IGNORED: "samples of one document resemble each other; the units are the documents",
    MODEL_NORM: "shares of one norm are compositional: what grows in some slices shrinks in all others, which then count as "
    "discoveries",
    CELL_CLUSTERS: "sample indices have no neighbourhood; one loud sample is a whole row above the threshold, which shuffled "
    "cells never are",
    PAIRS_BOOTSTRAP: "resampling pairs repeats the same few samples; the interval is too narrow, and the more so the more "
    "samples there are",
    NORM_EFFECT: "equals sqrt((1 - cos) / 2): the cosine again, with no new information",
}


def rows_permuted(g_a, g_b, *, n_permutations, seed):
    """Permute the rows of A's contributions, then average the scores over all pairs, in float32.

    Args:
        g_a, g_b: ``[samples, slices, parameters]``.
        n_permutations: How many. seed: Of the permutations.

    Returns:
        Standard deviation of the null over the observed mean, ``[slices]``.
    """
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(g_a)) for _ in range(n_permutations)]
    spread = []
    for one_a, one_b in slices.by_slice(g_a=g_a, g_b=g_b):
        contributions = np.square(one_a).astype(np.float32)
        scaled = contributions / contributions.mean(0)
        moved = np.abs(one_b).astype(np.float32).mean(0)
        means = [float((scaled[order] @ moved).mean()) for order in orders]
        spread.append(np.std(means) / float((scaled @ moved).mean()))
    return np.array(spread)


def pairs_z(g_a, g_b):
    """Test that the mean score over pairs is 0, as if pairs were independent; p, ``[slices]``."""
    p = []
    for one_a, one_b in slices.by_slice(g_a=g_a, g_b=g_b):
        pairs = _pairs(one_a, one_b)
        p.append(stats.norm.sf(pairs.mean() / (pairs.std(ddof=1) / np.sqrt(pairs.size))))
    return np.array(p)


def pairs_welch(g_a, g_r, g_b):
    """Compare the scores of (A, B) with those of (R, B), as if pairs were independent; p, ``[slices]``."""
    p = []
    for one_a, one_r, one_b in slices.by_slice(g_a=g_a, g_r=g_r, g_b=g_b):
        pairs = _pairs(np.concatenate([one_a, one_r]), one_b)
        p.append(stats.ttest_ind(pairs[: len(one_a)].ravel(), pairs[len(one_a) :].ravel(), equal_var=False).pvalue)
    return np.array(p)


def frozen_fisher(g_a, g_r, g_b, *, n_permutations, seed):
    """Exchange the labels of A and R, but keep the Fisher diagonal of the observed A; two-sided p, ``[slices]``."""
    scores = []
    for one_a, one_r, one_b in slices.by_slice(g_a=g_a, g_r=g_r, g_b=g_b):
        squares = np.square(slices.unit(np.concatenate([one_a, one_r])))
        u = squares / slices.damped(squares[: len(one_a)].mean(0))
        scores.append(u @ np.abs(slices.unit(one_b)).mean(0))
    return _two_sided(np.array(scores).T, len(g_a), n_permutations, seed)


def model_norm(g_a, g_r, g_b, *, n_permutations, seed):
    """Divide every sample by its norm over all slices, then exchange labels slice by slice; two-sided p, ``[slices]``."""
    whole = [group / np.sqrt(np.square(group).sum((1, 2), keepdims=True)) for group in (g_a, g_r, g_b)]
    squares = np.square(np.concatenate(whole[:2]))
    v = np.abs(whole[2]).mean(0)
    scores = (squares / slices.damped(squares.mean(0)) * v).mean(2)
    return _two_sided(np.log(scores), len(g_a), n_permutations, seed)


def cell_clusters(g_a, g_b, *, n_permutations, seed):
    """Find connected cells of the matrix of pair scores above its 90th percentile, and test the largest cluster's mass.

    Args:
        g_a, g_b: ``[samples, slices, parameters]``.
        n_permutations: Matrices with their cells shuffled. seed: Of the shuffles.

    Returns:
        p of the largest cluster, ``[slices]``.
    """
    rng = np.random.default_rng(seed)
    p = []
    for one_a, one_b in slices.by_slice(g_a=g_a, g_b=g_b):
        contributions = np.square(one_a)
        pairs = (contributions / slices.damped(contributions.mean(0))) @ np.abs(one_b).T
        observed = _largest_mass(pairs)
        shuffled = [_largest_mass(rng.permutation(pairs.ravel()).reshape(pairs.shape)) for _ in range(n_permutations)]
        p.append((1 + sum(mass >= observed for mass in shuffled)) / (1 + n_permutations))
    return np.array(p)


def pairs_bootstrap(g_a, g_b, *, n_draws, seed):
    """Resample pairs with replacement; ends of the 95 % interval of the mean score, each ``[slices]``."""
    pairs = np.array([_pairs(*both).ravel() for both in slices.by_slice(g_a=g_a, g_b=g_b)]).T
    times = np.random.default_rng(seed).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=n_draws)
    low, high = np.quantile(times @ pairs / len(pairs), [0.025, 0.975], axis=0)
    return low, high


def norm_effect(g_a, g_b):
    """Return the effect size and what it equals, :math:`\\sqrt{(1 - \\cos) / 2}`, each ``[slices]``."""
    mean_a, mean_b = (slices.unit(group.mean(0)) for group in (g_a, g_b))
    cosine = (mean_a * mean_b).sum(1)
    return np.sqrt(np.square(mean_a - mean_b).sum(1)) / 2, np.sqrt((1 - cosine) / 2)


def _pairs(sources, target):
    """Scores of pairs as our tests take them, F pooled over all samples: only what is done with them is wrong here."""
    u, _ = slices.sensitivities(sources, target)
    return u @ np.abs(slices.unit(target)).T / sources.shape[1]


def _two_sided(values, num_a, n_permutations, seed):
    """Two-sided p of Welch's t under exchanged labels of single samples, ``[slices]``."""
    given = np.arange(len(values)) < num_a
    drawn = relabelings.draw(num_a, len(values) - num_a, n_permutations, seed)
    observed, null = source.welch(values, given[None])[0], source.welch(values, drawn.first)
    return (1 + (np.abs(null) >= np.abs(observed)).sum(0)) / (1 + len(null))


def _largest_mass(pairs):
    """Largest sum of scores over connected cells above the 90th percentile."""
    above = pairs > np.quantile(pairs, 0.9)
    marked, count = ndimage.label(above)
    return ndimage.sum_labels(pairs, marked, np.arange(1, count + 1)).max()
