"""A goal is held, missed, contradicted or not run, and nothing is green by omission."""

import re
from pathlib import Path

import numpy as np
import pytest

from validation.bench import goals, sources

ROOT = Path(__file__).resolve().parent.parent
SCORING = next(goal for goal in goals.GOALS if goal.name == "scoring")
OPACUS = next(goal for goal in goals.GOALS if goal.name == "opacus")


@pytest.mark.parametrize(
    ("goal", "value", "status"),
    [
        (SCORING, 0.65, "held"),
        (SCORING, 0.649, "missed"),
        (OPACUS, 0.80, "held"),
        (OPACUS, 0.81, "missed"),
        (OPACUS, float("nan"), "wrong"),
        (SCORING, float("inf"), "wrong"),
        (SCORING, None, "wrong"),
    ],
)
def test_bound_decides(goal, value, status):
    assert goals.judged(goal, value) == status


def test_every_goal_of_a_group_has_a_row_whatever_was_found():
    found = goals.Measured({"scoring": 0.7}, {"scoring": "one layer"}, not_run={"scoring-short": "no time"},
                           wrong={"growth-n": "differ"})  # fmt: skip
    rows = {row["name"]: row for row in goals.rows_of("scoring", found)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "scoring": "held", "scoring-short": "not run", "growth-n": "wrong", "growth-t": "not run",
    }  # fmt: skip
    assert rows["scoring"]["conditions"] == "one layer"
    assert rows["scoring-short"]["reason"] == "no time"
    assert rows["growth-t"]["reason"] == "the measurement gave no such number"


def test_a_value_that_is_no_number_is_kept_as_none_and_wrong():
    (row, *_) = goals.rows_of("collection", goals.Measured({"collection": float("nan")}, {}))
    assert (row["value"], row["status"]) == (None, "wrong")


def test_agreement_is_relative_to_the_largest_entry():
    expected, shift = np.array([1.0, -200.0]), np.array([0.0, 1e-3])
    assert goals.require_agreement(expected + shift, expected, 1e-5, "x") == pytest.approx(5e-6)
    with pytest.raises(goals.DisagreementError, match="x: numbers differ by 5e-06"):
        goals.require_agreement(expected + shift, expected, 4e-6, "x")


@pytest.mark.parametrize("found", [[1.0, float("nan")], [1.0], [], [0.0, 0.0]])
def test_nothing_compared_and_nan_are_no_agreement(found):
    expected = found if found in ([], [0.0, 0.0]) else [1.0, 2.0]
    with pytest.raises(goals.DisagreementError):
        goals.require_agreement(found, expected, 1e9, "x")


def test_every_group_is_a_module_with_sources_that_exist():
    assert set(sources.SOURCES) == set(goals.GROUPS)
    for group in goals.GROUPS:
        assert (ROOT / "validation" / "bench" / f"{group}.py").exists()
        named = sources.patterns(group)
        assert len(set(named)) == len(named)
        assert any((ROOT / path).exists() for path in sources.SOURCES[group]) or group == "budget", group


def test_names_of_goals_are_distinct_and_plain():
    names = [goal.name for goal in goals.GOALS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z-]+", name) for name in names)
    assert all((goal.hold is None) == (goal.direction == goals.SHOWN) for goal in goals.GOALS)
