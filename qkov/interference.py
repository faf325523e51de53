"""The QK-OV interference metric on a collector: single pairs, and heatmaps of all pairs on all slices."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from . import (
    errors,
    formula,
    heatmap,
    meaning,
    memory,
    pair_summary,
    score_attributes,
    score_memory,
    score_warnings,
    scoring,
    slice_scorer,
    summary_frame,
)
from .geometry import BLOCKS, checked_index
from .score_frame import Frame, require_room

if TYPE_CHECKING:
    from .collector import FisherCollector
    from .geometry import AttentionLayout, Projection
    from .heatmap import Heatmap
    from .layout import QKOVConfig
    from .option_types import (
        Aggregate,
        ContributionNormalisation,
        FisherPool,
        FisherSource,
        GradNormalisation,
        MemoryBudget,
        PathLike,
        SampleId,
        Tiling,
        Variant,
    )
    from .pair_summary import PairSummary
    from .samples import Sample
    from .score_frame import Grid
    from .score_options import ScoreOptions
    from .sides import Side
    from .slice_scorer import SliceScorer
    from .summary_frame import SummaryFrame


class QKOVInterferenceMetric:
    r"""Score, per head and block, how strongly samples of task A and task B meet in the same parameters.

    .. math:: M_{ij} = \frac1K \sum_{k \in \text{slice}} \frac{C_{ik}}{D_k} \, |g_{jk}| \qquad\text{("unsigned")}

    Source: seed documents, section 4.1; the other variants are listed in ``qkov.formula`` and described, with sign and
    unit, in every result. A score says where two tasks touch the same parameters, not that one harms the other: only
    "signed", "full", "kfac" and "dot" have a sign, no score is a p-value, and what a step does to a loss is predicted by
    ``qkov.predict_change``.

    Args:
        config: The model's layout.
        collector: The samples of both tasks.
        variant: "unsigned" (default, the seeds'), "natural", "signed", "symmetric" or "dot"; or "full", ``h_i^T (F +
            lambda I)^-1 h_j`` with the whole Fisher matrix of the slice, and "kfac", the same with Kronecker factors. Heads
            do not add up in these two.
        fisher_pool: Whose Fisher divides: "A" (default, the seeds'), "B" or "pooled". With "A" an average over A's samples
            carries no information on A; the result says so. "natural" divides each task by its own, whatever the pool.
            "kfac" with "pooled": Kronecker factors of all samples together.
        fisher_source: "contributions" (mean over all collected samples), "ema" (exponential mean in order of collection)
            or "head" (one value per slice; not with "full" and "kfac").
        fisher_tasks: ``{task: other collected task}``: F of a task comes from the samples of another, such as the same texts
            with labels drawn from the model (``qkov.losses.sample_labels``), for the true instead of the empirical Fisher.
        aggregate: "mean" over the slice's parameters (default) or "sum". For "full" and "kfac" the sum is the quadratic form,
            and the mean is it over the number of parameters.
        normalize_gj: "none" (default) or "per_token"; only with "unsigned".
        contribution_normalisation: "tokens", "none", or None for the collector's.
        include_bias: Add the bias entries of Q, K and V to their slices.
        epsilon: Absolute floor of F, the seeds' (1e-10). Giving it or ``ridge_lambda`` switches relative damping off.
        ridge_lambda: Absolute ridge, the seeds' (1e-8). For "full" and "kfac" lambda itself.
        ridge_lambda_rel: Relative ridge, times the mean of F over all heads of the layer and block; default 1e-8. For "full"
            times ``trace(F) / min(n, parameters)``, for "kfac" times the mean eigenvalue, both of the slice; default 0.1.
        min_samples_for_fisher: Warn when F rests on fewer samples.
        computation_device: "cpu" (default), "cuda", "auto", or any torch device.
        tile_elements: Most numbers of gradients held at a time.
        tiling: "fast" (default), or "fixed": tiles of one shape, in which each sample has its place, so that a score is the
            same bits whatever else is scored, in one process or many; slower.
        memory_budget: Most memory that this process may hold while it scores, in bytes or as "8GB": all of it, with Python,
            torch and the model. Stored samples are then read anew, tiles made narrower and samples taken in blocks, as far
            as needed; what cannot fit is refused. On a GPU: most that torch may have allocated there. None: no limit.

    Raises:
        OptionError: For an option, or a combination, without meaning.
        ModelChangedError: If the layout is not that of the collected model.
    """

    def __init__(
        self,
        config: QKOVConfig,
        collector: FisherCollector,
        *,
        variant: Variant = "unsigned",
        fisher_pool: FisherPool = "A",
        fisher_source: FisherSource = "contributions",
        aggregate: Aggregate = "mean",
        normalize_gj: GradNormalisation = "none",
        contribution_normalisation: ContributionNormalisation | None = None,
        include_bias: bool = False,
        epsilon: float | None = None,
        ridge_lambda: float | None = None,
        ridge_lambda_rel: float | None = None,
        fisher_tasks: Mapping[str, str] | None = None,
        min_samples_for_fisher: int = 10,
        computation_device: str | torch.device = "cpu",
        tile_elements: int = 2**23,
        tiling: Tiling = "fast",
        memory_budget: MemoryBudget | None = None,
    ) -> None:
        self.config, self.collector = config, collector
        self.min_samples_for_fisher = min_samples_for_fisher
        self.fisher_tasks = dict(fisher_tasks or {})
        self.memory_budget = memory.budget_bytes(memory_budget)
        self.options = scoring.ScoreOptions(
            variant=variant,
            fisher_pool=fisher_pool,
            fisher_source=fisher_source,
            aggregate=aggregate,
            normalize_gj=normalize_gj,
            contribution_normalisation=contribution_normalisation or collector.contribution_normalisation,
            include_bias=include_bias,
            epsilon=epsilon,
            ridge_lambda=ridge_lambda,
            ridge_lambda_rel=ridge_lambda_rel,
            ema_decay=collector.ema_decay,
            tile_elements=tile_elements,
            tiling=tiling,
            device=scoring.checked_device(computation_device),
        )
        if collector.config is not None and collector.config != config:
            raise errors.ModelChangedError(
                "the collector holds gradients of a model with another layout than config. Pass "
                "QKOVConfig.from_model(model) of the model that was collected."
            )

    def compute_sample_pair(
        self, task_a: str, sample_i: SampleId, task_b: str, sample_j: SampleId, layer: int, head: int
    ) -> dict[str, float]:
        """Score one pair of samples at one head.

        Args:
            task_a: Task whose sensitivity is measured. sample_i: A sample id of it, not a position.
            task_b: Task whose gradients act. sample_j: A sample id of it.
            layer: Layer number. head: Query head; K and V are those of its kv head.

        Returns:
            ``{"Q": score, "K": ..., "V": ..., "O": ...}``, the entries of the heatmap at that place.

        Raises:
            UnknownTaskError, UnknownSampleError, SliceIndexError: If one of them does not exist.
        """
        layout = self.config.layer(layer)
        checked_index(head, layout.num_heads, f"head of layer {layer}")
        rows = []
        for task, sample_id in ((task_a, sample_i), (task_b, sample_j)):
            self.collector.sample(task, sample_id)
            rows.append([self.collector.sample_ids(task).index(sample_id)])
        self._warn_if_few(task_a, task_b)
        scorer = self._scorer(task_a, task_b, *rows, [layout])  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds
        found = {one.block: scorer.pairs(layout, one, layout.unit(one.block, head)) for one in layout.projections}
        return {block: float(result.scores[0, 0]) for block, result in found.items()}

    def compute_heatmap(
        self,
        task_a: str,
        task_b: str,
        *,
        layers: int | Iterable[int] | None = None,
        heads: int | Iterable[int] | None = None,
        max_samples_per_task: int | None = None,
        scores_path: PathLike | None = None,
        progress: bool = True,
    ) -> Heatmap:
        """Score every pair of samples on every slice.

        Args:
            task_a: Task whose sensitivity is measured.
            task_b: Task whose gradients act. Without samples, the result has a zero-length axis, zero averages,
                ``valid=False``, and a warning is given.
            layers: Layer numbers; default all. heads: Query heads; default all.
            max_samples_per_task: Score the first n samples of each task; F still comes from all collected ones.
            scores_path: None for scores in memory, or a new or empty folder: there they are written slice by slice, and
                the result reads them a slice at a time, so that memory does not grow with their number. The files, a
                ``.npy`` per block, must stay, and stay as they are, as long as the result is used; the scores are the
                same bits. See :meth:`compute_summary` for results that need no pairs at all.
            progress: Show a bar when the work takes longer than two seconds.

        Returns:
            A ``Heatmap``; K and V are computed once per kv head.

        Raises:
            EmptyTaskError: If task A has no samples.
            UnknownTaskError, SliceIndexError, OptionError: If a task, layer, head or number does not exist, or
                ``scores_path`` is not empty.
            MemoryLimitError, DiskError: If the scores fit neither.
        """
        options: dict[str, Any] = {
            "layers": layers,
            "heads": heads,
            "max_samples_per_task": max_samples_per_task,
            "progress": progress,
        }
        return self._heatmaps(task_a, task_b, {self.options.variant: scores_path}, **options)[self.options.variant]

    def compute_heatmaps(
        self,
        task_a: str,
        task_b: str,
        *,
        variants: Iterable[Variant],
        layers: int | Iterable[int] | None = None,
        heads: int | Iterable[int] | None = None,
        max_samples_per_task: int | None = None,
        scores_path: PathLike | None = None,
        progress: bool = True,
    ) -> dict[str, Heatmap]:
        """Score every pair of samples on every slice by several variants, from gradients built once.

        Each variant beyond the first costs one more matrix product of a slice, not another pass over the samples.

        Args:
            variants: Some of "unsigned", "natural", "signed", "symmetric" and "dot"; the metric's own is not looked at.
            task_a, task_b, layers, heads, max_samples_per_task, progress: As for :meth:`compute_heatmap`.
            scores_path: As there; each variant has a folder of its name in it.

        Returns:
            ``{variant: Heatmap}``, each what a metric of that variant gives, to rounding.

        Raises:
            OptionError: If a variant is none of these, or none is named; else as :meth:`compute_heatmap`.
        """
        variants = tuple(dict.fromkeys(variants))
        if not variants:
            raise errors.OptionError("variants is empty, so there is nothing to score; name at least one.")
        for one in variants:
            formula.require_choice("variants", one, formula.VARIANTS)
            dataclasses.replace(self.options, variant=one)  # refuses what has no meaning with the other options
        paths = {one: None if scores_path is None else Path(scores_path) / one for one in variants}
        options: dict[str, Any] = {
            "layers": layers,
            "heads": heads,
            "max_samples_per_task": max_samples_per_task,
            "progress": progress,
        }
        return self._heatmaps(task_a, task_b, paths, **options)

    def _heatmaps(
        self,
        task_a: str,
        task_b: str,
        paths: Mapping[Any, PathLike | None],
        *,
        layers: int | Iterable[int] | None,
        heads: int | Iterable[int] | None,
        max_samples_per_task: int | None,
        progress: bool,
    ) -> dict[str, Heatmap]:
        """One heatmap for each variant of ``{variant: folder of its scores, or None}``."""
        layouts, heads = self._selection(layers, heads)
        members = self._members(task_a, task_b, max_samples_per_task)
        counts = [len(part) for part in members]
        with contextlib.ExitStack() as stack:
            frames = {}
            for variant, path in paths.items():
                require_room(layouts, heads, *counts, path)  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds
                frames[variant] = stack.enter_context(Frame(layouts, heads, *counts, path))  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds
            options = self.options
            if members[1]:
                self._warn_if_few(task_a, task_b)
                options = self._fill(frames, task_a, task_b, counts, progress)
            results = {
                variant: heatmap.Heatmap(
                    **self._names(task_a, task_b, members),
                    attributes=self._attributes(
                        task_a, task_b, counts[1] > 0, dataclasses.replace(options, variant=variant)
                    ),
                    **frame.fields(),
                )
                for variant, frame in frames.items()
            }
        for result in results.values() if members[1] else ():
            self._warn_of(result)
        return results

    def _fill(
        self, frames: Mapping[str, Frame], task_a: str, task_b: str, counts: Sequence[int], progress: bool
    ) -> ScoreOptions:
        """Fill the frames; return the options that scores were made with."""
        grid = next(iter(frames.values())).grid
        later = sum(frame.result_bytes for frame in frames.values())
        rows = [list(range(count)) for count in counts]
        scorer = self._scorer(task_a, task_b, *rows, grid.layouts, later=later, num_variants=len(frames))  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds

        def visit(layout: AttentionLayout, projection: Projection, place: int, column: int, unit: int) -> None:
            if len(frames) == 1:
                results = [scorer.pairs(layout, projection, unit)]
            else:
                results = scorer.variants(layout, projection, unit, tuple(frames)).values()
            for frame, result in zip(frames.values(), results, strict=True):
                frame.put(projection.block, place, column, result)

        made_with = scorer.options
        self._over_slices(grid, progress, visit)
        return made_with

    def compute_summary(
        self,
        task_a: str,
        task_b: str,
        *,
        top_k: int = 10,
        layers: int | Iterable[int] | None = None,
        heads: int | Iterable[int] | None = None,
        max_samples_per_task: int | None = None,
        progress: bool = True,
    ) -> PairSummary:
        """Reduce the scores of all pairs while they are made, without keeping them.

        Of every slice: the mean over either task, which follows from sums over one task at a time, the lift of A's samples,
        and health. The strongest pairs need the scores of all pairs, one slice at a time, and so as many operations as a
        heatmap; with ``top_k=0`` no pair is formed and work grows with the sum of the tasks' sizes instead of their product.
        Variants that weigh by a matrix ("full", "kfac") have no such sums and no lift: their means are those of the scores of
        pairs, one slice at a time.

        Args:
            task_a: Task whose sensitivity is measured.
            task_b: Task whose gradients act. Without samples as in :meth:`compute_heatmap`.
            top_k: How many of the strongest pairs of each block to list, in the order of ``Heatmap.top_conflicts``.
            layers, heads, max_samples_per_task, progress: As for :meth:`compute_heatmap`.

        Returns:
            A ``PairSummary``.

        Raises:
            EmptyTaskError: If task A has no samples.
            UnknownTaskError, SliceIndexError, OptionError: If a task, layer, head or number does not exist.
            MemoryLimitError: If not even the summary fits.
        """
        layouts, heads = self._selection(layers, heads)
        members = self._members(task_a, task_b, max_samples_per_task)
        counts = [len(part) for part in members]
        summary_frame.require_memory(layouts, heads, *counts, top_k)  # type: ignore[call-arg]  # a list does not say how many it holds
        ascending = meaning.VARIANT_MEANING[self.options.variant]["conflict_order"] == "ascending"
        frame = summary_frame.SummaryFrame(
            layouts, heads, *counts, top_k=top_k, ascending=ascending, has_lift=not self.options.weighs_by_matrix
        )
        options = self.options
        if members[1]:
            self._warn_if_few(task_a, task_b)
            rows = [list(range(count)) for count in counts]
            scorer = self._scorer(task_a, task_b, *rows, layouts, later=frame.result_bytes, in_place=False)  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds
            options = scorer.options
            self._over_slices(frame.grid, progress, lambda *place: self._summarise(frame, scorer, top_k, *place))
        facts = self._attributes(task_a, task_b, counts[1] > 0, options)
        facts |= {"top_k": top_k, "num_pairs": counts[0] * counts[1]}
        if self.options.weighs_by_matrix:
            facts["lift_note"] = summary_frame.NO_LIFT
        names = self._names(task_a, task_b, members)
        result = pair_summary.PairSummary(
            **names, attributes=facts, **frame.fields(names["sample_a"], names["sample_b"])
        )
        if members[1]:
            self._warn_of(result)
        return result

    def _summarise(
        self,
        frame: SummaryFrame,
        scorer: SliceScorer,
        top_k: int,
        layout: AttentionLayout,
        projection: Projection,
        place: int,
        column: int,
        unit: int,
    ) -> None:
        matrix = self.options.weighs_by_matrix
        found = scorer.pairs(layout, projection, unit) if top_k or matrix else None
        # Means are sums over one task at a time also where pairs are scored, so that top_k changes nothing but the list.
        means = summary_frame.means_of(found) if matrix else scorer.marginals(layout, projection, unit)  # type: ignore[arg-type]  # scored where there are pairs to list, or a matrix
        frame.put(projection.block, place, column, means, found.scores if top_k else None)  # type: ignore[union-attr]  # scored where there are pairs to list, or a matrix

    def _members(self, task_a: str, task_b: str, most: int | None) -> list[tuple[Sample, ...]]:
        """The samples of both tasks that are scored; warns of an empty task B."""
        members_a = self.collector.samples(task_a)
        if not members_a:
            raise errors.EmptyTaskError(
                f"task A, {task_a!r}, has no samples; its Fisher is not defined. Collect it first."
            )
        members_b = self.collector.samples(task_b) if task_b in self.collector.tasks else ()
        if not members_b:
            score_warnings.warn_of_empty_task(task_b, self.collector.tasks)
        return [members[: _limit(len(members), most)] for members in (members_a, members_b)]

    @staticmethod
    def _names(task_a: str, task_b: str, members: Sequence[Sequence[Sample]]) -> dict[str, Any]:
        """The fields of a result that say what was scored."""
        sample_a, sample_b = (tuple(one.sample_id for one in part) for part in members)
        return {"task_a": task_a, "task_b": task_b, "sample_a": sample_a, "sample_b": sample_b}

    def compute_gradient_norms(self, task: str) -> dict[str, np.ndarray]:
        r"""Return the L1 norm of each sample's gradient on every slice, ``{block: float64 [samples, layers, units]}``.

        .. math:: \frac1K \sum_k |g_{jk}|

        (without 1/K for aggregate "sum"; divided by tokens for normalize_gj "per_token"). This is what the average over A of
        "unsigned" scores with A's own Fisher equals, whatever task A is.

        Args:
            task: A collected task.

        Returns:
            Float64 arrays by block.
        """
        side = self._side(task, None)
        norms = {}
        for block in BLOCKS:
            units = max(layout.num_units(block) for layout in self.config.layers)
            norms[block] = np.full((len(side.members), len(self.config.layers), units), np.nan)
            for place, layout in enumerate(self.config.layers):
                projection = layout.projection(block)
                for unit in range(projection.num_units):
                    norms[block][:, place, unit] = self._slice_norms(side, projection, unit)
        return norms

    def _slice_norms(self, side: Side, projection: Projection, unit: int) -> np.ndarray:
        total = torch.zeros(len(side.members), dtype=torch.float64)
        for grad in scoring.slice_tiles(side.members, projection, unit, self.options):
            right = formula.right_factor("unsigned", grad, grad, None, side.tokens, self.options.normalize_gj)
            total += right.sum(-1, dtype=torch.float64).cpu()
        size = scoring.num_parameters(projection, self.options)
        return formula.aggregate_scores(total, size, self.options.aggregate).numpy()

    def _scorer(
        self,
        task_a: str,
        task_b: str,
        rows_a: Sequence[int],
        rows_b: Sequence[int],
        layouts: Sequence[AttentionLayout],
        **demand: Any,
    ) -> SliceScorer:
        for task in self.fisher_tasks:
            self.collector.samples(task)  # refuses a name that was never collected, which would silently change nothing
        sides = self._side(task_a, rows_a), self._side(task_b, rows_b)
        options = score_memory.fit(self.options, self.memory_budget, sides, layouts, **demand)
        return slice_scorer.SliceScorer(sides, options)

    def _side(self, task: str, rows: Sequence[int] | None) -> Side:
        return scoring.Side.of_task(self.collector, task, rows, self.options, self.fisher_tasks)

    def _selection(
        self, layers: int | Iterable[int] | None, heads: int | Iterable[int] | None
    ) -> tuple[list[AttentionLayout], list[int]]:
        layers = self.config.layer_indices if layers is None else _as_list(layers)
        layouts = [self.config.layer(layer) for layer in layers]
        most = max(layout.num_heads for layout in layouts) if layouts else 0
        heads = range(most) if heads is None else _as_list(heads)
        for name, chosen in (("layers", layers), ("heads", heads)):
            if not len(chosen):
                raise errors.OptionError(f"{name} is empty, so there is nothing to score; leave it None for all.")
            if len(set(chosen)) != len(chosen):
                raise errors.OptionError(f"{name} is {chosen}; expected each number once.")
        return layouts, [checked_index(head, most, "head") for head in heads]

    @staticmethod
    def _over_slices(
        grid: Grid, progress: bool, visit: Callable[..., None], places: Collection[int] | None = None
    ) -> None:
        """Call ``visit(layout, projection, place, column, unit)`` for every slice, or those of some places among layers."""
        chosen = [place for place in range(len(grid.layouts)) if places is None or place in places]
        total = sum(len(grid.units(grid.layouts[place], block)) for place in chosen for block in BLOCKS)
        # Where disable is not given, TQDM_DISABLE in the environment still acts.
        hidden = {} if progress else {"disable": True}
        with tqdm(total=total, desc="score", unit=" slices", delay=2, **hidden) as bar:
            for place in chosen:
                layout = grid.layouts[place]
                for projection in layout.projections:
                    for column, unit in grid.units(layout, projection.block):
                        visit(layout, projection, place, column, unit)
                        bar.update()

    def _attributes(self, task_a: str, task_b: str, valid: bool, options: ScoreOptions) -> dict[str, Any]:
        return score_attributes.score_attributes(
            self.collector, self.config, options, task_a, task_b, fisher_tasks=self.fisher_tasks, valid=valid
        )

    def _warn_if_few(self, task_a: str, task_b: str) -> None:
        score_warnings.warn_if_few(
            self.collector,
            self.options,
            task_a,
            task_b,
            fisher_tasks=self.fisher_tasks,
            min_samples=self.min_samples_for_fisher,
        )

    def _warn_of(self, result: Heatmap | PairSummary) -> None:
        score_warnings.warn_if_damped(result)
        score_warnings.warn_if_underflown(result, self.config, self.collector)


def _limit(count: int, most: int | None) -> int:
    if most is not None and most < 1:
        raise errors.OptionError(f"max_samples_per_task is {most}; expected at least 1, or None for all.")
    return count if most is None else min(count, most)


def _as_list(indices: int | Iterable[int]) -> list[int]:
    return list(indices) if isinstance(indices, Iterable) else [indices]
