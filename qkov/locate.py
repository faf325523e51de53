"""Find the attention modules of a model and where their heads lie, from the modules themselves or not at all.

A module is recognised by its exact class. Shapes alone cannot tell the fused packings apart, and names of parameters
tell nothing for certain, so an attention class that is not known is an error, never a guess. :mod:`qkov.packings` has
one function per packing; `register_layout` connects one of them, or a function of your own, to your attention class.

Layers are numbered by their index in the enclosing ``nn.ModuleList`` (without one, ``nn.Sequential``).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from .errors import LayoutError
from .geometry import AttentionLayout
from .packings import Linear, concatenated_layout, described, interleaved_layout, qualified_name, split_layout

Finder = Callable[[nn.Module, str, Any], AttentionLayout]


def find_attention(model: nn.Module) -> tuple[AttentionLayout, ...]:
    """Locate every attention module of a model and every head in it.

    Args:
        model: Any module with attention layers inside, also wrapped in others.

    Returns:
        One layout per attention module, sorted by layer.

    Raises:
        LayoutError: If there is no attention, or any part of it cannot be located with certainty: a class that is not
            registered, sizes that contradict each other, a projection that is not a plain linear layer, weights that
            are tied, shared or on the meta device, cross-attention, a layer index found twice.
    """
    if not isinstance(model, nn.Module):
        raise LayoutError(f"Expected a torch.nn.Module, found a {type(model).__name__}. Pass the model itself.")
    # Duplicates kept: a module used twice must be seen twice.
    modules = dict(model.named_modules(remove_duplicate=False))
    found = {name: module for name, module in modules.items() if qualified_name(type(module)) in _FINDERS}
    _check_coverage(modules, found)
    _check_used_once(found)
    layouts = sorted((_layout_of(name, modules) for name in found), key=lambda layout: layout.layer)
    for first, second in itertools.pairwise(layouts):
        if first.layer == second.layer:
            raise LayoutError(
                f"{described(first.module_name, modules[first.module_name])} and {second.module_name!r} both have "
                f"layer index {first.layer}; expected one self-attention module per layer. Of an encoder-decoder "
                "model, pass the encoder or the decoder alone."
            )
    _check_untied(model, layouts)
    return tuple(layouts)


def register_layout(attention_class: type | str, finder: Finder) -> None:
    """Declare how an attention class lays out its heads.

    Args:
        attention_class: The class, or its qualified name (``"package.module.Class"``). Subclasses are not included:
            they may store their weights differently.
        finder: ``finder(module, name, config)`` returns the :class:`AttentionLayout` of one module; the layer index in
            it is replaced. ``config`` is that of the module or of the nearest module around it that has one, or None.
            Use :func:`split_layout`, :func:`concatenated_layout` or :func:`interleaved_layout`, with
            ``functools.partial`` where their options are needed.

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


def _encoder_layout(module: nn.Module, name: str, config: Any, *, self_attention: str) -> AttentionLayout:
    inner = module.get_submodule("self")
    if qualified_name(type(inner)) != self_attention:
        raise LayoutError(f"{described(f'{name}.self', inner)}: expected {self_attention}. {_NO_CROSS}")
    # The output projection lies beside the module that states the head count.
    return split_layout(
        module,
        name,
        config,
        query="self.query",
        key="self.key",
        value="self.value",
        output="output.dense",
        stated_by="self",
    )


_NO_CROSS = "Cross-attention reads two inputs and is not supported: pass a model, or a part of it, without it."
_MODELS = "transformers.models"

_BERT = f"{_MODELS}.bert.modeling_bert.Bert"
_ROBERTA = f"{_MODELS}.roberta.modeling_roberta.Roberta"

