"""Changes to a model that a law speaks of, each undone when its block ends: scaled, zeroed, permuted, rotated, masked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

    from ..geometry import AttentionLayout, Projection


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """Give back every parameter's value, bit for bit, when the block ends; yields ``{name: parameter}``."""
    parameters = dict(model.named_parameters())
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with torch.no_grad():
            yield parameters
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])


def parts(
    parameters: Mapping[str, torch.Tensor], projection: Projection, unit: int, *, bias: bool = True
) -> list[torch.Tensor]:
    """Return views of a slice's weight and (if it has one) bias, to be changed in place."""
    where = projection.slice_of(unit)
    views = [parameters[where.param_name].data[where.index]]
    if bias and where.bias_name is not None:
        views.append(parameters[where.bias_name].data[where.bias_index])
    return views


def scale(parameters: Mapping[str, torch.Tensor], projection: Projection, unit: int, factor: float) -> None:
    """Multiply a slice, bias included."""
    for view in parts(parameters, projection, unit):
        view.mul_(factor)


def permute(parameters: Mapping[str, torch.Tensor], projection: Projection, order: Sequence[int]) -> None:
    """Put unit ``order[new]`` at place ``new``, for all units of a block."""
    moved = [[view.clone() for view in parts(parameters, projection, old)] for old in order]
    for new, values in enumerate(moved):
        for view, value in zip(parts(parameters, projection, new), values, strict=True):
            view.copy_(value)


def rotate(parameters: Mapping[str, torch.Tensor], projection: Projection, unit: int, rotation: torch.Tensor) -> None:
    """Multiply a slice by an orthogonal matrix along its head axis, bias included."""
    for view in parts(parameters, projection, unit):
        if view.ndim == 1:
            view.copy_(rotation @ view)
        else:
            view.copy_(rotation @ view if projection.head_axis == 0 else view @ rotation.T)


@contextlib.contextmanager
def masked_heads(model: nn.Module, layout: AttentionLayout, heads: Iterable[int]) -> Iterator[None]:
    """Zero what the given heads send into the output projection, as pruning studies do."""

    def zero(_module: nn.Module, args: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        inputs = args[0].clone()
        for head in heads:
            inputs[..., head * layout.v_head_dim : (head + 1) * layout.v_head_dim] = 0
        return (inputs, *args[1:])

    module = dict(model.named_modules())[layout.projection("O").module_name]
    handle = module.register_forward_pre_hook(zero)
    try:
        yield
    finally:
        handle.remove()


def group_of(layout: AttentionLayout, kv_head: int) -> list[int]:
    """Return the query heads that read a kv head."""
    return [head for head in range(layout.num_heads) if layout.kv_head(head) == kv_head]


def has_head_norms(model: nn.Module, layout: AttentionLayout) -> bool:
    """Tell whether queries or keys are normalised, so that scaling them is not undone by its inverse."""
    module = dict(model.named_modules())[layout.module_name]
    return any("norm" in name for name, _ in module.named_children())
