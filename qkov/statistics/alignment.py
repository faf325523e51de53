"""Are two tasks sensitive to the same parameters? A description, with a p value that is never counted as significant."""

from __future__ import annotations

import numbers
from dataclasses import dataclass

import numpy as np

from ..errors import StatisticsError
from . import multiplicity, relabelings, slices, splits

_NOTE = (
    "exploratory: parameters are not exchangeable, and no permutation of them is a valid null (free permutations reject up to "
    "every true null, permutations of rows .045 to .67 of them); no p value here may be called significant"
)


@dataclass(frozen=True)
class Alignment:
    """How far the logs of two Fisher diagonals go together.

    Attributes:
        correlation: Of ``log F_A`` and ``log F_B`` over parameters, ``[slices]``; NaN where one is constant.
        p_exploratory: Share of permutations of rows with as large a correlation; see ``note``.
        n_permutations, seed: Of the permutations.
        note: Why this is no test.
    """

    correlation: np.ndarray
    p_exploratory: np.ndarray
    n_permutations: int
    seed: int
    note: str = _NOTE


def alignment_exploratory(
    g_a: np.ndarray, g_b: np.ndarray, *, seed: int, width: float | None = None, n_permutations: int = 999
) -> Alignment:
    """Correlate the Fisher diagonals of two tasks.

    Args:
        g_a, g_b: Gradients, ``[samples, slices, parameters]``, or a list of ``[samples, parameters]``.
        width: Rows of a slice (the width of a head): parameters lie row by row, and whole rows of one task are permuted.
            By default single parameters are, which is worse still.
        n_permutations: How many.
        seed: Of the permutations.

    Returns:
        :class:`Alignment`.

    Raises:
        StatisticsError: If a slice does not have that many rows.
        ShapeError, NonFiniteError: For gradients that do not belong together or are not numbers.
    """
    seed, number = relabelings.checked_seed(seed), relabelings.checked_number(n_permutations)
    found, p = [], []
    for one_a, one_b in slices.by_slice(g_a=g_a, g_b=g_b):
        size = one_a.shape[1]
        rows = size if width is None else width
        if isinstance(rows, bool) or not isinstance(rows, numbers.Integral) or rows < 1 or size % rows:
            raise StatisticsError(f"width={width!r}; expected a divisor of the {size} parameters of a slice.")
        logs = [np.log(slices.damped(np.square(slices.unit(one)).mean(0))).reshape(rows, -1) for one in (one_a, one_b)]
        orders = np.argsort(relabelings.raw_words(number, rows, seed, stream=8), axis=1, kind="stable")  # type: ignore[arg-type]  # checked here
        observed = splits.correlation(logs[0].ravel(), logs[1].ravel())
        null = np.array([splits.correlation(logs[0].ravel(), logs[1][order].ravel()) for order in orders])
        found.append(observed)
        p.append(multiplicity.permutation_p(np.array([observed]), null[:, None])[0])
    return Alignment(np.array(found), np.array(p), number, seed)
