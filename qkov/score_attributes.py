"""The attributes of a result: the options that it was made with, what its scores mean, and what they were made of.

A result is read long after the program that made it, by people and by other programs. So it says of itself what can be known
without the collector: sign, unit and the end of the scale that is conflict, how the Fisher was damped and how many samples it
rests on, which samples were left out, and of which model, in which versions. What only says how this machine went about it
is not told: results that are equal are then equal in every bit, see ``Heatmap.fingerprint``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from . import latent_attention, meaning, reproducibility

if TYPE_CHECKING:
    from .collector import FisherCollector
    from .layout import QKOVConfig
    from .score_options import ScoreOptions


NOT_TOLD = ("device", "sample_block", "stacked_bytes", "reads")
"""Options that say how scores are made on this machine; results do not list them."""


def score_attributes(
    collector: FisherCollector,
    config: QKOVConfig,
    options: ScoreOptions,
    task_a: str,
    task_b: str,
    *,
    fisher_tasks: Mapping[str, str],
    valid: bool,
) -> dict[str, Any]:
    """Gather JSON-able facts on the scores of two tasks.

    Args:
        collector: The samples. config: The layout of their model.
        options: What the scores were made with, their variant among it.
        task_a, task_b: What was scored.
        fisher_tasks: ``{task: other task that its Fisher comes from}``.
        valid: False without pairs.

    Returns:
        The ``attributes`` of a result.
    """
    described = meaning.describe_scores(
        options.variant,
        options.fisher_pool,
        aggregate=options.aggregate,
        normalize_gj=options.normalize_gj,
        fisher_source=options.fisher_source,
        own_fisher=task_a not in fisher_tasks,
    )
    latent = any(one.packing == latent_attention.PACKING for one in config.layers)
    collected = [task for task in dict.fromkeys((task_a, task_b)) if task in collector.tasks]
    skipped = {task: len(collector.skipped(task)) for task in collected}
    used = {task: other for task, other in fisher_tasks.items() if task in (task_a, task_b)}
    return {
        **{name: value for name, value in dataclasses.asdict(options).items() if name not in NOT_TOLD},
        **described,
        **({"slice_note": latent_attention.K_NOTE} if latent else {}),
        **({"fisher_tasks": used} if used else {}),
        **({"num_skipped": skipped} if any(skipped.values()) else {}),
        "damping_rule": meaning.describe_damping(options.variant, absolute=options.absolute_damping),
        "num_fisher_samples_a": num_fisher_samples(collector, task_a, fisher_tasks),
        "num_fisher_samples_b": num_fisher_samples(collector, task_b, fisher_tasks),
        "computation_device": torch.device(options.device).type,
        "model_fingerprint": collector.model_fingerprint,
        "valid": valid,
        "versions": {name: reproducibility.environment_record()["versions"][name] for name in ("qkov", "torch")},
    }


def num_fisher_samples(collector: FisherCollector, task: str, fisher_tasks: Mapping[str, str]) -> int:
    """Count the samples that the Fisher of a ``task`` rests on; 0 if it was never collected."""
    source = fisher_tasks.get(task, task)
    return len(collector.samples(source)) if source in collector.tasks else 0
