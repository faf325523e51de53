"""Slices of one comparison scored one after another, with smaller blocks of samples where memory does not suffice."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from . import curvature, scoring, tiles
from .errors import MemoryLimitError

if TYPE_CHECKING:
    from .geometry import AttentionLayout, Projection
    from .score_options import ScoreOptions
    from .scoring import SliceMarginals, SliceScores
    from .sides import Side

    Result = TypeVar("Result")


_logger = logging.getLogger(__name__)


class SliceScorer:
    """Score slices between two sides.

    Where memory runs out, samples are taken in blocks of half as many from there on, and a warning is logged. The columns of
    a tile stay as they are: they decide how sums over parameters are rounded.

    Attributes:
        sides: Those of tasks A and B.
        options: Of the scores; ``sample_block`` shrinks where it has to.
    """

    def __init__(self, sides: tuple[Side, Side], options: ScoreOptions) -> None:
        self.sides, self.options = sides, options

    def pairs(self, layout: AttentionLayout, projection: Projection, unit: int) -> SliceScores:
        """Return the :class:`qkov.scoring.SliceScores` of a slice."""
        score = curvature.score_slice if self.options.weighs_by_matrix else scoring.score_slice
        return self._within_memory(score, layout, projection, unit)

    def variants(
        self, layout: AttentionLayout, projection: Projection, unit: int, variants: Sequence[str]
    ) -> dict[str, SliceScores]:
        """Return ``{variant: SliceScores}``, from gradients built once."""
        return self._within_memory(scoring.score_variants, layout, projection, unit, variants)

    def marginals(self, layout: AttentionLayout, projection: Projection, unit: int) -> SliceMarginals:
        """Return the :class:`qkov.scoring.SliceMarginals` of a slice."""
        return self._within_memory(scoring.score_marginals, layout, projection, unit)

    def _within_memory(
        self, score: Callable[..., Result], layout: AttentionLayout, projection: Projection, unit: int, *rest: Any
    ) -> Result:
        while True:
            try:
                return score(*self.sides, layout, projection, unit, self.options, *rest)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                smaller = self._smaller_block()
                if smaller is None:
                    raise MemoryLimitError(
                        f"scores of layer {layout.layer}, block {projection.block}, slice {unit} do not fit the memory of "
                        f"{self.options.device}. Lower tile_elements (now {self.options.tile_elements}), score fewer samples "
                        "with max_samples_per_task, or use computation_device='cpu'."
                    ) from error
            self._shrink(smaller, layout, projection, unit)  # outside the handler, which keeps what failed alive

    def _smaller_block(self) -> int | None:
        """Half the samples at a time, or None where there is nothing to halve."""
        least = tiles.FIXED_ROWS if self.options.tiling == "fixed" else 1
        now = min(self.options.sample_block or 2**62, max(len(side.all_members) for side in self.sides))
        return None if self.options.weighs_by_matrix or now <= least else max(least, now // 2)

    def _shrink(self, block: int, layout: AttentionLayout, projection: Projection, unit: int) -> None:
        _logger.warning(
            "out of memory at layer %d, block %s, slice %d; at most %d samples of a task at a time from here on",
            layout.layer, projection.block, unit, block,
        )  # fmt: skip
        self.options = dataclasses.replace(self.options, sample_block=block, stacked_bytes=0)
        for side in self.sides:
            side.stacks.clear()
            side.buffers.clear()


def is_out_of_memory(error: torch.OutOfMemoryError | MemoryError | RuntimeError) -> bool:
    """Tell whether an error says that memory ran out; on a CPU torch says so in words alone."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
