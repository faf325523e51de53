r"""Predict what a step on task B does to task A's loss, slice by slice: the "predicted" summary.

.. math:: \Delta L_A(s) \approx \frac1{n_A} \sum_i \Big( g_i \cdot d_s + \tfrac12 q_i(d_s) \Big), \qquad
          d_s = -\eta\, u(\bar g_B)_s

with the step d on slice s alone; see :mod:`qkov.step` for the directions and the curvatures. The unit is the loss itself:
nats of a sample of A, summed over its tokens. Unlike every other score this says how much, and with a sign: above 0, the
step on B hurts A.

Finite samples. The step is the one that B's collected samples make (``estimand="step"``), so that it is known, and the mean
over A's samples estimates its effect on A without bias, provided that A's samples had no part in the step. Samples that
share a cluster, or their very input, with samples of B get the step that B makes without those (cross-fitting): otherwise
a task would seem to help itself by what it has only memorised. For the step along B's expected gradient
(``estimand="population"``) what the noise in B's mean adds to the squared step is taken off, without bias for "sgd", and the
interval takes in B's error too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from . import errors, formula, inference, prediction_result, reproducibility, scoring, step

if TYPE_CHECKING:
    from .collector import FisherCollector
    from .geometry import AttentionLayout, Projection
    from .option_types import Curvature, Optimiser, PredictionEstimand
    from .prediction_result import Prediction
    from .samples import Sample
    from .score_options import ScoreOptions
    from .statistics.clusters import Clusters


ESTIMANDS = ("step", "population")
DECREASE = 0.01
"""Nats per token by which B's own loss falls to first order at the default step, all slices together."""


def predict_change(
    collector: FisherCollector,
    task_a: str,
    task_b: str,
    *,
    step_size: float | None = None,
    decrease: float = DECREASE,
    optimiser: Optimiser = "sgd",
    curvature: Curvature = "diagonal",
    curvature_task: str | None = None,
    estimand: PredictionEstimand = "step",
    clusters: Mapping[str, Any] | str | None = None,
    level: float = 0.95,
    layers: Iterable[int] | None = None,
    computation_device: str | torch.device = "cpu",
    tile_elements: int = 2**22,
    progress: bool = True,
) -> Prediction:
    """Predict the change of A's mean loss by a step on each slice alone, from gradients of B.

    Args:
        collector: Holds the samples of both tasks.
        task_a: Task whose loss is watched.
        task_b: Task whose mean gradient makes the step; may be ``task_a`` itself.
        step_size: Learning rate eta. By default the one at which B's own loss falls by ``decrease``.
        decrease: Nats per token of B, to first order, when all slices step; used without ``step_size``.
        optimiser: "sgd", "adam" (B's mean gradient over the root of B's mean squared gradient) or "sign".
        curvature: "diagonal" (default), "none" or "gradient"; see :mod:`qkov.step`.
        curvature_task: A collected task whose gradients stand for A's in the curvature, for example A with labels drawn
            from the model, which gives its true Fisher; sample ids need not agree.
        estimand: "step": the effect of the step that these samples of B make. "population": of the step along B's
            expected gradient; not with "sign" or curvature "gradient", from which noise cannot be taken off slice by slice.
        clusters: Independent units. By default the labels given at collection; where a sample has none, there are no
            intervals. "iid", or ``{task: "iid" or {id: label}}``.
        level: Of the intervals.
        layers: Layer numbers; default all.
        computation_device: Where slices of gradients are built.
        tile_elements: Most numbers of gradients held at a time.
        progress: Show a bar when the work takes longer than two seconds.

    Returns:
        :class:`~qkov.prediction_result.Prediction`: by slice, kv head, layer, block and in all.

    Raises:
        EmptyTaskError: If a task has no samples.
        OptionError: If an option has no meaning.
        StatisticsError: If an interval was asked for that the clusters cannot give.
        UnknownTaskError: If a task was never collected.
        NonFiniteError: If gradients leave the range of their type.
    """
    device = scoring.checked_device(computation_device)
    if not 0 < level < 1:
        raise errors.StatisticsError(f"level={level!r}; expected a coverage between 0 and 1, such as 0.95.")
    plan = Plan(collector, task_a, task_b, optimiser, curvature, curvature_task, estimand, clusters, device)
    options = scoring.ScoreOptions(
        contribution_normalisation="none",
        device=device,
        tile_elements=tile_elements,
    )
    layouts = plan.layouts(layers)
    labels, columns = [], []
    total = sum(one.num_units for layout in layouts for one in layout.projections)
    # Where disable is not given, TQDM_DISABLE in the environment still acts.
    with tqdm(total=total, desc="predict", unit=" slices", delay=2, **({} if progress else {"disable": True})) as bar:
        for layout in layouts:
            for projection in layout.projections:
                means = plan.block_means(layout, projection, options)
                for unit in range(projection.num_units):
                    columns.append(_predict_slice(plan, projection, unit, means, options))
                    labels.append((projection.block, layout.layer, unit))
                    bar.update()
    return _result(plan, layouts, labels, columns, step_size, decrease, level)


