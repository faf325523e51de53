"""Stand-ins for the module ``os`` through which a store changes files: they count, kill, refuse, record."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from qkov import durable, store_lock

PRIMITIVES = ("open", "write", "pwrite", "fsync", "close", "replace", "unlink", "ftruncate", "mkdir")


class Killed(BaseException):
    """The end of a process, inside a process: nothing that follows reaches the disk."""


class System:
    """``os`` for a store, each primitive going through a function.

    Args:
        act: ``act(name, call, arguments)``, which returns what the primitive returns.
    """

    def __init__(self, act: Callable[[str, Callable, tuple[Any, ...]], Any]):
        self._act = act

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in PRIMITIVES:
            return found
        return lambda *arguments: self._act(name, found, arguments)


@contextlib.contextmanager
def installed(act: Callable, *, lock: bool = False) -> Iterator[None]:
    """Let the store act through a function; with ``lock`` the lock too."""
    system = System(act)
    with mock.patch.object(durable, "os", system):
        if not lock:
            yield
            return
        with mock.patch.object(store_lock, "os", system):
            yield


def count(run: Callable[[], None], *, lock: bool = False) -> list[str]:
    """Names of the primitives that a run goes through, in order."""
    names: list[str] = []

    def act(name: str, call: Callable, arguments: tuple[Any, ...]) -> Any:
        names.append(name)
        return call(*arguments)

    with installed(act, lock=lock):
        run()
    return names


def ending(at: int, end: Callable[[], None]) -> Callable:
    """Call ``end`` in place of the ``at``-th primitive (from 0); of a write, half is done before."""
    done = 0

    def act(name: str, call: Callable, arguments: tuple[Any, ...]) -> Any:
        nonlocal done
        done += 1
        if done == at + 1:
            if name == "write":
                handle, data = arguments
                call(handle, data[: len(data) // 2])
            end()
        return call(*arguments)

    return act


def stopping(at: int) -> Callable:
    """End what a process does at the ``at``-th primitive; open files are closed, as the end of a process does."""
    done = 0

    def act(name: str, call: Callable, arguments: tuple[Any, ...]) -> Any:
        nonlocal done
        done += 1
        if done <= at or name == "close":
            return call(*arguments)
        if done == at + 1 and name == "write":
            handle, data = arguments
            call(handle, data[: len(data) // 2])
        raise Killed

    return act
