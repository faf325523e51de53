r"""Sums of pair scores over A x A, B x B and A x B under many labellings, exact to the last bit.

The symmetrised scores M of one slice, summed within pairs of clusters, centred, and 0 within a cluster, are rounded to
whole multiples of a grid so fine that no sum of a row exceeds :math:`2^{24}`, the largest run of whole numbers that float32
holds. With z = 1 for clusters called A, ``Y = Z M`` in float32 is then exact on every machine and in any order of
summation, and so is :math:`q = \sum_g Y_g z_g`, added up in float64. The rounding (15 to 16 bits of the largest
centred entry for 200 clusters) is the same under every labelling, so it does not touch the validity of a test.

.. math:: AA = q, \quad AB = z' r - q, \quad BB = t - 2 z' r + q, \qquad r = M 1, \quad t = 1' M 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

EXACT = 2**24
ROWS = 1024
"""Labellings at a time: their products stay in the processor's cache."""


@dataclass(frozen=True)
class Labellings:
    """Labellings of clusters, and how many pairs of samples of different clusters each puts on both sides.

    Attributes:
        first: 1.0 where a cluster is called A, float32 ``[labellings, clusters]``.
        pairs_aa, pairs_bb, pairs_ab: Ordered pairs of samples, ``[labellings]``.
    """

    first: np.ndarray
    pairs_aa: np.ndarray
    pairs_bb: np.ndarray
    pairs_ab: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, sizes: np.ndarray | tuple[int, ...]) -> Labellings:
        """Count the pairs of labellings, bool ``[labellings, clusters]``, of clusters with these sizes."""
        sizes = np.asarray(sizes, dtype=np.float64)
        in_a, squares_a = first @ sizes, first @ sizes**2
        in_b, squares_b = sizes.sum() - in_a, (sizes**2).sum() - squares_a
        return cls(first.astype(np.float32), in_a**2 - squares_a, in_b**2 - squares_b, in_a * in_b)


@dataclass(frozen=True)
class PairForm:
    """Pair scores of one slice between clusters.

    Attributes:
        grid: The rounded, centred, symmetrised scores in units of ``step``, whole numbers in float32
            ``[clusters, clusters]``, 0 on the diagonal.
        leaning: Row sums of scores minus transposed scores in the same way, float64 ``[clusters]``.
        step: Unit of ``grid``.
        leaning_step: Unit of ``leaning``.
    """

    grid: np.ndarray
    leaning: np.ndarray
    step: float
    leaning_step: float

    @classmethod
    def of(cls, scores: np.ndarray, codes: np.ndarray) -> PairForm:
        """Sum ``[samples, samples]`` within pairs of clusters, centre and round them.

        Args:
            scores: Scores of all pairs. codes: Cluster of each sample.
        """
        sizes = np.bincount(codes)
        sums = np.zeros((len(sizes), len(sizes)))
        np.add.at(sums, (codes[:, None], codes[None]), scores)
        counts = np.outer(sizes, sizes).astype(np.float64)
        np.fill_diagonal(sums, 0.0)
        np.fill_diagonal(counts, 0.0)
        # A constant adds nothing to any statistic; without it the grid is finer. Added up exactly, so that it does not
        # depend on the order of clusters, nor on how a machine splits a sum.
        centred = sums - counts * (math.fsum(sums.ravel().tolist()) / counts.sum())
        grid, step = _rounded((centred + centred.T) / 2)
        leaning, leaning_step = _rounded(sums - sums.T)
        return cls(grid.astype(np.float32), leaning.sum(1), step, leaning_step)

    def sym(self, labellings: Labellings) -> np.ndarray:
        r"""Return :math:`\overline{AA} + \overline{BB} - \overline{AB} - \overline{BA}`, float64 ``[labellings]``."""
        rows = self.grid.sum(1, dtype=np.float64)
        within = np.concatenate([
            (part @ self.grid * part).sum(1, dtype=np.float64)
            for part in np.array_split(labellings.first, max(1, -(-len(labellings.first) // ROWS)))
        ])  # fmt: skip
        reached = labellings.first @ rows
        outside = rows.sum() - 2 * reached + within
        across = reached - within
        return self.step * (
            within / labellings.pairs_aa + outside / labellings.pairs_bb - 2 * across / labellings.pairs_ab
        )

    def asym(self, labellings: Labellings) -> np.ndarray:
        r"""Return :math:`\overline{AB} - \overline{BA}`, float64 ``[labellings]``: pairs within A or within B cancel."""
        return self.leaning_step * (labellings.first @ self.leaning) / labellings.pairs_ab


def _rounded(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Round a symmetric or antisymmetric matrix to whole multiples of a step; return both."""
    largest = np.abs(values).max()
    if not largest > 0:
        return np.zeros_like(values), 0.0
    # The next power of two, from the exponent itself (a logarithm may round past it): dividing by it loses nothing.
    mantissa, exponent = math.frexp(largest * len(values) / EXACT)
    step = math.ldexp(1.0, exponent - (mantissa == 0.5))
    return np.rint(values / step), step
