"""What ``inspect`` says of a model: where each head lies, as plain values and as text, and what belongs to no head."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from . import latent_attention, locate
from .layout import QKOVConfig, uncompiled


def chosen_layers(model: Any, layers: list[int] | None = None, *, attention: str | None = None) -> QKOVConfig:
    """Locate the heads of a model and keep some layers, by the model's own index; by default all.

    ``attention`` is the kind of attention, as for ``QKOVConfig.from_model``.

    Raises:
        LayoutError, SliceIndexError: If the heads cannot be located, or a layer has no attention.
    """
    config = QKOVConfig.from_model(model, attention=attention)
    for index in layers or ():
        config.layer(index)  # raises where there is none
    return QKOVConfig(tuple(layout for layout in config.layers if not layers or layout.layer in layers))


def describe_model(model: Any, config: QKOVConfig) -> dict[str, Any]:
    """Describe where the heads of a model lie in plain values that fit JSON.

    Args:
        model: The model.
        config: Its layers that are of interest.

    Returns:
        ``class``; ``layers``, a list of layouts with the starts of every head and what placed them; ``not_covered``,
        the parameters of their modules that belong to no head; ``summary``, counts over them.
    """
    layouts = config.layers
    rest = [entry for layout in layouts for entry in not_covered(model, layout)]
    inside = {name: parameter for layout in layouts for name, parameter in _parameters_of(model, layout)}
    num_inside = sum(parameter.numel() for parameter in inside.values())
    return {
        "class": type(model).__name__,
        "layers": [asdict(layout) | {"found_by": _found_by(model, layout)} for layout in layouts],
        "not_covered": rest,
        "summary": {
            "num_layers": len(layouts),
            "num_heads": sum(layout.num_heads for layout in layouts),
            "num_kv_heads": sum(layout.num_kv_heads for layout in layouts),
            "uses_gqa": any(layout.num_kv_heads < layout.num_heads for layout in layouts),
            "num_parameters_in_heads": num_inside - sum(entry["size"] for entry in rest),
            "num_parameters_in_attention": num_inside,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
    }


def not_covered(model: Any, layout: Any) -> list[dict[str, Any]]:
    """List the parameters, or parts of them, of an attention module that belong to no head.

    Returns:
        Entries ``layer``, ``module_name``, ``param_name``, ``part`` (``start, stop`` on ``axis``, or None for all),
        ``axis``, ``size`` (numbers in it) and ``reason``.
    """
    entries = []
    for name, parameter in _parameters_of(model, layout):
        claimed = [
            (projection.head_axis if name == projection.param_name else 0, projection.interval(unit))
            for projection in layout.projections
            if name in (projection.param_name, projection.bias_name)
            for unit in range(projection.num_units)
        ]
        axis = claimed[0][0] if claimed else 0
        for gap, reason in _unclaimed(layout, name, parameter, [interval for _, interval in claimed], axis):
            entries.append(
                {
                    "layer": layout.layer,
                    "module_name": layout.module_name,
                    "param_name": name,
                    "axis": axis,
                    "part": gap,
                    "size": (parameter if gap is None else parameter.narrow(axis, gap[0], gap[1] - gap[0])).numel(),
                    "reason": reason,
                }
            )
    return entries


def _unclaimed(
    layout: Any, name: str, parameter: Any, claimed: list[tuple[int, int]], axis: int
) -> list[tuple[tuple[int, int] | None, str]]:
    """Parts of a parameter that no head owns, None for all of it, each with the reason."""
    if claimed:
        reason = "a part of the weight that no head uses as query, key, value or output"
        return [(gap, reason) for gap in _gaps(claimed, parameter.shape[axis])]
    if name.startswith(f"{layout.projection('O').module_name}.") and parameter.ndim == 1:
        return [(None, "added after the heads are summed")]
    if layout.packing == latent_attention.PACKING:
        shared = latent_attention.shared_parts(layout, name, parameter.shape[0])
        if shared:
            return shared
    return [(None, "not of the Q, K, V or O projection")]


def layout_table(layers: list[dict[str, Any]]) -> str:
    """Write layouts as text, neighbouring layers that differ only in their number together as ``*``."""
    paragraphs = []
    for _, group in itertools.groupby(layers, key=_alike):
        alike = list(group)
        one = alike[0]
        several = len(alike) > 1
        module = _numbered(one["module_name"], one["layer"]) if several else one["module_name"]
        group_size = one["num_heads"] // one["num_kv_heads"]
        shared = f" (each for {group_size} query heads)" if group_size > 1 else ""
        rows = [("block", "heads", "axis", "first", "last", "step", "bias", "parameter")]
        for block in one["projections"]:
            first, last = block["starts"][0], block["starts"][-1]
            steps = {after - before for before, after in itertools.pairwise(block["starts"])} or {0}
            rows.append(
                (
                    block["block"],
                    str(len(block["starts"])),
                    "rows" if block["head_axis"] == 0 else "columns",
                    f"{first}:{first + block['width']}",
                    f"{last}:{last + block['width']}",
                    str(*steps) if len(steps) == 1 else "uneven",
                    "yes" if block["bias_name"] else "no",
                    _below(block["param_name"], one["module_name"]),
                )
            )
        paragraphs.append(
            f"{_layers_label([layout['layer'] for layout in alike])}: {module}\n"
            f"  {one['packing']}, {one['num_heads']} query heads, {one['num_kv_heads']} kv heads{shared}\n"
            f"  head_dim {one['head_dim']}, {_own_key(one)}v_head_dim {one['v_head_dim']}, "
            f"hidden_size {one['hidden_size']}\n"
            f"  placed by {one['found_by']}\n" + _columns(rows)
        )
    return "\n\n".join(paragraphs)


def _own_key(layout: dict[str, Any]) -> str:
    return f"k_head_dim {layout['k_head_dim']}, " if layout["k_head_dim"] != layout["head_dim"] else ""


def not_covered_table(entries: list[dict[str, Any]]) -> str:
    """Write what belongs to no head, a line for each parameter of a layer's module, all layers that have it together."""
    if not entries:
        return "belongs to no head: nothing in these attention modules"
    together: dict[tuple[str, ...], list[int]] = {}
    for entry in entries:
        part = "all" if entry["part"] is None else "{}:{}".format(*entry["part"])
        axis = "" if entry["part"] is None else ("rows", "columns")[entry["axis"]]
        key = (f"{axis} {part}".strip(), str(entry["size"]), _below(entry["param_name"], entry["module_name"]))
        together.setdefault((*key, entry["reason"]), []).append(entry["layer"])
    rows = [("part", "numbers", "parameter", "in", "why")]
    for (part, size, name, reason), layers in together.items():
        rows.append((part, size, name, _layers_label(layers), reason))
    return "belongs to no head:\n" + _columns(rows)


