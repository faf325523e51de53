r"""Which weights of linear modules a collection holds besides those of attention heads, and what their channels are.

A transformer block adds to a residual stream. The linear modules of its feed-forward part either *read* the stream
(gate, up, ``fc1``) or *write* to it (down, ``fc2``). A channel of the hidden layer between them is an output feature of
what reads and an input feature of what writes, as a head is for Q, K, V and for O::

    y = W_out  act(W_in x)        nn.Linear [out, in]        Conv1D [in, out]

    W_in,  role "in"              channels are rows          channels are columns
    W_out, role "out"             channels are columns       channels are rows

Found from the modules themselves: the block of a layer is what repeats with its attention module
(:mod:`qkov.kinds`), its feed-forward part is what lies in the block outside any attention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from . import kinds, linear, locate
from .errors import LayoutError, OptionError
from .layout import QKOVConfig, uncompiled

__all__ = ["GROUPS", "LinearWeight", "explain_left_out", "find_linear_weights"]

GROUPS = ("attention", "mlp", "all")
KINDS = ("attention", "mlp", "other")
ROLES = ("in", "out", "other")
_LOOKS_LIKE_ATTENTION = re.compile("Attention|Attn")


@dataclass(frozen=True)
class LinearWeight:
    """Describe one weight of a linear module.

    Attributes:
        param_name: The weight, as in ``model.named_parameters()``.
        module_name: The linear module that holds it.
        layer: The model's own index of the layer whose block it lies in, or None outside blocks.
        kind: "attention" (holds heads), "mlp" (in a block, outside its attention) or "other".
        weight_shape: Shape of the weight as stored.
        out_axis: Axis of the module's output features: 0 for ``nn.Linear``, 1 for GPT-2's ``Conv1D``.
        role: "in" (reads the residual stream; channels are output features: Q, K, V, gate, up), "out" (writes to it;
            channels are input features: O, down) or "other".

    Example:
        >>> down = LinearWeight("h.0.mlp.c_proj.weight", "h.0.mlp.c_proj", 0, "mlp", (32, 8), 1, "out")
        >>> down.channel_axis, down.num_channels
        (0, 32)
    """

    param_name: str
    module_name: str
    layer: int | None
    kind: str
    weight_shape: tuple[int, int]
    out_axis: int
    role: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.role not in ROLES or self.out_axis not in (0, 1):
            raise LayoutError(
                f"{self.param_name!r}: expected a kind of {KINDS}, a role of {ROLES} and out_axis 0 or 1; found "
                f"{self.kind!r}, {self.role!r}, {self.out_axis!r}."
            )
        if len(self.weight_shape) != 2 or min(self.weight_shape) < 1:
            raise LayoutError(f"{self.param_name!r} has shape {self.weight_shape}; expected two axes.")

    @property
    def channel_axis(self) -> int:
        """Axis of the stored weight along which its channels lie: input features of what writes, else output."""
        return 1 - self.out_axis if self.role == "out" else self.out_axis

    @property
    def num_channels(self) -> int:
        """Number of channels."""
        return self.weight_shape[self.channel_axis]


def find_linear_weights(
    model: nn.Module, config: QKOVConfig, include: str | Iterable[str] = ("attention", "mlp")
) -> tuple[LinearWeight, ...]:
    """Find the weights of linear modules whose gradients can be collected.

    Weights that are tied or shared have gradients of several modules: a group leaves them out, and asking for one by
    name is an error. So it is with experts kept in three-dimensional parameters, which are no linear modules, and with
    classes that compute more than a product. :func:`explain_left_out` says which were left out and why.

    Args:
        model: The model that ``config`` describes.
        include: "attention" (the weights that hold heads), "mlp" (linear modules of the same blocks outside attention),
            "all" (every linear module), or names of modules; one word, or several.

    Returns:
        Each weight once: those that hold heads first, in the order of ``config``, the others in that of the model.

    Raises:
        OptionError: If a word is no group and no module.
        LayoutError: If a named module is not a plain linear layer, or its weight is tied or shared; if nothing is left.
    """
    return _survey(model, config, include)[0]


def explain_left_out(
    model: nn.Module, config: QKOVConfig, include: str | Iterable[str] = ("attention", "mlp")
) -> dict[str, str]:
    """Say which matrices inside the groups asked for are not collected: ``{param_name: reason}``."""
    return _survey(model, config, include)[1]


def _survey(
    model: nn.Module, config: QKOVConfig, include: str | Iterable[str]
) -> tuple[tuple[LinearWeight, ...], dict[str, str]]:
    model = uncompiled(model)
    asked = (include,) if isinstance(include, str) else tuple(include)
    modules = dict(model.named_modules(remove_duplicate=False))
    if not asked or not all(isinstance(one, str) and (one in GROUPS or one in modules) for one in asked):
        raise OptionError(
            f"weights={include!r}; expected words of {', '.join(map(repr, GROUPS))} or names of linear modules, as in "
            "model.named_modules()."
        )
    blocks = _blocks(config, modules)
    attention = {one.module_name: one for one in _attention_weights(config)}
    sharing = _sharing(model)
    found: dict[str, LinearWeight] = {}
    for name, module in modules.items():
        inside = any(name.startswith(f"{taken}.") for taken in found)  # adapters keep linear layers of their own
        if not linear.is_linear(module) or inside or name in attention:
            continue
        plain = linear.Linear.at(modules[""], "", name)
        if plain.name not in attention:
            found[name] = _described(plain, blocks, modules)
    found = _with_roles(found, config)
    for name in asked:
        if name not in GROUPS:
            _check_named(name, attention, found, modules, sharing)
    wanted = [one for one in attention.values() if {"attention", "all", one.module_name} & set(asked)]
    for name, one in found.items():
        named = {"all", one.kind, name, one.module_name} & set(asked)
        if named and len(sharing[one.param_name]) == 1:
            wanted.append(one)
    left_out = _left_out(model, asked, {one.param_name for one in wanted}, blocks, modules, sharing)
    if "mlp" in asked and "all" not in asked and not any(one.kind == "mlp" for one in found.values()):
        for one in found.values():  # XLM and FlauBERT keep all feed-forward parts in a list beside that of attention
            left_out.setdefault(one.param_name, "outside the blocks that repeat with attention; give its module's name")
    if not wanted:
        reasons = "; ".join(f"{name!r}: {reason}" for name, reason in list(left_out.items())[:4]) or "there is none"
        raise LayoutError(f"weights={include!r} names no weight of a linear module: {reasons}.")
    return tuple(wanted), left_out


def _attention_weights(config: QKOVConfig) -> list[LinearWeight]:
    """One entry per weight that holds heads; Q, K and V may share one."""
    found: dict[str, LinearWeight] = {}
    for layout in config.layers:
        for projection in layout.projections:
            writes = projection.side == "input"
            found.setdefault(
                projection.param_name,
                LinearWeight(
                    projection.param_name,
                    projection.module_name,
                    layout.layer,
                    "attention",
                    projection.weight_shape,
                    1 - projection.head_axis if writes else projection.head_axis,
                    "out" if writes else "in",
                ),
            )
    return list(found.values())


def _blocks(config: QKOVConfig, modules: dict[str, nn.Module]) -> dict[str, int]:
    """Names of the transformer blocks and their layers: what repeats with the attention modules."""
    blocks = {}
    for kind, group in kinds.group_by_kind([layout.module_name for layout in config.layers], modules).items():
        pattern = kind.split(".")
        depth = max((place + 1 for place, part in enumerate(pattern) if part == "*"), default=len(pattern) - 1)
        for name in group:
            layer = next(layout.layer for layout in config.layers if layout.module_name == name)
            blocks[".".join(name.split(".")[:depth])] = layer
    return blocks


def _block_of(name: str, blocks: dict[str, int]) -> str | None:
    parts = name.split(".")
    above = (".".join(parts[:depth]) for depth in range(len(parts) - 1, -1, -1))
    return next((one for one in above if one in blocks), None)


def _described(plain: linear.Linear, blocks: dict[str, int], modules: dict[str, nn.Module]) -> LinearWeight:
    block = _block_of(plain.name, blocks)
    kind = "mlp" if block is not None and not _in_attention(plain.name, block, modules) else "other"
    layer = None if block is None else blocks[block]
    return LinearWeight(f"{plain.name}.weight", plain.name, layer, kind, plain.weight_shape, plain.output_axis, "other")


def _in_attention(name: str, block: str, modules: dict[str, nn.Module]) -> bool:
    """Whether an attention module, this layer's or another, lies between a module and its block."""
    parts = name.split(".")
    depth = len(block.split(".")) if block else 0
    between = (modules[".".join(parts[:stop])] for stop in range(depth + 1, len(parts)))
    # LongCat-Flash names its class after what it is, MLA.
    return any(
        locate.is_registered(module) or _LOOKS_LIKE_ATTENTION.search(type(module).__name__) for module in between
    )


