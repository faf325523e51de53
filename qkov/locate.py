"""Find the attention modules of a model and where their heads lie, from the modules themselves or not at all.

Attention of transformers with four separate projections is found by a rule (:mod:`qkov.general_rule`), any other by its
exact class. Shapes alone cannot tell the fused packings apart, and names of parameters tell nothing for certain, so an
attention class that is not known is an error, never a guess. :mod:`qkov.packings` has one function per packing;
`register_layout` connects one of them, or a function of your own, to your attention class.

:mod:`qkov.kinds` numbers the layers and tells kinds of attention apart.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from . import general_rule, kinds, known_attention, refused_attention
from .errors import LayoutError
from .geometry import AttentionLayout
from .known_attention import Finder
from .linear import Linear, described, is_linear, qualified_name
from .packings import concatenated_layout, interleaved_layout, split_layout

__all__ = ["concatenated_layout", "find_attention", "found_by", "interleaved_layout", "register_layout", "split_layout"]


def find_attention(model: nn.Module, attention: str | None = None) -> tuple[AttentionLayout, ...]:
    """Locate every attention module of a model and every head in it.

    Modules of one kind have one name but for the index of their layer: ``"model.decoder.layers.*.self_attn"``. A model
    with several kinds (self- and cross-attention, an encoder and a decoder) is looked at one kind at a time.

    Args:
        model: Any module with attention layers inside, also wrapped in others.
        attention: Which kind, where there are several. Other kinds need not be known then.

    Returns:
        One layout per attention module, sorted by layer.

    Raises:
        LayoutError: If there is no attention, or any part of it cannot be located with certainty: a class that is not
            registered, sizes that contradict each other, a projection that is not a plain linear layer, weights that
            are tied, shared or on the meta device, several kinds and none chosen.
    """
    if not isinstance(model, nn.Module):
        raise LayoutError(f"Expected a torch.nn.Module, found a {type(model).__name__}. Pass the model itself.")
    # Duplicates kept: a module used twice must be seen twice.
    modules = dict(model.named_modules(remove_duplicate=False))
    found = _recognised(modules)
    if attention is None:
        _check_coverage(modules, found)
    _check_used_once(found)
    numbered = _of_one_kind(found, modules, attention)
    layouts = [_layout_of(name, layer, modules) for name, layer in sorted(numbered.items(), key=lambda item: item[1])]
    _check_untied(model, layouts)
    return tuple(layouts)


def _recognised(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Attention modules whose class is registered, and those beside them that the general rule covers."""
    registered = {name: module for name, module in modules.items() if qualified_name(type(module)) in _FINDERS}
    known = registered.keys()
    return {
        name: module
        for name, module in modules.items()
        if name in known
        or (
            _LOOKS_LIKE_ATTENTION.search(type(module).__name__)
            and qualified_name(type(module)) not in refused_attention.REASONS
            and general_rule.covers(module)
            and not any(above in known for above, _ in _upwards(name, modules))
        )
    }


_LOOKS_LIKE_ATTENTION = re.compile("Attention|Attn")


def _of_one_kind(found: dict[str, nn.Module], modules: dict[str, nn.Module], attention: str | None) -> dict[str, int]:
    by_kind = kinds.group_by_kind(found, modules)
    model = type(modules[""]).__name__
    listed = ", ".join(f"{kind!r} ({type(modules[next(iter(group))]).__name__})" for kind, group in by_kind.items())
    if attention is None and len(by_kind) > 1:
        raise LayoutError(
            f"{model} has {len(by_kind)} kinds of attention: {listed}. Choose one with attention=..., for "
            "QKOVConfig.from_model and for FisherCollector."
        )
    if attention is not None and attention not in by_kind:
        raise LayoutError(
            f"attention={attention!r} is no known kind of attention of {model}; found {listed or 'none'}."
        )
    return by_kind[next(iter(by_kind)) if attention is None else attention]


def register_layout(attention_class: type | str, finder: Finder) -> None:
    """Declare how an attention class lays out its heads.

    Args:
        attention_class: The class, or its qualified name (``"package.module.Class"``). Subclasses are not included:
            they may store their weights differently.
        finder: ``finder(module, name, config)`` returns the :class:`AttentionLayout` of one module; the layer index in
            it is replaced. ``config`` is that of the module or of the nearest module around it that has one, or None.
            Use :func:`split_layout`, :func:`concatenated_layout` or :func:`interleaved_layout`, with
            ``functools.partial`` where their options are needed.

    Raises:
        LayoutError: If the finder cannot be called.

    Example:
        >>> from functools import partial
        >>> from qkov.locate import register_layout, split_layout
        >>> finder = partial(split_layout, query="wq", key="wk", value="wv", output="wo", num_heads=8, num_kv_heads=2)
        >>> register_layout("my_package.MyAttention", finder)
    """
    if not callable(finder):
        raise LayoutError(f"The layout function is a {type(finder).__name__}; expected finder(module, name, config).")
    name = attention_class if isinstance(attention_class, str) else qualified_name(attention_class)
    _FINDERS[name] = finder


def found_by(module: nn.Module) -> str:
    """Say what places the heads of an attention ``module``: "a layout of its class", or "the general rule"."""
    return "a layout of its class" if is_registered(module) else "the general rule"


def is_registered(module: nn.Module) -> bool:
    """Tell whether a module is attention whose layout is known by its class."""
    return qualified_name(type(module)) in _FINDERS


_FINDERS: dict[str, Finder] = dict(known_attention.FINDERS)


