"""A heatmap as labelled xarray datasets and tidy pandas tables, with true layer, head, kv-head and sample numbers.

Functions of a :class:`qkov.heatmap.Heatmap`; its ``data``, ``by_slice`` and ``to_dataframe`` call them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from . import errors
from .geometry import BLOCKS

if TYPE_CHECKING:
    from .heatmap import Heatmap
    from .pair_summary import PairSummary


def query_head_dataset(heatmap: Heatmap) -> xr.Dataset:
    """Lay all blocks out on query heads: ``scores``, ``layer_head_avg`` and health, ``(block, layer, head, ...)``.

    A kv head appears under each query head it serves; the coordinate ``kv_head`` ``(layer, head)`` tells which (-1:
    none), so sums over ``head`` of K and V count it several times. ``by_slice`` does not.
    """
    heatmap.require_memory("the scores of all blocks on query heads")
    views = [heatmap[block] for block in BLOCKS]
    slices = ("block", "layer", "head")
    variables = {
        "scores": (
            (*slices, "sample_a", "sample_b"),
            np.stack([view["scores"].transpose(2, 3, 0, 1) for view in views]),
        ),
        "layer_head_avg": (slices, np.stack([view["layer_head_avg"] for view in views])),
    }
    for stat in views[0]["health"]:
        variables[stat] = slices, np.stack([view["health"][stat] for view in views])
    kv_numbers = np.array([*heatmap.kv_heads, -1], np.int64)[heatmap.kv_index]  # position -1 is the last entry, -1
    coords = {"block": list(BLOCKS), **coordinates(heatmap), "kv_head": (("layer", "head"), kv_numbers)}
    if heatmap.head_types is not None:
        coords |= {
            f"type_{name}": (("layer", "head"), heatmap.head_types.score(name)) for name in heatmap.head_types.types
        }
        coords["head_type"] = ("layer", "head"), heatmap.head_types.label()
    return xr.Dataset(variables, coords, attrs=attributes(heatmap))


def truth_dataset(heatmap: Heatmap) -> xr.Dataset:
    """Lay every block out on what the model holds: variables Q and O on ``head``, K and V on ``kv_head``."""
    variables = {}
    for block in BLOCKS:
        unit = "kv_head" if block in "KV" else "head"
        variables[block] = ("layer", unit, "sample_a", "sample_b"), heatmap.arrays[block].transpose(2, 3, 0, 1)
    coords = {**coordinates(heatmap), "kv_head": np.array(heatmap.kv_heads, np.int64)}
    return xr.Dataset(variables, coords, attrs=attributes(heatmap))


def coordinates(heatmap: Heatmap | PairSummary) -> dict[str, np.ndarray]:
    return {
        "layer": np.array(heatmap.layers, np.int64),
        "head": np.array(heatmap.heads, np.int64),
        "sample_a": id_array(heatmap.sample_a),
        "sample_b": id_array(heatmap.sample_b),
    }


def id_array(ids: Sequence[int | str]) -> np.ndarray:
    if ids and all(isinstance(one, int) and -(2**63) <= one < 2**63 for one in ids):
        return np.array(ids, np.int64)
    # Objects: numpy's own strings drop trailing NULs and its integers end at 64 bits; ids must survive exactly.
    array = np.empty(len(ids), object)
    array[:] = ids
    return array


def attributes(heatmap: Heatmap | PairSummary) -> dict[str, str]:
    return {"task_a": heatmap.task_a, "task_b": heatmap.task_b, **heatmap.attributes}


def pair_table(heatmap: Heatmap) -> pd.DataFrame:
    """One row per existing slice and pair of samples: ``block, layer, head, kv_head, sample_a, sample_b, score``.

    ``head`` is missing for K and V, whose slices belong to a kv head; ``kv_head`` of a Q or O row is the one it reads.
    """
    heatmap.require_memory("a table of all pairs")
    num_a, num_b = len(heatmap.sample_a), len(heatmap.sample_b)
    labels, scores = slice_labels(heatmap), []
    for block in BLOCKS:
        scores.append(heatmap.arrays[block].transpose(2, 3, 0, 1)[heatmap.exists(block)].reshape(-1))
    table = labels.loc[labels.index.repeat(num_a * num_b)].reset_index(drop=True)
    table["sample_a"] = np.tile(id_array(heatmap.sample_a).repeat(num_b), len(labels))
    table["sample_b"] = np.tile(id_array(heatmap.sample_b), len(labels) * num_a)
    table["score"] = np.concatenate(scores)
    return _with_attributes(table, heatmap)


def slice_table(heatmap: Heatmap) -> pd.DataFrame:
    """One row per existing slice: ``mean, sd, sd_over_a, max, rank`` of its scores and its health.

    ``sd`` is over all pairs and ``sd_over_a`` over the means of A's samples (both population deviations; NaN without
    pairs): where the average says nothing on A, only the latter does. ``rank`` counts within a block by mean, 1 the
    strongest conflict, ties sharing the best rank. ``head_type`` where the result knows it, as :func:`unit_types` says.
    """
    parts = []
    for block in BLOCKS:
        exists = heatmap.exists(block)
        spread = np.full((int(exists.sum()), 3), np.nan)
        if heatmap.sample_a and heatmap.sample_b:
            for row, (_, scores) in zip(spread, heatmap.each_slice(block), strict=True):
                row[:] = scores.std(), scores.mean(1).std(), scores.max()
        part = pd.DataFrame(spread, columns=["sd", "sd_over_a", "max"])
        part.insert(0, "mean", heatmap.mean_map(block)[exists])
        ascending = heatmap.attributes["conflict_order"] == "ascending"
        part["rank"] = part["mean"].rank(method="min", ascending=ascending).astype(np.int64)
        if heatmap.head_types is not None:
            part["head_type"] = unit_types(heatmap, block)[exists]
        for stat, values in heatmap.health[block].items():
            part[stat] = values[exists]
        parts.append(part)
    table = pd.concat([slice_labels(heatmap), pd.concat(parts, ignore_index=True)], axis=1)
    return _with_attributes(table, heatmap)


def slice_labels(heatmap: Heatmap | PairSummary) -> pd.DataFrame:
    blocks, layers, heads, kv_heads = [], [], [], []
    for block in BLOCKS:
        for layer, unit in np.argwhere(heatmap.exists(block)):
            own_kv = block in "KV"
            kv_head = unit if own_kv else heatmap.kv_index[layer, unit]
            blocks.append(block)
            layers.append(heatmap.layers[layer])
            heads.append(pd.NA if own_kv else heatmap.heads[unit])
            kv_heads.append(heatmap.kv_heads[kv_head] if kv_head >= 0 else pd.NA)
    return pd.DataFrame(
        {
            "block": pd.Categorical(blocks, categories=list(BLOCKS)),
            "layer": np.array(layers, np.int64),
            "head": pd.array(heads, dtype="Int64"),
            "kv_head": pd.array(kv_heads, dtype="Int64"),
        }
    )


def _with_attributes(table: pd.DataFrame, heatmap: Heatmap) -> pd.DataFrame:
    table.attrs = attributes(heatmap)
    return table


MIXED = "mixed"


def unit_types(heatmap: Heatmap, block: str, threshold: float | None = None) -> np.ndarray:
    """Name the type of every unit of a block, str ``[layers, units]``; a kv head whose query heads differ is "mixed"."""
    if heatmap.head_types is None:
        raise errors.OptionError("this heatmap does not know what its heads attend to; call with_head_types first.")
    found = heatmap.head_types.label(threshold)
    if block not in "KV":
        return found
    shared = np.full((len(heatmap.layers), len(heatmap.kv_heads)), "", object)
    for layer, unit in np.argwhere(heatmap.exists(block)):
        served = set(found[layer, heatmap.kv_index[layer] == unit].tolist())
        shared[layer, unit] = served.pop() if len(served) == 1 else MIXED
    return shared.astype(str)


def type_table(heatmap: Heatmap, block: str, threshold: float | None = None) -> pd.DataFrame:
    """One row per head type that occurs in a block: how many units have it, and the mean, sd and range of their averages."""
    if block not in BLOCKS:
        raise errors.OptionError(f"block is {block!r}; expected one of {', '.join(BLOCKS)}.")
    exists = heatmap.exists(block)
    names, means = unit_types(heatmap, block, threshold)[exists], heatmap.mean_map(block)[exists]
    order = [name for name in (*heatmap.head_types.types, "none", MIXED) if name in names]  # type: ignore[union-attr]  # refused without types before this
    grouped = pd.DataFrame({"head_type": pd.Categorical(names, order), "score": means}).groupby(
        "head_type", observed=False
    )["score"]
    spread = grouped.std(ddof=0)
    table = pd.DataFrame(
        {
            "num_units": grouped.size(),
            "mean": grouped.mean(),
            "sd": spread,
            "lowest": grouped.min(),
            "highest": grouped.max(),
        }
    )
    table.attrs = attributes(heatmap) | {"block": block, "unit": "kv head" if block in "KV" else "query head"}
    return table


TABLES = {"pair": pair_table, "slice": slice_table}


def table(heatmap: Heatmap, level: str) -> pd.DataFrame:
    """Return the tidy table of a level, "pair" or "slice"."""
    if level not in TABLES:
        raise errors.OptionError(f"level is {level!r}; expected one of {sorted(TABLES)}.")
    return TABLES[level](heatmap)
