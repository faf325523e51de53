"""Tables show what the evidence holds, escaped, and nothing else."""

import copy
import math

from hypothesis import given
from hypothesis import strategies as st

from reports import fault_tables, tables
from reports.controls import Control
from reports.notebooks import Comparison

from .test_reports_evidence import GOOD, MANIFEST, changed


def cells(line):
    """Split a row of a Markdown table at its unescaped bars."""
    return [part.strip() for part in line.replace("\\|", "\0").strip().strip("|").split("|")]


def rows(text):
    """Body rows of a Markdown table."""
    return [cells(line) for line in text.splitlines()[2:]]


def test_laws_table_shows_the_worst_model_of_each_check():
    found = changed("results")
    found["results"].append({**found["results"][0], "model": "opt", "error": 5e-7})
    by_check = {row[0]: row for row in rows(tables.laws_table(found))}
    assert by_check["marginal\\_identity"] == [
        "marginal\\_identity", "2", "0", "0", "5.0e-07", "1.0e-06", "opt", "2,468",
    ]  # fmt: skip
    assert by_check["gauge"][1:6] == ["0", "0", "1", "–", "–"]


def test_result_without_a_number_ranks_worst():
    found = changed("results", status="failed", error=math.nan)
    found["results"].append({**GOOD["results"][0], "model": "opt", "error": 5e-7})
    assert rows(tables.laws_table(found))[0][4:7] == ["nan", "1.0e-06", "llama"]
    assert tables.share_of_bound({"error": 0.0, "bound": 0.0}) == 0
    assert tables.share_of_bound({"error": 1e-30, "bound": 0.0}) == math.inf


def test_every_result_and_its_reason_is_listed():
    text = tables.results_by_check(GOOD)
    assert text.count(":::{dropdown}") == 2
    assert "q/k norms \\| \\<none\\>" in text


def test_matrix_marks_the_intended_check_apart_from_others():
    lines = fault_tables.fault_matrix(GOOD).splitlines()
    assert lines[1:3] == ["1. marginal\\_identity", "2. relabelling"]
    assert cells(lines[-2]) == ["o\\_by\\_rows", "○", "●"]


def test_areas_with_checks_of_their_own_have_a_matrix_of_their_own():
    one = GOOD["faults"][0]
    other = one | {"fault": "t", "area": "statistics", "expected": "ties", "caught_by": ["ties"]}
    third = one | {"fault": "u", "area": "result", "expected": "file", "caught_by": ["file", "relabelling"]}
    found = GOOD | {"faults": [one, other, third]}
    assert [[fault["fault"] for fault in group] for group in fault_tables.apart(found["faults"])] == [
        ["t"],
        ["o_by_rows", "u"],
    ]
    text = fault_tables.fault_matrix(found)
    assert text.count("{container} fault-matrix") == 2
    assert "1. ties\n\n" in text
    assert [cells(line) for line in text.splitlines() if line.startswith("| u")] == [["u", "", "○", "●"]]


def test_checks_are_listed_with_what_only_they_catch():
    found = {"redundancy": [
        {"check": "bounds", "caught": 3, "alone": 0, "reason": "It holds for pairs."},
        {"check": "gauge", "caught": 5, "alone": 2, "reason": ""},
    ]}  # fmt: skip
    assert rows(fault_tables.redundancy_table(found)) == [
        ["gauge", "5", "2", "–"], ["bounds", "3", "0", "It holds for pairs."],
    ]  # fmt: skip
    assert fault_tables.redundancy_table({}) == "No fault was planted.\n"


def test_equivalent_fault_shows_its_proof():
    found = changed("faults", status="equivalent", caught_by=[], proof="both are 0")
    assert cells(fault_tables.faults_table(found).splitlines()[-1])[-1] == "equivalent: both are 0"


def test_faults_and_models_are_listed():
    assert "**slicing**" in fault_tables.faults_table(GOOD)
    assert cells(fault_tables.faults_table(GOOD).splitlines()[-1]) == [
        "o\\_by\\_rows", "slices O by rows", "relabelling", "1.0e+05",
    ]  # fmt: skip
    missed = fault_tables.faults_table(changed("faults", status="missed", ratio=0.25))
    assert cells(missed.splitlines()[-1])[-1] == "MISSED (0.25)"
    assert rows(tables.models_table(GOOD)) == [["llama", "synthetic", "12,345", "two layers", "0123456789ab"]]
    noted = {"models": [GOOD["models"][0] | {"notes": "held out 1.5"}]}
    assert rows(tables.models_table(noted))[0][3] == "two layers; held out 1.5"


