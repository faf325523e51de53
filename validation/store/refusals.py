"""The system refuses: no space, a fault of the disk, a read-only disk, no permission, too many files; and short writes.

At each change of a file in turn an error is raised in its place, once or until it is noticed. The caller must get a
``DiskError`` with the number of that error and exit status 7, the store must be as it was before the step, and the same call
must succeed once the fault is gone.
"""

from __future__ import annotations

import errno
import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from qkov.errors import DiskError, QKOVError
from qkov.store import Store

from . import system, workload
from .outcomes import Outcome
from .workload import PLAN, Acknowledged, Findings

NAME = "refusals"
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE)
UNCHANGED = ("pass", "task", "skip", "seal")  # steps after whose refusal the store must be as before, byte for byte
SHORT = (1, 7, 100)  # bytes that a short write takes


def run(points: int, *, progress: bool = False, stop: bool = False) -> Outcome:
    """Refuse so many times: every primitive, errors in turn, once and persistently in turn; and three short-writing runs."""
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
    names = system.count(lambda: workload.collect(workload.restore(folder, {})), lock=True)
    for turn in itertools.count():
        for at, name in enumerate(names):
            number = ERRORS[(at + turn // 2) % len(ERRORS)]
            once = (at + turn) % 2 == 0
            workload.restore(folder, {})
            trial = Refusal(folder, at, number, once)
            yield f"{errno.errorcode[number]} {'at' if once else 'from'} primitive {at} ({name})", trial.judged()


class Refusal:
    """One run of the plan in which the system refuses once, or until it is noticed."""

    def __init__(self, folder: Path, at: int, number: int, once: bool):
        self.folder, self.at, self.number, self.once = folder, at, number, once
        self.done, self.over = 0, False
        self.acked: Acknowledged = set()
        self.findings: Findings = []

    def act(self, name: str, call: Callable, arguments: tuple[Any, ...]) -> Any:
        """Stand in for a primitive."""
        self.done += 1
        if self.over or self.done <= self.at:
            return call(*arguments)
        self.over = self.once
        if name == "close":  # the handle is gone whatever close returns
            call(*arguments)
        raise OSError(self.number, os.strerror(self.number))

    def judged(self) -> Findings:
        """Run the plan, repeating a step that was refused; then judge as after an interruption."""
        with system.installed(self.act, lock=True):
            try:
                self._run()
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
            self.over = True
            if (error.errno, error.exit_status) != (self.number, 7):
                self.findings.append(("untold", f"errno {error.errno}, exit status {error.exit_status}: {error}"))
        if what in UNCHANGED and self.once and workload.tree(self.folder) != before:
            self.findings.append(("wrong", f"a refused {what} left the store changed"))
        return call()


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
