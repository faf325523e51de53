r"""Which samples of two tasks pull the same weights in opposite directions, in natural-gradient space.

.. math:: \cos_{ij} = \frac{\sum_k h_{ik} h_{jk} / D_k}{\sqrt{\sum_k h_{ik}^2 / D_k}\,\sqrt{\sum_k h_{jk}^2 / D_k}}

is -1 where sample j of B undoes what sample i of A asks for, each parameter in units of its own root Fisher. A cosine has no
p value: in noise half of them are negative. What can be tested, against a reference task R that could have been in conflict
with B just as well, is a single sample of A (conformal) and a group of parameters (labels of A and R exchanged); both with the
functions of :mod:`qkov.statistics`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import cosine_summary, errors, formula, inference, natural_gram, reproducibility, sample_conflicts, scoring
from .statistics import clusters as units
from .statistics import conformal, relabelings, source

if TYPE_CHECKING:
    import torch

    from .collector import FisherCollector
    from .natural_gram import Grams
    from .option_types import ConflictGroups, ConflictMetric
    from .sample_conflicts import SampleConflicts
    from .statistics.clusters import Clusters
    from .statistics.head_result import HeadTest


__all__ = ["detect_conflicts"]

NUM_SPLITS = 100
CLAIM = "samples of A are in more conflict with B than those of the reference are"
TESTED = (
    "Tested: is a sample of A, or A as a whole, in more conflict with B than the reference is? q of samples counts the "
    "samples of A in one group; the answer of record is that of all weights together. Nothing is said of other samples of B."
)
DEPENDENT = (
    "No sample was tested: {task!r} has {samples} samples in {clusters} clusters, and a p value of a single sample needs "
    "independent ones. Take one sample per cluster."
)
INDEPENDENT = "Collected without clusters: pairs inside a task count every sample as independent."


def detect_conflicts(
    collector: FisherCollector,
    task_a: str,
    task_b: str,
    *,
    reference: str | None = None,
    groups: ConflictGroups = "head",
    metric: ConflictMetric = "natural",
    clusters: Mapping[str, Any] | str | None = None,
    n_permutations: int | None = None,
    seed: int | None = None,
    q: float = 0.1,
    threshold: float = 0.0,
    computation_device: str | torch.device = "cpu",
    tile_elements: int = 2**22,
    progress: bool = True,
) -> SampleConflicts:
    r"""Measure the cosine of every pair of samples of two tasks, and with a reference task test samples and groups.

    The Fisher diagonal is the mean of task B's and of A's; with a reference, that of A and the reference together takes A's
    place, so that the metric does not know which of the two a sample is from. Damping is relative, as for scores. Every
    slice is built once, tile by tile; what is kept are inner products of all samples by group, 8 n^2 bytes each.

    Args:
        collector: Holds the samples of all tasks.
        task_a: Whose samples may suffer. task_b: What is trained on.
        reference: A third task that A is compared with.
        groups: "head" (one per slice, K and V once per kv head; other weights whole), "block" (all heads of a block in a
            layer), "layer" or "all".
        metric: "natural" (gradients over the root of the damped Fisher) or "euclidean" (as they are).
        clusters: As for :meth:`qkov.QKOVStatistics.test_heatmap`.
        n_permutations: Relabelings of the test of groups; default as there.
        seed: Of relabelings and halves; required with a reference.
        q: Wanted false discovery rate among samples.
        threshold: Cosines below it count as conflict in shares; not a test.
        computation_device: Where slices are built.
        tile_elements: Most numbers of gradients held at a time.
        progress: Show a bar when the work takes longer than two seconds.

    Returns:
        :class:`~qkov.sample_conflicts.SampleConflicts`.

    Raises:
        UnknownTaskError, EmptyTaskError, OptionError: For a request that cannot be met.
        StatisticsError: With a reference: without a seed or clusters, or with a cluster in two tasks.

    Example:
        >>> import torch, transformers, qkov
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
        ...     num_key_value_heads=2)
        >>> _ = torch.manual_seed(0)
        >>> model, collector = transformers.LlamaForCausalLM(config), qkov.FisherCollector()
        >>> for task, low in (("a", 0), ("b", 10)):
        ...     collector.collect_fisher(model, {"input_ids": torch.randint(low, low + 15, (6, 12))}, task)
        >>> found = qkov.detect_conflicts(collector, "a", "b")
        >>> found.cosines.shape, found.labels[-1]
        ((6, 6, 13), 'all')
    """
    formula.require_choice("groups", groups, natural_gram.LEVELS)
    formula.require_choice("metric", metric, natural_gram.METRICS)
    if not 0 < q < 1 or not -1 <= threshold <= 1:
        raise errors.OptionError(f"q={q!r}, threshold={threshold!r}; expected 0 < q < 1 and -1 <= threshold <= 1.")
    tasks = [task_a, task_b, *([] if reference is None else [reference])]
    sides, notes = _sides(collector, tasks, clusters)
    if reference is not None:
        seed = relabelings.checked_seed(seed)
    options = scoring.ScoreOptions(
        contribution_normalisation=collector.contribution_normalisation,
        tile_elements=tile_elements,
        device=scoring.checked_device(computation_device),
    )
    grams = natural_gram.inner_products(
        collector, tasks, level=groups, metric=metric, options=options, progress=progress
    )
    if grams.noise:
        notes.append(f"Rounding noise and nothing else, without cosines: {', '.join(grams.noise)}.")
    means_r = _reference_means(grams, len(sides[0].codes), groups)
    parts: dict[str, Any] = dict(
        groups=grams.groups,
        sample_a=collector.sample_ids(task_a),
        sample_b=collector.sample_ids(task_b),
        sample_r=() if reference is None else collector.sample_ids(reference),
        clusters_a=tuple(sides[0].codes),
        clusters_b=tuple(sides[1].codes),
        inner=grams.inner,
        mean_cosine_r=means_r,
    )
    facts: dict[str, Any] = {
        "task_a": task_a,
        "task_b": task_b,
        "reference_task": reference,
        "level": groups,
        "metric": metric,
        "fisher": _fisher_words(metric, reference),
        "contribution_normalisation": collector.contribution_normalisation,
        "ridge_lambda_rel": options.ridge_lambda_rel,
        "noise_floor": grams.floor,
        "threshold": float(threshold),
        "q": float(q),
        "seed": seed,
        "split_seed": 0 if seed is None else seed,
        "n_splits": NUM_SPLITS,
        "num_clusters": {task: side.number for task, side in zip(tasks, sides, strict=True)},
        "iid": {task: side.labels is None for task, side in zip(tasks, sides, strict=True)},
        "model_fingerprint": collector.model_fingerprint,
        "versions": {name: reproducibility.environment_record()["versions"][name] for name in ("qkov", "torch")},
        "notes": [sample_conflicts.NO_PAIR_P, *notes],
    }
    described = sample_conflicts.SampleConflicts(**parts, sample_tests={}, group_tests={}, attributes=facts)
    if reference is None:
        facts["notes"].append(sample_conflicts.DESCRIPTION)
        return sample_conflicts.SampleConflicts(**parts, sample_tests={}, group_tests={}, attributes=facts)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", errors.StatisticsWarning)
        by_sample, by_group, said = _tests(described, sides, tasks, n_permutations, seed, q)  # type: ignore[arg-type]  # required with a reference
    for sentence in dict.fromkeys(str(one.message) for one in caught):
        warnings.warn(sentence, errors.StatisticsWarning, stacklevel=2)
        said["notes"].append(f"{sentence[0].upper()}{sentence[1:]}")
    facts["notes"] += said.pop("notes")
    return sample_conflicts.SampleConflicts(
        **parts,
        sample_tests=by_sample,
        group_tests=by_group,
        attributes=facts | {"test": said},
    )


def _sides(
    collector: FisherCollector, tasks: Sequence[str], clusters: Mapping[str, Any] | str | None
) -> tuple[list[Clusters], list[str]]:
    """Return the clusters of every task, and notes."""
    if len(set(tasks)) < len(tasks):
        raise errors.OptionError(f"tasks {', '.join(map(repr, tasks))} are not all different; expected one name each.")
    for task in tasks:
        if not collector.samples(task):
            raise errors.EmptyTaskError(
                f"task {task!r} holds no samples; there is nothing to compare. Collect it first."
            )
    if isinstance(clusters, Mapping) and (unknown := [task for task in clusters if task not in tasks]):
        raise errors.StatisticsError(
            f"clusters are given for {unknown[0]!r}, which is none of the tasks {', '.join(map(repr, tasks))}."
        )
    notes, sides = [], []
    for task in tasks:
        given = clusters.get(task) if isinstance(clusters, Mapping) else clusters
        labelled = any(label is not None for label in collector.clusters(task).values())
        if given is None and not labelled and len(tasks) == 2:  # nothing is tested, so nobody need vouch for it
            sides.append(units.read_clusters(units.IID, len(collector.samples(task)), task))
            notes = [INDEPENDENT]
        else:
            sides.append(inference.task_clusters(collector, task, clusters))
    for place, side in enumerate(sides):
        for other in range(place + 1, len(sides) if len(tasks) == 3 else 0):
            units.require_disjoint(side, sides[other], f"task {tasks[place]!r}", f"task {tasks[other]!r}")
    return sides, notes


def _reference_means(grams: Grams, n_a: int, level: str) -> np.ndarray:
    """Mean cosine of each reference sample with B, ``[n_r, labels]``."""
    norms_b = np.einsum("gii->gi", grams.inner)[:, n_a:]
    parts = [grams.reference, grams.reference_norms, norms_b]
    if level != natural_gram.TOTAL:
        parts = [natural_gram.with_total(part) for part in parts]
    return cosine_summary.mean_known(natural_gram.cosines(*parts, floor=grams.floor), 2).T


def _fisher_words(metric: str, reference: str | None) -> str:
    if metric == "euclidean":
        return "none"
    return f"mean of B's and of {'A' if reference is None else 'A and the reference together'}'s, relatively damped"


def _tests(
    described: SampleConflicts,
    sides: Sequence[Clusters],
    tasks: Sequence[str],
    n_permutations: int | None,
    seed: int,
    q: float,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Test samples and groups; ``(sample_tests, group_tests, words)``."""
    a, _, r = sides
    means = np.concatenate([described.sample_means("a"), described.mean_cosine_r])
    by_group, found = _group_tests(means, a, r, len(described.groups), n_permutations, seed)
    said: dict[str, Any] = {
        "null": "A and the reference are exchangeable in how they conflict with B",
        "claim": CLAIM,
        "effect": "mean cosine with B, A minus the reference",
        "alternative": found.alternative,
        "unit": found.unit,
        "n_permutations": found.n_permutations,
        "min_p": found.min_p,
        "notes": [TESTED],
    }
    for task, side in ((tasks[0], a), (tasks[2], r)):
        if side.number < len(side.codes):
            said["notes"].append(DEPENDENT.format(task=task, samples=len(side.codes), clusters=side.number))
            return {}, by_group, said
    return _sample_tests(means, len(a.codes), q), by_group, said