def test_what_did_not_run_is_named_with_its_reason():
    assert [row[0] for row in rows(tables.not_run_table(GOOD))] == ["gauge on bert", "GPU"]
    everything = {"results": GOOD["results"][:1], "not_run": []}
    assert tables.not_run_table(everything) == "Everything ran.\n"


def test_manifest_shows_nested_values_in_tables_of_their_own():
    text = tables.manifest_tables(MANIFEST)
    assert "| commit | abc |" in text
    assert "**threads**" in text
    assert "| OMP\\_NUM\\_THREADS | 1 |" in text
    assert "| name | shape |" in text
    assert "| Q | 2, 3 |" in text


def test_numbers_for_the_prose_come_from_the_evidence():
    comparison = Comparison("first", "text", (), "", 3, 4.0)
    counts = {"checks": (1, 0, 2), "faults": (1, 0, 0)}
    numbers = tables.substitutions(GOOD, counts, [comparison])
    assert numbers["num_checks"] == 1
    assert numbers["num_not_run"] == 2
    assert numbers["num_compared"] == "1,234"
    assert numbers["num_notebooks_identical"] == 1


def test_notebooks_and_controls_are_listed():
    same, other = Comparison("one", "text", (), "", 3, 4.0), Comparison("two", "text", (), "first difference", 3, 4.0)
    assert [row[2] for row in rows(tables.notebooks_table([same, other]))] == ["identical", "different"]
    text = tables.controls_table([Control("random", True, "first difference\nmore"), Control("clean", False, "x")])
    assert [row[1] for row in rows(text)] == ["as it must be", "wrong"]
    assert "0x7f" not in tables.controls_table([Control("address", True, "prints <object at 0x7f3a12bc90>")])


def test_families_are_listed_with_what_does_not_cover_them():
    families = tables.families_table(GOOD).splitlines()
    assert (families[0], families[-1]) == (":::{dropdown} interleaved (1)", ":::")
    assert rows("\n".join(families[1:-1])) == [
        ["bloom", "BloomAttention", "6 / 6", "4 / 4 / 4", "proved, 9 of 10 laws"]
    ]  # fmt: skip
    found = copy.deepcopy(GOOD)
    found["families"][0]["checks_not_run"]["gauge"] = "a bias by distance"
    assert rows(tables.exceptions_table(found)) == [["bloom", "relabelling, gauge", "a bias by distance"]]
    assert rows(tables.refused_table(GOOD)) == [["albert", "refused", "the same weights serve several layers"]]
    nothing = {"families": [], "refused": []}
    assert "No family was measured" in tables.families_table(nothing)
    assert "Every law" in tables.exceptions_table(nothing)
    assert "No family was refused" in tables.refused_table(nothing)


def test_every_table_is_written(tmp_path):
    names = tables.write_tables(tmp_path / "generated", GOOD, MANIFEST, [], [])
    assert sorted(path.stem for path in (tmp_path / "generated").iterdir()) == names


@given(st.text())
def test_no_text_can_leave_its_cell(text):
    row = tables.table(["a", "b"], [[text, 1]]).splitlines()
    assert len(row) == 3
    assert len(cells(row[2].replace("\\\\", ""))) == 2


@given(st.floats())
def test_numbers_keep_two_digits(value):
    shown = float(tables.number(value))
    assert math.isnan(shown) if math.isnan(value) else math.isclose(shown, value, rel_tol=0.06)


def test_findings_on_head_types_are_shown_with_their_bounds():
    assert rows(tables.head_types_table(GOOD)) == [
        ["gain lost without the induction heads", "3", "1.5", "at least 0.8", "passed"]
    ]
    shown = changed("head_types", direction="shown", bound=None)
    assert rows(tables.head_types_table(shown))[0][3] == "–"
    assert tables.head_types_table({}) == "No head was measured.\n"
