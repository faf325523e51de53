r"""Scores that weigh by the inverse of a whole Fisher matrix of a slice, damped: variants "full" and "kfac".

.. math:: M_{ij} = h_i^T (F + \lambda I)^{-1} h_j

"full" takes every covariance of the slice's parameters into account, through the samples' Gram matrix
(:mod:`qkov.full_fisher`); "kfac" a Kronecker product of two small matrices (:mod:`qkov.kfac`). Both are sums over the
parameters in float64 and never hold more than one tile of gradients. With ``fisher_pool="pooled"`` the samples of both
tasks make one Fisher, each task with half the weight: for "full" this is ``(F_A + F_B) / 2``; for "kfac" it is the
approximation of that, not the mean of two approximations, which would be no Kronecker product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from . import fisher, formula, full_fisher, gradients, kfac, scoring
from .errors import NonFiniteError

if TYPE_CHECKING:
    from .geometry import AttentionLayout, Projection
    from .kfac import Eigenbasis
    from .samples import Sample
    from .score_options import ScoreOptions
    from .scoring import SliceScores
    from .sides import Side


@dataclass(frozen=True)
class Stack:
    """The samples that make F or are scored, each once: their weights in F (0: scored only) and the rows of A and B."""

    members: tuple
    weights: torch.Tensor
    tokens: torch.Tensor
    rows_a: list
    rows_b: list

    def token_weights(self, options: ScoreOptions) -> torch.Tensor:
        """Weight of each sample's tokens in F, ``omega_i``."""
        per_token = options.contribution_normalisation == "tokens"
        return self.weights / self.tokens if per_token else self.weights


def stack_samples(side_a: Side, side_b: Side, options: ScoreOptions) -> Stack:
    """Put the samples of two sides into one list; a sample that is on both, or scored and in F, is there once."""
    owners = {"A": (side_a,), "B": (side_b,), "pooled": (side_a, side_b)}[options.fisher_pool]
    scored = [[side.members[row] for row in side.rows] for side in (side_a, side_b)]
    every = [one for side in owners for one in side.fisher_members] + scored[0] + scored[1]
    places = {id(one): place for place, one in enumerate({id(one): one for one in every}.values())}
    members = tuple({id(one): one for one in every}.values())
    weights = torch.zeros(len(members), dtype=torch.float64)
    for side in owners:
        for one, weight in zip(side.fisher_members, side.weights.tolist(), strict=True):
            weights[places[id(one)]] += weight / len(owners)
    tokens = torch.tensor([one.num_tokens for one in members], dtype=torch.float64)
    rows_a, rows_b = ([places[id(one)] for one in part] for part in scored)
    return Stack(members, weights.to(options.device), tokens.to(options.device), rows_a, rows_b)


def score_slice(
    side_a: Side, side_b: Side, layout: AttentionLayout, projection: Projection, unit: int, options: ScoreOptions
) -> SliceScores:
    """Score the chosen rows of task A against those of task B on one slice; as ``scoring.score_slice``.

    Health speaks of the eigenvalues of F: of the ``min(n, p)`` that can be other than 0 for "full", of all for "kfac".
    """
    stack = stack_samples(side_a, side_b, options)
    size = scoring.num_parameters(projection, options)
    if options.variant == "full":
        total, values, damping = _score_full(stack, projection, unit, options)
    else:
        total, values, damping = _score_kfac(stack, side_a.kept, layout, projection, unit, options)
    if is_dead(float(values.sum()) / size, (side_a, side_b), layout, projection, options):
        total = torch.zeros_like(total)
    if not torch.isfinite(total).all():
        raise NonFiniteError(
            f"scores of layer {layout.layer}, block {projection.block}, slice {unit} are NaN or infinite: products of "
            "gradients leave the range of float64. Scale the loss down."
        )
    epsilon = formula.SEED_EPSILON
    health = fisher.slice_health(values, values + damping, epsilon)
    return scoring.SliceScores(formula.aggregate_scores(total, size, options.aggregate), size, health)


def is_dead(
    mean: float, sides: tuple[Side, Side], layout: AttentionLayout, projection: Projection, options: ScoreOptions
) -> bool:
    """Tell whether a slice holds no gradient, or rounding noise only, which its own damping would bring to size.

    Damping is relative to the slice itself here, so that each slice is compared with the largest block of its layer.
    """
    if options.absolute_damping:
        return False
    largest = [max(side.block_mean(layout, one, options) for one in layout.projections) for side in sides]
    largest = fisher.pool_fisher(*largest, options.fisher_pool)  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds
    dtype = scoring.gradient_dtype([one for side in sides for one in side.fisher_members], projection)
    return mean == 0 or formula.is_noise(mean, largest, dtype)


def slice_gram(stack: Stack, projection: Projection, unit: int, options: ScoreOptions) -> torch.Tensor:
    """Return the Gram matrix ``K_ij = h_i^T h_j`` of a slice, float64 ``[N, N]``, tile by tile."""
    gram = torch.zeros(len(stack.members), len(stack.members), dtype=torch.float64, device=options.device)
    for tile in scoring.slice_tiles(stack.members, projection, unit, options):
        h = formula.normalise(tile.double(), stack.tokens, options.contribution_normalisation)
        gram += formula.pair_scores(h, h)
    return gram


