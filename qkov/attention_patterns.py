"""The attention patterns of a model, by true layer number: run under eager attention, with everything put back after.

Fast kernels never form the patterns, so the model runs under eager attention meanwhile. Patterns are read where the located
attention modules return them, not from the model's output: that lists them without their layer, and hybrid models list
fewer than they have layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from . import gradients, losses
from .errors import PatternError
from .layout import uncompiled

if TYPE_CHECKING:
    from torch import nn

    from .geometry import AttentionLayout
    from .layout import QKOVConfig


TOLERANCE = 0.02  # of a row's sum: bfloat16 holds attention to three digits
FUTURE = 1e-6  # attention on later keys that still counts as none
SAME_FUNCTION = 0.05  # relative difference between kernels; in bfloat16, nine families stayed below 0.01
ASKED = {"output_attentions": True, "use_cache": False}
WINDOW_NAMES = ("sliding_window", "window_size")


def attention_patterns(model: nn.Module, batch: Mapping[str, Any], config: QKOVConfig) -> dict[int, torch.Tensor]:
    """Run the model once and return what its heads attended to.

    The model is in eval mode, without gradients and under eager attention while this runs; all of it is as before after.

    Args:
        model: The model that ``config`` describes.
        batch: Mapping of ``input_ids [N, T]``, ``attention_mask``, ... on the model's device; ``labels`` are left out.
        config: A :class:`qkov.QKOVConfig`; tells the modules and their numbers of heads.

    Returns:
        ``{layer: patterns [N, heads, T, T]}``, one entry for each layer of ``config``.

    Raises:
        PatternError: If a layer gives no pattern, several, or tensors whose rows cannot be attention.
    """
    shape = losses.real_tokens(batch).shape
    with eager_attention(uncompiled(model)), _returned(uncompiled(model), config) as returned:
        run(model, batch, **ASKED)
    return {
        layout.layer: _pattern(returned[layout.layer], layout, (shape[0], layout.num_heads, shape[1], shape[1]))
        for layout in config.layers
    }


def run(model: nn.Module, batch: Mapping[str, Any], **asked: Any) -> torch.Tensor:
    """Run the model in eval mode without gradients and return its first output; its flags are as before afterwards.

    Args:
        model, batch: As for :func:`attention_patterns`.
        asked: Further arguments; those that the model does not know are left out.
    """
    model = uncompiled(model)
    arguments = {name: value for name, value in batch.items() if name != "labels"}
    arguments |= {name: value for name, value in asked.items() if losses.accepts(model, name)}
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), gradients.evaluation(model):
        output = model(**arguments)
    return output if isinstance(output, torch.Tensor) else output[0]


def check_same_function(model: nn.Module, batch: Mapping[str, Any]) -> None:
    """Refuse a model that computes something else under eager attention, so that its patterns would be another's.

    Classes that choose their kernel when they are built may apply no mask at all once told to return patterns.

    Raises:
        PatternError: If the outputs at real tokens differ by more than rounding.
    """
    usual = run(model, batch)
    with eager_attention(uncompiled(model)):
        eager = run(model, batch, **ASKED)
    real = losses.real_tokens(batch)
    if usual.shape[:2] == real.shape:
        usual, eager = usual[real], eager[real]
    error = float((usual.float() - eager.float()).norm() / usual.float().norm().clamp_min(1e-30))
    if not error <= SAME_FUNCTION:
        raise PatternError(
            f"{type(uncompiled(model)).__name__} gives another output under eager attention (relative difference"
            f" {error:.2g}), so the patterns would not be those of the model as it runs. Load it with"
            " attn_implementation='eager' if that is what you use."
        )


@contextlib.contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Switch every configuration inside a model to eager attention, and back: kernels are looked up at each call."""
    before = [(config, config._attn_implementation_internal) for config in _configurations(model)]
    try:
        for config, _ in before:
            config._attn_implementation_internal = "eager"  # the public name would also set what lies below
        yield
    finally:
        for config, name in before:
            config._attn_implementation_internal = name


