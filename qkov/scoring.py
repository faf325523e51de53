r"""Scores of one slice between two lists of samples, tile by tile, with Fisher, damping and health on the way.

A tile holds some columns of one slice for all samples of both tasks, so F is exact in one pass and nothing larger than
``tile_elements`` numbers of gradients exists at a time. Arithmetic inside a tile is in the gradients' own precision
(float32 at least); sums across tiles are float64.
"""

from dataclasses import dataclass

import torch

from . import fisher, formula, full_fisher, gradients
from .errors import NonFiniteError, OptionError


@dataclass(frozen=True)
class ScoreOptions:
    """How a score is formed; the fields are documented at ``QKOVInterferenceMetric``."""

    variant: str = "unsigned"
    fisher_pool: str = "A"
    fisher_source: str = "contributions"
    aggregate: str = "mean"
    normalize_gj: str = "none"
    contribution_normalisation: str = "tokens"
    include_bias: bool = False
    epsilon: float | None = None
    ridge_lambda: float | None = None
    ridge_lambda_rel: float | None = None
    ema_decay: float = fisher.EMA_DECAY
    tile_elements: int = 2**22
    device: str = "cpu"

    def __post_init__(self):
        if self.variant == "predicted":
            raise OptionError(
                "variant='predicted' depends on an optimiser and a step, which this metric does not know: use "
                "qkov.predict_change (slices, heads, layers, with intervals) or qkov.predict_pairs (a heatmap)."
            )
        for name, choices in (
            ("variant", formula.VARIANTS + formula.MATRIX_VARIANTS), ("fisher_pool", formula.FISHER_POOLS),
            ("fisher_source", fisher.FISHER_SOURCES), ("aggregate", formula.AGGREGATES),
            ("normalize_gj", formula.GRAD_NORMALISATIONS),
            ("contribution_normalisation", formula.NORMALISATIONS),
        ):  # fmt: skip
            formula.require_choice(name, getattr(self, name), choices)
        if self.normalize_gj != "none" and self.variant != "unsigned":
            raise OptionError(
                f"normalize_gj={self.normalize_gj!r} with variant={self.variant!r}: only 'unsigned' uses raw gradients of "
                "B next to contributions of A. Leave normalize_gj='none'; contribution_normalisation covers the others."
            )
        if self.ridge_lambda_rel is None:
            default = formula.MATRIX_RIDGE if self.weighs_by_matrix else formula.RELATIVE_RIDGE
            object.__setattr__(self, "ridge_lambda_rel", default)
        for name in ("epsilon", "ridge_lambda", "ridge_lambda_rel"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise OptionError(f"{name} is {value}; expected a finite number of at least 0.")
        if self.tile_elements < 1:
            raise OptionError(f"tile_elements is {self.tile_elements}; expected at least 1.")
        if self.weighs_by_matrix:
            self._check_matrix()

    def _check_matrix(self):
        if self.fisher_source == "head":
            raise OptionError(
                f"fisher_source='head' with variant={self.variant!r}: one number per slice holds no matrix. Use "
                "'contributions' or 'ema'."
            )
        if self.epsilon is not None:
            raise OptionError(
                f"epsilon={self.epsilon} with variant={self.variant!r}: a floor under single parameters has no meaning for a "
                "matrix. Use ridge_lambda (absolute) or ridge_lambda_rel."
            )
        if self.ridge_lambda is None:
            full_fisher.checked_ridge(1.0, relative=self.ridge_lambda_rel)  # units cancel; slices may ask for more
        elif self.ridge_lambda == 0:
            raise OptionError(
                f"ridge_lambda=0 with variant={self.variant!r}: the matrix is singular. Use ridge_lambda_rel=0.1, the default."
            )

    @property
    def weighs_by_matrix(self):
        """Whether the variant weighs by the inverse of a matrix instead of dividing parameter by parameter."""
        return self.variant in formula.MATRIX_VARIANTS

    @property
    def absolute_damping(self):
        """Whether the seeds' absolute constants are used instead of the relative ridge."""
        return self.epsilon is not None or self.ridge_lambda is not None


@dataclass(frozen=True)
class SliceScores:
    """Scores ``[rows_a, rows_b]`` (float64) of one slice, its size, and its health."""

    scores: torch.Tensor
    num_parameters: int
    health: dict


class Side:
    """One task's samples with what every slice needs of them: token counts, and the samples and weights of its Fisher.

    ``fisher_members`` make F; they are the task's own samples unless others are given. ``kept`` holds what the slices of
    one projection share.
    """

    def __init__(self, members, rows, options, fisher_members=None):
        self.members, self.rows = members, rows
        self.fisher_members = members if fisher_members is None else fisher_members
        self.tokens, self.fisher_tokens = (
            torch.tensor([one.num_tokens for one in some], device=options.device)
            for some in (self.members, self.fisher_members)
        )
        self.weights = fisher.sample_weights(len(self.fisher_members), options.fisher_source, options.ema_decay)
        self.kept = {}

    @classmethod
    def of_task(cls, collector, task, rows, options, fisher_tasks=None):
        """The side of a collected task; ``fisher_tasks`` names the task whose samples make its F, where not its own."""
        other = (fisher_tasks or {}).get(task)
        return cls(collector.samples(task), rows, options, None if other is None else collector.samples(other))

    @property
    def owns_fisher(self):
        """Whether F is made by the task's own samples."""
        return self.fisher_members is self.members

    def block_mean(self, layout, projection, options):
        """Mean of F over all heads of a layer and block, a float: what relative damping is relative to."""
        total = 0.0
        for one, weight in zip(self.fisher_members, self.weights.tolist(), strict=True):
            key = (layout.layer, projection.block)
            if key not in one.squared_norms:
                one.squared_norms[key] = gradients.squared_norm(one.factors, projection)
            norm = one.squared_norms[key]
            if options.include_bias and projection.bias_name:
                norm += gradients.squared_bias_norm(one.factors, projection)
            tokens = one.num_tokens if options.contribution_normalisation == "tokens" else 1
            total += weight * norm / tokens
        return total / (projection.num_units * num_parameters(projection, options))


def checked_device(name):
    """Return the name of a device that torch can use; "auto" takes CUDA where it is."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise OptionError(f"computation_device={name!r} is not known; expected 'cpu', 'cuda', 'auto'.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError("computation_device='cuda', but torch finds no CUDA device. Use 'cpu' or 'auto'.")
    return str(device)


def num_parameters(projection, options):
    """Number of parameters of one slice of a projection."""
    rows, columns = projection.weight_shape
    other = columns if projection.head_axis == 0 else rows
    return projection.width * (other + (1 if options.include_bias and projection.bias_name else 0))


def score_slice(side_a, side_b, layout, projection, unit, options):
    """Score the chosen rows of task A against those of task B on one slice.

    Args:
        side_a: Samples of A; all of them make F, its ``rows`` are scored.
        side_b: Likewise for B.
        layout: The attention module.
        projection: One of its blocks.
        unit: Query head for Q and O, kv head for K and V.
        options: Variant, Fisher, damping, aggregation.
    """
    means = [side.block_mean(layout, projection, options) for side in (side_a, side_b)]
    largest = [max(side.block_mean(layout, one, options) for one in layout.projections) for side in (side_a, side_b)]
    total = torch.zeros(len(side_a.rows), len(side_b.rows), dtype=torch.float64)
    spectrum = []
    for tile in factor_tiles(side_a, side_b, layout, projection, unit, options):
        total += formula.pair_scores(tile.left, tile.right).double().cpu()
        spectrum.append(tile.fisher.expand(tile.left.shape[1]).double().cpu())
    dtype = tile.h_a.dtype
    if _is_noise(means, largest, dtype, options):
        total.zero_()  # 0 / 0 by definition 0, and noise over noise: there is nothing to weigh
    if not torch.isfinite(total).all():
        raise NonFiniteError(
            f"scores of layer {layout.layer}, block {projection.block}, slice {unit} are NaN or infinite: gradients or their "
            f"squares leave the range of {dtype}. Scale the loss down, or collect in float64."
        )
    size = num_parameters(projection, options)
    epsilon = formula.SEED_EPSILON if options.epsilon is None else options.epsilon
    values = torch.cat(spectrum)
    # In float64: a float32 D keeps nothing of a damping 1e-8 times as large as F.
    health = fisher.slice_health(values, _damp(values, _owner_mean(means, options), options), epsilon)
    return SliceScores(formula.aggregate_scores(total, size, options.aggregate), size, health)


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


def factor_tiles(side_a, side_b, layout, projection, unit, options):
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
        chosen, damped_a, damped_b = _denominators(fishers, means, options)
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


def slice_tiles(members, projection, unit, options):
    """Yield gradients ``[samples, tile]`` over the columns of a slice, its bias last if asked for."""
    dtype = gradient_dtype(members, projection)
    rows, columns = projection.weight_shape
    other = columns if projection.head_axis == 0 else rows
    step = max(1, options.tile_elements // (len(members) * projection.width))
    for start in range(0, other, step):
        stop = min(start + step, other)
        tile = torch.empty(len(members), projection.width, stop - start, dtype=dtype, device=options.device)
        for one, out in zip(members, tile, strict=True):
            gradients.slice_gradient(one.factors, projection, unit, out, (start, stop))
        yield tile.flatten(1)
    if options.include_bias and projection.bias_name:
        tile = torch.empty(len(members), projection.width, dtype=dtype, device=options.device)
        for one, out in zip(members, tile, strict=True):
            gradients.bias_gradient(one.factors, projection, unit, out)
        yield tile


def _pair_tiles(side_a, side_b, projection, unit, options):
    """Yield the two tasks' gradients, and those that make their F: the same unless another task's do."""
    sides = (side_a, side_b)
    parts = [side.members for side in sides] + [side.fisher_members for side in sides if not side.owns_fisher]
    for tile in slice_tiles([one for part in parts for one in part], projection, unit, options):
        grad_a, grad_b, *rest = tile.split([len(part) for part in parts])
        of_fisher = [
            grad if side.owns_fisher else rest.pop(0) for grad, side in zip((grad_a, grad_b), sides, strict=True)
        ]
        yield (grad_a, grad_b), of_fisher


def _fisher_h(grad, side, options):
    return formula.normalise(grad, side.fisher_tokens, options.contribution_normalisation)


def _denominators(fishers, means, options):
    fisher_a, fisher_b = fishers
    if options.variant == "natural":  # each task by its own Fisher, whatever the pool
        return fisher_a, _damp(fisher_a, means[0], options), _damp(fisher_b, means[1], options)
    chosen = fisher.pool_fisher(fisher_a, fisher_b, options.fisher_pool)
    damped = _damp(chosen, _owner_mean(means, options), options)
    return chosen, damped, damped


def _damp(values, mean, options):
    return formula.damp(
        values,
        mean,
        ridge_lambda_rel=options.ridge_lambda_rel,
        epsilon=options.epsilon,
        ridge_lambda=options.ridge_lambda,
    )


def _owner_mean(means, options):
    return means[0] if options.variant == "natural" else fisher.pool_fisher(*means, options.fisher_pool)


def _head_fisher(side_a, side_b, projection, unit, options):
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


def _is_noise(means, largest, dtype, options):
    if options.variant == "dot" or options.absolute_damping:
        return False
    if options.variant == "natural":
        return any(formula.is_noise(mean, most, dtype) for mean, most in zip(means, largest, strict=True))
    mean, most = (fisher.pool_fisher(*pair, options.fisher_pool) for pair in (means, largest))
    return formula.is_noise(mean, most, dtype)


def gradient_dtype(members, projection):
    """Return the precision in which slices of these samples are built: float64 if any was collected so, else float32."""
    wide = any(one.factors[projection.module_name].deltas.dtype == torch.float64 for one in members)
    return torch.float64 if wide else torch.float32
