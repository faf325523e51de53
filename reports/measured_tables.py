"""Tables of peaks of memory beside budgets, and of plans beside measurements: committed figures, marked where they are old."""

from .statistics_tables import made_with
from .tables import cell, table

NOTHING = "Nothing of this was measured.\n"


def measured_tables(evidence):
    """Every table as MyST text, by name."""
    return {
        "memory_peaks": peaks_table(evidence.get("memory_peaks", {}).get("rows", [])),
        "memory_peaks_state": state(evidence.get("memory_peaks", {})),
        "plans": plans_table(evidence.get("plans", {}).get("rows", [])),
        "plans_state": state(evidence.get("plans", {})),
    }


def peaks_table(rows):
    """One line for each run: the budget, what was held before, the peak, and whether it was kept to or refused."""
    lines = [
        [
            row["data"], megabytes(row["held"]), megabytes(row["budget"]), megabytes(row["peak"]),
            f"{row['value']:.3f}", "refused before it began" if row["procedure"] == "refused" else row["status"],
        ]
        for row in rows
    ]  # fmt: skip
    head = ["run", "held before, MB", "budget, MB", "peak, MB", "peak / budget", "verdict"]
    return table(head, lines, align="lrrrrl") if lines else NOTHING


def plans_table(rows):
    """One line for each quantity of each model: planned, measured, and their ratio."""
    lines = [
        [row["data"], row["procedure"], figure(row["planned"]), figure(row["measured"]), f"{row['ratio']:.3f}", row["status"]]
        for row in rows
    ]  # fmt: skip
    return (
        table(["model", "quantity", "planned", "measured", "ratio", "verdict"], lines, align="llrrrl")
        if lines
        else NOTHING
    )


def megabytes(number):
    """Write bytes in whole megabytes."""
    return f"{number / 1e6:,.0f}"


def figure(number):
    """Write a quantity: three digits, whole numbers from a thousand on."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def state(record):
    """What there is to know before the numbers are read: whether they are of this build, and of what machine."""
    stale = record.get("stale", [])
    if stale or not record.get("rows"):
        names = "\n".join(f"- {cell(name)}" for name in stale)
        said = "These figures are of other sources than this build's, or missing. Changed since:"
        return f":::{{warning}}\n{said}\n\n{names}\n:::\n"
    minutes = record["seconds"] / 60
    return f"Measured in {minutes:.0f} minutes{made_with(record.get('environment'))}, by the sources of this build.\n"
