"""Tables of determinism show the worst that was seen, and what did not run."""

import pytest

from reports import determinism_tables, tables

from .test_reports_tables import cells, rows


def row(tier, setting, model="m", status="passed", **errors):
    kept = {"bits_error": None, "gradients_error": None, "scores_error": None, "ranks": None} | errors
    return {"tier": tier, "setting": setting, "model": model, "bits": "scores" if tier == "D1" else "", "compared": 1000,
            "status": status, "reason": "", **kept}  # fmt: skip


def result(check, model, error, status="passed", bound=1e-3):
    return {
        "check": check,
        "model": model,
        "error": error,
        "bound": bound,
        "compared": 7,
        "status": status,
        "reason": "why",
    }


EVIDENCE = {
    "determinism": {
        "settings": [
            row("D0", "a process", bits_error=0.0, scores_error=2e-15),
            row("D1", "again", bits_error=0.0, gradients_error=0.0, scores_error=0.0, ranks=1.0),
            row("D2", "two threads", gradients_error=1e-6, scores_error=3e-7, ranks=0.99999),
            row("D2", "two threads", "n", gradients_error=4e-6, scores_error=2e-7, ranks=0.999991),
            row("D2", "nothing", status="not run"),
        ],
        "tiers_run": {"D0": "x"},
        "tiers_not_run": {"D3": "one machine", "D4": "no promise"},
    },
    "results": [
        result("reference_D3", "tiny", 2e-6),
        result("reference_float64", "tiny", 1e-10, bound=1e-9),
        result("reference_D3", "trained", None, "not run", None),
        result("other", "m", 5.0),
    ],
}
ARRAYS = [
    {"model": "m", "array": "scores/Q", "shape": [2, 3], "dtype": "float64", "sha256": "ab" * 32, "values": [1.5, 2, 3]}
]


@pytest.fixture(scope="module")
def made():
    return determinism_tables.determinism_tables(EVIDENCE, {"arrays": ARRAYS})


def test_tiers_show_the_worst_error_and_where_it_was_seen(made):
    by_tier = {line[0]: line for line in rows(made["determinism_tiers"])}
    assert list(by_tier) == ["D0", "D1", "D2", "D3", "D4"]
    assert by_tier["D2"][2] == "2 passed, 0 failed"
    assert by_tier["D2"][4:6] == ["4.0e-06 (two threads, n)", "3.0e-07 (two threads, m)"]
    assert by_tier["D1"][3] == "0"
    assert by_tier["D3"][2:4] == ["2 passed, 0 failed", "1.0e-10 (reference\\_float64, tiny)"]
    assert by_tier["D3"][-1] == "one machine"
    assert by_tier["D4"][2:] == ["not run", "–", "–", "–", "no promise"]


def test_a_failed_setting_shows():
    settings = [row("D1", "again", status="failed", bits_error=1e300)]
    text = determinism_tables.tiers_table(EVIDENCE | {"determinism": {"settings": settings}})
    assert {line[0]: line[2] for line in rows(text)}["D1"] == "0 passed, 1 failed"


def test_settings_show_the_worst_of_the_models(made):
    by_name = {line[1]: line for line in rows(made["determinism_settings"])}
    assert by_name["two threads"][3:] == ["–", "4.0e-06", "3.0e-07", "0.999990", "2,000", "passed"]
    assert by_name["nothing"][-1] == "not run"
    assert by_name["again"][2] == "scores"


def test_references_are_listed_also_those_not_run(made):
    assert [line[1] for line in rows(made["determinism_reference"])] == ["tiny", "tiny", "trained"]
    assert cells(made["determinism_reference"].splitlines()[-1])[-2:] == ["not run", "why"]


def test_arrays_have_a_table_of_their_own_beside_the_manifest(made):
    assert "| scores/Q | 2 x 3 | float64 | abababababab | 1.5, 2, 3 |" in made["determinism_arrays"]
    shown = determinism_tables.without_arrays({"commit": "c", "tiers_run": {"D1": "words"}, "arrays": ARRAYS})
    text = tables.manifest_tables(shown)
    assert "abab" not in text
    assert "| D1 | words |" in text


def test_without_determinism_tables_say_so():
    made = determinism_tables.determinism_tables({"results": []}, {})
    assert all(text.startswith(("Determinism was not", "No ")) for text in made.values()), made
