"""`python -m validation.mutants`: change the sources one small place at a time, and see whether their tests notice.

A mutant is a copy of a function with one change: a `<` become `<=`, a `+` become `-`, a constant one larger, an argument
left out, a branch forced. A mutant is killed if a test of its module fails; one that survives is either no change at all (an
equivalent mutant), or a behaviour that no test holds. mutmut makes them and runs the tests, in a copy of the repository under
`_build`. Functions with decorators (properties) and what stands outside of functions are left as they are: that is how mutmut
works. What was found is written to `validation/evidence/mutants.json`, see :mod:`validation.mutant_record`.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

from . import mutant_diffs, mutant_reasons, mutant_record
from .committed import ROOT

TREE = ROOT / "_build" / "mutants"
COPIED = ("qkov", "validation", "tests")

# Tests beside the file of the module's name, for a source or a folder of them. None may need more than the copied folders.
MORE_TESTS = {
    "qkov/statistics": ("tests/test_statistics_golden.py",),
    "qkov/statistics/head_result.py": ("tests/test_statistics_source.py",),
    "qkov/interference.py": (
        "tests/test_curvature.py::test_pair_is_the_entry_of_the_heatmap_and_attributes_say_what_it_is",
        "tests/test_curvature.py::test_fisher_task_takes_the_place_of_its_own",
        "tests/test_sampled_labels.py::test_unknown_fisher_task_is_refused",
        "tests/test_score_attributes.py",
        "tests/test_score_warnings.py",
    ),
    "qkov/score_attributes.py": (
        "tests/test_curvature.py::test_pair_is_the_entry_of_the_heatmap_and_attributes_say_what_it_is",
        "tests/test_latent_attention.py::test_a_result_says_what_its_keys_are",
    ),
    "qkov/score_warnings.py": (
        "tests/test_sampled_labels.py::test_few_samples_of_the_task_that_makes_the_fisher_warn",
    ),
}
# Too slow for the many mutants that survive everything before them; what they hold is in other modules for the most part.
DESELECTED = (
    "tests/test_interference.py::test_size_of_tiles_does_not_matter",
    "tests/test_interference.py::test_every_combination_of_options_agrees_with_the_reference",
)

KILLED = ("killed", "timeout", "segfault")

# A function added to the copy of a source that every test calls and no test looks at: its mutant changes nothing and must
# survive. If it is killed, tests fail for another reason where mutants are judged, and no other kill means anything.
CONTROL = "_control_of_mutants"


def tests_of(source):
    """Test files that judge the mutants of a source."""
    path = Path(source)
    name = "_".join(path.with_suffix("").parts[1:])
    return (f"tests/test_{name}.py", *MORE_TESTS.get(source, ()), *MORE_TESTS.get(path.parent.as_posix(), ()))


def configuration(source):
    """The [tool.mutmut] table for the mutants of one source."""
    chosen = [argument for test in DESELECTED for argument in ("--deselect", test)]
    return {
        "source_paths": ["qkov"],
        "only_mutate": [source],
        "also_copy": [*(folder for folder in COPIED if folder != "qkov"), "conftest.py"],
        # Not --doctest-modules: every mutant carries the docstring of its function, and the example in it.
        "pytest_add_cli_args": [
            *("-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"),
            *("--hypothesis-profile", "mutants", *chosen),
        ],
        "pytest_add_cli_args_test_selection": list(tests_of(source)),
        # Tests keep results in caches; a process that has run them before it is forked hides mutants behind those.
        "process_isolation": "forkserver",
        "use_git_change_detection": False,
        "timeout_multiplier": 5.0,
    }


def copy_tree(tree=TREE):
    """Copy what mutants need, without evidence and caches, into an empty folder."""
    shutil.rmtree(tree, ignore_errors=True)
    for folder in COPIED:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "evidence", "*.pyc"))
    shutil.copyfile(ROOT / "validation" / "mutant_conftest.py", tree / "conftest.py")


def configure(tree, source):
    """Write the project's settings and those of mutmut for one source; JSON is TOML here but for its tables."""
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in configuration(source).items())
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tree / "pyproject.toml").write_text(f"{project}\n[tool.mutmut]\n{table}\n", encoding="utf-8")


