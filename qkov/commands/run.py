"""``qkov run``: a whole measurement, from task files to a folder of results."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError
from . import options
from .console import echo, told_errors

FREE = ("out", "dry_run", "with_traceback", "config")
"""Options that go with a configuration file; all others are its keys."""


def run(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.yaml", help="What to run; or give it by the options below.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Folder for the results: new, or to go on with.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name on the hub, or a folder that transformers can load.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A task and its JSON lines; twice or more. The first is the source."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Task A, whose sensitivity is measured; default: the first.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Task B, whose gradients act; default: the second.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Task that A is compared with as a source of what B changes.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens of a sample; default 512.")] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut longer samples off instead of refusing them.")
    ] = False,
    variant: Annotated[
        list[str] | None, typer.Option(help="Kind of score; may be given several times. Default: unsigned.")
    ] = None,
    fisher_pool: Annotated[str | None, typer.Option(help="Whose Fisher divides: A, B or pooled (default).")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Only this layer; may be given several times.")] = None,
    max_samples: Annotated[int | None, typer.Option(help="Score only the first so many of each task.")] = None,
    clusters: Annotated[
        str | None, typer.Option(help="Independent units: auto (default), given (by the files) or iid.")
    ] = None,
    permutations: Annotated[int | None, typer.Option(help="Of the tests; default: as many as they need.")] = None,
    no_statistics: Annotated[bool, typer.Option("--no-statistics", help="Test nothing.")] = False,
    optimiser: Annotated[str | None, typer.Option(help="Whose step is predicted: sgd (default), adam or sign.")] = None,
    no_prediction: Annotated[bool, typer.Option("--no-prediction", help="Predict no step.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu (default) or cuda.")] = None,
    dtype: Annotated[options.Precision | None, typer.Option(help="Of the weights; default float32.")] = None,
    memory_budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory that may be used, such as 8GB or 8GiB.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of relabelings, and of random weights; default 0.")] = None,
    discard_store: Annotated[
        bool, typer.Option("--discard-store", help="Remove the collected samples when all is done.")
    ] = False,
    attention: options.Attention = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    config_only: options.ConfigOnly = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it will take, and write nothing.")] = False,
    with_traceback: options.Traceback = False,
) -> None:
    """Measure two tasks on a model: collect, score, test and predict, into a folder that can be replayed.

    A file of a task has a line for each sample: {"id": "m1", "text": "2 + 3 = 5"}, and optionally "prompt", which is masked
    from the loss, and "cluster", the document or template that the sample belongs to. An interrupted run goes on where it
    stopped when the same command is given again.

    \b
    Example:
      qkov run --model gpt2 --task math=math.jsonl --task code=code.jsonl --out run-1
      qkov run run-1/config.yaml --out run-2
    """
    with told_errors(with_traceback):
        chosen = _chosen(context.params)
        from .. import run_config, run_summary, running

        if config is not None:
            if chosen:
                raise ConfigError(
                    f"{chosen[0]} is given beside {str(config)!r}; write it into that file, or give no file."
                )
            settings = run_config.read_config(config)
        else:
            settings = run_config.RunConfig.from_dict(_content(context.params))

        if out is None and not dry_run:
            raise ConfigError("--out is missing: name a new folder for the results, such as --out run1.")

        def tell(sentence: str) -> None:
            echo(sentence, err=True)

        if dry_run:
            _print_plan(settings, out, tell)
            return
        command = shlex.join(["qkov", *sys.argv[1:]])
        found = running.run_measurement(settings, out, command=command, progress=sys.stderr.isatty(), tell=tell)
        echo(run_summary.summary(found))


def _chosen(values: dict[str, Any]) -> list[str]:
    """Options that were given and that a file would say, as they are typed."""
    given = [name for name, value in values.items() if name not in FREE and value not in (None, False, [], ())]
    return ["--" + name.replace("_", "-") for name in given]


def _content(values: dict[str, Any]) -> dict[str, Any]:
    """Options as the content of a configuration; what was not given has its default there."""
    if not values["model"] or not values["task"]:
        raise ConfigError(
            "expected a configuration file, or --model and two of --task NAME=FILE. For example: qkov run --model gpt2 "
            "--task math=math.jsonl --task code=code.jsonl --out run1"
        )
    tasks = _tasks(values["task"])
    names = [*tasks, None, None]
    precision = values["dtype"]
    sections = {
        "model": {
            "name": values["model"],
            "dtype": precision and precision.value,
            **{name: values[name] for name in ("revision", "attention", "trust_remote_code")},
            "weights": False if values["config_only"] else None,
        },
        "tokens": {"max_length": values["max_length"], "truncate": values["truncate"] or None},
        "scores": {
            "variants": values["variant"] or None,
            "fisher_pool": values["fisher_pool"],
            "layers": values["layer"] or None,
            "max_samples": values["max_samples"],
        },
        "statistics": {
            "run": False if values["no_statistics"] else None,
            "clusters": values["clusters"],
            "n_permutations": values["permutations"],
        },
        "prediction": {"run": False if values["no_prediction"] else None, "optimiser": values["optimiser"]},
    }
    rest = {name: values[name] for name in ("reference", "device", "memory_budget", "seed")}
    rest |= {"source": values["source"] or names[0], "target": values["target"] or names[1]}
    rest |= {"keep_store": False if values["discard_store"] else None}
    return {"tasks": tasks} | _given(rest) | {name: _given(section) for name, section in sections.items()}


def _tasks(given: list[str]) -> dict[str, str]:
    tasks: dict[str, str] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--task is {one!r}; expected NAME=FILE, such as math=math.jsonl.")
        if name in tasks:
            raise ConfigError(f"--task {name!r} is given twice; expected each name once.")
        tasks[name] = path
    if len(tasks) < 2:
        raise ConfigError("only one --task is given; expected two at least, the source and the target.")
    return tasks


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _print_plan(settings: Any, out: Path | None, tell: Any) -> None:
    from .. import run_inputs, running

    inputs = run_inputs.read_inputs(settings)
    for name, task in inputs.tasks.items():
        units = f", {inputs.num_units(name)} independent units" if name in run_inputs.compared(settings) else ""
        echo(f"task {name!r}: {len(task.ids)} samples, {task.num_tokens} tokens, at most {task.longest} in one{units}")
    for note in inputs.notes:
        echo(f"note: {note}")
    plan = running.planned(settings, inputs, tell, timing="measure")
    if plan is not None:
        echo(f"\n{plan}")
        run_inputs.require_room(settings, plan, out or Path())
    echo("\nTests and prediction come on top. Nothing was written.")
