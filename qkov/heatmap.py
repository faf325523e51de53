"""The labelled result of one comparison of two tasks: scores of every pair of samples on every slice.

K and V weights exist once per kv head, so their arrays have a kv-head axis, and that is what averages, rankings and
files use. Wherever a person, or the mapping by block, expects query heads, a kv head is repeated under every query head
that it serves, which is a view and never enters a sum::

    kv_index of one layer, 4 query heads, 2 kv heads       [0, 0, 1, 1]
    truth     arrays["K"][i, j, layer]                     [x, y]
    view      heatmap["K"]["scores"][i, j, layer]          [x, x, y, y]

A slice that the model does not have (a layer that borrows another layer's K and V, a head number beyond a smaller
layer) is NaN in every array and declared: by ``kv_index == -1`` for K and V, by ``present`` for Q and O. NaN anywhere
else is refused, so it cannot reach an average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from . import errors, head_types, labels, memory, result_file, result_words, score_files
from .geometry import BLOCKS
from .lazy_mapping import LazyMapping
from .meaning import VARIANT_MEANING, describe_scores
from .score_files import STORED, MappedScores
from .slice_labels import SliceLabels, read_only, unit_name
from .strongest import Strongest

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from .head_types import HeadTypes
    from .option_types import PathLike, SampleId


__all__ = ["VARIANT_MEANING", "Heatmap", "describe_scores", "load_heatmap"]

FORMAT_NAME = "qkov-heatmap"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Heatmap(Mapping):
    """Scores of task A's samples against task B's on every slice, with their labels, health and meaning.

    A mapping from block to ``{"scores", "layer_head_avg", "top_conflicts", "health"}``, everything on query heads; the
    fields hold the truth. Arrays are copied, float64, contiguous and read-only; but scores that are in files
    (:class:`qkov.score_files.MappedScores`) stay there, and ``arrays`` shows them.

    Attributes:
        arrays: Block to scores ``[n_a, n_b, layers, units]``; units: ``heads`` for Q and O, ``kv_heads`` for K and V.
        task_a: Name of the task whose sensitivity is measured.
        task_b: Name of the task whose gradients act.
        sample_a: Ids of A's samples, all int or all str, unique.
        sample_b: Ids of B's samples; may be empty.
        layers: True layer numbers.
        heads: True query-head numbers.
        kv_heads: True kv-head numbers.
        kv_index: Position on the kv axis of each query head, ``[layers, heads]``; -1 where it has none.
        health: Block to statistic to ``[layers, units]``; the same statistics in every block.
        attributes: JSON-able facts on the scores; ``conflict_order`` ("descending" or "ascending": which end of the
            scale is conflict) and ``valid`` (False without pairs) are filled in.
        present: Which query heads exist, bool ``[layers, heads]``; all of them if not given.
        head_types: A :class:`qkov.HeadTypes` of these heads, see :meth:`with_head_types`; None if not measured.

    Raises:
        ShapeError: If an array or a label does not fit the others.
        SampleIdError: If ids repeat or mix types.
        NonFiniteError: If a score of an existing slice is NaN or infinite.
        OptionError: If the attributes cannot be written as JSON.
    """

    if TYPE_CHECKING:

        @property
        def slices(self) -> SliceLabels: ...
        @property
        def _stored(self) -> dict[str, np.ndarray | MappedScores]: ...

    arrays: dict[str, Any]
    task_a: str
    task_b: str
    sample_a: tuple[SampleId, ...]
    sample_b: tuple[SampleId, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    kv_index: np.ndarray
    health: dict[str, dict[str, np.ndarray]]
    attributes: dict[str, Any]
    present: np.ndarray | Any = None  # filled in where it was None
    head_types: HeadTypes | None = None

    def __post_init__(self) -> None:
        for name in ("sample_a", "sample_b"):
            self._set(name, labels.checked_ids(getattr(self, name), name))
        found = SliceLabels.checked(self.layers, self.heads, self.kv_heads, self.kv_index, self.present)
        self._set("slices", found)
        for name in ("layers", "heads", "kv_heads", "kv_index", "present"):
            self._set(name, getattr(found, name))
        self._set(
            "attributes", labels.checked_attributes(self.attributes, pairs=len(self.sample_a) * len(self.sample_b))
        )
        _check_blocks(self.arrays, "arrays")
        self._set("_stored", {block: self._checked_scores(block) for block in BLOCKS})
        shown = {block: one.view if isinstance(one, MappedScores) else one for block, one in self._stored.items()}
        self._set("arrays", shown)
        self._set("health", self._checked_health())
        if self.head_types is not None:
            self._set("head_types", head_types.fitting(self.head_types, self))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _checked_scores(self, block: str) -> np.ndarray | MappedScores:
        shape = (len(self.sample_a), len(self.sample_b), *self.slices.shape(block))
        scores = self.arrays[block]
        if mapped := isinstance(scores, MappedScores):
            finite, missing = scores.finite, scores.missing
        else:
            # Adding zero copies and turns -0.0 into 0.0, so that equal results are equal in every bit.
            scores = np.add(scores, 0.0, dtype=np.float64, order="C")
        if scores.shape != shape:
            raise errors.ShapeError(
                f"Scores of block {block} have shape {scores.shape}; expected [n_a, n_b, layers, units] = {shape}."
            )
        exists = self.exists(block)
        if not mapped:
            finite, missing = np.isfinite(scores).all((0, 1)), np.isnan(scores).all((0, 1))
        wrong = ~finite & exists
        if wrong.any():
            layer, unit = np.argwhere(wrong)[0]
            raise errors.NonFiniteError(
                f"Block {block}, layer {self.layers[layer]}, {unit_name(block)} {self.slices.units(block)[unit]} holds a"
                f" score that is NaN or infinite ({wrong.sum()} slices do). If the model lacks that slice, declare it"
                " with present or kv_index."
            )
        if not missing[~exists].all():
            raise errors.ShapeError(f"Block {block} holds a number in a slice declared absent; expected NaN there.")
        if mapped:
            return scores
        scores[:, :, ~exists] = np.nan  # one NaN of the many bit patterns
        return read_only(scores, shape, block)

    def _checked_health(self) -> dict[str, dict[str, np.ndarray]]:
        health = self.health or {block: {} for block in BLOCKS}
        _check_blocks(health, "health")
        if len({frozenset(health[block]) for block in BLOCKS}) != 1:
            raise errors.ShapeError("health holds different statistics in different blocks; expected the same in all.")
        checked: dict[str, dict[str, np.ndarray]] = {}
        for block in BLOCKS:
            checked[block] = {}
            for stat in sorted(health[block]):
                values = np.add(health[block][stat], 0.0, dtype=np.float64, order="C")
                values = read_only(values, self.slices.shape(block), f"health[{block!r}][{stat!r}]", freeze=False)
                values[np.isnan(values) | ~self.exists(block)] = np.nan
                values.flags.writeable = False
                checked[block][stat] = values
        return checked

    def exists(self, block: str) -> np.ndarray:
        """Return which slices of a ``block`` the model has, bool ``[layers, units]``; all others are NaN."""
        return self.slices.exists(block)

    def on_query_heads(self, block: str, values: np.ndarray) -> np.ndarray:
        """Repeat ``values [..., layers, units]`` of a ``block`` onto query heads ``[..., layers, heads]``; NaN where a
        slice is absent.
        """
        return self.slices.on_query_heads(block, values)

    def first_heads(self) -> np.ndarray:
        """Return where each kv head's first shown query head is, ``[layers, kv_heads]``; -1 where absent."""
        return self.slices.first_heads()

    @property
    def memory_mapped(self) -> bool:
        """Whether scores are in files, see ``scores_path`` of ``compute_heatmap``, and only read a slice at a time."""
        return any(isinstance(scores, MappedScores) for scores in self._stored.values())

    def slice_scores(self, block: str, layer: int, unit: int) -> np.ndarray:
        """Copy the scores of one slice of a ``block``, ``[n_a, n_b]``, C-contiguous; ``layer`` and ``unit`` are places
        on their axes.
        """
        stored = self._stored[block]
        if isinstance(stored, MappedScores):
            return stored.slice(layer, unit)
        return stored[:, :, layer, unit].copy()

    def each_slice(self, block: str) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """Yield ``(layer, unit), scores [n_a, n_b]`` of the slices of a ``block`` that exist, by place: never more than
        a layer at a time.
        """
        exists, stored = self.exists(block), self._stored[block]
        for layer, row in enumerate(exists):
            if not isinstance(stored, MappedScores):
                # All units at once: they are next to each other in memory.
                together = np.ascontiguousarray(stored[:, :, layer].transpose(2, 0, 1))
            for unit in np.flatnonzero(row).tolist():
                one = stored.slice(layer, unit) if isinstance(stored, MappedScores) else together[unit]
                yield (layer, unit), one

    def mean_map(self, block: str) -> np.ndarray:
        """Average a ``block`` over all pairs, ``[layers, units]``: zeros without pairs, NaN where a slice is absent."""
        if block not in self._mean_maps:
            found = np.where(self.exists(block), 0.0, np.nan)
            if self.sample_a and self.sample_b:
                for place, scores in self.each_slice(block):
                    found[place] = scores.mean()
            self._mean_maps[block] = found
        return self._mean_maps[block].copy()

    @cached_property
    def _mean_maps(self) -> dict[str, np.ndarray]:
        return {}

    def block_average(self, block: str) -> float:
        """Average a ``block`` over all pairs and slices, each kv head once; NaN if it has no slice."""
        exists = self.exists(block)
        return float(self.mean_map(block)[exists].mean()) if exists.any() else float("nan")

    def top_conflicts(self, block: str, *, top_k: int = 10) -> list[dict[str, Any]]:
        """List the strongest conflicts of a block: each kv head once, ties by layer, head and sample order.

        Args:
            block: "Q", "K", "V" or "O".
            top_k: Length of the list, if there are that many pairs and slices.

        Returns:
            Dicts of ``sample_i, sample_j`` (ids), ``layer, head, score``, and ``kv_head`` for K and V, whose ``head``
            is the first query head shown.
        """
        ranks = {place: rank for rank, place in enumerate(self.slices.ordered(block))}
        found = Strongest.none(top_k, ascending=self.attributes["conflict_order"] == "ascending")
        for place, scores in self.each_slice(block):
            found = found.with_slice(ranks[place], scores)
        return self.slices.pair_rows(block, found, self.sample_a, self.sample_b)

    @cached_property
    def _views(self) -> dict[str, dict[str, Any]]:
        return {}

    def __getitem__(self, block: str) -> Mapping[str, Any]:
        if block not in self.arrays:
            raise KeyError(block)
        if block not in self._views:
            self._views[block] = {
                "scores": None if self.memory_mapped else self.on_query_heads(block, self.arrays[block]),
                "layer_head_avg": self.on_query_heads(block, self.mean_map(block)),
                "top_conflicts": self.top_conflicts(block),
                "health": {stat: self.on_query_heads(block, values) for stat, values in self.health[block].items()},
            }
        if not self.memory_mapped:
            return dict(self._views[block])
        return LazyMapping(self._views[block], lambda name: self._mapped_view(block, name), KeyError)

    def _mapped_view(self, block: str, name: str) -> np.ndarray:
        """As without a file, but scores are on the file where they can be, and are not kept where they are copied."""
        if name != "scores":
            return self._views[block][name]
        if block in "KV":
            self.require_memory(f"the scores of block {block} on query heads")
        return self.on_query_heads(block, self.arrays[block])

    def require_memory(self, what: str) -> None:
        """Refuse what copies the scores of a block onto query heads, if they are in files and do not fit the memory.

        Args:
            what: What would copy them, for the message.

        Raises:
            MemoryLimitError: If so.
        """
        count = len(self.sample_a) * len(self.sample_b) * self.present.size
        if self.memory_mapped:
            memory.require(8 * count, what, "Use slice_scores, each_slice, by_slice or to_dataframe('slice').")

    def __iter__(self) -> Iterator[str]:
        return iter(BLOCKS)

    def __len__(self) -> int:
        return len(BLOCKS)

    def __eq__(self, other: object) -> bool:
        return self.identical(other) if isinstance(other, Heatmap) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and so without a hash

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the result, in hex: equal exactly where results are equal in every bit."""
        return result_file.digest(*self._parts())

    def identical(self, other: object) -> bool:
        """Tell whether ``other`` has the same labels, attributes and every bit of every array."""
        return isinstance(other, Heatmap) and self.fingerprint == other.fingerprint

    @cached_property
    def data(self) -> xr.Dataset:
        """Show everything on query heads: ``xarray.Dataset``, dims (block, layer, head, sample_a, sample_b); built
        once, on demand.
        """
        from . import tables

        return tables.query_head_dataset(self)

    @cached_property
    def by_slice(self) -> xr.Dataset:
        """Show each slice once: ``xarray.Dataset``, a variable per block, Q and O on ``head``, K and V on ``kv_head``."""
        from . import tables

        return tables.truth_dataset(self)

    def to_dataframe(self, level: str = "pair") -> pd.DataFrame:
        """Return a tidy table in which every slice stands once.

        Args:
            level: "pair" for a row per slice and pair of samples, "slice" for a row per slice.

        Returns:
            A pandas ``DataFrame``.
        """
        from . import tables

        return tables.table(self, level)

    def with_head_types(self, types: HeadTypes) -> Heatmap:
        """Return the same result that also holds a :class:`qkov.HeadTypes`: as coordinates of ``data``, and in its file.

        Args:
            types: From :func:`qkov.score_head_types`, of the same model.

        Returns:
            A new result; this one is left as it was.

        Raises:
            ModelChangedError: If the types were measured on another model.
            SliceIndexError, ShapeError: If they do not cover the layers and heads.
        """
        return replace(self, arrays=self._stored, head_types=types)

    def group_by_type(self, block: str, *, threshold: float | None = None) -> pd.DataFrame:
        """Average a block by head type: a pandas table of ``num_units, mean, sd, lowest, highest``, a row per type.

        A kv head counts once in K and V: with the type that all its query heads share, or as "mixed".

        Args:
            block: "Q", "K", "V" or "O".
            threshold: As for :meth:`qkov.HeadTypes.label`.

        Returns:
            A pandas ``DataFrame``.
        """
        from . import tables

        return tables.type_table(self, block, threshold)

    def plot(self) -> Figure:
        """Draw a layer-by-head picture of every block's averages; returns a matplotlib ``Figure``."""
        from . import plots

        return plots.plot_heatmap(self)

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        content: dict[str, Any] = {
            name: list(getattr(self, name)) for name in ("sample_a", "sample_b", "layers", "heads", "kv_heads")
        }
        content |= {"task_a": self.task_a, "task_b": self.task_b, "attributes": self.attributes}
        content["stats"] = list(self.health["Q"])
        arrays = {"kv_index": self.kv_index, "present": self.present.astype(np.uint8)}
        for block in BLOCKS:
            stored = self._stored[block]
            if isinstance(stored, MappedScores):
                stored = result_file.InParts(stored.shape, STORED, stored.parts)
            arrays[f"scores.{block}"] = stored
            for number, stat in enumerate(content["stats"]):
                arrays[f"health.{block}.{number}"] = self.health[block][stat]
        if self.head_types is not None:  # a file without them stays as it was
            content["head_types"], of_types = self.head_types.parts()
            arrays |= {f"head_types.{name}": values for name, values in of_types.items()}
        return content, arrays

    def save(self, path: PathLike) -> Path:
        """Write one safetensors file to ``path``, atomically; equal results give equal bytes. Returns the path."""
        return result_file.write(path, *self._parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _summary(self) -> Iterator[tuple[str, str, str]]:
        """Rows of block, average, and the strongest conflict in words, for people."""
        for block in BLOCKS:
            top = self.top_conflicts(block, top_k=1)
            where = result_words.where_strongest(block, top[0]) if top else "none"
            yield block, f"{self.block_average(block):.3g}", where

    def _words(self) -> tuple[str, str, tuple[str, ...], Iterator[tuple[str, ...]], list[str]]:
        sizes = (
            f"samples {len(self.sample_a)} x {len(self.sample_b)}, layers {len(self.layers)}, heads {len(self.heads)}"
        )
        said = result_words.headline(self, f"{sizes}, kv heads {len(self.kv_heads)}")
        notes = result_words.notes_of(self.attributes, ("average_caveat", "slice_note"))
        return "Heatmap", said, ("average", "strongest conflict"), self._summary(), notes

    def __repr__(self) -> str:
        return result_words.in_terminal(*self._words())

    def _repr_html_(self) -> str:
        return result_words.in_html(*self._words())


def load_heatmap(path: PathLike, *, scores_path: PathLike | None = None) -> Heatmap:
    """Load what :meth:`Heatmap.save` wrote, checked.

    Args:
        path: The file.
        scores_path: None for scores in memory, or a new or empty folder: there they are laid out in files and
            memory-mapped, as by ``compute_heatmap``. They take as much disk again; the files must stay, and stay as they
            are, as long as the result is used.

    Returns:
        The result, equal to the one that was saved.

    Raises:
        ResultFileError: If the file is not a heatmap of this package, is damaged, or contradicts itself.
        OptionError: If the folder is not empty.
        DiskError: If the scores do not fit the disk.
        OSError: If it cannot be opened.
    """
    kind: dict[str, Any] = {"format_name": FORMAT_NAME, "format_version": FORMAT_VERSION}
    if scores_path is None:
        return _built(path, *result_file.read(path, **kind))
    folder = score_files.new_folder(scores_path)
    content, arrays = result_file.read(path, **kind, in_parts="scores.")
    given: dict[str, Any] = {block: arrays.get(f"scores.{block}") for block in BLOCKS}
    if any(one is None or one.dtype != STORED or len(one.shape) != 4 for one in given.values()):
        raise errors.ResultFileError(
            f"{path} is not a consistent heatmap: it lacks scores of a block, as float64 with 4 axes."
        )
    shapes = {block: one.shape for block, one in given.items()}
    score_files.require_disk(folder, sum(math.prod(shape) for shape in shapes.values()))
    files = score_files.ScoreFiles(folder, shapes)
    try:
        for block, one in given.items():
            start = 0
            for rows in one.parts():
                files.put_rows(block, start, rows)
                start += len(rows)
        found = files.finish()
        return _built(path, content, arrays | {f"scores.{block}": found[block] for block in BLOCKS})
    except BaseException:
        files.discard()
        raise


def _built(path: PathLike, content: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Heatmap:
    with result_file.consistent(path, "is not a consistent heatmap"):
        stats, types = content.pop("stats"), content.pop("head_types", None)
        health = {
            block: {stat: arrays[f"health.{block}.{number}"] for number, stat in enumerate(stats)} for block in BLOCKS
        }
        return Heatmap(
            arrays={block: arrays[f"scores.{block}"] for block in BLOCKS},
            health=health,
            kv_index=arrays["kv_index"],
            present=arrays["present"],
            head_types=None if types is None else head_types.from_parts(types, arrays, prefix="head_types."),
            **content,
        )


def _check_blocks(mapping: Mapping[str, Any], name: str) -> None:
    if set(mapping) != set(BLOCKS):
        raise errors.ShapeError(f"{name} has blocks {sorted(mapping)}; expected {list(BLOCKS)}.")