def summary_line(summary: dict[str, Any]) -> str:
    """Write the counts as two sentences."""
    num_layers, grouped = summary["num_layers"], " (grouped)" if summary["uses_gqa"] else ""
    return (
        f"{num_layers} {'layer' if num_layers == 1 else 'layers'} with attention, {summary['num_heads']} query heads, "
        f"{summary['num_kv_heads']} kv heads{grouped}\n"
        f"heads hold {summary['num_parameters_in_heads']:,} numbers, of {summary['num_parameters_in_attention']:,} in "
        f"these modules and {summary['num_parameters']:,} in the model"
    )


def _found_by(model: Any, layout: Any) -> str:
    return locate.found_by(uncompiled(model).get_submodule(layout.module_name))


def _parameters_of(model: Any, layout: Any) -> list[tuple[str, Any]]:
    """Parameters inside an attention module, and those of its projections wherever they lie."""
    homes = (layout.module_name, *(projection.module_name for projection in layout.projections))
    inside = tuple(f"{home}." if home else "" for home in homes)
    return [(name, parameter) for name, parameter in model.named_parameters() if name.startswith(inside)]


def _gaps(intervals: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Intervals of ``0 .. size`` that none of the given ones covers."""
    edges = [(0, 0), *sorted(intervals), (size, size)]
    return [(before[1], after[0]) for before, after in itertools.pairwise(edges) if before[1] < after[0]]


def _alike(layout: dict[str, Any]) -> str:
    """What layers share that are shown together: everything but their number."""
    index = layout["layer"]
    named = {
        "module_name": _numbered(layout["module_name"], index),
        "projections": [
            {key: _numbered(value, index) if key.endswith("name") and value else value for key, value in block.items()}
            for block in layout["projections"]
        ],
    }
    return json.dumps({**layout, **named, "layer": None}, sort_keys=True)


def _numbered(name: str, layer: int) -> str:
    return ".".join("*" if part == str(layer) else part for part in name.split("."))


def _below(name: str, module: str) -> str:
    return name.removeprefix(f"{module}.")


def _layers_label(indices: list[int]) -> str:
    if len(indices) == 1:
        return f"layer {indices[0]}"
    consecutive = indices == list(range(indices[0], indices[0] + len(indices)))
    return "layers " + (f"{indices[0]}-{indices[-1]}" if consecutive else ", ".join(map(str, indices)))


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Align all columns but the last, under the first row as their heads."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)] + [0]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )
