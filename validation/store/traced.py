"""The kernel refuses, or ends the process: strace injects errors and SIGKILL into the system calls of a store.

Python-level stand-ins (:mod:`validation.store.refusals`) do not see what Python itself calls: reading, listing, closing,
locking. Here a forked child waits until strace is attached to it, so that nothing but the store's own calls is counted.
Needs strace and the permission to trace; where one is missing, :func:`missing` says so and nothing counts as passed.
"""

from __future__ import annotations

import collections
import errno
import functools
import itertools
import mmap
import os
import re
import shutil
import struct
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from tqdm.auto import tqdm

from qkov.errors import DiskError, QKOVError

from . import workload
from .outcomes import Outcome
from .workload import PLAN, Acknowledged, Findings

NAME = "strace"
CALLS = (
    "openat", "write", "fsync", "rename", "unlink", "mkdir", "ftruncate", "flock", "close", "read", "pwrite64", "lseek",
    "getdents64", "newfstatat", "fstat",
)  # fmt: skip
ACTIONS = ("error=ENOSPC", "error=EIO", "error=EROFS", "error=EACCES", "error=EMFILE", "signal=KILL")
ENDED, TOLD, UNTOLD = 1, 2, 3
WAIT = 20.0  # seconds until strace must have attached


@functools.cache
def missing() -> str:
    """Why this cannot run here, or an empty string."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with workload.scratch() as folder:
        try:
            Traced(folder / "store", "openat", "error=EIO", 60000).run()
        except TraceError as error:
            return str(error)
    return ""


class TraceError(Exception):
    """strace could not attach."""


def run(points: int, *, progress: bool = False, stop: bool = False) -> Outcome:
    """Inject so many times: each call in turn, with the actions in turn, at occurrences spread over the run."""
    outcome = Outcome(NAME, stop=stop, not_run=missing())
    if outcome.not_run:
        return outcome
    with workload.scratch() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = list(_points(points, occurrences(folder / "store")))
        for call, action, at in tqdm(every, desc=NAME, disable=not progress):
            workload.restore(folder / "store", {})
            if outcome.add(f"{call}, {action}, occurrence {at}", Traced(folder / "store", call, action, at).judged()):
                break
    return outcome


def occurrences(folder: Path) -> dict[str, int]:
    """How often a run makes each call."""
    log = folder.with_name("calls")
    workload.restore(folder, {})
    Traced(folder, "none", "", 0, log).run()
    names = re.findall(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\(", log.read_text(), re.MULTILINE)
    return {call: count for call, count in collections.Counter(names).items() if call in CALLS}


def _points(points: int, counts: dict[str, int]) -> Iterator[tuple[str, str, int]]:
    """Calls in turn, each at places spread over its occurrences, with the actions in turn; all pairs in the end."""
    order = {call: sorted(range(counts[call]), key=_halving) for call in CALLS if call in counts}
    turns = range(len(ACTIONS) * max(counts.values()))
    every = (
        (
            call,
            ACTIONS[(turn % len(places) + turn // len(places) + number) % len(ACTIONS)],
            1 + places[turn % len(places)],
        )
        for turn in turns
        for number, (call, places) in enumerate(order.items())
        if turn < len(ACTIONS) * len(places)
    )
    return itertools.islice(every, points)


def _halving(turn: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8, ...: binary digits of a number in reverse."""
    return sum((turn >> place & 1) / 2 ** (place + 1) for place in range(turn.bit_length()))


class Traced:
    """One run of the plan, and a reading, under strace.

    What happens in the child is written into shared memory, as a pipe would be among the calls that fail: whether it may
    begin, how it ended, the error's number and exit status, how many steps were acknowledged.
    """

    def __init__(self, folder: Path, call: str, action: str, at: int, log: Path | None = None):
        self.folder, self.at, self.call, self.action, self.log = folder, at, call, action, log
        self.shared = mmap.mmap(-1, 4096)

    def judged(self) -> Findings:
        """What the child found, and what it left."""
        self.run()
        how, number, status, _ = self._read()
        findings: Findings = []
        if how == UNTOLD:
            findings.append(("untold", self.shared[64:1024].rstrip(b"\0").decode(errors="replace")))
        if how == TOLD and self.action.startswith("error="):
            asked = getattr(errno, self.action.removeprefix("error="))
            if (number, status) != (asked, 7):
                said = self.shared[64:1024].rstrip(b"\0").decode(errors="replace")
                findings.append(("untold", f"errno {number}, exit status {status}: {said}"))
        return findings + workload.judge(self.folder, self.acked)

    @property
    def acked(self) -> Acknowledged:
        """What the child acknowledged."""
        return set().union(*(workload.acknowledged(step) for step in PLAN[: self._read()[3]]), set())

    def run(self) -> None:
        """Fork, attach, let it go, wait.

        Raises:
            TraceError: If strace cannot attach.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: torch's own, idle here
            child = os.fork()
        if not child:
            self._child()
        try:
            with self._strace(child) as tracer:
                try:
                    said = self._attached(tracer)
                finally:
                    self.shared[0] = 1 if tracer.poll() is None else 2
                tracer.wait()
                if said:
                    raise TraceError(said)
        finally:
            os.waitpid(child, 0)

    def _strace(self, child: int) -> subprocess.Popen:
        trace = ",".join(CALLS) if self.call == "none" else self.call
        command = ["strace", "-p", str(child), "-e", f"trace={trace}", "-e", "signal=none"]
        command += ["-o", str(self.log or os.devnull)]
        command += [] if self.call == "none" else ["-e", f"inject={self.call}:{self.action}:when={self.at}"]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)

    def _attached(self, tracer: subprocess.Popen) -> str:
        """Wait until it is; why it is not, or an empty string."""
        line = tracer.stderr.readline().decode(errors="replace")
        return "" if "attached" in line else (line.strip() or "strace ended without a word")

    def _child(self) -> None:
        """Never returns."""
        try:
            until = time.monotonic() + WAIT
            while not self.shared[0] and time.monotonic() < until:
                time.sleep(0.0005)
            if self.shared[0] == 1:
                self._work()
        finally:
            os._exit(0)

    def _work(self) -> None:
        warnings.simplefilter("ignore")
        done = 0

        def ack(step) -> None:
            nonlocal done
            done += 1
            self.shared[16:20] = struct.pack("<i", done)

        try:
            workload.collect(self.folder, ack=ack)
            workload.read_all(self.folder)
            self._write(ENDED, 0, 0, "")
        except QKOVError as error:
            number = error.errno if isinstance(error, DiskError) else 0
            self._write(TOLD, number or 0, error.exit_status, f"{type(error).__name__}: {error}")
        except BaseException as error:  # noqa: BLE001 - whatever ended the child is the finding
            self._write(UNTOLD, 0, 0, f"{type(error).__name__}: {error}")

    def _write(self, how: int, number: int, status: int, said: str) -> None:
        self.shared[4:16] = struct.pack("<iii", how, number, status)
        text = said.encode()[:900]
        self.shared[64 : 64 + len(text)] = text

    def _read(self) -> tuple[int, int, int, int]:
        return struct.unpack("<iiii", self.shared[4:20])
