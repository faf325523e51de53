"""Halves of a task: random splits of its clusters, and how far what one half says is what the other says."""

from __future__ import annotations

import numpy as np

from . import relabelings


def draw_halves(num_clusters: int, number: int, seed: int, stream: int) -> np.ndarray:
    """Draw splits into halves (the first one smaller by one where the number is odd), bool ``[number, clusters]``."""
    number = relabelings.checked_number(number, "n_splits")
    words = relabelings.raw_words(number, num_clusters, relabelings.checked_seed(seed), stream)
    first = np.zeros(words.shape, dtype=bool)
    np.put_along_axis(first, np.argsort(words, axis=1, kind="stable")[:, : num_clusters // 2], True, axis=1)
    return first


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of two vectors; NaN where one of them is constant."""
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt((one @ one) * (other @ other))
    return one @ other / scale if scale > 0 else np.nan


def split_half(sums: np.ndarray, halves: np.ndarray) -> float:
    """Correlate the sums of the halves of ``[clusters, features]``, averaged over splits ``[splits, clusters]``."""
    first = halves.astype(np.float64) @ sums
    return float(np.mean([correlation(one, other) for one, other in zip(first, sums.sum(0) - first, strict=True)]))


def stepped_up(r: float) -> float:
    r"""Return the reliability of the whole from the correlation of its halves, :math:`2 r / (1 + r)` (Spearman-Brown).

    NaN at -1.
    """
    return 2 * r / (1 + r) if r > -1 else np.nan
