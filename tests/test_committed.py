"""Committed evidence speaks for the sources that made it, and for no others."""

from dataclasses import replace

import pytest

from validation.statistics_evidence import EVIDENCE

ROW = {"study": "type I", "procedure": "p", "data": "light", "sets": 3, "value": 0.05, "low": 0.04, "high": 0.06,
       "bound": 0.074, "direction": "at most", "status": "passed"}  # fmt: skip


@pytest.fixture
def checkout(tmp_path):
    """A folder with sources, and evidence made by them."""
    for pattern in EVIDENCE.sources:
        path = tmp_path / pattern.replace("*", "one")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {pattern}\n")
    return tmp_path


def written(checkout, rows):
    evidence = replace(EVIDENCE, path=checkout / "long.json")
    evidence.write(rows, 12.34, checkout)
    return evidence


def test_evidence_of_the_present_sources_is_accepted(checkout):
    evidence = written(checkout, [ROW])
    found = evidence.read(checkout)
    assert (found["rows"], found["seconds"], found["complaints"]) == ([ROW], 12.3, [])
    assert found["environment"]["versions"]["torch"]


@pytest.mark.parametrize("name", ["qkov/statistics/one.py", "validation/snr.py", "validation/calibration_cells.py"])
def test_evidence_of_other_sources_is_refused(checkout, name):
    evidence = written(checkout, [ROW])
    (checkout / name).write_text("changed\n")
    (complaint,) = evidence.read(checkout)["complaints"]
    assert f"made by other sources; changed since: {name}. Run `nox -s validate -- --long`" in complaint


def test_a_new_source_makes_evidence_stale(checkout):
    evidence = written(checkout, [ROW])
    (checkout / "qkov" / "statistics" / "two.py").write_text("")
    assert "qkov/statistics/two.py" in evidence.read(checkout)["complaints"][0]


def test_a_failed_row_is_a_complaint(checkout):
    evidence = written(checkout, [ROW, ROW | {"status": "failed", "value": 0.09}])
    (complaint,) = evidence.read(checkout)["complaints"]
    assert "failed: type I of p on light: 0.090, at most 0.074" in complaint


@pytest.mark.parametrize(
    ("text", "complaint"),
    [(None, "does not exist"), ("{", "is not JSON"), ('{"format": "x"}', "has format 'x'")],
)
def test_unreadable_evidence_is_a_complaint(tmp_path, text, complaint):
    if text is not None:
        (tmp_path / "long.json").write_text(text)
    found = replace(EVIDENCE, path=tmp_path / "long.json").read()
    assert found["rows"] == []
    assert complaint in found["complaints"][0]


def test_evidence_without_rows_is_a_complaint(checkout):
    assert "holds no row" in written(checkout, []).read(checkout)["complaints"][0]


def test_a_row_is_a_line(checkout):
    evidence = written(checkout, [ROW, ROW | {"points": [[1.0, 2.0]]}])
    lines = evidence.path.read_text().splitlines()
    assert sum('"study"' in line for line in lines) == 2
    assert evidence.read(checkout)["rows"][1]["points"] == [[1.0, 2.0]]
