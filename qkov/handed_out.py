"""What is built from samples when it is asked for: gradients and contributions by name, and sums of them by head.

Samples hold factors of gradients. Nothing here is kept: a mapping builds each of its values anew, so that memory does not
grow with what was looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from . import fisher, formula, gradients
from .errors import UnknownParameterError
from .lazy_mapping import LazyMapping

if TYPE_CHECKING:
    from .geometry import AttentionLayout, Projection
    from .layout import QKOVConfig
    from .linear_weights import LinearWeight
    from .samples import Sample


def sample_gradients(sample: Sample, weights: Sequence[LinearWeight], config: QKOVConfig) -> Mapping[str, torch.Tensor]:
    """Give the raw gradients of one sample's summed loss by parameter name, in stored shapes.

    Args:
        sample: A collected sample. weights: What of it is held. config: Where the biases of attention are.

    Returns:
        ``{param_name: g}``: weights of attention first, then biases, then all others.
    """
    by_name = {one.param_name: one for one in weights}
    attention = [name for name, one in by_name.items() if one.kind == "attention"]
    projections = (projection for layout in config.layers for projection in layout.projections)
    biases = {projection.bias_name: projection for projection in projections if projection.bias_name}

    def build(name: str) -> torch.Tensor:
        if name in by_name:
            return gradients.parameter_gradient(sample.factors, by_name[name])
        return sample.factors[biases[name].module_name].delta_sum

    return LazyMapping([*attention, *biases, *by_name], build, UnknownParameterError)


def sample_contributions(
    grads: Mapping[str, torch.Tensor], num_tokens: int, normalisation: str
) -> Mapping[str, torch.Tensor]:
    """Give the contributions of one sample by parameter name.

    Args:
        grads: Its gradients. num_tokens: Of its loss. normalisation: "tokens" or "none".

    Returns:
        ``{param_name: C}``, in the shapes of the gradients.
    """
    tokens = torch.tensor([num_tokens])

    def build(name: str) -> torch.Tensor:
        h = formula.normalise(grads[name].reshape(1, -1), tokens, normalisation)
        return formula.contribution(h).reshape(grads[name].shape)

    return LazyMapping(grads, build, UnknownParameterError)


def head_contributions(
    members: Sequence[Sample], layouts: Iterable[AttentionLayout], normalisation: str
) -> dict[tuple[int, str], torch.Tensor]:
    """Add the contributions of each sample up over every slice.

    Args:
        members: Samples of a task, at least one. layouts: The layers. normalisation: "tokens" or "none".

    Returns:
        ``{(layer, block): float64 [samples, units]}``.
    """
    fisher.sample_weights(len(members))  # refuses an empty task
    return {
        (layout.layer, projection.block): torch.stack(
            [_head_sums(members, projection, unit, normalisation) for unit in range(projection.num_units)], dim=1
        )
        for layout in layouts
        for projection in layout.projections
    }


def _head_sums(members: Sequence[Sample], projection: Projection, unit: int, normalisation: str) -> torch.Tensor:
    sums = []
    for one in members:
        head, other = gradients.slice_factors(one.factors, projection, unit)
        grad = gradients.widened(head).T @ gradients.widened(other)
        h = formula.normalise(grad.reshape(1, -1), torch.tensor([one.num_tokens]), normalisation)
        sums.append(fisher.reduce_heads(formula.contribution(h))[0])
    return torch.stack(sums).cpu()  # once a slice, not once a sample


def exponential_mean(values: Iterable[torch.Tensor], decay: float) -> torch.Tensor:
    """Average ``values`` with weights that fall by ``decay`` from the last to the first, bias-corrected."""
    running = fisher.ExponentialMean(decay)
    for value in values:
        running = running.update(value)
    return running.mean
