"""Tables of speed and memory: every goal with what was measured, on which machine, and what is missed or was not run.

The numbers are committed; where the measured sources have changed since, the row says so, and it is not counted as held.
"""

from types import SimpleNamespace

from validation.bench import collection, shapes

from .tables import cell, table, unique

OF_OTHER_SOURCES = "of other sources"
NOTHING = "Nothing of this was measured.\n"
VERDICTS = {"held": "held", "missed": "MISSED", "wrong": "ROUTES DISAGREE", "not run": "not run"}


def bench_tables(evidence):
    """Every table of speed and memory as MyST text, by name."""
    return {
        "bench_state": state(evidence),
        "bench_goals": goals_table(evidence),
        "bench_conditions": conditions_table(evidence),
        "bench_scoring": scoring_table(evidence),
        "bench_machine": machine_table(evidence),
    }


def rows_of(evidence):
    """Rows of the record, a goal each."""
    return evidence.get("bench", {}).get("rows", [])


def details_of(evidence, group):
    """What is behind the numbers of a group; nothing where it was not measured."""
    return evidence.get("bench", {}).get("groups", {}).get(group, {}).get("details", {})


def verdict(row):
    """What a row comes to; numbers of other sources are no verdict on these."""
    if row["changed"]:
        return OF_OTHER_SOURCES
    if row["status"] == "held" and row["hold"] is None:
        return "shown"
    return VERDICTS[row["status"]]


def bound(row):
    """The goal as a reader says it."""
    if row["hold"] is None:
        return None
    return ("≥ " if row["direction"] == "at least" else "≤ ") + short(row["hold"])


def short(value):
    """A ratio with two or three digits, a large one without digits behind the point."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1e}" if abs(value) < 1e-2 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def goals_table(evidence):
    """One line for each goal: what must hold, what a prototype reached, what was measured, and the verdict."""
    lines = [
        [row["says"], bound(row), row["stretch"], row["prototype"], short(row["value"]), verdict(row)]
        for row in rows_of(evidence)
    ]  # fmt: skip
    header = ["what", "must be", "stretch", "prototype", "measured", "verdict"]
    return table(header, lines, align="lrrrrl") if lines else NOTHING


def conditions_table(evidence):
    """How each number was taken, and why one is missed or missing."""
    lines = [[row["name"], row["conditions"], row["reason"]] for row in rows_of(evidence)]
    return table(["name", "at what size", "remark"], lines) if lines else NOTHING


def scoring_table(evidence):
    """Every size at which scoring was timed: operations, seconds, rate over the square product."""
    cells = details_of(evidence, "scoring").get("cells", {})
    lines = [
        [name, f"{row['operations'] / 1e9:,.0f}", f"{sorted(row['seconds'])[len(row['seconds']) // 2]:.2f}",
         f"{row['rate']:.2f}", " ".join(f"{one:.2f}" for one in row["rates"])]
        for name, row in cells.items()
    ]  # fmt: skip
    header = ["samples a task, tokens", "10⁹ operations", "seconds", "rate / square product", "each round"]
    return table(header, lines, align="lrrrr") if lines else NOTHING


def machine_table(evidence):
    """The machines that the numbers are of, each with what was measured on it."""
    groups = evidence.get("bench", {}).get("groups", {})
    lines = []
    for words in unique(in_words(group["machine"]) for group in groups.values()):
        own = [name for name, group in groups.items() if in_words(group["machine"]) == words]
        lines.append([*words, ", ".join(own), f"{sum(groups[name]['seconds'] for name in own) / 60:.0f}"])
    header = ["processor", "instructions", "threads", "GPU", "versions", "date", "groups", "minutes"]
    return table(header, lines, align="llrllllr") if lines else NOTHING


def in_words(machine):
    """What a reader wants to know of a machine."""
    versions = ", ".join(
        f"{name} {version}" for name, version in machine["versions"].items() if version != "not installed"
    )
    return (machine["processor"], machine["cpu_capability"], machine["threads"], machine["cuda"],
            f"Python {machine['python']}, {versions}", machine["date"])  # fmt: skip


def state(evidence):
    """What there is to know before the numbers are read: which are of other sources, which were not measured."""
    rows = rows_of(evidence)
    stale = [row for row in rows if row["changed"]]
    missing = [row for row in rows if row["status"] == "not run" and not row["changed"]]
    missed = [row for row in rows if row["status"] in ("missed", "wrong") and not row["changed"]]
    parts = []
    if stale:
        sources = unique(source for row in stale for source in row["changed"])
        names = ", ".join(row["name"] for row in stale)
        parts.append(
            f"The numbers of {names} are of other sources; changed since: {', '.join(sources)}. They are shown, and count "
            "as not run."
        )
    parts += [f"{row['says']}: {VERDICTS[row['status']]}. {row['reason'] or 'No reason is given.'}" for row in missed]
    for reason in unique(row["reason"] for row in missing):
        names = ", ".join(row["name"] for row in missing if row["reason"] == reason)
        parts.append(f"{names}: not run, as {reason}.")
    if not rows:
        parts.append("No record of speed and memory was read.")
    if not parts:
        return "Every goal was measured on the sources of this build and is held.\n"
    return ":::{warning}\n" + "\n".join(f"- {cell(part)}" for part in parts) + "\n:::\n"


def bench_numbers(evidence):
    """Numbers for the prose: ``{{ bench_... }}``; those of other sources are marked in the tables, not here."""
    rows = rows_of(evidence)
    current = [row for row in rows if not row["changed"]]
    with_goal = [row for row in current if row["hold"] is not None]
    square = details_of(evidence, "scoring").get("square product, operations per second")
    counted = details_of(evidence, "scoring").get("exponents of the operations", {})
    return operations_in_words() | {
        "bench_goals": sum(row["hold"] is not None for row in rows),
        "bench_held": sum(row["status"] == "held" for row in with_goal),
        "bench_missed": sum(row["status"] in ("missed", "wrong") for row in with_goal),
        "bench_not_run": sum(row["hold"] is not None for row in rows) - sum(row["status"] != "not run" for row in with_goal),
        "bench_square": f"{square / 1e9:.0f}" if square else "(not measured)",
        "bench_operations_n": f"{counted['n']:.2f}" if counted else "(not measured)",
        "bench_operations_t": f"{counted['t']:.2f}" if counted else "(not measured)",
    }  # fmt: skip


def operations_in_words(n=100, length=128):
    """Counts for GPT-2 small: building and scoring one layer in 10⁹ operations, and collecting over that of all layers."""
    sizes = shapes.FULL
    parameters = 4 * sizes.hidden**2
    both = shapes.scoring_operations(parameters, n, n, length)
    pairs = shapes.scoring_operations(parameters, n, n, 0)
    model = SimpleNamespace(n_embd=sizes.hidden, n_layer=sizes.layers, vocab_size=sizes.vocabulary, n_inner=None)
    collected = 2 * n * sum(collection.operations(model, length).values())
    return {
        "bench_layer": f"{both / 1e9:.0f}",
        "bench_building": f"{(both - pairs) / 1e9:.0f}",
        "bench_pairs": f"{pairs / 1e9:.0f}",
        "bench_collecting": f"{collected / both / sizes.layers:.1f}",
    }
