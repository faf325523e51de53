"""``qkov inspect``: where every head of a model lives, and experiments that prove it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..errors import LayoutError
from . import options
from .console import Form, echo, echo_json, finite, told_errors


def inspect(
    model: options.Model,
    prove: Annotated[bool, typer.Option("--prove", help="Prove the layout by experiment on the model.")] = False,
    attention: options.Attention = None,
    layer: Annotated[list[int] | None, typer.Option(help="Only this layer; may be given several times.")] = None,
    every_head: Annotated[bool, typer.Option("--every-head", help="One line per head in place of a pattern.")] = False,
    config_only: options.ConfigOnly = False,
    form: options.OutputForm = Form.table,
    device: Annotated[str, typer.Option(help="Where the model runs, for example cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the random inputs of --prove and the weights of --config-only.")] = 0,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    with_traceback: options.Traceback = False,
) -> None:
    """Show where every attention head of a model lies in its weights, and what belongs to no head.

    A causal language model is loaded as one, if its configuration says so; any other model is loaded without a head.
    No code that comes with a model is run, unless --trust-remote-code is given with a --revision of 40 digits.

    \b
    Example:
      qkov inspect gpt2 --prove
    """
    with told_errors(with_traceback):
        from .. import inspection, model_loading

        network = model_loading.load_model(
            model,
            device=device,
            config_only=config_only,
            seed=seed,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        config = inspection.chosen_layers(network, layer, attention=attention)
        found = inspection.describe_model(network, config)
        origin = "random weights, built from the configuration" if config_only else "weights loaded"
        if form is Form.table:
            echo(f"{found['class']}: {origin}\n")
            echo(config.describe() if every_head else inspection.layout_table(found["layers"]))
            echo("\n" + inspection.not_covered_table(found["not_covered"]))
            echo("\n" + inspection.summary_line(found["summary"]))
        results = _prove(network, seed, attention) if prove else None
        if form is Form.json:
            proof = None if results is None else [finite(asdict(result)) for result in results]
            echo_json({"model": model, "weights": origin, **found, "proof": proof})
        elif results is not None:
            echo("\n" + "\n".join(str(result) for result in results))
            echo(proof_line(results))
        if results and not any(result.status == "passed" for result in results):
            raise LayoutError("The layout is not proven: no experiment could be run on this model.")


def proof_line(results: list[Any]) -> str:
    """Write the verdict of experiments of which none failed."""
    count = Counter(result.status for result in results)
    open_part = f", {count['not run']} not run" if count["not run"] else ""
    verdict = "proven" if count["passed"] else "not proven"
    return f"layout {verdict}: {count['passed']} experiments passed{open_part}"


def _prove(model: Any, seed: int, attention: str | None) -> list[Any]:
    from .. import checks, drawn_batches

    settings = {"loss_fn": drawn_batches.loss_for(model), "attention": attention, "progress": sys.stderr.isatty()}
    return checks.prove_layout(model, drawn_batches.random_batch(model, seed), **settings)
