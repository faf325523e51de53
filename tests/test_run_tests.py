"""`qkov test`: tests from what a run or a store holds; nothing that is there is overwritten."""

import json
import re
import warnings

import pytest
from typer.testing import CliRunner

import qkov
from qkov import cli, errors, run_folder, run_tests
from qkov.errors import StatisticsWarning
from tests import compared_runs

FEW = ("--permutations", "99", "--rows", "2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run without tests; every test copies it."""
    return compared_runs.make_run(tmp_path_factory.mktemp("tested"), tests=False)


@pytest.fixture
def copied(run, request):
    return compared_runs.copy_of(run, re.sub(r"\W+", "-", request.node.name)[:80])


def test(*arguments):
    return CliRunner().invoke(cli.app, ["test", *map(str, arguments)])


test.__test__ = False


def test_result_of_the_run_itself_goes_into_the_run(copied):
    found = test(copied, "--rows", 2)
    assert found.exit_code == 0, found.output
    assert "A is 'math', B is 'code', R is 'chat'" in found.stdout
    assert "the first 2 of 32 slices, by evidence:" in found.stdout
    assert "is the map stable, and is it about the tasks:" in found.stdout
    assert found.stderr == ""  # warnings stand among the notes
    opened = run_folder.open_run(copied)
    statistics = opened.statistics()
    assert statistics.attributes["tests"]["source"]["n_permutations"] == compared_runs.PERMUTATIONS
    assert opened.record["results"]["statistics.safetensors"]["fingerprint"] == statistics.fingerprint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticsWarning)
        direct = qkov.QKOVStatistics(n_permutations=compared_runs.PERMUTATIONS).test_heatmap(
            opened.collector(), "math", "code", "chat", seed=0, progress=False
        )
    assert statistics == direct

    again = test(copied)
    assert "the same as" in again.stdout
    assert "nothing written" in again.stdout
    assert run_folder.open_run(copied).record == opened.record


def test_other_settings_never_replace_the_result_of_the_run(copied):
    assert "statistics-2.safetensors" in test(copied, *FEW).stdout
    assert "statistics-3.safetensors" in test(copied, *FEW, "--seed", 7).stdout
    assert "the same as" in test(copied, *FEW).stdout
    own = test(copied)
    assert f"written to {copied / 'statistics.safetensors'}" in own.stdout
    names = [name for name in run_folder.open_run(copied).record["results"] if name.startswith("statistics")]
    assert names == ["statistics-2.safetensors", "statistics-3.safetensors", "statistics.safetensors"]
    assert run_folder.open_run(copied).statistics().attributes["tests"]["source"]["seed"] == 0


def test_a_file_that_the_record_does_not_name_is_left_alone(copied):
    (copied / "statistics.safetensors").write_bytes(b"mine")
    assert "statistics-2.safetensors" in test(copied).stdout
    assert (copied / "statistics.safetensors").read_bytes() == b"mine"


def test_options_reach_the_test(copied):
    found = json.loads(
        test(copied, "--reference", "none", "--clusters", "iid", *FEW, "--seed", 3, "--alpha", 0.3, "--criterion", "p",
             "--format", "json").stdout
    )  # fmt: skip
    facts = found["attributes"]
    assert (found["main_test"], facts["reference_task"], found["alpha"], found["criterion"]) == (
        "exchange",
        None,
        0.3,
        "p",
    )
    assert facts["iid"] == {"math": True, "code": True}
    assert (facts["tests"]["exchange"]["seed"], facts["tests"]["exchange"]["n_permutations"]) == (3, 99)
    assert found["survive"] == sum(row["exchange_p"] <= 0.3 for row in found["rows"])
    assert {row["head"] for row in found["rows"] if row["block"] == "K"} == {None}
    swapped = json.loads(test(copied, "--task-a", "code", "--task-b", "math", *FEW, "--format", "json").stdout)
    assert (swapped["attributes"]["task_a"], swapped["attributes"]["task_b"]) == ("code", "math")


def test_a_store_alone_needs_its_tasks_named_and_writes_where_told(run, tmp_path):
    store = run / "store"
    refused = test(store, *FEW)
    assert refused.exit_code == 2
    assert "name --task-a and --task-b; it holds 'math', 'code', 'chat'" in refused.stderr
    out = tmp_path / "found.safetensors"
    tasks = ("--task-a", "math", "--task-b", "code", "--reference", "chat", *FEW)
    assert f"written to {out}" in test(store, *tasks, "--out", out).stdout
    before = out.read_bytes()
    assert "nothing written" in test(store, *tasks, "--out", out).stdout
    other = test(store, *tasks, "--seed", 5, "--out", out)
    assert (other.exit_code, out.read_bytes()) == (2, before)
    assert "holds something else; name another file" in other.stderr
    assert "written" not in test(store, *tasks).stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--task-a", "poems"), 3, "poems"),
        (("--task-a", "code"), 2, "not all different"),
        (("--alpha", "7"), 2, "alpha=7.0"),
        (("--permutations", "0"), 3, "permutations"),
        (("--seed", "-1"), 3, "seed"),
    ],
)
def test_what_cannot_be_tested_is_refused_and_nothing_is_written(copied, arguments, status, said):
    before = sorted(copied.iterdir())
    found = test(copied, *arguments)
    assert (found.exit_code, found.stdout) == (status, "")
    assert said in found.stderr
    assert sorted(copied.iterdir()) == before


def test_run_without_samples_says_how_to_have_them(copied):
    import shutil

    shutil.rmtree(copied / "store")
    found = test(copied)
    assert found.exit_code == 3
    assert "keep_store: true" in found.stderr


def test_a_test_of_nothing_is_refused(run, monkeypatch):
    samples = run_tests.open_samples(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticsWarning)
        found = run_tests.statistics_of(samples, progress=False)
    nothing = compared_runs.with_columns(found, source_p=found.columns["source_p"] * float("nan"))
    monkeypatch.setattr(qkov.QKOVStatistics, "test_heatmap", lambda *arguments, **options: nothing)
    with pytest.raises(errors.StatisticsError, match="Nothing could be tested in any of 32 slices"):
        run_tests.statistics_of(samples)