def _score_full(
    stack: Stack, projection: Projection, unit: int, options: ScoreOptions
) -> tuple[torch.Tensor, torch.Tensor, float]:
    gram, size = slice_gram(stack, projection, unit, options), scoring.num_parameters(projection, options)
    damping = full_fisher.ridge(
        gram,
        stack.weights,
        size,
        relative=options.ridge_lambda_rel,  # type: ignore[arg-type]  # filled in by ScoreOptions
        absolute=options.ridge_lambda,
    )
    spectrum = full_fisher.spectrum(full_fisher.weighted_gram(gram, stack.weights))[0]
    values = spectrum.sort(descending=True).values[: full_fisher.rank_bound(stack.weights, size)].cpu()
    if not values.any():
        return torch.zeros(len(stack.rows_a), len(stack.rows_b), dtype=torch.float64), values, damping
    total = full_fisher.inverse_products(gram, stack.weights, damping, stack.rows_a, stack.rows_b)
    return total.cpu(), values, damping


def token_factors(
    one: Sample, projection: Projection, unit: int, options: ScoreOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``(U, V)`` of a sample in float64 on the device, V with a column of ones if the slice has a bias."""
    head, other = (part.to(options.device).double() for part in gradients.slice_factors(one.factors, projection, unit))
    if options.include_bias and projection.bias_name:
        other = torch.cat([other, other.new_ones(len(other), 1)], dim=1)
    return head, other


def reached(one: Sample, layout: AttentionLayout, projection: Projection) -> torch.Tensor:
    """Tell which tokens of a sample are data points of a projection, bool ``[tokens]``.

    Those at which it or a peer (Q, K and V where they see as many tokens; O by itself) gets a gradient. Not padding, not
    what lies behind the last label, and for O of the last layer not a prompt without labels: whether collection kept
    such tokens must not matter.
    """
    length = len(gradients.require_tokens(one, projection.module_name).deltas)
    peers = {other.module_name for other in layout.projections if other.side == projection.side}
    deltas = [one.factors[name].deltas for name in sorted(peers)]
    return torch.stack([(delta != 0).any(-1) for delta in deltas if len(delta) == length]).any(0)


def slice_basis(
    stack: Stack,
    kept: dict[tuple[int, str, str], tuple[torch.Tensor, torch.Tensor]],
    layout: AttentionLayout,
    projection: Projection,
    unit: int,
    options: ScoreOptions,
) -> Eigenbasis:
    """Return the eigenbasis of a slice's Kronecker factors.

    A does not depend on the head, so its decomposition, the dear one, is kept in ``kept`` until another projection asks.
    """
    omega, counted = stack.token_weights(options), [place for place, w in enumerate(stack.weights.tolist()) if w > 0]
    pairs = []
    for place in counted:
        where = reached(stack.members[place], layout, projection).to(options.device)
        pairs.append([part[where] for part in token_factors(stack.members[place], projection, unit, options)])
    key = layout.layer, projection.module_name, projection.side
    if key not in kept:
        kept.clear()
        kept[key] = full_fisher.spectrum(kfac.token_mean_moment([other for _, other in pairs], omega[counted]))
    own = full_fisher.spectrum(kfac.token_moment([head for head, _ in pairs], omega[counted]))
    return kfac.Eigenbasis(*own, *kept[key])


def _score_kfac(
    stack: Stack,
    kept: dict[tuple[int, str, str], tuple[torch.Tensor, torch.Tensor]],
    layout: AttentionLayout,
    projection: Projection,
    unit: int,
    options: ScoreOptions,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    basis = slice_basis(stack, kept, layout, projection, unit, options)
    damping = kfac.ridge(basis, relative=options.ridge_lambda_rel, absolute=options.ridge_lambda)  # type: ignore[arg-type]  # filled in by ScoreOptions
    total = torch.zeros(len(stack.rows_a), len(stack.rows_b), dtype=torch.float64)
    if not basis.values.any():
        return total, basis.values.flatten().cpu(), damping
    scored = list(dict.fromkeys(stack.rows_a + stack.rows_b))
    rows_a, rows_b = ([scored.index(row) for row in rows] for rows in (stack.rows_a, stack.rows_b))
    parts = [token_factors(stack.members[place], projection, unit, options) for place in scored]
    heads = [head @ basis.own_vectors for head, _ in parts]
    step = max(1, options.tile_elements // (len(scored) * projection.width))
    for start in range(0, len(basis.other_values), step):
        columns = basis.other_vectors[:, start : start + step]
        tile = torch.stack([
            (head.T @ (other @ columns)).flatten() for head, (_, other) in zip(heads, parts, strict=True)
        ])  # fmt: skip
        h = formula.normalise(tile, stack.tokens[scored], options.contribution_normalisation)
        damped = (basis.own_values[:, None] * basis.other_values[start : start + step] + damping).flatten()
        # In the eigenbasis the matrix is diagonal, and this is variant "signed".
        total += formula.pair_scores(h[rows_a] / damped, h[rows_b]).cpu()
    return total, basis.values.flatten().cpu(), damping
