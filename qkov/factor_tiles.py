"""The two factors of the scores of a slice, parameter by parameter: to see what a single score is made of.

The same scores as :mod:`qkov.scoring` makes, by the plain route: whole tiles, one variant, each step written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from . import denominators, fisher, formula
from .errors import OptionError
from .sides import gradient_dtype, num_parameters
from .tiles import slice_tiles

if TYPE_CHECKING:
    from .geometry import AttentionLayout, Projection
    from .score_options import ScoreOptions
    from .sides import Side


@dataclass(frozen=True)
class FactorTile:
    """Some parameters of a slice: a score is the sum over k of ``left_ik right_jk``.

    Attributes:
        left: ``[rows of A, tile]``. right: ``[rows of B, tile]``.
        h_a: Normalised gradients of all samples of A, ``[samples, tile]``.
        fisher: F before damping, ``[tile]``, or ``[1]`` for one value per slice.
    """

    left: torch.Tensor
    right: torch.Tensor
    h_a: torch.Tensor
    fisher: torch.Tensor


def factor_tiles(
    side_a: Side, side_b: Side, layout: AttentionLayout, projection: Projection, unit: int, options: ScoreOptions
) -> Iterator[FactorTile]:
    """Yield the two factors of the scores of a slice over its parameters; arguments as for :func:`score_slice`."""
    if options.weighs_by_matrix:
        raise OptionError(
            f"variant={options.variant!r} is no sum over single parameters, so none has a share in its scores. Use one of "
            f"{', '.join(map(repr, formula.VARIANTS))} here."
        )
    means = [side.block_mean(layout, projection, options) for side in (side_a, side_b)]
    head_fisher = _head_fisher(side_a, side_b, projection, unit, options)
    for (grad_a, grad_b), of_fisher in _pair_tiles(side_a, side_b, projection, unit, options):
        h_a, h_b = (
            formula.normalise(grad, side.tokens, options.contribution_normalisation)
            for grad, side in ((grad_a, side_a), (grad_b, side_b))
        )
        fishers = head_fisher or [
            fisher.weighted_fisher(
                formula.contribution(h if side.owns_fisher else _fisher_h(grad, side, options)), side.weights
            )
            for h, grad, side in zip((h_a, h_b), of_fisher, (side_a, side_b), strict=True)
        ]
        chosen, damped_a, damped_b = denominators.denominators(fishers, means, options)
        left = formula.left_factor(options.variant, grad_a[side_a.rows], h_a[side_a.rows], damped_a)
        right = formula.right_factor(
            options.variant,
            grad_b[side_b.rows],
            h_b[side_b.rows],
            damped_b,
            side_b.tokens[side_b.rows],
            options.normalize_gj,
        )
        yield FactorTile(left, right, h_a, chosen)


def _pair_tiles(
    side_a: Side, side_b: Side, projection: Projection, unit: int, options: ScoreOptions
) -> Iterator[tuple[tuple[torch.Tensor, torch.Tensor], list[torch.Tensor]]]:
    """Yield the two tasks' gradients, and those that make their F: the same unless another task's do."""
    sides = (side_a, side_b)
    parts = [side.members for side in sides] + [side.fisher_members for side in sides if not side.owns_fisher]
    for tile in slice_tiles([one for part in parts for one in part], projection, unit, options):
        grad_a, grad_b, *rest = tile.split([len(part) for part in parts])
        of_fisher = [
            grad if side.owns_fisher else rest.pop(0) for grad, side in zip((grad_a, grad_b), sides, strict=True)
        ]
        yield (grad_a, grad_b), of_fisher


def _fisher_h(grad: torch.Tensor, side: Side, options: ScoreOptions) -> torch.Tensor:
    return formula.normalise(grad, side.fisher_tokens, options.contribution_normalisation)


def _head_fisher(
    side_a: Side, side_b: Side, projection: Projection, unit: int, options: ScoreOptions
) -> list[torch.Tensor] | None:
    """One Fisher value per slice and task, for fisher_source "head": the mean over the slice of F, squared before."""
    if options.fisher_source != "head":
        return None
    sums = torch.zeros(2, dtype=torch.float64)
    for _, of_fisher in _pair_tiles(side_a, side_b, projection, unit, options):
        for index, (grad, side) in enumerate(zip(of_fisher, (side_a, side_b), strict=True)):
            per_sample = fisher.reduce_heads(formula.contribution(_fisher_h(grad, side, options)))
            sums[index] += (per_sample.cpu() * side.weights).sum()
    dtype = gradient_dtype([*side_a.members, *side_b.members], projection)
    return list((sums / num_parameters(projection, options)).to(dtype=dtype, device=options.device)[:, None])
