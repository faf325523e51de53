"""A budget is kept by the process as a whole, and a planted wrong implementation exceeds it."""

import dataclasses
import json
from pathlib import Path

import pytest

from validation import memory_peaks
from validation.memory_peaks import PeakCase

LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux")
TIGHT = PeakCase("tight", "store", "llama", 4, 128, 120)


def test_every_case_has_what_it_names():
    found = list(memory_peaks.cases())
    assert len({case.name for case in found}) == len(found) > 20
    assert {case.run for case in found} == set(memory_peaks.RUNS)
    assert {case.model for case in found} <= set(memory_peaks.MODELS)
    assert sum(case.refused for case in found) >= 3
    assert all(PeakCase(**json.loads(json.dumps(dataclasses.asdict(case)))) == case for case in found)


@pytest.mark.parametrize(
    ("refused", "outcome", "peak", "status"),
    [
        (False, "done", 110, "passed"),
        (False, "done", 111, "failed"),
        (False, "refused: no", 50, "failed"),
        (True, "refused: no", 50, "passed"),
        (True, "refused: no", 111, "failed"),
        (True, "done", 50, "failed"),
        (False, "done", float("nan"), "failed"),
    ],
)
def test_a_case_fails_above_its_bound_and_where_it_ends_otherwise(refused, outcome, peak, status):
    case = dataclasses.replace(TIGHT, refused=refused)
    found = {"held": 10, "budget": 100, "peak": peak, "outcome": outcome, "seconds": 1.0}
    assert memory_peaks.row(case, found)["status"] == status


@LINUX
def test_a_tight_budget_is_kept():
    found = memory_peaks.row(TIGHT, memory_peaks.measure(TIGHT))
    assert found["status"] == "passed", found
    assert found["peak"] > found["held"] + 50 * memory_peaks.MB, "a pass was made"


@LINUX
def test_a_budget_that_is_ignored_is_exceeded():
    found = memory_peaks.row(TIGHT, memory_peaks.measure(dataclasses.replace(TIGHT, ignore=True)))
    assert (found["outcome"], found["status"]) == ("done", "failed")
    assert found["value"] > memory_peaks.BOUND
