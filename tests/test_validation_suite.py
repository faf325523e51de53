"""The suite: rows of evidence, the manifest, and exit statuses."""

import json
import math

import pytest

from qkov import checks
from validation import __main__ as program
from validation import models, suite

CASE = "split-linear-gqa"


@pytest.fixture(scope="module")
def measured():
    return suite.measure_case(CASE)


def test_a_case_is_measured_by_every_check(measured):
    row, results = measured
    assert [result["check"] for result in results] == list(checks.CHECKS)
    assert {result["model"] for result in results} == {CASE}
    assert all(result["status"] == "passed" for result in results), [r for r in results if r["status"] != "passed"]
    assert row["kind"] == "synthetic"
    assert row["parameters"] > 0
    assert len(row["fingerprint"]) == 64


def test_rows_are_json_also_with_an_infinite_error():
    result = checks.CheckResult("law", "model", "failed", math.inf, 1e-9, 3, 0.1, "the error exceeds the bound")
    row = json.loads(json.dumps(suite.result_row(result), allow_nan=False))
    assert row["error"] == suite.INFINITE > row["bound"]
    assert suite.finite(None) is None


def test_a_missing_model_is_not_run_with_its_reason(monkeypatch):
    absent = models.ModelCase("absent", "pretrained", "", build=None, missing=lambda: "the package is not installed")
    monkeypatch.setitem(models.CASES, "absent", absent)
    results, rows, not_run = suite.run_suite(["absent"], progress=False)
    assert (results, rows) == ([], [])
    assert not_run == [{"what": "model absent", "reason": "the package is not installed"}]


def test_the_suite_measures_in_processes_of_its_own():
    results, rows, not_run = suite.run_suite([CASE], jobs=1, progress=False)
    assert [row["name"] for row in rows] == [CASE]
    assert {result["status"] for result in results} == {"passed"}
    assert not_run == []


def test_omissions_are_named():
    left_out = {entry["what"] for entry in program.omissions(program.parse_arguments([]))}
    assert "a causal language model of your own" in left_out
    assert "without the network" not in left_out
    given = {entry["what"] for entry in program.omissions(program.parse_arguments(["--model", "somewhere"]))}
    assert "a causal language model of your own" not in given
    assert "without the network" in given


REFUSED = {"where": "the main process", "status": "refused", "said": "sockets are blocked"}


@pytest.fixture
def offline(monkeypatch):
    """Answer for the attempts to leave the machine, which cost a process; they are made in test_offline.py."""
    tried = [dict(REFUSED)]
    monkeypatch.setattr(program, "stay_offline", lambda options: tried)
    return tried


OTHER_STUDIES = [name for name in program.STUDIES if name != "statistics"]


def evidence(
    status="passed", fault="caught", family="proved", rate="passed", complaints=(), situation="passed", over_budget=()
):
    results = [{"check": "law", "model": "m", "status": status, "error": 0.0, "bound": 1.0, "compared": 3,
                "seconds": 0.1, "reason": ""}]  # fmt: skip
    planted = [{"fault": "f", "area": "formula", "description": "", "expected": "law", "caught_by": ["law"],
                "ratio": 100.0, "status": fault, "seconds": 0.1}]  # fmt: skip
    rates = [{"study": "type I", "procedure": "p", "data": "d", "sets": 3, "value": 0.05, "low": 0.0, "high": 0.1,
              "bound": 0.1, "direction": "at most", "status": rate}]  # fmt: skip
    found = {"format": program.FORMAT, "results": results, "faults": planted, "models": [], "not_run": [],
             "determinism": {"settings": [], "arrays": [], "tiers_run": {}, "tiers_not_run": {"D4": "never"}},
             "families": [{"family": "f", "status": family, "reason": "said"}], "refused": [], "statistics": rates,
             "bad_input": [{"case": "one_token", "status": situation, "reason": "said"},
                           {"case": "peft", "status": "not run", "reason": "no package"}],
             "statistics_long": {"rows": rates, "seconds": 1.0, "complaints": list(complaints)},
             **{name: [row | {"status": "passed"} for row in rates] for name in OTHER_STUDIES},
             **{f"{name}_long": {"rows": rates, "seconds": 1.0, "complaints": []} for name in OTHER_STUDIES}}  # fmt: skip
    found["redundancy"] = []
    measured = {"rows": [], "seconds": None, "environment": {}, "stale": []}
    found |= {name: measured | {"complaints": []} for name in program.committed_state.RECORDS}
    found["memory_peaks"] = measured | {"complaints": list(over_budget)}
    found["summary"] = program.summarise(found) | {"checks_without_a_fault": [], "redundancy_complaints": []}
    return found


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (evidence(), 0),
        (evidence(status="failed"), 1),
        (evidence(fault="missed"), 1),
        (evidence(status="not run"), 1),
        (evidence(family="failed"), 1),
        (evidence(rate="failed"), 1),
        (evidence(situation="failed"), 1),
        (evidence(situation="not run"), 1),
        (evidence(complaints=["made by other sources"]), 1),
        (evidence(over_budget=["failed: peak of resident memory: 5.000, at most 4.000"]), 1),
        (evidence() | {"summary": evidence()["summary"] | {"statistics": 0}}, 1),
        *((evidence() | {"summary": evidence()["summary"] | {name: 0}}, 1) for name in OTHER_STUDIES),
    ],
)
def test_exit_status_says_whether_everything_held(found, status, monkeypatch, tmp_path, capsys, offline):
    monkeypatch.setattr(program, "gather", lambda options: (found, {"checks": 1.0}))
    assert program.main(["--output", str(tmp_path)]) == status
    assert json.loads((tmp_path / "evidence.json").read_text())["format"] == "qkov-evidence-1"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {"commit", "environment", "data_fingerprint", "tiers_run", "tiers_not_run"} <= set(manifest)
    assert manifest["offline"]["sockets other than loopback blocked"] is True
    assert "numbers compared" in capsys.readouterr().out