@dataclass(frozen=True)
class _SliceChange:
    """What one slice gives at step size 1.

    Attributes:
        first: First-order change of each sample of A, ``[n_a]``.
        second: Of each curvature sample: half its diagonal curvature, or with curvature "gradient" its first-order change,
            from which the curvature of any group of slices follows; ``[n_c]``.
        influence: First-order change of A's mean loss by each sample of B alone, ``[n_b]``.
        descent: First-order decrease of B's mean loss.
    """

    first: np.ndarray
    second: np.ndarray
    influence: np.ndarray
    descent: float


class Plan:
    """Who is watched, who steps, and whose part of the step each sample of A must not see."""

    def __init__(
        self,
        collector: FisherCollector,
        task_a: str,
        task_b: str,
        optimiser: str,
        curvature: str,
        curvature_task: str | None,
        estimand: str,
        clusters: Mapping[str, Any] | str | None,
        device: str | torch.device,
        *,
        cross_fit: Any = "shared",
    ) -> None:
        formula.require_choice("optimiser", optimiser, step.OPTIMISERS)
        formula.require_choice("curvature", curvature, step.CURVATURES)
        formula.require_choice("estimand", estimand, ESTIMANDS)
        if estimand == "population" and (optimiser == "sign" or curvature == "gradient"):
            raise errors.OptionError(
                f"estimand='population' with optimiser={optimiser!r} and curvature={curvature!r}: noise can be taken off "
                "squares of a step along a mean, not off signs or off products of slices. Use estimand='step', or 'sgd' "
                "or 'adam' with curvature 'diagonal' or 'none'."
            )
        if curvature_task is not None and curvature == "none":
            raise errors.OptionError("curvature_task is given, but curvature='none' uses no curvature; leave one out.")
        self.collector, self.config = collector, collector.config
        self.task_a, self.task_b, self.curvature_task = task_a, task_b, curvature_task
        self.optimiser, self.curvature, self.estimand = optimiser, curvature, estimand
        self.members = {name: collector.samples(name) for name in (task_a, task_b, curvature_task) if name is not None}
        for name, members in self.members.items():
            if not members:
                raise errors.EmptyTaskError(
                    f"task {name!r} has no samples; nothing can be predicted. Collect it first."
                )
        self.device = device
        everybody: dict[frozenset[int], list[int]] = {frozenset(): list(range(len(self.side_a)))}
        self.units_a = self.units_b = None
        if cross_fit == "shared":
            self.units_a, self.units_b = (self._units(name, clusters) for name in (task_a, task_b))
        self.exclusions = self._exclusions() if cross_fit == "shared" else everybody

    @property
    def side_a(self) -> tuple[Sample, ...]:
        return self.members[self.task_a]

    @property
    def side_b(self) -> tuple[Sample, ...]:
        return self.members[self.task_b]

    @property
    def side_c(self) -> tuple[Sample, ...]:
        """Whose gradients make the curvature."""
        return self.members[self.curvature_task or self.task_a]

    def layouts(self, layers: Iterable[int] | None) -> list[AttentionLayout]:
        if layers is None:
            return list(self.config.layers)
        chosen = [self.config.layer(layer) for layer in layers]
        if not chosen or len(set(layers)) != len(chosen):
            raise errors.OptionError(f"layers is {list(layers)}; expected different layer numbers, or None for all.")
        return chosen

    def block_means(
        self, layout: AttentionLayout, projection: Projection, options: ScoreOptions
    ) -> tuple[float, float]:
        """Mean of B's squared gradients over the block, and over the layer's largest: what noise is measured by."""
        side = scoring.Side(self.side_b, None, options)
        every = [side.block_mean(layout, one, options) for one in layout.projections]
        return side.block_mean(layout, projection, options), max(every)

    def facts(self) -> dict[str, Any]:
        """What every prediction says of itself."""
        return {
            "task_a": self.task_a,
            "task_b": self.task_b,
            "optimiser": self.optimiser,
            "curvature": self.curvature,
            "curvature_task": self.curvature_task,
            "computation_device": torch.device(self.device).type,
            "model_fingerprint": self.collector.model_fingerprint,
            "versions": {name: reproducibility.environment_record()["versions"][name] for name in ("qkov", "torch")},
        }

    def _units(self, name: str, clusters: Mapping[str, Any] | str | None) -> Clusters | None:
        members = self.members[name]
        if clusters is None and any(one.cluster is None for one in members):
            return None
        return inference.task_clusters(self.collector, name, clusters)

    def _exclusions(self) -> dict[frozenset[int], list[int]]:
        """Pairs of rows of A and rows of B that must not make their step: of a common cluster, or the same input."""
        labels_b = _labels(self.side_b, self.units_b)
        by_label: dict[Any, Any] = {}
        for row, labels in enumerate(labels_b):
            for label in labels:
                by_label.setdefault(label, set()).add(row)
        groups: dict[Any, Any] = {}
        for row, labels in enumerate(_labels(self.side_a, self.units_a)):
            excluded = frozenset().union(*(by_label.get(label, ()) for label in labels))
            groups.setdefault(excluded, []).append(row)
        if any(len(excluded) == len(self.side_b) for excluded in groups):
            raise errors.StatisticsError(
                f"every sample of task {self.task_b!r} shares its cluster or its input with a sample of "
                f"{self.task_a!r}, so that no step is left that this sample has no part in. Collect more clusters."
            )
        return groups


