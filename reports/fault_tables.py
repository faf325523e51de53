"""Tables of the planted faults: what each does, which checks catch it, and which checks they show to be needed."""

from .tables import cell, table, unique


def fault_tables(evidence):
    """The tables by the names under which pages include them."""
    return {
        "faults": faults_table(evidence),
        "fault_matrix": fault_matrix(evidence),
        "redundancy": redundancy_table(evidence),
    }


def faults_table(evidence):
    """The wrong implementations, area by area: what each does, and by how much the check meant for it catches it."""
    header = ["wrong implementation", "what it does", "caught by", "error / bound"]
    parts = []
    for area in unique(fault["area"] for fault in evidence["faults"]):
        faults = [fault for fault in evidence["faults"] if fault["area"] == area]
        rows = [[fault["fault"], fault["description"], fault["expected"], outcome(fault)] for fault in faults]
        parts.append(f"**{cell(area)}**\n\n{table(header, rows, align='lllr')}")
    return "\n".join(parts)


def outcome(fault):
    """The error over the bound, and a plain word where the fault was missed; of an equivalent one, its proof."""
    if fault["status"] == "equivalent":
        return f"equivalent: {fault['proof']}"
    ratio = cell(fault["ratio"])
    return ratio if fault["status"] == "caught" else f"{fault['status'].upper()} ({ratio})"


def fault_matrix(evidence):
    """Faults by checks: ● the check meant to catch the fault, ○ another check that caught it too.

    One matrix for each group of areas whose faults have no check in common with the others: statistics and stores are
    judged by checks of their own.
    """
    return "\n".join(one_matrix(evidence, faults) for faults in apart(evidence["faults"]))


def apart(faults):
    """Group faults, whole areas together, so that no check belongs to two groups."""
    groups = []  # (checks, areas)
    for area in unique(fault["area"] for fault in faults):
        members = [fault for fault in faults if fault["area"] == area]
        checks = {check for fault in members for check in (fault["expected"], *fault["caught_by"])}
        joined = [group for group in groups if group[0] & checks]
        groups = [group for group in groups if group not in joined]
        groups.append((checks.union(*(one for one, _ in joined)), {area}.union(*(areas for _, areas in joined))))
    return [[fault for fault in faults if fault["area"] in areas] for _, areas in groups]


def one_matrix(evidence, faults):
    """The matrix of some faults, with the names of its columns above it."""
    checks = unique([*(result["check"] for result in evidence["results"]), *(fault["expected"] for fault in faults)])
    used = [check for check in checks if any(check in fault["caught_by"] for fault in faults)]
    legend = "\n".join(f"{index}. {cell(check)}" for index, check in enumerate(used, start=1))
    rows = [
        [fault["fault"], *("" if check not in fault["caught_by"] else mark(fault, check) for check in used)]
        for fault in faults
    ]
    body = table(["wrong implementation", *range(1, len(used) + 1)], rows, align="l" + "r" * len(used))
    return f":::{{container}} fault-matrix\n{legend}\n\n{body.replace('–', ' ')}:::\n"


def redundancy_table(evidence):
    """Checks with the faults they catch and those that only they catch; why the others are kept."""
    rows = sorted(evidence.get("redundancy", []), key=lambda row: (row["alone"] == 0, row["check"]))
    if not rows:
        return "No fault was planted.\n"
    header = ["check", "faults caught", "by it alone", "kept because"]
    return table(header, [[row["check"], row["caught"], row["alone"], row["reason"]] for row in rows], align="lrrl")


def mark(fault, check):
    """Filled for the check that is meant to catch the fault."""
    return "●" if check == fault["expected"] else "○"
