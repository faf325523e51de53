"""A summary of pairs as labelled xarray dataset and tidy pandas tables; its ``data`` and ``to_dataframe`` call these."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from . import errors, tables
from .geometry import BLOCKS

if TYPE_CHECKING:
    from .pair_summary import PairSummary


__all__ = ["dataset", "table"]


def dataset(summary: PairSummary) -> xr.Dataset:
    """Lay all blocks out on query heads; a kv head appears under each query head it serves, see the coordinate kv_head."""

    def shown(values: Callable[..., Any]) -> np.ndarray:
        return np.stack([summary.on_query_heads(block, values(block)) for block in BLOCKS])

    slices = ("block", "layer", "head")
    variables: dict[str, Any] = {"layer_head_avg": (slices, shown(summary.mean_map))}
    for name, axis in (("by_a", "sample_a"), ("by_b", "sample_b"), ("lift", "sample_a")):
        if values := getattr(summary, name):
            variables[name] = (*slices, axis), np.moveaxis(shown(values.__getitem__), 1, -1)
    for stat in summary.health["Q"]:
        variables[stat] = slices, shown(lambda block, stat=stat: summary.health[block][stat])
    kv_numbers = np.array([*summary.kv_heads, -1], np.int64)[summary.kv_index]  # position -1 is the last entry, -1
    coords = {"block": list(BLOCKS), **tables.coordinates(summary), "kv_head": (("layer", "head"), kv_numbers)}
    return xr.Dataset(variables, coords, attrs=tables.attributes(summary))


def slice_table(summary: PairSummary) -> pd.DataFrame:
    """One row per existing slice: ``mean``, ``sd_over_a`` and ``sd_over_b`` of the means, ``lift`` and its ``lift_sd``,
    ``rank`` of the mean within the block (1 the strongest conflict), and health."""
    ascending = summary.attributes["conflict_order"] == "ascending"
    parts = []
    for block in BLOCKS:
        exists = summary.exists(block)
        part = pd.DataFrame({"mean": summary.mean_map(block)[exists]})
        for name, values in (("sd_over_a", summary.by_a[block]), ("sd_over_b", summary.by_b[block])):
            part[name] = values[:, exists].std(0) if summary.num_pairs else np.nan
        if summary.lift:
            lift = summary.lift[block][:, exists]
            part["lift"] = lift.mean(0) if len(lift) else np.nan
            part["lift_sd"] = lift.std(0) if len(lift) else np.nan
        part["rank"] = part["mean"].rank(method="min", ascending=ascending).astype(np.int64)
        for stat, values in summary.health[block].items():
            part[stat] = values[exists]
        parts.append(part)
    return pd.concat([tables.slice_labels(summary), pd.concat(parts, ignore_index=True)], axis=1)


def sample_table(summary: PairSummary, axis: str) -> pd.DataFrame:
    """One row per existing slice and sample of a task: ``mean`` over the other task's samples, and ``lift`` for A's."""
    ids, means = tables.id_array(getattr(summary, axis)), {"sample_a": summary.by_a, "sample_b": summary.by_b}[axis]
    columns = {"mean": means} | ({"lift": summary.lift} if summary.lift and axis == "sample_a" else {})
    labels = tables.slice_labels(summary)
    found = labels.loc[labels.index.repeat(len(ids))].reset_index(drop=True)
    found[axis] = np.tile(ids, len(labels))
    for name, values in columns.items():
        found[name] = np.concatenate([values[block][:, summary.exists(block)].T.reshape(-1) for block in BLOCKS])
    return found


def pair_table(summary: PairSummary) -> pd.DataFrame:
    """One row per pair that was kept: ``block, layer, head, kv_head, sample_a, sample_b, score``, strongest first by block."""
    rows = [{"block": block, **row} for block in BLOCKS for row in summary.strongest[block]]
    own_kv = [row["block"] in "KV" for row in rows]
    return pd.DataFrame(
        {
            "block": pd.Categorical([row["block"] for row in rows], categories=list(BLOCKS)),
            "layer": np.array([row["layer"] for row in rows], np.int64),
            "head": pd.array(
                [pd.NA if own else row["head"] for own, row in zip(own_kv, rows, strict=True)], dtype="Int64"
            ),
            "kv_head": pd.array([_kv_head(summary, row) for row in rows], dtype="Int64"),
            "sample_a": tables.id_array(tuple(row["sample_i"] for row in rows)),
            "sample_b": tables.id_array(tuple(row["sample_j"] for row in rows)),
            "score": np.array([row["score"] for row in rows], np.float64),
        }
    )


def _kv_head(summary: PairSummary, row: Any) -> int:
    place = summary.kv_index[summary.layers.index(row["layer"]), summary.heads.index(row["head"])]
    return summary.kv_heads[place] if place >= 0 else pd.NA


TABLES = {
    "slice": slice_table,
    "sample_a": lambda summary: sample_table(summary, "sample_a"),
    "sample_b": lambda summary: sample_table(summary, "sample_b"),
    "pair": pair_table,
}


def table(summary: PairSummary, level: str) -> pd.DataFrame:
    """Return the tidy table of a level, with the attributes of the summary."""
    if level not in TABLES:
        raise errors.OptionError(f"level is {level!r}; expected one of {sorted(TABLES)}.")
    found = TABLES[level](summary)
    found.attrs = tables.attributes(summary)
    return found
