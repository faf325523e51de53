"""How the results of a report were made: tables of words and values, from the record of the run and from the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import escaping
from .data import ReportData

RUN = ("status", "started", "finished", "command", "device", "seeds", "seconds", "commit")


@dataclass(frozen=True)
class Group:
    """A table: a title, names of columns (none for words and values), rows of text."""

    title: str
    heads: tuple
    rows: tuple


def groups(data: ReportData) -> tuple[Group, ...]:
    """Return every :class:`Group` that has rows; text only, what cannot be seen made visible."""
    record = data.record
    found = (
        Group("Run", (), _pairs({name: record.get(name) for name in RUN})),
        Group("Model", (), _pairs(_mapping(record.get("model")))),
        _grid("Data", "task", _mapping(record.get("data"))),
        _grid("Results", "file", _mapping(record.get("results")) or _fingerprints(data)),
        Group("Environment", (), _pairs(_mapping(record.get("versions") or data.first.attributes.get("versions")))),
    )
    return tuple(one for one in found if one.rows)


def notes(data: ReportData) -> tuple[str, ...]:
    """Return the notes of the run."""
    return tuple(escaping.visible(one) for one in data.record.get("notes", ()))


def not_run(data: ReportData) -> list[tuple[str, str]]:
    """Return ``(what, reason)`` of everything that was not done, that the record names or that the data lacks."""
    found = [(str(one["what"]), str(one["reason"])) for one in data.record.get("not_run", ())]
    known = " ".join(what for what, _ in found)
    absent = {"statistics": data.statistics, "prediction": data.prediction, "head types": data.types}
    reason = "not among the results that this report was made from"
    found += [(what, reason) for what, one in absent.items() if one is None and what.replace(" ", "_") not in known]
    return [(escaping.visible(what), escaping.visible(why)) for what, why in found]


def _pairs(facts: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((escaping.visible(name), _text(value)) for name, value in facts.items() if value is not None)


def _grid(title: str, first: str, facts: dict[str, Any]) -> Group:
    """A row per name, a column per fact that one of them has."""
    entries = {name: _mapping(one) for name, one in facts.items()}
    heads = tuple(dict.fromkeys(head for one in entries.values() for head in one))
    rows = ((escaping.visible(name), *(_text(one.get(head)) for head in heads)) for name, one in entries.items())
    return Group(title, (first, *map(escaping.visible, heads)), tuple(rows))


def _fingerprints(data: ReportData) -> dict[str, Any]:
    results = {f"scores, {name}": one for one, name in zip(data.heatmaps, data.names, strict=True)}
    results |= {"statistics": data.statistics, "prediction": data.prediction, "top pairs": data.top_pairs}
    found = {name: {"fingerprint": one.fingerprint} for name, one in results.items() if one is not None}
    model = data.first.attributes.get("model_fingerprint")
    return found | ({"weights of the model": {"fingerprint": model}} if model else {})


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """A value on one line."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{escaping.visible(name)} {_text(one)}" for name, one in value.items() if one is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else escaping.visible(value)
