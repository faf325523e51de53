"""The stages of a run, each a function: collect, score, test, predict, describe pairs; and how they are told."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import formula, model_loading, planning, run_folder, run_inputs
from .collector import FisherCollector
from .inference import QKOVStatistics
from .interference import QKOVInterferenceMetric
from .prediction import predict_change
from .run_config import RunConfig
from .top_pairs import describe_top_pairs

SCRATCH = "scores.scratch"
"""Folder of scores that are being made in files; removed with the stage."""


@dataclass(frozen=True)
class Run:
    """A run under way.

    Attributes:
        path: Its folder. config: With paths from that folder. inputs: What was read. plan: Or None where none can be made.
        progress: Whether to show bars. tell: Takes a sentence for people.
        record: What is written down so far; each stage replaces its content.
    """

    path: Path
    config: RunConfig
    inputs: run_inputs.Inputs
    plan: planning.Plan | None
    progress: bool
    tell: Callable[[str], None]
    record: dict[str, Any] = field(default_factory=dict)

    def write(self, **changes: Any) -> None:
        """Write the record with changes."""
        self.record.update(run_folder.write_record(self.path, {**self.record, **changes}))

    def add(self, name: str, result: Any) -> None:
        """Save a result and name it in the record."""
        self.record.update(run_folder.add_result(self.path, self.record, name, result))

    def leave_out(self, what: str, reason: str) -> None:
        """Write down what was not run, and say it."""
        self.write(not_run=[*self.record["not_run"], {"what": what, "reason": reason}])
        self.tell(f"not run: {what}: {reason}")


def run_stages(run: Run) -> None:
    """Run what the record does not name yet, one stage after another."""
    wanted = [
        ("collection", f"collecting {sum(len(one.ids) for one in run.inputs.tasks.values())} samples", collect),
        ("scores", f"scoring {', '.join(run.config.scores.variants)}", score),
        *([("statistics", "testing every head", test)] if run.config.statistics.run else []),
        *([("prediction", "predicting what a step does", predict)] if run.config.prediction.run else []),
        ("top_pairs", "describing the strongest pairs", describe_pairs),
    ]
    work, begun, computed = _work(run), time.monotonic(), 0.0
    for number, (name, sentence, stage) in enumerate(wanted, 1):
        if name in run.record["seconds"]:
            run.tell(f"[{number}/{len(wanted)}] {sentence}: done before")
            continue
        left = sum(work[one] for one, _, _ in wanted[number - 1 :] if one not in run.record["seconds"])
        run.tell(f"[{number}/{len(wanted)}] {sentence}{_time_left(time.monotonic() - begun, computed, left)}")
        start = time.monotonic()
        stage(run)
        computed += work[name]
        run.write(seconds={**run.record["seconds"], name: round(time.monotonic() - start, 3)})


def collect(run: Run) -> None:
    """Collect every task into the store, and end it; samples that are there already are skipped."""
    config = run.config
    model = model_loading.load_model(
        config.model_source,
        device=config.device,
        dtype=config.model.dtype,
        config_only=not config.model.weights,
        seed=config.seed,
        revision=config.model.revision,
        trust_remote_code=config.model.trust_remote_code,
    )
    with (
        FisherCollector(
            store=run.path / run_folder.STORE,
            tokenizer=run.inputs.tokenizer,
            attention=config.model.attention,
            memory_budget=config.memory_budget,
        ) as collector,
        _bar(run) as bar,
    ):
        for name, task in run.inputs.tasks.items():
            collector.collect_fisher(
                model,
                _counted(task.batches(_padding_id(run.inputs.tokenizer)), bar),
                name,
                sample_ids=task.source.sample_ids,
                clusters=task.source.clusters,
                micro_batch=config.tokens.micro_batch,
                progress=False,
            )
    facts = {
        "name": config.model.name,
        "revision": config.model.revision,
        "class": type(model).__name__,
        "fingerprint": collector.model_fingerprint,
        "parameters": sum(one.numel() for one in model.parameters()),
        "dtype": config.model.dtype,
    }
    run.write(model=facts)


def score(run: Run) -> None:
    """Score all pairs by every variant; those that share a Fisher diagonal together, from gradients built once."""
    config, collector = run.config, opened(run)
    plain = [one for one in config.scores.variants if one in formula.VARIANTS]
    others = [[one] for one in config.scores.variants if one not in formula.VARIANTS]
    for variants in ([plain] if plain else []) + others:
        names = [run_folder.scores_name(one) for one in variants]
        if all(name in run.record["results"] for name in names):
            continue
        with _scratch(run) as folder:
            found = _heatmaps(run, collector, variants, folder)
            for name, heatmap in zip(names, found, strict=True):
                run.add(name, heatmap)


def test(run: Run) -> None:
    """Test every head, unless a task has too few independent units."""
    config = run.config
    if reason := _too_few(run, run_inputs.compared(config)):
        return run.leave_out("statistics", reason)
    tests = QKOVStatistics(n_permutations=config.statistics.n_permutations)
    found = tests.test_heatmap(
        opened(run),
        config.source,
        config.target,
        config.reference,
        run.inputs.clusters,
        seed=config.seed,
        layers=config.scores.layers,
        computation_device=config.device,
        progress=run.progress,
    )
    return run.add(run_folder.RESULTS["statistics"], found)


def predict(run: Run) -> None:
    """Predict what a step on the target does to the source, unless there are no independent units to speak of."""
    config = run.config
    if reason := _too_few(run, (config.source, config.target)):
        return run.leave_out("prediction", reason)
    found = predict_change(
        opened(run),
        config.source,
        config.target,
        optimiser=config.prediction.optimiser,
        clusters=run.inputs.clusters,
        layers=config.scores.layers,
        computation_device=config.device,
        progress=run.progress,
    )
    return run.add(run_folder.RESULTS["prediction"], found)


def describe_pairs(run: Run) -> None:
    """Describe the strongest pairs of the first variant that a Fisher diagonal makes."""
    plain = [one for one in run.config.scores.variants if one in formula.VARIANTS]
    if not plain:
        reason = "the terms of a score are those of single parameters, and 'full' and 'kfac' weigh by a matrix"
        return run.leave_out("top_pairs", reason)
    path = run.path / run_folder.scores_name(plain[0])
    with _scratch(run) as folder:
        from .heatmap import load_heatmap

        heatmap = load_heatmap(path, scores_path=folder)
        run.add(run_folder.RESULTS["top_pairs"], describe_top_pairs(heatmap, opened(run)))
    return None


def opened(run: Run) -> FisherCollector:
    """The collected samples."""
    return FisherCollector.open(run.path / run_folder.STORE)


def _heatmaps(run, collector, variants, folder):
    config = run.config.scores
    metric = QKOVInterferenceMetric(
        collector.config,
        collector,
        variant=variants[0],
        fisher_pool=config.fisher_pool,
        aggregate=config.aggregate,
        include_bias=config.include_bias,
        computation_device=run.config.device,
        # Within a budget tiles depend on what memory is free; of one shape, they give the same bits whatever that is.
        tiling="fast" if run.config.memory_budget is None else "fixed",
        memory_budget=run.config.memory_budget,
    )
    options = {"layers": config.layers, "max_samples_per_task": config.max_samples, "progress": run.progress}
    names = run.config.source, run.config.target
    if len(variants) == 1:
        return [metric.compute_heatmap(*names, scores_path=folder, **options)]
    found = metric.compute_heatmaps(*names, variants=variants, scores_path=folder, **options)
    return [found[one] for one in variants]


def _too_few(run, names):
    for name in names:
        number = run.inputs.num_units(name)
        if number < run_inputs.FEWEST_UNITS:
            return f"task {name!r} has {number} independent unit; at least {run_inputs.FEWEST_UNITS} are needed."
    return None


@contextlib.contextmanager
def _scratch(run: Run) -> Iterator[Path | None]:
    """A folder for scores that memory does not hold, or None where it does."""
    if not run_inputs.scores_in_files(run.config, run.plan):
        yield None
        return
    folder = run.path / SCRATCH
    shutil.rmtree(folder, ignore_errors=True)  # what an interruption left
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bar(run):
    total = sum(len(one.ids) for one in run.inputs.tasks.values())
    hidden = {} if run.progress else {"disable": True}
    return tqdm(total=total, desc="collect", unit=" samples", delay=2, **hidden)


def _counted(batches, bar):
    """Count a batch when the next is asked for: then its samples are committed."""
    for batch in batches:
        yield batch
        bar.update(len(batch["input_ids"]))


def _padding_id(tokenizer):
    found = getattr(tokenizer, "pad_token_id", None)
    return 0 if found is None else found


def _work(run):
    """Operations of each stage, roughly: what a time left is shared out by."""
    plan, variants = run.plan, len(run.config.scores.variants)
    if plan is None:
        return dict.fromkeys(("collection", "scores", "statistics", "prediction", "top_pairs"), 1.0)
    total = sum(len(one.ids) for one in run.inputs.tasks.values())
    share = total / (plan.samples_a + plan.samples_b)
    return {
        "collection": plan.collection_operations * share,
        "scores": plan.materialising_operations + variants * plan.scoring_operations,
        "statistics": share * (plan.materialising_operations + 2 * plan.scoring_operations),
        "prediction": plan.materialising_operations + plan.scoring_operations,
        "top_pairs": 0.05 * plan.materialising_operations,
    }


def _time_left(elapsed, done, left):
    if done == 0:
        return ""
    return f" ({planning.duration(elapsed)} so far, about {planning.duration(elapsed * left / done)} to go)"
