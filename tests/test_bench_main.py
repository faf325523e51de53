"""The command: what it measures, what it leaves out and says so, and its exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from validation.bench import __main__ as bench
from validation.bench import goals, record, storage

ROOT = Path(__file__).resolve().parent.parent
WITHOUT = """
import runpy, sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)
BLOCKED = set(sys.argv[1].split(","))
sys.meta_path[:] = [Without(one) for one in sys.meta_path]
sys.argv = ["validation.bench", *sys.argv[2:]]
runpy.run_module("validation.bench", run_name="__main__")
"""


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Let "collection" come to a value of the test; the record and the output are in a folder of its own."""
    monkeypatch.setattr(record, "PATH", tmp_path / "record.json")

    def run(value, *options, wrong=()):
        found = goals.Measured({"collection": value}, {"collection": "tiny"}, wrong=dict(wrong))
        monkeypatch.setattr("validation.bench.collection.measure", lambda sizes, say: found)
        return bench.main(["--only", "collection", "--output", str(tmp_path / "deep" / "bench.json"), *options])

    return run


def test_a_held_goal_is_status_0_and_a_missed_one_1(measured, capsys, tmp_path):
    assert measured(0.9) == 0
    assert measured(0.5) == 1
    assert "at least 0.7        0.5  missed" in capsys.readouterr().out
    document = json.loads((tmp_path / "deep" / "bench.json").read_text())
    (row,) = document["groups"]["collection"]["rows"]
    assert (row["value"], row["status"]) == (0.5, "missed")
    assert document["groups"]["collection"]["machine"]["processor"]
    assert document["groups"]["collection"]["machine"]["threads"] == 1


def test_at_tiny_sizes_no_goal_applies_but_numbers_must_agree(measured, capsys):
    assert measured(0.01, "--quick") == 0
    assert "tiny sizes" in capsys.readouterr().out
    assert measured(0.01, "--quick", wrong={"collection": "differ"}) == 1
    assert "wrong: differ" in capsys.readouterr().out


def test_evidence_is_written_only_when_asked_for(measured, tmp_path, monkeypatch):
    assert measured(0.9) == 0
    assert not (tmp_path / "record.json").exists()
    kept = []
    monkeypatch.setattr(record, "update", lambda found, machine: kept.append(found))
    assert measured(0.9, "--commit-evidence") == 0
    assert kept[0]["collection"]["sources"] == record.source_hashes("collection")


def test_tiny_sizes_are_no_evidence(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--quick", "--commit-evidence"])
    assert "no evidence" in capsys.readouterr().err


def test_threads_are_one_while_measuring_and_as_before_afterwards(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        storage, "measure", lambda *given: seen.append(torch.get_num_threads()) or goals.Measured({}, {})
    )
    torch.set_num_threads(2)
    try:
        bench.main(["--only", "stored", "--output", str(tmp_path / "x.json")])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == [1]


def test_what_raises_is_told_by_its_kind():
    def status(error):
        def measure(sizes, say):
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage, "measure", measure)
            (row,) = bench.measure_group("storage", None, "cpu")["rows"]
        return row["status"], row["reason"]

    assert status(goals.NotRunError("no disk")) == ("not run", "no disk")
    assert status(goals.DisagreementError("differ")) == ("wrong", "differ")
    assert status(ModuleNotFoundError("x", name="opacus.grad")) == ("not run", "opacus.grad is not installed")
    with pytest.raises(ModuleNotFoundError):  # our own modules are there, or something is broken
        status(ModuleNotFoundError("x", name="qkov.nothing"))
    with pytest.raises(RuntimeError):
        status(RuntimeError("a defect"))


def test_group_of_a_goal_is_measured_and_no_other():
    assert bench.chosen_groups(["growth-t", "peak"]) == ["scoring", "memory"]
    assert bench.chosen_groups(["libraries"]) == ["libraries"]
    assert bench.chosen_groups([]) == list(goals.GROUPS)
    assert bench.chosen_groups([], "cuda") == ["gpu"]  # on a runner with a GPU nothing else is waited for
    assert bench.chosen_groups(["peak"], "cuda") == ["memory"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_its_goal_is_not_run_and_an_error_if_required(tmp_path, capsys):
    path = tmp_path / "x.json"
    cases = (["--only", "gpu"], "--device cuda was not given"), (["--device", "cuda"], "torch finds no CUDA device")
    for options, reason in cases:
        assert bench.main(["--output", str(path), *options]) == 0
        assert f"not run: {reason}" in capsys.readouterr().out
    assert bench.main(["--only", "gpu", "--output", str(path), "--device", "cuda", "--require-gpu"]) == 1
    with pytest.raises(SystemExit):
        bench.main(["--require-gpu"])


def test_packages_that_are_missing_leave_their_rows_out_and_the_others_run(tmp_path):
    """As on the image of a GPU runner: without what compares, plots and tests there."""
    blocked = "opacus,kronfluence,statsmodels,matplotlib,nbclient,nox,pandas"
    options = ["--quick", "--device", "cuda", "--output", str(tmp_path / "x.json")]
    options += [part for name in ("libraries", "permutations", "stored", "gpu") for part in ("--only", name)]
    done = subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT, blocked, *options], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "not run: opacus is not installed" in rows["opacus"]
    assert "not run: kronfluence is not installed" in rows["kronfluence"]
    assert "not run: statsmodels is not installed" in rows["permutations"]
    assert "tiny sizes" in rows["stored"]
