"""Each harness can fail: stores that are wrong on purpose are noticed by the harness that is named for it."""

import sys

import pytest

from validation import committed
from validation.store import __main__ as program
from validation.store import evidence, faults, matrix, traced
from validation.store.outcomes import Outcome


@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_planted_fault_is_noticed(name):
    fault = faults.FAULTS[name]
    if fault.expected == "strace" and traced.missing():
        pytest.skip(f"system calls were not refused: {traced.missing()}")
    if name == "errors_of_listing_escape" and sys.version_info >= (3, 12):
        pytest.skip("from Python 3.12 on pathlib's glob passes over an error of listing, so this fault makes none")
    outcome = matrix.run_fault(name, fault.expected)
    assert not outcome.passed, f"{fault.expected} did not notice: {fault.description}"


def test_every_harness_has_a_fault_that_only_it_must_notice():
    assert {fault.expected for fault in faults.FAULTS.values()} == set(matrix.RUN)
    assert len(faults.FAULTS) >= 15
    assert set(evidence.SHORT) <= set(faults.FAULTS)


def test_a_fault_is_gone_when_its_block_ends():
    before = {name: faults.FAULTS[name].plant for name in faults.FAULTS}
    original = faults.durable.sync_folder
    with faults.FAULTS["folders_not_synced"].plant():
        assert faults.durable.sync_folder is not original
    assert faults.durable.sync_folder is original
    assert before


def test_a_missed_fault_fails(monkeypatch):
    monkeypatch.setattr(matrix, "run_fault", lambda name, harness: Outcome(harness, points=3))
    (row,) = matrix.run(every=False, names=["folders_not_synced"])
    assert (row["status"], row["caught_by"], row["expected"]) == ("missed", [], "power")
    made = evidence.fault_row(row)
    assert (made["status"], made["value"], made["direction"], made["bound"]) == ("failed", 0.0, "must exceed", 0.0)


def test_a_harness_that_did_not_run_is_shown_and_not_called_kept(monkeypatch):
    monkeypatch.setattr(matrix, "run_fault", lambda name, harness: Outcome(harness, not_run="ptrace is forbidden"))
    (row,) = matrix.run(every=False, names=["errors_of_listing_escape"])
    assert (row["status"], row["not_run"]) == ("not run", ["strace"])
    assert evidence.fault_row(row)["direction"] == "shown"
    made = evidence.harness_row(Outcome("strace", not_run="ptrace is forbidden"))
    assert (made["direction"], made["points"]) == ("shown", 0)
    assert "ptrace is forbidden" in made["data"]


def test_a_finding_and_an_empty_run_fail():
    found = Outcome("power")
    found.add("here", [("lost", "a sample")])
    row = evidence.harness_row(found)
    assert (row["status"], row["value"], row["lost"], row["points"]) == ("failed", 1.0, 1, 1)
    assert "a sample" in row["examples"][0]
    assert evidence.harness_row(Outcome("kills"))["status"] == "failed"


@pytest.mark.parametrize(("status", "code"), [("passed", 0), ("failed", 1)])
def test_program_ends_with_the_verdict(status, code, monkeypatch, capsys):
    row = evidence.harness_row(Outcome("kills", points=3)) | {"status": status, "examples": ["lost: here: a sample"]}
    monkeypatch.setattr(evidence, "make_long", lambda: [row])
    assert program.main([]) == code
    assert "lost: here: a sample" in capsys.readouterr().out
    monkeypatch.setattr(evidence, "measure", lambda long, progress: [])
    assert program.main(["--short"]) == 1


def test_evidence_names_the_sources_of_the_store(monkeypatch, tmp_path):
    names = evidence.EVIDENCE.source_hashes()
    assert {"qkov/store.py", "qkov/durable.py", "validation/store/faults.py"} <= set(names)
    made = committed.CommittedEvidence(tmp_path / "soak.json", evidence.EVIDENCE.format, evidence.EVIDENCE.sources)
    monkeypatch.setattr(evidence, "EVIDENCE", made)
    rows = [evidence.harness_row(Outcome("kills", points=3))]
    monkeypatch.setattr(evidence, "measure", lambda long, progress: rows)
    assert evidence.make_long() == rows
    assert made.read()["complaints"] == []
