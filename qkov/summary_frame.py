"""What a summary of all pairs is filled into, slice by slice: means over either task, lift, and the strongest pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import errors, fisher, memory
from .geometry import BLOCKS
from .score_frame import Grid
from .slice_labels import SliceLabels
from .strongest import Strongest

if TYPE_CHECKING:
    from .geometry import AttentionLayout
    from .scoring import SliceMarginals, SliceScores


__all__ = ["NO_LIFT", "Means", "SummaryFrame", "means_of", "require_memory"]

NO_LIFT = "No lift: a score that weighs by a matrix is no sum over single parameters, so none has a share in it."


@dataclass(frozen=True)
class Means:
    """Means of a slice over either task, and its health, where pairs had to be scored for them; float64.

    Attributes:
        by_a: Over B's samples, ``[n_a]``. by_b: Over A's samples, ``[n_b]``.
        health: As of the scores.
    """

    by_a: torch.Tensor
    by_b: torch.Tensor
    health: dict


def means_of(result: SliceScores) -> Means:
    """Average the scores ``[n_a, n_b]`` of a slice over either task."""
    return Means(result.scores.mean(1), result.scores.mean(0), result.health)


class SummaryFrame:
    """The empty arrays of a summary, and the strongest pairs so far.

    Args:
        layouts: The layers. heads: The query heads.
        num_a, num_b: Numbers of samples.
        top_k: How many pairs of each block to keep. ascending: Whether the smallest scores are conflict.
        has_lift: Whether the variant has a lift.
    """

    def __init__(
        self,
        layouts: Sequence[AttentionLayout],
        heads: Sequence[int],
        num_a: int,
        num_b: int,
        *,
        top_k: int,
        ascending: bool,
        has_lift: bool,
    ) -> None:
        self.layouts, self.grid, self.has_lift = layouts, Grid(layouts, heads), has_lift
        self.by_a, self.lift = self.grid.empty(num_a), self.grid.empty(num_a)
        self.by_b = self.grid.empty(num_b)
        self.health = {name: self.grid.empty() for name in fisher.HEALTH_STATISTICS}
        self.labels = SliceLabels.checked(**self.grid.labels())
        if num_b == 0:
            self._average_nothing()
        self.strongest = {block: Strongest.none(top_k, ascending=ascending) for block in BLOCKS}
        self._ranks = {
            block: {place: rank for rank, place in enumerate(self.labels.ordered(block))} for block in BLOCKS
        }

    def put(
        self, block: str, place: int, column: int, marginals: SliceMarginals | Means, scores: torch.Tensor | None = None
    ) -> None:
        """Place one slice's means, lift and health, and keep its strongest pairs where its scores ``[n_a, n_b]`` are given."""
        self.by_a[block][:, place, column] = marginals.by_a.numpy()
        self.by_b[block][:, place, column] = marginals.by_b.numpy()
        if self.has_lift:
            self.lift[block][:, place, column] = marginals.lift.numpy()  # type: ignore[union-attr]  # of marginals alone
        for name, value in marginals.health.items():
            self.health[name][block][place, column] = value
        if scores is not None:
            rank = self._ranks[block][place, column]
            self.strongest[block] = self.strongest[block].with_slice(rank, scores.numpy())

    @property
    def result_bytes(self) -> int:
        """Memory that a summary takes beside this frame, which it copies."""
        return sum(values.nbytes for name in (self.by_a, self.by_b, self.lift) for values in name.values())

    def _average_nothing(self) -> None:
        """Without a sample of B, averages and lifts of the slices that exist are 0, as in a heatmap."""
        for block in BLOCKS:
            for values in (self.by_a[block], self.lift[block]):
                values[:, self.labels.exists(block)] = 0.0

    def fields(self, sample_a: Sequence[int | str], sample_b: Sequence[int | str]) -> dict[str, Any]:
        """The fields of a PairSummary that this frame fills."""
        strongest = {
            block: tuple(self.labels.pair_rows(block, self.strongest[block], sample_a, sample_b)) for block in BLOCKS
        }
        health = {block: {name: values[block] for name, values in self.health.items()} for block in BLOCKS}
        lift = self.lift if self.has_lift else {}
        return {
            "by_a": self.by_a,
            "by_b": self.by_b,
            "lift": lift,
            "health": health,
            "strongest": strongest,
            **self.grid.labels(),
        }


def require_memory(
    layouts: Sequence[AttentionLayout], heads: Sequence[int], num_a: int, num_b: int, top_k: int
) -> None:
    """Refuse a summary that the machine cannot hold, and a number of pairs that is none."""
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 0:
        raise errors.OptionError(f"top_k is {top_k!r}; expected a number of pairs from 0 up.")
    slices = Grid(layouts, heads).num_slices
    pairs = num_a * num_b if top_k else 0  # the scores of one slice, and once more while the strongest are chosen
    memory.require(
        8 * (2 * slices * (2 * num_a + num_b) + 3 * pairs),
        f"a summary of {num_a} x {num_b} samples on {len(layouts)} layers, {slices} slices,",
        "Score fewer samples with max_samples_per_task, fewer layers at a time, or no pairs with top_k=0.",
    )