def _labels(members: Sequence[Sample], found: Clusters | None) -> list[set[tuple[str, str]]]:
    """Of each sample: its input, and its cluster where clusters have names."""
    labels = [{("input", one.digest)} for one in members]
    if found is not None and found.labels is not None:
        for one, code in zip(labels, found.codes, strict=True):
            one.add(("cluster", found.labels[code]))
    return labels


def _predict_slice(
    plan: Plan, projection: Projection, unit: int, means: tuple[float, float], options: ScoreOptions
) -> _SliceChange:
    """Accumulate one slice over its tiles, at step size 1."""
    block_mean, largest = means
    num_a, num_b = len(plan.side_a), len(plan.side_b)
    first, second, influence = (
        torch.zeros(len(side), dtype=torch.float64) for side in (plan.side_a, plan.side_c, plan.side_b)
    )
    descent = 0.0
    foreign = plan.side_c if plan.curvature_task else ()
    for tile in scoring.slice_tiles([*plan.side_a, *plan.side_b, *foreign], projection, unit, options):
        if formula.is_noise(block_mean, largest, tile.dtype):
            continue  # nothing but rounding: an optimiser that divides by its size would make a step of it
        grads_a, grads_b = tile[:num_a], tile[num_a : num_a + num_b]
        sums: Any = grads_b.sum(0), grads_b.square().sum(0), num_b
        whole = _direction(sums, block_mean, plan.optimiser)
        descent += float((grads_b @ whole).double().mean())
        each = step.direction(grads_b, sums[1] / num_b, block_mean, plan.optimiser)
        noise = _variance_of_mean(each, plan.units_b) if plan.estimand == "population" else 0.0
        for excluded, rows in plan.exclusions.items():
            left = grads_b[sorted(excluded)]
            taken = left.sum(0), left.square().sum(0), len(left)
            own = _direction([a - b for a, b in zip(sums, taken, strict=True)], block_mean, plan.optimiser)
            first[rows] += step.first_order(grads_a[rows], -own).double().cpu()
            if plan.curvature == "diagonal" and not foreign:
                second[rows] += step.diagonal_curvature(grads_a[rows], own.square() - noise).double().cpu()
        if foreign and plan.curvature == "diagonal":
            second += step.diagonal_curvature(tile[num_a + num_b :], whole.square() - noise).double().cpu()
        elif foreign:
            second += step.first_order(tile[num_a + num_b :], -whole).double().cpu()
        influence += step.first_order(each, -grads_a.mean(0)).double().cpu()
    if plan.curvature == "gradient" and not foreign:
        second = first
    found = _SliceChange(first.numpy(), second.numpy(), influence.numpy(), descent)
    if not all(np.isfinite(one).all() for one in (found.first, found.second, found.influence)):
        raise left_the_range(projection, unit)
    return found


