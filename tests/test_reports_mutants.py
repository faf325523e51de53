"""Tables of the mutants: every file, every survivor with its reason, nothing stale shown as if it were new."""

import copy
import re

from reports import evidence, mutant_tables
from tests.test_reports_tables import rows
from validation import mutant_reasons
from validation.committed import ROOT

SURVIVOR = {"mutant": "m", "function": "welch", "before": "a * b", "after": "a / b", "wording": False, "status": "survived",
            "kind": "equivalent", "reason": "both are 0"}  # fmt: skip
ROW = {"file": "qkov/fisher.py", "mutants": 1000, "killed": 990, "survived": 10, "wording": 20, "wording_survived": 8,
       "seconds": 600.0, "survivors": [SURVIVOR, SURVIVOR | {"kind": "wording", "reason": "words"}]}  # fmt: skip
FOUND = {"mutants": {
    "files": [ROW, ROW | {"file": "qkov/formula.py", "mutants": 100, "killed": 91, "survived": 9, "survivors": []}],
    "stale": [], "complaints": []}}  # fmt: skip


def stale():
    found = copy.deepcopy(FOUND)
    found["mutants"]["stale"] = ["qkov/formula.py", "qkov/layout.py"]
    return found


def test_every_file_and_the_whole_have_a_line():
    assert rows(mutant_tables.files_table(FOUND)) == [
        ["qkov/fisher.py", "1,000", "990", "10", "8", "99.0", "99.8"],
        ["qkov/formula.py", "100", "91", "9", "8", "91.0", "98.8"],
        ["altogether", "1,100", "1,081", "19", "16", "98.3", "99.7"],
    ]


def test_survivors_stand_with_the_line_and_the_reason():
    text = mutant_tables.survivors_tables(FOUND)
    assert rows(text)[1] == ["welch", r"a \* b", "a / b", "equivalent", "both are 0"]
    assert text.startswith(":::{dropdown} qkov/fisher.py (2)")
    assert "formula" not in text


def test_kinds_are_counted_and_are_those_of_the_reasons():
    assert [row[0::2] for row in rows(mutant_tables.kinds_table(FOUND))] == [["equivalent", "1"], ["wording", "1"]]
    assert set(mutant_tables.KINDS) == set(mutant_reasons.KINDS)


def test_stale_files_are_marked():
    assert "took 20 minutes" in mutant_tables.state(FOUND)
    assert mutant_tables.state(stale()).startswith(":::{warning}")
    assert "qkov/layout.py" in mutant_tables.state(stale())
    names = [row[0] for row in rows(mutant_tables.files_table(stale()))]
    assert names == ["qkov/fisher.py", "qkov/formula.py (measured on other sources)", "altogether"]


def test_without_a_record_the_tables_say_so():
    assert mutant_tables.state({}).startswith(":::{warning}")
    assert mutant_tables.files_table({}) == "No mutant was made.\n"
    assert mutant_tables.survivors_tables({}) == mutant_tables.kinds_table({}) == "No mutant survived.\n"
    assert mutant_tables.mutant_numbers({})["mutants_lowest"] == "(not measured)"


def test_numbers_of_the_prose():
    numbers = mutant_tables.mutant_numbers(FOUND)
    assert (numbers["mutants_total"], numbers["mutants_percent"]) == ("1,100", "98.3")
    assert (numbers["mutants_lowest"], numbers["mutants_lowest_file"]) == ("91.0", "qkov/formula.py")
    assert (numbers["mutants_equivalent"], numbers["mutants_unexplained"]) == (1, 0)


def test_files_are_counted_unless_they_are_stale():
    assert evidence.count_mutants(FOUND["mutants"]) == {"mutants": (2, 0, 0)}
    assert evidence.count_mutants(stale()["mutants"]) == {"mutants": (1, 0, 0)}
    assert evidence.count_mutants({}) == {}
    poor = FOUND["mutants"] | {"complaints": ["qkov/fisher.py: 1 of 2 mutants killed"]}
    assert evidence.count_mutants(poor) == {"mutants": (1, 1, 0)}


def test_the_page_takes_in_every_table_and_no_other_number():
    page = (ROOT / "book" / "mutation.md").read_text(encoding="utf-8")
    assert set(re.findall(r"generated/(\w+)\.md", page)) == set(mutant_tables.mutant_tables(FOUND))
    assert set(re.findall(r"{{ (\w+) }}", page)) <= set(mutant_tables.mutant_numbers(FOUND))
