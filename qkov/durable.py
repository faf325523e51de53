"""Bytes on disk that are still there after a crash: whole files, appended lines, folders.

What the system promises after a power failure is only what was synced: the bytes of a file by ``fsync`` of the file, its
name by ``fsync`` of the folder. So a file is written under another name, synced, renamed, and the folder synced; a reader,
or a crash, finds the old file or the whole new one. All changes of files go through this module's ``os``, which is how
tests count, refuse and record them.

An error of the system becomes a :class:`qkov.errors.DiskError` that keeps its ``errno`` and says what to do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DiskError, QKOVError

if TYPE_CHECKING:
    from .option_types import PathLike


PART = ".part"
"""How the name of a file that is still being written ends."""

REMEDIES = {
    errno.ENOSPC: "Free some space, or use a store on another disk",
    errno.EDQUOT: "Free some of your quota, or use a store on another disk",
    errno.EROFS: "The file system is read-only: use another folder",
    errno.EACCES: "Check who owns the folder and its permissions, or use another folder",
    errno.EPERM: "Check who owns the folder and its permissions, or use another folder",
    errno.EMFILE: "Close files, or raise the limit on open files (ulimit -n)",
    errno.ENFILE: "Close files, or raise the limit on open files of the system",
    errno.EIO: "The disk reports a fault: check it, and use another one",
}


@contextlib.contextmanager
def refusals(path: Path | str, action: str) -> Iterator[None]:
    """Turn an ``OSError`` into a :class:`DiskError` about a path."""
    try:
        yield
    except QKOVError:  # some of ours are OSErrors too, and say more
        raise
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "Check the disk and the folder")
        told = DiskError(
            f"cannot {action} {str(path)!r}: {error.strerror or error}. {remedy}, then run the same command again; what "
            "was committed before is kept."
        )
        told.errno = error.errno
        raise told from error


def write_file(path: Path, parts: Iterable[bytes | memoryview], *, sync_name: bool = True) -> None:
    """Write a file, whole or not at all; an existing one is replaced.

    Args:
        path: Where to.
        parts: Bytes, one after another.
        sync_name: Sync the folder too. With False the caller does it with :func:`sync_folder`, once for many files.

    Raises:
        DiskError: If the system refuses; nothing has changed.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
    with refusals(path, "write"):
        try:
            handle = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flag("O_CLOEXEC") | _flag("O_BINARY"), 0o666
            )
            try:
                for part in parts:
                    _write_all(handle, part)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to report
                os.unlink(temporary)
            raise
        if sync_name:
            sync_folder(path.parent)


class PartFile:
    """A file that is written at any place before it has its name, and then has it, whole and synced, or never.

    Args:
        path: Its name in the end. size: Its bytes; those never written are 0.

    Raises:
        DiskError: If the system refuses, here and in every method; the file has then not been named.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
        self._handle: int | None = None
        with refusals(path, "write"):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _flag("O_CLOEXEC") | _flag("O_BINARY")
            self._handle = os.open(self._temporary, flags, 0o666)
            try:
                os.ftruncate(self._handle, size)
            except BaseException:
                self.discard()
                raise

    def write_at(self, place: int, data: bytes | memoryview) -> None:
        """Write bytes from a place on."""
        assert self._handle is not None, "written after its end"
        with refusals(self.path, "write"):
            os.lseek(self._handle, place, os.SEEK_SET)
            _write_all(self._handle, data)

    def finish(self) -> None:
        """Sync the file, give it its name and sync that; an existing file of the name is replaced."""
        assert self._handle is not None, "finished twice"
        with refusals(self.path, "write"):
            os.fsync(self._handle)
            self._close()
            os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what was written; after :meth:`finish` there is nothing to remove."""
        self._close()
        with contextlib.suppress(OSError):  # the error that led here is the one to report
            os.unlink(self._temporary)

    def _close(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)


def rename(source: Path, target: Path) -> None:
    """Give a file its name; the caller syncs the folder."""
    with refusals(target, "write"):
        os.replace(source, target)


def append(path: Path, data: bytes, *, size: int) -> None:
    """Append to a file that has ``size`` bytes, and sync it.

    What lies behind them, of an append that was refused and could not be undone, is cut off first.

    Raises:
        DiskError: If the system refuses, or the file is shorter than that. It may then hold any part of the data: cut it
            back before anything that rests on the data being absent.
    """
    with refusals(path, "append to"):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | _flag("O_CLOEXEC") | _flag("O_BINARY"))
        try:
            found = os.fstat(handle).st_size
            if found < size:
                raise OSError(errno.EIO, f"it has {found} bytes, {size} were written before")
            if found > size:
                os.ftruncate(handle, size)
            _write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)


def cut(path: Path, size: int) -> None:
    """Cut a file back to ``size`` bytes, and sync it."""
    with refusals(path, "cut"):
        handle = os.open(path, os.O_WRONLY | _flag("O_CLOEXEC") | _flag("O_BINARY"))
        try:
            os.ftruncate(handle, size)
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, and sync the names of all that were made.

    The name of the folder in which the first is made is synced too: a process that ended before it did so may have made it.
    """
    with refusals(path, "make the folder"):
        missing = [one for one in (path, *path.parents) if not one.exists()]
        if missing:
            _sync_if_allowed(missing[-1].parent.parent)
        for one in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(one)
            sync_folder(one.parent)


def _sync_if_allowed(folder: Path) -> None:
    """Sync a folder, unless it may not be read: then it is not ours, and what is in it was there before us."""
    try:
        sync_folder(folder)
    except DiskError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise


def remove(paths: Iterable[Path]) -> None:
    """Remove files and sync their folders; one that is not there is no error."""
    paths = list(paths)
    for path in paths:
        with refusals(path, "remove"), contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    for folder in {path.parent for path in paths}:
        sync_folder(folder)


def move(source: Path, target: Path) -> None:
    """Rename a file and sync both folders."""
    with refusals(source, "move"):
        os.replace(source, target)
    for folder in dict.fromkeys((target.parent, source.parent)):  # the new name first: never none of the two
        sync_folder(folder)


def sync_file(path: Path) -> None:
    """Sync the bytes of a file that another process may have written."""
    with refusals(path, "sync"):
        handle = os.open(path, os.O_RDONLY | _flag("O_CLOEXEC"))
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder; there the rename alone has to do
        return
    with refusals(folder, "sync the folder"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _flag("O_CLOEXEC"))
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_range(path: PathLike, start: int, size: int) -> bytearray:
    """Read ``size`` bytes from ``start``, fewer where the file ends before."""
    found = bytearray()
    with open(path, "rb", buffering=0) as stream:
        stream.seek(start)
        while len(found) < size and (part := stream.read(size - len(found))):  # at most 2 GB at a time on Linux
            found += part
    return found


def _write_all(handle: int, data: bytes | memoryview) -> None:
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(handle, left) :]  # a write may take less than it was given


def _flag(name: str) -> int:
    return getattr(os, name, 0)
