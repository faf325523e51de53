r"""Leave one cluster out, on both sides of a comparison: estimates of scores, their bias, error and degrees of freedom.

Three sums over samples say everything about the score of a slice: :math:`\sum_A \hat g^2`, :math:`\sum_B \hat g^2` and
:math:`\sum_B |\hat g|`. Without one cluster they are smaller by its share, and F, which is pooled over both tasks, is
fitted again. With :math:`\theta` the score and :math:`f = \log \theta`:

.. math:: V = \sum_{sides} \frac{G-1}{G} \sum_g (f_{-g} - \bar f)^2, \quad
          \theta_{bc} = \theta - \sum_{sides} (G-1) (\bar \theta - \theta), \quad
          df = \frac{V^2}{V_A^2 / (G_A - 1) + V_B^2 / (G_B - 1)}

where a bar is the mean over clusters left out. A contrast, a sum of several f, is corrected as :math:`\theta` is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import slices

if TYPE_CHECKING:
    from ..option_types import Slices
    from .clusters import Clusters


ESTIMANDS = ("mean", "lift")


@dataclass(frozen=True)
class LeftOut:
    """Log scores with all clusters, and without each of them.

    Attributes:
        full: ``[slices]``.
        without_a: Without each cluster of A, ``[clusters of A, slices]``.
        without_b: Without each cluster of B, ``[clusters of B, slices]``.
    """

    full: np.ndarray
    without_a: np.ndarray
    without_b: np.ndarray

    @classmethod
    def of(cls, columns: Sequence[np.ndarray], a: Clusters) -> LeftOut:
        """Put together what :func:`leave_out_slice` returned for every slice; ``a`` are the clusters of A."""
        every = np.array(columns).T
        return cls(every[0], every[1 : 1 + a.number], every[1 + a.number :])

    def contrasted(self, weights: np.ndarray) -> LeftOut:
        """Return weighted sums over slices, ``[contrasts]`` for weights ``[contrasts, slices]``."""
        return LeftOut(weights @ self.full, self.without_a @ weights.T, self.without_b @ weights.T)

    def scores(self) -> np.ndarray:
        r"""Return bias-corrected scores :math:`\theta_{bc}`, ``[slices]``; NaN where the bias is as large as the score."""
        corrected = _corrected(*(np.exp(logs) for logs in (self.full, self.without_a, self.without_b)))
        return np.where(corrected > 0, corrected, np.nan)

    def logs(self) -> np.ndarray:
        """Return bias-corrected log scores, or contrasts of them, ``[slices]``."""
        return _corrected(self.full, self.without_a, self.without_b)

    def error(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the variances V of log scores and their degrees of freedom, each ``[slices]``."""
        variances, dofs = [], []
        for without in (self.without_a, self.without_b):
            count = len(without)
            variances.append((count - 1) / count * np.square(without - without.mean(0)).sum(0))
            dofs.append(count - 1)
        variance = variances[0] + variances[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            dof = variance**2 / sum(one**2 / count for one, count in zip(variances, dofs, strict=True))
        return variance, np.where(np.isnan(dof), float(min(dofs)), dof)


def _corrected(full: np.ndarray, *sides: Any) -> np.ndarray:
    return full - sum((len(without) - 1) * (without.mean(0) - full) for without in sides)


def leave_out(g_a: Slices, g_b: Slices, a: Clusters, b: Clusters, estimand: str) -> LeftOut:
    r"""Score all slices with and without each cluster.

    .. math:: mean = \tfrac1K \sum_k \bar u_{A,k} \bar v_{B,k}, \qquad
              lift = K \frac{\sum_k \bar u_{A,k} \bar v_{B,k}}{\sum_k \bar u_{A,k} \sum_k \bar v_{B,k}}

    Args:
        g_a, g_b: Gradients of both tasks.
        a, b: Their :class:`~qkov.statistics.clusters.Clusters`.
        estimand: One of :data:`ESTIMANDS`.

    Returns:
        :class:`LeftOut`; NaN for a slice in which a sample has no gradient, or whose score is 0.
    """
    return LeftOut.of([leave_out_slice(*pair, a, b, estimand) for pair in slices.by_slice(g_a=g_a, g_b=g_b)], a)  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds


def leave_out_slice(one_a: np.ndarray, one_b: np.ndarray, a: Clusters, b: Clusters, estimand: str) -> np.ndarray:
    """Return the log scores of one slice: whole, without each cluster of A, without each of B."""
    unit_a, unit_b = slices.unit(one_a), slices.unit(one_b)
    if not (unit_a.any(1).all() and unit_b.any(1).all()):
        return np.full(1 + a.number + b.number, np.nan)
    parts = _Sums(
        a.sums(np.square(unit_a)), b.sums(np.square(unit_b)), b.sums(np.abs(unit_b)), a.sizes, b.sizes, estimand
    )
    return slices.log(np.array([parts.score(), *parts.scores_without_a(), *parts.scores_without_b()]))


class _Sums:
    """Sums over samples of one slice, cluster by cluster."""

    def __init__(
        self,
        squares_a: np.ndarray,
        squares_b: np.ndarray,
        sizes_of_b: np.ndarray,
        count_a: np.ndarray,
        count_b: np.ndarray,
        estimand: str,
    ) -> None:
        self.by_a, self.by_b, self.by_b_size = squares_a, squares_b, sizes_of_b
        self.count_a, self.count_b, self.estimand = count_a, count_b, estimand
        self.total = (squares_a.sum(0), squares_b.sum(0), sizes_of_b.sum(0), count_a.sum(), count_b.sum())

    def score(self) -> float:
        return self._score(*self.total)

    def scores_without_a(self) -> Iterator[float]:
        squares_a, squares_b, magnitudes, n_a, n_b = self.total
        for share, count in zip(self.by_a, self.count_a, strict=True):
            yield self._score(squares_a - share, squares_b, magnitudes, n_a - count, n_b)

    def scores_without_b(self) -> Iterator[float]:
        squares_a, squares_b, magnitudes, n_a, n_b = self.total
        for share, size, count in zip(self.by_b, self.by_b_size, self.count_b, strict=True):
            yield self._score(squares_a, squares_b - share, magnitudes - size, n_a, n_b - count)

    # A sum of numbers that are not negative is never below one of them, rounded or not: what is left after a share is taken
    # off is not negative, and exactly 0 where a parameter lives in that cluster only.
    def _score(self, squares_a: np.ndarray, squares_b: np.ndarray, magnitudes: np.ndarray, n_a: int, n_b: int) -> float:
        u = squares_a / n_a / slices.damped((squares_a + squares_b) / (n_a + n_b))
        v = magnitudes / n_b
        if self.estimand == "mean":
            return u @ v / len(u)
        return len(u) * (u @ v) / (u.sum() * v.sum())
