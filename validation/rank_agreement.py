r"""How well one number per slice says what another one is: rank correlation, slope, R2, with errors from leaving clusters out.

Both numbers are means over samples of a task: the score over the samples that were collected, the real change over held-out
ones. The jackknife leaves out one cluster of either side at a time, which takes in that neighbouring slices share samples:

.. math:: V = \sum_{sides} \frac{G-1}{G} \sum_g (f_{-g} - \bar f)^2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Agreement:
    """A figure and its standard error."""

    value: float
    error: float


def codes_of(labels, num_samples):
    """Number the clusters of samples; every sample is its own without labels."""
    if labels is None:
        return np.arange(num_samples)
    return np.unique(np.array(labels, dtype=str), return_inverse=True)[1]


def means_without(rows, codes):
    """Means over samples without each cluster, ``[clusters, slices]``, of ``[samples, slices]``."""
    sums = np.zeros((codes.max() + 1, rows.shape[1]))
    np.add.at(sums, codes, rows)
    sizes = np.bincount(codes)[:, None]
    return (rows.sum(0) - sums) / (len(rows) - sizes)


def rank_correlation(scores, real):
    """Spearman's correlation of each row of ``scores`` with the same row of ``real``; rows broadcast, ``[rows]``."""
    ranks = (stats.rankdata(one, axis=-1) for one in np.broadcast_arrays(np.atleast_2d(scores), np.atleast_2d(real)))
    return _correlation(*ranks)


def _correlation(x, y):
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def slope(scores, real):
    """Least-squares slope of real on score, with an intercept, ``[rows]``."""
    x, y = np.broadcast_arrays(np.atleast_2d(scores), np.atleast_2d(real))
    x = x - x.mean(-1, keepdims=True)
    return (x * y).sum(-1) / (x * x).sum(-1)


def r_squared(scores, real):
    """Share of the variance of real that the least-squares line explains, ``[rows]``."""
    return _correlation(*np.broadcast_arrays(np.atleast_2d(scores), np.atleast_2d(real))) ** 2


def identity_r_squared(scores, real):
    """The same of the line real = score, which has nothing to fit; below 0 where the mean of real does better."""
    x, y = np.broadcast_arrays(np.atleast_2d(scores), np.atleast_2d(real))
    return 1 - ((y - x) ** 2).sum(-1) / ((y - y.mean(-1, keepdims=True)) ** 2).sum(-1)


def agree(figure, scores, codes_a, real, codes_held, slices=slice(None)):
    """Measure a figure between means of scores and means of real changes.

    Args:
        figure: One of the functions above.
        scores: ``[n_a, slices]``, or ``[1, slices]`` for what knows nothing of A's samples one by one.
        codes_a: Cluster of each sample of A. real: ``[held out, slices]``. codes_held: Their clusters.
        slices: Which slices to compare on.
    """
    scores, real = scores[:, slices], real[:, slices]
    mean_score, mean_real = scores.mean(0), real.mean(0)
    sides = [figure(mean_score, means_without(real, codes_held))]
    if len(scores) > 1:
        sides.append(figure(means_without(scores, codes_a), mean_real))
    variance = sum((len(f) - 1) / len(f) * ((f - f.mean()) ** 2).sum() for f in sides)
    return Agreement(float(figure(mean_score, mean_real)[0]), float(variance**0.5))