def measure(source, *, jobs=1, tree=TREE):
    """Make and judge the mutants of one source.

    Returns:
        A row of :mod:`validation.mutant_record`: counts, and the survivors with what was changed.
    """
    started = time.perf_counter()
    run_mutmut(source, jobs, tree)
    row = {"file": source, "tests": list(tests_of(source)), **read_results(source, tree)}
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def measure_survivors(row, *, jobs=1, tree=TREE):
    """Judge those mutants of a row again that survived without proof: all that there is to do where tests were only added.

    Returns:
        The row with the counts and survivors that are left.
    """
    source = row["file"]
    proved = [one for one in row["survivors"] if mutant_reasons.reason(source, one)["kind"] in mutant_reasons.PROVED]
    names = [one["mutant"] for one in row["survivors"] if one not in proved]
    if not names:
        return row
    run_mutmut(source, jobs, tree, names)
    left = read_results(source, tree, names)
    return row | {
        "tests": list(tests_of(source)),
        "killed": row["killed"] + left["killed"],
        "survived": len(proved) + left["survived"],
        "wording_survived": sum(one["wording"] for one in proved) + left["wording_survived"],
        "survivors": [*proved, *left["survivors"]],
    }


def run_mutmut(source, jobs, tree, names=()):
    """Run mutmut in the copied folder on the mutants of one source, all or some.

    Raises:
        RuntimeError: If it ends with an error, for one because a test fails without any mutant.
    """
    shutil.rmtree(tree / "mutants", ignore_errors=True)
    configure(tree, source)
    plant_control(tree, source)
    names = [*names, f"{module_of(source)}.x_{CONTROL}__mutmut_1"] if names else []
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(jobs), *names]
    # A path to the checkout would let tests import the sources as they are.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"QKOV_MUTATED_MODULE": module_of(source), "QKOV_OWN_TESTS": tests_of(source)[0]}
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = re.sub(
            r".*(Generating mutants|Running stats).*\n?", "", f"{done.stdout}{done.stderr}".replace("\r", "\n")
        )
        raise RuntimeError(f"mutmut on {source} ended with status {done.returncode}:\n{said.strip()[-3000:]}")


def plant_control(tree, source):
    """Add the control to the copy of a source, and take it from the others."""
    for other in mutant_record.sources():
        shutil.copyfile(ROOT / other, tree / other)
    with (tree / source).open("a", encoding="utf-8") as file:
        file.write(f"\n\ndef {CONTROL}():\n    return 1\n")


def module_of(source):
    """The dotted name of a source."""
    return ".".join(Path(source).with_suffix("").parts)


def read_results(source, tree, names=None):
    """Count what mutmut left, and read the changed lines of mutants that were not killed; of all, or of those named.

    Raises:
        RuntimeError: If the control was killed.
    """
    from mutmut.stats import status_by_exit_code

    meta = json.loads((tree / "mutants" / f"{source}.meta").read_text(encoding="utf-8"))
    every = meta["exit_code_by_key"]
    control = [code for name, code in every.items() if CONTROL in name]
    if [status_by_exit_code[code] for code in control] != ["survived"]:
        raise RuntimeError(
            f"{source}: a mutant that changes nothing did not survive ({control}); no kill means anything."
        )
    codes = {name: code for name, code in every.items() if CONTROL not in name and (names is None or name in names)}
    with chdir(tree):
        changes = mutant_diffs.changes(source, codes)
    statuses = {name: status_by_exit_code[code] for name, code in codes.items()}
    left = [name for name, status in statuses.items() if status not in KILLED]
    return {
        "mutants": len(codes),
        "killed": len(codes) - len(left),
        "timeouts": sum(status == "timeout" for status in statuses.values()),
        "survived": len(left),
        "wording": sum(change.wording for change in changes.values()),
        "wording_survived": sum(changes[name].wording for name in left),
        "survivors": [{"mutant": name, **changes[name].as_row(), "status": statuses[name]} for name in left],
    }


def main(arguments=None):
    """Measure every source, or those given; write the record; 0 if it has nothing to complain about."""
    parser = argparse.ArgumentParser(prog="python -m validation.mutants", description=__doc__.split("\n\n")[0])
    parser.add_argument("sources", nargs="*", help="paths like qkov/fisher.py; rows of the others are kept")
    parser.add_argument("--survivors", action="store_true",
                        help="only judge again what survived; enough where tests were only added")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="processes that run tests")
    options = parser.parse_args(arguments)
    copy_tree()
    rows = {row["file"]: row for row in mutant_record.read()["files"]}
    for source in options.sources or mutant_record.sources():
        if options.survivors and source in mutant_record.current_sources():
            row = measure_survivors(rows[source], jobs=options.jobs)
        else:
            row = measure(source, jobs=options.jobs)
        mutant_record.update(row)
        print(mutant_record.sentence(row), flush=True)
    complaints = mutant_record.read()["complaints"]
    print(*complaints, sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
