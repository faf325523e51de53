"""Confidence intervals of scores and of the contrast between a head and the others of its layer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ShapeError, StatisticsError, StatisticsWarning
from ..formula import require_choice
from . import jackknife, multiplicity, relabelings, slices
from .clusters import read_clusters

if TYPE_CHECKING:
    from ..option_types import Slices
    from .clusters import Clusters
    from .jackknife import LeftOut


METHODS = ("jackknife", "pigeonhole")
BOOTSTRAP_DRAWS = 2000
FEW_CLUSTERS = 10


@dataclass(frozen=True)
class Interval:
    """Intervals of all slices.

    Attributes:
        estimate: ``[slices]``, bias-corrected for the jackknife; NaN where a sample has no gradient.
        low, high: Ends.
        level: Nominal coverage.
        estimand: "mean" or "lift".
        method: "jackknife" or "pigeonhole".
        df: Degrees of freedom, ``[slices]``; None for the bootstrap.
        note: What measured coverage says.
    """

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    estimand: str
    method: str
    df: np.ndarray | None
    note: str


@dataclass(frozen=True)
class Contrast:
    """Heads against the mean of the other heads of their layer.

    Attributes:
        estimate: ``[slices]``, difference of log scores; NaN without another head in the layer.
        low, high: Ends of the interval at ``level``.
        statistic: t, ``[slices]``.
        df: Degrees of freedom.
        p: Two-sided.
        p_adjusted: By ``adjust``, over all slices.
        level, estimand, adjust: As given.
    """

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    statistic: np.ndarray
    df: np.ndarray
    p: np.ndarray
    p_adjusted: np.ndarray
    level: float
    estimand: str
    adjust: str


def confidence_interval(
    g_a: Slices,
    g_b: Slices,
    *,
    clusters_a: Sequence[Any] | str | None,
    clusters_b: Sequence[Any] | str | None,
    estimand: str = "lift",
    method: str = "jackknife",
    level: float = 0.95,
    seed: int | None = None,
    n_draws: int = BOOTSTRAP_DRAWS,
) -> Interval:
    r"""Give the score of every slice with an interval.

    Args:
        g_a, g_b: Gradients, ``[samples, slices, parameters]``, or a list of ``[samples, parameters]``.
        clusters_a, clusters_b: One label per sample, or "iid".
        estimand: "mean" or "lift", see :func:`qkov.statistics.jackknife.leave_out`.
        method: "jackknife": over clusters of both sides, F fitted again, bias-corrected, t on the log scale with
            Satterthwaite's degrees of freedom (:func:`interval_of`). "pigeonhole": bootstrap of both sides with F held
            (Owen 2007), conservative.
        level: Nominal coverage.
        seed: Of the bootstrap, which demands one; the jackknife draws nothing.
        n_draws: Of the bootstrap.

    Returns:
        :class:`Interval`, on the scale of the score.

    Raises:
        StatisticsError: Without clusters, with fewer than two per task, or without a seed where one is needed.
        OptionError, ShapeError, NonFiniteError: For options and gradients that make no sense.
    """
    require_choice("estimand", estimand, jackknife.ESTIMANDS)
    require_choice("method", method, METHODS)
    _require_level(level)
    a, b = _both(g_a, g_b, clusters_a, clusters_b)
    if method == "pigeonhole":
        draws = relabelings.checked_number(n_draws, "n_draws")
        estimate, low, high = _pigeonhole(g_a, g_b, a, b, estimand, level, relabelings.checked_seed(seed), draws)
        return Interval(estimate, low, high, level, estimand, method, None, _NOTES[method])
    return interval_of(jackknife.leave_out(g_a, g_b, a, b, estimand), estimand=estimand, level=level)


def interval_of(left: LeftOut, *, estimand: str, level: float) -> Interval:
    r"""Turn log scores with clusters left out (:class:`~qkov.statistics.jackknife.LeftOut`) into an :class:`Interval`.

    .. math:: \theta_{bc} \, e^{\pm t_{df} \sqrt V}
    """
    from scipy import stats

    estimate = left.scores()
    variance, df = left.error()
    half = stats.t.ppf((1 + level) / 2, df) * np.sqrt(variance)
    return Interval(
        estimate,
        estimate * np.exp(-half),
        estimate * np.exp(half),
        level,
        estimand,
        "jackknife",
        np.where(np.isnan(estimate), np.nan, df),
        _NOTES[estimand],
    )


def head_contrast(
    g_a: Slices,
    g_b: Slices,
    *,
    clusters_a: Sequence[Any] | str | None,
    clusters_b: Sequence[Any] | str | None,
    layer_of_slice: Sequence[tuple[str, int] | int | str],
    estimand: str = "lift",
    adjust: str = "holm",
    level: float = 0.95,
) -> Contrast:
    r"""Compare every head with the mean of the other heads of its layer.

    .. math:: \theta_h = \log lift_h - \frac{1}{H - 1} \sum_{h' \ne h} \log lift_{h'}

    with the error of a cluster jackknife over both tasks and t with Satterthwaite's degrees of freedom. Heads are not
    exchangeable, so nothing is permuted.

    Args:
        g_a, g_b: Gradients, ``[samples, slices, parameters]``, or a list of ``[samples, parameters]``.
        clusters_a, clusters_b: One label per sample, or "iid".
        layer_of_slice: Which slices are compared, ``[slices]``: the layer, or a pair of layer and block.
        estimand: "lift" or "mean".
        adjust: "holm", "fdr_bh", "fdr_by" or "bonferroni".
        level: Of the intervals, which are not adjusted.

    Returns:
        :class:`Contrast`.

    Raises:
        StatisticsError, OptionError, ShapeError, NonFiniteError: As for :func:`confidence_interval`.
    """
    require_choice("estimand", estimand, jackknife.ESTIMANDS)
    require_choice("adjust", adjust, multiplicity.METHODS)
    _require_level(level)
    a, b = _both(g_a, g_b, clusters_a, clusters_b)
    left = jackknife.leave_out(g_a, g_b, a, b, estimand)
    return contrast_of(left, layer_of_slice, estimand=estimand, adjust=adjust, level=level)


def contrast_of(
    left: LeftOut, layer_of_slice: Sequence[tuple[str, int] | int | str], *, estimand: str, adjust: str, level: float
) -> Contrast:
    """Turn log scores with clusters left out (:class:`~qkov.statistics.jackknife.LeftOut`) into a :class:`Contrast`."""
    from scipy import stats

    weights, alone = _contrast_weights(layer_of_slice, ~np.isnan(left.full))
    known = jackknife.LeftOut(*(np.nan_to_num(values) for values in (left.full, left.without_a, left.without_b)))
    contrasted = known.contrasted(weights)
    # Not corrected for bias: it cancels between the heads of a layer, and the correction has a spread of its own (10 to 20 %
    # in standard deviation) that V leaves out; with it .08 of true nulls are rejected at .05.
    estimate = np.where(alone, np.nan, contrasted.full)
    variance, df = contrasted.error()
    df = np.where(alone, np.nan, df)
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = np.where(variance > 0, estimate / np.sqrt(variance), np.nan)
    half = stats.t.ppf((1 + level) / 2, df) * np.sqrt(variance)
    p = 2 * stats.t.sf(np.abs(statistic), df)
    return Contrast(
        estimate,
        estimate - half,
        estimate + half,
        statistic,
        df,
        p,
        multiplicity.adjust(p, adjust),
        level,
        estimand,
        adjust,
    )


_NOTES = {
    "lift": "approximate: nominal 0.95 covers .89 to .95 for an absolute lift, .94 to .97 for contrasts between heads",
    "mean": "intervals of nominal 0.95 cover .94 to .96, and .91 to .94 where gradients are heavy-tailed",
    "pigeonhole": "conservative: intervals of nominal 0.95 cover .94 to .99",
}


def _both(
    g_a: Slices, g_b: Slices, clusters_a: Sequence[Any] | str | None, clusters_b: Sequence[Any] | str | None
) -> tuple[Clusters, Clusters]:
    a = read_clusters(clusters_a, slices.num_samples("g_a", g_a), "task A")
    b = read_clusters(clusters_b, slices.num_samples("g_b", g_b), "task B")
    fewest = min(a.number, b.number)
    if fewest < FEW_CLUSTERS:
        warnings.warn(
            f"a task has {fewest} independent clusters; below {FEW_CLUSTERS} the jackknife's error is itself uncertain.",
            StatisticsWarning,
            stacklevel=3,
        )
    return a, b


def _require_level(level: float) -> None:
    if not 0 < level < 1:
        raise StatisticsError(f"level={level!r}; expected a coverage between 0 and 1, such as 0.95.")


def _contrast_weights(
    layer_of_slice: Sequence[tuple[str, int] | int | str], known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights ``[slices, slices]`` of each slice against the others of its layer, and which have no others."""
    layers = list(layer_of_slice)
    if len(layers) != len(known):
        raise ShapeError(f"layer_of_slice has {len(layers)} entries; expected one for each of the {len(known)} slices.")
    same = np.array([[one == other for other in layers] for one in layers]) & known & known[:, None]
    np.fill_diagonal(same, False)
    others = same.sum(1)
    weights = -1.0 * same / np.maximum(others, 1)[:, None]
    alone = ~known | (others == 0)
    weights[np.arange(len(known)), np.arange(len(known))] = np.where(alone, 0.0, 1.0)
    return weights, alone


