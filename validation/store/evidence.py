"""What the harnesses found, as rows: briefly in every run of the validation, in full for the file that is committed.

A row has the form of :class:`validation.committed.CommittedEvidence`. Its ``value`` is the number of findings, which must be
0, or for a planted fault the number of harnesses that noticed, which must not be. Further keys: lost, wrong, silent, untold,
seconds, examples; of a fault: fault, expected, caught_by, not_run, said.
"""

from __future__ import annotations

import time
from typing import Any

from .. import committed
from . import corruption, kills, machine, matrix, power, refusals, traced
from .outcomes import KINDS, Outcome

HARNESS, FAULT = "store harness", "store fault"
SAID = {
    "kills": ("SIGKILL at a change of a file", "collection, recovery, repair"),
    "power": ("power failure", "unsynced bytes and names dropped, torn, zeroed, reordered"),
    "refusals": ("refused changes, refused reading, short writes", "ENOSPC, EIO, EROFS, EACCES, EMFILE"),
    "strace": ("system calls refused or killed", "errors injected below Python"),
    "corruption": ("flipped bits, lost ends, zeros, lost files", "every file, sealed and unsealed"),
    "machine": ("any order of operations against a dictionary", "30 steps each"),
}

EVIDENCE = committed.CommittedEvidence(
    path=committed.FOLDER / "store_soak.json",
    format="qkov-store-1",
    sources=(
        "qkov/durable.py",
        "qkov/journal.py",
        "qkov/shards.py",
        "qkov/store.py",
        "qkov/store_contents.py",
        "qkov/store_lock.py",
        "qkov/store_repair.py",
        "validation/store/*.py",
    ),
)


def harnesses(long: bool, *, progress: bool = False) -> list[Outcome]:
    """Run all harnesses: in full, or each at a few points."""
    if long:
        return [
            kills.run(1000, progress=progress),
            power.run(2000, progress=progress),
            refusals.run(2000, progress=progress),
            traced.run(600, progress=progress),
            corruption.run(10_000, 1000, 1000, progress=progress),
            machine.run(500),
        ]
    return [
        kills.run(50),
        power.run(100),
        refusals.run(100),
        traced.run(20),
        corruption.run(150, 40, 40),
        machine.run(10),
    ]


def measure(long: bool, *, jobs: int = 1, progress: bool = False) -> list[dict[str, Any]]:
    """Run the harnesses, and plant the faults: in full for every harness, else each for the one that must notice it.

    ``jobs`` is not used: killed children and traced ones want no neighbours.
    """
    matrix.prepare()
    rows = [harness_row(outcome) for outcome in harnesses(long, progress=progress)]
    names = None if long else SHORT
    return rows + [fault_row(one) for one in matrix.run(every=long, names=names, progress=progress)]


SHORT = (
    "trusts_names_of_the_killed",
    "takes_ids_twice",
    "files_not_synced",
    "folders_not_synced",
    "lines_not_synced",
    "line_before_shards",
    "tensors_unchecked",
    "lines_unchecked",
    "seal_unchecked",
    "repair_drops_whole_passes",
    "lock_not_taken",
    "ids_swapped",
    "errors_swallowed",
)
"""Faults that every run plants: quick to notice, some for each harness."""


def harness_row(outcome: Outcome) -> dict[str, Any]:
    """The row of a harness; one that could not run keeps its reason and counts no point."""
    procedure, data = SAID[outcome.harness]
    passed = outcome.passed and (outcome.points > 0 or bool(outcome.not_run))
    row = _row(
        HARNESS, procedure, data if not outcome.not_run else f"not run: {outcome.not_run}", max(1, outcome.points)
    )
    return row | {
        "value": float(outcome.found),
        "bound": 0.0 if not outcome.not_run else None,
        "direction": "at most" if not outcome.not_run else "shown",
        "status": "passed" if passed else "failed",
        "harness": outcome.harness,
        "points": outcome.points,
        **{kind: getattr(outcome, kind) for kind in KINDS},
        "seconds": round(outcome.seconds, 1),
        "examples": outcome.examples,
    }


def fault_row(one: dict[str, Any]) -> dict[str, Any]:
    """The row of a planted fault."""
    ran = one["status"] != "not run"
    row = _row(FAULT, one["fault"], f"noticed by {one['expected']}", 1)
    return row | {
        "value": float(len(one["caught_by"])),
        "bound": 0.0 if ran else None,
        "direction": "must exceed" if ran else "shown",
        "status": "failed" if one["status"] == "missed" else "passed",
        **{name: one[name] for name in ("fault", "description", "expected", "caught_by", "not_run", "said", "seconds")},
    }


def _row(study: str, procedure: str, data: str, sets: int) -> dict[str, Any]:
    return {"study": study, "procedure": procedure, "data": data, "sets": sets, "low": 0.0, "high": 0.0}


def make_long(jobs: int = 1) -> list[dict[str, Any]]:
    """Measure in full, write the file, return the rows."""
    started = time.perf_counter()
    rows = measure(True, progress=True)
    EVIDENCE.write(rows, time.perf_counter() - started)
    return rows
