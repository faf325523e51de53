"""All tests of one comparison of two tasks in one call, on a collector's factors, one slice at a time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from . import formula, head_statistics, scoring
from .errors import EmptyTaskError, OptionError, StatisticsError, StatisticsWarning
from .statistics import (
    clusters as units,
)
from .statistics import (
    effects,
    exchange,
    head_result,
    intervals,
    jackknife,
    map_reliability,
    multiplicity,
    relabelings,
    slices,
    source,
)
from .statistics.layer_result import test_layers

if TYPE_CHECKING:
    from .collector import FisherCollector
    from .geometry import AttentionLayout, Projection
    from .head_statistics import HeadStatistics
    from .layout import QKOVConfig
    from .option_types import Adjustment, Alternative
    from .samples import Sample
    from .score_options import ScoreOptions
    from .statistics.clusters import Clusters
    from .statistics.head_result import HeadTest


ENOUGH_CLUSTERS = 32
"""Independent clusters per task below which a test seldom finds what is there."""
WITHOUT_REFERENCE = (
    "Without a reference task only one thing can be concluded of a slice: that the tasks differ in it. On real gradients "
    "they do nearly everywhere. A claim that one interferes with the other needs a reference task."
)


class QKOVStatistics:
    r"""Test every head for interference between two tasks, and say what may be claimed.

    Args:
        n_permutations: Relabelings; by default as many as a rejection by Benjamini-Hochberg needs twice over, and at least
            9,999; all of them where no more exist.
        alternative: Of the test against a reference: "greater" (A is more of a source than R), "less", "two-sided".
        level: Of the intervals.
        adjust: For the contrasts between heads of a layer: "holm", "fdr_bh", "fdr_by" or "bonferroni".
        n_splits: Splits of the clusters into halves, for reliability.

    Example:
        >>> import warnings, torch, transformers, qkov
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
        ...     num_key_value_heads=2)
        >>> _ = torch.manual_seed(0)
        >>> model, collector = transformers.LlamaForCausalLM(config), qkov.FisherCollector()
        >>> for task, low in (("a", 0), ("b", 10), ("r", 20)):
        ...     ids = torch.randint(low, low + 15, (8, 12))
        ...     collector.collect_fisher(model, {"input_ids": ids}, task, clusters=[f"{task}{i}" for i in range(8)])
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     found = qkov.QKOVStatistics(n_permutations=99).test_heatmap(collector, "a", "b", "r", seed=1)
        >>> found.table().columns[:4].tolist()
        ['block', 'layer', 'head', 'kv_head']
    """

    def __init__(
        self,
        *,
        n_permutations: int | None = None,
        alternative: Alternative = "greater",
        level: float = 0.95,
        adjust: Adjustment = "holm",
        n_splits: int = 100,
    ) -> None:
        if n_permutations is not None:
            n_permutations = relabelings.checked_number(n_permutations)
        formula.require_choice("alternative", alternative, head_result.ALTERNATIVES)
        formula.require_choice("adjust", adjust, multiplicity.METHODS)
        if not 0 < level < 1:
            raise StatisticsError(f"level={level!r}; expected a coverage between 0 and 1, such as 0.95.")
        self.n_permutations, self.alternative, self.level, self.adjust = n_permutations, alternative, level, adjust
        self.n_splits = relabelings.checked_number(n_splits, "n_splits")

    def test_heatmap(
        self,
        collector: FisherCollector,
        task_a: str,
        task_b: str,
        reference_task: str | None = None,
        clusters: Mapping[str, Any] | str | None = None,
        *,
        seed: int,
        layers: int | Iterable[int] | None = None,
        computation_device: str | torch.device = "cpu",
        progress: bool = True,
    ) -> HeadStatistics:
        r"""Test all slices of the four blocks, K and V once per kv head, as one family.

        With a reference task R: is A more of a source of what B changes than R is
        (:func:`qkov.statistics.test_source`)? Always: do A and B differ (:func:`qkov.statistics.test_exchange`)? Which
        head stands out from its layer (:func:`qkov.statistics.head_contrast`), and how stable is the map, and is it about
        A (:func:`qkov.statistics.reliability`)?

        Args:
            collector: Holds the samples of all tasks.
            task_a: The source. task_b: What changes.
            reference_task: What A is compared with as a source.
            clusters: By default the labels given at collection. "iid": samples are independent of each other, which the
                caller vouches for. Or ``{task: "iid" or {sample id: label}}``, for some tasks.
            seed: Of all relabelings and splits, a non-negative int.
            layers: Indices of the layers to test; the family is theirs alone, so choose before looking.
            computation_device: Where slices of gradients are built; tests are made on the CPU, in float64.
            progress: Show a bar when the work takes longer than two seconds.

        Returns:
            :class:`~qkov.head_statistics.HeadStatistics`.

        Raises:
            StatisticsError: Without clusters, with too few of them, with a cluster in two tasks, or without a seed.
            UnknownTaskError, EmptyTaskError, OptionError, SliceIndexError: For a request that cannot be met.
        """
        seed = relabelings.checked_seed(seed)
        names = [task_a, task_b, *([] if reference_task is None else [reference_task])]
        members, sides = _members(collector, names), {}
        _require_known(clusters, names)
        for name in names:
            sides[name] = task_clusters(collector, name, clusters)
        for place, name in enumerate(names):
            for other in names[place + 1 :]:
                units.require_disjoint(sides[name], sides[other], f"task {name!r}", f"task {other!r}")
        layouts = _layouts(collector.config, layers)
        labels = [
            (projection.block, layout.layer, unit)
            for layout in layouts
            for projection in layout.projections
            for unit in range(projection.num_units)
        ]
        sums = _Sums(len(labels), sides, names, seed, self.n_permutations, self.n_splits)
        # A whole slice at a time, since samples are normalised within it.
        options = scoring.ScoreOptions(tile_elements=2**62, device=scoring.checked_device(computation_device))
        noisy = []
        # Where disable is not given, TQDM_DISABLE in the environment still acts.
        hidden = {} if progress else {"disable": True}
        with tqdm(total=len(labels), desc="test", unit=" slices", delay=2, **hidden) as bar:
            for layout in layouts:
                noise = _noise_blocks(layout, members.values(), options)
                noisy += [f"{block} of layer {layout.layer}" for block in noise]
                for projection in layout.projections:
                    for unit in range(projection.num_units):
                        # No name for the slice here: it would be held until the next one is there.
                        sums.add(
                            None
                            if projection.block in noise
                            else slice_gradients(members.values(), projection, unit, options)
                        )
                        bar.update()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", StatisticsWarning)
            result = self._assemble(sums, labels, layouts, names, sides, members, collector, noisy)
        for category, sentence in dict.fromkeys((one.category, str(one.message)) for one in caught):
            warnings.warn(sentence, category, stacklevel=2)
        return result

    def _assemble(
        self,
        sums: _Sums,
        labels: Sequence[tuple[str, int, int]],
        layouts: Sequence[AttentionLayout],
        names: Sequence[str],
        sides: Mapping[str, Clusters],
        members: Mapping[str, Sequence[Sample]],
        collector: FisherCollector,
        noisy: Sequence[str],
    ) -> HeadStatistics:
        layer_of = [layer for _, layer, _ in labels]
        exchanged = sums.exchange.result()
        columns = _columns("exchange", exchanged)
        main, words = exchanged, {"exchange": _words(exchanged)}
        if sums.lifts:
            lifts = np.column_stack(sums.lifts)
            a, r = sides[names[0]], sides[names[2]]
            main = source.from_lifts(
                lifts, a, r, n_permutations=self.n_permutations, seed=sums.seed, alternative=self.alternative
            )
            effect = effects.effect_of_lifts(lifts, a, r, level=self.level)
            columns |= _columns("source", main) | {
                "source_effect_low": effect.low,
                "source_effect_high": effect.high,
                "superiority": effect.superiority,
            }
            words["source"] = _words(main)
        left = jackknife.LeftOut.of(sums.left, sides[names[0]])
        lift = intervals.interval_of(left, estimand="lift", level=self.level)
        groups = [(block, layer) for block, layer, _ in labels]
        contrast = intervals.contrast_of(left, groups, estimand="lift", adjust=self.adjust, level=self.level)
        columns |= {
            "lift": lift.estimate,
            "lift_low": lift.low,
            "lift_high": lift.high,
            "contrast": contrast.estimate,
            "contrast_low": contrast.low,
            "contrast_high": contrast.high,
            "contrast_p": contrast.p,
            "contrast_p_adjusted": contrast.p_adjusted,
        }
        by_layer = test_layers(main, layer_of)
        notes = [*exchanged.warnings, *(main.warnings if sums.lifts else [WITHOUT_REFERENCE])]
        if noisy:
            notes.append(f"Rounding noise and nothing else, not tested: {', '.join(noisy)}.")
        notes += _few_clusters(sides)
        return head_statistics.HeadStatistics(
            blocks=tuple(block for block, _, _ in labels),
            layers=tuple(layer_of),
            units=tuple(unit for _, _, unit in labels),
            columns=columns,
            by_layer={
                "statistic": by_layer.statistic,
                "p": by_layer.p,
                "q": by_layer.q_bh,
                "p_maxt": by_layer.p_maxt,
            },
            attributes={
                "task_a": names[0],
                "task_b": names[1],
                "reference_task": names[2] if sums.lifts else None,
                "main_test": "source" if sums.lifts else "exchange",
                "tests": words,
                "num_samples": {name: len(members[name]) for name in names},
                "num_clusters": {name: sides[name].number for name in names},
                "iid": {name: sides[name].labels is None for name in names},
                "level": self.level,
                "adjust": self.adjust,
                "lift_note": lift.note,
                "reliability": sums.reliability(),
                "num_heads": {str(layout.layer): layout.num_heads for layout in layouts},
                "num_kv_heads": {str(layout.layer): layout.num_kv_heads for layout in layouts},
                "model_fingerprint": collector.model_fingerprint,
                "notes": list(dict.fromkeys(notes)),
            },
        )


class _Sums:
    """What is kept of every slice: scores of samples and of labellings, and sums by cluster, but no gradient."""

    lifts: list[Any]
    left: list[Any]

    def __init__(
        self,
        num_slices: int,
        sides: Mapping[str, Clusters],
        names: Sequence[str],
        seed: int,
        n_permutations: int | None,
        n_splits: int,
    ) -> None:
        self.seed, self.lifts, self.left = seed, [], []
        self._sides, self._names = sides, names
        a, b = (sides[name] for name in names[:2])
        self.exchange = exchange.Exchange(num_slices, a, b, n_permutations=n_permutations, seed=seed)
        enough = min(a.number, b.number) >= map_reliability.FEWEST
        self._maps = [
            map_reliability.MapReliability(a, b, seed=seed, estimand=estimand, n_splits=n_splits)
            for estimand in (head_statistics.MAPS if enough else ())
        ]

    def add(self, parts: Sequence[np.ndarray] | None) -> None:
        """Take the next slice: float64 ``[samples, parameters]`` of every task, or None where all is rounding noise."""
        a, b = (self._sides[name] for name in self._names[:2])
        if parts is None:
            self.exchange.add(np.full((1, 1), np.nan))
            self.left.append(np.full(1 + a.number + b.number, np.nan))
            if len(self._names) == 3:
                self.lifts.append(np.full(len(a.codes) + len(self._sides[self._names[2]].codes), np.nan))
            return
        one_a, one_b, *others = parts
        self.exchange.add(slices.pair_scores(np.concatenate([one_a, one_b])))
        self.left.append(jackknife.leave_out_slice(one_a, one_b, a, b, "lift"))
        if others:
            self.lifts.append(slices.log_lifts(np.concatenate([one_a, others[0]]), one_b))
        for one in self._maps:
            one.add(one_a, one_b, *others)

    def reliability(self) -> dict[str, Any]:
        """Return what :class:`~qkov.statistics.Reliability` says of every map, as plain values; empty if too little."""
        found = [one.result() for one in self._maps if one.num_slices >= 3]
        return {
            one.estimand: {name: None if value != value else value for name, value in vars(one).items()}
            for one in found
        }


def _members(collector: FisherCollector, names: Sequence[str]) -> dict[str, tuple[Sample, ...]]:
    """Return the samples of every task by name."""
    if len(set(names)) < len(names):
        raise OptionError(f"tasks {', '.join(map(repr, names))} are not all different; expected one name each.")
    members = {name: collector.samples(name) for name in names}
    for name, found in members.items():
        if not found:
            raise EmptyTaskError(f"task {name!r} holds no samples; there is nothing to test. Collect it first.")
    return members


def _layouts(config: QKOVConfig, layers: int | Iterable[int] | None) -> tuple[AttentionLayout, ...]:
    if layers is None:
        return config.layers
    chosen = list(layers) if isinstance(layers, Iterable) else [layers]
    if not chosen or len(set(chosen)) < len(chosen):
        raise OptionError(f"layers is {chosen}; expected at least one layer, each once, or None for all.")
    return tuple(sorted((config.layer(layer) for layer in chosen), key=lambda layout: layout.layer))


def _noise_blocks(layout: AttentionLayout, tasks: Collection[Sequence[Sample]], options: ScoreOptions) -> list[str]:
    """Return the blocks of a layer in which a task's gradient is what rounding leaves of 0."""
    sides = [scoring.Side(members, (), options) for members in tasks]
    means = {one.block: [side.block_mean(layout, one, options) for side in sides] for one in layout.projections}
    largest = [max(column) for column in zip(*means.values(), strict=True)]
    found = []
    for projection in layout.projections:
        kinds = {one.factors[projection.module_name].deltas.dtype for side in sides for one in side.members}
        dtype = torch.float64 if kinds == {torch.float64} else torch.float32
        pairs = zip(means[projection.block], largest, strict=True)
        if any(formula.is_noise(mean, most, dtype) for mean, most in pairs):
            found.append(projection.block)
    return found


