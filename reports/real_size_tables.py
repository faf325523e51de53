"""Tables of the run of a model of real size: committed figures, marked where their sources have changed since."""

from .statistics_tables import made_with
from .tables import cell, table

NOTHING = "Nothing of this was measured.\n"
TOP = "largest average of block "


def real_size_tables(evidence):
    """Every table as MyST text, by name."""
    return {
        "real_size": figures_table(evidence),
        "real_size_heads": heads_table(evidence),
        "real_size_state": state(evidence),
    }


def rows_of(evidence):
    """Rows of the record, one figure each."""
    return evidence.get("real_size", {}).get("rows", [])


def figures_table(evidence):
    """One line for each figure, with what it has to keep."""
    rows = [row for row in rows_of(evidence) if not row["procedure"].startswith(TOP)]
    lines = [
        [row["procedure"], figure(row["value"]), promise(row), row["status"] if promise(row) else ""] for row in rows
    ]
    return table(["measured", "value", "must be", "verdict"], lines, align="lrll") if lines else NOTHING


def heads_table(evidence):
    """For each block the slice with the largest average score."""
    lines = []
    for row in rows_of(evidence):
        if row["procedure"].startswith(TOP):
            block, place = row["procedure"].removeprefix(TOP).split(": ")
            lines.append([block, place, figure(row["value"])])
    return table(["block", "largest average in", "average score"], lines, align="llr") if lines else NOTHING


def figure(value):
    """Write a figure: whole numbers whole, others with three digits."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def promise(row):
    """What a row has to keep, in words; empty where it is shown only."""
    return "" if row["bound"] is None else f"{row['direction']} {row['bound']:g}"


def state(evidence):
    """What there is to know before the numbers are read: whether they are of this build, and of what machine."""
    record = evidence.get("real_size", {})
    stale = record.get("stale", [])
    if stale or not rows_of(evidence):
        names = "\n".join(f"- {cell(name)}" for name in stale)
        said = "The run was not made with this build's sources, so its figures are old or missing. Others since:"
        return f":::{{warning}}\n{said}\n\n{names}\n:::\n"
    minutes = record["seconds"] / 60
    return (
        f"The run took {minutes:.0f} minutes{made_with(record.get('environment'))}; the sources that made it are those of "
        "this build.\n"
    )


def real_size_numbers(evidence):
    """Numbers for the prose: ``{{ real_size_... }}``."""
    found = {row["procedure"]: row for row in rows_of(evidence)}

    def value(name):
        return figure(found[name]["value"]) if name in found else "(not measured)"

    return {
        "real_size_data": next((row["data"] for row in rows_of(evidence)), "(not measured)"),
        "real_size_peak": value("peak of resident memory, GB"),
        "real_size_disk": value("on disk, GB"),
        "real_size_scores": value("scores"),
    }
