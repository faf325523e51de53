"""Tables and pictures of speed and memory: every goal, missed ones said as such, nothing of other sources shown as new."""

import copy
import re

import pytest

from reports import bench_pictures, bench_tables, evidence, measured_tables
from tests.test_reports_tables import rows
from validation.bench import goals
from validation.committed import ROOT


def goal_row(goal, **more):
    row = {name: getattr(goal, name) for name in ("name", "group", "says", "direction", "hold", "stretch", "prototype")}
    return row | {"value": 0.7, "status": "held", "reason": "", "conditions": "one layer", "changed": []} | more


def cell(n, length, rate):
    return {"operations": 1e9 * n * length, "rate": rate, "rates": [rate, rate - 0.1, rate + 0.1],
            "seconds": [3.0, 1.0, 2.0]}  # fmt: skip


MACHINE = {"processor": "EPYC | 7", "cpu_capability": "AVX2", "threads": 1, "cuda": "none", "python": "3.11", "date": "none",
           "versions": {"torch": "2.13", "opacus": "not installed"}}  # fmt: skip
CELLS = {
    f"n={n} T={length}": cell(n, length, 0.8) for n, length in ((25, 128), (50, 128), (200, 128), (50, 32), (50, 512))
}
DETAILS = {
    "scoring": {"cells": CELLS | {"collected": cell(50, 128, 0.75)}, "square product, operations per second": 1e11,
                "by n": [[25, "n=25 T=128"], [50, "n=50 T=128"], [200, "n=200 T=128"]],
                "by T": [[32, "n=50 T=32"], [128, "n=50 T=128"], [512, "n=50 T=512"]],
                "exponents of the operations": {"n": 1.23, "t": 0.7}},
    "collection": {"cells": {"collection": cell(1, 1, 0.72)}},
    "permutations": {"rates": [0.8, 0.9]},
    "end_to_end": {"seconds": {"ours": [1.0, 2.0], "autograd": [1.1, 2.1], "vmap": [1.5, 3.0]}},
    "libraries": {"seconds": {"ours": [1.0, 1.0], "opacus": [1.4, 1.5]}},
    "pair_loop": {"seconds": {"ours": [1.0], "loop": [0.1], "with diagnostics": [0.5]}, "pairs": 1000,
                  "pairs timed": [10, 5]},
}  # fmt: skip
FOUND = {"bench": {
    "rows": [goal_row(goal) for goal in goals.GOALS],
    "groups": {name: {"machine": MACHINE, "seconds": 60.0, "details": one} for name, one in DETAILS.items()},
    "complaints": [],
}}  # fmt: skip


def changed(**by_name):
    found = copy.deepcopy(FOUND)
    for row in found["bench"]["rows"]:
        row |= by_name.get(row["name"].replace("-", "_"), {})
    return found


def test_every_goal_has_a_line_with_its_bound():
    lines = rows(bench_tables.goals_table(FOUND))
    assert len(lines) == len(goals.GOALS)
    assert lines[0][1:] == ["≥ 0.65", "0.8", "0.72-0.89", "0.70", "held"]
    by_name = dict(zip((goal.name for goal in goals.GOALS), lines, strict=True))
    assert by_name["vmap"][1] == "–"
    assert by_name["vmap"][-1] == "shown"
    assert by_name["oracle"][1] == "≤ 1.0e-05"


def test_a_missed_goal_is_said_in_the_table_and_above_it():
    found = changed(scoring={"status": "missed", "value": 0.36, "reason": "the kernel is old"})
    assert rows(bench_tables.goals_table(found))[0][-2:] == ["0.36", "MISSED"]
    assert "MISSED. the kernel is old" in bench_tables.state(found)
    assert bench_tables.bench_numbers(found)["bench_missed"] == 1
    without = changed(scoring={"status": "missed", "value": 0.36})
    assert "No reason is given" in bench_tables.state(without)


