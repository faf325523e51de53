"""Tables of "Does it help?": what each choice of frozen slices kept of a task, and what merging by Fisher diagonals brought.

Numbers are those of the committed long run; where its sources have changed since, a warning stands above them. Rows of
freezing are sorted by what is kept, so that the order is the result and not a choice of ours.
"""

from .statistics_tables import bound, measured, state_of, verdict
from .tables import table, unique

FREEZING, NOT_MADE, MERGING, REFERENCES = (
    "freezing",
    "freezing, progress not made",
    "merging",
    "merging, references",
)
EXACT = ("freezing is exact", "merging is exact")
RANDOM, PLAIN = "random slices", "plain average"


def remedies_tables(evidence):
    """Every table as MyST text, by name."""
    return {
        "remedies_freezing": freezing_tables(evidence),
        "remedies_merging": merging_tables(evidence),
        "remedies_exact": exact_table(evidence),
        "remedies_state": state_of(evidence, "remedies_long"),
    }


def long_rows(evidence, *studies):
    """Rows of some studies of the committed long run, in their order."""
    rows = evidence.get("remedies_long", {}).get("rows", [])
    return [row for row in rows if row["study"] in studies]


def freezing_tables(evidence):
    """One table for each pair of tasks and optimiser, least forgetting first."""
    rows = long_rows(evidence, FREEZING, NOT_MADE)
    header = [
        "frozen: the slices with the most", "A's loss rises by", "against random slices", "steps", "seeds", "as predicted",
    ]  # fmt: skip
    parts = []
    for data in unique(row["data"] for row in rows):
        made = [row for row in rows if row["data"] == data and row["study"] == FREEZING]
        lines = [freezing_line(row) for row in sorted(made, key=lambda row: row["value"])]
        lines += [
            [row["procedure"], "progress not made", "–", f"over {row['at'][-1]}", f"0 of {row['sets']}", share(row)]
            for row in rows
            if row["data"] == data and row["study"] == NOT_MADE
        ]
        parts.append(f"**{data}**\n\n{table(header, lines, align='lrrrrr')}")
    return "\n".join(parts) or "Nothing of this was measured.\n"


def freezing_line(row):
    """One arm: forgetting and steps with their intervals, and how many of the slices "predicted" names too."""
    return [
        row["procedure"],
        interval((row["value"], row["low"], row["high"])),
        interval(row["against_random"]),
        f"{row['steps'][0]:.1f}",
        f"{row['sets']} of {row['sets'] + row['not_reached']}",
        share(row),
    ]


def share(row):
    """Part of the frozen slices that "predicted" freezes too, in per cent."""
    return "–" if row["shared"] is None else f"{100 * row['shared']:.0f} %"


def merging_tables(evidence):
    """One table for each pair of tasks: start, experts, methods."""
    parts = []
    rows = long_rows(evidence, REFERENCES, MERGING)
    header = [
        "model",
        "mean loss, weight chosen",
        "against plain",
        "weight",
        "mean loss, weight 1/2",
        "against plain, 1/2",
    ]
    for data in unique(row["data"] for row in rows):
        lines = []
        for row in (row for row in rows if row["data"] == data):
            whole = interval((row["value"], row["low"], row["high"]), 3)
            if row["study"] == REFERENCES:
                lines.append([row["procedure"], whole, "–", "–", "–", "–"])
                continue
            lines.append(
                [
                    row["procedure"],
                    whole,
                    interval(row["against_plain"], 3),
                    f"{row['weight'][0]:.2f}",
                    interval(row["at_half"], 3),
                    interval(row["half_against_plain"], 3),
                ]
            )
        parts.append(f"**{data}**\n\n{table(header, lines, align='lrrrrr')}")
    return "\n".join(parts) or "Nothing of this was measured.\n"


def exact_table(evidence):
    """What must hold for the comparison to be one, in both runs."""
    long = {(row["study"], row["procedure"]): row for row in long_rows(evidence, *EXACT)}
    short = {(row["study"], row["procedure"]): row for row in evidence.get("remedies", []) if row["study"] in EXACT}
    lines = []
    for key in unique([*long, *short]):
        pair = long.get(key), short.get(key)
        lines.append([*key, bound(pair[0] or pair[1]), *map(measured, pair), verdict(*pair)])
    header = ["study", "what", "bound", "long run", "this build", "verdict"]
    return table(header, lines, align="llrrrl") if lines else "Nothing of this was measured.\n"


def interval(values, digits=4):
    """A value with its interval, signed where it is a difference that may be either.

    Example:
        >>> interval((0.01234, -0.001, 0.02)), interval(None)
        ('0.0123 (-0.0010 to 0.0200)', '–')
    """
    if values is None:
        return "–"
    value, low, high = (f"{one:.{digits}f}" for one in values)
    return f"{value} ({low} to {high})"


def remedies_numbers(evidence):
    """Numbers for the prose: ``{{ remedy_... }}``, of the long run.

    For each pair and optimiser: of all scores, how many keep more of A than random slices do, and how many less, with an
    interval that excludes 0.
    """
    rows = [row for row in long_rows(evidence, FREEZING) if row.get("against_random")]
    chosen = [row for row in rows if row["procedure"] != "nothing frozen"]
    better = [row for row in chosen if row["against_random"][2] < 0]
    worse = [row for row in chosen if row["against_random"][1] > 0]
    merged = [row for row in long_rows(evidence, MERGING) if row["procedure"] != PLAIN]
    return {
        "remedy_comparisons": len(chosen),
        "remedy_better": len(better),
        "remedy_worse": len(worse),
        "remedy_better_names": named(better),
        "remedy_worse_names": named(worse),
        "remedy_merging_comparisons": len(merged),
        "remedy_merging_better": sum(row["against_plain"][2] < 0 for row in merged),
        "remedy_merging_worse": sum(row["against_plain"][1] > 0 for row in merged),
    }


def named(rows):
    """Arms with where they were found, for a sentence."""
    return "; ".join(f"{row['procedure']} ({row['data']})" for row in rows) or "none"
