"""Many slices at once: false discovery rate, family-wise error, and p values from relabelings."""

from __future__ import annotations

import numpy as np

from ..errors import OptionError, StatisticsError

TIES = 1e-10
"""Two values closer than this, relative to the larger (statistics also: absolutely), count as equal."""

METHODS = ("fdr_bh", "fdr_by", "holm", "bonferroni")


def adjust(p: np.ndarray, method: str = "fdr_bh") -> np.ndarray:
    """Adjust p values for the number of hypotheses, as ``statsmodels.stats.multitest.multipletests`` does.

    Args:
        p: Any shape; NaN is no hypothesis and stays NaN.
        method: "fdr_bh" (Benjamini-Hochberg), "fdr_by" (under any dependence), "holm" or "bonferroni".

    Returns:
        Adjusted p values (q values for the first two) in the shape of ``p``.

    Raises:
        OptionError: If the method is none of these.
        StatisticsError: If a p value lies outside of [0, 1].
    """
    from statsmodels.stats.multitest import multipletests

    if method not in METHODS:
        raise OptionError(f"method={method!r} is not known; expected one of {', '.join(map(repr, METHODS))}.")
    p = np.asarray(p, dtype=np.float64)
    known = ~np.isnan(p)
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise StatisticsError("p values lie outside of [0, 1].")
    adjusted = np.full(p.shape, np.nan)
    if known.any():
        # Its Holm collects garbage on every call, a third of a second beside a large heap: hence our own.
        adjusted[known] = _holm(p[known]) if method == "holm" else multipletests(p[known], method=method)[1]
    return adjusted


def _holm(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def reaches(values: np.ndarray, observed: float, *, unit: float = 0.0) -> np.ndarray:
    """Tell which values are at least the observed one, ties counted.

    Args:
        values, observed: What to compare.
        unit: Size of a common value: 1 for statistics in units of their own error. Two that would be 0 but for rounding
            are then equal, which they are not relative to each other.
    """
    return values >= observed - TIES * np.maximum(np.maximum(np.abs(observed), np.abs(values)), unit)


def exceedances(null: np.ndarray, observed: float) -> int:
    """Count statistics under relabelings that are at least the observed one."""
    return int(reaches(null, observed, unit=1.0).sum())


def permutation_p(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    r"""Return :math:`p = (1 + \#\{T^* \ge T\}) / (1 + P)`: never 0, as the given labelling is one of the relabelings.

    Args:
        observed: ``[slices]``, in units of its own error; NaN gives NaN.
        null: ``[relabelings, slices]``.
    """
    counts = [exceedances(null[:, one], value) for one, value in enumerate(observed)]
    return np.where(np.isnan(observed), np.nan, (1 + np.array(counts, dtype=np.float64)) / (1 + len(null)))


def step_down(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    r"""Return family-wise p values by step-down max-T (Westfall and Young 1993, algorithm 4.1).

    Slices in the order of their statistics; each is compared with the largest null value among itself and all slices
    behind it, and no p value is below that of a slice before it.

    Args:
        observed: ``[slices]``, comparable between slices; NaN is no hypothesis and gives NaN.
        null: ``[relabelings, slices]``, the same relabelings for all.
    """
    p = np.full(observed.shape, np.nan)
    known = np.where(~np.isnan(observed))[0]
    order = known[np.argsort(-observed[known], kind="stable")]
    largest, counts = np.full(len(null), -np.inf), []
    for one in order[::-1]:
        largest = np.maximum(largest, null[:, one])
        counts.append(exceedances(largest, observed[one]))
    p[order] = np.maximum.accumulate((1 + np.array(counts[::-1], dtype=np.float64)) / (1 + len(null)))
    return p
