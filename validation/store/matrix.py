"""Which harness notices which wrong store: each fault is planted in turn, and each harness run until its first finding."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from tqdm.auto import tqdm

from qkov.errors import QKOVError

from . import corruption, damage, faults, kills, machine, power, refusals, traced, workload
from .outcomes import Outcome

POINTS = {"kills": 160, "power": 300, "refusals": 280, "strace": 120, "corruption": 480, "machine": 100}
"""How far a harness goes with a fault that it must notice."""

OTHERS = 4
"""One in so many of these points is tried with faults that a harness need not notice."""

RUN: dict[str, Callable[[int], Outcome]] = {
    "kills": lambda points: kills.run(points, stop=True),
    "power": lambda points: power.run(points, stop=True),
    "refusals": lambda points: refusals.run(points, stop=True),
    "strace": lambda points: traced.run(points, stop=True),
    "corruption": lambda points: corruption.run(points * 2 // 3, points // 6, points // 6, stop=True),
    "machine": lambda points: machine.run(points, stop=True),
}


def prepare() -> None:
    """Make what harnesses compare with, from the store as it is."""
    workload.reference()
    damage.states()
    damage.places()
    damage.cases()
    machine.expected("alpha", 0)


def run_fault(name: str, harness: str) -> Outcome:
    """Plant a fault and run one harness until it notices."""
    prepare()
    points = POINTS[harness] // (1 if harness == faults.FAULTS[name].expected else OTHERS)
    with faults.FAULTS[name].plant(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return RUN[harness](points)
        except (QKOVError, AssertionError, OSError) as error:  # the store does not even work undisturbed
            outcome = Outcome(harness)
            outcome.add("before anything was done to it", [("wrong", f"{type(error).__name__}: {error}")])
            return outcome


def run(*, every: bool, names: Iterable[str] | None = None, progress: bool = False) -> list[dict[str, Any]]:
    """Plant faults and say who noticed.

    Args:
        every: Run every harness on each fault; else only the one that is expected to notice.
        names: Faults; default all.

    Returns:
        For each fault: fault, description, expected, caught_by, not_run (harnesses), status ("caught", "missed", "not run"),
        said (the expected harness's first finding), seconds.
    """
    rows = []
    for name in tqdm(list(faults.FAULTS if names is None else names), desc="store faults", disable=not progress):
        started, fault = time.perf_counter(), faults.FAULTS[name]
        outcomes = {harness: run_fault(name, harness) for harness in (RUN if every else [fault.expected])}
        expected = outcomes[fault.expected]
        rows.append(
            {
                "fault": name,
                "description": fault.description,
                "expected": fault.expected,
                "caught_by": [harness for harness, outcome in outcomes.items() if not outcome.passed],
                "not_run": [harness for harness, outcome in outcomes.items() if outcome.not_run],
                "status": "not run" if expected.not_run else "missed" if expected.passed else "caught",
                "said": expected.examples[0] if expected.examples else "",
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    return rows
