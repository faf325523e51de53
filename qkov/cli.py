"""The command line: ``qkov``, or ``python -m qkov``.

PyTorch and everything that needs it is imported inside the commands, so that ``--help`` answers at once. What is printed
is plain text: no markup is read in names, and characters that a terminal would obey are written as escapes.

Exit status: 0 done; else that of the error, see :mod:`qkov.errors`.
"""

from __future__ import annotations

import sys

import typer

from .commands import inspect, plan, store

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def program() -> None:
    """Measure where in a transformer's attention heads two tasks meet."""


for _command in (inspect.inspect, plan.plan):
    app.command()(_command)
app.add_typer(store.app, name="store")


def main(prog_name: str = "qkov") -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal's encoding lacks must not end the command
            stream.reconfigure(errors="backslashreplace")
    app(prog_name=prog_name)
