"""The program for a GPU, rehearsed on the CPU: what differs is seen, what did not run is never green."""

import json

import numpy as np
import pytest
import torch

from validation import gpu

CASE = "split-linear-gqa"


@pytest.fixture
def one_law(monkeypatch):
    """Only one quick law, so that the program takes a second."""
    monkeypatch.setattr(gpu.checks, "CHECKS", {"ids": gpu.checks.CHECKS["ids"]})


def statuses(rows):
    return {one["status"] for one in rows}


@pytest.mark.parametrize("part", ["agreement", "repeated"])
def test_one_device_agrees_with_itself_and_repeats(part):
    rows = gpu.PARTS[part](CASE, "cpu")
    assert statuses(rows) == {"passed"}
    assert all(one["compared"] > 100 and one["error"] == 0 for one in rows)


@pytest.mark.parametrize(
    ("factor", "expected"), [(1 + 0.5e-3, "passed"), (1 + 2e-3, "failed"), (float("nan"), "failed")]
)
def test_agreement_is_that_of_tier_d3(monkeypatch, factor, expected):
    right, calls = gpu.score, []

    def wrong(held, device, **options):
        calls.append(device)
        found = right(held, device, **options)
        return found if len(calls) == 1 else {block: scores * factor for block, scores in found.items()}

    monkeypatch.setattr(gpu, "score", wrong)
    assert statuses(gpu.agreement(CASE, "cpu")) == {expected}


def test_a_bit_that_does_not_repeat_is_a_failure(monkeypatch):
    right, calls = gpu.score, []

    def wrong(held, device, **options):
        calls.append(device)
        found = right(held, device, **options)
        if len(calls) > 1:
            found = found | {"V": found["V"].copy()}
            found["V"][0, 0, 0, 0] = np.nextafter(found["V"][0, 0, 0, 0], 1)
        return found

    monkeypatch.setattr(gpu, "score", wrong)
    (row,) = gpu.repeated(CASE, "cpu")
    assert (row["status"], row["error"]) == ("failed", 1)


def test_laws_are_measured_in_both_precisions(one_law):
    rows = gpu.laws(CASE, "cpu")
    assert [one["model"] for one in rows] == [f"{CASE}, {word}, on cpu" for word in ("float32", "bfloat16")]
    assert statuses(rows) == {"passed"}


def test_rounding_to_bfloat16_is_shown_and_promises_nothing():
    (row,) = gpu.spread(CASE, "cpu")
    assert (row["status"], row["bound"]) == ("shown", None)
    assert 1e-4 < row["error"] < 1


def test_what_nothing_was_compared_in_or_is_no_number_has_not_passed():
    assert gpu.row("x", "m", 0.0, 1e-3, 0, 0.0)["status"] == "failed"
    assert gpu.row("x", "m", float("nan"), 1e-3, 5, 0.0)["status"] == "failed"
    assert gpu.row("x", "m", 1e-3, 1e-3, 5, 0.0)["status"] == "passed"


def test_an_exception_is_a_failure_and_a_missing_package_is_not_run():
    def broken(name, device):
        raise RuntimeError("expected all tensors on one device")

    def lacking(name, device):
        raise ModuleNotFoundError("No module named 'statsmodels'", name="statsmodels.stats")

    def ours(name, device):
        raise ModuleNotFoundError("No module named 'qkov.absent'", name="qkov.absent")

    (row,) = gpu.attempt("laws", broken, CASE, "cpu")
    assert (row["status"], row["reason"]) == ("failed", "RuntimeError: expected all tensors on one device")
    (row,) = gpu.attempt("statistics", lacking, CASE, "cpu")
    assert (row["status"], row["reason"]) == ("not run", "statsmodels.stats is missing")
    with pytest.raises(ModuleNotFoundError):
        gpu.attempt("laws", ours, CASE, "cpu")


def test_a_missing_package_is_looked_for_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    (row,) = gpu.statistics(CASE, "cpu")
    assert (row["status"], row["reason"]) == ("not run", "statsmodels is missing")


def test_memory_is_counted_on_a_device_only():
    assert statuses(gpu.memory(CASE, "cpu")) == {"not run"}


@pytest.mark.parametrize(("options", "status"), [((), 0), (("--require-gpu",), 1)])
def test_without_a_device_nothing_ran_and_that_is_said(monkeypatch, capsys, tmp_path, options, status):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "gpu.json"
    assert gpu.main([*options, "--output", str(path)]) == status
    said = capsys.readouterr().out
    assert "no CUDA device" in said
    assert " passed" not in said.replace("0 passed", "")
    assert not path.exists()


def test_a_rehearsal_counts_as_not_run_and_cannot_stand_for_a_gpu(monkeypatch, capsys, tmp_path, one_law):
    monkeypatch.setattr(gpu, "PARTS", {"laws": gpu.laws})
    path = tmp_path / "deep" / "gpu.json"
    assert gpu.main(["--device", "cpu", "--case", CASE, "--output", str(path)]) == 0
    assert "on a GPU: 0 passed, 0 failed, 2 not run; rehearsed on cpu: 2 passed" in capsys.readouterr().out
    assert json.loads(path.read_text())["device"] == "cpu"
    assert gpu.main(["--device", "cpu", "--require-gpu"]) == 1


@pytest.mark.parametrize("found", ["failed", "not run", "shown"])
def test_a_failure_or_nothing_passed_is_status_one(monkeypatch, tmp_path, found):
    monkeypatch.setattr(gpu, "PARTS", {"laws": lambda name, device: [gpu.unmeasured("laws", name, found, "planted")]})
    assert gpu.main(["--device", "cpu", "--case", CASE, "--output", str(tmp_path / "gpu.json")]) == 1
    with_failure = [gpu.row("laws", CASE, 0.0, 1.0, 1, 0.0), gpu.unmeasured("laws", CASE, found, "planted")]
    monkeypatch.setattr(gpu, "PARTS", {"laws": lambda name, device: with_failure})
    status = gpu.main(["--device", "cpu", "--case", CASE, "--output", str(tmp_path / "gpu.json")])
    assert status == (1 if found == "failed" else 0)
