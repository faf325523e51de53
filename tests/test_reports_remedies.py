"""Tables and pictures of what freezing and merging brought: sorted by the result, nothing left out, stale numbers marked."""

import copy

import pytest

from reports import evidence, remedies_pictures, remedies_tables

from .test_reports_tables import rows


def row(study, procedure, value, low, high, **more):
    bounded = study.endswith("exact")
    return {"study": study, "procedure": procedure, "data": more.pop("data", "A kept, B learned, SGD"), "sets": 5,
            "value": value, "low": low, "high": high, "bound": 0.0 if bounded else None,
            "direction": "at most" if bounded else "shown", "status": "passed", **more}  # fmt: skip


def arm(name, value, against, **more):
    curves = {"at": [0, 2], "curve_a": [1.0, 1.0 + value], "curve_b": [2.0, 1.9], "steps": [1.5, 1.0, 2.0]}
    return row("freezing", name, value, value - 0.001, value + 0.001, against_random=against, against_none=[0, 0, 0],
               shared=0.25, not_reached=0, **curves, **more)  # fmt: skip


def method(name, value, against):
    return row("merging", name, value, value - 0.1, value + 0.1, data="A and B", against_plain=against,
               half_against_plain=against, at_half=[value] * 3, weight=[0.4, 0.3, 0.5], grid=[0.2, 0.5],
               curve_a=[1.0, 2.0], curve_b=[2.0, 1.0])  # fmt: skip


LONG = [
    row("freezing is exact", "largest change of a frozen parameter", 0.0, 0.0, 0.0),
    arm("nothing frozen", 0.01, [0.001, -0.001, 0.003]),
    arm("predicted", 0.005, [-0.004, -0.006, -0.002]),
    arm("averaged heatmap", 0.015, [0.006, 0.002, 0.01]),
    arm("random slices", 0.009, None),
    row("freezing, not made", "gradient of B", 0.05, 0.04, 0.06, at=[0, 18], curve_a=[1.0, 1.0],
        curve_b=[2.0, 1.95], shared=None, not_reached=5),
    row("merging, references", "the start", 3.0, 2.9, 3.1, data="A and B", loss_a=3.0, loss_b=3.0),
    method("plain average", 2.0, None),
    method("Fisher-weighted", 1.9, [-0.1, -0.15, -0.05]),
]  # fmt: skip
FOUND = {
    "remedies": [LONG[0] | {"sets": 1}],
    "remedies_long": {"rows": LONG, "seconds": 660.0, "complaints": []},
}


def test_arms_are_sorted_by_what_they_keep():
    text = remedies_tables.remedies_tables(FOUND)["remedies_freezing"]
    lines = rows(text.split("\n\n", 1)[1])
    assert [line[0] for line in lines] == [
        "predicted", "random slices", "nothing frozen", "averaged heatmap", "gradient of B",
    ]  # fmt: skip
    assert lines[0][1:] == ["0.0050 (0.0040 to 0.0060)", "-0.0040 (-0.0060 to -0.0020)", "1.5", "5 of 5", "25 %"]
    assert lines[1][2] == "–"
    assert lines[-1][1:] == ["progress not made", "–", "over 18", "0 of 5", "–"]
    assert "**A kept, B learned, SGD**" in text
    assert "Nothing of this was measured" in remedies_tables.remedies_tables(FOUND)["remedies_half"]
    alone = [one | {"study": "freezing, half the progress", "sets": 1, "against_random": None} for one in LONG[1:2]]
    found = {"remedies_long": FOUND["remedies_long"] | {"rows": alone}}
    (line,) = rows(remedies_tables.remedies_tables(found)["remedies_half"].split("\n\n", 1)[1])
    assert line[1:3] == ["0.0100", "–"], "one seed has no interval"


def test_methods_stand_beside_the_start():
    lines = rows(remedies_tables.remedies_tables(FOUND)["remedies_merging"].split("\n\n", 1)[1])
    assert [line[0] for line in lines] == ["the start", "plain average", "Fisher-weighted"]
    assert lines[2] == ["Fisher-weighted", "1.900 (1.800 to 2.000)", "-0.100 (-0.150 to -0.050)", "0.40",
                        "1.900 (1.900 to 1.900)", "-0.100 (-0.150 to -0.050)"]  # fmt: skip


