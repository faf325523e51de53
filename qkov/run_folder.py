"""A run on disk: what determined it, what it found, and a record by which an edited file is noticed.
::

    RUN/config.yaml                  all that determines the run, defaults written out
    RUN/run.json                     the record: status, versions, model, data, results with their checksums
    RUN/store/                       the collected samples
    RUN/scores-VARIANT.safetensors, statistics.safetensors, prediction.safetensors, top_pairs.safetensors,
        head_types.safetensors       results; which of them are there the record says

Every file is written whole or not at all. A result counts when the record names it, so that a run that was interrupted has
whole results, or none.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import durable, head_statistics, head_types, heatmap, prediction_result, run_config, task_files, top_pairs
from .canonical import canonical_json
from .collector import FisherCollector
from .errors import ConfigError, OptionError, ResultFileError, RunFolderError

CONFIG = "config.yaml"
RECORD = "run.json"
STORE = "store"
RESULTS = {
    "scores": "scores-{variant}.safetensors",
    "statistics": "statistics.safetensors",
    "prediction": "prediction.safetensors",
    "top_pairs": "top_pairs.safetensors",
    "head_types": "head_types.safetensors",
}
"""Name of each result's file."""
NOT_RECORDED = "sha256"
PIECE = 2**22


@dataclass(frozen=True)
class RunFolder:
    """A run that was opened and is as it was written. What it holds is read when asked for.

    Attributes:
        path: The folder. config: What determined it; its paths begin in the folder. record: The content of ``run.json``.
    """

    path: Path
    config: run_config.RunConfig
    record: dict[str, Any] = field(repr=False)

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for was done."""
        return self.record["status"] == "complete"

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants whose scores are there, in the order of the configuration."""
        return tuple(one for one in self.config.scores.variants if scores_name(one) in self.record["results"])

    def scores(self, variant: str | None = None, *, scores_path: Path | str | None = None) -> heatmap.Heatmap:
        """Load the scores of a variant, by default the first.

        Args:
            variant: One of :attr:`variants`. scores_path: As for :func:`qkov.load_heatmap`.

        Returns:
            The ``Heatmap``.

        Raises:
            OptionError: If there are no scores of it.
            ResultFileError: If the file was edited.
        """
        variant = self.config.scores.variants[0] if variant is None else variant
        if variant not in self.variants:
            there = ", ".join(self.variants) or "none"
            raise OptionError(f"{str(self.path)!r} holds no scores of variant {variant!r}; it holds {there}.")
        return heatmap.load_heatmap(self._checked(scores_name(variant)), scores_path=scores_path)

    def statistics(self) -> head_statistics.HeadStatistics | None:
        """Load what was tested; None where nothing was, see ``not_run`` of the record."""
        return self._load("statistics", head_statistics.load_statistics)

    def prediction(self) -> prediction_result.Prediction | None:
        """Load what a step is predicted to do, or None."""
        return self._load("prediction", prediction_result.load_prediction)

    def top_pairs(self) -> top_pairs.TopPairs | None:
        """Load the strongest pairs, or None."""
        return self._load("top_pairs", top_pairs.load_top_pairs)

    def head_types(self) -> head_types.HeadTypes | None:
        """Load what heads attend to, or None."""
        return self._load("head_types", head_types.load_head_types)

    def collector(self) -> FisherCollector | None:
        """Open the collected samples; None where the store was not kept."""
        store = self.path / STORE
        return FisherCollector.open(store) if store.is_dir() else None

    def texts(self, task: str) -> dict[int | str, str]:
        """Read the texts of a task from its file, ``{sample_id: text}``; samples given as token ids have none.

        Args:
            task: A task of the run.

        Returns:
            A dict, without the samples that have no text.

        Raises:
            OptionError: If there is no such task.
            ResultFileError: If the file is not there any more, or has changed since.
        """
        if task not in self.config.tasks:
            raise OptionError(f"the run has no task {task!r}; it has {', '.join(map(repr, self.config.tasks))}.")
        try:
            found = task_files.read_task(self.config.task_path(task), sha256=self.record["data"][task]["sha256"])
        except task_files.TaskFileError as error:
            raise ResultFileError(f"the texts of task {task!r} cannot be shown: {error}") from error
        return {one.sample_id: one.text for one in found.lines if one.text is not None}

    def _load(self, name, load):
        file = RESULTS[name]
        return load(self._checked(file)) if file in self.record["results"] else None

    def _checked(self, name):
        path = self.path / name
        _require_digest(path, self.record["results"][name]["sha256"])
        return path


