r"""How large an effect is, beside how sure: ratios and probabilities with a meaning of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StatisticsError
from . import slices
from .clusters import read_clusters, require_disjoint

if TYPE_CHECKING:
    from ..option_types import Slices
    from .clusters import Clusters


@dataclass(frozen=True)
class SourceEffect:
    r"""How much more A is a source of what B changes than the reference R is, slice by slice.

    Attributes:
        ratio: Geometric mean lift of A over that of R, over clusters; 1 is no difference.
        low, high: Ends of its interval: Welch's, on the log scale, over clusters.
        level: Nominal coverage.
        superiority: :math:`P(lift_A > lift_R)` for a cluster of each, ties counted half; 0.5 is no difference.
    """

    ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    superiority: np.ndarray


@dataclass(frozen=True)
class CrossWithin:
    r"""How alike two tasks are, slice by slice, against how alike each is with itself.

    Attributes:
        log_ratio: :math:`\log(\overline{AB} / \sqrt{\overline{AA}\,\overline{BB}})` of pair scores over different
            clusters; 0: samples of the other task are as similar as one's own.
        similarity: Correlation over parameters of the mean squares :math:`\overline{\hat g^2}` of A and B.
        ceiling: The largest that noise lets it be: the geometric mean of both tasks' split-half correlations, stepped up
            to full length (Spearman-Brown), averaged over splits; NaN where a split half does not correlate at all.
        of_ceiling: ``similarity / ceiling``.
    """

    log_ratio: np.ndarray
    similarity: np.ndarray
    ceiling: np.ndarray
    of_ceiling: np.ndarray


def source_effect(
    g_a: Slices,
    g_r: Slices,
    g_b: Slices,
    *,
    clusters_a: Sequence[Any] | str | None,
    clusters_r: Sequence[Any] | str | None,
    level: float = 0.95,
) -> SourceEffect:
    """Measure how much more A is a source of what B changes than R; what :func:`~qkov.statistics.test_source` tests.

    Args:
        g_a, g_r, g_b: Gradients, ``[samples, slices, parameters]``, or a list of ``[samples, parameters]``.
        clusters_a, clusters_r: One label per sample, or "iid".
        level: Of the interval.

    Returns:
        :class:`SourceEffect`.
    """
    a = read_clusters(clusters_a, slices.num_samples("g_a", g_a), "task A")
    r = read_clusters(clusters_r, slices.num_samples("g_r", g_r), "the reference task")
    require_disjoint(a, r, "task A", "the reference task")
    lifts = np.column_stack([
        slices.log_lifts(np.concatenate([one_a, one_r]), one_b)
        for one_a, one_r, one_b in slices.by_slice(g_a=g_a, g_r=g_r, g_b=g_b)
    ])  # fmt: skip
    return effect_of_lifts(lifts, a, r, level=level)


def effect_of_lifts(lifts: np.ndarray, a: Clusters, r: Clusters, *, level: float = 0.95) -> SourceEffect:
    """Measure the effect from scores that are there already, ``[samples of A and then of R, slices]``."""
    from scipy import stats

    if not 0 < level < 1:
        raise StatisticsError(f"level={level!r}; expected a coverage between 0 and 1, such as 0.95.")
    count = len(a.codes)
    of_a, of_r = a.means(lifts[:count]), r.means(lifts[count:])
    difference = of_a.mean(0) - of_r.mean(0)
    errors = of_a.var(0, ddof=1) / a.number, of_r.var(0, ddof=1) / r.number
    with np.errstate(invalid="ignore", divide="ignore"):
        df = (errors[0] + errors[1]) ** 2 / (errors[0] ** 2 / (a.number - 1) + errors[1] ** 2 / (r.number - 1))
    df = np.where(np.isnan(df), min(a.number, r.number) - 1, df)  # no spread at all: the interval is a point
    half = stats.t.ppf((1 + level) / 2, df) * np.sqrt(errors[0] + errors[1])
    above = of_a[:, None] - of_r[None]
    wins = np.where(np.isnan(above), np.nan, (above > 0) + 0.5 * (above == 0)).mean((0, 1))
    return SourceEffect(*np.exp([difference, difference - half, difference + half]), level, wins)  # type: ignore[call-arg]  # a list does not say how many it holds


def cross_within(
    g_a: np.ndarray,
    g_b: np.ndarray,
    *,
    clusters_a: Sequence[Any] | str | None,
    clusters_b: Sequence[Any] | str | None,
    seed: int,
    n_splits: int = 20,
) -> CrossWithin:
    """Measure how alike two tasks are; what :func:`~qkov.statistics.test_exchange` tests.

    Args:
        g_a, g_b: Gradients, ``[samples, slices, parameters]``, or a list of ``[samples, parameters]``.
        clusters_a, clusters_b: One label per sample, or "iid"; at least four clusters per task, so that halves have two.
        seed: Of the splits.
        n_splits: How many random splits of each task's clusters into halves.

    Returns:
        :class:`CrossWithin`.
    """
    from . import exchange, splits

    a = read_clusters(clusters_a, slices.num_samples("g_a", g_a), "task A", minimum=4)
    b = read_clusters(clusters_b, slices.num_samples("g_b", g_b), "task B", minimum=4)
    require_disjoint(a, b, "task A", "task B")
    codes = np.concatenate([a.codes, a.number + b.codes])
    halves = [splits.draw_halves(side.number, n_splits, seed, stream) for stream, side in ((4, a), (5, b))]
    rows = []
    for one_a, one_b in slices.by_slice(g_a=g_a, g_b=g_b):
        pairs = slices.pair_scores(np.concatenate([one_a, one_b]))
        profiles = [side.sums(np.square(slices.unit(one))) for side, one in ((a, one_a), (b, one_b))]
        similarity = splits.correlation(profiles[0].sum(0), profiles[1].sum(0))
        kept = [
            splits.stepped_up(splits.split_half(profile, half)) for profile, half in zip(profiles, halves, strict=True)
        ]
        ceiling = np.sqrt(kept[0] * kept[1]) if min(kept) > 0 else np.nan
        effect = np.nan if np.isnan(pairs).any() else exchange.effect(pairs, codes, a.number, "sym")
        rows.append((effect, similarity, ceiling, similarity / ceiling))
    return CrossWithin(*np.array(rows).T)
