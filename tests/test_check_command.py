"""`qkov check`: laws on a user's model, by status, and what it ends with."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from qkov import checks, cli, drawn_batches, errors, model_loading
from tests import runs
from tests.builders import build_model

LAWS = ["--only", "ids", "--only", "gqa_twin", "--only", "slices_tile"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with a tokenizer, and task files."""
    return runs.make_inputs(tmp_path_factory.mktemp("checked"))


def check(*arguments):
    return CliRunner().invoke(cli.app, ["check", *map(str, arguments)])


def test_laws_are_listed_with_error_bound_and_count(folder):
    found = check(folder / "model", *LAWS)
    assert found.exit_code == 0, found.output
    assert "random samples, 4 of 16 tokens for each task, seed 0 (no task file was given)" in found.stdout
    assert re.search(r"^passed +ids +[\d.e+-]+ +1\.0e-04 +[\d,]+$", found.stdout, flags=re.MULTILINE)
    assert re.search(r"^not run +gqa_twin +no expanded twin", found.stdout, flags=re.MULTILINE)
    assert found.stdout.endswith("3 laws: 2 passed, 0 failed, 1 not run\n")
    assert found.stderr == ""


def test_json_says_the_same(folder):
    found = check(folder / "model", *LAWS, "--format", "json", "--samples", 3, "--tokens", 6)
    document = json.loads(found.stdout)
    assert (document["passed"], document["failed"], document["not_run"]) == (2, 0, 1)
    assert [one["status"] for one in document["results"]] == ["passed", "not run", "passed"]
    assert "3 of 6 tokens" in document["inputs"]


def test_samples_of_task_files_are_read(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(checks, "check_model", lambda model, *batches, **options: seen.append((batches, options)) or [])
    tasks = [f"--task={task}={folder / task}.jsonl" for task in ("math", "code")]
    found = check(folder / "model", *tasks, "--samples", 3, "--tokens", 5, "--format", "json")
    assert found.exit_code == 4  # nothing was tried
    (first, second), options = seen[0]
    assert first["input_ids"].shape == (3, 5)
    assert not torch.equal(first["input_ids"], second["input_ids"])
    assert options["loss_fn"] is None
    assert json.loads(found.stdout)["inputs"] == "the first samples of each task: 3 of 'math', 3 of 'code'"


def test_layout_alone_is_checked_on_random_weights(folder):
    found = check(folder / "model", "--layout-only", "--config-only")
    assert found.exit_code == 0, found.output
    assert "random weights, built from the configuration" in found.stdout
    assert f"{len(checks.LAYOUT_PROOF)} laws: {len(checks.LAYOUT_PROOF)} passed" in found.stdout


def test_a_law_that_fails_ends_with_4_and_is_named(folder, monkeypatch):
    results = [
        checks.CheckResult("ids", "m", "failed", float("inf"), 1e-4, 3, 0.1, "the error exceeds the bound"),
        checks.CheckResult("slices_tile", "m", "passed", 0.0, 0.0, 9, 0.1, ""),
    ]
    monkeypatch.setattr(checks, "check_model", lambda *arguments, **options: results)
    found = check(folder / "model")
    assert found.exit_code == errors.LawFailedError.exit_status == 4
    assert "1 of 2 laws do not hold on this model: ids." in found.stderr
    assert re.search(r"^failed +ids +inf", found.stdout, flags=re.MULTILINE)
    assert "2 laws: 1 passed, 1 failed, 0 not run" in found.stdout
    assert json.loads(check(folder / "model", "--format", "json").stdout)["results"][0]["error"] == "inf"


def test_nothing_tried_is_not_green(folder):
    found = check(folder / "model", "--only", "gqa_twin")
    assert found.exit_code == 4
    assert "No law could be tried" in found.stderr


def test_model_with_nan_fails(folder, monkeypatch):
    model = model_loading.load_model(str(folder / "model"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layers.1.self_attn.o_proj" in name:
                weight[:, :4] = float("nan")
    monkeypatch.setattr(model_loading, "load_model", lambda *arguments, **options: model)
    found = check(folder / "model", "--only", "ids")
    assert found.exit_code == 4
    assert re.search(r"^failed +ids .*NonFiniteError", found.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize("sizes", [{"samples": 0}, {"tokens": 1}])
def test_samples_without_anything_to_predict_are_not_drawn(sizes):
    with pytest.raises(errors.OptionError, match="at least 2"):
        drawn_batches.random_batch(build_model("llama"), 0, **sizes)
