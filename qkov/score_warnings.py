"""What is warned of where scores are made: results that are defined, and easy to misread.

Every warning points at the line that asked for the scores, however deep its reason was found.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import errors, formula
from .geometry import BLOCKS

if TYPE_CHECKING:
    from .collector import FisherCollector
    from .geometry import AttentionLayout
    from .heatmap import Heatmap
    from .layout import QKOVConfig
    from .pair_summary import PairSummary
    from .samples import Sample
    from .score_options import ScoreOptions


def warn_of_empty_task(task_b: str, known_tasks: Iterable[str]) -> None:
    """Warn that ``task_b`` has no samples; ``known_tasks`` are named, as it may be misspelt."""
    known = ", ".join(map(repr, known_tasks))
    _warn(
        f"task B, {task_b!r}, has no samples; averages are 0 and the result is not valid. Collect it, or correct "
        f"its name; known tasks: {known}.",
        errors.EmptyTaskWarning,
    )


def warn_if_few(
    collector: FisherCollector,
    options: ScoreOptions,
    task_a: str,
    task_b: str,
    *,
    fisher_tasks: Mapping[str, str],
    min_samples: int,
) -> None:
    """Warn of each task whose Fisher divides and rests on few samples.

    Args:
        collector: The samples. options: Say whose Fisher divides.
        task_a, task_b: What is scored.
        fisher_tasks: ``{task: other task that its Fisher comes from}``.
        min_samples: Fewer are few.
    """
    if options.variant == "dot":
        return
    owners = {"A": (task_a,), "B": (task_b,), "pooled": (task_a, task_b)}[options.fisher_pool]
    owners = (task_a, task_b) if options.variant == "natural" else owners
    for task in dict.fromkeys(owners):
        count = len(collector.samples(fisher_tasks.get(task, task)))
        if count < min_samples:
            _warn(
                f"the Fisher of task {task!r} rests on {count} samples; min_samples_for_fisher is "
                f"{min_samples}. Scores of few samples are noisy: collect more, or lower the limit.",
                errors.FewSamplesWarning,
            )


def warn_if_underflown(result: Heatmap | PairSummary, config: QKOVConfig, collector: FisherCollector) -> None:
    """Warn of layers in which F is 0 everywhere although gradients are not: their squares have underflown.

    Args:
        result: Scores with their health. config: The layout of their model. collector: What they were made of.
    """
    if result.attributes["variant"] in ("dot", *formula.MATRIX_VARIANTS):
        return
    largest = [
        np.nan_to_num(np.concatenate([result.health[block]["fisher_max"][place] for block in BLOCKS])).max()
        for place in range(len(result.layers))
    ]
    members = [one for task in (result.task_a, result.task_b) for one in collector.samples(task)]
    lost = [
        layer
        for layer, most in zip(result.layers, largest, strict=True)
        if most == 0 and _has_gradient(config.layer(layer), members)
    ]
    if lost:
        _warn(
            f"squared gradients underflow to 0 in layers {', '.join(map(str, lost))}, so scores there are 0, although the "
            "gradients are not. Scale the loss up (a power of two changes no digit), or collect in float64.",
            errors.UnderflowWarning,
        )


def _has_gradient(layout: AttentionLayout, members: Sequence[Sample]) -> bool:
    factors = (one.factors[projection.module_name] for one in members for projection in layout.projections)
    return any(bool(pair.inputs.any()) and bool(pair.deltas.any()) for pair in factors)


def warn_if_damped(result: Heatmap | PairSummary) -> None:
    """Warn where damping outweighs F in most slices of a ``result`` that have gradients."""
    if result.attributes["variant"] in formula.MATRIX_VARIANTS:
        return _warn_if_ridge_is_all(result)
    ratios = np.concatenate([
        result.health[block]["fisher_over_damped"][result.health[block]["fisher_max"] > 0] for block in BLOCKS
    ])  # fmt: skip
    share = float((ratios < 0.5).mean()) if ratios.size else 0.0
    if result.attributes["variant"] != "dot" and share > 0.5:
        _warn(
            f"damping outweighs the median Fisher value in {share:.0%} of the slices, so scores there are hardly "
            "normalised. Leave epsilon and ridge_lambda unset for relative damping, or rescale the loss.",
            errors.DampingWarning,
        )


def _warn_if_ridge_is_all(result: Heatmap | PairSummary) -> None:
    """Warn where damping exceeds even the largest eigenvalue; most of a singular matrix is below it by design."""
    largest, damping = (
        np.concatenate([result.health[block][name].ravel() for block in BLOCKS]) for name in ("fisher_max", "damping")
    )
    share = float((damping[largest > 0] > largest[largest > 0]).mean()) if (largest > 0).any() else 0.0
    if share > 0.5:
        _warn(
            f"damping outweighs the largest eigenvalue of the Fisher matrix in {share:.0%} of the slices, so scores there are "
            "inner products over a constant. Leave ridge_lambda unset for relative damping, or lower it.",
            errors.DampingWarning,
        )


def _warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called the module which asks for warnings: neither this file nor that one is looked at."""
    level, frame = 2, sys._getframe(1)
    for _ in ("this file", "the one that makes the scores"):
        passed = frame.f_code.co_filename
        while frame.f_back is not None and frame.f_code.co_filename == passed:
            level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
