"""`qkov run`: what is typed, what is printed, and the status that it ends with."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import qkov
from qkov import cli, errors, run_folder, run_stages, running

from .runs import make_config, make_inputs, task_lines, write_lines

ROOT = Path(__file__).resolve().parent.parent
TYPED = [
    "--model", "./model", "--task", "math=math.jsonl", "--task", "code=code.jsonl", "--layer", "0", "--permutations", "19",
]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"), count=6)


@pytest.fixture
def here(inputs, tmp_path, monkeypatch):
    """A copy of the inputs, which is the current folder."""
    shutil.copytree(inputs, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def run(*arguments):
    return CliRunner().invoke(cli.app, ["run", *map(str, arguments)])


def refused(status, shown, *arguments):
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert result.stderr.splitlines()[-1].startswith("error: ") or "\nerror: " in f"\n{result.stderr}"
    assert shown in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_a_run_by_options_prints_the_conclusion_and_what_is_next(here):
    result = run(*TYPED, "--reference", "chat", "--task", "chat=chat.jsonl", "--out", "r1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("A is 'math', B is 'code', R is 'chat'. In ")
    assert lines[2].split() == ["block", "layer", "head", "kv", "head", "effect", "p", "q", "family-wise", "p"]
    assert len([line for line in lines if line[:3].strip() in set("QKVO")]) == 5
    assert lines[-1] == "next: qkov report r1"
    told = result.stderr.splitlines()
    assert told[0] == "[1/5] collecting 18 samples"
    assert sum(line.startswith("warning: Task 'math' has 3 independent clusters") for line in told) == 1
    assert qkov.open_run("r1").config.reference == "chat"


def test_a_file_and_options_give_the_same_run(here):
    assert run(*TYPED, "--out", "r1", "--no-statistics").exit_code == 0
    text = "model: ./model\ntasks: {math: math.jsonl, code: code.jsonl}\nsource: math\ntarget: code\n"
    text += "scores: {layers: [0]}\nstatistics: {run: false, n_permutations: 19}\n"
    (here / "run.yaml").write_text(text)
    result = run("run.yaml", "--out", "r2")
    assert result.exit_code == 0, result.output
    assert "not asked for: statistics" in result.stdout
    assert (here / "r1" / "config.yaml").read_text() == (here / "r2" / "config.yaml").read_text()
    one, other = (run_folder.read_record(name)["results"] for name in ("r1", "r2"))
    assert one == other


def test_every_option_reaches_the_configuration(here, monkeypatch):
    seen = []
    monkeypatch.setattr(running, "run_measurement", lambda config, out, **_: seen.append(config))
    run(
        *TYPED, "--out", "r", "--task", "chat=chat.jsonl", "--source", "code", "--target", "chat", "--reference", "math",
        "--max-length", 9, "--truncate", "--variant", "dot", "--variant", "signed", "--fisher-pool", "B", "--layer", 1,
        "--max-samples", 3, "--clusters", "iid", "--no-statistics", "--optimiser", "adam", "--no-prediction",
        "--device", "cuda", "--dtype", "bfloat16", "--memory-budget", "3GB", "--seed", 4, "--discard-store",
        "--attention", "x", "--revision", "v1", "--config-only",
    )  # fmt: skip
    expected = make_config(
        here, source="code", target="chat", reference="math", device="cuda", memory_budget="3GB", seed=4, keep_store=False,
        tokens={"max_length": 9, "truncate": True}, prediction={"run": False, "optimiser": "adam"},
        scores={"variants": ["dot", "signed"], "fisher_pool": "B", "layers": [0, 1], "max_samples": 3},
        statistics={"run": False, "clusters": "iid", "n_permutations": 19},
        model={"name": "./model", "dtype": "bfloat16", "attention": "x", "revision": "v1", "weights": False},
    )  # fmt: skip
    assert seen == [expected]


def test_a_dry_run_prints_the_plan_and_writes_nothing(here):
    before = sorted(here.rglob("*"))
    result = run(*TYPED, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "task 'math': 6 samples, " in result.stdout
    assert ", 3 independent units" in result.stdout
    assert "6 + 6 samples of 11 tokens; 1 layers, 12 slices" in result.stdout
    assert "Nothing was written." in result.stdout
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("status", "shown", "arguments"),
    [
        (2, "expected a configuration file, or --model and two of --task", []),
        (2, "--out is missing", TYPED),
        (2, "only one --task is given", ["--model", "x", "--task", "a=b", "--out", "r"]),
        (2, "--task 'a' is given twice", ["--model", "x", "--task", "a=b", "--task", "a=c", "--out", "r"]),
        (2, "--task is 'a'; expected NAME=FILE", ["--model", "x", "--task", "a", "--task", "b=c", "--out", "r"]),
        (2, "cannot read the configuration 'none.yaml'", ["none.yaml", "--out", "r"]),
        (2, "--seed is given beside 'none.yaml'", ["none.yaml", "--seed", 3, "--out", "r"]),
        (2, "'prediction.optimiser' is 'sdg'", [*TYPED, "--optimiser", "sdg", "--out", "r"]),
        (2, "'target' is 'cod', which is none of", [*TYPED, "--target", "cod", "--out", "r"]),
        (2, "'model' holds other files", [*TYPED, "--out", "model"]),
        (2, "holds other files", [*TYPED, "--out", "."]),
        (3, "cannot read the task file 'none.jsonl'", [*TYPED, "--task", "x=none.jsonl", "--out", "r"]),
        (3, "has 9 tokens; max_length is 8", [*TYPED, "--max-length", 8, "--out", "r"]),
        (4, "There is no folder", ["--model", "./none", *TYPED[2:], "--out", "r"]),
        (4, "has no tokenizer", ["--model", "./bare", *TYPED[2:], "--out", "r"]),
        (2, "expected a commit", ["--model", "owner/x", *TYPED[2:], "--trust-remote-code", "--out", "r"]),
        (8, "memory_budget", [*TYPED, "--memory-budget", "1MB", "--out", "r"]),
    ],
)  # fmt: skip
def test_errors_are_sentences_with_a_status(here, status, shown, arguments):
    (here / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(here / "model" / name, here / "bare" / name)
    refused(status, shown, *arguments)
    assert not (here / "r").exists()


def test_the_status_is_that_of_the_error_wherever_it_arises(here, monkeypatch):
    for error in (errors.StoreDamagedError, errors.StoreBusyError, errors.DiskError, errors.NonFiniteError):

        def fail(*_arguments, error=error, **_options):
            raise error("planted")

        monkeypatch.setattr(run_stages, "collect", fail)
        out = f"r-{error.__name__}"
        result = run(*TYPED, "--out", out)
        assert (result.exit_code, result.stderr.splitlines()[-1]) == (error.exit_status, "error: planted")


def test_an_interruption_ends_with_130_and_the_command_that_goes_on(here, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_stages, "predict_change", interrupt)
        result = run(*TYPED, "--out", "r 1")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "error: interrupted; what was done is kept in 'r 1'. To go on: qkov run 'r 1/config.yaml' --out 'r 1'"
    )
    result = run("r 1/config.yaml", "--out", "r 1")
    assert result.exit_code == 0, result.output
    assert "[3/5] testing every head: done before" in result.stderr


def test_a_traceback_is_shown_when_asked_for(here):
    assert "Traceback" in run("none.yaml", "--out", "r", "--traceback").output


def test_names_are_only_shown(here):
    lines = [{**one, "id": f"\x1b[2J{i}"} for i, one in enumerate(task_lines("math", 3))]
    write_lines(here / "math.jsonl", [*lines, lines[0]])
    result = run(*TYPED, "--out", "r")
    assert result.exit_code == 3
    assert "\x1b" not in result.output


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no pseudo-terminals here")
def test_a_signal_in_a_terminal_leaves_a_run_that_goes_on(here):
    """The real program, its stages told in a terminal, ended by the keys that send SIGINT."""
    write_lines(here / "math.jsonl", task_lines("math", 120, clusters=False))
    command = [sys.executable, "-m", "qkov", "run", *TYPED, "--no-statistics", "--no-prediction", "--out", "r"]
    leader, follower = pty.openpty()
    with subprocess.Popen(
        command, stderr=follower, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as program:
        os.close(follower)
        shown = os.read(leader, 10_000)
        while b"collecting" not in shown:
            shown += os.read(leader, 10_000)
        while not list((here / "r").glob("store/*")):
            time.sleep(0.05)
        time.sleep(0.2)
        program.send_signal(signal.SIGINT)
        program.wait(60)
        shown += os.read(leader, 100_000)
    os.close(leader)
    assert program.returncode == 130, shown.decode()
    assert b"To go on: qkov run r/config.yaml --out r" in shown
    assert json.loads((here / "r" / "run.json").read_text())["status"] == "incomplete"
    result = run("r/config.yaml", "--out", "r")
    assert result.exit_code == 0, result.output
    assert len(qkov.open_run("r").scores().sample_a) == 120
