"""Tables of "Does it predict?": how every score ranks what real steps do, by pair of tasks, optimiser, size and block.

Numbers are those of the committed long run; where its sources have changed since, a warning stands above. Scores are sorted
by what they achieve, so that the order is the result and not a choice of ours.
"""

from .statistics_tables import measured, state_of
from .tables import table, unique

NAME = "prediction_long"
SMALL = "size 0.03"
PAIRS = ("conflict", "help", "mixed", "unrelated", "trained")
FAMILY = "llama"
SEEDS_AVERAGE = "seeds' average (unsigned, pool A)"


def prediction_tables(evidence):
    """Every table as MyST text, by name."""
    return {
        "prediction_state": state_of(evidence, NAME),
        "prediction_tasks": tasks_table(evidence),
        "prediction_bounds": bounds_table(evidence),
        "prediction_ranks": ranks_table(evidence),
        "prediction_blocks": blocks_table(evidence),
        "prediction_sizes": sizes_table(evidence),
        "prediction_limits": limits_table(evidence),
        "prediction_pairs": pairs_table(evidence),
        "prediction_planted": planted_table(evidence),
    }


def rows_of(evidence, study, family=None):
    """Rows of a study of the long run with pair, family and the rest of their data taken apart."""
    found = []
    for row in evidence.get(NAME, {}).get("rows", []):
        if row["study"] == f"prediction: {study}":
            pair, own, where = row["data"].split(", ", 2)
            if family in (None, own):
                found.append(row | {"pair": pair, "family": own, "where": where})
    return found


def nothing(lines, made):
    """A table, or the sentence that there is none."""
    return made if lines else "Nothing of this was measured.\n"


def interval(row, digits=2):
    """A value with its interval."""
    return "–" if row is None else f"{row['value']:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"


def tasks_table(evidence):
    """What kind of pairs these are, by gradients alone."""
    rows = rows_of(evidence, "tasks")
    lines = []
    for pair, family in unique((row["pair"], row["family"]) for row in rows):
        own = {row["procedure"]: row for row in rows if (row["pair"], row["family"]) == (pair, family)}
        values = (f"{own[name]['value']:.2f}" for name in ("cosine", "conflicting slices", "reliability"))
        lines.append([pair, family, *values, own["cosine"]["sets"]])
    header = ["pair", "model", "cosine of mean gradients", "share of slices in conflict", "reliability", "seeds"]
    return nothing(lines, table(header, lines, align="llrrrr"))


def bounds_table(evidence):
    """What was promised of "predicted": a line for each pair, model, optimiser and size; this build's own short run last."""
    lines = []
    for rows, own in ((evidence.get(NAME, {}).get("rows", []), ""), (evidence.get("prediction", []), " (this build)")):
        bounded = [row for row in rows if row["bound"] is not None]
        for data in unique(row["data"] for row in bounded):
            members = [row for row in bounded if row["data"] == data]
            found = {name(row): measured(row) for row in members}
            values = (found.get(study, "–") for study in ("rank", "slope", "R2", "pairs"))
            lines.append(
                [data + own, *values, "kept" if all(row["status"] == "passed" for row in members) else "NOT KEPT"]
            )
    header = ["data", "rank correlation", "slope", "R2", "rank correlation of pairs", "verdict"]
    return nothing(lines, table(header, lines, align="lrrrrl"))


def name(row):
    """A study without its prefix."""
    return row["study"].removeprefix("prediction: ")


def ranks_table(evidence):
    """Every score by how it ranks slices: a column for each pair with plain gradient steps, and one for Adam."""
    rows = rows_of(evidence, "rank", FAMILY)
    columns = [(pair, "sgd") for pair in PAIRS] + [("mixed", "adam")]
    found = {(row["procedure"], row["pair"], row["where"]): row for row in rows}
    lines = []
    for score in unique(row["procedure"] for row in rows):
        own = [found.get((score, pair, f"{optimiser}, {SMALL}")) for pair, optimiser in columns]
        lines.append([score, *map(interval, own)])
    keys = {line[0]: found.get((line[0], "mixed", f"sgd, {SMALL}")) for line in lines}
    lines.sort(key=lambda line: -keys[line[0]]["value"] if keys[line[0]] else 2)
    header = ["score", *(f"{pair}, {optimiser}" for pair, optimiser in columns)]
    return nothing(lines, table(header, lines, align="l" + "r" * len(columns)))


BLOCK_SCORES = (
    "predicted", "dot", "cosine", "signed, pooled", "full, pooled", "kfac, pooled", "unsigned, pooled",
    "seeds' average (unsigned, pool A)", "norm of B's gradient", "size of the weights",
)  # fmt: skip


def blocks_table(evidence):
    """Within a block: optimisers and blocks side by side for some scores."""
    found = {(row["procedure"], row["pair"], row["where"]): row for row in rows_of(evidence, "rank in a block", FAMILY)}
    lines = []
    for pair in PAIRS[:3]:
        for optimiser in ("sgd", "adam", "sign"):
            for score in BLOCK_SCORES:
                own = [found.get((score, pair, f"{optimiser}, {SMALL}, block {block}")) for block in "QKVO"]
                if any(own):
                    lines.append([pair, optimiser, score, *map(interval, own)])
    return nothing(lines, table(["pair", "optimiser", "score", "Q", "K", "V", "O"], lines, align="lllrrrr"))


