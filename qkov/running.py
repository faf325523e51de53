"""A measurement from a configuration to a folder of results: read, plan, collect, score, test, predict, write down."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from . import checkout, durable, planning, reproducibility, run_folder, run_inputs, run_stages, scoring, store_lock
from .errors import CollectionInterrupted, LayoutError, OptionError
from .run_config import RunConfig
from .run_folder import RunFolder

PACKAGES = ("tokenizers", "PyYAML", "tqdm")
"""Recorded beside what every result depends on."""


def run_measurement(
    config: RunConfig,
    out: Path | str,
    *,
    command: str | None = None,
    progress: bool = True,
    tell: Callable[[str], None] | None = None,
) -> RunFolder:
    """Run a measurement into a new folder, or go on with one that was interrupted.

    Args:
        config: See :func:`qkov.run_config.read_config` and :meth:`qkov.run_config.RunConfig.from_dict`.
        out: The folder: a new one, an empty one, or that of an interrupted run of the same configuration.
        command: What was typed, for the record.
        progress: Show bars of stages that take longer than two seconds.
        tell: Takes sentences on what is being done; None: nobody is told.

    Returns:
        The run, opened: see :class:`qkov.run_folder.RunFolder`.

    Raises:
        OptionError: If the folder holds anything else. TaskFileError, TokenizerError, LayoutError: If data or model cannot be
            used. DiskError, MemoryLimitError: If the machine cannot hold it, before anything is computed.
        CollectionInterrupted: If a signal asked to stop; the message says how to go on.
    """
    path, tell = Path(out), tell or (lambda sentence: None)
    _check_options(config)
    before = _found(path)
    inputs = run_inputs.read_inputs(config)
    plan = planned(config, inputs, tell)
    config = _settled(config, inputs, plan, before).relative_to(path)
    _require_same(config, before, path)
    if plan is not None and before is None:
        run_inputs.require_room(config, plan, path)
    for note in inputs.notes:
        tell(f"note: {note}")
    with _locked(path), _told_interruption(path):
        record = before.record if before else run_folder.begin_run(path, config, _begun(config, inputs, command, path))
        run = run_stages.Run(path, config, inputs, plan, progress, tell, dict(record))
        if before:
            run.write(resumed=[*record["resumed"], _now()], not_run=[])
        run_stages.run_stages(run)
        run.write(status="complete", finished=_now())
        if not config.keep_store:
            shutil.rmtree(path / run_folder.STORE, ignore_errors=True)
    return run_folder.open_run(path)


def planned(
    config: RunConfig, inputs: run_inputs.Inputs, tell: Callable[[str], None], *, timing: str = "skip"
) -> planning.Plan | None:
    """Plan a run; None, which is told, where the model cannot be planned from its shapes."""
    try:
        return run_inputs.plan_run(config, inputs, timing=timing)
    except LayoutError as error:
        tell(f"note: memory and disk are not known beforehand: {error}")
        return None


def _check_options(config):
    """Refuse now what scoring would refuse after everything was collected."""
    chosen = config.scores
    for variant in chosen.variants:
        scoring.ScoreOptions(
            variant=variant,
            fisher_pool=chosen.fisher_pool,
            aggregate=chosen.aggregate,
            include_bias=chosen.include_bias,
            tiling="fast" if config.memory_budget is None else "fixed",
        )
    scoring.checked_device(config.device)


def _found(path):
    """What is in the folder: an interrupted run, or nothing."""
    if not path.exists() or (path.is_dir() and _is_bare(path)):
        return None
    if not path.is_dir():
        raise OptionError(f"{str(path)!r} is a file; expected a new folder.")
    if not (path / run_folder.RECORD).exists():
        raise OptionError(
            f"{str(path)!r} holds other files; expected a new or empty folder. Nothing in it was changed."
        )
    found = run_folder.open_run(path, allow_incomplete=True)
    if found.complete:
        raise OptionError(
            f"{str(path)!r} holds a complete run, which is not overwritten. Name another folder for --out."
        )
    return found


def _is_bare(path):
    """Whether a folder is empty, but for what an interruption before the first record leaves."""
    names = {one.name for one in path.iterdir() if not (one.name.startswith(".") and one.name.endswith(durable.PART))}
    if names <= {store_lock.FILE}:
        return True
    return store_lock.FILE in names and names <= {store_lock.FILE, run_folder.CONFIG}


def _settled(config, inputs, plan, before):
    """Fill in what the run decides by itself, so that a replay decides the same."""
    config = run_inputs.with_digests(config, inputs)
    if config.memory_budget is None or config.tokens.micro_batch is not None or plan is None:
        return config
    # How many samples fit a pass depends on what else the process holds now, and changes last bits.
    count = before.config.tokens.micro_batch if before else plan.samples_per_pass
    return dataclasses.replace(config, tokens=dataclasses.replace(config.tokens, micro_batch=count))


def _require_same(config, before, path):
    if before is None or before.config.to_yaml() == config.to_yaml():
        return
    new, old = config.to_dict(), before.config.to_dict()
    keys = ", ".join(repr(name) for name in new if new[name] != old[name]) or "the order of 'tasks'"
    raise OptionError(
        f"{str(path)!r} holds an interrupted run of another configuration: {keys} differ. Name another folder for --out; or, "
        f"to go on with that run: {run_folder.command_to_go_on(path)}"
    )


def _begun(config, inputs, command, path):
    environment = reproducibility.environment_record()
    environment["versions"] |= {name: metadata.version(name) for name in PACKAGES}
    package = Path(__file__).resolve().parent
    return {
        "command": command or run_folder.command_to_go_on(path),
        "started": _now(),
        "finished": None,
        "resumed": [],
        "versions": environment,
        "commit": {"folder": checkout.commit_of("."), "qkov": checkout.commit_of(package)},
        "seeds": {"relabelings": config.seed} | ({} if config.model.weights else {"weights": config.seed}),
        "threads": environment["threads"],
        "device": config.device,
        "model": None,
        "data": inputs.facts(config),
        "notes": list(inputs.notes),
        "seconds": {},
    }


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from running into the same folder."""
    durable.make_folder(path)
    handle = store_lock.acquire(path)
    try:
        yield
    finally:
        store_lock.release(handle)


@contextlib.contextmanager
def _told_interruption(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise CollectionInterrupted(
            f"interrupted; what was done is kept in {str(path)!r}. To go on: {run_folder.command_to_go_on(path)}"
        ) from error