def _configurations(model: nn.Module) -> list[Any]:
    """Every configuration of a transformers model that has a kind of attention, each once, nested ones too."""
    found, waiting = {}, [getattr(module, "config", None) for module in model.modules()]
    while waiting:
        config = waiting.pop()
        if hasattr(config, "_attn_implementation_internal") and id(config) not in found:
            found[id(config)] = config
            waiting += [getattr(config, name, None) for name in getattr(config, "sub_configs", ())]
    return list(found.values())


@contextlib.contextmanager
def _returned(model: nn.Module, config: QKOVConfig) -> Iterator[dict[int, dict[str, list[list[torch.Tensor]]]]]:
    """Collect every tensor that each attention module, or a module inside it, returns beside its first output."""
    returned: dict[int, dict[str, Any]] = {layout.layer: {} for layout in config.layers}
    handles = []

    def hook_for(layer: int, name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _arguments: Sequence[torch.Tensor | None], output: Any) -> None:
            if isinstance(output, tuple):
                parts = [part for part in output[1:] if isinstance(part, torch.Tensor)]
                returned[layer].setdefault(name, []).append(parts)

        return hook

    for layout in config.layers:
        for name, module in model.get_submodule(layout.module_name).named_modules():
            handles.append(module.register_forward_hook(hook_for(layout.layer, name)))
    try:
        yield returned
    finally:
        for handle in handles:
            handle.remove()


def _pattern(
    returned: Mapping[str, list[list[torch.Tensor]]], layout: AttentionLayout, shape: tuple[int, ...] | torch.Size
) -> torch.Tensor:
    """Choose the one tensor ``[N, heads, T, T]`` that can be attention; modules further out first."""
    where = f"layer {layout.layer} ({layout.module_name!r})"
    for name in sorted(returned, key=lambda name: name.count(".") + bool(name)):
        calls = [[part for part in parts if tuple(part.shape) == shape and _could_be(part)] for parts in returned[name]]
        if not any(calls):
            continue
        if len(calls) != 1 or len(calls[0]) != 1:
            raise PatternError(
                f"{where} ran {len(calls)} times and returned {sum(map(len, calls))} tensors that could be its attention;"
                " expected one run and one pattern. Score what you know to be the pattern with"
                " qkov.pattern_scores.score_patterns."
            )
        return calls[0][0]
    raise PatternError(
        f"{where} returned no attention pattern of shape [N, heads, T, T] = {shape}, with rows of attention, under eager"
        " attention: linear attention, and layers that form patterns of windows or chunks only, have none. Patterns that"
        " you can get in another way are scored by qkov.pattern_scores.score_patterns."
    )


def _could_be(part: torch.Tensor) -> bool:
    """Whether rows can be attention: not negative, with sums of at most 1 (less where a sink takes the rest)."""
    sums = part.sum(-1, dtype=torch.float32)
    return bool(torch.isfinite(sums).all() and (part >= 0).all() and sums.max() <= 1 + TOLERANCE and sums.max() > 0)


def is_causal(patterns: Mapping[int, torch.Tensor]) -> bool:
    """Tell whether no head looks at a later key."""
    return all(float(part.triu(1).amax()) <= FUTURE for part in patterns.values())


def sliding_window(model: nn.Module, layout: AttentionLayout, pattern: torch.Tensor) -> int | None:
    """Return how many keys a causal query of this layer sees, itself included, if it has a window; else None.

    A window that the module or a configuration names counts if no head of ``pattern`` looks further back: configurations
    name it also for layers that do not use it.
    """
    module = uncompiled(model).get_submodule(layout.module_name)
    for owner in (module, getattr(module, "config", None), *_configurations(uncompiled(model))):
        for name in WINDOW_NAMES:
            window: Any = getattr(owner, name, None)
            is_size = isinstance(window, int) and not isinstance(window, bool) and 0 < window < pattern.shape[-1]
            if is_size and not pattern.tril(-window).any():
                return window
    return None
