r"""How scoring fits into a memory budget: what it needs, and which tiles, blocks and stacks fit.

A slice of K parameters takes, for n samples of both tasks with T tokens each, in numbers of the gradients' precision:

.. math:: \underbrace{n\, T\,(d_{other} + d_{own})}_{\text{stacked factors of a projection}}
   + \underbrace{f\, n\, w\, c}_{\text{a tile of c columns of a head of width w}} + O(\text{chunk})

with f = 1 where the factors of a score overwrite the gradients and 2 where they do not, and float64 ``[n_A, n_B]`` three times
over while a slice is finished. Least is given up first what costs most: samples read from disk are not kept (they are
read again for each projection), tiles become narrower, nothing is stacked, and only then are samples taken in blocks, whose
gradients are formed anew for every other block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import memory, resources, shards, tiles
from .errors import MemoryLimitError
from .sides import factors_about, gradient_dtype

if TYPE_CHECKING:
    from .geometry import AttentionLayout
    from .samples import Sample
    from .score_options import ScoreOptions
    from .sides import Side


MARGIN = 0.02
"""Share of a budget that is left to what an allocator cannot give back and to small things."""
LEAST_TILE = 2**18
"""Numbers in a tile below which giving up stacks costs less than narrower tiles."""


REMEDY = (
    "Raise memory_budget, score fewer samples with max_samples_per_task, or keep scores on disk (scores_path) or reduce them "
    "(compute_summary)."
)


@dataclass(frozen=True)
class Demand:
    """What a comparison needs, in bytes: the largest over the projections of its layers.

    Attributes:
        num_samples: Rows of a tile: samples of both tasks, and of others that make their F.
        kept: What stored samples keep of a layer once it was read; 0 in memory.
        stacked: Factors of all samples at one projection, in the precision of tiles.
        one_sample: Factors of the longest sample at one projection.
        fixed: Scores of a slice while they are finished, its Fisher and health, and chunks.
        width: Of a head. itemsize: Of a number in a tile. factor: Tiles at a time.
    """

    num_samples: int
    kept: int
    stacked: int
    one_sample: int
    fixed: int
    width: int
    itemsize: int
    factor: int

    @property
    def column(self) -> int:
        """Bytes of a tile of one column, for all samples."""
        return self.num_samples * self.width * self.itemsize * self.factor


def demand_of(
    sides: Sequence[Side],
    layouts: Sequence[AttentionLayout],
    options: ScoreOptions,
    *,
    num_variants: int = 1,
    in_place: bool = True,
) -> Demand:
    """Return the :class:`Demand` of a comparison, from sizes alone: nothing on disk is read but headers."""
    members = list({id(one): one for side in sides for one in side.all_members}.values())
    rows = [len(side.rows) for side in sides]
    every = all(len(side.rows) == len(side.members) for side in sides)
    factor = 1 if in_place and num_variants == 1 and every else 2
    if options.weighs_by_matrix:
        factor = 6  # whole tiles in float64, several at a time
    found = []
    for layout in layouts:
        layer = sum(_module_bytes(one, layout) for one in members if isinstance(one.factors, shards.Shard))
        for projection in layout.projections:
            itemsize = gradient_dtype(members, projection).itemsize
            tokens = [factors_about(one, projection.module_name)[0] for one in members]
            other = projection.weight_shape[1 - projection.head_axis]
            size = other + projection.num_units * projection.width
            scores = rows[0] * rows[1] * (8 * (num_variants + 2) + 4)
            found.append((
                sum(len(side.all_members) for side in sides), layer, sum(tokens) * size * itemsize,
                max(tokens) * sum(projection.weight_shape) * itemsize,
                scores + 8 * 8 * projection.width * other + 8 * tiles.CHUNK * itemsize,
                projection.width, itemsize, factor,
            ))  # fmt: skip
    return Demand(*(max(column) for column in zip(*found, strict=True)))


def _module_bytes(one: Sample, layout: AttentionLayout) -> int:
    total = 0
    for name, projection in {projection.module_name: projection for projection in layout.projections}.items():
        tokens, dtype = factors_about(one, name)
        total += tokens * sum(projection.weight_shape) * dtype.itemsize
    return total


def fitted(options: ScoreOptions, demand: Demand, available: int) -> ScoreOptions:
    """Return options with which scoring stays within ``available`` bytes.

    With fixed tiling the columns of a tile are what they are, and only samples are divided.

    Raises:
        MemoryLimitError: If not even one sample of each task fits.
    """
    left = available - demand.fixed
    number = demand.itemsize * demand.factor
    tile, least = options.tile_elements * number, LEAST_TILE * number
    if options.tiling == "fixed":
        left -= (
            2 * tiles.FIXED_ROWS * tiles.FIXED_COLUMNS * demand.width * demand.itemsize
        )  # the padded tiles of a product
        tile = least = demand.column * tiles.FIXED_COLUMNS
    stacks = options.tiling == "fast" and not options.weighs_by_matrix
    stacked = demand.stacked if stacks and demand.stacked <= options.stacked_bytes else 0
    if demand.kept + stacked + tile <= left:
        return options
    if demand.kept + stacked + least <= left:
        return _narrowed(options, demand, left - demand.kept - stacked)
    options = dataclasses.replace(options, reads="again" if demand.kept else "kept")
    if stacked and stacked + demand.one_sample + least <= left:
        return _narrowed(options, demand, left - stacked - demand.one_sample)
    options = dataclasses.replace(options, stacked_bytes=0)
    return _narrowed(options, demand, left - 2 * demand.one_sample)


def _narrowed(options: ScoreOptions, demand: Demand, left: int) -> ScoreOptions:
    columns = tiles.FIXED_COLUMNS if options.tiling == "fixed" else 1
    if options.tiling == "fast" and left >= demand.column:
        elements = left // (demand.itemsize * demand.factor)
        return dataclasses.replace(options, tile_elements=max(1, min(options.tile_elements, elements)))
    if options.tiling == "fixed" and left >= demand.column * columns:
        return options
    per_sample = demand.width * columns * demand.itemsize * demand.factor
    block = left // (2 * per_sample)
    least = tiles.FIXED_ROWS if options.tiling == "fixed" else 1
    if block < least:
        raise MemoryLimitError(
            f"scoring does not fit: {resources.readable(max(0, left))} are left for tiles, and the smallest takes "
            f"{resources.readable(2 * least * per_sample)}. {REMEDY}"
        )
    elements = options.tile_elements if options.tiling == "fixed" else 2 * block * demand.width
    return dataclasses.replace(options, sample_block=int(block), tile_elements=int(elements))


def fit(
    options: ScoreOptions,
    budget: int | None,
    sides: tuple[Side, Side],
    layouts: Sequence[AttentionLayout],
    *,
    later: int = 0,
    **kind: Any,
) -> ScoreOptions:
    """Return options that keep to a budget, given what the process holds now.

    Args:
        options: As asked for. budget: Bytes, or None for no limit. sides, layouts: What is scored.
        later: Bytes that the result takes beyond what is held now, once tiles are gone.
        kind: ``num_variants`` and ``in_place`` as for :func:`demand_of`.

    Raises:
        MemoryLimitError: If it cannot be kept to, with both numbers.
    """
    if budget is None:
        return options
    held = held_bytes(options.device)
    available = int(budget * (1 - MARGIN)) - held
    if available < later:
        raise MemoryLimitError(
            f"{resources.readable(held)} are in use and the result takes {resources.readable(later)} more; the budget is "
            f"{resources.readable(budget)}. {REMEDY}"
        )
    return fitted(options, demand_of(sides, layouts, options, **kind), available)


def held_bytes(device: str) -> int:
    """Return the memory in use: of the process on a CPU, of what torch has allocated on a GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device)
    return memory.resident_bytes() or 0
