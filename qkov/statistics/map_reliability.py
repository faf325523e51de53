r"""Is a map of heads stable, and is it about the two tasks? The two questions are apart, and a map must pass both.

The seeds' averaged heatmap is stable (reliability .98) and says nothing about task A: it is the L1 norm of B's gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ShapeError
from ..formula import require_choice
from . import jackknife, slices, splits
from .clusters import read_clusters


@dataclass(frozen=True)
class Reliability:
    """How stable a map over slices is, and what it is about.

    Attributes:
        reliability: Correlation over slices of the log maps of two halves of both tasks' clusters, averaged over splits
            and stepped up to the full number of samples.
        half: The same before it is stepped up.
        norm_correlation: Correlation over slices of the log map with the log L1 norm of B's mean gradient: near 1 or -1,
            the map mostly shows where B's gradient is large.
        swap_change: 1 minus the correlation over slices of the map with that of another task in A's place: near 0, the map
            is not about A. None without another task.
        num_slices: Slices that entered.
        estimand: "mean", "lift" or "marginal".
    """

    reliability: float
    half: float
    norm_correlation: float
    swap_change: float | None
    num_slices: int
    estimand: str


ESTIMANDS = (*jackknife.ESTIMANDS, "marginal")


def reliability(g_a, g_b, *, clusters_a, clusters_b, seed, g_other=None, estimand="lift", n_splits=100):
    r"""Measure reliability and validity of a map of slices.

    Args:
        g_a, g_b: Gradients of both tasks, ``[samples, slices, parameters]``, or a list of ``[samples, parameters]``.
        clusters_a, clusters_b: One label per sample, or "iid"; at least four clusters per task.
        seed: Of the splits.
        g_other: Gradients of a third task, put in A's place for ``swap_change``.
        estimand: "lift" or "mean", see :func:`qkov.statistics.jackknife.leave_out`, or "marginal": the seeds' averaged
            heatmap, the L1 norm of B's gradients, as a control that is reliable and not valid.
        n_splits: Random splits of the clusters into halves.

    Returns:
        :class:`Reliability`.

    Raises:
        ShapeError: With fewer than three slices in which every sample has a gradient.
        StatisticsError, OptionError, NonFiniteError: For clusters, options and gradients that make no sense.
    """
    require_choice("estimand", estimand, ESTIMANDS)
    a = read_clusters(clusters_a, slices.num_samples("g_a", g_a), "task A", minimum=4)
    b = read_clusters(clusters_b, slices.num_samples("g_b", g_b), "task B", minimum=4)
    halves_a, halves_b = (splits.draw_halves(side.number, n_splits, seed, stream) for stream, side in ((6, a), (7, b)))
    groups = {"g_a": g_a, "g_b": g_b} | ({} if g_other is None else {"g_other": g_other})
    maps, first, second, norms, swapped = [], [], [], [], []
    for parts in slices.by_slice(**groups):
        sums_a, sums_b = _Sums.of(parts[0], a), _Sums.of(parts[1], b)
        if sums_a.dead or sums_b.dead:
            continue
        maps.append(_map(sums_a.all(), sums_b.all(), estimand))
        first.append([_map(sums_a.part(x), sums_b.part(y), estimand) for x, y in zip(halves_a, halves_b, strict=True)])
        second.append(
            [_map(sums_a.part(~x), sums_b.part(~y), estimand) for x, y in zip(halves_a, halves_b, strict=True)]
        )
        norms.append(np.log(np.abs(parts[1]).mean(0).sum()))
        if g_other is not None:
            other = read_clusters("iid", len(parts[2]), "the other task")
            swapped.append(_map(_Sums.of(parts[2], other).all(), sums_b.all(), estimand))
    if len(maps) < 3:
        raise ShapeError(f"{len(maps)} slices have a gradient of every sample; a correlation needs at least three.")
    maps, first, second = np.array(maps), np.array(first), np.array(second)
    half = float(np.mean([splits.correlation(first[:, one], second[:, one]) for one in range(n_splits)]))
    return Reliability(
        reliability=splits.stepped_up(half),
        half=half,
        norm_correlation=float(splits.correlation(maps, np.array(norms))),
        swap_change=None if g_other is None else float(1 - splits.correlation(maps, np.array(swapped))),
        num_slices=len(maps),
        estimand=estimand,
    )


@dataclass(frozen=True)
class _Sums:
    """Sums over the samples of each cluster, in one slice."""

    squares: np.ndarray
    magnitudes: np.ndarray
    raw: np.ndarray
    sizes: np.ndarray
    dead: bool

    @classmethod
    def of(cls, grads, clusters):
        unit = slices.unit(grads)
        raw = clusters.sums(np.abs(grads))
        return cls(
            clusters.sums(np.square(unit)), clusters.sums(np.abs(unit)), raw, clusters.sizes, not unit.any(1).all()
        )

    def all(self):
        return self.part(np.ones(len(self.sizes), dtype=bool))

    def part(self, chosen):
        """Means over the samples of some clusters, and how many there are."""
        count = self.sizes[chosen].sum()
        return *(sums[chosen].sum(0) / count for sums in (self.squares, self.magnitudes, self.raw)), count


def _map(of_a, of_b, estimand):
    """Return the log score of one slice."""
    squares_a, _, _, n_a = of_a
    squares_b, magnitudes_b, raw_b, n_b = of_b
    if estimand == "marginal":
        return np.log(raw_b.sum())
    u = squares_a / slices.damped((n_a * squares_a + n_b * squares_b) / (n_a + n_b))
    product = u @ magnitudes_b
    return np.log(product / len(u)) if estimand == "mean" else np.log(len(u) * product / (u.sum() * magnitudes_b.sum()))
