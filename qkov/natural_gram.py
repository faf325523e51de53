r"""Inner products of samples in natural-gradient space, for groups of parameters that cut the collected weights into parts.

.. math:: G_{ij} = \sum_{k \in \text{group}} \frac{h_{ik} h_{jk}}{D_k}, \qquad
          \cos_{ij} = \frac{G_{ij}}{\sqrt{G_{ii} G_{jj}}}, \qquad
          F = \tfrac12 (F_{A \cup R} + F_B)

over the samples of tasks A and B, and of a reference R. Sums of groups are sums of inner products and of squared norms, never
of cosines: a layer is exactly the sum of its slices. Slices come tile by tile from :mod:`qkov.scoring`. With
``metric="euclidean"`` D is 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from . import errors, fisher, formula, gradients, scoring
from .geometry import Projection

if TYPE_CHECKING:
    from .collector import FisherCollector
    from .linear_weights import LinearWeight
    from .samples import Sample
    from .score_options import ScoreOptions
    from .sides import Side


LEVELS = ("head", "block", "layer", "all")
METRICS = ("natural", "euclidean")
TOTAL = "all"


@dataclass(frozen=True)
class Group:
    """Name some parameters; None where a group holds several of a kind.

    Attributes:
        layer: Layer number. block: "Q", "K", "V" or "O"; None for another weight.
        unit: Query head for Q and O, kv head for K and V. parameter: Name of the stored weight.
    """

    layer: int | None = None
    block: str | None = None
    unit: int | None = None
    parameter: str | None = None

    @property
    def label(self) -> str:
        """What the group is called in tables and pictures."""
        if self.layer is None and self.parameter is None:
            return TOTAL
        if self.parameter is None:
            return f"layer {self.layer}"
        if self.block is None:
            return self.parameter
        unit = "" if self.unit is None else f" {'kv head' if self.block in 'KV' else 'head'} {self.unit}"
        return f"layer {self.layer} {self.block}{unit}"


@dataclass(frozen=True)
class Grams:
    """Inner products by group.

    Attributes:
        groups: Their names, in the order of the model.
        inner: A's samples and then B's among each other, float64 ``[groups, n_a + n_b, n_a + n_b]``, symmetric.
        reference: The reference's samples with B's, ``[groups, n_r, n_b]``.
        reference_norms: Squared norms of the reference's samples, ``[groups, n_r]``.
        noise: Names of the weights that hold rounding noise and nothing else; they add 0.
        floor: Share of a group's largest squared norm that rounding can make out of nothing; see :func:`cosines`.
    """

    groups: tuple
    inner: np.ndarray
    reference: np.ndarray
    reference_norms: np.ndarray
    noise: tuple
    floor: float


def inner_products(
    collector: FisherCollector,
    tasks: Sequence[str],
    *,
    level: str,
    metric: str,
    options: ScoreOptions,
    progress: bool = True,
) -> Grams:
    """Walk over the slices of all collected weights and add them up by group.

    Args:
        collector: Holds the samples.
        tasks: Names of A and B, and of the reference if there is one.
        level: One of ``LEVELS``. metric: One of ``METRICS``.
        options: ``scoring.ScoreOptions``: tiles, device, normalisation and relative ridge.
        progress: Show a bar when the work takes longer than two seconds.

    Returns:
        :class:`Grams`.
    """
    members = [collector.samples(task) for task in tasks]
    counts = [len(part) for part in members] + [0] * (3 - len(members))
    sides = [scoring.Side([*members[0], *sum(members[2:], ())], (), options), scoring.Side(members[1], (), options)]
    everyone = _Everyone([one for part in members for one in part], sample_weights(counts), options, metric)
    pieces = [*_attention_pieces(collector, sides, options), *_other_pieces(collector, everyone, options)]
    sums: dict[Any, Any]
    noise: list[str]
    sums, noise = {}, []
    # Where disable is not given, TQDM_DISABLE in the environment still acts.
    hidden = {} if progress else {"disable": True}
    total_units = sum(piece.projection.num_units for piece in pieces)
    with tqdm(total=total_units, desc="conflicts", unit=" slices", delay=2, **hidden) as bar:
        for piece in pieces:
            silent = formula.is_noise(piece.mean, piece.most, everyone.dtype(piece.projection))
            noise += [dataclasses.replace(piece.group, unit=None).label] if silent else []
            for unit in range(piece.projection.num_units):
                sums.setdefault(piece.group_of(unit, level), everyone.zeros())
                if not silent:
                    tiles = scoring.slice_tiles(everyone.members, piece.projection, unit, options)
                    everyone.add(sums[piece.group_of(unit, level)], tiles, piece.mean)
                bar.update()
    coarse = any(everyone.dtype(one) == torch.float32 for one in (piece.projection for piece in pieces))
    floor = (16 * torch.finfo(torch.float32 if coarse else torch.float64).eps) ** 2  # as formula.is_noise has it
    return _assembled(sums, counts, noise, floor)


@dataclass(frozen=True)
class Piece:
    """One block of a layer, or one other weight whole, with what damping needs of it.

    Attributes:
        group: Its layer, block and parameter.
        projection: Where its units lie.
        mean: Mean of the pooled F over the piece, what damping is relative to.
        most: The largest such mean beside it in the layer.
    """

    group: Group
    projection: Projection
    mean: float
    most: float

    def group_of(self, unit: int, level: str) -> Group:
        """Return the group of a unit."""
        if level == "head" and self.group.block is not None:
            return dataclasses.replace(self.group, unit=unit)
        if level in ("head", "block") or (level == "layer" and self.group.layer is None):
            return self.group
        return Group(self.group.layer) if level == "layer" else Group()


def _attention_pieces(collector: FisherCollector, sides: Sequence[Side], options: ScoreOptions) -> Iterator[Piece]:
    for layout in collector.config.layers:
        means = [sum(side.block_mean(layout, one, options) for side in sides) / 2 for one in layout.projections]
        for projection, mean in zip(layout.projections, means, strict=True):
            group = Group(layout.layer, projection.block, None, projection.param_name)
            yield Piece(group, projection, mean, max(means))


def _other_pieces(collector: FisherCollector, everyone: _Everyone, options: ScoreOptions) -> Iterator[Piece]:
    """Weights that hold no head, each as a projection with one unit that is all of it."""
    others = [one for one in collector.weights if one.kind != "attention"]
    whole = [_whole(weight) for weight in others]
    means = [everyone.mean_contribution(one, options) for one in whole]
    for weight, projection, mean in zip(others, whole, means, strict=True):
        beside = [
            value
            for value, one in zip(means, others, strict=True)
            if (one.layer, one.kind) == (weight.layer, weight.kind)
        ]
        yield Piece(Group(weight.layer, None, None, weight.param_name), projection, mean, max(beside))


def _whole(weight: LinearWeight) -> Projection:
    size = weight.weight_shape[weight.out_axis]
    # The block only says that output features are cut; nothing here reads it.
    return Projection(
        "Q", weight.module_name, weight.param_name, None, weight.weight_shape, weight.out_axis, "output", (0,), size
    )


def sample_weights(counts: Sequence[int]) -> torch.Tensor:
    """Weigh samples so that F is the mean of B's and of that of A and the reference together: blind to which is which."""
    n_a, n_b, n_r = counts
    first = 0.5 / (n_a + n_r)
    return torch.cat([
        torch.full((size,), weight, dtype=torch.float64)
        for size, weight in ((n_a, first), (n_b, 0.5 / n_b), (n_r, first))
    ])  # fmt: skip