def sizes_table(evidence):
    """Rank, slope and R2 of "predicted" and of its first order, by size."""
    rank = {(row["procedure"], row["data"]): row for row in rows_of(evidence, "rank")}
    slope = {(row["procedure"], row["data"]): row for row in rows_of(evidence, "slope")}
    share = {(row["procedure"], row["data"]): row for row in rows_of(evidence, "R2")}
    lines = []
    for row in rows_of(evidence, "R2", FAMILY):
        key = row["procedure"], row["data"]
        if row["pair"] not in PAIRS[:3] or "empirical" in row["procedure"]:
            continue
        lines.append(
            [row["pair"], row["where"], row["procedure"], *(interval(one[key]) for one in (rank, slope, share))]
        )
    header = ["pair", "step", "prediction", "rank correlation", "slope of real on predicted", "R2"]
    return nothing(lines, table(header, unique_lines(lines), align="lllrrr"))


def unique_lines(lines):
    """Lines without repetitions: a bounded figure has a row for each bound."""
    return [list(line) for line in unique(tuple(line) for line in lines)]


def limits_table(evidence):
    """From which size the first order fails, as foretold from gradients alone and as found."""
    rows = rows_of(evidence, "limit")
    lines = []
    for pair, family, optimiser in unique((row["pair"], row["family"], row["where"]) for row in rows):
        own = {
            row["procedure"]: row
            for row in rows
            if (row["pair"], row["family"], row["where"]) == (pair, family, optimiser)
        }
        foretold, found = (own[one].get("each", []) for one in ("foretold", "found"))
        tried = largest_size(evidence, pair, family, optimiser)
        said = [f"{one:g}" if one <= tried else f"above {tried:g}" for one in found]
        lines.append([pair, family, optimiser, ", ".join(f"{one:.2g}" for one in foretold), ", ".join(said)])
    header = ["pair", "model", "optimiser", "foretold, each seed", "found: first size tried that failed"]
    return nothing(lines, table(header, lines, align="lllrr"))


def largest_size(evidence, pair, family, optimiser):
    """The largest size that was tried."""
    places = (row["where"] for row in rows_of(evidence, "rank", family) if row["pair"] == pair)
    return max(float(where.partition("size ")[2]) for where in places if where.startswith(optimiser))


def pairs_table(evidence):
    """Scores of pairs against the change by one sample's step, with its sign and without."""
    signed = {(row["procedure"], row["data"]): row for row in rows_of(evidence, "pairs")}
    size = {(row["procedure"], row["data"]): row for row in rows_of(evidence, "pairs, size of the change")}
    lines = []
    for pair in ("conflict", "help"):
        rows = [row for row in signed.values() if row["pair"] == pair]
        own = {}
        for row in rows:
            kind = "mean" if "mean over slices" in row["where"] else "all"
            own.setdefault(row["procedure"], {})[kind] = row
        for score, found in sorted(own.items(), key=lambda item: -item[1]["mean"]["value"]):
            lines.append(
                [pair, score, interval(found["mean"]), interval(found["all"]),
                 interval(size.get((score, found["mean"]["data"])))]
            )  # fmt: skip
    header = ["pair", "score", "within a slice, mean", "all slices together", "size of the change, within a slice"]
    return nothing(lines, unique_table(header, lines))


def unique_table(header, lines):
    """A table of distinct lines, words to the left and figures to the right."""
    return table(header, unique_lines(lines), align="llrrr")


def planted_table(evidence):
    """How well each score finds planted conflicts."""
    precision = rows_of(evidence, "planted: precision and recall")
    average = {(row["procedure"], row["family"]): row for row in rows_of(evidence, "planted: average precision")}
    lines = [
        [
            row["family"],
            row["procedure"],
            row["where"],
            interval(row),
            interval(average[row["procedure"], row["family"]]),
        ]
        for row in sorted(precision, key=lambda row: (row["family"] != FAMILY, -row["value"]))
    ]
    header = ["model", "score", "planted", "precision = recall", "average precision"]
    return nothing(lines, table(header, lines, align="lllrr"))


def prediction_numbers(evidence):
    """Numbers for the prose: ``{{ pred_... }}``, of the long run."""
    numbers = {}
    for key, score, pair, optimiser in (
        ("pred_seeds_conflict", SEEDS_AVERAGE, "conflict", "sgd"),
        ("pred_seeds_help", SEEDS_AVERAGE, "help", "sgd"),
        ("pred_seeds_mixed", SEEDS_AVERAGE, "mixed", "sgd"),
        ("pred_norm_conflict", "norm of B's gradient", "conflict", "sgd"),
        ("pred_norm_help", "norm of B's gradient", "help", "sgd"),
        ("pred_norm_mixed", "norm of B's gradient", "mixed", "sgd"),
        ("pred_dot_adam", "dot", "mixed", "adam"),
        ("pred_adam", "predicted", "mixed", "adam"),
        ("pred_signed_mixed", "signed, pooled", "mixed", "sgd"),
        ("pred_trained", "predicted", "trained", "sgd"),
    ):
        rows = [
            row for row in rows_of(evidence, "rank", FAMILY)
            if (row["procedure"], row["pair"], row["where"]) == (score, pair, f"{optimiser}, {SMALL}")
        ]  # fmt: skip
        numbers[key] = f"{rows[0]['value']:.2f}" if rows else "(not measured)"
    rows = evidence.get(NAME, {}).get("rows", [])
    bounded = [row for row in rows if row["bound"] is not None]
    return numbers | {
        "pred_rows": len(rows),
        "pred_bounds": len(bounded),
        "pred_bounds_kept": sum(row["status"] == "passed" for row in bounded),
    }
