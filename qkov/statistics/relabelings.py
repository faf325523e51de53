"""Which clusters are called first and which second, again and again: the same relabelings for every slice.

From the raw words of a counter-based generator, whose stream NumPy guarantees, and a stable sort: the same seed gives the
same relabelings on every machine and with every version.
"""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import StatisticsError

DEFAULT = 9999
ALPHA = 0.05


@dataclass(frozen=True)
class Relabelings:
    """Relabelings of clusters, without the given one.

    Attributes:
        first: Which clusters are called first, bool ``[relabelings, clusters]``.
        num_distinct: How many different ones exist, the given one included.
        exhaustive: Whether ``first`` holds all of them but the given one.
    """

    first: np.ndarray
    num_distinct: int
    exhaustive: bool


def default_number(num_slices: int) -> int:
    """Return how many relabelings to draw: twice what a rejection by BH at 0.05 needs, and at least 9,999."""
    return max(DEFAULT, 2 * math.ceil(num_slices / ALPHA))


def draw(num_first: int, num_second: int, number: int, seed: int) -> Relabelings:
    """Draw relabelings that keep the number of clusters on both sides, or list all of them where no more exist.

    Args:
        num_first, num_second: Clusters of the two tasks; the first come first.
        number: How many.
        seed: A non-negative int; it has no default, so that it is chosen, and recorded, before the data are seen.

    Raises:
        StatisticsError: If the number or the seed is no such int.
    """
    number, seed = checked_number(number), checked_seed(seed)
    total = num_first + num_second
    num_distinct = math.comb(total, num_first)
    if num_distinct - 1 <= number:
        first = np.zeros((num_distinct, total), dtype=bool)
        for row, chosen in enumerate(itertools.combinations(range(total), num_first)):
            first[row, list(chosen)] = True
        return Relabelings(first[1:], num_distinct, True)  # the first combination is the given labelling
    return Relabelings(_random(num_first, total, number, seed), num_distinct, False)


def draw_apart(num_first: int, num_second: int, number: int, seed: int) -> np.ndarray:
    """Draw relabelings that do not depend on those of :func:`draw` with the same seed, the given one never left out."""
    number, seed = checked_number(number), checked_seed(seed)
    return _random(num_first, num_first + num_second, number, seed, stream=1)


def checked_seed(seed: int | None) -> int:
    """Return a seed as a plain int.

    Raises:
        StatisticsError: If it is None, no int, or negative.
    """
    try:
        value = -1 if isinstance(seed, bool) else operator.index(seed)  # type: ignore[arg-type]  # checked here
    except TypeError:
        value = -1
    if value < 0:
        raise StatisticsError(f"seed={seed!r}; expected a non-negative int, chosen before looking at the data.")
    return value


def checked_number(number: int, name: str = "n_permutations") -> int:
    """Return a number of relabelings, draws or splits as a plain int, at least 1."""
    try:
        value = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        value = 0
    if value < 1:
        raise StatisticsError(f"{name}={number!r}; expected a positive int.")
    return value


def raw_words(rows: int, columns: int, seed: Any, stream: int) -> np.ndarray:
    """Return uint64 ``[rows, columns]``: the stream of a seed and of a purpose, which no other purpose shares."""
    key = (stream << 64) + seed % 2**64  # one int of 128 bits: a list would pass through float64 above 2^63
    return np.random.Philox(key=key).random_raw(rows * columns).reshape(rows, columns)


def _random(num_first: int, total: int, number: int, seed: int, stream: int = 0) -> np.ndarray:
    words = raw_words(number, total, seed, stream)
    order = np.argsort(words, axis=1, kind="stable")
    first = np.zeros((number, total), dtype=bool)
    np.put_along_axis(first, order[:, :num_first], True, axis=1)
    return first