def natural(h: torch.Tensor, damped: torch.Tensor) -> torch.Tensor:
    r"""Divide by the root of the damped Fisher: ``h_i / sqrt(D)``, ``[samples, tile]``."""
    return h / damped.sqrt()


def with_total(parts: np.ndarray) -> np.ndarray:
    """Append the sum over groups, ``[groups + 1, ...]``: a group cuts nothing twice, so that inner products add up."""
    return np.concatenate([parts, parts.sum(0, keepdims=True)])


def cosines(inner: np.ndarray, norms_a: np.ndarray, norms_b: np.ndarray, *, floor: float = 0.0) -> np.ndarray:
    r"""Divide inner products by norms; NaN where one of the two is no more than rounding.

    Args:
        inner: ``[..., n_a, n_b]``. norms_a: Squared norms, ``[..., n_a]``. norms_b: ``[..., n_b]``.
        floor: A sample whose squared norm is at most this share of the largest one in the group has no gradient there.
    """
    most = np.maximum(norms_a.max(-1, initial=0.0), norms_b.max(-1, initial=0.0))[..., None]
    root_a, root_b = (np.sqrt(np.where(norms > floor * most, norms, np.nan)) for norms in (norms_a, norms_b))
    # Rounding can lead out of [-1, 1].
    return np.clip(inner / (root_a[..., :, None] * root_b[..., None, :]), -1.0, 1.0)


