"""What the script of a report reads: the grid of slices, a column per number, tables and pairs, as plain JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from .. import escaping
from . import columns, maps
from .data import ReportData

LONGEST_TEXT = 400  # characters
PAIR_COLUMNS = {
    "slice_mean": "mean of the slice",
    "a_part": "part of sample A",
    "b_part": "part of sample B",
    "interaction": "interaction",
    "largest_share": "share of the largest parameter",
    "fisher_share": "C / (n F) there",
    "held_out_score": "score on held-out half",
    "kept": "kept on held-out half",
    "p": "p of sample A",
    "q": "q of sample A",
}


def build(data: ReportData) -> dict[str, Any]:
    """Return the JSON-able content for a :class:`~qkov.report.data.ReportData`."""
    first, slices = data.first, data.slices
    scores, pairs = columns.score_columns(data)
    found = [*columns.type_column(data), *scores, *columns.tested_columns(data), *columns.prediction_columns(data)]
    found += columns.health_columns(data)
    kept = _Samples(data)
    tables = {"pairs": _pair_table(data, pairs[0])}
    if (layers := _layer_table(data)) is not None:
        tables["layers"] = layers
    return {
        "grid": {
            "layers": list(first.layers),
            "heads": list(first.heads),
            "kv_heads": list(first.kv_heads),
            "kv_index": first.kv_index.tolist(),
        },
        "slices": {
            "block": "".join(block for block, _, _ in slices),
            "layer": [layer for _, layer, _ in slices],
            "unit": [unit for _, _, unit in slices],
        },
        "columns": [_column(one) for one in found],
        "maps": [asdict(one) | {"steps": maps.STEPS} for one in maps.available(data)],
        "marks": _listed(columns.marks(data)),
        "pairs": [
            {
                "name": one.name,
                "order": one.order,
                "a": [[kept.place("a", i) for i in row] for row in one.sample_a],
                "b": [[kept.place("b", j) for j in row] for row in one.sample_b],
                "score": [list(columns.plain(row)) for row in one.scores],
            }
            for one in pairs
        ],
        "tables": tables,
        "samples": kept.ids,
        "texts": kept.texts,
        "measured": bool(first.attributes.get("valid", True)),
        "order": first.attributes["conflict_order"],
        "alpha": data.alpha,
    }


def _column(one: columns.Column) -> dict[str, Any]:
    return {
        "name": one.name,
        "label": one.label,
        "heading": one.heading or one.label,
        "group": one.group,
        "values": list(one.values),
        "low": one.low,
        "high": one.high,
        "main": one.main,
    }


def _listed(values: Any) -> list[Any] | None:
    return None if values is None else list(values)


class _Samples:
    """The samples that are named somewhere, each once, with their texts if those are to be shown."""

    def __init__(self, data: ReportData) -> None:
        self._ids = {"a": data.first.sample_a, "b": data.first.sample_b}
        self._tasks = {"a": data.first.task_a, "b": data.first.task_b}
        self._given = data.texts or {}
        self._places: dict[str, dict[int, int]] = {"a": {}, "b": {}}
        self.ids: dict[str, list[str]] = {"a": [], "b": []}
        self.texts: dict[str, list[str | None]] | None = None if data.texts is None else {"a": [], "b": []}

    def place(self, side: str, at: int) -> int:
        """Return the number under which a sample is listed, which lists it."""
        places = self._places[side]
        if at not in places:
            places[at] = len(places)
            sample_id = self._ids[side][at]
            self.ids[side].append(escaping.visible(sample_id))
            if self.texts is not None:
                self.texts[side].append(shortened(self._given.get(self._tasks[side], {}).get(sample_id)))
        return places[at]


def shortened(text: str | None) -> str | None:
    """Cut a text to what a person reads at a glance, and say how much was cut; None if there is none."""
    if text is None:
        return None
    text = str(text)
    left = len(text) - LONGEST_TEXT
    # Line breaks stay: the page shows them as such. Everything else that cannot be seen is written out.
    shown = escaping.for_terminal(text[:LONGEST_TEXT])
    return shown if left <= 0 else f"{shown} … ({left} more characters)"


def _pair_table(data: ReportData, pairs: columns.SlicePairs) -> list[dict[str, Any]]:
    described = None if data.top_pairs is None else list(data.top_pairs.rows)
    if described is None:
        rows = []
        for at, i, j, score in columns.strongest_rows(data, pairs):
            block, layer, unit = data.labels(*data.slices[at])
            own_kv = block in "KV"
            labels = [block, layer, None if own_kv else unit, unit if own_kv else _kv_head(data, *data.slices[at][1:])]
            rows.append([*labels, data.first.sample_a[i], data.first.sample_b[j], score])
        extra = []
    else:
        extra = [name for name in PAIR_COLUMNS if any(row.get(name) is not None for row in described)]
        names = ("block", "layer", "head", "kv_head", "sample_a", "sample_b", "score", *extra)
        rows = [[row.get(name) for name in names] for row in described]
    labels = ["block", "layer", "head", "kv head", "sample of A", "sample of B", "score", *map(PAIR_COLUMNS.get, extra)]
    names = ["block", "layer", "head", "kv_head", "sample_a", "sample_b", "score", *extra]
    return _table(names, labels, rows, text=("block", "sample_a", "sample_b"))


def _kv_head(data: ReportData, layer: int, unit: int) -> int | None:
    at = int(data.first.kv_index[layer, unit])
    return None if at < 0 else data.first.kv_heads[at]


def _layer_table(data: ReportData) -> list[dict[str, Any]] | None:
    if data.statistics is None and data.prediction is None:
        return None
    columns_of = {"layer": list(data.first.layers)}
    labels = {"layer": "layer"}
    if data.statistics is not None:
        table = data.statistics.layer_table().set_index("layer")
        words = {
            "statistic": "test statistic",
            "p": "p",
            "q": "q (false discovery rate)",
            "p_maxt": "p, family-wise (max-T)",
        }
        for name, label in words.items():
            columns_of[name] = [float(table[name].get(layer, np.nan)) for layer in data.first.layers]
            labels[name] = label
    if data.prediction is not None:
        table = data.prediction.to_dataframe("layer").set_index("layer")
        words = {"change": "predicted change of A's loss", "low": "its low end", "high": "its high end"}
        for name, label in words.items():
            columns_of[name] = [float(table[name].get(layer, np.nan)) for layer in data.first.layers]
            labels[name] = label
    rows = list(zip(*columns_of.values(), strict=True))
    return _table(list(columns_of), list(labels.values()), rows, text=())


def _table(names: Any, labels: Any, rows: Any, *, text: Any) -> list[dict[str, Any]]:
    found = []
    for at, (name, label) in enumerate(zip(names, labels, strict=True)):
        values = [row[at] for row in rows]
        values = [escaping.visible(one) for one in values] if name in text else _numbers(values)
        found.append({"name": name, "label": label, "values": values, "text": name in text})
    return found


def _numbers(values: list[Any]) -> list[Any]:
    given = [np.nan if one is None else one for one in values]
    return [
        int(one) if isinstance(one, int | np.integer) else rounded
        for one, rounded in zip(given, columns.plain(given), strict=True)
    ]
