"""What every command shares: printing names literally, ending with the status of an error, and the forms of output."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import Any

import typer

from .. import escaping
from ..errors import CollectionInterrupted, QKOVError


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
def told_errors(with_traceback: bool) -> Iterator[None]:
    """Print an expected error as one message and end with its exit status."""
    try:
        yield
    except (QKOVError, OSError) as error:
        if with_traceback:
            echo(traceback.format_exc(), err=True)
        echo(f"error: {error}", err=True)
        raise typer.Exit(getattr(error, "exit_status", QKOVError.exit_status)) from error
    except KeyboardInterrupt:
        echo("interrupted", err=True)
        raise typer.Exit(CollectionInterrupted.exit_status) from None
