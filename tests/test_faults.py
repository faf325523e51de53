"""Every wrong implementation is caught by the check that names it, and every check catches one."""

import dataclasses
import json

import numpy as np
import pytest

from qkov import checks, geometry
from validation import faults, suite
from validation.faults import cases


@pytest.mark.parametrize("name", faults.FAULTS)
def test_fault_is_caught_by_its_check(name):
    fault = faults.FAULTS[name]
    result = faults.run_fault(fault, [fault.expected])
    assert result.status == "caught", f"error / bound is {result.ratio}"
    assert result.caught_by == [fault.expected]


@pytest.mark.parametrize("case", cases.BUILDERS)
def test_right_code_passes_every_check_on_the_faults_cases(case):
    outcomes = faults.run_unfaulted(case)
    assert list(outcomes) == list(checks.CHECKS)
    not_run = {name for name, outcome in outcomes.items() if outcome.status == "not run"}
    assert not [str(outcome) for outcome in outcomes.values() if outcome.status == "failed"]
    assert not_run <= {"gqa_twin"}


def test_every_check_is_expected_by_a_fault():
    assert {fault.expected for fault in faults.FAULTS.values()} == set(checks.CHECKS)


def test_there_are_at_least_forty_faults_all_different():
    assert len(faults.FAULTS) >= 40
    descriptions = {fault.description for fault in faults.FAULTS.values()}
    assert len(descriptions) == len(faults.FAULTS)
    assert {fault.case for fault in faults.FAULTS.values()} == set(cases.BUILDERS)


def test_planting_gives_back_the_very_attribute():
    for fault in faults.FAULTS.values():
        before = _stored(fault.target)
        with fault.plant():
            assert _stored(fault.target) is not before, fault.name
        assert _stored(fault.target) is before, fault.name


def test_planting_gives_back_the_attribute_after_an_error():
    before = geometry.kv_head_of
    with faults.FAULTS["kv_head_by_remainder"].plant():
        assert geometry.kv_head_of(1, 4, 2) == 1
    with pytest.raises(ZeroDivisionError), faults.FAULTS["kv_head_by_remainder"].plant():
        geometry.kv_head_of(1, 4, 0)
    assert geometry.kv_head_of is before


def test_a_fault_that_breaks_the_result_is_refused():
    broken = dataclasses.replace(
        faults.FAULTS["always_valid"],
        target="heatmap.Heatmap._checked_scores",
        wrong=lambda original: lambda self, block: original(self, block) * np.nan,
    )
    with pytest.raises(ValueError, match="expected finite scores of shape"):
        faults.run_fault(broken, ["empty_task"])


def test_a_fault_that_changes_nothing_is_missed():
    harmless = dataclasses.replace(faults.FAULTS["always_valid"], wrong=lambda original: original)
    result = faults.run_fault(harmless, ["empty_task"])
    assert (result.status, result.ratio, result.caught_by) == ("missed", 0.0, [])


def test_a_check_that_cannot_measure_does_not_count_as_catching():
    def without_a_task(_original):
        return lambda *_arguments, **_options: 1 / 0

    crashing = dataclasses.replace(faults.FAULTS["saved_without_ids"], target="result_file.write", wrong=without_a_task)
    result = faults.run_fault(crashing, ["file"])
    assert (result.status, result.ratio, result.caught_by) == ("missed", None, ["file"])


def test_rows_come_in_order_and_are_json():
    names = ["saved_with_the_time", "squared_twice"]
    rows = faults.run_faults(names, processes=1, progress=False)
    assert [row["fault"] for row in rows] == names
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert rows[0]["ratio"] == suite.INFINITE
    assert rows[0]["caught_by"] == ["file"]
    every = {*checks.CHECKS, *faults.statistics_checks.CHECKS}
    assert set(faults.unexercised(rows)) == every - {"file", "contributions"}


def _stored(target):
    module, *path, name = target.split(".")
    owner = __import__(f"qkov.{module}", fromlist=["_"])
    for part in path:
        owner = getattr(owner, part)
    return vars(owner)[name]
