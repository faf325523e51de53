r"""Gradients scaled by a Fisher matrix: what a natural-gradient step, or an Adam-like one, would take.

.. math:: \tilde h_j = (F + \lambda I)^{-\text{power}}\, h_j

with F diagonal, in Kronecker factors, or full, of each slice. At power 1, ``h_i . scaled(h_j)`` is the score of
variants "signed", "kfac" and "full", by the task whose samples make F; at power 0.5 a diagonal is what Adam divides by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import curvature, fisher, formula, full_fisher, kfac, reproducibility, scoring
from .collector import LazyMapping
from .errors import OptionError, UnknownParameterError

if TYPE_CHECKING:
    from .collector import FisherCollector
    from .curvature import Stack
    from .geometry import AttentionLayout, Projection
    from .layout import QKOVConfig
    from .option_types import ContributionNormalisation, FisherSource, SampleId, ScalingAverage, ScalingMethod, Variant
    from .score_options import ScoreOptions
    from .sides import Side


METHODS: dict[ScalingMethod, Variant] = {
    "diagonal": "signed",
    "kfac": "kfac",
    "full": "full",
}  # and the variant whose F and damping each takes
POWERS = (1, 0.5)
AVERAGES = ("none", "mean")


@dataclass(frozen=True)
class ScaledGradients:
    """Scaled gradients of a task, built when asked for.

    Attributes:
        slices: ``{(layer, block, unit): [samples, width, other]}``; unit is a kv head for K and V. With the bias, its
            entries are one more column at the end.
        parameters: ``{param_name: [samples, *stored shape]}``, keyed and laid out like the checkpoint; entries that
            belong to no slice (a gate's, or the bias of O) are 0 or absent.
        sample_ids: Of the rows; ``("mean",)`` if the task's samples were averaged.
        attributes: Method, power, damping, whose Fisher, normalisation and model, as JSON.
    """

    slices: Mapping
    parameters: Mapping
    sample_ids: tuple
    attributes: dict

    def __repr__(self) -> str:
        facts = self.attributes
        return (
            f"ScaledGradients({facts['task']!r}, {facts['method']} Fisher of {facts['fisher_task']!r} to the power "
            f"-{facts['power']:g}, {len(self.sample_ids)} rows, {len(self.slices)} slices): h = g / sqrt(tokens), scaled. A "
            "direction in units of its own: how far to step along it is not said."
        )


def scale_by_fisher(
    collector: FisherCollector,
    task: str,
    *,
    method: ScalingMethod = "diagonal",
    power: float = 1,
    average: ScalingAverage = "none",
    sample_ids: Sequence[SampleId] | None = None,
    fisher_task: str | None = None,
    fisher_source: FisherSource = "contributions",
    include_bias: bool = False,
    contribution_normalisation: ContributionNormalisation | None = None,
    ridge_lambda_rel: float | None = None,
    ridge_lambda: float | None = None,
    epsilon: float | None = None,
    computation_device: str | torch.device = "cpu",
) -> ScaledGradients:
    r"""Scale the gradients ``h`` of a task's samples, or their mean, by the damped Fisher of each slice.

    Args:
        collector: Holds the task.
        task: Whose gradients are scaled.
        method: "diagonal" (default: variant "signed"), "kfac" or "full"; damping as in the metric of that variant.
        power: 1 (natural gradient) or 0.5.
        average: "none" (one row per sample) or "mean" (one row: the mean over the chosen samples).
        sample_ids: Some of the task's samples; default all. F comes from all of ``fisher_task`` in any case.
        fisher_task: Task whose samples make F; default the task itself. May be one with labels of the model.
        fisher_source: "contributions" or "ema". include_bias: Add the bias entries of Q, K and V.
        contribution_normalisation: "tokens", "none", or None for the collector's.
        ridge_lambda_rel, ridge_lambda, epsilon: Damping; the default of the method.
        computation_device: As for the metric.

    Returns:
        ``ScaledGradients``; nothing is computed before a slice or a parameter is asked for.

    Raises:
        OptionError: For an option without meaning. UnknownTaskError, UnknownSampleError: If there is none.

    Example:
        >>> import torch, transformers, qkov
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
        ...     num_key_value_heads=2)
        >>> model, collector = transformers.LlamaForCausalLM(config), qkov.FisherCollector()
        >>> collector.collect_fisher(model, {"input_ids": torch.arange(12).reshape(3, 4)}, task="math")
        >>> found = qkov.scale_by_fisher(collector, "math", method="kfac", average="mean")
        >>> found.slices[0, "K", 1].shape, found.parameters["model.layers.0.self_attn.k_proj.weight"].shape
        (torch.Size([1, 4, 16]), torch.Size([1, 8, 16]))
    """
    formula.require_choice("method", method, tuple(METHODS))
    formula.require_choice("average", average, AVERAGES)
    if power not in POWERS:
        raise OptionError(f"power={power!r} is not known; expected 1 (natural gradient) or 0.5.")
    if fisher_source == "head":
        raise OptionError("fisher_source='head' scales a slice by one number; use 'contributions' or 'ema'.")
    options = scoring.ScoreOptions(
        variant=METHODS[method],
        fisher_source=fisher_source,
        contribution_normalisation=contribution_normalisation or collector.contribution_normalisation,
        include_bias=include_bias,
        epsilon=epsilon,
        ridge_lambda=ridge_lambda,
        ridge_lambda_rel=ridge_lambda_rel,
        ema_decay=collector.ema_decay,
        tile_elements=2**62,  # a slice's scaled gradients are as large as its gradients
        device=scoring.checked_device(computation_device),
    )
    fisher_task = task if fisher_task is None else fisher_task
    ids = collector.sample_ids(task) if sample_ids is None else tuple(sample_ids)
    rows = [collector.sample_ids(task).index(collector.sample(task, one).sample_id) for one in ids]
    if not rows:
        raise OptionError(f"no sample of task {task!r} is left to scale. Collect it first, or pass sample_ids.")
    of_fisher = scoring.Side(collector.samples(fisher_task), [], options)
    scaled = scoring.Side(collector.samples(task), rows, options)
    places = {
        (layout.layer, projection.block, unit): (layout, projection, unit)
        for layout in collector.config.layers
        for projection in layout.projections
        for unit in range(projection.num_units)
    }

    slices = LazyMapping(
        places,
        lambda key: _scale_slice(of_fisher, scaled, *places[key], options, power, average),
        UnknownParameterError,
    )
    attributes = {
        "task": task, "fisher_task": fisher_task, "method": method, "power": float(power), "average": average,
        "fisher_source": fisher_source, "include_bias": include_bias,
        "contribution_normalisation": options.contribution_normalisation,
        "epsilon": epsilon, "ridge_lambda": ridge_lambda, "ridge_lambda_rel": options.ridge_lambda_rel,
        "num_fisher_samples": len(of_fisher.fisher_members), "model_fingerprint": collector.model_fingerprint,
        "versions": {name: reproducibility.environment_record()["versions"][name] for name in ("qkov", "torch")},
    }  # fmt: skip
    return ScaledGradients(
        slices=slices,
        parameters=_parameters(collector.config, slices, include_bias),
        sample_ids=("mean",) if average == "mean" else ids,
        attributes=attributes,
    )


def _scale_slice(
    of_fisher: Side,
    scaled: Side,
    layout: AttentionLayout,
    projection: Projection,
    unit: int,
    options: ScoreOptions,
    power: float,
    average: str,
) -> torch.Tensor:
    """One slice of the chosen rows, ``[rows, width, other]``, float64."""
    stack = curvature.stack_samples(of_fisher, scaled, options)
    pairs = [curvature.token_factors(stack.members[row], projection, unit, options) for row in stack.rows_b]
    grads = torch.stack([head.T @ other for head, other in pairs]).flatten(1)
    h = formula.normalise(grads, stack.tokens[stack.rows_b], options.contribution_normalisation)
    h = h.mean(0, keepdim=True) if average == "mean" else h  # scaling is linear
    shape = len(h), projection.width, -1
    result, mean = _solved(of_fisher, stack, h, layout, projection, unit, options, power)
    dead = curvature.is_dead(mean, (of_fisher, of_fisher), layout, projection, options)
    return torch.zeros_like(h).reshape(shape) if dead else result.reshape(shape)


def _solved(
    of_fisher: Side,
    stack: Stack,
    h: torch.Tensor,
    layout: AttentionLayout,
    projection: Projection,
    unit: int,
    options: ScoreOptions,
    power: float,
) -> tuple[torch.Tensor, float]:
    """Return the scaled rows and the mean of F over the slice."""
    if options.variant == "kfac":
        basis = curvature.slice_basis(stack, of_fisher.kept, layout, projection, unit, options)
        if not basis.values.any():
            return h, 0.0
        damping = kfac.ridge(basis, relative=options.ridge_lambda_rel, absolute=options.ridge_lambda)  # type: ignore[arg-type]  # filled in by ScoreOptions
        return kfac.solve(basis, h.reshape(len(h), projection.width, -1), damping, power=power), basis.mean
    counted = torch.nonzero(stack.weights > 0).flatten()
    pairs = [curvature.token_factors(stack.members[row], projection, unit, options) for row in counted]
    grads = torch.stack([head.T @ other for head, other in pairs]).flatten(1)
    rows, weights = (
        formula.normalise(grads, stack.tokens[counted], options.contribution_normalisation),
        stack.weights[counted],
    )
    diagonal = fisher.weighted_fisher(formula.contribution(rows), weights)
    if options.variant == "signed":
        mean = of_fisher.block_mean(layout, projection, options)
        damped = formula.damp(diagonal, mean, ridge_lambda_rel=options.ridge_lambda_rel, epsilon=options.epsilon,  # type: ignore[arg-type]  # filled in by ScoreOptions
                              ridge_lambda=options.ridge_lambda)  # fmt: skip
        return h / damped**power, mean
    if not diagonal.any():
        return h, 0.0
    gram = rows @ rows.T
    damping = full_fisher.ridge(
        gram,
        weights,
        h.shape[1],
        relative=options.ridge_lambda_rel,  # type: ignore[arg-type]  # filled in by ScoreOptions
        absolute=options.ridge_lambda,
    )
    return full_fisher.inverse_power(rows, weights, damping, h, power), float(diagonal.mean())


def _parameters(
    config: QKOVConfig, slices: Mapping[Any, torch.Tensor], include_bias: bool
) -> Mapping[str, torch.Tensor]:
    """View the slices as whole stored parameters."""
    owners: dict[Any, Any] = {}
    for layout in config.layers:
        for projection in layout.projections:
            owners.setdefault(projection.param_name, []).append((layout, projection))
            if include_bias and projection.bias_name:
                owners.setdefault(projection.bias_name, []).append((layout, projection))

    def build(name: str) -> torch.Tensor:
        whole: Any = None
        for layout, projection in owners[name]:
            for unit in range(projection.num_units):
                rows, where = slices[layout.layer, projection.block, unit], projection.slice_of(unit)
                other = projection.weight_shape[1 - projection.head_axis]
                if whole is None:
                    shape = projection.weight_shape if name == projection.param_name else _bias_shape(owners[name])
                    whole = rows.new_zeros(len(rows), *shape)
                if name == projection.bias_name:
                    whole[:, where.bias_index] = rows[:, :, other]
                    continue
                part = rows[:, :, :other]
                whole[(slice(None), *where.index)] = part if projection.head_axis == 0 else part.transpose(1, 2)
        return whole

    return LazyMapping(owners, build, UnknownParameterError)


def _bias_shape(owners: Sequence[tuple[AttentionLayout, Projection]]) -> tuple[int, ...]:
    _, projection = owners[0]
    return (projection.weight_shape[projection.head_axis],)
