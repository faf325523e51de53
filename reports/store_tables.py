"""Tables of what was done to stores of collected samples, what was found, and which wrong store was noticed by what."""

from .statistics_tables import state_of
from .tables import table, unique

HARNESS, FAULT = "store harness", "store fault"
KINDS = ("lost", "wrong", "silent", "untold")


def store_tables(evidence):
    """Every table as MyST text, by name."""
    return {
        "store_harnesses": harnesses_table(evidence),
        "store_faults": faults_table(evidence),
        "store_state": state_of(evidence, "store_long"),
    }


def rows_of(evidence, study):
    """Rows of a study by name of harness or fault: those of the long run, and this build's."""
    name = "harness" if study == HARNESS else "fault"
    long = evidence.get("store_long", {}).get("rows", [])
    return [
        {row[name]: row for row in rows if row["study"] == study} for rows in (long, evidence.get("store", []))
    ]  # fmt: skip


def harnesses_table(evidence):
    """One line for each harness and run: points, and what was found."""
    lines = []
    long, short = rows_of(evidence, HARNESS)
    for name in unique([*long, *short]):
        for run, rows in (("long run", long), ("this build", short)):
            if name in rows:
                row = rows[name]
                counts = [row[kind] for kind in KINDS] if row["points"] else ["–"] * len(KINDS)
                seconds = f"{row['seconds']:.0f}"
                lines.append([row["procedure"], row["data"], run, f"{row['points']:,}", *counts, seconds, verdict(row)])
    header = ["what was done", "to what, or with what", "run", "points", *KINDS, "seconds", "verdict"]
    return table(header, lines, align="lllrrrrrrl") if lines else "Nothing of this was measured.\n"


def verdict(row):
    """What a row comes to; a harness that could not run is not kept."""
    if not row["points"] and row["status"] == "passed":
        return "not run"
    return "nothing lost" if row["status"] == "passed" else "LOST OR WRONG"


def faults_table(evidence):
    """One line for each wrong store: which harness had to notice it, and all that did in the long run."""
    lines = []
    long, short = rows_of(evidence, FAULT)
    harnesses = list(rows_of(evidence, HARNESS)[0])
    for name in unique([*long, *short]):
        row, again = long.get(name), short.get(name)
        one = row or again
        marks = [mark(row, harness) for harness in harnesses]
        lines.append([one["description"], one["expected"], *marks, noticed(again)])
    header = ["the store", "must be noticed by", *harnesses, "this build"]
    return table(header, lines, align="ll" + "l" * (len(harnesses) + 1)) if lines else "Nothing of this was measured.\n"


def mark(row, harness):
    """Whether a harness noticed, in the long run."""
    if row is None or harness in row["not_run"]:
        return "–"
    return "noticed" if harness in row["caught_by"] else "no"


def noticed(row):
    """Whether the expected harness noticed in this build."""
    if row is None or row["expected"] in row["not_run"]:
        return "–"
    return "noticed" if row["expected"] in row["caught_by"] else "MISSED"


def store_numbers(evidence):
    """Numbers for the prose: ``{{ num_store_... }}``, of the long run."""
    (long, _), (faults, _) = rows_of(evidence, HARNESS), rows_of(evidence, FAULT)
    return {
        "num_store_points": f"{sum(row['points'] for row in long.values()):,}",
        "num_store_found": sum(row[kind] for row in long.values() for kind in KINDS),
        "num_store_faults": len(faults),
        "num_store_faults_noticed": sum(row["expected"] in row["caught_by"] for row in faults.values()),
        "num_store_not_run": ", ".join(name for name, row in long.items() if not row["points"]) or "none",
    }