def slice_gradients(
    tasks: Collection[Sequence[Sample]], projection: Projection, unit: int, options: ScoreOptions
) -> list[np.ndarray]:
    """Build one slice of every sample, float64 ``[samples, parameters]`` for each task."""
    (tile,) = scoring.slice_tiles([one for members in tasks for one in members], projection, unit, options)
    counts = np.cumsum([len(members) for members in tasks])[:-1]
    return np.split(tile.cpu().double().numpy(), counts)


def _require_known(clusters: Mapping[str, Any] | str | None, names: Sequence[str]) -> None:
    """Refuse what is neither None, "iid" nor a mapping by task."""
    if clusters is None or (isinstance(clusters, str) and clusters == units.IID):
        return
    if not isinstance(clusters, Mapping):
        raise StatisticsError(
            f"clusters is {clusters!r:.80}; expected 'iid', or {{task: 'iid' or {{sample id: label}}}}, or None for the "
            "labels given at collection."
        )
    if unknown := [name for name in clusters if name not in names]:
        raise StatisticsError(
            f"clusters are given for {unknown[0]!r}, which is none of the tested tasks {', '.join(map(repr, names))}."
        )


def _few_clusters(sides: Mapping[str, Clusters]) -> Iterator[str]:
    """Say, and warn, where a task has few clusters."""
    fewest = min(sides, key=lambda name: sides[name].number)
    number = sides[fewest].number
    if number < intervals.FEW_CLUSTERS:
        sentence = (
            f"Task {fewest!r} has {number} independent clusters; below {intervals.FEW_CLUSTERS} the intervals' errors are "
            "themselves uncertain."
        )
        warnings.warn(sentence, StatisticsWarning, stacklevel=4)
        yield sentence
    if number < ENOUGH_CLUSTERS:
        yield (
            f"Task {fewest!r} has {number} independent clusters; with fewer than {ENOUGH_CLUSTERS} a real difference is "
            "often missed, so that a slice that does not survive says little."
        )