def open_run(path: Path | str, *, allow_incomplete: bool = False) -> RunFolder:
    """Open a run, and compare every result with its record.

    Args:
        path: Its folder. allow_incomplete: Also a run that was interrupted.

    Returns:
        The run, to read results from.

    Raises:
        RunFolderError: If it is no run, of another version, or not complete.
        ResultFileError: If a file is missing or was edited.
    """
    path = Path(path)
    record = read_record(path)
    _require_digest(path / CONFIG, record["config_sha256"])
    try:
        config = run_config.read_config(path / CONFIG)
    except ConfigError as error:
        raise RunFolderError(f"{str(path)!r} is no run that this version of qkov reads: {error}") from error
    if record["status"] != "complete" and not allow_incomplete:
        raise RunFolderError(f"{str(path)!r} is not complete. To go on: {command_to_go_on(path)}")
    for name, facts in record["results"].items():
        _require_digest(path / name, facts["sha256"])
    return RunFolder(path, config, record)


def read_record(path: Path | str) -> dict[str, Any]:
    """Read the record of a run.

    Raises:
        RunFolderError: If the folder is no run.
        ResultFileError: If the record was edited.
    """
    path = Path(path) / RECORD
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunFolderError(
            f'{str(path.parent)!r} is no run: it has no {RECORD}. Make one with "qkov run".'
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ResultFileError(f"{str(path)!r} cannot be read: {error}. Make the run again.") from error
    if not isinstance(record, dict) or record.get("format") != run_config.FORMAT:
        raise RunFolderError(f"{str(path)!r} is no record of format {run_config.FORMAT!r}; another program wrote it.")
    if record.pop(NOT_RECORDED, None) != _digest_of(record) or not _is_whole(record):
        raise ResultFileError(f"{str(path)!r} was edited: its checksum does not match. Make the run again.")
    return record


def begin_run(path: Path, config: run_config.RunConfig, record: dict[str, Any]) -> dict[str, Any]:
    """Make the folder, with its configuration and the record of a run that is not complete; return that record."""
    durable.make_folder(path)
    data = config.relative_to(path).to_yaml().encode()
    durable.write_file(path / CONFIG, [data])
    record = {
        **record,
        "format": run_config.FORMAT,
        "status": "incomplete",
        "config_sha256": hashlib.sha256(data).hexdigest(),
        "results": {},
        "not_run": [],
    }
    return write_record(path, record)


def write_record(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write the record, atomically; return it."""
    content = {**record, NOT_RECORDED: _digest_of(record)}
    text = json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False)
    durable.write_file(path / RECORD, [text.encode() + b"\n"])
    return record


def add_result(path: Path, record: dict[str, Any], name: str, result: Any) -> dict[str, Any]:
    """Save a result under a name of :data:`RESULTS`, and then name it in the record; return the new record."""
    result.save(path / name)
    entry = {"sha256": file_digest(path / name), "fingerprint": result.fingerprint}
    return write_record(path, {**record, "results": {**record["results"], name: entry}})


def command_to_go_on(path: Path | str) -> str:
    """What to type to go on with a run that was interrupted."""
    return shlex.join(["qkov", "run", str(Path(path) / CONFIG), "--out", str(path)])


def scores_name(variant: str) -> str:
    """Name of the file of a variant's scores."""
    return RESULTS["scores"].format(variant=variant)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex; a part at a time."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while part := stream.read(PIECE):
            digest.update(part)
    return digest.hexdigest()


def _require_digest(path, expected):
    try:
        found = file_digest(path)
    except OSError as error:
        raise ResultFileError(
            f"{str(path)!r} of the run cannot be read: {error.strerror or error}. Restore it, or make the run again."
        ) from error
    if found != expected:
        raise ResultFileError(
            f"{str(path)!r} is not what the run wrote: its sha256 is {found}, expected {expected}. Restore it, or make the "
            "run again."
        )


def _digest_of(record):
    return hashlib.sha256(canonical_json(record).encode()).hexdigest()


def _is_whole(record):
    """Whether what is read of a record is there; a checksum says nothing of who wrote it."""
    results = record.get("results")
    return (
        record.get("status") in ("complete", "incomplete")
        and all(isinstance(record.get(name), str) for name in ("config_sha256", "command"))
        and isinstance(record.get("data"), dict)
        and isinstance(results, dict)
        and all(
            Path(name).name == name and isinstance(facts, dict) and isinstance(facts.get("sha256"), str)
            for name, facts in results.items()
        )
    )
