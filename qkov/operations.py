r"""What a pass computes, from the shapes of a model alone: operations, and what its projections read.

A *hollow* model has weights of one number each, shown at their full shape: it takes no memory, its heads are found as in a
real one, and under torch's fake tensors a pass runs on shapes. Operations are counted as it goes, multiplications and
additions of matrix products each as one, so that forward and activation gradients come to about ``4 parameters tokens`` less
the embeddings, which multiply nothing::

    collection          forward + activation gradients of one pass, the products inside attention included
    materialising       2 T K (n_a + n_b)       K parameters in all slices, T tokens with a gradient
    scoring             2 K n_a n_b
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from . import losses
from .errors import LayoutError
from .gradients import evaluation
from .layout import QKOVConfig

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


aten = torch.ops.aten


@dataclass(frozen=True)
class Reading:
    """What a linear module reads in a pass of one sample.

    Attributes:
        tensor: The same for modules that read one tensor, as Q, K and V do.
        tokens: Rows. d_in: Columns. d_out: Columns of the output.
    """

    tensor: tuple
    tokens: int
    d_in: int
    d_out: int


@dataclass(frozen=True)
class PassShape:
    """What a forward and backward of one sample computes.

    Attributes:
        operations: In matrix products, attention included.
        readings: A :class:`Reading` by module name.
        num_tokens: Tokens that a gradient reaches: of T tokens of a causal loss, the last predicts nothing.
    """

    operations: int
    readings: dict[str, Reading]
    num_tokens: int


def hollow(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Copy a model with weights of one number each, expanded to their shapes; tied weights stay tied.

    Args:
        model: On any device. dtype: Of its floating-point weights; default: as they are.
    """

    def stand_in(one: torch.Tensor) -> torch.Tensor:
        asked = dtype if dtype is not None and one.is_floating_point() else one.dtype
        return torch.zeros(1, dtype=asked).expand(one.shape)

    stand_ins: dict[int, Any] = {
        id(one): nn.Parameter(stand_in(one), requires_grad=False) for one in model.parameters()
    }
    stand_ins.update((id(one), stand_in(one)) for one in model.buffers())
    return copy.deepcopy(model, stand_ins).eval()


def trace_pass(model: nn.Module, config: QKOVConfig, module_names: list[str], num_tokens: int) -> PassShape:
    """Run a pass of one sample on shapes alone.

    Args:
        model: A hollow model. config: Its layout. module_names: The modules whose gradients are collected.
        num_tokens: T.

    Raises:
        LayoutError: If what the model computes depends on values, or cannot be run on token ids.
    """
    found: dict[str, Reading] = {}
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad(), evaluation(model), counter:
        outputs, handles = _hooked(model, module_names, found)
        try:
            result = model(**_inputs(model, num_tokens))
            target = _target(result)
            torch.autograd.grad(target, list(outputs.values()), allow_unused=True)
        except (DataDependentOutputException, DynamicOutputShapeException, TypeError, ValueError) as error:
            raise LayoutError(
                f"a pass of {type(model).__name__} cannot be planned from its configuration alone: {error}. Collect a few "
                "samples and see what they take."
            ) from error
        finally:
            for handle in handles:
                handle.remove()
    causal = getattr(result, "logits", None) is not None
    return PassShape(counter.get_total_flops(), found, max(1, num_tokens - 1) if causal else num_tokens)


def _inputs(model: nn.Module, num_tokens: int) -> dict[str, Any]:
    ids = torch.zeros(1, num_tokens, dtype=torch.long)
    inputs: dict[str, Any] = {"input_ids": ids}
    if losses.accepts(model, "position_ids"):
        inputs["position_ids"] = ids
    if losses.accepts(model, "use_cache"):
        inputs["use_cache"] = False
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        inputs = {"input_ids": ids, "decoder_input_ids": ids}
    return inputs


def _target(result: Any) -> torch.Tensor:
    logits = getattr(result, "logits", None)
    if logits is None:
        return result.last_hidden_state.float().sum()
    logits = logits.float()[:, :-1] if logits.shape[1] > 1 else logits.float()
    return logits.logsumexp(-1).sum()


def _hooked(
    model: nn.Module, names: Sequence[str], found: dict[str, Any]
) -> tuple[dict[str, Any], list[RemovableHandle]]:
    """Note what each module reads, and start the graph at the first of them, as collection does."""
    outputs: dict[str, torch.Tensor] = {}
    alive: list[torch.Tensor] = []

    def hook_for(name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: Sequence[torch.Tensor], output: Any) -> torch.Tensor:
            if not output.requires_grad:
                output = output.detach().requires_grad_().clone()
            read = args[0].detach()
            alive.append(read)  # or its memory would be given to another tensor
            key = read.untyped_storage()._cdata, tuple(read.shape), tuple(read.stride())
            found[name] = Reading(key, math.prod(read.shape[:-1]), read.shape[-1], output.shape[-1])
            outputs[name] = output
            return output

        return hook

    modules = dict(model.named_modules())
    return outputs, [modules[name].register_forward_hook(hook_for(name)) for name in names]


def _products(count: int, first: int) -> Callable[..., int]:
    """Operations of attention kernels that torch's counter does not know: ``count`` products of [T, d] with [d, T]."""

    def counted(*shapes: Any, out_shape: Sequence[torch.Size] | None = None, **_options: Any) -> int:
        query, key = shapes[first], shapes[first + 1]
        return count * 2 * math.prod(query) * key[-2]

    return counted


_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: _products(2, 0),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _products(5, 1),
}
