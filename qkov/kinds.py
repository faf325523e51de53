"""Kinds of attention in one model, told apart by where their modules sit, and the layer number of each module.

Modules of one kind have one name but for the number of their layer: ``"decoder.block.*.layer.1.EncDecAttention"``. The
layers are the list whose index differs between them; other lists around a module (T5 keeps the parts of a layer in one)
do not number layers. Layers in stages, lists nested in each other, are numbered through in the order of the model:
``"encoder.layers.*.blocks.*.attention"``. A module in no list is a kind of its own, with one layer, 0.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def group_by_kind(names: Iterable[str], modules: dict[str, nn.Module]) -> dict[str, dict[str, int]]:
    """Group attention modules.

    Args:
        names: Of attention modules. modules: All modules of the model by name.

    Returns:
        ``{kind: {module name: layer}}``, in the order of the model.
    """
    alike: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name in names:
        path = tuple(name.split("."))
        levels = _list_levels(path, modules)
        skeleton = tuple("*" if level in levels else part for level, part in enumerate(path))
        alike.setdefault(skeleton, []).append(path)
    kinds: dict[str, dict[str, int]] = {}
    for paths in alike.values():
        for path, numbering in _numbering(paths, modules).items():
            kind = ".".join("*" if level in numbering else part for level, part in enumerate(path))
            group = kinds.setdefault(kind, {})
            level = numbering[0] if len(numbering) == 1 else None
            group[".".join(path)] = len(group) if level is None else _index(path[:level], path[: level + 1], modules)
    return kinds


def _numbering(paths: list[tuple[str, ...]], modules: dict[str, nn.Module]) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return for every path the places whose list indices number its layer: none, one, or those of nested stages."""
    levels = _list_levels(paths[0], modules)
    if len(levels) > 1 and levels[-1] == len(paths[0]) - 1:
        levels.pop()  # a list of attention modules holds parts of a layer
    varying = [level for level in levels if len({path[level] for path in paths}) > 1]
    # A single layer: of several lists around it, one that is meant for layers.
    single = [level for level in levels if isinstance(modules[".".join(paths[0][:level])], nn.ModuleList)] or levels
    return dict.fromkeys(paths, tuple(varying or single[:1]))


def _list_levels(path: tuple[str, ...], modules: dict[str, nn.Module]) -> list[int]:
    """Places in a path that are indices of an ``nn.ModuleList`` or ``nn.Sequential``."""
    lists = (nn.ModuleList, nn.Sequential)
    return [level for level in range(len(path)) if isinstance(modules[".".join(path[:level])], lists)]


def _index(parent: tuple[str, ...], child: tuple[str, ...], modules: dict[str, nn.Module]) -> int:
    return list(modules[".".join(parent)]).index(modules[".".join(child)])  # type: ignore[call-overload]  # of a ModuleList
