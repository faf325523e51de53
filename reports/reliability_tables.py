"""Tables of what can go wrong: for every situation what was done, what came of it, and what the message really said.

Messages are text of other modules, of models and of ids, so all of it is escaped: nothing in one can become markup,
leave its cell, or be obeyed by a terminal that prints the page's source.
"""

from qkov import errors

from .tables import cell, table, unique

MEANINGS = {
    1: "a comparison that does not hold",
    2: "usage: an option or a request that has no meaning",
    3: "data: samples, ids, tasks or files",
    4: "model: heads that cannot be located, other weights",
    5: "a store that is damaged, or of another version",
    6: "a store that another process is writing to",
    7: "disk: a write that the system refused",
    8: "memory: a plan or a sample that does not fit",
    130: "interrupted",
}


def reliability_tables(evidence):
    """Every table of the situations as MyST text, by name."""
    return {
        "reliability_cases": cases_table(evidence),
        "reliability_messages": messages_table(evidence),
        "reliability_not_run": not_run_table(evidence),
        "reliability_statuses": statuses_table(),
    }


def cases_table(evidence):
    """What is done and what happens, group by group."""
    header = ["situation", "what happens", "error or warning", "exit status", "verdict"]
    parts = []
    for group, rows in grouped(evidence):
        lines = [
            [row["situation"], row["behaviour"], name_of(row), row["exit_status"], verdict(row)] for row in rows
        ]  # fmt: skip
        parts.append(f"**{cell(group)}**\n\n{table(header, lines, align='lllrl')}")
    return "\n".join(parts) or "Nothing of this was tried.\n"


def messages_table(evidence):
    """What the errors and warnings really said, folded away group by group."""
    parts = []
    for group, rows in grouped(evidence):
        lines = [[row["situation"], row["message"]] for row in rows if row["message"]]
        if lines:
            parts.append(f":::{{dropdown}} {cell(group)} ({len(lines)})\n{table(['situation', 'message'], lines)}:::\n")
    return "\n".join(parts) or "Nothing of this was said.\n"


def not_run_table(evidence):
    """Situations that could not be made here, with the reason."""
    lines = [[row["situation"], row["reason"]] for row in cases(evidence) if row["status"] == "not run"]
    return table(["situation", "reason"], lines) if lines else "Every situation was made.\n"


def statuses_table():
    """Exit statuses with what they mean and the errors that end with them, from the errors themselves."""
    by_status = {}
    for one in vars(errors).values():
        if isinstance(one, type) and issubclass(one, errors.QKOVError) and one is not errors.QKOVError:
            by_status.setdefault(one.exit_status, []).append(one.__name__)
    lines = [[status, MEANINGS[status], ", ".join(names)] for status, names in sorted(by_status.items())]
    return table(["exit status", "what is wrong", "errors"], lines, align="rll")


def reliability_numbers(evidence):
    """Numbers for the prose: ``{{ num_situations }}`` and so on."""
    rows = cases(evidence)
    return {
        "num_situations": len(rows),
        "num_situations_passed": sum(row["status"] == "passed" for row in rows),
        "num_situations_not_run": sum(row["status"] == "not run" for row in rows),
        "num_situations_refused": sum(row["error"] != "none" for row in rows),
        "num_situations_unchanged": sum(row["unchanged"] is True for row in rows),
    }


def cases(evidence):
    """Rows of the situations."""
    return evidence.get("bad_input", [])


def grouped(evidence):
    """Pairs of a group and its rows."""
    for group in unique(row["group"] for row in cases(evidence)):
        yield group, [row for row in cases(evidence) if row["group"] == group]


def name_of(row):
    """The error or warning that came, or None for a dash."""
    return next((row[kind] for kind in ("error", "warning") if row[kind] != "none"), None)


def verdict(row):
    """Passed, or what is wrong, or that it did not run."""
    if row["status"] == "passed":
        return "passed, nothing else changed"
    return f"NOT RUN: {row['reason']}" if row["status"] == "not run" else f"FAILED: {row['reason']}"
