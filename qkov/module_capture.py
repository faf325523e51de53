"""Keep what chosen modules read and where their outputs are in the graph, in one forward pass, by hooks.

A gradient of a linear module is built from its input and the gradient of its output. That is right only if the module ran
once, with an input that nobody has changed since: :func:`check_ran_once` refuses everything else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .errors import ModuleReuseError, PrecisionError

if TYPE_CHECKING:
    from torch import nn

    from .layout import QKOVConfig
    from .linear_weights import LinearWeight


def module_groups(config: QKOVConfig, weights: Sequence[LinearWeight] | None) -> list[list[str]]:
    """List modules whose tokens are kept together: a layer's attention, a layer's feed-forward part, any other.

    Args:
        config: Where attention is. weights: What is collected; None for all of attention and nothing else.
    """
    attention = [
        list(dict.fromkeys(projection.module_name for projection in layout.projections)) for layout in config.layers
    ]
    if weights is None:
        return attention
    asked = {one.module_name for one in weights}
    groups = [group for group in attention if asked & set(group)]
    others: dict[Any, Any] = {}
    for one in weights:
        if one.kind != "attention":
            others.setdefault(one.layer if one.kind == "mlp" else one.module_name, []).append(one.module_name)
    return groups + list(others.values())


@dataclass
class Capture:
    """What one module read, with its version then, what it gave, and the place of that in the graph."""

    inputs: torch.Tensor
    version: int
    output: torch.Tensor
    edge: GradientEdge | torch.Tensor
    calls: int = 1


@contextlib.contextmanager
def captured_modules(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Capture]]:
    """Hook the modules ``names``; the first ones to run start the graph, so nothing below them is differentiated."""
    captured: dict[Any, Any] = {}

    def hook_for(name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: Sequence[torch.Tensor], output: Any) -> torch.Tensor:
            if not output.requires_grad:
                # A fresh leaf; cloned, because in-place operations on a leaf are refused.
                output = output.detach().requires_grad_().clone()
            if name in captured:  # recomputed by checkpointing in the backward, where it must do what it did before
                captured[name].calls += 1
                return output
            # Its place in the graph, as of now: ESMFold scales queries in place, and the tensor then is the scaled one.
            edge = get_gradient_edge(output) if output.requires_grad else output
            captured[name] = Capture(args[0].detach(), _version(args[0]), output, edge)  # type: ignore[arg-type]  # None equals None: no version is counted
            return output

        return hook

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(hook_for(name)) for name in names]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def check_ran_once(captured: Mapping[str, Capture], names: Sequence[str]) -> None:
    """Refuse modules ``names`` that ran twice or never, whose input has changed since, or that are too narrow."""
    for name in names:
        calls = captured[name].calls if name in captured else 0
        if calls != 1:
            raise ModuleReuseError(
                f"projection {name!r} ran {calls} times in one forward pass; expected once. Its gradient would mix or "
                "miss layers: call the model once per loss, and list shared layers, or those that the loss does not "
                "use, out of the analysis."
            )
        if _version(captured[name].inputs) != captured[name].version:
            raise ModuleReuseError(
                f"the input of projection {name!r} was changed in place after the projection used it, so its gradient "
                "cannot be rebuilt. Make that operation out of place."
            )
        if captured[name].inputs.dtype == torch.float16:
            raise PrecisionError(
                f"projection {name!r} runs in float16, where gradients underflow; load the model in float32 or bfloat16."
            )


def _version(tensor: torch.Tensor) -> int | None:
    # Tensors made under inference_mode count no versions; no gradient reaches them, which is reported as such.
    return None if tensor.is_inference() else tensor._version


def zero_if_unused(delta: torch.Tensor, capture: Capture) -> torch.Tensor:
    """Return the gradient of an output: zeros where the loss does not depend on it."""
    return torch.zeros_like(capture.output) if delta is None else delta.detach()


def same_tensor(tensor: torch.Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    """Return what two tensors share exactly if they are the same numbers at the same place."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()
