"""Tables of the store: both runs beside each other, nothing that did not run looks kept, missed faults stand out."""

from reports import store_tables
from validation.store import evidence
from validation.store.outcomes import Outcome

from .test_reports_tables import rows


def harness(name, points, **more):
    return evidence.harness_row(Outcome(name, points=points, seconds=12.4, **more))


def fault(name, expected, caught_by, not_run=()):
    status = "not run" if expected in not_run else "caught" if expected in caught_by else "missed"
    return evidence.fault_row(
        {"fault": name, "description": f"Is {name}.", "expected": expected, "caught_by": list(caught_by),
         "not_run": list(not_run), "said": "", "seconds": 1.0, "status": status}
    )  # fmt: skip


FOUND = {
    "store": [harness("kills", 50), fault("early", "kills", ["kills"]), fault("blind", "kills", [])],
    "store_long": {
        "rows": [
            harness("kills", 1000),
            harness("strace", 0, not_run="ptrace is forbidden"),
            fault("early", "kills", ["kills"], ["strace"]),
            fault("traced", "strace", [], ["strace"]),
        ],
        "seconds": 600.0,
        "complaints": [],
    },
}


def test_harnesses_are_shown_in_both_runs():
    found = rows(store_tables.store_tables(FOUND)["store_harnesses"])
    kills = ["SIGKILL at a change of a file", "collection, recovery, repair"]
    assert found[0] == [*kills, "long run", "1,000", "0", "0", "0", "0", "12", "nothing lost"]
    assert found[1] == [*kills, "this build", "50", "0", "0", "0", "0", "12", "nothing lost"]
    assert found[2][1:] == ["not run: ptrace is forbidden", "long run", "0", *["–"] * 4, "12", "not run"]


def test_a_finding_stands_out():
    lost = {"store": [harness("power", 10, lost=2)]}
    assert rows(store_tables.harnesses_table(lost))[0][-1] == "LOST OR WRONG"
    assert store_tables.harnesses_table({}) == store_tables.faults_table({}) == "Nothing of this was measured.\n"


def test_faults_show_who_noticed():
    found = rows(store_tables.store_tables(FOUND)["store_faults"])
    assert found == [
        ["Is early.", "kills", "noticed", "–", "noticed"],
        ["Is traced.", "strace", "no", "–", "–"],
        ["Is blind.", "kills", "–", "–", "MISSED"],
    ]


def test_numbers_for_the_prose_are_those_of_the_long_run():
    assert store_tables.store_numbers(FOUND) == {
        "num_store_points": "1,000", "num_store_found": 0, "num_store_faults": 2, "num_store_faults_noticed": 1,
        "num_store_not_run": "strace",
    }  # fmt: skip
    assert store_tables.store_numbers({})["num_store_not_run"] == "none"


def test_an_old_long_run_is_marked():
    stale = {"store_long": FOUND["store_long"] | {"complaints": ["made by other sources"]}}
    assert "made by other sources" in store_tables.store_tables(stale)["store_state"]
