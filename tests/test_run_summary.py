"""What is printed at the end claims what the tests allow, and says what was not run."""

import pytest

from qkov import run_folder, run_summary

from .runs import make_results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_folder.open_run(make_results(tmp_path_factory.mktemp("made")))


def test_without_tests_nothing_is_claimed_and_averages_are_shown(run):
    text = run_summary.summary(run)
    assert text.startswith("A is 'math', B is 'code'. Nothing was tested: a high score is no finding.")
    heatmap = run.scores()
    rows = [line.split() for line in text.splitlines()[3 : 3 + run_summary.SHOWN]]
    means = [float(row[-1]) for row in rows]
    every = [mean for block in "QKVO" for mean in heatmap.mean_map(block)[heatmap.exists(block)]]
    assert means == [float(f"{one:.3g}") for one in sorted(every, reverse=True)[: run_summary.SHOWN]]
    assert rows[0][0] in "QKVO"


def test_files_next_command_and_what_was_not_run_are_told(run):
    record = {**run.record, "notes": ["one note"], "not_run": [{"what": "statistics", "reason": "too few."}]}
    changed = run_folder.RunFolder(run.path, run.config, record)
    lines = run_summary.summary(changed).splitlines()
    assert "note: one note" in lines
    assert "not run: statistics: too few." in lines
    assert lines[-2].endswith("run.json, scores-unsigned.safetensors, prediction.safetensors")
    assert lines[-1] == f"next: qkov report {run.path}"
    assert any("the loss of 'math' by" in line for line in lines)
