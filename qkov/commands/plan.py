"""``qkov plan``: what a measurement will take, before it runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from . import options
from .console import Form, echo, echo_json, told_errors


class Timing(StrEnum):
    """Whether a plan tries out how fast the machine is."""

    measure = "measure"
    skip = "skip"


def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name on the hub, or a folder with a config.json.")],
    samples_a: Annotated[int, typer.Option(help="Samples of task A.")],
    samples_b: Annotated[int, typer.Option(help="Samples of task B.")],
    tokens: Annotated[int, typer.Option(help="Tokens of a sample.")],
    memory_budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory that may be used, such as 8GB or 8GiB.")
    ] = None,
    on_disk: Annotated[
        bool, typer.Option("--store/--in-memory", help="Where samples are kept: in a store on disk, or in memory.")
    ] = False,
    dtype: Annotated[
        options.Precision, typer.Option(help="Of the weights, and so of factors.")
    ] = options.Precision.float32,
    store_dtype: Annotated[
        options.Precision | None, typer.Option(help="Of factors on disk; default: as collected.")
    ] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Score only this layer; may be given several times.")] = None,
    attention: options.Attention = None,
    device: Annotated[str, typer.Option(help="Where it will run: cpu or cuda.")] = "cpu",
    timing: Annotated[
        Timing, typer.Option(help="Find out how long it takes by some seconds of work here, or leave it out.")
    ] = Timing.measure,
    rate: Annotated[
        float | None,
        typer.Option(help="Operations per second of another machine, such as 50e12, in place of trying this one."),
    ] = None,
    form: options.OutputForm = Form.table,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    with_traceback: options.Traceback = False,
) -> None:
    """Say what memory, disk and time collecting two tasks and scoring all pairs will take.

    The configuration of the model is enough; no weights are read.

    \b
    Example:
      qkov plan gpt2 --samples-a 100 --samples-b 100 --tokens 512 --memory-budget 16GB
    """
    with told_errors(with_traceback):
        from .. import model_loading, planning

        network = model_loading.load_model(
            model, device="meta", config_only=True, revision=revision, trust_remote_code=trust_remote_code
        )
        found = planning.plan(
            network,
            samples_a=samples_a,
            samples_b=samples_b,
            tokens=tokens,
            memory_budget=memory_budget,
            keep="disk" if on_disk else "memory",
            dtype=dtype.value,
            store_dtype=None if store_dtype is None else store_dtype.value,
            layers=layer,
            attention=attention,
            device=device,
            timing=timing.value,
            rate=rate,
        )
        if form is Form.json:
            echo_json(found.to_dict())
        else:
            echo(str(found))
