"""``qkov check``: every law of the metric, measured on the user's own model."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..errors import LawFailedError, OptionError
from . import options
from .console import Form, echo, echo_json, finite, told_errors

TASKS = 2
"""Laws compare one task with another."""


def check(
    model: options.Model,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Samples of a task, JSONL; twice. Without: random tokens."),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Samples of each task: the first of a file, or so many random ones.")
    ] = 4,
    tokens: Annotated[
        int, typer.Option(help="Tokens of a random sample; the most that is read of one in a file.")
    ] = 16,
    only: Annotated[list[str] | None, typer.Option(help="Only this law; may be given several times.")] = None,
    layout_only: Annotated[
        bool, typer.Option("--layout-only", help="Only the experiments that show where the heads are.")
    ] = False,
    attention: options.Attention = None,
    config_only: options.ConfigOnly = False,
    form: options.OutputForm = Form.table,
    device: Annotated[str, typer.Option(help="Where the model runs, for example cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of random samples and of the weights of --config-only.")] = 0,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    with_traceback: options.Traceback = False,
) -> None:
    """Measure every law of the metric on a model: error, bound, and how many numbers were compared.

    A law that cannot be tried on the model is listed as not run, with the reason, and never counts as passed. Ends
    with 4 if a law does not hold, or none could be tried. Laws collect dozens of times and the reference runs in
    float64, one sample at a time: a handful of short samples is enough.

    \b
    Example:
      qkov check gpt2
      qkov check ./my-model --task math=math.jsonl --task code=code.jsonl --samples 4 --tokens 32
    """
    with told_errors(with_traceback):
        files = _two_tasks(task or [])
        if only and layout_only:
            raise OptionError("--only and --layout-only both choose laws; give one of them.")
        from .. import checked_batches, checks, drawn_batches, model_loading

        names = _known(checks.LAYOUT_PROOF if layout_only else only, checks.CHECKS)
        network = model_loading.load_model(
            model,
            device=device,
            config_only=config_only,
            seed=seed,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        if files:
            read = {"source": model, "samples": samples, "tokens": tokens, "revision": revision}
            read["trust_remote_code"] = trust_remote_code
            batches = [checked_batches.first_samples(network, path, **read) for path in files.values()]
            loss = None
        else:
            sizes = {"samples": samples, "tokens": tokens}
            batches = [drawn_batches.random_batch(network, seed + shift, **sizes) for shift in range(TASKS)]
            loss = drawn_batches.loss_for(network)
        shown = {"progress": sys.stderr.isatty(), "name": model, "checks": names}
        results = checks.check_model(network, *batches, loss_fn=loss, attention=attention, **shown)
        origin = "random weights, built from the configuration" if config_only else "weights loaded"
        inputs = _read(files, batches) if files else _drawn(batches, seed)
        if form is Form.json:
            rows = [finite(asdict(one)) for one in results]
            count = _counted(results)
            echo_json({"model": model, "class": type(network).__name__, "weights": origin, "inputs": inputs,
                       "passed": count["passed"], "failed": count["failed"], "not_run": count["not run"],
                       "results": rows})  # fmt: skip
        else:
            echo(f"{type(network).__name__}: {origin}; {inputs}\n\n{result_table(results)}\n\n{verdict(results)}")
        _require_kept(results)


def result_table(results: list[Any]) -> str:
    """Write a line per law: status, name, error, bound, numbers compared; what was not run or failed with its reason."""
    width = max(len(one.check) for one in results)
    lines = [f"{'':8s}  {'law':{width}s}  {'error':>8s}  {'bound':>8s}  {'compared':>9s}"]
    for one in results:
        numbers = "" if one.error is None else f"  {one.error:8.1e}  {one.bound:8.1e}  {one.compared:9,d}"
        reason = f"  {one.reason}" if one.reason else ""
        lines.append(f"{one.status:8s}  {one.check:{width}s}{numbers}{reason}")
    return "\n".join(lines)


def verdict(results: list[Any]) -> str:
    """Count laws by status in a sentence."""
    count = _counted(results)
    return f"{len(results)} laws: {count['passed']} passed, {count['failed']} failed, {count['not run']} not run"


def _counted(results: list[Any]) -> Counter[str]:
    return Counter(one.status for one in results)


def _require_kept(results: list[Any]) -> None:
    broken = [one.check for one in results if one.status == "failed"]
    if broken:
        raise LawFailedError(
            f"{len(broken)} of {len(results)} laws do not hold on this model: {', '.join(broken)}. Do not use scores of it; "
            '"qkov inspect MODEL --prove" says whether its heads were found, qkov.register_layout corrects a layout.'
        )
    if not any(one.status == "passed" for one in results):
        raise LawFailedError("No law could be tried on this model, so nothing is shown; the reasons are above.")


def _known(names: Any, known: Any) -> list[str] | None:
    if not names:
        return None
    if unknown := [one for one in names if one not in known]:
        raise OptionError(f"--only {unknown[0]!r} is no law; expected one of {', '.join(known)}.")
    return list(dict.fromkeys(names))


def _two_tasks(given: list[str]) -> dict[str, str]:
    named = dict(one.partition("=")[::2] for one in given)
    if given and (len(given) != TASKS or len(named) != TASKS or not all(key and path for key, path in named.items())):
        raise OptionError(
            f"--task is {', '.join(map(repr, given))}; expected two, as in --task math=math.jsonl --task code=code.jsonl, or "
            "none for random samples."
        )
    return named


def _read(files: dict[str, str], batches: list[dict[str, Any]]) -> str:
    sizes = [f"{len(one['input_ids'])} of {name!r}" for name, one in zip(files, batches, strict=True)]
    return f"the first samples of each task: {', '.join(sizes)}"


def _drawn(batches: list[dict[str, Any]], seed: int) -> str:
    first = next(iter(batches[0].values()))
    what = f"{first.shape[1]} tokens" if first.ndim == 2 else "images"
    return f"random samples, {len(first)} of {what} for each task, seed {seed} (no task file was given)"
