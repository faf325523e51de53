"""What may be on a disk after a power failure, given what was written, synced and renamed before.

A file's bytes are safe once the file was synced, its name once its folder was. Until then the system may have kept the old,
the new, a part, or the new length filled with zeros, of each file by itself; and of the names in a folder those up to some
change, or any of the changes.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from . import system

DATA = ("dropped", "kept", "torn", "zeroed", "torn and zeroed")
NAMES = ("in order", "any")


@dataclass
class File:
    """Bytes that are safe, and those that programs see."""

    synced: bytes = b""
    current: bytes = b""


@dataclass
class Folder:
    """Names that are safe, and the changes since: ``(name, File, Folder or None for a removed one)`` each."""

    synced: dict[str, Any] = field(default_factory=dict)
    changes: list[list[tuple[str, Any]]] = field(default_factory=list)

    @property
    def current(self) -> dict[str, Any]:
        """Names that programs see."""
        return _applied(self.synced, self.changes)


class Disk:
    """A disk below one folder, changed by the same operations as the real one."""

    def __init__(self, root: Path, files: dict[str, bytes] | None = None):
        self.root, self.top = root, Folder()
        for name, data in (files or {}).items():
            *folders, last = PurePosixPath(name).parts
            place = self.top
            for one in folders:
                place = place.synced.setdefault(one, Folder())
            place.synced[last] = File(data, data)

    def folder(self, path: Path) -> Folder:
        """The folder at a path."""
        found = self.top
        for name in path.relative_to(self.root).parts:
            found = found.current[name]
        return found

    def change(self, path: Path, value: Any) -> None:
        """Give a name to a file or folder, or take it away."""
        self.folder(path.parent).changes.append([(path.name, value)])

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file: one change of one folder, or one of each of two."""
        moved = self.folder(source.parent).current[source.name]
        if source.parent == target.parent:
            self.folder(source.parent).changes.append([(source.name, None), (target.name, moved)])
        else:
            self.change(target, moved)
            self.change(source, None)

    def crashed(self, draw: random.Random) -> dict[str, bytes | None]:
        """One possible state after a power failure: bytes by path below the root, None for folders."""
        return dict(_crashed(self.top, draw, draw.choice(NAMES), ""))


def _applied(names: dict[str, Any], changes: list[list[tuple[str, Any]]]) -> dict[str, Any]:
    found = dict(names)
    for name, value in (one for change in changes for one in change):
        found.pop(name, None) if value is None else found.update({name: value})
    return found


def _crashed(folder: Folder, draw: random.Random, names: str, path: str) -> list[tuple[str, bytes | None]]:
    if names == "in order":
        kept = folder.changes[: draw.randint(0, len(folder.changes))]
    else:
        kept = [change for change in folder.changes if draw.random() < 0.5]
    result: list[tuple[str, bytes | None]] = []
    for name, value in _applied(folder.synced, kept).items():
        if isinstance(value, Folder):
            result += [(path + name, None), *_crashed(value, draw, names, f"{path}{name}/")]
        else:
            result.append((path + name, _bytes_after(value, draw)))
    return result


def _bytes_after(file: File, draw: random.Random) -> bytes:
    """What is left of a file; a store only appends, cuts, or writes new files."""
    old, new = file.synced, file.current
    if old == new:
        return new
    how = draw.choice(DATA)
    if how in ("dropped", "kept"):
        return old if how == "dropped" else new
    if not new.startswith(old):  # it was cut: either length
        return draw.choice((old, new))
    written = 0 if how == "zeroed" else draw.randint(0, len(new) - len(old))
    zeros = 0 if how == "torn" else len(new) - len(old) - written
    return new[: len(old) + written] + bytes(zeros)


class Recorder:
    """Follow the operations of a store on a :class:`Disk`, and keep a copy of it after each.

    Attributes:
        moments: ``(disk, acknowledged)`` after each operation that changes what a power failure could leave.
    """

    def __init__(self, root: Path, files: dict[str, bytes] | None = None):
        self.disk, self.handles = Disk(root, files), {}
        self.acked: set[Any] = set()
        self.moments: list[tuple[Disk, frozenset[Any]]] = []

    def act(self, name: str, call: Callable, arguments: tuple[Any, ...]) -> Any:
        """Do it, and follow it; for ``system.installed``."""
        result = call(*arguments)
        self._follow(name, arguments, result)
        if name not in ("close", "open") or self.disk.top.changes:
            self.note()
        return result

    def note(self) -> None:
        """Remember how things are now."""
        self.moments.append((copy.deepcopy(self.disk), frozenset(self.acked)))

    def stopping(self, at: int) -> Callable:
        """As :func:`system.stopping`, and follow what was done until then."""
        inner = system.stopping(at)

        def act(name: str, call: Callable, arguments: tuple[Any, ...]) -> Any:
            return inner(name, lambda *given: self.act(name, call, given), arguments)

        return act

    def _follow(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        if name == "open":
            self._opened(Path(arguments[0]), arguments[1], result)
        elif name == "write":
            file = self.handles[arguments[0]]
            file.current += bytes(memoryview(arguments[1])[:result])
        elif name == "fsync":
            found = self.handles[arguments[0]]
            if isinstance(found, Folder):
                found.synced, found.changes = found.current, []
            else:
                found.synced = found.current
        elif name == "ftruncate":
            file = self.handles[arguments[0]]
            file.current = file.current[: arguments[1]].ljust(arguments[1], b"\0")
        elif name in ("unlink", "mkdir"):
            self.disk.change(Path(arguments[0]), Folder() if name == "mkdir" else None)
        elif name == "replace":
            self.disk.replace(*map(Path, arguments))
        elif name == "close":
            self.handles.pop(arguments[0], None)

    def _opened(self, path: Path, flags: int, handle: int) -> None:
        if flags & os.O_DIRECTORY:
            self.handles[handle] = self.disk.folder(path) if path.is_relative_to(self.disk.root) else Folder()
            return
        names = self.disk.folder(path.parent).current
        if path.name not in names:
            self.disk.change(path, File())
        self.handles[handle] = self.disk.folder(path.parent).current[path.name]