def _pigeonhole(
    g_a: Slices, g_b: Slices, a: Clusters, b: Clusters, estimand: str, level: float, seed: int, draws: int
) -> tuple[np.ndarray, ...]:
    """Resample clusters of both sides independently; u and v, and so F, stay as they are."""
    times_a, times_b = (_resampled(side.number, draws, seed, stream) for stream, side in ((2, a), (3, b)))
    columns = []
    for one_a, one_b in slices.by_slice(g_a=g_a, g_b=g_b):
        u, _ = slices.sensitivities(one_a, one_b)
        v = np.abs(slices.unit(one_b))
        dead = not (u.any(1).all() and v.any(1).all())
        u, v = a.sums(u), b.sums(v)
        given = np.ones((1, a.number)), np.ones((1, b.number))
        values = np.concatenate([
            _weighted(first, second, u, v, a.sizes, b.sizes, estimand) for first, second in (given, (times_a, times_b))
        ])  # fmt: skip
        columns.append(np.full(len(values), np.nan) if dead else values)
    every = np.array(columns).T
    ends = np.quantile(every[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return every[0], ends[0], ends[1]


def _weighted(
    times_a: np.ndarray,
    times_b: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    sizes_a: np.ndarray,
    sizes_b: np.ndarray,
    estimand: str,
) -> np.ndarray:
    """Score with every cluster taken some times, ``[draws]``."""
    across = ((times_a @ (u @ v.T)) * times_b).sum(1)
    n_a, n_b, size = times_a @ sizes_a, times_b @ sizes_b, u.shape[1]
    if estimand == "mean":
        return across / (n_a * n_b * size)
    return size * across / ((times_a @ u.sum(1)) * (times_b @ v.sum(1)))


def _resampled(count: int, draws: int, seed: int, stream: int) -> np.ndarray:
    """How often each cluster is drawn, ``[draws, clusters]``; from raw words, so the same on every machine."""
    words = relabelings.raw_words(draws, count, seed, stream)
    picked = ((words >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)
    times = np.zeros((draws, count))
    np.add.at(times, (np.arange(draws)[:, None], picked.astype(np.int64)), 1.0)
    return times
