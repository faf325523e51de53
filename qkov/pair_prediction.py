r"""Predict what the step of one sample of B alone does to the loss of one sample of A: "predicted" for pairs.

.. math:: \Delta_{ij} \approx g_i \cdot d_j + \tfrac12 q(d_j), \qquad d_j = -\eta\, u(g_j)

with the directions of :mod:`qkov.step`. The diagonal curvature is that of A's mean loss, :math:`q(d) = \sum_k F_{A,k} d_k^2`,
because one sample's squared gradient says little of its own curvature; "gradient" is :math:`(g_i \cdot d_j)^2`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from . import errors, formula, heatmap, prediction, score_frame, scoring, step

if TYPE_CHECKING:
    from .collector import FisherCollector
    from .geometry import Projection
    from .heatmap import Heatmap
    from .option_types import Curvature, Optimiser
    from .prediction import Plan
    from .score_options import ScoreOptions


MEANING = {
    "variant": "predicted",
    "meaning": "predicted change of the loss of A's sample by an optimiser's step on B's sample, on this slice alone",
    "sign": "+ the step on B's sample raises the loss of A's sample, - it lowers it",
    "unit": "nats of A's sample, summed over its tokens",
    "range": "(-inf, inf)",
    "conflict_order": "descending",
    "average_caveat": "",
    "aggregate": "sum",
}


def predict_pairs(
    collector: FisherCollector,
    task_a: str,
    task_b: str,
    *,
    step_size: float | None = None,
    decrease: float = prediction.DECREASE,
    optimiser: Optimiser = "sgd",
    curvature: Curvature = "diagonal",
    curvature_task: str | None = None,
    layers: Iterable[int] | None = None,
    computation_device: str | torch.device = "cpu",
    tile_elements: int = 2**22,
    progress: bool = True,
) -> Heatmap:
    """Predict the change of every sample of A by the step of every sample of B alone, slice by slice.

    Args:
        collector, task_a, task_b, optimiser, curvature, layers: As for :func:`qkov.predict_change`.
        step_size: Learning rate, one for all samples of B. By default the one at which a sample of B lowers its own loss by
            ``decrease`` nats a token, on average and to first order, when all slices step.
        curvature_task: A collected task whose gradients make the diagonal curvature; not with "gradient".
        computation_device, tile_elements, progress: As for :func:`qkov.predict_change`.
        decrease: By how much a sample of B lowers its own loss where no ``step_size`` is given, in nats a token.

    Returns:
        A :class:`~qkov.heatmap.Heatmap` in nats; conflict is positive. A sample that is on both sides predicts how it helps
        itself, which says nothing of others.

    Raises:
        OptionError: If an option has no meaning, or two exclude each other.
        EmptyTaskError: If a task has no samples.
        UnknownTaskError: If a task was never collected.
        StatisticsError: As :func:`qkov.predict_change` does.
        NonFiniteError: If gradients leave the range of their type.
    """
    device = scoring.checked_device(computation_device)
    if curvature == "gradient" and curvature_task is not None:
        raise errors.OptionError("curvature='gradient' is that of each sample of A itself; leave curvature_task out.")
    plan = prediction.Plan(
        collector, task_a, task_b, optimiser, curvature, curvature_task, "step", None, device, cross_fit="none"
    )
    options = scoring.ScoreOptions(
        contribution_normalisation="none", aggregate="sum", device=device, tile_elements=tile_elements
    )
    layouts = plan.layouts(layers)
    frames = [
        score_frame.Frame(layouts, range(max(one.num_heads for one in layouts)), len(plan.side_a), len(plan.side_b))
        for _ in ("first", "second")
    ]
    descent = 0.0
    with tqdm(total=frames[0].num_slices, desc="predict", unit=" slices", delay=2,
              **({} if progress else {"disable": True})) as bar:  # fmt: skip
        for place, layout in enumerate(layouts):
            for projection in layout.projections:
                means = plan.block_means(layout, projection, options)
                for column, unit in frames[0].units(layout, projection.block):
                    *parts, own = _predict_slice(plan, projection, unit, means, options)
                    for frame, part in zip(frames, parts, strict=True):
                        frame.put(projection.block, place, column, scoring.SliceScores(part, 0, {}))
                    descent += own
                    bar.update()
    if step_size is None:
        tokens = np.mean([one.num_tokens for one in plan.side_b])
        step_size = prediction.size_for(decrease, descent, float(tokens))
    prediction.checked_size(step_size)
    first, second = (frame.arrays for frame in frames)
    fields = frames[0].fields() | {
        "arrays": {block: step_size * first[block] + step_size**2 * second[block] for block in first},  # type: ignore[operator]  # made in memory
        "health": {},
    }
    return heatmap.Heatmap(
        task_a=task_a,
        task_b=task_b,
        sample_a=tuple(one.sample_id for one in plan.side_a),
        sample_b=tuple(one.sample_id for one in plan.side_b),
        attributes=MEANING | plan.facts() | {"step_size": float(step_size)},
        **fields,
    )


def _predict_slice(
    plan: Plan, projection: Projection, unit: int, means: tuple[float, float], options: ScoreOptions
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """First-order changes and half the curvatures ``[n_a, n_b]`` at step size 1, and the mean decrease of B's own losses."""
    block_mean, largest = means
    num_a, num_b = len(plan.side_a), len(plan.side_b)
    first = torch.zeros(num_a, num_b, dtype=torch.float64)
    second = torch.zeros_like(first)
    descent = 0.0
    foreign = plan.side_c if plan.curvature_task else ()
    for tile in scoring.slice_tiles([*plan.side_a, *plan.side_b, *foreign], projection, unit, options):
        if formula.is_noise(block_mean, largest, tile.dtype):
            continue
        grads_a, grads_b = tile[:num_a], tile[num_a : num_a + num_b]
        steps = step.direction(grads_b, grads_b.square().mean(0), block_mean, plan.optimiser)
        first -= formula.pair_scores(grads_a, steps).double().cpu()
        descent += float((grads_b * steps).sum(1, dtype=torch.float64).mean())
        if plan.curvature == "diagonal":
            fisher = (tile[num_a + num_b :] if foreign else grads_a).square().mean(0)
            second += (steps.square() @ fisher / 2).double().cpu()
    if plan.curvature == "gradient":
        second = first.square() / 2
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise prediction.left_the_range(projection, unit)
    return first, second, descent
