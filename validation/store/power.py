"""Power failures: every moment of a run, and the states that a disk may be in afterwards (:mod:`validation.store.disk`).

Runs are a collection; one that was killed at some point and gone on with, as what a killed process had not synced is lost
only now; and a repair.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

from tqdm.auto import tqdm

from qkov import store, store_repair

from . import damage, kills, system, workload
from .disk import Disk, Recorder
from .outcomes import Outcome
from .workload import Acknowledged, Findings

NAME = "power"


def run(points: int, *, progress: bool = False, stop: bool = False, seed: int = 0) -> Outcome:
    """Judge so many states: a fifth of them from a plain collection, a fifth from repairs, the others after kills."""
    outcome, draw = Outcome(NAME, stop=stop), random.Random(seed)
    with workload.scratch() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trials = _trials(root, points, draw)
        for point, findings in tqdm(trials, total=points, desc=NAME, disable=not progress):
            if outcome.add(point, findings):
                break
    return outcome


def _trials(root: Path, points: int, draw: random.Random) -> Iterator[tuple[str, Findings]]:
    plain = recorded(root, None)
    yield from _crashes(root, "collection", plain, points // 5, draw)
    killed = points - 2 * (points // 5)
    places = max(1, killed // 5)
    for number in range(places):
        at, share = number * len(plain) // places, killed // places + (number < killed % places)
        yield from _crashes(root, f"kill at {at}, then collection", recorded(root, at), share, draw)
    yield from _repairs(root, points // 5, draw)


def _crashes(root: Path, name: str, moments: list, share: int, draw: random.Random) -> Iterator[tuple[str, Findings]]:
    for disk, acked, point in _drawn(moments, share, draw, name):
        _put(root, disk.crashed(draw))
        yield point, workload.judge(root / "store", acked)


def _drawn(moments: list, share: int, draw: random.Random, name: str) -> Iterator[tuple[Disk, Acknowledged, str]]:
    """Moments, spread evenly from a random start."""
    start = draw.random()
    for number in range(share):
        place = int((number + start) * len(moments) / share) % len(moments)
        disk, acked = moments[place]
        yield disk, set(acked), f"{name}, operation {place}, draw {number}"


def recorded(root: Path, kill_at: int | None) -> list:
    """Follow a collection, or the second half of a killed one with what the first had not synced."""
    _emptied(root)
    recorder = Recorder(root)

    def ack(step) -> None:
        recorder.acked |= workload.acknowledged(step)
        recorder.note()

    if kill_at is not None:
        with system.installed(recorder.stopping(kill_at)), contextlib.suppress(system.Killed):
            workload.collect(root / "store", ack=ack)
        recorder.moments.clear()
        recorder.handles.clear()

    def opened(found: store.Store) -> None:
        recorder.acked |= workload.held(found.contents)  # what is skipped from now on counts as kept
        recorder.note()

    with system.installed(recorder.act):
        workload.collect(root / "store", ack=ack, opened=opened)
    return recorder.moments


def _repairs(root: Path, points: int, draw: random.Random) -> Iterator[tuple[str, Findings]]:
    cases = damage.cases()
    for place, case in enumerate(cases):
        _emptied(root)
        workload.restore(root / "store", case.files())
        recorder = Recorder(root, {f"store/{name}": data for name, data in case.files().items()})
        with system.installed(recorder.act):
            store_repair.repair_store(root / "store")
        share = points // len(cases) + (place < points % len(cases))
        for disk, _, point in _drawn(recorder.moments, share, draw, f"repair of {case.name}"):
            _put(root, disk.crashed(draw))
            yield point, kills.judge_repair(root / "store", case.sound)


def _emptied(root: Path) -> None:
    for path in root.iterdir():
        shutil.rmtree(path)


def _put(root: Path, state: dict[str, bytes | None]) -> None:
    _emptied(root)
    for name, data in state.items():
        if data is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(data)
