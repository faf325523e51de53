"""The committed figures of mutants speak for the sources that were measured, and for no others."""

import json

import pytest

from validation import mutant_record

SOURCE = "qkov/fisher.py"
ROW = {"file": SOURCE, "tests": ["tests/test_fisher.py"], "mutants": 20, "killed": 18, "survived": 2, "wording": 5,
       "wording_survived": 1, "seconds": 3.0, "survivors": [
           {"mutant": "m1", "function": "f", "before": "zip(a, b, strict=True)", "after": "zip(a, b, strict=None)",
            "wording": False, "status": "survived"},
           {"mutant": "m2", "function": "f", "before": '"a"', "after": '"A"', "wording": True, "status": "survived"},
       ]}  # fmt: skip


@pytest.fixture
def checkout(tmp_path):
    """A folder with one source, and its figures."""
    (tmp_path / "qkov").mkdir()
    (tmp_path / SOURCE).write_text("x = 1\n")
    mutant_record.update(ROW, tmp_path / "mutants.json", tmp_path)
    return tmp_path


def read(checkout):
    return mutant_record.read(checkout / "mutants.json", checkout)


def test_figures_of_the_present_source_are_accepted(checkout):
    found = read(checkout)
    assert (found["stale"], found["complaints"]) == ([], [])
    assert [one["kind"] for one in found["files"][0]["survivors"]] == ["guard", "wording"]
    assert mutant_record.current_sources(checkout / "mutants.json", checkout) == [SOURCE]


def test_figures_of_another_source_are_stale_and_no_failure(checkout):
    (checkout / SOURCE).write_text("x = 2\n")
    found = read(checkout)
    assert (found["stale"], found["complaints"]) == ([SOURCE], [])
    (left_out,) = mutant_record.omissions(found)
    assert left_out["what"] == f"mutants of {SOURCE}"
    assert mutant_record.current_sources(checkout / "mutants.json", checkout) == []


def test_a_source_that_was_never_measured_is_stale(checkout):
    (checkout / "qkov" / "formula.py").write_text("")
    assert read(checkout)["stale"] == ["qkov/formula.py"]
    assert mutant_record.read(checkout / "none.json", checkout)["stale"] == ["qkov/formula.py", SOURCE]


def test_a_record_of_another_format_is_none(checkout):
    (checkout / "mutants.json").write_text('{"format": "x"}')
    assert read(checkout)["stale"] == [SOURCE]


def test_too_small_a_share_and_a_survivor_without_reason_are_complaints(checkout):
    bare = {
        "mutant": "m3",
        "function": "f",
        "before": "a + b",
        "after": "a - b",
        "wording": False,
        "status": "survived",
    }
    row = ROW | {"killed": 17, "survived": 3, "survivors": [*ROW["survivors"], bare]}
    mutant_record.update(row, checkout / "mutants.json", checkout)
    share, reason = read(checkout)["complaints"]
    assert "17 of 20 mutants killed (85.0%; 86.7% without wording), 3 survived" in share
    assert "expected at least 90%" in share
    assert "1 survivors have no reason" in reason


def test_a_row_replaces_that_of_its_file_and_leaves_the_others(checkout):
    (checkout / "qkov" / "formula.py").write_text("")
    mutant_record.update(ROW | {"file": "qkov/formula.py"}, checkout / "mutants.json", checkout)
    mutant_record.update(ROW | {"seconds": 9.0}, checkout / "mutants.json", checkout)
    assert [(row["file"], row["seconds"]) for row in read(checkout)["files"]] == [
        ("qkov/formula.py", 3.0),
        (SOURCE, 9.0),
    ]


def test_a_survivor_is_a_line_and_nothing_is_lost():
    rows = [ROW, ROW | {"file": "qkov/formula.py", "survivors": []}]
    for document in ({"files": rows, "format": "x"}, {"format": "x", "files": rows}):
        text = mutant_record.written(document)
        assert json.loads(text) == document
        assert [line.count('"mutant"') for line in text.splitlines()].count(1) == 2


def test_shares_with_and_without_wording():
    assert mutant_record.share(ROW) == 0.9
    assert mutant_record.share_without_wording(ROW) == 14 / 15
    empty = dict.fromkeys(("mutants", "killed", "survived", "wording", "wording_survived"), 0)
    assert mutant_record.share(empty) == mutant_record.share_without_wording(empty) == 0


def test_every_source_is_there_and_the_committed_counts_add_up():
    names = mutant_record.sources()
    assert {"qkov/formula.py", "qkov/layout.py", "qkov/fisher.py", "qkov/interference.py"} < set(names)
    assert "qkov/statistics/source.py" in names
    for row in mutant_record.read()["files"]:
        assert row["killed"] + row["survived"] == row["mutants"] > 0, row["file"]
        assert len(row["survivors"]) == row["survived"], row["file"]
        assert sum(one["wording"] for one in row["survivors"]) == row["wording_survived"] <= row["wording"], row["file"]


def test_committed_figures_have_no_complaint():
    assert mutant_record.read()["complaints"] == []
