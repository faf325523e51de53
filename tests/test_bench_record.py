"""The committed numbers of speed speak for the sources that were measured, and are judged by the goals of today."""

import json

import pytest

from validation.bench import goals, reasons, record, sources
from validation.committed import ROOT

MACHINE = {"processor": "one", "threads": 1}


@pytest.fixture
def checkout(tmp_path):
    """A folder with the sources of all groups."""
    for group in goals.GROUPS:
        for name in sources.patterns(group):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {name}\n")
    return tmp_path


def keep(checkout, group, values, wrong=None, **details):
    found = goals.Measured(values, dict.fromkeys(values, "one layer"), wrong=wrong or {}, details=details)
    one = {"sources": record.source_hashes(group, checkout), "seconds": 1.0, "rows": goals.rows_of(group, found),
           "details": details}  # fmt: skip
    record.update({group: one}, MACHINE, checkout / "bench.json")


def read(checkout):
    found = record.read(checkout / "bench.json", checkout)
    return found | {"by name": {row["name"]: row for row in found["rows"]}}


def test_without_a_record_nothing_was_run(checkout):
    found = read(checkout)
    assert {row["status"] for row in found["rows"]} == {"not run"}
    assert len(record.omissions(found)) == len(goals.GOALS)
    assert found["complaints"] == []


def test_a_held_goal_of_the_present_sources(checkout):
    keep(checkout, "collection", {"collection": 0.71})
    row = read(checkout)["by name"]["collection"]
    assert (row["status"], row["value"], row["changed"], row["conditions"]) == ("held", 0.71, [], "one layer")
    assert len(record.omissions(read(checkout))) == len(goals.GOALS) - 1


def test_a_missed_goal_needs_a_reason(checkout, monkeypatch):
    keep(checkout, "collection", {"collection": 0.5})
    assert read(checkout)["complaints"] == [
        "bench, collection: 0.5, at least 0.7 is the goal, and validation/bench/reasons.py gives no reason."
    ]
    monkeypatch.setitem(reasons.MISSED, "collection", "the machine has no vector unit")
    found = read(checkout)
    assert found["complaints"] == []
    assert found["by name"]["collection"]["reason"] == "the machine has no vector unit"
    assert found["by name"]["collection"]["status"] == "missed"


def test_verdict_follows_from_the_number_and_not_from_the_file(checkout):
    keep(checkout, "collection", {"collection": 0.5})
    path = checkout / "bench.json"
    path.write_text(path.read_text().replace('"missed"', '"held"'))
    assert read(checkout)["by name"]["collection"]["status"] == "missed"


def test_routes_that_disagree_are_a_complaint(checkout):
    keep(checkout, "end_to_end", {"vmap": 1.0}, wrong={"autograd": "scores differ"})
    assert read(checkout)["complaints"] == ["bench, autograd: scores differ"]


@pytest.mark.parametrize("source", ["qkov/gradients.py", "validation/bench/collection.py"])
def test_a_changed_source_makes_its_groups_stale_and_is_no_complaint(checkout, source):
    keep(checkout, "collection", {"collection": 0.5})
    keep(checkout, "permutations", {"permutations": 0.7, "permutation-loop": 30.0})
    (checkout / source).write_text("other = 1\n")
    found = read(checkout)
    assert found["by name"]["collection"]["changed"] == [source]
    assert found["by name"]["permutations"]["changed"] == []
    assert found["complaints"] == []
    left_out = {one["what"]: one["reason"] for one in record.omissions(found)}
    assert f"of other sources ({source})" in left_out["bench: collection rate / square float32 product"]
    assert not any("permutations x 576" in name for name in left_out)


def test_a_new_source_makes_it_stale_too(checkout):
    (checkout / "qkov" / "tiles.py").unlink()
    keep(checkout, "scoring", {"scoring": 0.7})
    assert read(checkout)["by name"]["scoring"]["changed"] == []
    (checkout / "qkov" / "tiles.py").write_text("# new\n")
    assert read(checkout)["by name"]["scoring"]["changed"] == ["qkov/tiles.py"]


def test_groups_are_kept_when_another_is_measured_elsewhere(checkout):
    keep(checkout, "collection", {"collection": 0.71})
    one = {"sources": {}, "seconds": 2.0, "rows": [], "details": {}}
    record.update({"gpu": one}, MACHINE | {"processor": "two"}, checkout / "bench.json")
    groups = read(checkout)["groups"]
    assert [group["machine"]["processor"] for group in groups.values()] == ["one", "two"]


def test_file_has_one_fact_a_line_and_short_numbers(checkout):
    keep(checkout, "collection", {"collection": 0.7123456789}, seconds=[1 / 3, float("inf")])
    text = (checkout / "bench.json").read_text()
    document = json.loads(text)
    assert document["groups"]["collection"]["details"]["seconds"] == [0.333333, None]
    assert sum('"name": "collection"' in line for line in text.splitlines()) == 1


def test_another_format_is_no_record(checkout):
    (checkout / "bench.json").write_text('{"format": "x"}')
    assert {row["status"] for row in read(checkout)["rows"]} == {"not run"}


def test_committed_record_has_a_reason_for_everything_missed():
    found = record.read()
    assert found["complaints"] == []
    assert {row["name"] for row in found["rows"]} == {goal.name for goal in goals.GOALS}
    assert reasons.MISSED.keys() <= {goal.name for goal in goals.GOALS}
    assert record.PATH.is_relative_to(ROOT)
