"""Damage to the bytes of a store: it must be noticed, named, and repaired without losing what is sound.

Silent is a store that opens and reads to the end without an error or a warning and whose numbers are not those that were
collected. Damage that changes no number and no sample is harmless.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from qkov import store_repair
from qkov.errors import QKOVError
from qkov.store import Store

from . import damage, kills, workload
from .damage import Damage
from .outcomes import Outcome
from .workload import Findings

NAME = "corruption"
REPAIRED = 5  # one in so many is also verified and repaired


def run(
    flips: int, truncations: int, zeroings: int, *, progress: bool = False, stop: bool = False, seed: int = 0
) -> Outcome:
    """Do so much damage of each kind, and remove each file once."""
    outcome = Outcome(NAME, stop=stop)
    every = [
        *damage.removals(),
        *damage.truncations(truncations, seed + 1),
        *damage.zeroings(zeroings, seed + 2),
        *damage.flips(flips, seed),
    ]
    with workload.scratch() as folder:
        trials = _trials(folder / "store", every)
        for point, findings in tqdm(trials, total=len(every), desc=NAME, disable=not progress):
            if outcome.add(point, findings):
                break
    return outcome


def _trials(folder: Path, every: list[Damage]) -> Iterator[tuple[str, Findings]]:
    state = None
    for number, one in enumerate(sorted(every, key=lambda one: one.state)):  # few changes of state: a file at a time
        if one.state != state:
            workload.restore(folder, damage.states()[one.state])
        state = one.state
        original = damage.states()[state][one.file]
        changed = one.change(original)
        if changed == original:
            yield one.name, []
            continue
        path = folder / one.file
        path.unlink() if changed is None else path.write_bytes(changed)
        findings = judge_reading(folder, state)
        if number % REPAIRED == 0:
            findings += judge_verifying(folder, one) + judge_resuming(folder, one) + judge_repair(folder, one)
            workload.restore(folder, damage.states()[state])
        path.write_bytes(original)
        yield one.name, findings


def judge_reading(folder: Path, state: str) -> Findings:
    """Damage must show, or change nothing that was collected."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = summary(folder)
    except (QKOVError, UserWarning):
        return []
    except Exception as error:  # noqa: BLE001 - whatever else a damaged file may raise is the finding
        return [("untold", f"{type(error).__name__}: {error}")]
    expected = workload.reference()[1], {"beta": {"z": "asked for"}}
    if state == "unsealed":  # nothing vouches for the last lines; those of samples are missed by their shards
        found, expected = _samples(found), _samples(expected)
    return [] if found == expected else [("silent", "reads without a word, and is not what was collected")]


def summary(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every number of a store, and what it says was skipped."""
    return workload.read_all(folder), Store.reading(folder, allow_unsealed=True).contents.skipped


def _samples(found: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return {task: samples for task, samples in found[0].items() if samples}


def judge_verifying(folder: Path, one: Damage) -> Findings:
    """Verification must name the damaged file, unless it is one whose loss ends nothing but the seal."""
    try:
        report = store_repair.verify_store(folder)
    except QKOVError as error:
        return [] if one.file in str(error) or "holds no store" in str(error) else [("silent", f"verify: {error}")]
    said = " ".join((*report.problems, *report.notes))
    known = one.file.rpartition("/")[2] in said or (one.file == "seal.json" and not report.sealed)
    known = known or (one.file == "journal" and "the journal" in said)
    known = known or (one.file == "journal" and not report.sealed and not _lost_samples(folder))
    return [] if known else [("silent", f"verify does not name {one.file}: {said or 'nothing'}")]


def _lost_samples(folder: Path) -> bool:
    """Whether the journal of an unsealed store, cut between lines, has lost a line that lists samples."""
    return len(store_repair.store_contents.read(folder).entries) < len(damage.places())


def judge_repair(folder: Path, one: Damage) -> Findings:
    """A repair must keep what is sound, name what is lost, and a collection afterwards restore all."""
    workload.restore(folder, one.files())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = store_repair.repair_store(folder)
            found = workload.read_all(folder)
    except QKOVError as error:
        return [("wrong", f"repair: {type(error).__name__}: {error}")]
    there = {(task, name) for task, samples in found.items() for name in samples}
    findings = [("lost", f"{sample} was sound") for sample in sorted(one.sound - there, key=str)]
    lost = set(damage.places()) - one.sound
    if set(report.damaged) != lost:
        findings.append(("silent", f"the repair names {list(report.damaged)} as lost, and lost are {list(lost)}"))
    return findings + kills.judge_repair(folder, one.sound)


def judge_resuming(folder: Path, one: Damage) -> Findings:
    """A writer must refuse the damage, or keep every sound sample."""
    workload.restore(folder, one.files())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = Store.writing(folder)
    except QKOVError:
        return []
    found = workload.held(store.contents)
    store.close()
    return [("lost", f"{sample} is dropped by the next writer") for sample in one.sound - found]
