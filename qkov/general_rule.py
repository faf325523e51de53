"""The general rule for attention of transformers with four separate projections: where heads lie follows from its shapes.

It covers classes of that library alone. In every attention module of it that an experiment could settle, the heads of
separate projections lie one behind the other, and ``validation/architectures.py`` proves it family by family. A class
defined elsewhere is never read by this rule: :func:`qkov.locate.register_layout` declares it.

A module is covered when it has one linear layer for each of Q, K, V and O under names that the library uses, and no
other weight with two or more axes: a gate, an embedding of distances or a convolution may act on the heads.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .errors import LayoutError
from .geometry import AttentionLayout
from .linear import Linear, described, is_linear
from .packings import split_layout

INPUTS = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q", "k", "v"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("linear_q", "linear_k", "linear_v"),
    ("to_q", "to_k", "to_v"),
    ("Wq", "Wk", "Wv"),
    ("project_q", "project_k", "project_v"),
)
"""Names of the projections of queries, keys and values, together in one module."""

OUTPUTS = (
    "o_proj",
    "out_proj",
    "output.dense",
    "o",
    "dense",
    "proj",
    "output",
    "output_proj",
    "projection",
    "projection_layer",
    "out_lin",
    "to_out",
    "Wo",
    "linear_out",
    "attention_out",
)
"""Paths of the output projection."""

# BERT and its relatives keep queries, keys and values in a module of their own, beside the output projection.
_INNER = ("", "self", "attention", "attn")


def projections_of(module: nn.Module) -> dict[str, str] | None:
    """Return the paths of Q, K, V, O and of the module that states the heads, or None where the rule says nothing.

    The keys are those of :func:`qkov.packings.split_layout`.
    """
    if not type(module).__module__.startswith("transformers.models."):
        return None
    inputs = [
        (inner, *(f"{inner}.{name}".lstrip(".") for name in names))
        for inner in _INNER
        for names in INPUTS
        if all(_linear(module, f"{inner}.{name}".lstrip(".")) for name in names)
    ]
    outputs = [path for path in OUTPUTS if _linear(module, path)]
    if len(inputs) != 1 or len(outputs) != 1:
        return None
    (inner, query, key, value), (output,) = inputs[0], outputs
    return {"query": query, "key": key, "value": value, "output": output, "stated_by": inner}


def other_weights(module: nn.Module, paths: dict[str, str]) -> list[str]:
    """Name the parameters with two or more axes that are none of the four projections'."""
    own = tuple(f"{paths[block]}." for block in ("query", "key", "value", "output"))
    return [name for name, parameter in module.named_parameters() if parameter.ndim > 1 and not name.startswith(own)]


def covers(module: nn.Module) -> bool:
    """Tell whether the rule places the heads of a module."""
    paths = projections_of(module)
    return paths is not None and not other_weights(module, paths)


def general_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """Locate the heads by the rule, also beside other weights, which the caller then knows to be of no block.

    Where module and configuration state different numbers of heads the module is right: the configuration of an
    encoder-decoder names the heads of one part, and a model of several parts those of another.

    Raises:
        LayoutError: If the sizes are unknown or contradict each other.
    """
    paths: Any = projections_of(module)
    if paths is None:
        raise LayoutError(
            f"{described(name, module)} does not hold one linear layer for each of Q, K, V and O under names that are "
            "known. Declare its layout with qkov.locate.register_layout."
        )
    stating = module.get_submodule(paths["stated_by"])
    heads = _stated(stating, "num_heads", "num_attention_heads", "num_attn_heads", "n_heads", "n_head")
    width = _stated(stating, "head_dim", "attention_head_size")
    if heads is None and width:
        rows = Linear.at(module, name, paths["query"]).outputs
        heads = next((count for count in _counts_of_parts(config) if count * width == rows), None)
    known = heads or _stated(config, "num_attention_heads")
    grouped = _stated(stating, "num_key_value_groups")
    kv_heads = _stated(stating, "num_key_value_heads", "num_kv_heads") or (
        known // grouped if known and grouped else None
    )
    agreed = (
        (heads, _stated(config, "num_attention_heads")),
        (kv_heads, _stated(config, "num_key_value_heads")),
        (width, _stated(config, "head_dim")),
    )
    if all(_agree(one, other) for one, other in agreed):
        return split_layout(module, name, config, **paths)
    return split_layout(module, name, None, **paths, num_heads=known, num_kv_heads=kv_heads or known)


def _stated(source: Any, *sizes: str) -> int | None:
    """Return the first of some sizes that a module or configuration states as a number."""
    values = (getattr(source, size, None) for size in sizes)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _counts_of_parts(config: Any) -> list[int]:
    """Numbers of heads that a configuration states for parts of its model; a detector's modules state a width only."""
    stated = (_stated(config, size) for size in ("encoder_attention_heads", "decoder_attention_heads"))
    return [count for count in stated if count]


def _agree(one: int | None, other: int | None) -> bool:
    return one is None or other is None or one == other


def _linear(module: nn.Module, path: str) -> bool:
    """Tell whether a plain linear layer is at a path, counting one that an adapter wraps."""
    for name in path.split("."):
        child = module._modules.get(name)
        if child is None:
            return False
        module = child
    return is_linear(module)
