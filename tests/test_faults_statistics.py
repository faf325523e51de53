"""Wrong statistics are caught by their checks in `validate`; which checks are needed; faults that are proved to be none."""

import dataclasses
import json

import pytest

from qkov import checks
from qkov.statistics import multiplicity
from validation import faults
from validation.faults import redundancy, run, statistics_checks
from validation.faults.planting import fault as register


@pytest.mark.parametrize("name", statistics_checks.CHECKS)
def test_right_statistics_pass_every_check(name):
    found = statistics_checks.run_check(name)
    assert found.status == "passed", found.reason
    assert found.compared > 0
    assert found.error < statistics_checks.BOUND / 1e3


@pytest.mark.parametrize("name", faults.STATISTICS_FAULTS)
def test_wrong_statistic_is_caught_by_its_check(name):
    fault = faults.STATISTICS_FAULTS[name]
    with fault.plant():
        found = run.result_of(fault, {fault.expected: statistics_checks.run_check(fault.expected)}, 0.0)
    assert found.status == "caught", found.ratio


def test_every_check_of_the_statistics_is_expected_by_a_fault():
    found = faults.STATISTICS_FAULTS.values()
    assert {one.expected for one in found} == set(statistics_checks.CHECKS)
    assert len({one.description for one in found}) == len(found)
    assert {one.area for one in found} == {"statistics"}
    assert not set(faults.STATISTICS_FAULTS) & set(faults.FAULTS)


def test_planting_a_wrong_statistic_gives_back_the_very_function():
    before = multiplicity.reaches
    for fault in faults.STATISTICS_FAULTS.values():
        with fault.plant():
            pass
    assert multiplicity.reaches is before


def test_rows_of_the_statistics_are_those_of_the_evidence():
    results, rows = faults.run_statistics(["ties_do_not_count"], processes=1, progress=False)
    assert {row["check"] for row in results} == set(statistics_checks.CHECKS)
    assert {row["status"] for row in results} == {"passed"}
    assert json.loads(json.dumps([results, rows], allow_nan=False)) == [results, rows]
    assert rows[0]["fault"] == "ties_do_not_count"
    assert "statistics: ties" in rows[0]["caught_by"]
    assert rows[0]["ratio"] >= faults.MARGIN


def test_a_check_that_breaks_fails_with_its_message(monkeypatch):
    monkeypatch.setitem(statistics_checks.CHECKS, "statistics: broken", lambda compared: 1 / 0)
    found = statistics_checks.run_check("statistics: broken")
    assert (found.status, found.error) == ("failed", None)
    assert "ZeroDivisionError" in found.reason
    monkeypatch.setitem(statistics_checks.CHECKS, "statistics: empty", lambda compared: None)
    assert statistics_checks.run_check("statistics: empty").reason == "nothing was compared"


def planted(caught_by, expected="gauge", status="caught"):
    return {"fault": "f", "expected": expected, "caught_by": caught_by, "status": status}


def complaints(monkeypatch, reasons, rows, names=()):
    monkeypatch.setattr(redundancy, "REASONS", reasons)
    return redundancy.complaints(redundancy.count(rows, names), rows)


def test_checks_are_counted_by_what_they_catch_and_what_only_they_catch(monkeypatch):
    rows = [planted(["gauge"]), planted(["gauge", "bounds"]), planted([], status="equivalent")]
    monkeypatch.setattr(redundancy, "REASONS", {"bounds": "because"})
    assert redundancy.count(rows, ["bounds"]) == [
        {"check": "bounds", "caught": 1, "alone": 0, "reason": "because"},
        {"check": "gauge", "caught": 2, "alone": 1, "reason": ""},
    ]


def test_reasons_stay_true(monkeypatch):
    rows = [planted(["gauge"]), planted(["gauge", "bounds"])]
    assert complaints(monkeypatch, {"bounds": "because"}, rows) == []
    assert "'bounds' is never the only one" in complaints(monkeypatch, {}, rows)[0]
    assert "'gauge' is the only one to catch 1" in complaints(monkeypatch, {"bounds": "b", "gauge": "g"}, rows)[0]
    assert "'gone', which is no check" in complaints(monkeypatch, {"bounds": "b", "gone": "g"}, rows)[0]


def test_few_faults_may_be_equivalent(monkeypatch):
    rows = [planted(["gauge"])] * 19
    assert complaints(monkeypatch, {}, [*rows, planted([], status="equivalent")]) == []
    assert "at most 5 %" in complaints(monkeypatch, {}, [*rows, *[planted([], status="equivalent")] * 2])[0]


def test_every_reason_is_for_a_check_and_says_something():
    assert set(redundancy.REASONS) <= {*checks.CHECKS, *statistics_checks.CHECKS}
    assert all(len(reason.split()) > 5 and reason.endswith(".") for reason in redundancy.REASONS.values())


def test_equivalence_holds_until_a_check_notices():
    fault = dataclasses.replace(faults.STATISTICS_FAULTS["ties_do_not_count"], proof="because")
    name = fault.expected
    quiet = run.result_of(fault, {name: statistics_checks.run_check(name)}, 0.0)
    assert (quiet.status, quiet.proof) == ("equivalent", "because")
    with fault.plant():
        noticed = run.result_of(fault, {name: statistics_checks.run_check(name)}, 0.0)
    assert noticed.status == "missed"
    assert noticed.ratio >= faults.MARGIN


def test_two_faults_cannot_share_a_name():
    def ties_do_not_count(_original):
        """Twice."""

    with pytest.raises(ValueError, match="two faults are named 'ties_do_not_count'"):
        register("statistics.multiplicity.reaches", area="statistics", expected="x")(ties_do_not_count)