def test_a_required_gpu_that_is_not_there_ends_before_anything_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(program.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(program, "gather", lambda options: pytest.fail("it ran"))
    assert program.main(["--require-gpu", "--output", str(tmp_path)]) == 1
    assert "no CUDA device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("how", "status"), [("reached", 1), ("open", 0)])
def test_a_run_that_is_not_blocked_fails_or_says_that_it_is_open(how, status, monkeypatch, tmp_path, offline):
    offline[0]["status"] = how
    monkeypatch.setattr(program, "gather", lambda options: (evidence(), {}))
    assert program.main(["--output", str(tmp_path)]) == status
    if how == "open":
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert manifest["offline"]["sockets other than loopback blocked"] is False
    else:
        assert not list(tmp_path.iterdir())


def test_situations_that_failed_or_did_not_run_are_said(monkeypatch, tmp_path, capsys, offline):
    monkeypatch.setattr(program, "gather", lambda options: (evidence(situation="failed"), {}))
    assert program.main(["--output", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "FAILED: bad input one_token: said" in said
    assert "not run: bad input peft: no package" in said
    assert "2 situations of bad input, 1 failed, 1 not run" in said


def test_a_model_that_cannot_be_loaded_ends_with_status_4(monkeypatch, tmp_path, capsys, offline):
    def refuse(options):
        raise OSError("no such folder")

    monkeypatch.setattr(program, "gather", refuse)
    assert program.main(["--output", str(tmp_path)]) == 4
    assert "no such folder" in capsys.readouterr().out
    assert not (tmp_path / "evidence.json").exists()


def test_a_check_without_a_fault_fails_the_run(monkeypatch, tmp_path, offline):
    found = evidence()
    found["summary"]["checks_without_a_fault"] = ["law"]
    monkeypatch.setattr(program, "gather", lambda options: (found, {}))
    assert program.main(["--output", str(tmp_path)]) == 1


@pytest.mark.parametrize("study", list(program.STUDIES))
def test_long_measures_in_full_and_for_the_record(study, monkeypatch):
    asked = []
    made = program.STUDIES[study]
    monkeypatch.setattr(made, "make_long", lambda jobs: asked.append(("long", jobs)) or [])
    monkeypatch.setattr(made, "measure", lambda long, jobs: asked.append(("short", long, jobs)) or [])
    program.measure_study(study, program.parse_arguments(["--long", "--jobs", "1"]))
    program.measure_study(study, program.parse_arguments(["--jobs", "2"]))
    assert asked == [("long", 1), ("short", False, 2)]


def test_what_failed_in_the_statistics_is_said(monkeypatch, tmp_path, capsys, offline):
    found = evidence(rate="failed", complaints=["made by other sources"])
    monkeypatch.setattr(program, "gather", lambda options: (found, {}))
    assert program.main(["--output", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "FAILED statistics: failed: type I of p on d: 0.050, at most 0.100" in said
    assert "FAILED statistics: made by other sources" in said
