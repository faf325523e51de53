r"""The strongest pairs of a heatmap, described so that nobody believes them too soon.

The top of a list is there because it is extreme: drawn again it falls (the winner's curse). So each pair comes with what
its score is made of: how much of it belongs to the slice, to sample i alone and to sample j alone,

.. math:: M_{ij} = \bar M + (\bar M_{i\cdot} - \bar M) + (\bar M_{\cdot j} - \bar M) + \text{interaction}_{ij} ,

how much a single parameter carries, and what is left of it on the other half of the tokens. No pair has a p value: under
the null one pair among :math:`n_A n_B` can be compared with nothing, unless the reference is nineteen times as large as A.
What can be tested is a single sample, against a reference task (:func:`qkov.statistics.conformal_samples`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from . import errors, escaping, factor_tiles, inference, labels, losses, result_file, scoring
from .geometry import BLOCKS
from .statistics import conformal, slices, splits

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from .collector import FisherCollector
    from .geometry import Projection
    from .heatmap import Heatmap
    from .option_types import PathLike


__all__ = ["TopPairs", "describe_top_pairs", "load_top_pairs", "split_labels"]

FORMAT_NAME = "qkov-top-pairs"
FORMAT_VERSION = 1
NO_PAIR_P = (
    "A pair has no p value: one among n_A x n_B pairs could only be judged against a reference of at least 19 n_A samples. "
    "These pairs were chosen because they are extreme; expect them to fall when drawn again."
)
SAMPLE_P = (
    "p and q are of sample_a alone, in this slice, against the reference task; q counts the samples of A in all slices of "
    "this list. The slices were chosen by looking at the same samples: p holds for a slice named beforehand."
)
NO_HELD_OUT = "Nothing was held out: collect both halves of split_labels to see what is left of a score."


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TopPairs:
    """What :func:`describe_top_pairs` found.

    Attributes:
        rows: A dict per pair, strongest first within each block: ``block, layer, head, kv_head, sample_a, sample_b``;
            ``score`` and its parts ``slice_mean, a_part, b_part, interaction``, which add up to it; ``largest_share`` of
            the sum of absolute terms that one parameter carries, that ``parameter``, and ``fisher_share``: C_i / (n_A F_A)
            there, the part of A's own Fisher that is this one sample, from 0 to 1; ``held_out_score`` and ``kept``, its
            ratio to ``score``; ``p`` and ``q`` of sample_a. None where something was not asked for.
        attributes: JSON-able facts, ``notes`` among them.
    """

    rows: tuple
    attributes: dict

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(labels.plain_json(row) for row in self.rows))
        object.__setattr__(self, "attributes", labels.plain_json(self.attributes))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas table, a row per pair; ``head`` is missing for K and V, which belong to a kv head."""
        import pandas as pd

        table = pd.DataFrame(list(self.rows))
        for name in ("head", "kv_head"):
            table[name] = pd.array([row[name] for row in self.rows], dtype="Int64")
        numbers = [name for name in ("held_out_score", "kept", "p", "q") if name in table]
        table[numbers] = table[numbers].astype(np.float64)
        table.attrs = dict(self.attributes)
        return table

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the result, in hex."""
        return result_file.digest(*self._parts())

    def __eq__(self, other: object) -> bool:
        return self.fingerprint == other.fingerprint if isinstance(other, TopPairs) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and so without a hash

    def save(self, path: PathLike) -> Path:
        """Write one file to ``path``, atomically; equal results give equal bytes. Returns the path."""
        return result_file.write(path, *self._parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"rows": list(self.rows), "attributes": self.attributes}, {}

    def __repr__(self) -> str:
        facts = self.attributes
        said = "".join(f"\n  {sentence}" for sentence in facts["notes"])
        tasks = f"{facts['task_a']} x {facts['task_b']}"
        return escaping.for_terminal(f"<TopPairs {tasks}: {len(self.rows)} pairs{said}>")

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escaping.for_html(sentence)}</p>" for sentence in self.attributes["notes"])
        table = self.to_dataframe().dropna(axis=1, how="all").astype({"head": object})
        return escaping.html_block(escaping.html_table(table.fillna("")), notes)


def describe_top_pairs(
    heatmap: Heatmap,
    collector: FisherCollector,
    *,
    held_out: FisherCollector | None = None,
    reference_task: str | None = None,
    clusters: Mapping[str, Any] | str | None = None,
    top_k: int = 5,
) -> TopPairs:
    """Describe the strongest pairs of every block.

    Args:
        heatmap: A :class:`qkov.Heatmap` of ``collector``; its options are used again.
        collector: Holds the samples that were scored.
        held_out: A collector of the same samples under the same ids with the other half of the labels, see
            :func:`split_labels`. The heatmap must come from one half alone: factors mix all later losses, so that halves
            cannot be told apart afterwards.
        reference_task: Task of ``collector`` that samples of A are compared with.
        clusters: As for :meth:`qkov.QKOVStatistics.test_heatmap`. Samples of A and of the reference must be independent.
        top_k: Pairs per block; blocks have no common scale.

    Returns:
        :class:`TopPairs`.

    Raises:
        ModelChangedError: If a collector holds gradients of other weights than the heatmap.
        StatisticsError: If the held-out labels are the same, or samples are not independent.
        UnknownTaskError, UnknownSampleError, OptionError: For a request that cannot be met.
    """
    for one in (collector, held_out):
        if one is not None and one.model_fingerprint != heatmap.attributes.get("model_fingerprint"):
            raise errors.ModelChangedError(
                "a collector holds gradients of other weights than the heatmap was made from. Collect with that model."
            )
    pairs = [{"block": block, **row} for block in BLOCKS for row in heatmap.top_conflicts(block, top_k=top_k)]
    if held_out is not None:
        _require_other_labels(heatmap, collector, held_out, pairs)
    rows = []
    for pair in pairs:
        row = _described(heatmap, collector, pair)
        if held_out is not None:
            other = _one_pair(heatmap, held_out, pair)[0]
            row |= {"held_out_score": other, "kept": other / row["score"] if row["score"] else None}
        rows.append(row)
    notes = [NO_PAIR_P, *([] if held_out is not None else [NO_HELD_OUT])]
    if reference_task is not None and rows:
        notes += [SAMPLE_P, *_add_sample_p(rows, heatmap, collector, reference_task, clusters)]
    facts = {
        "task_a": heatmap.task_a,
        "task_b": heatmap.task_b,
        "reference_task": reference_task,
        "variant": heatmap.attributes["variant"],
        "fisher_pool": heatmap.attributes["fisher_pool"],
        "num_pairs": len(heatmap.sample_a) * len(heatmap.sample_b),
        "notes": notes,
    }
    return TopPairs(rows=tuple(rows), attributes=facts)


def split_labels(batch: Mapping[str, Any], *, seed: int) -> tuple[dict[str, Any], ...]:
    """Split the labels of a batch into two complementary halves, token by token, at random within each sample.

    Each label that enters the causal loss is in exactly one half, so that the two gradients of a sample add up to its
    whole gradient. Collect both, each into its own collector, under the same ids; score one and pass the other as
    ``held_out``. Halves of one text are alike, so this is the mildest test that a pair must pass.

    Args:
        batch: Mapping with ``input_ids`` ``[N, T]``, and optionally ``attention_mask`` and ``labels``.
        seed: A non-negative int.

    Returns:
        Two batches, with ``labels`` each. Of an odd number of labels, the second half has one more.

    Raises:
        StatisticsError: If a sample has fewer than two labels, or without a seed.
        BatchError: If the batch has no labels to split.

    Example:
        >>> import torch
        >>> first, second = split_labels({"input_ids": torch.arange(10, 15)[None]}, seed=1)
        >>> (first["labels"] == -100).sum().item(), (second["labels"] == -100).sum().item()
        (3, 3)
    """
    targets = losses.target_labels(batch)
    entering = (targets != losses.IGNORED).cpu().numpy()
    in_first = np.zeros(entering.shape, dtype=bool)
    for row, places in enumerate(map(np.flatnonzero, entering)):
        if len(places) < 2:
            raise errors.StatisticsError(
                f"row {row} has {len(places)} labels in the loss; expected at least two, one for each half."
            )
        in_first[row, places] = splits.draw_halves(len(places), 1, seed, stream=row)[0]
    return tuple(
        {**batch, "labels": targets.masked_fill(targets.new_tensor(~half, dtype=bool), losses.IGNORED)}  # type: ignore[arg-type]  # torch takes bool for torch.bool
        for half in (in_first, entering & ~in_first)
    )


def load_top_pairs(path: PathLike) -> TopPairs:
    """Load what :meth:`TopPairs.save` wrote, checked.

    Args:
        path: The file.

    Returns:
        The result, equal to the one that was saved.

    Raises:
        ResultFileError: If the file is not such a result, or is damaged.
        OSError: If it cannot be opened.
    """
    content, _ = result_file.read(path, format_name=FORMAT_NAME, format_version=FORMAT_VERSION)
    with result_file.consistent(path, "is not a consistent list of pairs"):
        return TopPairs(rows=tuple(content["rows"]), attributes=content["attributes"])


def _described(heatmap: Heatmap, collector: FisherCollector, pair: Mapping[str, Any]) -> dict[str, Any]:
    block, layer = pair["block"], heatmap.layers.index(pair["layer"])
    own_kv = block in "KV"
    unit = (heatmap.kv_heads if own_kv else heatmap.heads).index(pair["kv_head" if own_kv else "head"])
    scores = heatmap.slice_scores(block, layer, unit)
    i, j = heatmap.sample_a.index(pair["sample_i"]), heatmap.sample_b.index(pair["sample_j"])
    mean, of_a, of_b = scores.mean(), scores[i].mean(), scores[:, j].mean()
    score, parameter = _one_pair(heatmap, collector, pair)
    if not np.isclose(score, pair["score"], rtol=1e-3, atol=1e-6 * np.abs(scores).max()):
        raise errors.OptionError(
            f"samples {pair['sample_i']!r} and {pair['sample_j']!r} score {score:.6g} in block {block}, layer "
            f"{pair['layer']}, and {pair['score']:.6g} in the heatmap. Pass the collector that the heatmap was made from."
        )
    at = heatmap.first_heads()[layer, unit] if own_kv else unit
    return {
        "block": block,
        "layer": pair["layer"],
        "head": None if own_kv else pair["head"],
        "kv_head": heatmap.kv_heads[heatmap.kv_index[layer, at]],
        "sample_a": pair["sample_i"],
        "sample_b": pair["sample_j"],
        "score": pair["score"],
        "slice_mean": float(mean),
        "a_part": float(of_a - mean),
        "b_part": float(of_b - mean),
        "interaction": float(pair["score"] - of_a - of_b + mean),
        **parameter,
    }


def _one_pair(heatmap: Heatmap, collector: FisherCollector, pair: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Score one pair; and tell of its largest term how large it is, where, and how much of F is this sample."""
    names = [field.name for field in dataclasses.fields(scoring.ScoreOptions) if field.name in heatmap.attributes]
    options = scoring.ScoreOptions(**{name: heatmap.attributes[name] for name in names})
    sides = []
    for task, sample_id in ((heatmap.task_a, pair["sample_i"]), (heatmap.task_b, pair["sample_j"])):
        collector.sample(task, sample_id)
        row = collector.sample_ids(task).index(sample_id)
        sides.append(scoring.Side.of_task(collector, task, [row], options, heatmap.attributes.get("fisher_tasks")))
    layout = collector.config.layer(pair["layer"])
    projection, unit = layout.projection(pair["block"]), layout.unit(pair["block"], pair["head"])
    best, total, start = (-1.0, None, 0.0), 0.0, 0
    for tile in factor_tiles.factor_tiles(*sides, layout, projection, unit, options):  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds
        terms = (tile.left[0].double() * tile.right[0].double()).abs()
        total += float(terms.sum())
        at = int(terms.argmax())
        if float(terms[at]) > best[0]:
            squares = tile.h_a[:, at].double().square()
            share = float(squares[sides[0].rows[0]] / squares.sum()) if squares.sum() > 0 else 0.0
            share = share if sides[0].owns_fisher else 0.0  # F holds none of A's samples
            best = float(terms[at]), _name(projection, unit, at, start, len(terms)), share
        start += len(terms) // projection.width
    score = scoring.score_slice(*sides, layout, projection, unit, options).scores  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds
    largest = best[0] / total if total > 0 else 0.0
    return float(score[0, 0]), {"largest_share": largest, "parameter": best[1], "fisher_share": best[2]}


