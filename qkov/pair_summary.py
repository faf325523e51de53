r"""What is left of all pairs of samples when no pair is kept: means over either task, lift, and the strongest pairs.

A heatmap holds a number for each pair of samples on each slice, which grows with the product of the tasks' sizes. Of each
slice a summary holds the mean over B's samples for every sample of A and over A's samples for every sample of B,

.. math:: \bar M_{i\cdot} = \frac1{n_B} \sum_j M_{ij}, \qquad \bar M_{\cdot j} = \frac1{n_A} \sum_i M_{ij},

which follow from sums over one task at a time; the lift of every sample of A; and, if asked for, a list of the strongest
pairs of each block, which is that of the heatmap. Numbers of pairs are Python's own integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import errors, labels, result_file, result_words
from .geometry import BLOCKS
from .slice_labels import SliceLabels, read_only

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from .option_types import PathLike


__all__ = ["PairSummary", "load_pair_summary"]

FORMAT_NAME = "qkov-pair-summary"
FORMAT_VERSION = 1
NAMES = ("sample_a", "sample_b", "layers", "heads", "kv_heads", "task_a", "task_b", "attributes")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PairSummary:
    """Means over pairs on every slice, with the lift, the health and the meaning of the scores.

    K and V have a kv-head axis, as in a :class:`qkov.Heatmap`, whose labels and attributes these are. A slice that the model
    does not have is NaN.

    Attributes:
        task_a, task_b, sample_a, sample_b, layers, heads, kv_heads, kv_index, present: As of a heatmap.
        by_a: Block to the mean over B's samples, ``[n_a, layers, units]``; 0 if B has none.
        by_b: Block to the mean over A's samples, ``[n_b, layers, units]``.
        lift: Block to ``[n_a, layers, units]``, see :func:`qkov.formula.lift`; empty for variants that weigh by a matrix.
        health: Block to statistic to ``[layers, units]``.
        strongest: Block to dicts of ``sample_i, sample_j`` (ids), ``layer, head, score`` and ``kv_head`` for K and V, in
            order, as ``Heatmap.top_conflicts`` gives them; empty with ``top_k=0``.
        attributes: JSON-able facts, as of a heatmap, with ``top_k`` and ``num_pairs``.

    Raises:
        ShapeError: If an array or a label does not fit the others.
        SampleIdError: If ids repeat or mix types.
        NonFiniteError: If a number of an existing slice is NaN or infinite.
        OptionError: If the attributes cannot be written as JSON, or a listed pair is not one of these samples and slices.
    """

    if TYPE_CHECKING:

        @property
        def slices(self) -> SliceLabels: ...

    task_a: str
    task_b: str
    sample_a: tuple
    sample_b: tuple
    layers: tuple
    heads: tuple
    kv_heads: tuple
    kv_index: np.ndarray
    by_a: dict
    by_b: dict
    health: dict
    attributes: dict
    lift: dict
    strongest: dict
    present: np.ndarray | Any = None  # filled in where it was None

    def __post_init__(self) -> None:
        for name in ("sample_a", "sample_b"):
            self._set(name, labels.checked_ids(getattr(self, name), name))
        slices = SliceLabels.checked(self.layers, self.heads, self.kv_heads, self.kv_index, self.present)
        self._set("slices", slices)
        for name in ("layers", "heads", "kv_heads", "kv_index", "present"):
            self._set(name, getattr(slices, name))
        self._set("attributes", labels.checked_attributes(self.attributes, pairs=self.num_pairs))
        self._set("by_a", self._checked("by_a", len(self.sample_a)))
        self._set("by_b", self._checked("by_b", len(self.sample_b)))
        self._set("lift", self._checked("lift", len(self.sample_a)) if self.lift else {})
        self._set("health", self._checked_health())
        self._set("strongest", {block: self._checked_rows(block) for block in BLOCKS})

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _checked(self, name: str, count: int) -> dict[str, np.ndarray]:
        given, found = getattr(self, name), {}
        _require_blocks(given, name)
        for block in BLOCKS:
            values = np.add(given[block], 0.0, dtype=np.float64, order="C")  # -0.0 becomes 0.0
            values = read_only(values, (count, *self.slices.shape(block)), f"{name}[{block!r}]", freeze=False)
            exists = self.slices.exists(block)
            if not np.isfinite(values[:, exists]).all():
                raise errors.NonFiniteError(
                    f"{name} of block {block} holds NaN or an infinite number in a slice that exists."
                )
            if not np.isnan(values[:, ~exists]).all():
                raise errors.ShapeError(f"{name} of block {block} holds a number in a slice declared absent.")
            values[:, ~exists] = np.nan  # one NaN of the many bit patterns
            values.flags.writeable = False
            found[block] = values
        return found

    def _checked_health(self) -> dict[str, dict[str, np.ndarray]]:
        _require_blocks(self.health, "health")
        if len({frozenset(self.health[block]) for block in BLOCKS}) != 1:
            raise errors.ShapeError("health holds different statistics in different blocks; expected the same in all.")
        found: dict[Any, Any] = {}
        for block in BLOCKS:
            found[block], exists = {}, self.slices.exists(block)
            for stat in sorted(self.health[block]):
                values = np.add(self.health[block][stat], 0.0, dtype=np.float64, order="C")
                values = read_only(values, exists.shape, f"health[{block!r}][{stat!r}]", freeze=False)
                values[np.isnan(values) | ~exists] = np.nan
                values.flags.writeable = False
                found[block][stat] = values
        return found

    def _checked_rows(self, block: str) -> tuple[dict[str, Any], ...]:
        _require_blocks(self.strongest, "strongest")
        rows, known_a, known_b = labels.plain_json({"rows": self.strongest[block]})["rows"], *map(set, self._ids)
        unit = "kv_head" if block in "KV" else "head"
        expected = {"sample_i", "sample_j", "layer", "head", "score", unit}
        exists = {
            (self.layers[layer], self.slices.units(block)[place])
            for layer, place in np.argwhere(self.slices.exists(block))
        }
        for row in rows:
            known = set(row) == expected and row["sample_i"] in known_a and row["sample_j"] in known_b
            if not known or (row["layer"], row[unit]) not in exists or type(row["score"]) is not float:
                raise errors.OptionError(f"a strongest pair of block {block} is {row}, which is none of this summary.")
        return tuple(rows)

    @property
    def _ids(self) -> tuple[tuple[int | str, ...], tuple[int | str, ...]]:
        return self.sample_a, self.sample_b

    @property
    def num_pairs(self) -> int:
        """How many pairs of samples there are, a Python int of any size."""
        return len(self.sample_a) * len(self.sample_b)

    def exists(self, block: str) -> np.ndarray:
        """Return which slices of a ``block`` the model has, bool ``[layers, units]``; all others are NaN."""
        return self.slices.exists(block)

    def on_query_heads(self, block: str, values: np.ndarray) -> np.ndarray:
        """Repeat ``values [..., layers, units]`` of a ``block`` onto query heads ``[..., layers, heads]``; NaN where a
        slice is absent.
        """
        return self.slices.on_query_heads(block, values)

    def mean_map(self, block: str) -> np.ndarray:
        """Average a ``block`` over all pairs, ``[layers, units]``: zeros without pairs, NaN where a slice is absent."""
        if not self.num_pairs:
            return np.where(self.exists(block), 0.0, np.nan)
        return self.by_a[block].mean(0)

    def block_average(self, block: str) -> float:
        """Average a ``block`` over all pairs and slices, each kv head once; NaN if it has no slice."""
        exists = self.exists(block)
        return float(self.mean_map(block)[exists].mean()) if exists.any() else float("nan")

    def top_conflicts(self, block: str, *, top_k: int | None = None) -> list[dict[str, Any]]:
        """List the strongest conflicts of a block, as ``Heatmap.top_conflicts`` does; by default all that were kept.

        Args:
            block: "Q", "K", "V" or "O".
            top_k: Length of the list.

        Returns:
            Dicts, as of ``Heatmap.top_conflicts``.

        Raises:
            OptionError: If more are asked for than were kept.
        """
        kept, rows = self.attributes.get("top_k", 0), self.strongest[block]
        if top_k is not None and top_k > kept:
            raise errors.OptionError(
                f"top_k is {top_k}; this summary kept the strongest {kept} pairs. Compute it again with more."
            )
        return [dict(row) for row in rows[:top_k]]

    def __eq__(self, other: object) -> bool:
        return self.identical(other) if isinstance(other, PairSummary) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and so without a hash

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the result, in hex: equal exactly where results are equal in every bit."""
        return result_file.digest(*self._parts())

    def identical(self, other: object) -> bool:
        """Tell whether ``other`` has the same labels, attributes and every bit of every array."""
        return isinstance(other, PairSummary) and self.fingerprint == other.fingerprint

    @cached_property
    def data(self) -> xr.Dataset:
        """Show everything on query heads, by true numbers and ids: ``xarray.Dataset`` of ``by_a, by_b, lift``,
        ``layer_head_avg`` and health.
        """
        from . import summary_tables

        return summary_tables.dataset(self)

    def to_dataframe(self, level: Literal["slice", "sample_a", "sample_b", "pair"] = "slice") -> pd.DataFrame:
        """Return a tidy table of the truth.

        Args:
            level: "slice" (a row per slice), "sample_a" or "sample_b" (per slice and sample), or "pair" (the strongest).
        """
        from . import summary_tables

        return summary_tables.table(self, level)

    def plot(self) -> Figure:
        """Draw a layer-by-head picture of every block's averages; returns a matplotlib ``Figure``."""
        from . import plots

        return plots.plot_heatmap(self)

    def save(self, path: PathLike) -> Path:
        """Write one safetensors file to ``path``, atomically; equal results give equal bytes. Returns the path."""
        return result_file.write(path, *self._parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        content = {name: getattr(self, name) for name in NAMES}
        content["stats"] = list(self.health["Q"])
        content["strongest"] = {block: list(rows) for block, rows in self.strongest.items()}
        arrays = {"kv_index": self.kv_index, "present": self.present.astype(np.uint8)}
        for block in BLOCKS:
            for name in ("by_a", "by_b", "lift"):
                if values := getattr(self, name):
                    arrays[f"{name}.{block}"] = values[block]
            for number, stat in enumerate(content["stats"]):
                arrays[f"health.{block}.{number}"] = self.health[block][stat]
        return content, arrays

    def _summary(self) -> Iterator[tuple[str, ...]]:
        """Rows of block, average, mean lift, and the strongest conflict in words, for people."""
        for block in BLOCKS:
            lift = "none"
            if self.lift and self.exists(block).any() and self.sample_a:
                lift = f"{self.lift[block][:, self.exists(block)].mean():.3g}"
            where = "not kept" if not self.attributes.get("top_k", 0) else "none"
            for top in self.strongest[block][:1]:
                where = result_words.where_strongest(block, top)
            yield block, f"{self.block_average(block):.3g}", lift, where

    def _words(self) -> tuple[str, str, tuple[str, ...], Iterator[tuple[str, ...]], list[str]]:
        sizes = f"{len(self.sample_a)} x {len(self.sample_b)} samples, {self.num_pairs:,} pairs"
        said = result_words.headline(self, f"{sizes}, layers {len(self.layers)}, heads {len(self.heads)}")
        notes = result_words.notes_of(self.attributes, ("average_caveat", "slice_note", "lift_note"))
        return "PairSummary", said, ("average", "mean lift", "strongest conflict"), self._summary(), notes

    def __repr__(self) -> str:
        return result_words.in_terminal(*self._words())

    def _repr_html_(self) -> str:
        return result_words.in_html(*self._words())


def load_pair_summary(path: PathLike) -> PairSummary:
    """Load what :meth:`PairSummary.save` wrote, checked.

    Args:
        path: The file.

    Returns:
        The result, equal to the one that was saved.

    Raises:
        ResultFileError: If the file is not such a summary, is damaged, or contradicts itself.
        OSError: If it cannot be opened.
    """
    content, arrays = result_file.read(path, format_name=FORMAT_NAME, format_version=FORMAT_VERSION)
    with result_file.consistent(path, "is not a consistent summary of pairs"):
        stats, has_lift = content.pop("stats"), "lift.Q" in arrays
        means: dict[str, Any] = {
            name: {block: arrays[f"{name}.{block}"] for block in BLOCKS}
            for name in ("by_a", "by_b", *(["lift"] if has_lift else []))
        }
        health = {
            block: {stat: arrays[f"health.{block}.{number}"] for number, stat in enumerate(stats)} for block in BLOCKS
        }
        return PairSummary(
            **({"lift": {}} | means),
            health=health,
            kv_index=arrays["kv_index"],
            present=arrays["present"],
            **content,
        )


def _require_blocks(mapping: Mapping[str, Any], name: str) -> None:
    if set(mapping) != set(BLOCKS):
        raise errors.ShapeError(f"{name} has blocks {sorted(mapping)}; expected {list(BLOCKS)}.")
