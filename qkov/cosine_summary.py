"""What many cosines say together: means, percentiles, shares, and cosines between the means of halves of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from .statistics import splits

BAND = 5, 95
"""Percentiles over pairs that are shown beside a mean."""


def mean_known(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Average over what is not NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    return np.where(known, values, 0.0).sum(axis) / np.where(count > 0, count, np.nan)


def share_below(values: np.ndarray, threshold: float, axis: int = 0) -> np.ndarray:
    """Share of what is not NaN that lies below a threshold."""
    known = (~np.isnan(values)).sum(axis)
    return (values < threshold).sum(axis) / np.where(known > 0, known, np.nan)


def of_pairs(pairs: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Summarise cosines ``[pairs, groups]``: ``mean_cosine``, ``low`` and ``high`` percentiles, ``share_below``."""
    low, high = np.full((2, pairs.shape[1]), np.nan)
    for one, column in enumerate(np.ascontiguousarray(pairs.T)):
        known = column[~np.isnan(column)]
        if len(known):
            low[one], high[one] = np.percentile(known, BAND)
    return {
        "mean_cosine": mean_known(pairs),
        "low": low,
        "high": high,
        "share_below": share_below(pairs, threshold),
    }


def pairs_apart(cosines: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Take each pair of samples of different clusters once, ``[pairs, groups]``.

    Args:
        cosines: ``[samples, samples, groups]``. codes: Number of each sample's cluster.
    """
    codes = np.asarray(codes)
    return cosines[np.triu(codes[:, None] != codes[None], 1)]


@dataclass(frozen=True)
class Halves:
    """Random halves of the clusters of two tasks, as weights of samples that average over a half.

    Attributes:
        first_a, second_a: The two halves of A, ``[splits, n_a]``; rows add up to 1.
        first_b, second_b: Those of B.
    """

    first_a: np.ndarray
    second_a: np.ndarray
    first_b: np.ndarray
    second_b: np.ndarray

    @classmethod
    def draw(
        cls, codes_a: Sequence[int] | np.ndarray, codes_b: Sequence[int] | np.ndarray, n_splits: int, seed: int
    ) -> Self:
        """Draw halves; each of A has as many clusters as the other, but for one."""
        parts = []
        for stream, codes in enumerate(map(np.asarray, (codes_a, codes_b)), start=8):
            first = splits.draw_halves(int(codes.max()) + 1, n_splits, seed, stream)[:, codes]
            parts += [averaging(first), averaging(~first)]
        return cls(*parts)

    def cosines(self, inner_products: np.ndarray, n_a: int) -> dict[str, np.ndarray]:
        """Average over splits the cosine between means of halves.

        All three compare half a task with half a task, so that noise lowers all of them alike.

        Args:
            inner_products: Of each group, ``[n_a + n_b, n_a + n_b]``.
            n_a: Samples of A, which come first.

        Returns:
            ``half_cosine`` (A with B), ``half_cosine_a`` (A with A), ``half_cosine_b``, ``[groups]`` each; NaN where a task
            has a single cluster or a mean is 0.
        """
        found = []
        for inner in inner_products:
            aa, ab, bb = inner[:n_a, :n_a], inner[:n_a, n_a:], inner[n_a:, n_a:]
            found.append((
                _mean_cosine(self.first_a, self.first_b, aa, ab, bb),
                _mean_cosine(self.first_a, self.second_a, aa, aa, aa),
                _mean_cosine(self.first_b, self.second_b, bb, bb, bb),
            ))  # fmt: skip
        return dict(zip(("half_cosine", "half_cosine_a", "half_cosine_b"), np.array(found).T, strict=True))


def averaging(chosen: np.ndarray) -> np.ndarray:
    """Turn bool ``[..., samples]`` into weights that average over what is chosen; NaN where nothing is."""
    chosen = chosen.astype(np.float64)
    count = chosen.sum(-1, keepdims=True)
    return chosen / np.where(count > 0, count, np.nan)


def form(first: np.ndarray, inner: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return ``first_s . inner . second_s`` for every row s, ``[rows]``."""
    return ((first @ inner) * second).sum(-1)


def _mean_cosine(
    first: np.ndarray, second: np.ndarray, inner_first: np.ndarray, across: np.ndarray, inner_second: np.ndarray
) -> float:
    ones, others = form(first, inner_first, first), form(second, inner_second, second)
    roots = np.sqrt(np.where(ones > 0, ones, np.nan)) * np.sqrt(np.where(others > 0, others, np.nan))
    return float(mean_known(form(first, across, second) / roots))
