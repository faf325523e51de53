"""Kinds of attention in one model, told apart by where their modules sit, and the layer number of each module.

Modules of one kind have one name but for the number of their layer: ``"decoder.block.*.layer.1.EncDecAttention"``. The
layers are the list whose index differs between them; other lists around a module (T5 keeps the parts of a layer in one)
do not number layers.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .errors import LayoutError


def group_by_kind(names: Iterable[str], modules: dict[str, nn.Module]) -> dict[str, dict[str, int]]:
    """Group attention modules.

    Args:
        names: Of attention modules. modules: All modules of the model by name.

    Returns:
        ``{kind: {module name: layer}}``, in the order of the model. A module outside of any list, and modules in lists
        nested in each other, are kinds of their own with a layer of -1: they have no number.
    """
    alike: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name in names:
        path = tuple(name.split("."))
        levels = _list_levels(path, modules)
        skeleton = tuple("*" if level in levels else part for level, part in enumerate(path))
        alike.setdefault(skeleton, []).append(path)
    kinds: dict[str, dict[str, int]] = {}
    for paths in alike.values():
        levels = _list_levels(paths[0], modules)
        varying = [level for level in levels if len({path[level] for path in paths}) > 1] or levels[:1]
        if len(varying) == 2 and varying[1] == len(paths[0]) - 1:
            del varying[1]  # a list of the attention modules of one layer: each place in it is a kind (LongCat-Flash)
        for path in paths:
            kind, layer = ".".join(path), -1
            if len(varying) == 1:
                level = varying[0]
                kind = ".".join((*path[:level], "*", *path[level + 1 :]))
                layer = _index(path[:level], path[: level + 1], modules)
            kinds.setdefault(kind, {})[".".join(path)] = layer
    return kinds


def require_numbers(kind: str, group: dict[str, int]) -> None:
    """Raise LayoutError for a kind whose modules have no layer number."""
    if -1 in group.values():
        raise LayoutError(
            f"{kind!r} is in no list of layers, or in lists nested in each other; expected one nn.ModuleList or "
            "nn.Sequential around it, whose index numbers the layer. Keep the layers in one nn.ModuleList, also when "
            "there is only one."
        )


def _list_levels(path: tuple[str, ...], modules: dict[str, nn.Module]) -> list[int]:
    """Places in a path that are indices of an ``nn.ModuleList``; without one, of an ``nn.Sequential``."""
    for kind in (nn.ModuleList, nn.Sequential):
        levels = [level for level in range(len(path)) if isinstance(modules[".".join(path[:level])], kind)]
        if levels:
            return levels
    return []


def _index(parent: tuple[str, ...], child: tuple[str, ...], modules: dict[str, nn.Module]) -> int:
    return list(modules[".".join(parent)]).index(modules[".".join(child)])  # type: ignore[call-overload]
