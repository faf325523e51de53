"""The system refuses: no space, a fault of the disk, a read-only disk, no permission, too many files; and short writes.

At each change of a file in turn an error is raised in its place: once, until it is noticed, or three times in a row, after
which the process gives up. The caller must get a ``DiskError`` with the number of that error and exit status 7, the store must
be as it was before the step, and the same call must succeed once the fault is gone. Openings of files for reading are refused
in the same way, while a store is gone on with, read and repaired.
"""

from __future__ import annotations

import errno
import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tqdm.auto import tqdm

from qkov import store_repair
from qkov.errors import DiskError, QKOVError
from qkov.store import Store

from . import damage, kills, system, workload
from .outcomes import Outcome
from .workload import PLAN, Acknowledged, Findings

NAME = "refusals"
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE)
WAYS = ("once", "until noticed", "thrice, then gives up")
UNCHANGED = ("pass", "task", "skip", "seal")  # steps after whose refusal the store must be as before, byte for byte
SHORT = (1, 7, 100)  # bytes that a short write takes


def run(points: int, *, progress: bool = False, stop: bool = False) -> Outcome:
    """Refuse so many times: every primitive, errors and ways in turn; every fifth a reading; and three short-writing runs."""
    outcome = Outcome(NAME, stop=stop)
    with workload.scratch() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trials = itertools.islice(_trials(folder / "store"), points)
        for point, findings in tqdm(trials, total=points, desc=NAME, disable=not progress):
            if outcome.add(point, findings):
                break
    return outcome


