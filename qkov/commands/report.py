"""``qkov report``: a run as one page to read in a browser."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import echo, told_errors


class Page(StrEnum):
    """What a report is written as."""

    html = "html"


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help='Folder that "qkov run" wrote.')],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write; default: report.html in the run folder.")
    ] = None,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Show the texts of the listed samples; hidden otherwise.")
    ] = False,
    top_pairs: Annotated[int, typer.Option(help="Strongest pairs of samples to list for every head.", min=0)] = 5,
    form: Annotated[Page, typer.Option("--format", help="What to write.")] = Page.html,
    with_traceback: options.Traceback = False,
) -> None:
    """Write a run as one HTML file that needs no network, with its figures as SVG and PNG beside it.

    The page says in words what may be concluded, and shows every head: maps, numbers, intervals, tests, strongest pairs.

    \b
    Example:
      qkov report run-1
      qkov report run-1 --show-text --output run-1.html
    """
    with told_errors(with_traceback):
        from ..report import write_report

        written = write_report(run, output, show_text=show_text, top_pairs=top_pairs)
        echo(f"{written}")