def test_what_must_hold_is_shown_of_both_runs():
    (line,) = rows(remedies_tables.remedies_tables(FOUND)["remedies_exact"])
    assert line[2:] == ["at most 0.000", "0.000 (0.000 to 0.000; 5)", "0.000 (0.000 to 0.000; 1)", "kept"]
    found = copy.deepcopy(FOUND)
    found["remedies"][0]["status"] = "failed"
    assert rows(remedies_tables.remedies_tables(found)["remedies_exact"])[0][-1] == "NOT KEPT"


def test_stale_evidence_is_announced_and_absent_evidence_no_table():
    assert "took 11 minutes" in remedies_tables.remedies_tables(FOUND)["remedies_state"]
    stale = {"remedies_long": FOUND["remedies_long"] | {"complaints": ["made by other sources"]}}
    assert "made by other sources" in remedies_tables.remedies_tables(stale)["remedies_state"]
    empty = remedies_tables.remedies_tables({})
    assert "no long run was read" in empty["remedies_state"]
    assert all("Nothing of this was measured" in empty[f"remedies_{name}"] for name in ("freezing", "merging", "exact"))


def test_numbers_of_the_prose_follow_from_the_intervals():
    numbers = remedies_tables.remedies_numbers(FOUND)
    assert (numbers["remedy_comparisons"], numbers["remedy_better"], numbers["remedy_worse"]) == (2, 1, 1)
    assert numbers["remedy_better_names"] == "predicted (A kept, B learned, SGD)"
    assert (numbers["remedy_merging_better"], numbers["remedy_merging_worse"]) == (1, 0)
    assert remedies_tables.remedies_numbers({})["remedy_worse_names"] == "none"


def test_prose_says_what_rows_hold():
    assert remedies_tables.remedies_numbers({})["remedy_code_predicted"] == "(not measured)"
    lines = [
        arm("predicted", 0.011, [0, 0, 0], data=remedies_tables.CODE),
        method("Fisher-weighted", 1.9, [-0.1, -0.15, -0.05]) | {"data": "arithmetic and capitals"},
    ]
    found = remedies_tables.remedies_numbers({"remedies_long": {"rows": lines}})
    assert found["remedy_code_predicted"] == "0.0110"
    assert found["remedy_merged_capitals"] == "-0.100 (-0.150 to -0.050)"
    assert found["remedy_merged_prose"] == "(not measured)"


@pytest.mark.parametrize("found", [FOUND, {}])
def test_pictures_are_drawn_and_repeat(found, tmp_path):
    names = remedies_pictures.write_pictures(tmp_path / "one", found)
    assert remedies_pictures.write_pictures(tmp_path / "two", found) == names
    for name in names:
        text = (tmp_path / "one" / name).read_text()
        assert text == (tmp_path / "two" / name).read_text()
        assert text.count("<path") > (40 if found and "half" not in name else 0)


def test_an_interval_decides_the_colour(tmp_path):
    remedies_pictures.write_pictures(tmp_path, FOUND)
    text = (tmp_path / "remedies_freezing.svg").read_text()
    assert "#0072b2" in text
    assert "#d55e00" in text
    one_sided = {"remedies_long": FOUND["remedies_long"] | {"rows": LONG[:2]}}
    remedies_pictures.write_pictures(tmp_path, one_sided)
    text = (tmp_path / "remedies_freezing.svg").read_text()
    assert "#0072b2" not in text
    assert "#d55e00" not in text


def test_every_study_of_the_validation_is_counted():
    found = {"results": [], "faults": [], **copy.deepcopy(FOUND)}
    assert evidence.count(found)["remedies"] == (1 + len(LONG), 0, 0)
    found["remedies_long"]["complaints"].append("made by other sources")
    found["remedies"][0]["status"] = "failed"
    assert evidence.count(found)["remedies"] == (len(LONG), 2, 0)
    found["remedies"][0] |= {"status": "passed", "value": 0.5}
    assert any("0.5 is not at most 0" in complaint for complaint in evidence.audit(found))
