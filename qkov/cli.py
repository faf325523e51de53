"""The command line: ``qkov``, or ``python -m qkov``.

PyTorch and everything that needs it is imported inside the commands, so that ``--help`` answers at once. What is printed
is plain text: no markup is read in names, and characters that a terminal would obey are written as escapes.

Exit status: 0 done; else that of the error, see :mod:`qkov.errors`.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import escaping, hub
from .errors import CollectionInterrupted, LayoutError, OptionError, QKOVError, StoreDamagedError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


store_app = typer.Typer(no_args_is_help=True, help="Look after stores of collected gradients.")
app.add_typer(store_app, name="store")


class Form(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"


class Timing(StrEnum):
    """Whether a plan tries out how fast the machine is."""

    measure = "measure"
    skip = "skip"


class Precision(StrEnum):
    """Number formats of weights and factors."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@app.callback()
def program() -> None:
    """Measure where in a transformer's attention heads two tasks meet."""


@app.command()
def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name on the hub, or a folder that transformers can load.")
    ],
    prove: Annotated[bool, typer.Option("--prove", help="Prove the layout by experiment on the model.")] = False,
    attention: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Which kind of attention, in a model with several; the error lists them."),
    ] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Only this layer; may be given several times.")] = None,
    every_head: Annotated[bool, typer.Option("--every-head", help="One line per head in place of a pattern.")] = False,
    config_only: Annotated[
        bool,
        typer.Option("--config-only", help="Read no weights: build the model from its configuration, random weights."),
    ] = False,
    form: Annotated[Form, typer.Option("--format", help="What to print.")] = Form.table,
    device: Annotated[str, typer.Option(help="Where the model runs, for example cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the random inputs of --prove and the weights of --config-only.")] = 0,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a name on the hub; default: its default branch.")
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run the code that comes with the model; needs a commit as --revision."
        ),
    ] = False,
    with_traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Show where every attention head of a model lies in its weights, and what belongs to no head.

    A causal language model is loaded as one, if its configuration says so; any other model is loaded without a head.
    No code that comes with a model is run, unless --trust-remote-code is given with a --revision of 40 digits.
    """
    with _told_errors(with_traceback):
        from . import inspection

        network = load_model(
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
            _echo(f"{found['class']}: {origin}\n")
            _echo(config.describe() if every_head else inspection.layout_table(found["layers"]))
            _echo("\n" + inspection.not_covered_table(found["not_covered"]))
            _echo("\n" + inspection.summary_line(found["summary"]))
        results = _prove(network, seed, attention) if prove else None
        if form is Form.json:
            proof = None if results is None else [_finite(asdict(result)) for result in results]
            _echo(json.dumps({"model": model, "weights": origin, **found, "proof": proof}, indent=1, allow_nan=False))
        elif results is not None:
            _echo("\n" + "\n".join(str(result) for result in results))
            _echo(proof_line(results))
        if results and not any(result.status == "passed" for result in results):
            raise LayoutError("The layout is not proven: no experiment could be run on this model.")


@app.command()
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
    dtype: Annotated[Precision, typer.Option(help="Of the weights, and so of factors.")] = Precision.float32,
    store_dtype: Annotated[Precision | None, typer.Option(help="Of factors on disk; default: as collected.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Score only this layer; may be given several times.")] = None,
    attention: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Which kind of attention, in a model with several; the error lists them."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where it will run: cpu or cuda.")] = "cpu",
    timing: Annotated[
        Timing, typer.Option(help="Find out how long it takes by some seconds of work here, or leave it out.")
    ] = Timing.measure,
    rate: Annotated[
        float | None,
        typer.Option(help="Operations per second of another machine, such as 50e12, in place of trying this one."),
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="What to print.")] = Form.table,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a name on the hub; default: its default branch.")
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run the code that comes with the model; needs a commit as --revision."
        ),
    ] = False,
    with_traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Say what memory, disk and time collecting two tasks and scoring all pairs will take.

    The configuration of the model is enough; no weights are read.
    """
    with _told_errors(with_traceback):
        from . import planning

        network = load_model(
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
        _echo(json.dumps(found.to_dict(), indent=1, allow_nan=False) if form is Form.json else str(found))


@store_app.command()
def info(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a store.")],
    form: Annotated[Form, typer.Option("--format", help="What to print.")] = Form.table,
    with_traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Say what a store holds, from its header and journal; shards are not read."""
    with _told_errors(with_traceback):
        from . import store_repair

        _echo_report(store_repair.store_info(path), form)


@store_app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a store.")],
    form: Annotated[Form, typer.Option("--format", help="What to print.")] = Form.table,
    with_traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Read every byte of a store and compare it with what was written. Ends with 5 if something is damaged."""
    with _told_errors(with_traceback):
        from . import store_repair

        report = store_repair.verify_store(path)
        _echo_report(report, form)
        if report.problems:
            raise StoreDamagedError(
                f'{str(path)!r} is damaged in {len(report.problems)} places, see above. "qkov store repair" keeps the rest.'
            )
        if form is Form.table:
            _echo("every byte is what was written")


@store_app.command()
def repair(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a store.")],
    form: Annotated[Form, typer.Option("--format", help="What to print.")] = Form.table,
    with_traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Keep what is sound of a damaged store, set the rest aside, and name what was lost. Ends with 5 if anything was."""
    with _told_errors(with_traceback):
        from . import store_repair

        report = store_repair.repair_store(path)
        _echo_report(report, form)
        if report.damaged:
            lost = "; ".join(f"sample {sample_id!r} of task {task!r}" for task, sample_id in report.damaged[:8])
            more = f" and {len(report.damaged) - 8} more" if len(report.damaged) > 8 else ""
            raise StoreDamagedError(
                f"lost: {lost}{more}. The rest is kept. Run the collection again with the same inputs to collect what was "
                "lost."
            )


def main(prog_name: str = "qkov") -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal's encoding lacks must not end the command
            stream.reconfigure(errors="backslashreplace")
    app(prog_name=prog_name)


def load_model(
    name_or_path: str,
    *,
    device: str = "cpu",
    config_only: bool = False,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load a model of transformers: as a causal language model if its configuration says so, else without a head.

    The configuration says so by the first of its ``architectures``; if it names none, by its type.

    Args:
        name_or_path: A local folder, or a name on the hub.
        device: For example ``"cuda"``; ``"meta"`` with ``config_only``: shapes alone.
        config_only: Build the model with random weights instead of reading them.
        seed: Of these weights.
        revision: Branch, tag or commit of a name on the hub.
        trust_remote_code: Run code that comes with the model, see :func:`qkov.hub.loading_options`.

    Returns:
        The model, float32, in eval mode.

    Raises:
        LayoutError: If it cannot be loaded, with the reason that transformers gives.
        OptionError: If there is no such device, or code is to run that no commit pins.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    folder = Path(name_or_path).expanduser()
    looks_like_path = name_or_path.startswith((".", "~")) or folder.is_absolute() or name_or_path.count("/") > 1
    if looks_like_path and not folder.is_dir():
        raise LayoutError(f"There is no folder {name_or_path!r}; expected a folder with config.json, or a hub name.")
    source = str(folder) if folder.is_dir() else name_or_path
    options = hub.loading_options(source, revision=revision, trust_remote_code=trust_remote_code)
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise OptionError(f"Device {device!r} cannot be used: {_first_line(error)}") from error
    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        auto = _auto_class(config)
        if config_only:
            torch.manual_seed(seed)
            with place if place.type == "meta" else nullcontext():  # shapes alone take no memory
                built = auto.from_config(config, dtype=torch.float32, **_code_options(config, auto, options))
        else:
            built = auto.from_pretrained(source, config=config, dtype=torch.float32, **options)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise LayoutError(
                f"{name_or_path!r} brings code of its own, and no code that comes with a model is run here. Load it yourself "
                "in Python, at a revision whose code you have read, and call qkov.QKOVConfig.from_model(model)."
            ) from error
        raise LayoutError(f"{name_or_path!r} cannot be loaded by transformers: {error}") from error
    return built.to(place).eval()


def proof_line(results: list[Any]) -> str:
    """Write the verdict of experiments of which none failed."""
    count = Counter(result.status for result in results)
    open_part = f", {count['not run']} not run" if count["not run"] else ""
    verdict = "proven" if count["passed"] else "not proven"
    return f"layout {verdict}: {count['passed']} experiments passed{open_part}"


def _prove(model: Any, seed: int, attention: str | None) -> list[Any]:
    from . import checks

    loss_fn = None if model.get_output_embeddings() is not None else _state_loss
    options = {"loss_fn": loss_fn, "attention": attention, "progress": sys.stderr.isatty()}
    return checks.prove_layout(model, _random_batch(model, seed), **options)


def _state_loss(model: Any, batch: dict[str, Any]) -> Any:
    """Score a model without logits by where its states point, ``[N]``; any smooth function of them shows the heads."""
    import torch

    states = model(**batch).last_hidden_state
    # Uneven weights: the plain sum and the norm of a normalised state are constant.
    direction = torch.linspace(-1, 2, states.shape[-1], dtype=states.dtype, device=states.device)
    return (states * direction).mean((1, 2))


def _random_batch(model: Any, seed: int) -> dict[str, Any]:
    """Draw two samples: token ids ``[2, 8]`` of the model's vocabulary, without padding, or images of its size."""
    import torch

    generator, config = torch.Generator().manual_seed(seed), model.config
    if model.main_input_name == "pixel_values" and isinstance(getattr(config, "image_size", None), int):
        shape = (2, getattr(config, "num_channels", 3), config.image_size, config.image_size)
        return {"pixel_values": torch.randn(shape, generator=generator).to(model.device)}
    if model.main_input_name != "input_ids":
        raise LayoutError(
            f"{type(model).__name__} reads {model.main_input_name!r}, and --prove draws only token ids and square "
            "images. Call qkov.prove_layout(model, batch) with a batch of your own."
        )
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, (2, 8), generator=generator).to(model.device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids.flip(0)
    return batch


def _auto_class(config: Any) -> Any:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    # An encoder such as BERT has a causal class too; what the checkpoint was saved as decides.
    named = getattr(config, "architectures", None) or [CAUSAL.get(config.model_type)]
    return transformers.AutoModelForCausalLM if named[0] in CAUSAL.values() else transformers.AutoModel


def _code_options(config: Any, auto: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of ``from_config``, which hands a revision on to the model unless the model brings its own class."""
    names = ["trust_remote_code"]
    if auto.__name__ in (getattr(config, "auto_map", None) or {}):
        names.append("code_revision")
    return {name: options[name] for name in names if name in options}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity; write it as a word."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def _echo(text: str, *, err: bool = False) -> None:
    typer.echo(escaping.for_terminal(text), err=err)


def _echo_report(report: Any, form: Form) -> None:
    if form is Form.json:
        _echo(json.dumps({**asdict(report), "folder": str(report.folder)}, indent=1, allow_nan=False))
    else:
        _echo(str(report))


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


@contextmanager
def _told_errors(with_traceback: bool) -> Iterator[None]:
    """Print an expected error as one message and end with its exit status."""
    try:
        yield
    except (QKOVError, OSError) as error:
        if with_traceback:
            _echo(traceback.format_exc(), err=True)
        _echo(f"error: {error}", err=True)
        raise typer.Exit(getattr(error, "exit_status", QKOVError.exit_status)) from error
    except KeyboardInterrupt:
        _echo("interrupted", err=True)
        raise typer.Exit(CollectionInterrupted.exit_status) from None
