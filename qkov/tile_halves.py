"""One task's share in the tiles of a slice: its gradients there, its Fisher, and its factor of the scores.

A :class:`Half` goes through its samples in blocks, usually one that holds all of them. What a block holds is overwritten
with the factor where nothing else is made of it. Elementwise steps call the functions of :mod:`qkov.formula` for a few
rows at a time: results of the size of a tile would have to be paged in anew for every step, which costs more than the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import fisher, formula, tiles

if TYPE_CHECKING:
    from .geometry import Projection
    from .score_options import ScoreOptions
    from .sides import Side


class Half:
    """The samples of one side in the tiles of one slice.

    Args:
        side: The :class:`qkov.sides.Side`. role: "own" for its samples, "fisher" for those of another task that make its F.
        raw: Whether ``g`` is needed beside ``h``; if not, tiles hold ``h`` from the start.
        in_place: Whether a factor may overwrite the gradients.
    """

    if TYPE_CHECKING:
        _part: Part | None
        weights: torch.Tensor | Any  # None where no Fisher is made of these samples

    def __init__(
        self,
        side: Side,
        role: str,
        projection: Projection,
        unit: int,
        options: ScoreOptions,
        dtype: torch.dtype,
        *,
        raw: bool,
        in_place: bool,
    ) -> None:
        self.side, self.role, self.raw, self.in_place = side, role, raw, in_place
        self.options, self.dtype, self.width = options, dtype, projection.width
        members, tokens, rows = (
            (side.members, side.tokens, side.rows) if role == "own" else (side.fisher_members, side.fisher_tokens, [])
        )
        if role not in side.buffers or side.buffers[role].dtype != dtype:
            side.buffers[role] = tiles.Buffers(dtype, options.device)
        self.buffers = side.buffers[role]
        stacks = tiles.held_stacks(side.stacks, role, members, projection, options, dtype, self.buffers)
        self.factors = tiles.SliceFactors(stacks, unit, None if raw else tokens)
        self.tokens = tokens[stacks.order]
        self.weights = None
        if len(side.weights) == len(members) and (side.owns_fisher or role == "fisher"):
            self.weights = side.weights[stacks.order].to(tokens.device, dtype)
        row_of = {place: row for row, place in enumerate(stacks.order)}
        self.scored = sorted({row_of[place] for place in rows})
        self._wanted = (
            [self.scored.index(row_of[place]) for place in rows] if len(rows) < 2 else self._ranks(rows, row_of)
        )
        block = options.sample_block or max(1, len(members))
        if options.tiling == "fixed":
            block = -(-block // tiles.FIXED_ROWS) * tiles.FIXED_ROWS
        self.blocks = [range(start, min(start + block, len(members))) for start in range(0, len(members), block)]
        self._part = None

    def _ranks(self, rows: Iterable[int], row_of: Mapping[int, int]) -> list[int]:
        ranks = {row: rank for rank, row in enumerate(self.scored)}
        return [ranks[row_of[place]] for place in rows]

    @property
    def num_scored(self) -> int:
        """Number of rows that are scored."""
        return len(self.scored)

    @property
    def block_size(self) -> int:
        """Rows of the largest block."""
        return max(map(len, self.blocks), default=0)

    def in_order(self, values: torch.Tensor) -> torch.Tensor:
        """Bring values by scored row, first axis, into the order that the side asks for."""
        return values if self._wanted == list(range(len(values))) else values[self._wanted]

    def parts(self, columns: tuple[int, int] | None) -> Iterator[Part]:
        """Yield the blocks of a tile, filled; one that is still there as it was left is not filled again."""
        for block in self.blocks:
            if self._part is None or (self._part.columns, self._part.block) != (columns, block):
                self._part = Part(self, columns, block)
            yield self._part

    def fisher(self, columns: tuple[int, int] | None) -> torch.Tensor:
        """Return F of a tile, ``[tile]``."""
        return sum(  # type: ignore[return-value]  # a sum that starts at 0
            fisher.weighted_fisher(formula.contribution(part.h(rows)), self.weights[part.block.start :][rows])
            for part in self.parts(columns)
            for rows in part.row_chunks()
        )

    def head_fisher(self, all_columns: Sequence[tuple[int, int] | None]) -> torch.Tensor:
        """Return the mean of F over the slice, a float: squared before, for fisher_source "head"; times its size."""
        total: Any = 0.0
        for columns in all_columns:
            for part in self.parts(columns):
                sums = [fisher.reduce_heads(formula.contribution(part.h(rows))) for rows in part.row_chunks()]
                total += (torch.cat(sums) * self.weights[part.block.start : part.block.stop]).sum()
        return total


@dataclass(frozen=True)
class TilePlaces:
    """Where the scored rows of a fixed tile are: ``within`` it, and from ``first`` on among those of the part."""

    first: int
    within: list


class Part:
    """One block of rows of a half, in the columns of one tile.

    Attributes:
        grads: ``g``, or ``h`` where the half needs no ``g``, ``[rows, tile]``.
        places: Where its scored rows are among those of the half, a range.
    """

    if TYPE_CHECKING:
        _rows: torch.Tensor | Any  # None where all rows are scored
        _factor: torch.Tensor | None

    def __init__(self, half: Half, columns: tuple[int, int] | None, block: range) -> None:
        self.half, self.columns, self.block = half, columns, block
        shape = (half.width,) if columns is None else (half.width, columns[1] - columns[0])
        grads = half.buffers.get("grads", len(block), *shape)
        half.factors.write(columns, block, grads)
        self.grads = grads.flatten(1)
        rows = [row - block.start for row in half.scored if row in block]
        first = sum(row < block.start for row in half.scored)
        self.places = range(first, first + len(rows))
        self._whole = len(rows) == len(block)
        self._rows = None if self._whole else torch.tensor(rows, dtype=torch.long, device=grads.device)
        self._factor = None

    def row_chunks(self, count: int | None = None) -> list[slice]:
        """Cut all rows, or ``count``, into slices small enough for the cache; on a GPU into one."""
        count = len(self.block) if count is None else count
        size = self.grads.shape[1]
        if self.half.options.tiling == "fixed":  # so that blocks, which hold whole tiles, do not regroup the sum of F
            rows = min(tiles.FIXED_ROWS, 2 ** (max(1, tiles.CHUNK // size).bit_length() - 1))
            return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]
        return tiles.row_chunks(count, size, self.grads.device)

    def chunks(self) -> Iterator[torch.Tensor]:
        """Yield the scored rows, a few at a time."""
        for rows in self.row_chunks(len(self.places)):
            yield self.grads[rows if self._whole else self._rows[rows]]

    def h(self, rows: slice) -> torch.Tensor:
        """Return normalised gradients of some rows of the block."""
        return self._normalised(self.grads[rows], rows)

    def _normalised(self, grads: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        if not self.half.raw:
            return grads
        tokens = self.half.tokens[self.block.start : self.block.stop][rows]
        return formula.normalise(grads, tokens, self.half.options.contribution_normalisation)

    def left(self, variant: str, damped_a: torch.Tensor, _damped_b: torch.Tensor) -> torch.Tensor:
        """Return task A's factor of the scored rows, ``[scored, tile]``."""
        return self._made(lambda grads, rows: self._left(variant, grads, rows, damped_a))

    def right(self, variant: str, _damped_a: torch.Tensor, damped_b: torch.Tensor) -> torch.Tensor:
        """Return task B's factor of the scored rows, ``[scored, tile]``."""
        return self._made(lambda grads, rows: self._right(variant, grads, rows, damped_b))

    def _left(
        self, variant: str, grads: torch.Tensor, rows: slice | torch.Tensor, damped: torch.Tensor
    ) -> torch.Tensor:
        return formula.left_factor(variant, grads, self._normalised(grads, rows), damped)

    def _right(
        self, variant: str, grads: torch.Tensor, rows: slice | torch.Tensor, damped: torch.Tensor
    ) -> torch.Tensor:
        h = None if variant in ("dot", "unsigned") else self._normalised(grads, rows)
        tokens = self.half.tokens[self.block.start : self.block.stop][rows]
        return formula.right_factor(variant, grads, h, damped, tokens, self.half.options.normalize_gj)  # type: ignore[arg-type]  # there in this variant

    def _made(self, factor: Callable[..., torch.Tensor]) -> torch.Tensor:
        if self._factor is not None:
            return self._factor
        overwrites = self.half.in_place and self._whole
        out = self.grads if overwrites else self.half.buffers.get("factor", len(self.places), self.grads.shape[1])
        for place in self.row_chunks(len(self.places)):
            rows = place if self._whole else self._rows[place]
            out[place] = factor(self.grads[rows], rows)
        if overwrites:
            self._factor = out
        return out

    def fixed_tiles(self, factor: torch.Tensor) -> Iterator[tuple[TilePlaces, torch.Tensor]]:
        """Yield a factor in tiles ``[FIXED_ROWS, tile]``, each sample where its number puts it, beside rows of zeros."""
        rows = range(len(self.block)) if self._whole else self._rows.tolist()
        first = 0
        for start in range(0, len(self.block), tiles.FIXED_ROWS):
            within = [row - start for row in rows if start <= row < start + tiles.FIXED_ROWS]
            if within:
                tile = factor.new_zeros(tiles.FIXED_ROWS, factor.shape[1])
                tile[within] = factor[first : first + len(within)]
                yield TilePlaces(first, within), tile
                first += len(within)

    def profile(self, lengths: torch.Tensor) -> torch.Tensor:
        """Sum what the scored rows are in size, each brought to length 1, ``[tile]``; rows of zeros add nothing."""
        total = torch.zeros(self.grads.shape[1], dtype=self.grads.dtype, device=self.grads.device)
        for rows, grads in zip(self.row_chunks(len(self.places)), self.chunks(), strict=True):
            length = lengths[self.places.start : self.places.stop][rows].to(grads)[:, None]
            total += torch.where(length > 0, grads.abs() / length, torch.zeros_like(grads)).sum(0)
        return total
