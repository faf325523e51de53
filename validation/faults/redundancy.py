"""Which checks the faults show to be needed: how many each catches, how many it alone, and why the others are kept.

"Redundant" is meant given these faults: a check that never is the only one to catch a fault could go without a fault
getting through. Each such check has its reason here; a check that has one and catches a fault alone must lose it, so that
the list stays true.
"""

EQUIVALENT_SHARE = 0.05  # of all faults, at most, may be declared equivalent

_EXPERIMENT = "It is an experiment on the model, which trusts neither the layout that was found nor the reference"
_NEEDS_NO_REFERENCE = "It needs no second implementation, which could share the mistake"

REASONS = {
    "ablation": f"{_EXPERIMENT}: whole heads are masked, where zeroed_weights clears parameters.",
    "averages": "It says that the averages are wrong where empty_task sees only that those of an empty task are.",
    "batch_invariance": "It tells which neighbours leak: it changes the batch size alone, isolation everything at once.",
    "bounds": f"{_NEEDS_NO_REFERENCE}, and it holds for each pair, where the marginal identity holds for their mean.",
    "contributions": "It compares what is squared, so that a failure of scores can be told from one of gradients.",
    "damping": "It writes the denominators out, dead and noisy slices included, which scores of healthy slices do not reach.",
    "damping_scale": "It is the law that users with small gradients need: the same F / D for a loss a thousand times smaller.",
    "determinism": "Equal bits are stronger than any bound: it alone would see a difference below the others' rounding.",
    "fisher_diagonal": "It compares two ways to the diagonal bit by bit; importance compares sums of one of them.",
    "foreign_fisher": "It writes pools B and pooled out; the others see them through a law or for one variant.",
    "full_fisher": "It forms the whole matrix; scaled_gradients solves its equation without forming it.",
    "gauge": f"{_NEEDS_NO_REFERENCE}: the same function in other coordinates.",
    "gqa_twin": "It asks another model, expanded to one key and value a head, which kv head a query head uses.",
    "head_additivity": f"{_NEEDS_NO_REFERENCE}: scores of heads add up to that of the uncut weight.",
    "head_rows": f"{_EXPERIMENT}: one head alone is left open, and its Q, K and V rows must be those with a gradient.",
    "isolation": "It is the law that squares rest on: a sample alone and in a batch, whatever leaks and however.",
    "leverage": f"{_NEEDS_NO_REFERENCE}: a bound on single pairs of the whole matrix.",
    "loss_scale": "It is exact, with no rounding to hide behind, and needs no second implementation.",
    "marginal_identity": f"{_NEEDS_NO_REFERENCE}, and it is the identity that says what an averaged map does not hold.",
    "matrix_rotation": f"{_NEEDS_NO_REFERENCE}: full and kfac do not depend on coordinates.",
    "matrix_scale": "It is exact under powers of 2, for every damping that is relative.",
    "noise_floor": "It asks on a model where attention cannot act; matrix_noise_floor asks the same of other variants.",
    "order_invariance": "It permutes samples alone, and so tells an order that matters from neighbours that do.",
    "output_columns": f"{_EXPERIMENT}: one head alone is left open, and its O columns must be those with a gradient.",
    "reference_gradients": "It is the comparison on which every other reference rests.",
    "relabelling": f"{_EXPERIMENT}: heads are permuted in the weights, and scores must follow.",
    "rotation": f"{_NEEDS_NO_REFERENCE}: the summed Fisher of a slice stays when its coordinates turn.",
    "row_perturbation": f"{_EXPERIMENT}: weights of one slice are changed, and only its own heads may move.",
    "slices_tile": "It covers every entry of a weight; experiments sample heads and layers.",
    "square_then_reduce": f"{_NEEDS_NO_REFERENCE}: the variance of gradients is what both orders differ by.",
    "symmetry": f"{_NEEDS_NO_REFERENCE}: what must read the same from B to A.",
    "token_sum": f"{_NEEDS_NO_REFERENCE}: gradients of halves of the labels add up, which a mean over tokens breaks.",
    "zeroed_weights": f"{_EXPERIMENT}: it tells the four blocks apart, which shapes cannot.",
    "statistics: pair scores": "It names the function; the exchange test that rests on it says only that something is wrong.",
    "statistics: order of the tasks": "It states what a permutation of labels needs, whatever loop it is compared with.",
    "statistics: sums over pairs": "It compares exact sums bit by bit, the exchange test within rounding.",
    "statistics: halves": "It names the function; ceilings and reliabilities that rest on it say only that one is wrong.",
}  # fmt: skip
"""Why a check is kept that never is the only one to catch a fault."""


def count(faults, checks=()):
    """Count for every check the faults that it catches, and those that only it catches.

    Args:
        faults: Rows of ``faults`` of the evidence; equivalent ones count for nothing.
        checks: Names to list first, also those that catch nothing.

    Returns:
        Rows of ``redundancy`` of the evidence: check, caught, alone, reason.
    """
    real = [fault["caught_by"] for fault in faults if fault["status"] != "equivalent"]
    names = dict.fromkeys([*checks, *(fault["expected"] for fault in faults), *(name for one in real for name in one)])
    return [
        {
            "check": name,
            "caught": sum(name in one for one in real),
            "alone": sum(one == [name] for one in real),
            "reason": REASONS.get(name, ""),
        }
        for name in names
    ]


def complaints(rows, faults):
    """List what is not true of the reasons and of the proofs.

    Args:
        rows: Of :func:`count`.
        faults: Rows of ``faults``.
    """
    found = [
        f"check {row['check']!r} is never the only one to catch a fault, and validation/faults/redundancy.py has no reason "
        "to keep it"
        for row in rows
        if not row["alone"] and not row["reason"]
    ]
    found += [
        f"check {row['check']!r} is the only one to catch {row['alone']} faults; take it out of the reasons in "
        "validation/faults/redundancy.py"
        for row in rows
        if row["alone"] and row["reason"]
    ]
    equivalent = [fault["fault"] for fault in faults if fault["status"] == "equivalent"]
    if len(equivalent) > EQUIVALENT_SHARE * len(faults):
        found.append(f"{len(equivalent)} of {len(faults)} faults are declared equivalent; at most 5 % may be")
    unknown = set(REASONS) - {row["check"] for row in rows}
    return found + [f"a reason is given for {name!r}, which is no check" for name in sorted(unknown)]
