"""What a report is made of: results of one comparison of two tasks, checked to belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import errors, head_types
from ..geometry import BLOCKS

ALPHA = 0.05
LABELS = ("layers", "heads", "kv_heads", "sample_a", "sample_b", "task_a", "task_b")


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportData:
    """Results that a report shows together.

    Attributes:
        heatmaps: One :class:`qkov.Heatmap` per variant, the first of which is shown first; same slices and samples.
        statistics: A :class:`qkov.HeadStatistics` of the same tasks, or None.
        prediction: A :class:`qkov.Prediction` of the same tasks, or None.
        top_pairs: A :class:`qkov.TopPairs` of the same tasks, or None.
        head_types: A :class:`qkov.HeadTypes` that covers the heads; None: those of the first heatmap, if it has some.
        record: What is known of how the results were made, the content of ``run.json``.
        texts: Task to sample id to text, or None to show no text.
        alpha: Level at which a slice is marked.
        pairs_per_slice: How many of the strongest pairs of every slice are listed.

    Raises:
        OptionError: If results are of other tasks than the first heatmap, or a number is out of range.
        ModelChangedError: If results are of another model.
    """

    heatmaps: tuple[Any, ...]
    statistics: Any = None
    prediction: Any = None
    top_pairs: Any = None
    head_types: Any = None
    record: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, dict[Any, str]] | None = None
    alpha: float = ALPHA
    pairs_per_slice: int = 5

    def __post_init__(self) -> None:
        if not self.heatmaps:
            raise errors.OptionError("a report needs at least one heatmap; got none.")
        if not 0 < self.alpha < 1 or self.pairs_per_slice < 0:
            raise errors.OptionError(
                f"alpha={self.alpha!r} and pairs_per_slice={self.pairs_per_slice!r}; expected a level between 0 and 1, and"
                " a number of pairs that is not negative."
            )
        for other in self.heatmaps[1:]:
            self._require_same_labels(other)
        for name in ("statistics", "prediction", "top_pairs"):
            if (found := getattr(self, name)) is not None:
                self._require_same_origin(name, found.attributes)
        if self.head_types is not None:
            head_types.fitting(self.head_types, self.first)

    def _require_same_labels(self, other: Any) -> None:
        first = self.first
        same = all(getattr(first, name) == getattr(other, name) for name in LABELS)
        if not (
            same and np.array_equal(first.kv_index, other.kv_index) and np.array_equal(first.present, other.present)
        ):
            raise errors.OptionError("heatmaps of one report differ in tasks, samples or slices; make one report each.")

    def _require_same_origin(self, name: str, facts: Mapping[str, Any]) -> None:
        tasks, expected = (facts["task_a"], facts["task_b"]), (self.first.task_a, self.first.task_b)
        if tasks != expected:
            raise errors.OptionError(f"{name} are of tasks {tasks}; expected those of the heatmap, {expected}.")
        known, other = self.first.attributes.get("model_fingerprint"), facts.get("model_fingerprint")
        if known and other and known != other:
            raise errors.ModelChangedError(f"{name} were computed on another model than the heatmap.")

    @property
    def first(self) -> Any:
        """The heatmap that is shown first."""
        return self.heatmaps[0]

    @property
    def reference_task(self) -> str | None:
        """Name of the reference task of the tests, or None."""
        return None if self.statistics is None else self.statistics.attributes["reference_task"]

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every heatmap: its variant, with the pool where that alone does not tell them apart."""
        facts = [one.attributes for one in self.heatmaps]
        variants = [str(one.get("variant", "scores")) for one in facts]
        if len(set(variants)) < len(variants):
            variants = [f"{name}_{one.get('fisher_pool', '')}" for name, one in zip(variants, facts, strict=True)]
        if len(set(variants)) < len(variants):
            variants = [f"{name}_{number}" for number, name in enumerate(variants, 1)]
        return tuple(variants)

    @property
    def slices(self) -> list[tuple[str, int, int]]:
        """``(block, layer, unit)`` of every slice that exists, as places on the axes; K and V once per kv head."""
        found = []
        for block in BLOCKS:
            found += [(block, layer, unit) for layer, unit in np.argwhere(self.first.exists(block)).tolist()]
        return found

    def labels(self, block: str, layer: int, unit: int) -> tuple[str, int, int]:
        """Return ``(block, layer, unit)`` in true numbers, as results name a slice."""
        units = self.first.kv_heads if block in "KV" else self.first.heads
        return block, self.first.layers[layer], units[unit]

    @property
    def types(self) -> dict[str, np.ndarray] | None:
        """Type of every unit by block, str ``[layers, units]``; None if not measured."""
        from .. import tables

        first = self.first if self.head_types is None else self.first.with_head_types(self.head_types)
        if first.head_types is None:
            return None
        return {block: tables.unit_types(first, block) for block in BLOCKS}


def gather(heatmap: Any, **results: Any) -> ReportData:
    """Build :class:`ReportData` from one heatmap or several, and whatever else there is."""
    several = tuple(heatmap) if isinstance(heatmap, list | tuple) else (heatmap,)
    record = results.pop("record", None)
    if record is not None and not isinstance(record, Mapping):
        raise errors.OptionError(f"record is a {type(record).__name__}; expected a mapping, the content of run.json.")
    return ReportData(heatmaps=several, record=dict(record or {}), **results)
