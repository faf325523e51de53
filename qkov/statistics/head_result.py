"""The result of a permutation test of all slices at once, and how it is put together from statistics and their null."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StatisticsWarning
from . import multiplicity

if TYPE_CHECKING:
    from .relabelings import Relabelings


ALPHA = 0.05
ALTERNATIVES = ("greater", "less", "two-sided")


@dataclass(frozen=True)
class HeadTest:
    r"""What a permutation test found, slice by slice.

    Attributes:
        statistic: ``[slices]``, on a scale that is comparable between slices; NaN where there is nothing to test.
        effect: ``[slices]``, in the unit that ``effect_name`` says.
        p: ``[slices]``, :math:`(1 + \#\{T^* \ge T\}) / (1 + P)`.
        q_bh: Benjamini-Hochberg over all slices.
        p_maxt: Family-wise, step-down max-T, from the same relabelings.
        null: Statistics under relabelings, ``[relabelings, slices]``.
        n_permutations: Relabelings P, the given labelling left out.
        n_distinct: How many relabelings exist, the given one included.
        min_p: The smallest p value that could have come out.
        alternative: "greater", "less" or "two-sided".
        null_statement: What a small p speaks against, in words.
        claim: What may be said of a slice that is rejected, and what may not.
        effect_name: What ``effect`` is.
        unit: What was relabelled.
        seed: Of the relabelings.
        warnings: Sentences; also given as warnings when the test was made.
    """

    __test__ = False  # pytest collects classes by name

    statistic: np.ndarray
    effect: np.ndarray
    p: np.ndarray
    q_bh: np.ndarray
    p_maxt: np.ndarray
    null: np.ndarray
    n_permutations: int
    n_distinct: int
    min_p: float
    alternative: str
    null_statement: str
    claim: str
    effect_name: str
    unit: str
    seed: int
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        tested = int((~np.isnan(self.p)).sum())
        return (
            f"HeadTest({tested} slices, {self.n_permutations} relabelings of {self.unit}: "
            f"{int((self.q_bh <= ALPHA).sum())} with q <= {ALPHA}, {int((self.p_maxt <= ALPHA).sum())} with "
            f"p_maxt <= {ALPHA}; {self.null_statement})"
        )


def directed(values: np.ndarray, alternative: str) -> np.ndarray:
    """Turn statistics so that large ones speak against the null."""
    return {"greater": values, "less": -values, "two-sided": np.abs(values)}[alternative]


def smallest_p(relabelings: Relabelings, *, symmetric: bool) -> float:
    """Return the smallest p value that can come out.

    Args:
        relabelings: :class:`~qkov.statistics.relabelings.Relabelings`.
        symmetric: Whether the statistic is the same when both tasks change names, which then counts as a tie.
    """
    smallest = 1 / (1 + len(relabelings.first))
    return 2 * smallest if symmetric and relabelings.exhaustive else smallest


def assemble(
    observed: np.ndarray,
    effect: np.ndarray,
    null: np.ndarray,
    relabelings: Relabelings,
    *,
    alternative: str,
    symmetric: bool,
    seed: int,
    notes: Sequence[str] = (),
    **words: Any,
) -> HeadTest:
    """Turn statistics and their null into a :class:`HeadTest`, and give its warnings.

    Args:
        observed: ``[slices]``. effect: ``[slices]``. null: ``[relabelings, slices]``.
        relabelings: Those that made ``null``.
        alternative: Which values speak against the null.
        symmetric: As for :func:`smallest_p`.
        seed: Of the relabelings.
        notes: Warnings that the test itself has found.
        **words: The other fields of :class:`HeadTest`.
    """
    turned, turned_null = directed(observed, alternative), directed(null, alternative)
    p = multiplicity.permutation_p(turned, turned_null)
    num_tested, least = int((~np.isnan(observed)).sum()), smallest_p(relabelings, symmetric=symmetric)
    said = [*notes, *_impossible(num_tested, least, relabelings)]
    if num_tested < len(observed):
        said.append(
            f"{len(observed) - num_tested} of {len(observed)} slices are not tested: a sample has no gradient there, or "
            "they score 0 or all the same."
        )
    for sentence in said:
        warnings.warn(sentence, StatisticsWarning, stacklevel=4)  # who called the test, not the test
    return HeadTest(
        statistic=observed,
        effect=effect,
        p=p,
        q_bh=multiplicity.adjust(p),
        p_maxt=multiplicity.step_down(turned, turned_null),
        null=null,
        n_permutations=len(relabelings.first),
        n_distinct=relabelings.num_distinct,
        min_p=least,
        alternative=alternative,
        seed=seed,
        warnings=tuple(said),
        **words,
    )


def _impossible(num_tested: int, least: float, relabelings: Relabelings) -> Iterator[str]:
    """Say which rejections cannot happen, however strong the data."""
    more = "no more relabelings exist: collect more clusters" if relabelings.exhaustive else "ask for more permutations"
    if least > ALPHA:
        yield f"no slice can reach p <= {ALPHA}: the smallest possible p is {least:.3g}; {more}."
    elif num_tested and least * num_tested > ALPHA * (1 + 1e-12):  # 1 / 60 * 3 is more than 0.05 by rounding alone
        yield (
            f"a single slice out of {num_tested} cannot reach q <= {ALPHA} by itself: the smallest possible p is "
            f"{least:.3g}, and one rejection needs {ALPHA / num_tested:.3g}; {more}."
        )
