"""Read a plain linear layer as it is stored, or refuse it with its name: what every packing is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .errors import LayoutError
from .geometry import Projection


def described(name: str, module: nn.Module) -> str:
    """Name a module and its class for a message."""
    return f"{name!r} ({qualified_name(type(module))})"


def qualified_name(cls: type) -> str:
    """Return ``package.module.Class``, the key under which layouts are registered."""
    return f"{cls.__module__}.{cls.__qualname__}"


def transformers_class(short: str) -> str:
    """Spell out ``package.Class`` or ``package.module.Class`` of a model of transformers.

    Example:
        >>> transformers_class("llama.LlamaAttention")
        'transformers.models.llama.modeling_llama.LlamaAttention'
    """
    package, *module, name = short.split(".")
    return f"transformers.models.{package}.{module[0] if module else f'modeling_{package}'}.{name}"


# Axis of the output features. FalconLinear rounds its bias separately in low precision; its product is the same.
_OUTPUT_AXIS = {
    "torch.nn.modules.linear.Linear": 0,
    "transformers.models.esm.modeling_esmfold.EsmFoldLinear": 0,
    "transformers.models.falcon.modeling_falcon.FalconLinear": 0,
    "transformers.pytorch_utils.Conv1D": 1,
}

# Number formats of weights that are what they say; 8-bit floats come with scales beside them.
_PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# Adapters that add to the output of the layer they keep under this name. Its weights are what is measured: with respect
# to them, the gradient of the whole is that of the kept layer, whatever the adapter adds.
_KEPT_LAYER = {"peft.tuners.lora.layer.Linear": "base_layer"}


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a linear layer that :meth:`Linear.at` can read, or an adapter around one."""
    kind = qualified_name(type(module))
    return kind in _OUTPUT_AXIS or kind in _KEPT_LAYER


@dataclass(frozen=True)
class Linear:
    """A plain linear layer as stored: ``nn.Linear`` keeps ``[out, in]``, GPT-2's ``Conv1D`` keeps ``[in, out]``."""

    name: str
    weight_shape: tuple[int, int]
    output_axis: int
    has_bias: bool

    @property
    def outputs(self) -> int:
        """Number of output features."""
        return self.weight_shape[self.output_axis]

    @property
    def inputs(self) -> int:
        """Number of input features."""
        return self.weight_shape[1 - self.output_axis]

    def projection(self, block: str, starts: Sequence[int], width: int) -> Projection:
        """Place a block on this layer: O on its input features, the others on its output features."""
        reads_heads = block == "O"
        return Projection(
            block=block,
            module_name=self.name,
            param_name=f"{self.name}.weight",
            bias_name=f"{self.name}.bias" if self.has_bias and not reads_heads else None,
            weight_shape=self.weight_shape,
            head_axis=1 - self.output_axis if reads_heads else self.output_axis,
            side="input" if reads_heads else "output",
            starts=tuple(starts),
            width=width,
        )

    @classmethod
    def at(cls, module: nn.Module, name: str, path: str) -> Linear:
        """Read the projection at a path below an attention module; of a LoRA-wrapped one, the base layer.

        Raises:
            LayoutError: If nothing is there, or something that computes more than weight times input plus bias.
        """
        full_name = f"{name}.{path}" if name else path
        try:
            found = module.get_submodule(path)
        except AttributeError as error:
            children = ", ".join(child for child, _ in module.named_children()) or "none"
            raise LayoutError(
                f"{described(name, module)} has no projection {path!r}; its children are: {children}. Register a "
                "layout that names its projections with qkov.locate.register_layout."
            ) from error
        kept = _KEPT_LAYER.get(qualified_name(type(found)))
        if kept is not None:
            return cls.at(module, name, f"{path}.{kept}")
        axis = _OUTPUT_AXIS.get(qualified_name(type(found)))
        if axis is None:
            raise LayoutError(
                f"{described(full_name, found)} is a projection; expected exactly torch.nn.Linear or transformers' "
                "Conv1D. Merge adapters (peft: model.merge_and_unload()), dequantise or remove parametrizations first."
            )
        weight: Any
        bias: Any  # torch types what a module names as a tensor or module
        weight, bias = found.weight, found.bias
        for parameter in (weight, bias):
            if parameter is not None and (type(parameter) is not nn.Parameter or parameter.dtype not in _PLAIN):
                raise LayoutError(
                    f"{described(full_name, found)} holds a {type(parameter).__name__} of "
                    f"{getattr(parameter, 'dtype', 'no dtype')}; expected plain floating point parameters. Quantised, "
                    "sharded or reparametrised weights are not supported: load the model without quantisation "
                    "(dtype=torch.bfloat16), or dequantise it (model.dequantize())."
                )
        if weight.is_meta:
            raise LayoutError(
                f"{described(full_name, found)} has its weights on the meta device. Load the weights first."
            )
        shape = (weight.shape[0], weight.shape[1])
        if bias is not None and tuple(bias.shape) != (shape[axis],):
            raise LayoutError(
                f"{described(full_name, found)} has a weight of {shape} and a bias of {tuple(bias.shape)}; expected "
                f"({shape[axis]},). Was it pruned or replaced by hand?"
            )
        return cls(full_name, shape, axis, bias is not None)