# Each entry is proved by the experiment of tests/layout_proof.py on a model of that family.
_FINDERS: dict[str, Finder] = {
    f"{_BERT}Attention": partial(_encoder_layout, self_attention=f"{_BERT}SelfAttention"),
    f"{_ROBERTA}Attention": partial(_encoder_layout, self_attention=f"{_ROBERTA}SelfAttention"),
    f"{_MODELS}.gpt2.modeling_gpt2.GPT2Attention": partial(concatenated_layout, fused="c_attn", output="c_proj"),
    f"{_MODELS}.gpt_neox.modeling_gpt_neox.GPTNeoXAttention": interleaved_layout,
    f"{_MODELS}.opt.modeling_opt.OPTAttention": partial(split_layout, output="out_proj"),
    f"{_MODELS}.phi3.modeling_phi3.Phi3Attention": concatenated_layout,
    f"{_MODELS}.gemma.modeling_gemma.GemmaAttention": split_layout,
    f"{_MODELS}.gemma2.modeling_gemma2.Gemma2Attention": split_layout,
    f"{_MODELS}.granite.modeling_granite.GraniteAttention": split_layout,
    f"{_MODELS}.llama.modeling_llama.LlamaAttention": split_layout,
    f"{_MODELS}.mistral.modeling_mistral.MistralAttention": split_layout,
    f"{_MODELS}.mixtral.modeling_mixtral.MixtralAttention": split_layout,
    f"{_MODELS}.qwen2.modeling_qwen2.Qwen2Attention": split_layout,
    f"{_MODELS}.qwen3.modeling_qwen3.Qwen3Attention": split_layout,
    f"{_MODELS}.qwen3_moe.modeling_qwen3_moe.Qwen3MoeAttention": split_layout,
    f"{_MODELS}.starcoder2.modeling_starcoder2.Starcoder2Attention": split_layout,
}


def _layout_of(name: str, modules: dict[str, nn.Module]) -> AttentionLayout:
    module = modules[name]
    if getattr(module, "is_cross_attention", False):
        raise LayoutError(f"{described(name, module)} is cross-attention. {_NO_CROSS}")
    config = next(
        (part.config for _, part in _upwards(name, modules) if getattr(part, "config", None) is not None), None
    )
    layout = _FINDERS[qualified_name(type(module))](module, name, config)
    if not isinstance(layout, AttentionLayout):
        raise LayoutError(
            f"The layout function registered for {described(name, module)} returned a {type(layout).__name__}; "
            "expected an AttentionLayout, as qkov.packings.split_layout returns."
        )
    layout = dataclasses.replace(layout, layer=_layer_index(name, modules), module_name=name)
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


def _layer_index(name: str, modules: dict[str, nn.Module]) -> int:
    path = [above for above, _ in _upwards(name, modules)]
    for kind in (nn.ModuleList, nn.Sequential):
        for child, parent in itertools.pairwise(path):
            if isinstance(modules[parent], kind):
                return list(modules[parent]).index(modules[child])
    raise LayoutError(
        f"{described(name, modules[name])} is in no nn.ModuleList or nn.Sequential; expected a list of layers around "
        "it, whose index numbers the layer. Keep the layers in an nn.ModuleList, also when there is only one."
    )


def _upwards(name: str, modules: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Walk from a module to the root, itself included."""
    yield name, modules[name]
    while name:
        name = name.rpartition(".")[0]
        yield name, modules[name]


def _check_coverage(modules: dict[str, nn.Module], found: dict[str, nn.Module]) -> None:
    around = {above for name in found for above, _ in _upwards(name, modules) if above != name}
    for name, module in modules.items():
        inside = any(above in found for above, _ in _upwards(name, modules) if above != name)
        if name in found and inside:
            raise LayoutError(f"{described(name, module)} lies inside another attention module that is registered too.")
        if "Attention" in type(module).__name__ and not (name in found or name in around or inside):
            raise LayoutError(
                f"{described(name, module)} looks like attention, but where its heads lie is not known; expected one "
                f"of {', '.join(sorted(key.rpartition('.')[2] for key in _FINDERS))}. Declare its layout with "
                f"qkov.locate.register_layout({type(module).__name__}, finder)."
            )
    if not found:
        classes = sorted({type(module).__name__ for module in modules.values()})
        raise LayoutError(
            f"{type(modules['']).__name__} contains no known attention module; expected one of "
            f"{_known()}, found modules of {', '.join(classes[:12])}. "
            "Declare the layout of an attention class of your own with qkov.locate.register_layout."
        )


def _known() -> str:
    return ", ".join(sorted(key.rpartition(".")[2] for key in _FINDERS))


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
