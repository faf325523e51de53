"""SIGKILL at the N-th change of a file, in a forked process: during collection, sealing, recovery and repair.

The child says through a pipe which steps were acknowledged; the parent judges what is left. What has been written, synced
or not, survives the end of a process: power losses are another matter, :mod:`validation.store.power`.
"""

from __future__ import annotations

import itertools
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm.auto import tqdm

from qkov import store_repair
from qkov.errors import QKOVError

from . import damage, system, workload
from .outcomes import Outcome
from .workload import PLAN, Acknowledged, Findings

NAME = "kills"
PRIMITIVES_OF_RECOVERY, PRIMITIVES_OF_REPAIR = 40, 40


def run(points: int, *, progress: bool = False, stop: bool = False) -> Outcome:
    """Kill so many times, spread over everything a store does.

    Half of the kills hit a collection, the others a process that finds what such a kill has left, or a repair.
    """
    outcome = Outcome(NAME, stop=stop)
    with workload.scratch() as folder:
        trials = itertools.islice(_trials(folder / "store", points), points)
        for point, findings in tqdm(trials, total=points, desc=NAME, disable=not progress):
            if outcome.add(point, findings):
                break
    return outcome


def _trials(folder: Path, points: int) -> Iterator[tuple[str, Findings]]:
    steps = len(system.count(lambda: workload.collect(folder), lock=True))
    left: list[tuple[str, dict[str, bytes], Acknowledged]] = []
    for at in _spread(steps, max(1, points // 2)):
        workload.restore(folder, {})
        acked = killed(lambda ack: workload.collect(folder, ack=ack), at)
        left.append((f"collection, primitive {at}", workload.tree(folder), acked))
        yield left[-1][0], workload.judge(folder, acked)
    repairs = _repairs(folder)
    for number in itertools.count():
        point, files, acked = left[(number * 7) % len(left)]
        at = (number * 3) % PRIMITIVES_OF_RECOVERY
        workload.restore(folder, files)
        more = killed(lambda ack: workload.collect(folder, ack=ack), at)
        yield f"{point}, then primitive {at}", workload.judge(folder, acked | more)
        yield next(repairs)


def _repairs(folder: Path) -> Iterator[tuple[str, Findings]]:
    """Kill a repair, repair again, and compare with what was sound."""
    for number in itertools.count():
        case = damage.cases()[number % len(damage.cases())]
        at = number // len(damage.cases()) % PRIMITIVES_OF_REPAIR
        workload.restore(folder, case.files())
        killed(lambda ack: store_repair.repair_store(folder), at)
        yield f"repair of {case.name}, primitive {at}", judge_repair(folder, case.sound)


def judge_repair(folder: Path, sound: Acknowledged) -> Findings:
    """What an interrupted repair must leave: a store that can be repaired and holds all that was sound, then all."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store_repair.repair_store(folder)
            found = workload.read_all(folder)
            workload.collect(folder)
            whole = workload.read_all(folder)
    except QKOVError as error:
        return [("wrong", f"after a repair, {type(error).__name__}: {error}")]
    there = {(task, name) for task, samples in found.items() for name in samples}
    findings = [("lost", f"{one} was sound") for one in sorted(sound - there, key=str)]
    expected = workload.reference(PLAN)[1]
    findings += workload.differing(found, expected)
    return findings + ([] if whole == expected else [("wrong", "a collection after a repair does not restore all")])


def killed(run: Callable[[Callable], None], at: int) -> Acknowledged:
    """Run in a child that is killed at a primitive; return what it acknowledged until then.

    Args:
        run: Called with ``ack``, to be called with each step that has returned.
    """
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: torch's own, idle here
        child = os.fork()
    if not child:
        _child(run, at, read, write)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        done = stream.read()
    os.waitpid(child, 0)
    return set().union(*(workload.acknowledged(PLAN[place]) for place in done), set())


def _child(run: Callable[[Callable], None], at: int, read: int, write: int) -> None:
    """Never returns."""
    try:
        os.close(read)
        warnings.simplefilter("ignore")
        with system.installed(system.ending(at, lambda: os.kill(os.getpid(), signal.SIGKILL)), lock=True):
            run(lambda step: os.write(write, bytes([PLAN.index(step)])))
    finally:
        os._exit(0)


def _spread(size: int, points: int) -> list[int]:
    """Every place if there are points enough, again from the start until they are used up; else evenly spread ones."""
    if points >= size:
        return [number % size for number in range(points)]
    return [number * size // points for number in range(points)]
