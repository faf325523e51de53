r"""Scores of one slice between two lists of samples, tile by tile, with Fisher, damping and health on the way.

A tile holds some columns of one slice for all samples of both tasks, so F is exact in one pass and nothing larger than
``tile_elements`` numbers of gradients exists at a time. Several variants share a tile: each is one more matrix product.
Elementwise steps go through the functions of :mod:`qkov.formula` a few rows at a time, so that what they allocate stays in
the cache, and their results overwrite the tile where only one variant is asked for. Arithmetic inside a tile is in the
gradients' own precision (float32 at least); sums across tiles are float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import denominators, fisher, formula, tiles
from .errors import NonFiniteError
from .score_options import ScoreOptions, checked_device
from .sides import Side, gradient_dtype, num_parameters
from .tile_halves import Half
from .tiles import slice_tiles

if TYPE_CHECKING:
    from .geometry import AttentionLayout, Projection
    from .tile_halves import Part


__all__ = [
    "ScoreOptions", "Side", "SliceMarginals", "SliceScores", "checked_device", "gradient_dtype", "num_parameters",
    "score_marginals", "score_slice", "score_variants", "slice_tiles",
]  # fmt: skip

PRODUCT_ROWS = 2048


@dataclass(frozen=True)
class SliceScores:
    """Scores ``[rows_a, rows_b]`` (float64) of one slice, its size, and its health."""

    scores: torch.Tensor
    num_parameters: int
    health: dict


@dataclass(frozen=True)
class SliceMarginals:
    """Averages of the scores of one slice over one task's rows, float64, its size, and its health.

    Attributes:
        by_a: Mean over the rows of B, ``[rows_a]``. by_b: Mean over those of A, ``[rows_b]``.
        lift: Of the rows of A over those of B, ``[rows_a]``; see :func:`qkov.formula.lift`.
    """

    by_a: torch.Tensor
    by_b: torch.Tensor
    lift: torch.Tensor
    num_parameters: int
    health: dict


def score_slice(
    side_a: Side, side_b: Side, layout: AttentionLayout, projection: Projection, unit: int, options: ScoreOptions
) -> SliceScores:
    """Score the chosen rows of task A against those of task B on one slice.

    Args:
        side_a: Samples of A; all of them make F, its ``rows`` are scored.
        side_b: Likewise for B.
        layout: The attention module.
        projection: One of its blocks.
        unit: Query head for Q and O, kv head for K and V.
        options: Variant, Fisher, damping, aggregation, tiling.
    """
    return score_variants(side_a, side_b, layout, projection, unit, options, (options.variant,))[options.variant]


def score_variants(
    side_a: Side,
    side_b: Side,
    layout: AttentionLayout,
    projection: Projection,
    unit: int,
    options: ScoreOptions,
    variants: Sequence[str],
) -> dict[str, SliceScores]:
    """Score a slice by several variants, from gradients built once; as :func:`score_slice`.

    Args:
        variants: Some of ``formula.VARIANTS``; ``options.variant`` is not looked at.

    Returns:
        ``{variant: SliceScores}``.
    """
    work = _SliceWork(side_a, side_b, layout, projection, unit, options, variants)
    a, b = work.halves
    totals = {one: work.zeros(a.num_scored, b.num_scored) for one in variants}
    for columns in work.columns():
        damped = work.damped(columns)
        for part_a in a.parts(columns):
            for part_b in b.parts(columns):
                for one in variants:
                    left, right = part_a.left(one, *damped[one]), part_b.right(one, *damped[one])
                    _add_products(totals[one], part_a, part_b, left, right, options)
    return {one: work.finished(one, a.in_order(b.in_order(total.T).T)) for one, total in totals.items()}


def score_marginals(
    side_a: Side, side_b: Side, layout: AttentionLayout, projection: Projection, unit: int, options: ScoreOptions
) -> SliceMarginals:
    r"""Average the scores of a slice over either task, in ``O(n K)``: no pair is ever formed.

    .. math:: \frac1{n_B}\sum_j M_{ij} = \sum_k L_{ik} \bar R_k, \qquad \frac1{n_A}\sum_i M_{ij} = \sum_k \bar L_k R_{jk}

    with the factors L and R of the variant, :func:`qkov.formula.left_factor`. Arguments as for :func:`score_slice`.
    """
    variant = options.variant
    work = _SliceWork(side_a, side_b, layout, projection, unit, options, (variant,), keeps_gradients=True)
    a, b = work.halves
    by_a, by_b, lifted, even = (work.zeros(half.num_scored) for half in (a, b, a, a))
    lengths, profile_sum = _row_lengths(work, b), work.zeros(())
    for columns in work.columns():
        damped = work.damped(columns)[variant]
        mean_left = sum(part.left(variant, *damped).sum(0) for part in a.parts(columns)) / max(1, a.num_scored)
        mean_right, profile = 0.0, 0.0
        for part in b.parts(columns):
            mean_right = mean_right + part.right(variant, *damped).sum(0) / max(1, b.num_scored)
            profile = profile + part.profile(lengths) / max(1, b.num_scored)
        for part in a.parts(columns):
            by_a[part.places] += part.left(variant, *damped) @ mean_right
            weight = part.left("unsigned", *damped)
            lifted[part.places] += weight @ profile
            even[part.places] += weight.sum(1)
        for part in b.parts(columns):
            by_b[part.places] += part.right(variant, *damped) @ mean_left
        profile_sum += profile.sum()  # type: ignore[union-attr]  # a sum that starts at 0
    size = num_parameters(projection, options)
    even = even * profile_sum
    live = even > 0  # neither a sample of A nor all of B without a gradient here: 0 / 0 by definition 0
    if denominators.is_noise(work.means, work.largest, work.dtype, options):
        live.zero_()  # as the scores are
    lift = torch.where(live, size * lifted / even, torch.zeros_like(even))
    found = [work.finished(variant, half.in_order(one)) for half, one in ((a, by_a), (b, by_b))]
    return SliceMarginals(found[0].scores, found[1].scores, a.in_order(lift).cpu(), size, found[0].health)


def _row_lengths(work: _SliceWork, half: Half) -> torch.Tensor:
    """Euclidean length of each scored row's gradient of the slice, ``[scored]``: what lift divides by."""
    squares = work.zeros(half.num_scored)
    for columns in work.columns():
        for part in half.parts(columns):
            squares[part.places] += torch.cat([fisher.reduce_heads(rows.square()) for rows in part.chunks()])
    return squares.sqrt()


