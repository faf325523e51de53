"""What a run reads before it computes anything: task files, tokens, independent units; and whether the machine can hold it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import memory, model_loading, planning, resources, task_files, task_tokens
from .errors import LayoutError, MemoryLimitError, OptionError, TaskFileError
from .run_config import RunConfig
from .statistics import clusters as units

if TYPE_CHECKING:
    from .option_types import PlanTiming

FEWEST_UNITS = 2
"""Independent units of a task below which there is nothing to exchange, and no interval."""
IN_MEMORY = 0.5
"""Share of the memory that scores may take before they are made in files."""


@dataclass(frozen=True)
class Inputs:
    """What was read.

    Attributes:
        tasks: Name to :class:`~qkov.task_tokens.TokenisedTask`, all that are configured, in their order.
        tokenizer: Of the model; None where every file has token ids.
        shapes: The model without its weights, on the meta device.
        clusters: ``{task: "iid"}`` of the compared tasks whose samples count as independent; the others have labels.
        notes: What a reader of the results should know of this.
    """

    tasks: dict[str, task_tokens.TokenisedTask]
    tokenizer: Any
    shapes: Any
    clusters: dict[str, str]
    notes: tuple[str, ...]

    def num_units(self, task: str) -> int:
        """How many independent units a task has."""
        labels: Any = self.tasks[task].source.clusters  # None only where samples count as independent
        return len(self.tasks[task].ids) if task in self.clusters else len(set(labels))

    def facts(self, config: RunConfig) -> dict[str, Any]:
        """What the record says of the data."""
        return {
            name: {
                "path": config.tasks[name].path,
                "sha256": one.source.sha256,
                "samples": len(one.ids),
                "tokens": one.num_tokens,
                "truncated": one.num_truncated,
                "clusters": None if one.source.clusters is None else len(set(one.source.clusters)),
            }
            for name, one in self.tasks.items()
        }


def compared(config: RunConfig) -> tuple[str, ...]:
    """Names of source, target and, if there is one, reference."""
    return tuple(one for one in (config.source, config.target, config.reference) if one is not None)


def read_inputs(config: RunConfig) -> Inputs:
    """Read task files, and make tokens of them.

    Raises:
        TaskFileError: If a file or a line cannot be used. TokenizerError: If the model's tokenizer cannot.
        LayoutError: If the model cannot be loaded, or is no causal language model.
        StatisticsError: If tests are asked for and a unit has samples in two tasks.
    """
    files = {
        name: task_files.read_task(config.task_path(name), sha256=one.sha256) for name, one in config.tasks.items()
    }
    clusters, notes = _clusters(config, files)
    options: dict[str, Any] = {"revision": config.model.revision, "trust_remote_code": config.model.trust_remote_code}
    shapes = model_loading.load_model(config.model_source, device="meta", config_only=True, **options)
    _require_causal(shapes, config)
    needed = any(line.text is not None for file in files.values() for line in file.lines)
    tokenizer = task_tokens.load_tokenizer(config.model_source, **options) if needed else None
    vocabulary = shapes.get_input_embeddings().num_embeddings
    tasks = {
        name: task_tokens.tokenise(
            file,
            tokenizer,
            max_length=config.tokens.max_length,
            truncate=config.tokens.truncate,
            vocabulary=vocabulary,
        )
        for name, file in files.items()
    }
    notes += [
        f"{one.num_truncated} of {len(one.ids)} samples of task {name!r} were cut off at {config.tokens.max_length} tokens."
        for name, one in tasks.items()
        if one.num_truncated
    ]
    notes += [note for name in clusters if (note := _repetition(name, tasks[name]))]
    return Inputs(tasks, tokenizer, shapes, clusters, tuple(notes))


def _repetition(name, task):
    """Say how many samples that count as independent are copies; None if there are none."""
    copies = len(task.ids) - len(set(zip(task.ids, task.labels, strict=True)))
    if not copies:
        return None
    return (
        f"{copies} of {len(task.ids)} samples of task {name!r} are copies of another, token by token, and count as "
        "independent of it: p is too small. Leave them out, or give copies one 'cluster'."
    )


def with_digests(config: RunConfig, inputs: Inputs) -> RunConfig:
    """Return the configuration that accepts these very task files alone."""
    tasks = {
        name: dataclasses.replace(one, sha256=inputs.tasks[name].source.sha256) for name, one in config.tasks.items()
    }
    return dataclasses.replace(config, tasks=tasks)


def plan_run(config: RunConfig, inputs: Inputs, *, timing: PlanTiming = "skip") -> planning.Plan:
    """Say what the run takes; see :func:`qkov.plan`. Samples of all tasks are counted in what lies on disk.

    Raises:
        LayoutError: If the model cannot be planned from its shapes. MemoryLimitError: If not even one sample fits.
    """
    counts = {name: len(one.ids) for name, one in inputs.tasks.items()}
    pair = counts[config.source], counts[config.target]
    found = planning.plan(
        inputs.shapes,
        samples_a=pair[0],
        samples_b=pair[1],
        tokens=max(one.longest for one in inputs.tasks.values()),
        keep="disk",
        memory_budget=config.memory_budget,
        dtype=config.model.dtype,
        device=config.device.partition(":")[0],
        layers=None if config.scores.layers is None else list(config.scores.layers),
        attention=config.model.attention,
        timing=timing,
    )
    share = sum(counts.values()) / sum(pair)
    return dataclasses.replace(found, disk_bytes=int(found.disk_bytes * share))


def require_room(config: RunConfig, plan: planning.Plan, folder: Path) -> None:
    """Refuse a run that the disk or the memory cannot hold, before it begins.

    Raises:
        DiskError, MemoryLimitError: With what is needed and what there is.
    """
    folder = next(one for one in (folder.resolve(), *folder.resolve().parents) if one.is_dir())
    variants = len(config.scores.variants)
    copies = 2 if scores_in_files(config, plan) else 1
    needed = plan.disk_bytes + copies * variants * plan.score_bytes
    remedy = "measure fewer samples, or fewer layers (scores.layers)."
    resources.require_disk(folder, needed, "the run", remedy=remedy)
    held = 2 * plan.score_bytes if scores_in_files(config, plan) else 0
    most = max(plan.collection_peak, plan.scoring_peak - held)
    if plan.memory_budget is not None and most > plan.memory_budget:
        advice = " ".join(one[:1].upper() + one[1:].rstrip(".") + "." for one in plan.advice)
        raise MemoryLimitError(
            f"the run takes {resources.readable(most)} of memory; memory_budget is {resources.readable(plan.memory_budget)}. "
            f"{advice}"
        )
    if config.device == "cpu":
        memory.require(most - (memory.resident_bytes() or 0), "the run", "Set memory_budget, or measure fewer samples.")


def scores_in_files(config: RunConfig, plan: planning.Plan | None) -> bool:
    """Whether scores are made in files, because they take more than half of the memory there is or may be used."""
    if plan is None:
        return False
    room = plan.memory_budget if config.device == "cpu" and plan.memory_budget else memory.available_bytes()
    return room is not None and len(config.scores.variants) * 2 * plan.score_bytes > IN_MEMORY * room


def _require_causal(model: Any, config: RunConfig) -> None:
    if model.get_output_embeddings() is None:
        raise LayoutError(
            f"{config.model.name!r} is a {type(model).__name__}, which predicts no next token; a run needs a causal language "
            "model. Any other model can be measured in Python with a loss of its own: collect_fisher(..., loss_fn=...)."
        )
    if config.statistics.n_permutations is None and config.device.partition(":")[0] not in ("cpu", "cuda"):
        raise OptionError(f"'device' is {config.device!r}; expected cpu or cuda.")


def _clusters(config: RunConfig, files: Mapping[str, task_files.TaskFile]) -> tuple[dict[str, str], list[str]]:
    """Which tasks count as independent samples, and what to say of it."""
    choice, notes = config.statistics.clusters, []
    missing = [name for name in compared(config) if files[name].clusters is None]
    if choice == "given" and missing:
        raise TaskFileError(
            f"{str(files[missing[0]].path)!r} gives no 'cluster', and statistics.clusters is 'given'. Add one to every line, "
            "or set 'iid' if samples are independent of each other."
        )
    independent = list(compared(config)) if choice == "iid" else missing
    if independent:
        names = ", ".join(map(repr, independent))
        notes.append(
            f"Samples of {names} are taken to be independent of each other"
            + (", as was asked for." if choice == "iid" else ": their files give no 'cluster'.")
            + " Where several come from one document or template, p is too small."
        )
    if config.statistics.run:
        _require_apart({name: files[name].clusters for name in compared(config) if name not in independent})
    return dict.fromkeys(independent, units.IID), notes


def _require_apart(labels: Mapping[str, Any]) -> None:
    """Refuse a unit with samples in two tasks now, not after they were collected."""
    found = {
        name: units.read_clusters(list(given), len(given), f"task {name!r}", minimum=1)
        for name, given in labels.items()
    }
    names = list(found)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            units.require_disjoint(found[name], found[other], f"task {name!r}", f"task {other!r}")