def _layout_of(name: str, layer: int, modules: dict[str, nn.Module]) -> AttentionLayout:
    module = modules[name]
    for inside, part in module.named_modules():
        _check_reason(f"{name}.{inside}".rstrip("."), part)
    config = next(
        (part.config for _, part in _upwards(name, modules) if getattr(part, "config", None) is not None), None
    )
    config = _config_of_layer(config, module)
    layout = _FINDERS.get(qualified_name(type(module)), general_rule.general_layout)(module, name, config)
    if not isinstance(layout, AttentionLayout):
        raise LayoutError(
            f"The layout function registered for {described(name, module)} returned a {type(layout).__name__}; "
            "expected an AttentionLayout, as qkov.packings.split_layout returns."
        )
    layout = dataclasses.replace(layout, layer=layer, module_name=name)
    for projection in layout.projections:
        expected = Linear.at(modules[""], "", projection.module_name).projection(
            projection.block, projection.starts, projection.width
        )
        if projection != expected:
            raise LayoutError(
                f"The layout function registered for {described(name, module)} describes {projection}; the module "
                f"itself gives {expected}."
            )
    return layout


def _config_of_layer(config: Any, module: nn.Module) -> Any:
    """Of layers that differ take the configuration of this one: transformers raises where theirs is asked for a size."""
    index = getattr(module, "layer_idx", None)
    if getattr(config, "is_heterogeneous", False) and isinstance(index, int):
        return config.per_layer_config[index]
    return config


def _upwards(name: str, modules: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Walk from a module to the root, itself included."""
    yield name, modules[name]
    while name:
        name = name.rpartition(".")[0]
        yield name, modules[name]


def _check_coverage(modules: dict[str, nn.Module], found: dict[str, nn.Module]) -> None:
    around = {above for name in found for above, _ in _upwards(name, modules) if above != name}
    for name, module in modules.items():
        _check_reason(name, module)
    for name, module in modules.items():
        inside = any(above in found for above, _ in _upwards(name, modules) if above != name)
        if name in found and inside:
            raise LayoutError(f"{described(name, module)} lies inside another attention module that is registered too.")
        known = name in found or name in around or inside
        if _LOOKS_LIKE_ATTENTION.search(type(module).__name__) and not known and not _has_no_heads(module):
            raise LayoutError(
                f"{described(name, module)} looks like attention, but where its heads lie is not known; expected "
                f"{_known()}. {_unread(module)}Declare its layout with "
                f"qkov.locate.register_layout({type(module).__name__}, finder)."
            )
    if not found:
        classes = sorted({type(module).__name__ for module in modules.values()})
        raise LayoutError(
            f"{type(modules['']).__name__} contains no known attention module; expected "
            f"{_known()}; found modules of {', '.join(classes[:12])}. "
            "Declare the layout of an attention class of your own with qkov.locate.register_layout."
        )


def _unread(module: nn.Module) -> str:
    """Say which linear layers of a module are of a kind that is not read; nothing where there is none."""
    parts = (part for part in module.modules() if "linear" in type(part).__name__.lower() and not is_linear(part))
    kinds = ", ".join(sorted({qualified_name(type(part)) for part in parts}))
    if not kinds:
        return ""
    return (
        f"It has projections of class {kinds}: load the model without quantisation, or dequantise it "
        "(model.dequantize()), and merge adapters (peft: model.merge_and_unload()). Else: "
    )


def _check_reason(name: str, module: nn.Module) -> None:
    kind = qualified_name(type(module))
    if kind in refused_attention.REASONS and kind not in _FINDERS:
        raise LayoutError(
            f"{described(name, module)} has no heads that could be cut out of its weights: "
            f"{refused_attention.REASONS[kind]}. Pass a model, or a part of it, without this module."
        )


def _has_no_heads(module: nn.Module) -> bool:
    return qualified_name(type(module)) in refused_attention.WITHOUT_HEADS


def _known() -> str:
    """Say in few words what is known; all names would fill a page."""
    return (
        f"one of the {len(_FINDERS)} classes that qkov.known_attention and register_layout list, or one of transformers "
        "with four separate projections and nothing beside them, as qkov.general_rule says"
    )


def _check_used_once(found: dict[str, nn.Module]) -> None:
    first_name: dict[int, str] = {}
    for name, module in found.items():
        if id(module) in first_name:
            raise LayoutError(
                f"{described(name, module)} is the same object as {first_name[id(module)]!r}; expected one module per "
                "layer. Gradients of a module that runs several times do not belong to one layer."
            )
        first_name[id(module)] = name


def _check_untied(model: nn.Module, layouts: list[AttentionLayout]) -> None:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for layout in layouts:
        attention = described(layout.module_name, model.get_submodule(layout.module_name))
        for projection in layout.projections:
            for name in filter(None, (projection.param_name, projection.bias_name)):
                sharing = names[id(model.get_parameter(name))]
                if len(sharing) > 1:
                    raise LayoutError(
                        f"{name!r} of {attention} is tied: the same parameter is {' and '.join(map(repr, sharing))}; "
                        "expected parameters of its own. Untie them (copy the parameter) before measuring."
                    )
    _check_memory(model, layouts)


def _check_memory(model: nn.Module, layouts: list[AttentionLayout]) -> None:
    """Refuse different parameters that look at the same memory, as after ``a.weight.data = b.weight.data``."""
    owner: dict[tuple[str, int], str] = {}
    for layout in layouts:
        attention = described(layout.module_name, model.get_submodule(layout.module_name))
        for name in sorted({projection.param_name for projection in layout.projections}):
            weight = model.get_parameter(name)
            first = owner.setdefault((str(weight.device), weight.data_ptr()), name)
            if first != name:
                raise LayoutError(
                    f"{name!r} of {attention} and {first!r} share their memory; expected separate weights. Clone one."
                )
