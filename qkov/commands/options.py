"""Options that several commands take, each described once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .console import Form


class Precision(StrEnum):
    """Number formats of weights and factors."""

    float32 = "float32"
    bfloat16 = "bfloat16"


Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name on the hub, or a folder that transformers can load.")]
Attention = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="Which kind of attention, in a model with several; the error lists them."),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a name on the hub; default: its default branch.")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run the code that comes with the model; needs a commit as --revision."),
]
ConfigOnly = Annotated[
    bool,
    typer.Option("--config-only", help="Read no weights: build the model from its configuration, random weights."),
]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")]
OutputForm = Annotated[Form, typer.Option("--format", help="What to print.")]
StorePath = Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a store.")]