def left_the_range(projection: Projection, unit: int) -> Exception:
    """The error of a prediction that is no number."""
    return errors.NonFiniteError(
        f"the predicted change of block {projection.block}, slice {unit} of {projection.param_name!r} is NaN or infinite: "
        "gradients or their squares leave the range of their type. Scale the loss down, or use float64."
    )


def _direction(sums: Sequence[Any], block_mean: float, optimiser: str) -> torch.Tensor:
    """The direction of a mean gradient, from sums of gradients and of their squares over so many samples."""
    grads, squares, count = sums
    # Rounding can leave a sum of squares from which others were taken just below 0.
    return step.direction(grads / count, squares.clamp_min(0) / count, block_mean, optimiser)


def _variance_of_mean(rows: torch.Tensor, found: Clusters | None) -> torch.Tensor:
    r"""Estimate without bias the variance of a mean over samples, ``[parameters]``, from independent units.

    .. math:: \frac{G}{G - 1} \frac1{n^2} \sum_c \Big(\sum_{i \in c} (x_i - \bar x)\Big)^2
    """
    centred = rows - rows.mean(0)
    if found is not None:
        codes = torch.from_numpy(found.codes).to(rows.device)
        centred = torch.zeros(found.number, rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(
            0, codes, centred
        )
    count = len(centred)
    if count < 2:
        raise errors.StatisticsError("estimand='population' needs at least 2 independent samples or clusters of B.")
    return centred.square().sum(0) * (count / (count - 1)) / len(rows) ** 2


def _result(
    plan: Plan,
    layouts: Sequence[AttentionLayout],
    labels: Sequence[tuple[str, int, int]],
    columns: Sequence[_SliceChange],
    step_size: float | None,
    decrease: float,
    level: float,
) -> Prediction:
    tokens_a, tokens_b = (np.array([one.num_tokens for one in side]) for side in (plan.side_a, plan.side_b))
    descent = np.array([one.descent for one in columns])
    if step_size is None:
        step_size = size_for(decrease, float(descent.sum()), float(tokens_b.mean()))
    blocks, layers, slice_units = zip(*labels, strict=True)
    return prediction_result.Prediction(
        blocks=blocks,
        layers=layers,
        units=slice_units,
        sample_a=tuple(one.sample_id for one in plan.side_a),
        first=np.stack([one.first for one in columns], 1),
        second=np.stack([one.second for one in columns], 1),
        influence=np.stack([one.influence for one in columns], 1),
        descent=descent,
        tokens_a=tokens_a,
        codes_a=_codes(plan.units_a),
        codes_b=_codes(plan.units_b),
        step_size=step_size,
        attributes=plan.facts()
        | {
            "estimand": plan.estimand,
            "level": level,
            "tokens_per_sample_b": float(tokens_b.mean()),
            "num_cross_fitted": sum(len(rows) for excluded, rows in plan.exclusions.items() if excluded),
            "num_heads": {str(one.layer): one.num_heads for one in layouts},
            "num_kv_heads": {str(one.layer): one.num_kv_heads for one in layouts},
        },
    )


def _codes(found: Clusters | None) -> np.ndarray | None:
    return None if found is None else found.codes


def checked_size(step_size: float) -> float:
    """Return a step size as a float; refuse what is none."""
    if not 0 < step_size < float("inf"):
        raise errors.OptionError(f"step_size is {step_size}; expected a positive number, a learning rate.")
    return float(step_size)


def size_for(decrease: float, descent: float, tokens: float) -> float:
    """The step size at which B's loss falls by so many nats a token, to first order."""
    if not 0 < decrease < float("inf"):
        raise errors.OptionError(f"decrease is {decrease}; expected a positive number of nats per token.")
    if not descent > 0:
        raise errors.OptionError(
            "B's mean gradient is 0 on every slice, so no step lowers B's loss. Give step_size, or collect other samples."
        )
    return decrease * tokens / descent