def task_clusters(collector: FisherCollector, task: str, clusters: Mapping[str, Any] | str | None = None) -> Clusters:
    """Read the clusters of a task: those of the collection, or what the caller gives instead.

    Args:
        collector: Holds the samples.
        task: A collected task.
        clusters: As for :meth:`QKOVStatistics.test_heatmap`.

    Returns:
        :class:`~qkov.statistics.clusters.Clusters`.
    """
    stored = collector.clusters(task)
    given = clusters.get(task) if isinstance(clusters, Mapping) else clusters
    if given is None:
        given = list(stored.values())
        if all(label is None for label in given):
            raise StatisticsError(
                f"task {task!r} was collected without clusters. Give them to collect_fisher(..., clusters=...), or here as "
                f"clusters={{{task!r}: {{sample id: label}}}}, or say 'iid' if its samples are independent of each other."
            )
    elif isinstance(given, Mapping):
        missing = [sample_id for sample_id in stored if sample_id not in given]
        if missing:
            raise StatisticsError(f"clusters of task {task!r} name no label for sample {missing[0]!r}.")
        given = [given[sample_id] for sample_id in stored]
    elif not isinstance(given, str):
        raise StatisticsError(f"clusters of task {task!r} are {given!r:.80}; expected 'iid' or {{sample id: label}}.")
    return units.read_clusters(given, len(stored), f"task {task!r}")


def _columns(name: str, found: HeadTest) -> dict[str, np.ndarray]:
    return {
        f"{name}_statistic": found.statistic,
        f"{name}_effect": found.effect,
        f"{name}_p": found.p,
        f"{name}_q": found.q_bh,
        f"{name}_p_maxt": found.p_maxt,
    }


def _digits(count: int) -> str:
    """Write a count; of one with thousands of digits, which Python does not write, the size."""
    return str(count) if count < 10**1000 else f"about 1e{int(math.log10(count))}"


def _words(found: HeadTest) -> dict[str, Any]:
    return {
        "null": found.null_statement,
        "claim": found.claim,
        "effect": found.effect_name,
        "alternative": found.alternative,
        "unit": found.unit,
        "n_permutations": found.n_permutations,
        "n_distinct": _digits(found.n_distinct),
        "min_p": found.min_p,
        "seed": found.seed,
    }