def _group_tests(
    means: np.ndarray, a: Clusters, r: Clusters, num_groups: int, n_permutations: int | None, seed: int
) -> tuple[dict[str, np.ndarray], HeadTest]:
    """Exchange labels of A and the reference; all groups are one family, all weights together another."""
    families = [means[:, :num_groups], *([means[:, num_groups:]] if means.shape[1] > num_groups else [])]
    options: dict[str, Any] = {"n_permutations": n_permutations, "seed": seed, "alternative": "less"}
    found = [source.from_lifts(family, a, r, **options) for family in families]
    columns = {"statistic": "statistic", "p": "p", "q": "q_bh", "p_maxt": "p_maxt"}
    tests = {name: np.concatenate([getattr(one, column) for one in found]) for name, column in columns.items()}
    # The effect there is the exponential of a difference of logarithms; here it is the difference.
    return tests | {"effect": np.log(np.concatenate([one.effect for one in found]))}, found[0]


def _sample_tests(means: np.ndarray, n_a: int, q: float) -> dict[str, np.ndarray]:
    """One conformal p per sample of A and group, adjusted over the samples of a group."""
    p, adjusted = np.full((2, n_a, means.shape[1]), np.nan)
    for one in np.flatnonzero(~np.isnan(means).any(0)):
        found = conformal.conformal_samples(-means[:n_a, one], -means[n_a:, one], q=q)
        p[:, one], adjusted[:, one] = found.p, found.q
    return {"p": p, "q": adjusted}
