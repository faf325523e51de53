"""Tables of what a program written from the methods appendix alone reproduced, and which misreadings were noticed."""

from .tables import table

WHAT = {
    "independent_scores": "averages of every slice in all seven variants, the largest score of each block, Fisher sums",
    "independent_top": "the strongest pairs of each block",
    "independent_options": "every other pool, source, damping, normalisation and aggregation, and biases",
    "independent_noise": "samples whose tokens are all equal: 0 where the gradient is rounding",
    "independent_predicted": "predicted changes: three optimisers, three curvatures",
    "independent_tests": "exceedance counts of tests, of one slice and of the family, and of single samples",
    "independent_statistics": "statistics and effects of tests",
    "independent_unequal": "a test of unequal groups with all relabelings that exist",
    "independent_intervals": "lifts with their intervals",
    "independent_misreadings": "wrong readings of the text that went unnoticed",
}


def independent_tables(evidence):
    """Both tables as MyST text, by name."""
    return {"independent": independent_table(evidence), "misreadings": misreadings_table(evidence)}


def independent_table(evidence):
    """One line for each comparison: what of which model, the error and the bound."""
    made = [row for row in evidence["results"] if row["check"].startswith("independent_")]
    order = list(dict.fromkeys([*WHAT, *(row["check"] for row in made)]))
    rows = [
        [WHAT.get(row["check"], row["check"]), row["model"], row["compared"], row["error"], row["bound"], row["status"]]
        for row in sorted(made, key=lambda row: order.index(row["check"]))
    ]
    header = ["reproduced from the text", "on", "numbers", "error", "bound", "status"]
    return table(header, rows, align="llrrrl") if rows else "Nothing was reproduced in this run.\n"


def misreadings_table(evidence):
    """Each wrong reading of the text, the equation that it misreads, and what noticed it."""
    rows = [
        [row["misreading"], row["equation"], shortly(row["noticed_by"]), row["ratio"], row["status"]]
        for row in evidence.get("misreadings", [])
    ]
    header = ["wrong reading", "equation", "noticed by", "error / bound", "status"]
    return table(header, rows, align="lllrl") if rows else "No misreading was planted in this run.\n"


def shortly(noticed_by):
    """Name comparisons once each, with the models on which they were made in brackets.

    Example:
        >>> shortly(["independent_scores on llama", "independent_scores on gpt2", "independent_tests"])
        'scores (llama, gpt2); tests'
    """
    models = {}
    for one in noticed_by:
        check, _, model = one.removeprefix("independent_").partition(" on ")
        models.setdefault(check, []).append(model)
    return "; ".join(check + (f" ({', '.join(where)})" if all(where) else "") for check, where in models.items())


def independent_numbers(evidence):
    """Numbers for the prose: ``{{ independent_... }}``."""
    rows = [row for row in evidence["results"] if row["check"].startswith("independent_")]
    missed = [row for row in evidence.get("misreadings", []) if row["status"] != "noticed"]
    return {
        "independent_rows": len(rows),
        "independent_kept": sum(row["status"] == "passed" for row in rows),
        "independent_compared": f"{sum(row['compared'] for row in rows):,}",
        "independent_misreadings": len(evidence.get("misreadings", [])),
        "independent_missed": len(missed),
    }