def _trials(folder: Path) -> Iterator[tuple[str, Findings]]:
    for most in SHORT:
        workload.restore(folder, {})
        yield f"writes of at most {most} bytes", _short(folder, most)
    starts = [{}, _torn_line()]
    names = [
        system.count(lambda files=files: workload.collect(workload.restore(folder, files)), lock=True)
        for files in starts
    ]
    reads = refused_reads(folder)
    for turn in itertools.count():
        start = starts[turn % 2]  # every other turn goes on behind a torn line
        for at, name in enumerate(names[turn % 2]):
            number = ERRORS[(at + turn // 2 // len(WAYS)) % len(ERRORS)]
            way = WAYS[(at + turn // 2) % len(WAYS)]
            workload.restore(folder, start)
            yield (
                f"{errno.errorcode[number]} at primitive {at} ({name}), {way}",
                Refusal(folder, at, number, way).judged(),
            )
            if at % 4 == 3:
                yield next(reads)


class Refusal:
    """One run of the plan in which the system refuses in one of :data:`WAYS`."""

    def __init__(self, folder: Path, at: int, number: int, way: str):
        self.folder, self.at, self.number, self.way = folder, at, number, way
        self.done, self.over = 0, False
        self.acked: Acknowledged = set()
        self.findings: Findings = []

    def act(self, name: str, call: Callable, arguments: tuple[Any, ...]) -> Any:
        """Stand in for a primitive."""
        self.done += 1
        if self.over or self.done <= self.at:
            return call(*arguments)
        self.over = self.way == WAYS[0] or (self.way == WAYS[2] and self.done == self.at + 3)
        if name == "close":  # the handle is gone whatever close returns
            call(*arguments)
        raise OSError(self.number, os.strerror(self.number))

    def judged(self) -> Findings:
        """Run the plan, repeating a step that was refused; then judge as after an interruption."""
        with system.installed(self.act, lock=True):
            try:
                self._run()
            except GivenUp:
                self.over = True
            except QKOVError as error:
                return [*self.findings, ("wrong", f"not usable afterwards, {type(error).__name__}: {error}")]
            except OSError as error:
                return [*self.findings, ("untold", f"{type(error).__name__} instead of a DiskError: {error}")]
        return self.findings + workload.judge(self.folder, self.acked)

    def _run(self) -> None:
        store = self._again(lambda: Store.writing(self.folder), "open")
        try:
            if store.header is None:
                self._again(lambda: store.create(workload.HEADER), "create")
            for step in PLAN:
                self._again(lambda step=step: workload.perform(store, step), step[0])
                self.acked |= workload.acknowledged(step)
        finally:
            store.close()

    def _again(self, call: Callable[[], Any], what: str) -> Any:
        before = workload.tree(self.folder) if what in UNCHANGED else {}
        try:
            return call()
        except DiskError as error:
            self.over = self.over or self.way != WAYS[2]
            if (error.errno, error.exit_status) != (self.number, 7):
                self.findings.append(("untold", f"errno {error.errno}, exit status {error.exit_status}: {error}"))
        if self.way == WAYS[2]:
            raise GivenUp
        if what in UNCHANGED and self.way == WAYS[0] and workload.tree(self.folder) != before:
            self.findings.append(("wrong", f"a refused {what} left the store changed"))
        return call()


class GivenUp(Exception):
    """The process ends after a refusal."""


def refused_reads(folder: Path) -> Iterator[tuple[str, Findings]]:
    """Refuse openings of files for reading, one after another, with errors in turn."""
    torn = _torn_line()
    everything = set(damage.places())
    runs: list[tuple[str, dict[str, bytes], Acknowledged, Callable[[], object]]] = [
        ("going on", torn, everything, lambda: workload.collect(folder)),
        ("reading", damage.states()["sealed"], everything, lambda: workload.read_all(folder)),
        *(
            (f"repair of {case.name}", case.files(), case.sound, lambda: store_repair.repair_store(folder))
            for case in damage.cases()
        ),
    ]
    for number in itertools.count():
        name, files, sound, run = runs[number % len(runs)]
        at, error = number // len(runs) * 7 % 20, ERRORS[(number // len(runs)) % len(ERRORS)]
        if (
            error == errno.EIO and "repair" in name
        ):  # what the disk cannot read is lost, and a repair goes on without it
            error = errno.EMFILE
        workload.restore(folder, files)
        findings = _refused_read(folder, at, error, run)
        judge = workload.judge_resuming if name == "going on" else kills.judge_repair
        yield f"{errno.errorcode[error]} at reading {at}, {name}", findings + judge(folder, sound)


def _refused_read(folder: Path, at: int, number: int, run: Callable[[], object]) -> Findings:
    done, opening = 0, open

    def refusing(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        nonlocal done
        if "r" in mode and isinstance(path, Path) and path.is_relative_to(folder):
            done += 1
            if done == at + 1:
                raise OSError(number, os.strerror(number))
        return opening(path, mode, *arguments, **options)

    try:
        with mock.patch("builtins.open", refusing), mock.patch("io.open", refusing):
            run()
    except DiskError as error:
        right = (error.errno, error.exit_status) == (number, 7)
        return [] if right else [("untold", f"errno {error.errno}, exit status {error.exit_status}: {error}")]
    except QKOVError as error:
        return [("untold", f"{type(error).__name__} instead of a DiskError: {error}")]
    except OSError as error:
        return [("untold", f"{type(error).__name__} instead of a DiskError: {error}")]
    return [("untold", f"reading {at} was refused without a word")] if done > at else []


def _torn_line() -> dict[str, bytes]:
    """Files of a store whose last pass has lost a part of its line."""
    files = dict(damage.states()["unsealed"])
    files["journal"] = files["journal"][: files["journal"].rfind(b'"kind":"pass"') + 40]
    return files


def _short(folder: Path, most: int) -> Findings:
    def act(name: str, call: Callable, arguments: tuple[Any, ...]) -> Any:
        if name == "write":
            return call(arguments[0], arguments[1][:most])
        return call(*arguments)

    try:
        with system.installed(act):
            workload.collect(folder)
    except QKOVError as error:
        return [("wrong", f"{type(error).__name__}: {error}")]
    same = workload.tree(folder) == workload.reference()[0]
    return [] if same else [("wrong", "the files differ from those of whole writes")]
