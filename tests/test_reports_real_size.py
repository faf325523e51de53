"""The page of the run of real size: figures, what they must keep, and a warning where they are of other sources."""

from reports import evidence, real_size_tables


def row(procedure, value, bound=None, direction="shown", status="passed"):
    return {
        "study": "real size", "procedure": procedure, "data": "12 parameters", "sets": 200, "value": value, "low": None,
        "high": None, "bound": bound, "direction": direction, "status": status,
    }  # fmt: skip


ROWS = [
    row("peak of resident memory, GB", 2.5, 4.0, "at most"), row("on disk, GB", 5.62), row("scores", 5760000.0),
    row("largest average of block Q: layer 3, head 1", 0.0287),
]  # fmt: skip
ENVIRONMENT = {
    "python": "3.11.7", "platform": "Linux x86_64", "cpu_capability": "AVX2",
    "versions": {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.1", "scipy": "1.17"},
}  # fmt: skip
FOUND = {"real_size": {"rows": ROWS, "seconds": 120.0, "environment": ENVIRONMENT, "stale": [], "complaints": []}}


def test_figures_stand_beside_what_they_must_keep():
    text = real_size_tables.real_size_tables(FOUND)["real_size"]
    assert "| peak of resident memory, GB | 2.5 | at most 4 | passed |" in text
    assert "| scores | 5,760,000 | – | – |" in text
    assert "largest average" not in text


def test_heads_are_named():
    assert "| Q | layer 3, head 1 | 0.0287 |" in real_size_tables.real_size_tables(FOUND)["real_size_heads"]


def test_state_names_the_machine_or_the_sources_that_changed():
    assert "took 2 minutes with Python 3.11.7, torch 2.13.0" in real_size_tables.state(FOUND)
    stale = {"real_size": FOUND["real_size"] | {"stale": ["qkov/tiles.py"]}}
    assert "{warning}" in real_size_tables.state(stale)
    assert "qkov/tiles.py" in real_size_tables.state(stale)


def test_nothing_measured_is_said_and_breaks_nothing():
    tables = real_size_tables.real_size_tables({})
    assert tables["real_size"] == tables["real_size_heads"] == real_size_tables.NOTHING
    assert "{warning}" in tables["real_size_state"]
    assert set(real_size_tables.real_size_numbers({}).values()) == {"(not measured)"}
    assert real_size_tables.real_size_numbers(FOUND)["real_size_peak"] == "2.5"


def test_rows_with_a_bound_are_counted_and_figures_of_other_sources_are_not():
    assert evidence.count_measured(FOUND["real_size"]) == (1, 0, 0)
    over = [row("peak of resident memory, GB", 5.0, 4.0, "at most", "failed")]
    assert evidence.count_measured(FOUND["real_size"] | {"rows": over}) == (0, 1, 0)
    assert evidence.count_measured(FOUND["real_size"] | {"stale": ["x"]}) is evidence.count_measured({}) is None


def test_a_budget_said_to_be_kept_that_is_not_is_found():
    lying = FOUND["real_size"] | {"rows": [row("peak of resident memory, GB", 5.0, 4.0, "at most")]}
    assert any("5 is not at most 4" in one for one in evidence.audit({"results": [], "faults": [], "real_size": lying}))
