"""What is measured, what has to hold, and what a measurement came to.

A group is what is measured together, in one module of this package; a goal is one number of it.
"""

import math
from dataclasses import dataclass, field

AT_LEAST, AT_MOST, SHOWN = "at least", "at most", "shown"
HELD, MISSED, WRONG, NOT_RUN = "held", "missed", "wrong", "not run"


@dataclass(frozen=True)
class Goal:
    """One number to hold.

    Attributes:
        name: Short, for the command line. group: Name of its module. says: What the number is.
        direction: "at least", "at most", or "shown" where nothing was promised.
        hold: The bound. stretch: A further one that nobody promised. prototype: What a prototype reached, in words.
    """

    name: str
    group: str
    says: str
    direction: str
    hold: float | None = None
    stretch: float | None = None
    prototype: str = ""


GOALS = (
    Goal("scoring", "scoring", "scoring rate / square float32 product, n ≥ 50, T ≥ 128", AT_LEAST, 0.65, 0.80,
         "0.72-0.89"),
    Goal("scoring-short", "scoring", "the same, T = 32-64, n = 50", AT_LEAST, 0.50, None, "0.56-0.70"),
    Goal("growth-n", "scoring", "exponent of the scoring time in n, 25 to 200", AT_MOST, 1.4, None, "1.20"),
    Goal("growth-t", "scoring", "exponent of the scoring time in T, 32 to 512", AT_MOST, 0.9, None, "0.67"),
    Goal("collection", "collection", "collection rate / square float32 product", AT_LEAST, 0.70, 0.85, "0.80-0.85"),
    Goal("autograd", "end_to_end", "time / one-sample-at-a-time autograd and stacked products, end to end", AT_MOST,
         1.10, None, "0.88-1.08"),
    Goal("vmap", "end_to_end", "time / torch.func's per-sample gradients and stacked products, end to end", SHOWN),
    Goal("opacus", "libraries", "time / Opacus, dot products of per-sample gradients", AT_MOST, 0.80, None,
         "0.59-0.72"),
    Goal("opacus-all", "libraries", "the same with no weight frozen for Opacus", SHOWN),
    Goal("kronfluence", "libraries", "time / Kronfluence, pairwise scores with the identity", AT_MOST, 0.90, None,
         "0.66-0.80"),
    Goal("pair-loop", "pair_loop", "time of a loop over pairs, layers, heads and blocks / time", AT_LEAST, 12, None,
         "16"),
    Goal("pair-loop-diagnostics", "pair_loop", "the same loop with statistics of every pair's slices / time", AT_LEAST,
         80, None, "125"),
    Goal("stored", "storage", "stored bytes / one full gradient a sample", AT_MOST, 0.27, None, "0.25"),
    Goal("peak", "memory", "peak memory / full gradients, stacked", AT_MOST, 0.35, None, "0.25"),
    Goal("budget", "budget", "peak memory / memory_budget", AT_MOST, 1.10),
    Goal("permutations", "permutations", "rate of 10,000 permutations x 576 slices, N = 200 / square product", AT_LEAST,
         0.65, None, "0.82"),
    Goal("permutation-loop", "permutations", "time of a loop over the same permutations / time", AT_LEAST, 25, None,
         "39"),
    Goal("oracle", "accuracy", "largest error of float32 against float64 loops, relative", AT_MOST, 1e-5, None,
         "1.7e-6"),
    Goal("gpu", "gpu", "GPU: scoring rate / square float32 product of cuBLAS", AT_LEAST, 0.60),
)  # fmt: skip
GROUPS = tuple(dict.fromkeys(goal.group for goal in GOALS))


class NotRunError(RuntimeError):
    """Something that a measurement needs is not there; the message says what."""


class DisagreementError(ValueError):
    """Two routes that must give the same numbers do not: their times say nothing about each other."""


def require_agreement(found, expected, bound, what):
    """Compare two arrays, relative to the largest entry, and return the difference.

    Raises:
        DisagreementError: If they differ by more than ``bound``, in shape, or are not finite.
    """
    import numpy as np

    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape or not found.size:
        raise DisagreementError(f"{what}: shapes {found.shape} and {expected.shape} differ, or nothing was compared.")
    scale = float(np.abs(expected).max())
    difference = float(np.abs(found - expected).max()) / scale if scale > 0 else math.nan
    if not difference <= bound:
        raise DisagreementError(
            f"{what}: numbers differ by {difference:.2g} of the largest; expected at most {bound:g}."
        )
    return difference


@dataclass(frozen=True)
class Measured:
    """What a group found.

    Attributes:
        values: ``{goal name: number}``. conditions: ``{goal name: sizes and circumstances, in words}``.
        not_run: ``{goal name: reason}``. wrong: ``{goal name: what disagreed}``.
        details: Plain numbers behind the values, for tables and pictures.
    """

    values: dict
    conditions: dict
    not_run: dict = field(default_factory=dict)
    wrong: dict = field(default_factory=dict)
    details: dict = field(default_factory=dict)


def goals_of(group):
    """Goals of a group."""
    return [goal for goal in GOALS if goal.group == group]


def judged(goal, value):
    """Status of a value; what is not finite is no measurement."""
    if value is None or not math.isfinite(value):
        return WRONG
    if goal.direction == SHOWN:
        return HELD
    return HELD if (value >= goal.hold if goal.direction == AT_LEAST else value <= goal.hold) else MISSED


def rows_of(group, measured):
    """A row for each goal of a group: name, value, status, and what was measured."""
    rows = []
    for goal in goals_of(group):
        row = {"name": goal.name, "value": None, "status": NOT_RUN, "conditions": "", "reason": ""}
        if goal.name in measured.wrong:
            row |= {"status": WRONG, "reason": measured.wrong[goal.name]}
        elif goal.name in measured.not_run:
            row |= {"reason": measured.not_run[goal.name]}
        elif goal.name in measured.values:
            value = float(measured.values[goal.name])
            row |= {"value": value if math.isfinite(value) else None, "status": judged(goal, value),
                    "conditions": measured.conditions.get(goal.name, "")}  # fmt: skip
            if not math.isfinite(value):
                row["reason"] = f"the value is {value}"
        else:
            row |= {"reason": "the measurement gave no such number"}
        rows.append(row)
    return rows
