"""``qkov compare``: are two runs the same, and within which tier of determinism."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import Form, echo, echo_json, finite, told_errors


class Tier(StrEnum):
    """Tiers that can be asked for."""

    D1 = "D1"
    D2 = "D2"
    D3 = "D3"
    D4 = "D4"


def compare(
    one: Annotated[Path, typer.Argument(metavar="RUN_1", help="Folder of a run, or a file of scores.")],
    two: Annotated[Path, typer.Argument(metavar="RUN_2", help="The same kind.")],
    expect: Annotated[
        Tier | None, typer.Option(help="Tier that must hold; default: what follows from what differs in their making.")
    ] = None,
    form: options.OutputForm = Form.table,
    with_traceback: options.Traceback = False,
) -> None:
    """Say whether two runs are the same: what differs in their making, how far apart their results are, and by which tier.

    \b
    D1  same machine, versions and threads   every bit
    D0  tests of the same scores, anywhere   counts, order and decisions; floats to 1e-12
    D2  other threads, passes, processor     scores to 1e-4, ranks of heads 0.9999, the same strongest pairs
    D3  another device, PyTorch              1e-3, the same slices found up to Monte-Carlo error
    D4  half precision                       no promise; the spread is shown

    Ends with 1, like diff, where results differ more than that, or the runs answer different questions; for two
    checkpoints of one model it shows how alike their maps of heads are, and which heads moved most.

    \b
    Example:
      qkov compare run-1 run-2
      qkov compare run-1 run-2 --expect D1
    """
    with told_errors(with_traceback):
        from .. import comparison

        found = comparison.compare_runs(one, two, expect=None if expect is None else expect.value)
        if form is Form.json:
            document = found.to_dict()
            for result in document["results"]:
                result["facts"] = finite(result["facts"])
            echo_json(document)
        else:
            echo(str(found))
        found.require_kept()
