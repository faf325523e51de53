"""The grid of slices that a result is filled into, slice by slice, and where each slice goes: in memory, or in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from . import fisher, memory, score_files
from .geometry import BLOCKS

if TYPE_CHECKING:
    from types import TracebackType

    from .geometry import AttentionLayout
    from .option_types import PathLike
    from .score_files import MappedScores
    from .scoring import SliceScores


__all__ = ["Frame", "Grid", "require_room"]


class Grid:
    """Which slices a choice of layers and query heads has: K and V once per kv head that serves one of the heads."""

    def __init__(self, layouts: Sequence[AttentionLayout], heads: Sequence[int]) -> None:
        self.layouts, self.heads = layouts, heads
        self.present = np.array([[head < layout.num_heads for head in heads] for layout in layouts], bool)
        self.present = self.present.reshape(len(layouts), len(heads))
        shown = [[layout.kv_head(head) if head < layout.num_heads else -1 for head in heads] for layout in layouts]
        self.kv_heads = sorted({one for row in shown for one in row if one >= 0})
        places = {one: place for place, one in enumerate(self.kv_heads)} | {-1: -1}
        self.kv_index = np.array([[places[one] for one in row] for row in shown], np.int64).reshape(self.present.shape)

    def shape(self, block: str) -> tuple[int, int]:
        """``(layers, units)`` of a block."""
        return len(self.layouts), len(self.kv_heads if block in "KV" else self.heads)

    @property
    def num_slices(self) -> int:
        """How many slices there are in all blocks."""
        return sum(len(self.units(layout, block)) for layout in self.layouts for block in BLOCKS)

    def units(self, layout: AttentionLayout, block: str) -> list[tuple[int, int]]:
        """Pairs of column and unit of a block's slices in one layer."""
        if block in "KV":
            own = {layout.kv_head(head) for head in self.heads if head < layout.num_heads}
            return [(column, unit) for column, unit in enumerate(self.kv_heads) if unit in own]
        return [(column, head) for column, head in enumerate(self.heads) if head < layout.num_heads]

    def labels(self) -> dict[str, Any]:
        """The fields of a result that say which slices it has."""
        return {
            "layers": tuple(layout.layer for layout in self.layouts),
            "heads": tuple(self.heads),
            "kv_heads": tuple(self.kv_heads),
            "kv_index": self.kv_index,
            "present": self.present,
        }

    def empty(self, *sizes: Any) -> dict[str, np.ndarray]:
        """Return NaN ``{block: [*sizes, layers, units]}``."""
        return {block: np.full((*sizes, *self.shape(block)), np.nan) for block in BLOCKS}


class Frame:
    """The empty arrays of a heatmap, and where each slice goes.

    Args:
        layouts: The layers. heads: The query heads.
        num_a, num_b: Numbers of samples.
        scores_path: None for arrays in memory, or a new or empty folder for scores in files, see
            :class:`qkov.score_files.ScoreFiles`. In a ``with`` block, an error inside removes what was written.
    """

    if TYPE_CHECKING:
        _arrays: dict[str, np.ndarray] | Any  # None with files

    def __init__(
        self,
        layouts: Sequence[AttentionLayout],
        heads: Sequence[int],
        num_a: int,
        num_b: int,
        scores_path: PathLike | None = None,
    ) -> None:
        self.grid = Grid(layouts, heads)
        self.layouts, self.heads = layouts, heads
        self.health = {
            block: {name: np.full(self.grid.shape(block), np.nan) for name in fisher.HEALTH_STATISTICS}
            for block in BLOCKS
        }
        self._files, self._arrays = None, None
        if scores_path is None:
            self._arrays = self.grid.empty(num_a, num_b)
        else:
            shapes = {block: (num_a, num_b, *self.grid.shape(block)) for block in BLOCKS}
            self._files = score_files.ScoreFiles(scores_path, shapes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._files is not None:
            self._files.discard()

    @property
    def num_slices(self) -> int:
        """How many slices there are in all blocks."""
        return self.grid.num_slices

    def units(self, layout: AttentionLayout, block: str) -> list[tuple[int, int]]:
        """Pairs of column and unit of a block's slices in one layer."""
        return self.grid.units(layout, block)

    def put(self, block: str, place: int, column: int, result: SliceScores) -> None:
        """Place one slice's result."""
        scores = result.scores.numpy()
        if self._files is None:
            self._arrays[block][:, :, place, column] = scores
        else:
            self._files.put(block, place, column, scores)
        for name, value in result.health.items():
            self.health[block][name][place, column] = value

    @property
    def result_bytes(self) -> int:
        """Memory that a heatmap takes beside this frame, which it copies."""
        return 0 if self._arrays is None else sum(scores.nbytes for scores in self._arrays.values())

    @cached_property
    def arrays(self) -> Mapping[str, np.ndarray | MappedScores]:
        """Block to scores; files are finished when this is asked for first."""
        return self._arrays if self._files is None else self._files.finish()

    def fields(self) -> dict[str, Any]:
        """The fields of a Heatmap that this frame fills."""
        return {"arrays": self.arrays, "health": self.health, **self.grid.labels()}


def require_room(
    layouts: Sequence[AttentionLayout],
    heads: Sequence[int],
    num_a: int,
    num_b: int,
    scores_path: PathLike | None = None,
) -> None:
    """Refuse a heatmap that the machine, or the disk of ``scores_path``, cannot hold, before any of it is allocated."""
    kv_heads = max(layout.num_kv_heads for layout in layouts)
    units = 2 * len(heads) + 2 * min(kv_heads, len(heads))
    count = int(num_a) * int(num_b) * len(layouts) * units  # in Python's own integers
    if scores_path is not None:
        score_files.require_disk(score_files.new_folder(scores_path), count)
        return
    memory.require(
        2 * 8 * count,  # float64, and once more while the result is checked
        f"a heatmap of {num_a} x {num_b} samples on {len(layouts)} layers, {count:,} scores,",
        "Score fewer samples with max_samples_per_task, or fewer layers or heads at a time; keep them in files with "
        "scores_path, or reduce them while they are made (compute_summary).",
    )
