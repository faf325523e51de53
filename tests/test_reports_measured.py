"""Tests of the tables of peaks beside budgets and of plans, and of how committed figures of one machine are read."""

import dataclasses
import json

import pytest

from reports import evidence, measured_tables
from validation import committed_state

PEAK = {
    "study": "peak memory / memory_budget", "procedure": "kept", "data": "store tiny +60", "sets": 1, "value": 0.95,
    "low": 0.95, "high": 0.95, "bound": 1.1, "direction": "at most", "status": "passed",
    "held": 200e6, "budget": 260e6, "peak": 247e6,
    "outcome": "done", "seconds": 1.0,
}  # fmt: skip
PLAN = {
    "study": "plans", "procedure": "bytes of the store", "data": "gpt2", "sets": 1, "value": 0.01, "low": None, "high": None,
    "planned": 1234567.0, "measured": 1222345.0, "ratio": 1.01, "bound": 0.2, "direction": "at most", "status": "passed",
}  # fmt: skip


def record(*rows, stale=()):
    return {"rows": list(rows), "seconds": 120.0, "environment": {}, "stale": list(stale), "complaints": []}


def test_tables_show_what_was_measured():
    refused = PEAK | {"procedure": "refused", "outcome": "refused: too little"}
    tables = measured_tables.measured_tables({"memory_peaks": record(PEAK, refused), "plans": record(PLAN)})
    assert "| store tiny +60 | 200 | 260 | 247 | 0.950 | passed |" in tables["memory_peaks"]
    assert "refused before it began" in tables["memory_peaks"]
    assert "| gpt2 | bytes of the store | 1,234,567 | 1,222,345 | 1.010 | passed |" in tables["plans"]
    assert "2 minutes" in tables["plans_state"]


def test_old_and_missing_figures_say_so():
    tables = measured_tables.measured_tables({"plans": record(PLAN, stale=["qkov/planning.py"])})
    for name in ("memory_peaks_state", "plans_state"):
        assert "{warning}" in tables[name]
    assert "- qkov/planning.py" in tables["plans_state"]
    assert tables["memory_peaks"] == measured_tables.NOTHING


def test_rows_that_lie_are_found():
    lying = record(PEAK | {"value": 1.2})
    assert any(
        "1.2 is not at most 1.1" in one for one in evidence.audit({"results": [], "faults": [], "memory_peaks": lying})
    )


@pytest.mark.parametrize("name", committed_state.RECORDS)
def test_committed_figures_are_read_with_their_sources(tmp_path, name):
    held = committed_state.RECORDS[name].evidence
    path = tmp_path / "evidence.json"
    assert committed_state.read(name, path)["stale"] == [str(path)]
    dataclasses.replace(held, path=path).write([PLAN, PEAK | {"status": "failed", "value": 1.2}], 3.0)
    found = committed_state.read(name, path)
    assert found["stale"] == []
    assert len(found["complaints"]) == 1
    assert committed_state.omissions(name, found) == []
    document = json.loads(path.read_text())
    first = next(iter(document["sources"]))
    document["sources"][first] = "0" * 64
    path.write_text(json.dumps(document))
    old = committed_state.read(name, path)
    assert (old["stale"], old["complaints"]) == ([first], [])
    assert first in committed_state.omissions(name, old)[0]["reason"]
    path.write_text(json.dumps(document | {"format": "another"}))
    assert committed_state.read(name, path)["stale"] == [str(path)]
