"""README's example runs as printed, and what it names exists."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import transformers
from typer.testing import CliRunner

import qkov
from qkov import cli, task_files
from validation import tiny_models

from .runs import make_model

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize(
    "rest",
    ["", *BLOCKS[1:]],
    ids=["example", "files", "store", "ranks", "statistics", "prediction", "check_model", "pytest"],
)
def test_example_runs_as_printed(rest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(BLOCKS[0], "README.md", "exec"), names)
    assert (tmp_path / "heatmap.png").stat().st_size > 1000
    assert "sample_i" in capsys.readouterr().out
    names["batch_a"], names["batch_b"] = ({"input_ids": names[task]["input_ids"][:3, :7]} for task in ("math", "code"))
    exec(compile(rest, "README.md", "exec"), names)
    if "FisherCollector(store=" in rest:
        assert names["stored"].sealed
        for line in re.findall(r"^qkov (store .*)$", TEXT, flags=re.MULTILINE):
            shown = CliRunner().invoke(cli.app, shlex.split(line))
            assert (shown.exit_code, "12 of task 'math'" in shown.output) == (0, True)
    if "ranks()" in rest:
        for block, scores in names["heatmap"].arrays.items():  # in the store some samples are whole gradients
            np.testing.assert_allclose(names["together"].arrays[block], scores, rtol=1e-4)
    if "QKOVStatistics" in rest:
        assert re.search(r"A is 'math', B is 'code', R is 'chat'\. In \d+ of 40 tested slices", capsys.readouterr().out)
        assert (tmp_path / "survivors.png").stat().st_size > 1000
        assert names["qkov"].load_statistics("found.safetensors") == names["found"]
    if "predict_change" in rest:
        assert re.search(r"(raises|lowers) the loss of 'math' by", capsys.readouterr().out)
        assert names["qkov"].load_prediction("change.safetensors") == names["change"]
    if "check_model" in rest:
        assert capsys.readouterr().out.count("passed") > 20
    if "parametrize" in rest:
        assert names["test_laws"].pytestmark[0].name == "parametrize"


def test_all_blocks_run_one_after_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, block in enumerate(BLOCKS):
        if number == 1:
            names["batch_a"], names["batch_b"] = (
                {"input_ids": names[task]["input_ids"][:3, :7]} for task in ("math", "code")
            )
        if "check_model" not in block:  # takes long, and ran above
            exec(compile(block, "README.md", "exec"), names)


def test_example_has_at_most_12_lines_of_code():
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 12


def test_example_of_statistics_has_8_lines():
    assert len(next(one for one in BLOCKS if "QKOVStatistics" in one).splitlines()) == 8


@pytest.mark.skipif(tiny_models.is_older(), reason="what is shown is of the pinned transformers; this one is older")
def test_plan_prints_what_is_shown(tmp_path, monkeypatch):
    """The sizes of Llama-3-8B; nothing of this machine is in it, as the time is at a given rate and the device a GPU."""
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
    config = transformers.LlamaConfig(vocab_size=128256, architectures=["LlamaForCausalLM"], **sizes)
    config.save_pretrained(tmp_path / "llama-3-8b")
    command, shown = re.search(r"```\nqkov (plan .*)\n```\n\n```\n(.*?)```", TEXT, flags=re.DOTALL).groups()
    found = CliRunner().invoke(cli.app, shlex.split(command))
    assert (found.exit_code, found.stdout) == (0, shown)


@pytest.mark.filterwarnings("ignore::qkov.errors.StatisticsWarning")
def test_runs_from_the_command_line_are_followed_word_for_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = TEXT.split("## From the command line\n")[1].split("\n## ")[0]
    for line in re.search(r"```\n(\{.*?)```", section, flags=re.DOTALL).group(1).splitlines():
        (tmp_path / "shown.jsonl").write_text(line)
        assert task_files.read_task(tmp_path / "shown.jsonl").lines
    (block,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    make_model(tmp_path / "gpt2")
    (tmp_path / "run.yaml").write_text(re.search(r"```yaml\n(.*?)```", section, flags=re.DOTALL).group(1))
    commands = re.findall(r"^qkov (run .*)$", section, flags=re.MULTILINE)
    assert len(commands) == 4
    for line in commands:
        shown = CliRunner().invoke(cli.app, shlex.split(line))
        assert shown.exit_code == 0, shown.output
        assert ("A is 'math', B is 'code', R is 'chat'. In " in shown.stdout) == ("--dry-run" not in line)
    names = re.findall(r"`([a-z_-]+\.(?:yaml|json|safetensors))`", section)
    runs = [qkov.open_run(name) for name in ("first", "second", "third")]
    assert {*names} - {"run.yaml"} == {one.name for one in runs[0].path.iterdir() if one.is_file()} - {"lock"}
    assert len({(one.path / "config.yaml").read_text() for one in runs}) == 1
    assert len({str(one.record["results"]) for one in runs}) == 1


def test_the_two_commands_are_those_of_continuous_integration():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in re.search(r"```\n(python3 -m venv.*?)```", TEXT, flags=re.DOTALL).group(1).splitlines():
        assert command in script


@pytest.mark.parametrize("link", re.findall(r"\]\(([^):]+)\)", TEXT))
def test_linked_files_and_headings_exist(link):
    headings = {
        "#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    assert link in headings or (ROOT / link).exists()
