"""The strongest of many pairs, slice by slice, so that no more than one slice's scores are held.

Strongest first; among equals the slice that comes first in an order given by the caller, then the pair that comes first in
its slice. What is kept of the slices seen so far does not depend on the order in which they are seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Strongest", "strongest_places"]


@dataclass(frozen=True)
class Strongest:
    """The strongest pairs of the slices seen so far.

    Attributes:
        top_k: How many to keep.
        ascending: Whether the smallest scores are the strongest.
        scores: Theirs, strongest first, ``[kept]``.
        ranks: The place of each one's slice in the order that decides between equals, ``[kept]``.
        places: The place of each one's pair among those of its slice, ``[kept]``.
    """

    top_k: int
    ascending: bool
    scores: np.ndarray
    ranks: np.ndarray
    places: np.ndarray

    @classmethod
    def none(cls, top_k: int, *, ascending: bool) -> Strongest:
        """Nothing seen yet."""
        return cls(top_k, ascending, np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))

    def with_slice(self, rank: int, scores: np.ndarray) -> Strongest:
        """Add the scores ``[n_a, n_b]`` of a slice that was not seen before."""
        values = scores.reshape(-1)
        places = strongest_places(values, self.top_k, ascending=self.ascending)
        joined = np.concatenate([self.scores, values[places]])
        ranks = np.concatenate([self.ranks, np.full(len(places), rank, np.int64)])
        places = np.concatenate([self.places, places])
        keys = joined if self.ascending else -joined
        best = np.lexsort((places, ranks, keys))[: self.top_k]
        return Strongest(self.top_k, self.ascending, joined[best], ranks[best], places[best])


def strongest_places(values: np.ndarray, top_k: int, *, ascending: bool) -> np.ndarray:
    """Positions of the ``top_k`` largest (smallest) values in order, earlier positions first among equals."""
    keys = values if ascending else -values
    top_k = min(top_k, keys.size)
    if top_k < 1:
        return np.empty(0, np.int64)
    # Selecting in linear time first: sorting 10 million scores for 10 rows would take seconds.
    threshold = np.partition(keys, top_k - 1)[top_k - 1]
    better = np.flatnonzero(keys < threshold)
    chosen = np.concatenate([better, np.flatnonzero(keys == threshold)[: top_k - better.size]])
    return chosen[np.argsort(keys[chosen], kind="stable")]
