"""Tables of the calibration: both runs side by side, nothing left out, nothing stale shown as if it were new."""

import copy

from reports import statistics_tables

from .test_reports_evidence import GOOD
from .test_reports_tables import rows


def test_both_runs_stand_side_by_side():
    text = statistics_tables.statistics_tables(GOOD)["statistics_rates"]
    assert rows(text) == [
        ["type I", "test\\_source", "light", "at most 0.074", "0.050 (0.046 to 0.054; 1,000)", "0.062 (0.040 to 0.080; 80)",
         "kept"]
    ]  # fmt: skip


def test_a_bound_that_one_run_did_not_keep_is_told():
    found = copy.deepcopy(GOOD)
    found["statistics"][0]["status"] = "failed"
    assert rows(statistics_tables.statistics_tables(found)["statistics_rates"])[0][-1] == "NOT KEPT"
    found["statistics_long"]["rows"][1]["status"] = "failed"
    assert rows(statistics_tables.statistics_tables(found)["statistics_invalid"])[0][-1] == "NOT SEEN FAILING"


def test_invalid_procedures_stand_beside_ours():
    (row,) = rows(statistics_tables.statistics_tables(GOOD)["statistics_invalid"])
    assert rows(statistics_tables.statistics_tables(GOOD)["statistics_why"]) == [
        ["z-test of the mean over pairs", "the score is never negative"]
    ]
    assert row[2:] == ["1.000 (0.980 to 1.000; 200)", "–", "0.050", "seen failing"]


def test_a_study_that_no_table_expects_is_shown_all_the_same():
    found = copy.deepcopy(GOOD)
    found["statistics"].append(GOOD["statistics"][0] | {"study": "tides", "bound": None, "direction": "shown"})
    (row,) = rows(statistics_tables.statistics_tables(found)["statistics_others"])
    assert (row[0], row[3]) == ("tides", "shown")
    assert "Nothing of this was measured" in statistics_tables.statistics_tables(GOOD)["statistics_others"]


def test_stale_evidence_is_announced():
    assert "took 20 minutes" in statistics_tables.state_of(GOOD, "statistics_long")
    found = copy.deepcopy(GOOD)
    found["statistics_long"]["complaints"].append("made by other sources")
    assert statistics_tables.state_of(found, "statistics_long").startswith(":::{warning}")
    assert "made by other sources" in statistics_tables.state_of(found, "statistics_long")
    assert "no long run was read" in statistics_tables.state_of({}, "statistics_long")


def test_numbers_of_the_prose_come_from_the_long_run_first():
    numbers = statistics_tables.statistics_numbers(GOOD)
    assert numbers["stat_source_type_I"] == "0.050"
    assert numbers["stat_power_light"] == "(not measured)"
    assert (numbers["num_statistics"], numbers["num_statistics_long_kept"]) == (1, 2)
    assert statistics_tables.spread([0.2, 0.1]) == "0.100 to 0.200"