def _with_roles(found: dict[str, LinearWeight], config: QKOVConfig) -> dict[str, LinearWeight]:
    """Tell what reads the residual stream from what writes to it, by width; where both fit, by order."""
    by_layer: dict[int | None, list[LinearWeight]] = {}
    for one in found.values():
        if one.kind == "mlp":
            by_layer.setdefault(one.layer, []).append(one)
    roles = {}
    for layout in config.layers:
        members = by_layer.get(layout.layer, [])
        for one in members:
            reads = one.weight_shape[1 - one.out_axis] == layout.hidden_size
            writes = one.weight_shape[one.out_axis] == layout.hidden_size
            if reads and writes:  # the last one of a feed-forward writes
                siblings = [other for other in members if _parent(other) == _parent(one)]
                writes = one is (siblings if len(siblings) > 1 else members)[-1]
            roles[one.param_name] = "out" if writes else "in" if reads else "other"
    return {
        name: LinearWeight(**{**one.__dict__, "role": roles.get(one.param_name, "other")})
        for name, one in found.items()
    }


def _parent(one: LinearWeight) -> str:
    return one.module_name.removesuffix(".base_layer").rpartition(".")[0]


def _sharing(model: nn.Module) -> dict[str, list[str]]:
    """For every parameter all names of its memory: tied parameters, shared modules, views of one storage."""
    owners: dict[tuple[str, int], list[str]] = {}
    named = list(model.named_parameters(remove_duplicate=False))
    for name, parameter in named:
        owners.setdefault((str(parameter.device), parameter.data_ptr()), []).append(name)
    return {
        name: owners[(str(parameter.device), parameter.data_ptr())] if parameter.numel() else [name]
        for name, parameter in named
    }