def test_numbers_of_other_sources_are_no_verdict():
    found = changed(scoring={"changed": ["qkov/scoring.py"]}, peak={"changed": ["qkov/scoring.py"], "status": "missed"})
    lines = rows(bench_tables.goals_table(found))
    assert lines[0][-1] == "of other sources"
    assert "qkov/scoring.py" in bench_tables.state(found)
    assert "MISSED" not in bench_tables.state(found)
    numbers = bench_tables.bench_numbers(found)
    with_goal = sum(goal.hold is not None for goal in goals.GOALS)
    assert (numbers["bench_goals"], numbers["bench_held"], numbers["bench_missed"], numbers["bench_not_run"]) == (
        with_goal, with_goal - 2, 0, 2,
    )  # fmt: skip


def test_what_was_not_run_is_said_with_the_reason():
    found = changed(gpu={"status": "not run", "value": None, "reason": "torch finds no CUDA device"})
    assert "not run, as torch finds no CUDA device" in bench_tables.state(found)
    assert rows(bench_tables.goals_table(found))[-1][-2:] == ["–", "not run"]
    assert "is held" in bench_tables.state(FOUND)
    disagree = changed(opacus={"status": "wrong", "value": None, "reason": "numbers differ"})
    assert "ROUTES DISAGREE" in bench_tables.goals_table(disagree)


def test_machines_stand_once_with_what_was_measured_on_them():
    found = copy.deepcopy(FOUND)
    found["bench"]["groups"]["gpu"] = {"machine": MACHINE | {"cuda": "H200"}, "seconds": 120.0, "details": {}}
    first, second = rows(bench_tables.machine_table(found))
    assert first[0].startswith("EPYC")
    assert "opacus" not in first[4]
    assert (second[3], second[-2:]) == ("H200", ["gpu", "2"])


def test_scoring_shows_every_size():
    line = rows(bench_tables.scoring_table(FOUND))[1]
    assert line == ["n=50 T=128", "6,400", "2.00", "0.80", "0.80 0.70 0.90"]


@pytest.mark.parametrize("found", [FOUND, {}])
def test_pictures_are_drawn_and_repeat(found, tmp_path):
    names = bench_pictures.write_pictures(tmp_path / "one", found)
    assert bench_pictures.write_pictures(tmp_path / "two", found) == names
    for name in names:
        text = (tmp_path / "one" / name).read_text()
        assert text == (tmp_path / "two" / name).read_text()
        assert text.count("<path") > (20 if found else 0), name


def test_goal_of_a_size_is_drawn_beside_it(tmp_path):
    names = {label: bench_pictures.goal_name(FOUND, label) for label in (
        "scoring, n=50 T=128", "scoring, n=50 T=32", "scoring, n=25 T=128", "scoring, n=100 T=32", "scoring, collected",
        "collection", "permutations", "GPU, GPT-2 small")}  # fmt: skip
    assert list(names.values()) == ["scoring", "scoring-short", "", "", "scoring", "collection", "permutations", "gpu"]
    bench_pictures.write_pictures(tmp_path, FOUND)
    assert bench_pictures.GOAL in (tmp_path / "bench_limit.svg").read_text()


def test_counted_are_goals_that_the_present_sources_hold():
    count = evidence.count_bench
    assert count(FOUND["bench"]) == {"bench": (len(goals.GOALS), 0, 0)}
    assert count({}) == {}
    found = changed(scoring={"changed": ["qkov/scoring.py"]}, gpu={"status": "not run"}, peak={"status": "missed"})
    found["bench"]["complaints"].append("peak has no reason")
    assert count(found["bench"]) == {"bench": (len(goals.GOALS) - 3, 1, 0)}


def test_without_a_record_the_tables_say_so():
    assert "No record of speed" in bench_tables.state({})
    assert bench_tables.goals_table({}) == bench_tables.machine_table({}) == "Nothing of this was measured.\n"
    assert bench_tables.bench_numbers({})["bench_square"] == "(not measured)"


def test_the_page_takes_in_every_table_and_picture_and_no_other_number(tmp_path):
    page = (ROOT / "book" / "performance.md").read_text(encoding="utf-8")
    tables = bench_tables.bench_tables(FOUND) | measured_tables.measured_tables({})
    assert set(re.findall(r"generated/(\w+)\.md", page)) == set(tables)
    assert set(re.findall(r"generated/(\w+\.svg)", page)) == set(bench_pictures.write_pictures(tmp_path, FOUND))
    assert set(re.findall(r"{{ (\w+) }}", page)) == set(bench_tables.bench_numbers(FOUND))
