r"""Is a map of heads stable, and is it about the two tasks? The two questions are apart, and a map must pass both.

The seeds' averaged heatmap is stable (reliability .98) and says nothing about task A: it is the L1 norm of B's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ShapeError
from ..formula import require_choice
from . import jackknife, slices, splits
from .clusters import read_clusters

if TYPE_CHECKING:
    from ..option_types import Slices
    from .clusters import Clusters


@dataclass(frozen=True)
class Reliability:
    """How stable a map over slices is, and what it is about.

    Attributes:
        reliability: Correlation over slices of the log maps of two halves of both tasks' clusters, averaged over splits
            and stepped up to the full number of samples.
        half: The same before it is stepped up.
        norm_correlation: Correlation over slices of the log map with the log of the mean L1 norm of B's gradients: near 1
            or -1, the map mostly shows where B's gradients are large.
        swap_change: 1 minus the correlation over slices of the map with that of another task in A's place: near 0, the map
            is not about A. None without another task, NaN where it has gradients in fewer than three of the slices.
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
FEWEST = 4
"""Clusters per task, so that both halves of a split have two."""
FEWEST_SLICES = 3
"""A correlation over two slices is 1 or -1 whatever they hold."""


def reliability(
    g_a: Slices,
    g_b: Slices,
    *,
    clusters_a: Sequence[Any] | str | None,
    clusters_b: Sequence[Any] | str | None,
    seed: int,
    g_other: Slices | None = None,
    estimand: str = "lift",
    n_splits: int = 100,
) -> Reliability:
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
    a = read_clusters(clusters_a, slices.num_samples("g_a", g_a), "task A", minimum=FEWEST)
    b = read_clusters(clusters_b, slices.num_samples("g_b", g_b), "task B", minimum=FEWEST)
    measured = MapReliability(a, b, seed=seed, estimand=estimand, n_splits=n_splits)
    groups = {"g_a": g_a, "g_b": g_b} | ({} if g_other is None else {"g_other": g_other})
    for parts in slices.by_slice(**groups):
        measured.add(*parts)
    return measured.result()


class MapReliability:
    """The measurement for slices that come one at a time, so that no more than one need be held.

    Args:
        a, b: The tasks' :class:`~qkov.statistics.clusters.Clusters`, at least four each.
        seed, estimand, n_splits: As for :func:`reliability`.
    """

    if TYPE_CHECKING:
        _maps: list[Any]
        _first: list[Any]
        _second: list[Any]
        _norms: list[Any]
        _swapped: list[Any]

    def __init__(self, a: Clusters, b: Clusters, *, seed: int, estimand: str = "lift", n_splits: int = 100) -> None:
        require_choice("estimand", estimand, ESTIMANDS)
        self._a, self._b, self._estimand = a, b, estimand
        halves_a, halves_b = (
            splits.draw_halves(side.number, n_splits, seed, stream) for stream, side in ((6, a), (7, b))
        )
        self._halves = list(zip(halves_a, halves_b, strict=True))
        self._maps, self._first, self._second, self._norms, self._swapped = [], [], [], [], []

    def add(self, one_a: np.ndarray, one_b: np.ndarray, one_other: np.ndarray | None = None) -> None:
        """Take the next slice, ``[samples, parameters]`` of every task.

        It is left out where a sample has no gradient, or the tasks, or halves of them, share no parameter.
        """
        of_a, of_b = _Sums.of(one_a, self._a), _Sums.of(one_b, self._b)
        if of_a.dead or of_b.dead:
            return
        score = self._estimand
        every_a, every_b = (np.ones(side.number, dtype=bool) for side in (self._a, self._b))
        whole = _map(of_a, every_a, of_b, every_b, score)
        first = [_map(of_a, x, of_b, y, score) for x, y in self._halves]
        second = [_map(of_a, ~x, of_b, ~y, score) for x, y in self._halves]
        if np.isnan([whole, *first, *second]).any():
            return
        self._maps.append(whole)
        self._first.append(first)
        self._second.append(second)
        self._norms.append(np.log(np.abs(one_b).mean(0).sum()))
        if one_other is not None:
            others = read_clusters("iid", len(one_other), "the other task")
            other, every = _Sums.of(one_other, others), np.ones(others.number, dtype=bool)
            self._swapped.append(np.nan if other.dead else _map(other, every, of_b, every_b, score))

    @property
    def num_slices(self) -> int:
        """How many slices were taken in."""
        return len(self._maps)

    def result(self) -> Reliability:
        """Return the :class:`Reliability` of the slices taken so far."""
        if len(self._maps) < FEWEST_SLICES:
            raise ShapeError(
                f"{len(self._maps)} slices have a gradient of every sample and a score; a correlation over slices needs at "
                f"least {FEWEST_SLICES}."
            )
        maps, first, second = np.array(self._maps), np.array(self._first), np.array(self._second)
        half = float(np.mean([splits.correlation(first[:, one], second[:, one]) for one in range(first.shape[1])]))
        return Reliability(
            reliability=splits.stepped_up(half),
            half=half,
            norm_correlation=float(splits.correlation(maps, np.array(self._norms))),
            swap_change=_swap_change(maps, np.array(self._swapped)) if self._swapped else None,
            num_slices=len(maps),
            estimand=self._estimand,
        )


def _swap_change(maps: np.ndarray, swapped: np.ndarray) -> float:
    known = ~np.isnan(swapped)
    if known.sum() < FEWEST_SLICES:
        return np.nan
    return float(1 - splits.correlation(maps[known], swapped[known]))


@dataclass(frozen=True)
class _Sums:
    """Sums over the samples of each cluster, in one slice."""

    squares: np.ndarray
    magnitudes: np.ndarray
    raw: np.ndarray
    sizes: np.ndarray
    dead: bool

    @classmethod
    def of(cls, grads: np.ndarray, clusters: Clusters) -> _Sums:
        unit = slices.unit(grads)
        raw = clusters.sums(np.abs(grads))
        return cls(
            clusters.sums(np.square(unit)), clusters.sums(np.abs(unit)), raw, clusters.sizes, not unit.any(1).all()
        )

    def count(self, chosen: np.ndarray) -> int:
        """How many samples some clusters hold."""
        return self.sizes[chosen].sum()

    def mean(self, name: str, chosen: np.ndarray) -> np.ndarray:
        """Mean over the samples of some clusters; a product with 0 and 1, which copies no rows."""
        return chosen.astype(np.float64) @ getattr(self, name) / self.count(chosen)


def _map(of_a: _Sums, chosen_a: np.ndarray, of_b: _Sums, chosen_b: np.ndarray, estimand: str) -> float:
    """Return the log score of one slice, from some clusters of each task."""
    if estimand == "marginal":
        return slices.log(of_b.mean("raw", chosen_b).sum())
    squares_a, squares_b = of_a.mean("squares", chosen_a), of_b.mean("squares", chosen_b)
    magnitudes_b, n_a, n_b = of_b.mean("magnitudes", chosen_b), of_a.count(chosen_a), of_b.count(chosen_b)
    u = squares_a / slices.damped((n_a * squares_a + n_b * squares_b) / (n_a + n_b))
    product = u @ magnitudes_b
    return slices.log(product / len(u) if estimand == "mean" else len(u) * product / (u.sum() * magnitudes_b.sum()))