def _check_named(
    name: str,
    attention: dict[str, LinearWeight],
    found: dict[str, LinearWeight],
    modules: dict[str, nn.Module],
    sharing: dict[str, list[str]],
) -> None:
    if name in attention:
        return
    one = found.get(name) or next((other for other in found.values() if other.module_name == name), None)
    if one is None:
        linear.Linear.at(modules[""], "", name)  # raises for what is no linear layer
        raise LayoutError(f"{linear.described(name, modules[name])} is a part of an adapter; name the layer around it.")
    if len(sharing[one.param_name]) > 1:
        raise LayoutError(
            f"{one.param_name!r} is tied: {' and '.join(map(repr, sharing[one.param_name]))} are one parameter. Its "
            "gradient is the sum over all of them, not that of this module. Untie them (copy the parameter) first."
        )


def _left_out(
    model: nn.Module,
    asked: tuple[str, ...],
    wanted: set[str],
    blocks: dict[str, int],
    modules: dict[str, nn.Module],
    sharing: dict[str, list[str]],
) -> dict[str, str]:
    reasons = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name in wanted:
            continue
        owner = name.rpartition(".")[0]
        block = _block_of(name, blocks)
        in_mlp = block is not None and not _in_attention(name, block, modules)
        if "all" in asked or ("mlp" in asked and in_mlp):
            reasons[name] = _reason(owner, parameter.ndim, modules[owner], sharing[name])
    return reasons


def _reason(owner: str, axes: int, module: nn.Module, names: list[str]) -> str:
    if len(names) > 1:
        return f"tied or shared: {', '.join(map(repr, names))} are one parameter"
    if linear.is_linear(module):
        return "an adapter's own weight beside the layer that is measured"
    if axes > 2:
        return f"a parameter of {axes} axes in {linear.described(owner, module)}, which is no linear module"
    return f"belongs to {linear.described(owner, module)}, which is no plain linear module"
