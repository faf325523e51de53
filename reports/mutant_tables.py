"""Tables of the mutants: how many small changes of the core its tests notice, and every one that they do not, with the reason.

The figures are committed; a file that has changed since is marked, not shown as if its figures were new.
"""

from collections import Counter

from .tables import cell, table, unique

# In the order in which a reader wants them: what is nothing, what is little, what is a gap.
KINDS = {
    "equivalent": "no change of behaviour, as the reason proves",
    "guard": "takes away a guard against a mistake inside the package",
    "wording": "only the words of a message",
    "speed": "only speed or memory",
    "untested": "deliberately untested",
    "unexplained": "no reason given",
}
NOTHING = "No mutant was made.\n"


def mutant_tables(evidence):
    """Every table of the mutants as MyST text, by name."""
    return {
        "mutants_files": files_table(evidence),
        "mutants_kinds": kinds_table(evidence),
        "mutants_survivors": survivors_tables(evidence),
        "mutants_state": state(evidence),
    }


def rows_of(evidence):
    """Rows of the record, a file each."""
    return evidence.get("mutants", {}).get("files", [])


def is_stale(evidence, row):
    """Whether the figures of a file are of another version of it."""
    return row["file"] in evidence["mutants"]["stale"]


def files_table(evidence):
    """A line per file and one for all: mutants, killed, survived, the share with and without the words of messages."""
    rows = rows_of(evidence)
    lines = [
        figures(row["file"] + (" (measured on other sources)" if is_stale(evidence, row) else ""), row) for row in rows
    ]
    header = ["file", "mutants", "killed", "survived", "of these wording", "killed, %", "without wording, %"]
    return table(header, [*lines, figures("altogether", total(rows))], align="lrrrrrr") if rows else NOTHING


def total(rows):
    """The counts of all files as one row."""
    return {
        name: sum(row[name] for row in rows)
        for name in ("mutants", "killed", "survived", "wording", "wording_survived")
    }


def figures(name, row):
    """One line of the table of files."""
    counts = [row["mutants"], row["killed"], row["survived"], row["wording_survived"]]
    return [name, *(f"{count:,}" for count in counts), percent(share(row)), percent(share_without_wording(row))]


def share(row):
    """Share of all mutants that were killed."""
    return row["killed"] / row["mutants"] if row["mutants"] else 0.0


def share_without_wording(row):
    """Share of the mutants that change more than the words of a message."""
    others, missed = row["mutants"] - row["wording"], row["survived"] - row["wording_survived"]
    return (others - missed) / others if others else 0.0


def percent(value):
    """A share in percent, one digit behind the point."""
    return f"{100 * value:.1f}"


def kinds_table(evidence):
    """How many survivors there are of every kind of reason."""
    kinds = Counter(one["kind"] for row in rows_of(evidence) for one in row["survivors"])
    rows = [[kind, KINDS.get(kind), kinds[kind]] for kind in unique([*KINDS, *kinds]) if kinds[kind]]
    return table(["kind", "what it means", "survivors"], rows, align="llr") if rows else "No mutant survived.\n"


def survivors_tables(evidence):
    """Every survivor, folded away file by file: the line, what it became, and why no test fails."""
    parts = []
    for row in rows_of(evidence):
        lines = [[one["function"], one["before"], one["after"], one["kind"], one["reason"]] for one in row["survivors"]]
        if lines:
            body = table(["function", "source", "mutant", "kind", "reason"], lines)
            parts.append(f":::{{dropdown}} {cell(row['file'])} ({len(lines)})\n{body}:::\n")
    return "\n".join(parts) or "No mutant survived.\n"


def state(evidence):
    """What there is to know before the numbers are read: of which sources they are, and how long they took."""
    stale = [row["file"] for row in rows_of(evidence) if is_stale(evidence, row)]
    stale = unique([*stale, *evidence.get("mutants", {}).get("stale", [])])
    if stale or not rows_of(evidence):
        names = "\n".join(f"- {cell(name)}" for name in stale)
        said = "These files are not the ones that were measured; their figures are old or missing:"
        return f":::{{warning}}\n{said}\n\n{names}\n:::\n"
    minutes = sum(row["seconds"] for row in rows_of(evidence)) / 60
    return f"All mutants took {minutes:.0f} minutes on one core; the files are those of this build.\n"


def mutant_numbers(evidence):
    """Numbers for the prose: ``{{ mutants_... }}``."""
    rows = rows_of(evidence)
    whole = total(rows)
    lowest = min(rows, key=share, default=None)
    kinds = Counter(one["kind"] for row in rows for one in row["survivors"])
    return {
        "mutants_total": f"{whole['mutants']:,}",
        "mutants_killed": f"{whole['killed']:,}",
        "mutants_survived": f"{whole['survived']:,}",
        "mutants_percent": percent(share(whole)),
        "mutants_percent_without_wording": percent(share_without_wording(whole)),
        "mutants_lowest": percent(share(lowest)) if lowest else "(not measured)",
        "mutants_lowest_file": lowest["file"] if lowest else "(not measured)",
        "mutants_equivalent": kinds["equivalent"],
        "mutants_unexplained": kinds["unexplained"],
    }
