"""How mutants are made and judged: settings, and what is read back. Making them is `nox -s mutants`."""

import json
import subprocess
import sys
import tomllib
import types

import pytest

from validation import mutant_diffs, mutant_record, mutants
from validation.committed import ROOT

SOURCE = "qkov/statistics/splits.py"
CODES = {"qkov.statistics.splits.x_f__mutmut_1": 1, "qkov.statistics.splits.x_f__mutmut_2": 0,
         "qkov.statistics.splits.x_f__mutmut_3": 36, "qkov.statistics.splits.x_f__mutmut_4": 33}  # fmt: skip
CONTROL = f"qkov.statistics.splits.x_{mutants.CONTROL}__mutmut_1"
STATUSES = {1: "killed", 0: "survived", 36: "timeout", 33: "no tests"}


def test_tests_of_every_source_exist():
    chosen = [name for source in mutant_record.sources() for name in mutants.tests_of(source)]
    for name in (*chosen, *mutants.DESELECTED):
        path, _, function = name.partition("::")
        assert f"def {function or 'test_'}" in (ROOT / path).read_text(encoding="utf-8"), name
    assert mutants.tests_of(SOURCE) == ("tests/test_statistics_splits.py", "tests/test_statistics_golden.py")


def test_settings_of_the_project_are_kept_and_those_of_mutmut_added(tmp_path):
    mutants.configure(tmp_path, SOURCE)
    read = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))
    assert read["tool"]["mutmut"] == mutants.configuration(SOURCE)
    assert read["tool"]["mutmut"]["only_mutate"] == [SOURCE]
    assert read["tool"]["pytest"]["ini_options"]["filterwarnings"] == ["error"]


def test_copy_leaves_out_evidence_and_old_files(tmp_path):
    tree = tmp_path / "tree"
    (tree / "mutants").mkdir(parents=True)
    mutants.copy_tree(tree)
    assert (tree / SOURCE).read_bytes() == (ROOT / SOURCE).read_bytes()
    assert (tree / "tests" / "conftest.py").exists()
    assert not (tree / "validation" / "evidence").exists()
    assert not (tree / "mutants").exists()


@pytest.fixture
def tree(tmp_path):
    """A folder with copies of the sources."""
    for source in mutant_record.sources():
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source).write_text("")
    return tmp_path


def leave(tree, codes):
    """Write what mutmut leaves behind."""
    meta = tree / "mutants" / f"{SOURCE}.meta"
    meta.parent.mkdir(parents=True, exist_ok=True)
    meta.write_text(json.dumps({"exit_code_by_key": codes}))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A folder that mutmut was run in, and a mutmut that can say what its exit codes mean."""
    leave(tmp_path, CODES | {CONTROL: 0})
    monkeypatch.setitem(sys.modules, "mutmut", types.ModuleType("mutmut"))
    stats = types.ModuleType("mutmut.stats")
    stats.status_by_exit_code = STATUSES
    monkeypatch.setitem(sys.modules, "mutmut.stats", stats)
    change = mutant_diffs.Change("f", "a", "b", True)
    monkeypatch.setattr(mutant_diffs, "changes", lambda source, names: dict.fromkeys(names, change))
    return tmp_path


def test_a_mutant_that_hangs_is_killed_and_one_without_tests_is_not(finished):
    found = mutants.read_results(SOURCE, finished)
    counts = ("mutants", "killed", "survived", "wording", "wording_survived")
    assert [found[name] for name in counts] == [4, 2, 2, 4, 2]
    assert found["timeouts"] == 1  # among the killed
    assert [(one["mutant"][-1], one["status"]) for one in found["survivors"]] == [("2", "survived"), ("4", "no tests")]


@pytest.mark.parametrize("codes", [CODES, CODES | {CONTROL: 1}, CODES | {CONTROL: 33}])
def test_where_a_change_of_nothing_is_killed_no_kill_counts(finished, codes):
    leave(finished, codes)
    with pytest.raises(RuntimeError, match="a mutant that changes nothing did not survive"):
        mutants.read_results(SOURCE, finished)


def test_the_control_stands_in_one_copy_only(tree):
    mutants.plant_control(tree, "qkov/fisher.py")
    mutants.plant_control(tree, SOURCE)
    source = (tree / SOURCE).read_text(encoding="utf-8")
    assert source == (ROOT / SOURCE).read_text(encoding="utf-8") + f"\n\ndef {mutants.CONTROL}():\n    return 1\n"
    assert (tree / "qkov" / "fisher.py").read_bytes() == (ROOT / "qkov" / "fisher.py").read_bytes()
    assert mutants.module_of(SOURCE) == "qkov.statistics.splits"


def test_survivors_are_judged_again_and_the_others_are_kept(finished, monkeypatch):
    asked = []
    monkeypatch.setattr(mutants, "run_mutmut", lambda source, jobs, tree, names: asked.extend(names))
    lines = {"function": "f", "before": "a + b", "after": "a - b", "wording": False}
    proved = lines | {"mutant": "proved", "before": "zip(a, b, strict=True)", "after": "zip(a, b)"}
    old = {"file": SOURCE, "mutants": 50, "killed": 47, "survived": 3, "wording": 9, "wording_survived": 1, "seconds": 1.0,
           "survivors": [proved, *(lines | {"mutant": name} for name in list(CODES)[:2])]}  # fmt: skip
    row = mutants.measure_survivors(old, tree=finished)
    assert asked == list(CODES)[:2]  # not the one that no test can kill
    assert (row["mutants"], row["killed"], row["survived"], row["wording"]) == (50, 48, 2, 9)
    assert [one["mutant"] for one in row["survivors"]] == ["proved", list(CODES)[1]]
    nothing = old | {"survivors": [proved]}
    assert mutants.measure_survivors(nothing, tree=finished) == nothing


def test_a_failing_run_is_an_error_with_its_own_words(tree, monkeypatch):
    done = subprocess.CompletedProcess([], 1, stdout="\r⠹ Running stats\nFailed to run clean test", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *given, **options: done)
    with pytest.raises(
        RuntimeError, match=r"mutmut on qkov/statistics/splits\.py ended with status 1:\nFailed to run clean"
    ):
        mutants.run_mutmut(SOURCE, 1, tree)


def test_tests_of_mutants_do_not_see_the_checkout(tree, monkeypatch):
    seen = {}
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **options: seen.update(options, command=command) or subprocess.CompletedProcess([], 0),
    )
    mutants.run_mutmut(SOURCE, 1, tree)
    assert "PYTHONPATH" not in seen["env"]
    assert seen["env"]["QKOV_MUTATED_MODULE"] == "qkov.statistics.splits"
    assert seen["cwd"] == tree
    assert seen["command"][-1] == "1"  # all mutants, the control among them
    mutants.run_mutmut(SOURCE, 1, tree, ["a"])
    assert seen["command"][-2:] == ["a", CONTROL]  # some, and the control