def _name(projection: Projection, unit: int, at: int, start: int, size: int) -> str:
    """Write where a parameter is in the stored weight; a tile holds some columns of ``[width, other]``, or the bias."""
    rows, columns = projection.weight_shape
    within, column = divmod(at, size // projection.width)
    own, other = projection.interval(unit)[0] + within, start + column
    if start == (columns if projection.head_axis == 0 else rows):
        return f"{projection.bias_name}[{own}]"
    row, column = (own, other) if projection.head_axis == 0 else (other, own)
    return f"{projection.param_name}[{row}, {column}]"


def _require_other_labels(
    heatmap: Heatmap, collector: FisherCollector, held_out: FisherCollector, pairs: Sequence[Mapping[str, Any]]
) -> None:
    for pair in pairs:
        for task, sample_id in ((heatmap.task_a, pair["sample_i"]), (heatmap.task_b, pair["sample_j"])):
            if collector.sample(task, sample_id).digest == held_out.sample(task, sample_id).digest:
                raise errors.StatisticsError(
                    f"sample {sample_id!r} of task {task!r} has the same labels in both collectors, so nothing is held out. "
                    "Collect the two halves of split_labels(batch, seed=...)."
                )


def _add_sample_p(
    rows: Sequence[dict[str, Any]], heatmap: Heatmap, collector: FisherCollector, reference_task: str, clusters: Any
) -> list[str]:
    """Add p and q of every pair's sample of A; returns notes."""
    names = (heatmap.task_a, reference_task, heatmap.task_b)
    if len(set(names)) < 3:
        raise errors.OptionError(f"reference task {reference_task!r} is one of the two that were scored.")
    members = [collector.samples(name) for name in names]
    for name in names[:2]:
        found = inference.task_clusters(collector, name, clusters)
        if found.number < len(found.codes):
            raise errors.StatisticsError(
                f"task {name!r} has {len(found.codes)} samples in {found.number} clusters; a p value of a single sample "
                "needs independent ones. Take one sample per cluster."
            )
    options = scoring.ScoreOptions(tile_elements=2**62)
    places, lifts = list(dict.fromkeys((row["block"], row["layer"], row["head"], row["kv_head"]) for row in rows)), []
    for block, layer, head, kv_head in places:
        projection = collector.config.layer(layer).projection(block)
        unit = kv_head if block in "KV" else head
        a, r, b = inference.slice_gradients(members, projection, unit, options)
        lifts.append(slices.log_lifts(np.concatenate([a, r]), b))
    lifts = np.column_stack(lifts)
    known = np.flatnonzero(~np.isnan(lifts).any(0))
    count = len(members[0])
    found = conformal.conformal_samples(lifts[:count, known], lifts[count:, known])
    order = [one.sample_id for one in members[0]]
    for row in rows:
        place = places.index((row["block"], row["layer"], row["head"], row["kv_head"]))
        at = order.index(row["sample_a"]), np.flatnonzero(known == place)
        row |= {name: float(values[at][0]) if len(at[1]) else None for name, values in (("p", found.p), ("q", found.q))}
    left_out = len(places) - len(known)
    return (
        [f"In {left_out} slices of the list a sample has no gradient; no sample is tested there."] if left_out else []
    )