class _Everyone:
    """All samples of all tasks, which every slice needs together: F runs over them."""

    def __init__(self, members: Sequence[Sample], weights: torch.Tensor, options: ScoreOptions, metric: str) -> None:
        self.members, self._options, self._metric = members, options, metric
        self._weights = weights.to(options.device)
        self._tokens = torch.tensor([one.num_tokens for one in members], device=options.device)

    def zeros(self) -> torch.Tensor:
        return torch.zeros(len(self.members), len(self.members), dtype=torch.float64)

    def add(self, total: torch.Tensor, tiles: Iterable[torch.Tensor], mean: float) -> None:
        """Add a slice to ``total [samples, samples]``, tile by tile."""
        for grad in tiles:
            h = formula.normalise(grad, self._tokens, self._options.contribution_normalisation)
            if self._metric == "natural":
                pooled = fisher.weighted_fisher(formula.contribution(h), self._weights)
                h = natural(h, formula.damp(pooled, mean, ridge_lambda_rel=self._options.ridge_lambda_rel))  # type: ignore[arg-type]  # filled in by ScoreOptions
            total += (h @ h.T).double().cpu()
        if not torch.isfinite(total).all():
            raise errors.NonFiniteError(
                f"inner products of gradients leave the range of {grad.dtype}. Scale the loss down, or collect in float64."
            )

    def mean_contribution(self, projection: Projection, options: ScoreOptions) -> float:
        """Mean of the pooled F over a whole weight."""
        total = 0.0
        for one, weight in zip(self.members, self._weights.tolist(), strict=True):
            norms = one.squared_norms
            if projection.param_name not in norms:  # beside those of blocks, which go by layer and block
                norms[projection.param_name] = gradients.squared_norm(one.factors, projection)
            tokens = one.num_tokens if options.contribution_normalisation == "tokens" else 1
            total += weight * norms[projection.param_name] / tokens
        return total / math.prod(projection.weight_shape)

    def dtype(self, projection: Projection) -> torch.dtype:
        kinds = {one.factors[projection.module_name].deltas.dtype for one in self.members}
        return torch.float64 if torch.float64 in kinds else torch.float32


def _assembled(sums: Mapping[Group, torch.Tensor], counts: Sequence[int], noise: Sequence[str], floor: float) -> Grams:
    n_a, n_b, n_r = counts
    stack = np.stack([total.numpy() for total in sums.values()])
    stack = (stack + stack.swapaxes(1, 2)) / 2  # a product of matrices need not be symmetric in its last digit
    both = n_a + n_b
    return Grams(
        groups=tuple(sums),
        inner=np.ascontiguousarray(stack[:, :both, :both]),
        reference=np.ascontiguousarray(stack[:, both:, n_a:both]),
        reference_norms=np.ascontiguousarray(np.einsum("gii->gi", stack)[:, both : both + n_r]),
        noise=tuple(noise),
        floor=floor,
    )
