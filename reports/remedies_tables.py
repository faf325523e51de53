"""Tables of "Does it help?": what each choice of frozen slices kept of a task, and what merging by Fisher diagonals brought.

Numbers are those of the committed long run; where its sources have changed since, a warning stands above them. Rows of
freezing are sorted by what is kept, so that the order is the result and not a choice of ours.
"""

from .statistics_tables import bound, measured, state_of, verdict
from .tables import cell, table, unique

FREEZING, HALF, NOT_MADE = "freezing", "freezing, half the progress", ", not made"
MERGING, REFERENCES = "merging", "merging, references"
EXACT = ("freezing is exact", "merging is exact")
RANDOM, PLAIN = "random slices", "plain average"


def remedies_tables(evidence):
    """Every table as MyST text, by name."""
    return {
        "remedies_freezing": freezing_tables(evidence, FREEZING),
        "remedies_half": freezing_tables(evidence, HALF),
        "remedies_merging": merging_tables(evidence),
        "remedies_exact": exact_table(evidence),
        "remedies_state": state_of(evidence, "remedies_long"),
    }


def long_rows(evidence, *studies):
    """Rows of some studies of the committed long run, in their order."""
    rows = evidence.get("remedies_long", {}).get("rows", [])
    return [row for row in rows if row["study"] in studies]


def freezing_tables(evidence, study):
    """One table for each pair of tasks and optimiser, least forgetting first."""
    rows = long_rows(evidence, study, study + NOT_MADE)
    header = [
        "frozen: the slices with the most", "A's loss rises by", "against random slices", "steps", "seeds", "as predicted",
    ]  # fmt: skip
    parts = []
    for data in unique(row["data"] for row in rows):
        made = [row for row in rows if row["data"] == data and row["study"] == study]
        lines = [freezing_line(row) for row in sorted(made, key=lambda row: row["value"])]
        lines += [
            [row["procedure"], "progress not made", "–", f"over {row['at'][-1]}", f"0 of {row['sets']}", share(row)]
            for row in rows
            if row["data"] == data and row["study"] == study + NOT_MADE
        ]
        parts.append(f"**{data}**\n\n{table(header, lines, align='lrrrrr')}")
    return "\n".join(parts) or "Nothing of this was measured.\n"


def freezing_line(row):
    """One arm: forgetting and steps with their intervals, and how many of the slices "predicted" names too."""
    return [
        row["procedure"],
        interval((row["value"], row["low"], row["high"])) if row["sets"] > 1 else f"{row['value']:.4f}",
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

    Over all pairs and optimisers: how many scores keep more of A than random slices do, and how many less, with an interval
    that excludes 0; at the whole progress and at half of it.
    """
    merged = [row for row in long_rows(evidence, MERGING) if row["procedure"] != PLAIN]
    rows = {(row["study"], row["procedure"], row["data"]): row for row in long_rows(evidence, FREEZING, MERGING)}
    return {
        **{name: said(rows.get(key), field) for name, (key, field) in PROSE.items()},
        **against_random(long_rows(evidence, FREEZING), "remedy"),
        **against_random(long_rows(evidence, HALF), "remedy_half"),
        "remedy_merging_comparisons": len(merged),
        "remedy_merging_better": sum(row["against_plain"][2] < 0 for row in merged),
        "remedy_merging_worse": sum(row["against_plain"][1] > 0 for row in merged),
    }


CODE, PROSE_KEPT = "arithmetic kept, code learned, Adam", "prose kept, capitals learned, Adam"
PROSE = {
    "remedy_code_none": ((FREEZING, "nothing frozen", CODE), "value"),
    "remedy_code_random": ((FREEZING, RANDOM, CODE), "value"),
    "remedy_code_predicted": ((FREEZING, "predicted", CODE), "value"),
    "remedy_code_heatmap": ((FREEZING, "averaged heatmap", CODE), "value"),
    "remedy_code_fisher": ((FREEZING, "Fisher of A", CODE), "value"),
    "remedy_code_helpful": ((FREEZING, "helpful by prediction", CODE), "value"),
    "remedy_capitals_none": ((FREEZING, "nothing frozen", PROSE_KEPT), "value"),
    "remedy_capitals_predicted": ((FREEZING, "predicted", PROSE_KEPT), "value"),
    "remedy_capitals_random": ((FREEZING, RANDOM, PROSE_KEPT), "value"),
    "remedy_capitals_pooled": ((FREEZING, "unsigned pooled", PROSE_KEPT), "value"),
    "remedy_capitals_fisher": ((FREEZING, "Fisher of A", PROSE_KEPT), "value"),
    "remedy_merged_capitals": ((MERGING, "Fisher-weighted", "arithmetic and capitals"), "against_plain"),
    "remedy_merged_prose": ((MERGING, "Fisher-weighted", "arithmetic and prose"), "against_plain"),
    "remedy_half_capitals": ((MERGING, "Fisher-weighted", "arithmetic and capitals"), "half_against_plain"),
    "remedy_half_prose": ((MERGING, "Fisher-weighted", "arithmetic and prose"), "half_against_plain"),
}
"""Numbers of the prose: the row, and what of it."""


def said(row, field):
    """A value, or a difference with its interval, for a sentence."""
    if row is None or row[field] is None:
        return "(not measured)"
    return f"{row[field]:.4f}" if field == "value" else interval(row[field], 3)


def against_random(rows, prefix):
    """Count and name the scores that differ from random slices."""
    chosen = [row for row in rows if row["against_random"] and row["procedure"] != "nothing frozen"]
    better = [row for row in chosen if row["against_random"][2] < 0]
    worse = [row for row in chosen if row["against_random"][1] > 0]
    return {
        f"{prefix}_comparisons": len(chosen),
        f"{prefix}_better": len(better),
        f"{prefix}_worse": len(worse),
        f"{prefix}_better_names": named(better),
        f"{prefix}_worse_names": named(worse),
    }


def named(rows):
    """Arms with where they were found, for a sentence."""
    return "; ".join(cell(f"{row['procedure']} ({row['data']})") for row in rows) or "none"
