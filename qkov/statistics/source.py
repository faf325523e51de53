r"""Is task A a source of what task B changes more than a reference task R is? The test behind a claim of interference.

A and R change names while B stays: exactly the comparison that the claim needs. Two tasks alone cannot tell interference
from being different, see :mod:`qkov.statistics.exchange`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formula import require_choice
from . import head_result, relabelings, slices
from .clusters import read_clusters, require_disjoint

if TYPE_CHECKING:
    from ..option_types import Slices
    from .clusters import Clusters
    from .head_result import HeadTest


FLOOR = 1e-12
"""Smallest squared error of Welch's t, in units of the variance of all values."""


def test_source(
    g_a: Slices,
    g_r: Slices,
    g_b: Slices,
    *,
    clusters_a: Sequence[Any] | str | None,
    clusters_r: Sequence[Any] | str | None,
    n_permutations: int | None = None,
    seed: int,
    alternative: str = "greater",
) -> HeadTest:
    r"""Test for every slice whether A's sensitive parameters are B's more than those of R are.

    .. math:: T = \frac{\bar x_A - \bar x_R}{\sqrt{s_A^2 / G_A + s_R^2 / G_R}}, \quad
              x = \text{cluster means of } \log lift_i

    with :math:`lift_i` of :func:`qkov.statistics.slices.log_lifts`, F pooled over A and R. Clusters of A and R change
    labels; B stays. p values are those of :func:`qkov.statistics.multiplicity.permutation_p`.

    Args:
        g_a, g_r, g_b: Gradients of task A, of the reference task and of task B: ``[samples, slices, parameters]``, or a
            list of ``[samples, parameters]`` where slices differ in size. K and V: one slice per kv head.
        clusters_a, clusters_r: One label per sample, or "iid" if samples are independent.
        n_permutations: Relabelings; by default as many as a rejection by BH needs twice over, and at least 9,999. All
            of them where no more exist.
        seed: Of the relabelings, a non-negative int.
        alternative: "greater" (A more than R), "less" or "two-sided".

    Returns:
        :class:`~qkov.statistics.head_result.HeadTest`; ``effect`` is the ratio of geometric mean lifts, A to R.

    Raises:
        StatisticsError: Without clusters, with fewer than two per task, with a cluster in both tasks, or without a seed.
        ShapeError, NonFiniteError: For gradients that do not belong together or are not numbers.
    """
    require_choice("alternative", alternative, head_result.ALTERNATIVES)
    seed = relabelings.checked_seed(seed)
    a = read_clusters(clusters_a, slices.num_samples("g_a", g_a), "task A")
    r = read_clusters(clusters_r, slices.num_samples("g_r", g_r), "the reference task")
    require_disjoint(a, r, "task A", "the reference task")
    lifts = np.column_stack([
        slices.log_lifts(np.concatenate([one_a, one_r]), one_b)
        for one_a, one_r, one_b in slices.by_slice(g_a=g_a, g_r=g_r, g_b=g_b)
    ])  # fmt: skip
    return from_lifts(lifts, a, r, n_permutations=n_permutations, seed=seed, alternative=alternative)


test_source.__test__ = False  # type: ignore[attr-defined]  # pytest collects functions by name


def from_lifts(
    lifts: np.ndarray, a: Clusters, r: Clusters, *, n_permutations: int | None, seed: int, alternative: str
) -> HeadTest:
    """Test scores that are there already.

    Args:
        lifts: :math:`\\log lift_i`, ``[samples of A and then of R, slices]``.
        a, r: Their :class:`~qkov.statistics.clusters.Clusters`.
        n_permutations, seed, alternative: As for :func:`test_source`.
    """
    count = len(a.codes)
    means = np.concatenate([a.means(lifts[:count]), r.means(lifts[count:])])
    number = relabelings.default_number(lifts.shape[1]) if n_permutations is None else n_permutations
    drawn = relabelings.draw(a.number, r.number, number, seed)
    given = np.arange(len(means)) < a.number
    observed = welch(means, given[None])[0]
    null = welch(means, drawn.first)
    return head_result.assemble(
        observed,
        np.exp(means[: a.number].mean(0) - means[a.number :].mean(0)),
        null,
        drawn,
        alternative=alternative,
        symmetric=alternative == "two-sided" and a.number == r.number,
        seed=seed,
        null_statement="A and R are exchangeable as sources of what B changes",
        claim=_CLAIMS[alternative],
        effect_name="ratio of geometric mean lifts, A to R",
        unit="clusters" if a.labels or r.labels else "samples, taken as independent",
    )


_CLAIMS = {
    "greater": "A's sensitive parameters coincide with what B changes more than those of R do",
    "less": "A's sensitive parameters coincide with what B changes less than those of R do",
    "two-sided": "A's sensitive parameters coincide with what B changes more, or less, than those of R do",
}


def welch(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    r"""Return Welch's t of every column for every labelling.

    Args:
        values: ``[clusters, slices]``.
        first: bool ``[labellings, clusters]``; both sides have at least two clusters.

    Returns:
        ``[labellings, slices]``; NaN where a value is NaN or all are equal but for rounding: values are logarithms, for
        which 1 is the unit.
    """
    # Centred, so that no digits are lost in the sums of squares; t does not depend on it.
    centred = values - values.mean(0)
    spread = np.sqrt(np.square(centred).mean(0))
    centred = centred / np.where(spread > 1e-12 * (1 + np.abs(values).max(0)), spread, np.nan)
    first = first.astype(np.float64)
    n_first = first.sum(1)[:, None]
    n_second = len(values) - n_first
    sums, squares = first @ centred, first @ np.square(centred)
    mean_first, mean_second = sums / n_first, (centred.sum(0) - sums) / n_second
    var_first = (squares - n_first * mean_first**2) / (n_first - 1)
    var_second = (np.square(centred).sum(0) - squares - n_second * mean_second**2) / (n_second - 1)
    # Where neither side has any spread (values in ties), what is left is rounding, of either sign and about 1e-16: bounded
    # below by more than that, or equal labellings would differ.
    error = np.maximum(var_first / n_first + var_second / n_second, FLOOR)
    return (mean_first - mean_second) / np.sqrt(error)
