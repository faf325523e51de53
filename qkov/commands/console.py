"""What every command shares: printing names literally, ending with the status of an error, and the forms of output."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from enum import StrEnum
from types import TracebackType
from typing import Any

import typer

from .. import escaping
from ..errors import CollectionInterrupted, DiskError, MemoryLimitError, OptionError, QKOVError, QKOVWarning

READER_GONE = 141
"""What a shell makes of a program that SIGPIPE ends, as in `qkov ... | head`."""
ADVICE = {
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Part of the path is a file; check it.",
    errno.EISDIR: "This is a folder, and a file is expected.",
    errno.EACCES: "Change the permissions, or name another place.",
    errno.EPERM: "Change the permissions, or name another place.",
    errno.EROFS: "Nothing can be written there; name another place.",
    errno.ENOSPC: "Free some space, or name another place.",
}
OF_DISK = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO}


class Form(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"


def echo(text: str, *, err: bool = False) -> None:
    """Print text, with what a terminal would obey written as escapes."""
    typer.echo(escaping.for_terminal(text), err=err)


def echo_json(document: Any) -> None:
    """Print a document as JSON."""
    echo(json.dumps(document, indent=1, allow_nan=False))


def echo_report(report: Any, form: Form) -> None:
    """Print a report on a folder, a frozen dataclass with a ``folder``, as its text or as JSON."""
    if form is Form.json:
        echo_json({**asdict(report), "folder": str(report.folder)})
    else:
        echo(str(report))


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity; write it as a word."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


@contextmanager
def told_warnings() -> Iterator[None]:
    """Print our warnings as sentences, each once; others stay as Python shows them."""
    said: set[str] = set()

    def show(message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None) -> None:
        if not issubclass(category, QKOVWarning):
            before(message, category, filename, lineno, file, line)
        elif str(message) not in said:
            said.add(str(message))
            echo(f"warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", QKOVWarning)
        before, warnings.showwarning = warnings.showwarning, show
        yield


@contextmanager
def told_errors(with_traceback: bool) -> Iterator[None]:
    """Print an expected error as one message and end with its exit status; print our warnings as one line each."""
    try:
        with told_warnings():
            yield
    except BrokenPipeError:
        _leave_output()
        raise typer.Exit(READER_GONE) from None
    except (QKOVError, OSError, MemoryError) as error:
        if with_traceback:
            echo(traceback.format_exc(), err=True)
        echo(f"error: {_said(error)}", err=True)
        raise typer.Exit(_status(error)) from error
    except KeyboardInterrupt:
        echo("interrupted", err=True)
        raise typer.Exit(CollectionInterrupted.exit_status) from None


def _said(error: BaseException) -> str:
    """Say what happened; the system's own errors with what to do."""
    if isinstance(error, QKOVError) or not isinstance(error, OSError) or error.errno is None:
        return str(error) or f"{type(error).__name__}: this needs more memory than there is."
    where = "" if error.filename is None else f"{str(error.filename)!r}: "
    return f"{where}{error.strerror}. {ADVICE.get(error.errno, '')}".rstrip()


def _status(error: BaseException) -> int:
    if isinstance(error, QKOVError):
        return error.exit_status
    if isinstance(error, MemoryError):
        return MemoryLimitError.exit_status
    return DiskError.exit_status if getattr(error, "errno", None) in OF_DISK else QKOVError.exit_status


def tell_usage(error: Any) -> int:
    """Print what is wrong with a command line as one message, after the usage; return the exit status."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        echo(error.format_message(), err=True)
        return OptionError.exit_status
    if context is not None:
        echo(f"{context.get_usage()}\nTry '{context.command_path} --help'.\n", err=True)
    echo(f"error: {error.format_message()}", err=True)
    return OptionError.exit_status


def tell_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say an error that nobody foresaw, as ``sys.excepthook``: Python then ends with status 1."""
    if issubclass(kind, KeyboardInterrupt):
        echo("interrupted", err=True)
    elif "--traceback" in sys.argv:
        sys.__excepthook__(kind, error, trace)
    else:
        echo(
            f"error: {kind.__name__}: {error}\nThis is a defect, or something that qkov does not know of. Run the command "
            "again with --traceback to see where it arose.",
            err=True,
        )


def _leave_output() -> None:
    """Nobody reads on: let what is still buffered go nowhere, in place of a complaint when Python ends."""
    with suppress(OSError, ValueError, AttributeError):  # there may be no file behind it, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
