"""``qkov store``: look after stores of collected gradients."""

from __future__ import annotations

import typer

from ..errors import StoreDamagedError
from . import options
from .console import Form, echo, echo_report, told_errors

app = typer.Typer(no_args_is_help=True, help="Look after stores of collected gradients.")


@app.command()
def info(
    path: options.StorePath,
    form: options.OutputForm = Form.table,
    with_traceback: options.Traceback = False,
) -> None:
    """Say what a store holds, from its header and journal; shards are not read.

    \b
    Example:
      qkov store info math-code.store
    """
    with told_errors(with_traceback):
        from .. import store_repair

        echo_report(store_repair.store_info(path), form)


@app.command()
def verify(
    path: options.StorePath,
    form: options.OutputForm = Form.table,
    with_traceback: options.Traceback = False,
) -> None:
    """Read every byte of a store and compare it with what was written. Ends with 5 if something is damaged.

    \b
    Example:
      qkov store verify math-code.store
    """
    with told_errors(with_traceback):
        from .. import store_repair

        report = store_repair.verify_store(path)
        echo_report(report, form)
        if report.problems:
            raise StoreDamagedError(
                f'{str(path)!r} is damaged in {len(report.problems)} places, see above. "qkov store repair" keeps the rest.'
            )
        if form is Form.table:
            echo("every byte is what was written")


@app.command()
def repair(
    path: options.StorePath,
    form: options.OutputForm = Form.table,
    with_traceback: options.Traceback = False,
) -> None:
    """Keep what is sound of a damaged store, set the rest aside, and name what was lost. Ends with 5 if anything was.

    \b
    Example:
      qkov store repair math-code.store
    """
    with told_errors(with_traceback):
        from .. import store_repair

        report = store_repair.repair_store(path)
        echo_report(report, form)
        if report.damaged:
            lost = "; ".join(f"sample {sample_id!r} of task {task!r}" for task, sample_id in report.damaged[:8])
            more = f" and {len(report.damaged) - 8} more" if len(report.damaged) > 8 else ""
            raise StoreDamagedError(
                f"lost: {lost}{more}. The rest is kept. Run the collection again with the same inputs to collect what was "
                "lost."
            )
