"""The command line: ``qkov``, or ``python -m qkov``.

PyTorch and everything that needs it is imported inside the commands, so that ``--help`` answers at once. What is printed
is plain text: no markup is read in names, no colour is used, and characters that a terminal would obey are written as
escapes.

Exit status: 0 done; else that of the error, see :mod:`qkov.errors`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from .commands import check, compare, console, inspect, plan, report, run, store, test

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


def _say_version(asked: bool) -> None:
    if asked:
        console.echo(f"qkov {sys.modules[__package__].__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Measure where in a transformer's attention heads two tasks meet.

    "qkov COMMAND --help" shows the options of a command, with an example.

    \b
    Exit status:
      0    done, and everything that was asked for held
      1    "compare": the runs differ more than they may; else a defect
      2    usage: an option or an argument
      3    data: samples, tasks, results
      4    model: it cannot be loaded or its heads not found, or a law failed
      5    a store is damaged
      6    a store is busy
      7    disk: a write was refused, or a plan does not fit
      8    memory: a plan or a sample does not fit
      130  interrupted
    """


for _command in (
    inspect.inspect, check.check, plan.plan, run.run, test.run_test, report.report, compare.compare,
):  # fmt: skip
    app.command(_command.__module__.rpartition(".")[2])(_command)
app.add_typer(store.app, name="store")


def main(prog_name: str = "qkov", arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        prog_name: What the user typed. arguments: In place of ``sys.argv``.

    Raises:
        SystemExit: Always, with the exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal's encoding lacks must not end the command
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = console.tell_defect
    usage_error: Any = typer.BadParameter.__base__  # typer brings its own click, and names no other class of it
    try:
        status = typer.main.get_command(app).main(args=arguments, prog_name=prog_name, standalone_mode=False)
    except usage_error as error:
        status = console.tell_usage(error)
    sys.exit(status)
