"""Independent units: samples belong to clusters (documents, templates), and only clusters may be exchanged.

Samples of one cluster resemble each other; a test that treats them as independent rejects true nulls in up to half of all
cases. Pairs of samples are never a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import StatisticsError

IID = "iid"


@dataclass(frozen=True)
class Clusters:
    """The units of one task.

    Attributes:
        codes: Number of each sample's cluster, ``[samples]``, in the order of first appearance.
        labels: One label per cluster, or None where every sample is its own.
    """

    codes: np.ndarray
    labels: tuple | None

    @property
    def number(self) -> int:
        """How many clusters there are."""
        return int(self.codes.max()) + 1

    @property
    def sizes(self) -> np.ndarray:
        """Samples per cluster."""
        return np.bincount(self.codes)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Average ``[samples, ...]`` within clusters, ``[clusters, ...]``."""
        return self.sums(values) / self.sizes.reshape(-1, *[1] * (values.ndim - 1))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Add ``[samples, ...]`` within clusters, ``[clusters, ...]``."""
        if self.number == len(self.codes):  # codes count up in the order of first appearance
            return np.array(values, dtype=np.float64)
        total = np.zeros((self.number, *values.shape[1:]))
        np.add.at(total, self.codes, values)
        return total


def read_clusters(clusters: Sequence[Any] | str | None, num_samples: int, name: str, *, minimum: int = 2) -> Clusters:
    """Read the word "iid" or one label per sample.

    Args:
        clusters: ``"iid"``: every sample is independent of all others, which the caller vouches for; or labels, ints or
            strings, one per sample.
        num_samples: Samples of the task.
        name: What to call the task in a message.
        minimum: Fewest clusters that will do.

    Raises:
        StatisticsError: If labels are missing, too few, too many or None, or there are too few clusters.
    """
    if isinstance(clusters, str):
        if clusters != IID:
            raise StatisticsError(
                f"clusters of {name} are {clusters!r}; expected one label per sample or the word 'iid'."
            )
        found = Clusters(np.arange(num_samples), None)
    else:
        given = None if clusters is None else np.asarray(clusters, dtype=object)
        if given is not None and given.ndim != 1:
            raise StatisticsError(
                f"clusters of {name} have shape {given.shape}; expected one label per sample, an int or a string each."
            )
        # A label that is not itself is NaN: how a table says that there is none.
        if given is None or any(label is None or label != label for label in given):
            raise StatisticsError(
                f"clusters of {name} are not known for every sample; expected one label per sample (its document or "
                "template), or the word 'iid' if samples are independent of each other."
            )
        if len(given) != num_samples:
            raise StatisticsError(
                f"{name} has {num_samples} samples and {len(given)} cluster labels; expected one each."
            )
        order = {label: code for code, label in enumerate(dict.fromkeys(given))}
        found = Clusters(np.array([order[label] for label in given]), tuple(order))
    count = found.number if num_samples else 0
    if count < minimum:
        raise StatisticsError(f"{name} has {count} independent clusters; expected at least {minimum}.")
    return found


def require_disjoint(first: Clusters, second: Clusters, first_name: str, second_name: str) -> None:
    """Raise where a cluster has samples in both tasks: then their labels cannot be exchanged cluster by cluster."""
    shared = sorted(set(first.labels or ()) & set(second.labels or ()), key=str)
    if shared:
        shown = ", ".join(map(repr, shared[:5])) + (", ..." if len(shared) > 5 else "")
        raise StatisticsError(
            f"{len(shared)} clusters have samples in both {first_name} and {second_name}: {shown}. Exchanging labels would "
            "tear them apart: give tasks of different clusters, or name them differently where they only share a label."
        )
