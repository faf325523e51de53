"""Single samples: which of A's stand out from a reference, one p value each.

Pairs have no honest p value unless the reference is nineteen times as large as A: for one among many pairs nothing can be
exchanged.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from ..errors import NonFiniteError, ShapeError, StatisticsError, StatisticsWarning
from . import multiplicity


@dataclass(frozen=True)
class ConformalSamples:
    """What the scores of single samples say.

    Attributes:
        p: One per sample of A, in the shape of its scores.
        q: Benjamini-Hochberg over all of them.
        selected: Where q is at most ``level``.
        level: Wanted false discovery rate.
    """

    p: np.ndarray
    q: np.ndarray
    selected: np.ndarray
    level: float


def conformal_samples(scores_a: np.ndarray, scores_r: np.ndarray, *, q: float = 0.1) -> ConformalSamples:
    r"""Compare each sample of A with a reference.

    .. math:: p_i = \frac{1 + \#\{r \in R : s_r \ge s_i\}}{1 + n_R}

    valid if sample i and the reference are exchangeable under the null: the score must not know which is which (F pooled
    over A and R, as in :func:`qkov.statistics.slices.log_lifts`), and samples must be independent.

    Args:
        scores_a, scores_r: ``[samples]``, or ``[samples, slices]`` to ask for every slice at once.
        q: Wanted false discovery rate of the selection.

    Returns:
        A :class:`ConformalSamples`: p, q and the selection, ``[samples]`` or ``[samples, slices]``.

    Raises:
        StatisticsError: If q is no rate, or a task is empty.
        ShapeError, NonFiniteError: If scores do not belong together or are not numbers.
    """
    scores_a, scores_r = (np.asarray(scores, dtype=np.float64) for scores in (scores_a, scores_r))
    if scores_a.ndim not in (1, 2) or scores_a.shape[1:] != scores_r.shape[1:]:
        raise ShapeError(
            f"scores have shapes {scores_a.shape} and {scores_r.shape}; expected [samples], or [samples, slices] with as "
            "many slices in both."
        )
    if not 0 < q < 1:
        raise StatisticsError(f"q={q!r}; expected a false discovery rate between 0 and 1, such as 0.1.")
    if not len(scores_a) or not len(scores_r):
        raise StatisticsError(f"{len(scores_a)} samples and {len(scores_r)} of the reference; expected some of both.")
    if not (np.isfinite(scores_a).all() and np.isfinite(scores_r).all()):
        raise NonFiniteError("a score is NaN or infinite. Leave out samples without a gradient.")
    counts = np.array([multiplicity.reaches(scores_r, one).sum(0) for one in scores_a])
    p = (1.0 + counts) / (1 + len(scores_r))
    if p.size / (1 + len(scores_r)) > q * (1 + 1e-12):
        warnings.warn(
            f"one sample among {p.size} cannot be selected by itself at q = {q}: the smallest possible p is "
            f"{1 / (1 + len(scores_r)):.3g}. Collect a larger reference.",
            StatisticsWarning,
            stacklevel=2,
        )
    adjusted = multiplicity.adjust(p)
    return ConformalSamples(p, adjusted, adjusted <= q, q)