def _add_products(
    totals: torch.Tensor, part_a: Part, part_b: Part, left: torch.Tensor, right: torch.Tensor, options: ScoreOptions
) -> None:
    """Add the products of all pairs to their places."""
    target = totals[part_a.places.start : part_a.places.stop, part_b.places.start : part_b.places.stop]
    if options.tiling == "fast":
        for some, rows in zip(target.split(PRODUCT_ROWS), left.split(PRODUCT_ROWS), strict=True):
            some += formula.pair_scores(rows, right)
        return
    # Products of one shape, with each sample at the place in it that its number says: nothing else may move a bit.
    for places_a, rows_a in part_a.fixed_tiles(left):
        for places_b, rows_b in part_b.fixed_tiles(right):
            found = formula.pair_scores(rows_a, rows_b)[places_a.within][:, places_b.within]
            target[places_a.first : places_a.first + len(found), places_b.first : places_b.first + found.shape[1]] += (
                found
            )


class _SliceWork:
    """What the variants of one slice share: both halves, what makes their Fisher, and what becomes health."""

    if TYPE_CHECKING:
        spectra: dict[str, list[Any]]

    def __init__(
        self,
        side_a: Side,
        side_b: Side,
        layout: AttentionLayout,
        projection: Projection,
        unit: int,
        options: ScoreOptions,
        variants: Sequence[str],
        *,
        keeps_gradients: bool = False,
    ) -> None:
        self.sides, self.layout, self.projection, self.unit = (side_a, side_b), layout, projection, unit
        self.options = {one: dataclasses.replace(options, variant=one) for one in variants}
        self.any = options
        owners = {"A": (True, False), "B": (False, True), "pooled": (True, True)}[options.fisher_pool]
        self.needed = (True, True) if "natural" in variants else owners
        self._owners = [side for side, needed in zip(self.sides, self.needed, strict=True) if needed]
        # What nobody divides by is not computed: for the first scores of samples, norms are a tenth of the work.
        self.means = [self._mean(side, projection) for side in self.sides]
        self.largest = [max(self._mean(side, one) for one in layout.projections) for side in self.sides]
        self.dtype = torch.float64 if any(side.is_wide(projection) for side in self.sides) else torch.float32
        in_place = len(variants) == 1 and not keeps_gradients
        raws = "dot" in variants, "dot" in variants or "unsigned" in variants
        self.halves = [
            Half(side, "own", projection, unit, options, self.dtype, raw=raw, in_place=in_place)
            for side, raw in zip(self.sides, raws, strict=True)
        ]
        self.of_fisher = [
            half if side.owns_fisher
            else Half(side, "fisher", projection, unit, options, self.dtype, raw=False, in_place=False)
            for side, half in zip(self.sides, self.halves, strict=True)
        ]  # fmt: skip
        self.spectra = {one: [] for one in variants}
        self._head = self._head_fishers() if options.fisher_source == "head" else None

    def _mean(self, side: Side, projection: Projection) -> float:
        return side.block_mean(self.layout, projection, self.any) if side in self._owners else 0.0

    def zeros(self, *shape: Any) -> torch.Tensor:
        """Return float64 zeros where the scores are computed."""
        return torch.zeros(*shape, dtype=torch.float64, device=self.any.device)

    def columns(self) -> Sequence[tuple[int, int] | None]:
        """Return the columns of each tile."""
        halves = {id(half): half for half in (*self.halves, *self.of_fisher)}
        return tiles.columns_of(self.projection, self.any, sum(half.block_size for half in halves.values()))

    def _head_fishers(self) -> list[torch.Tensor]:
        size = num_parameters(self.projection, self.any)
        return [(half.head_fisher(self.columns()) / size).to(self.dtype)[None] for half in self.of_fisher]

    def damped(self, columns: tuple[int, int] | None) -> dict[str, list[torch.Tensor]]:
        """Return ``{variant: (D of A's factor, D of B's)}`` in a tile, and remember F."""
        fishers = self._head or [
            half.fisher(columns) if needed else self.zeros(1).to(self.dtype)
            for half, needed in zip(self.of_fisher, self.needed, strict=True)
        ]
        found = {}
        for one, options in self.options.items():
            chosen, *found[one] = denominators.denominators(fishers, self.means, options)
            width = 1 if columns is None else columns[1] - columns[0]
            self.spectra[one].append(chosen.expand(width * self.projection.width).double())
        return found

    def finished(self, variant: str, total: torch.Tensor) -> SliceScores:
        """Turn sums over the parameters into scores, with health."""
        options, layout = self.options[variant], self.layout
        if denominators.is_noise(self.means, self.largest, self.dtype, options):
            total.zero_()  # 0 / 0 by definition 0, and noise over noise: there is nothing to weigh
        total = total.cpu()
        if not torch.isfinite(total).all():
            raise NonFiniteError(
                f"scores of layer {layout.layer}, block {self.projection.block}, slice {self.unit} are NaN or infinite: "
                f"gradients or their squares leave the range of {self.dtype}. Scale the loss down, or collect in float64."
            )
        size = num_parameters(self.projection, options)
        epsilon = formula.SEED_EPSILON if options.epsilon is None else options.epsilon
        values = torch.cat(self.spectra[variant])
        # In float64: a float32 D keeps nothing of a damping 1e-8 times as large as F.
        damped = denominators.damp(values, denominators.owner_mean(self.means, options), options)
        health = fisher.slice_health(values, damped, epsilon)
        return SliceScores(formula.aggregate_scores(total, size, options.aggregate), size, health)
