"""One writer at a time: a lock that the system releases when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from pathlib import Path

from . import durable
from .errors import DiskError, StoreBusyError

FILE = "lock"


def acquire(folder: Path) -> int:
    """Lock a folder for writing and write down who holds it.

    Returns:
        A handle for :func:`release`.

    Raises:
        StoreBusyError: If another process holds it; names the process.
        DiskError: If the file system has no locks, or refuses the file.
    """
    try:
        import fcntl
    except ImportError as error:  # Windows
        raise DiskError("stores need file locks of POSIX systems, which this one lacks. Collect in memory.") from error
    path = folder / FILE
    with durable.refusals(path, "open"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise StoreBusyError(
            f"{str(folder)!r} is being written to by {_owner(path)}. Wait for it or end it; reading needs no lock: "
            "FisherCollector.open(path, allow_unsealed=True)."
        ) from error
    except OSError as error:
        os.close(handle)
        told = DiskError(f"{str(path)!r} cannot be locked: {error.strerror or error}. Use a folder on a local disk.")
        told.errno = error.errno
        raise told from error
    owner = json.dumps({"host": platform.node(), "pid": os.getpid()}).encode()
    # The record is for people; a lock without it, on a full disk, is a lock all the same.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, owner, 0)
    return handle


def release(handle: int) -> None:
    """Give a lock back."""
    import fcntl

    # Closing alone would not release it while a forked process, a loader of data, holds a copy of the handle. The file stays,
    # because removing it would race with the next writer.
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)
    with contextlib.suppress(OSError):
        os.close(handle)


def _owner(path: Path) -> str:
    try:
        record = json.loads(path.read_bytes())
        return f"process {int(record['pid'])} on {str(record['host'])!r}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
