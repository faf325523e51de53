"""Which slices a result has: layers, query heads, kv heads, and which of them exist; shared by the results that have them.

K and V exist once per kv head, so that what is measured of them has a kv-head axis. Wherever a person expects query heads,
a kv head is repeated under every query head that it serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import errors, labels

if TYPE_CHECKING:
    from .strongest import Strongest


__all__ = ["SliceLabels", "unit_name"]


@dataclass(frozen=True, eq=False)
class SliceLabels:
    """The grids of slices of a result.

    Attributes:
        layers, heads, kv_heads: True numbers, each once.
        kv_index: Position on the kv axis of each query head, ``[layers, heads]``; -1 where it has none.
        present: Which query heads exist, bool ``[layers, heads]``.
    """

    layers: tuple
    heads: tuple
    kv_heads: tuple
    kv_index: np.ndarray
    present: np.ndarray

    @classmethod
    def checked(
        cls,
        layers: Sequence[int],
        heads: Sequence[int],
        kv_heads: Sequence[int],
        kv_index: Any,
        present: np.ndarray | None = None,
    ) -> SliceLabels:
        """Labels in one form, arrays copied and read-only.

        Raises:
            ShapeError: If they contradict each other.
        """
        layers, heads, kv_heads = (
            labels.checked_numbers(numbers, name)
            for numbers, name in ((layers, "layers"), (heads, "heads"), (kv_heads, "kv_heads"))
        )
        grid = (len(layers), len(heads))
        present = read_only(np.ones(grid, bool) if present is None else np.array(present, bool), grid, "present")
        kv_index = read_only(labels.whole_array(kv_index, "kv_index"), grid, "kv_index")
        if kv_index.size and not -1 <= kv_index.min() <= kv_index.max() < len(kv_heads):
            raise errors.ShapeError(
                f"kv_index runs from {kv_index.min()} to {kv_index.max()}; expected positions on an axis of"
                f" {len(kv_heads)} kv heads, or -1 for none."
            )
        if (kv_index[~present] >= 0).any():
            raise errors.ShapeError("kv_index gives a kv head to a query head that is not present; expected -1 there.")
        return cls(layers, heads, kv_heads, kv_index, present)

    def units(self, block: str) -> tuple[int, ...]:
        """Numbers of the units of a block: kv heads for K and V, query heads for Q and O."""
        return self.kv_heads if block in "KV" else self.heads

    def shape(self, block: str) -> tuple[int, int]:
        """``(layers, units)`` of a block."""
        return len(self.layers), len(self.units(block))

    def exists(self, block: str) -> np.ndarray:
        """Return which slices of a block the model has, bool ``[layers, units]``."""
        if block not in "KV":
            return self.present
        return (self.kv_index[:, :, None] == np.arange(len(self.kv_heads))).any(1)

    def on_query_heads(self, block: str, values: np.ndarray) -> np.ndarray:
        """Repeat ``[..., layers, units]`` onto query heads ``[..., layers, heads]``; NaN where a slice is absent."""
        if block not in "KV":
            return values
        if not self.kv_heads:
            return np.full((*values.shape[:-1], len(self.heads)), np.nan)
        shown = values[..., np.arange(len(self.layers))[:, None], self.kv_index]
        return np.where(self.kv_index >= 0, shown, np.nan)

    def first_heads(self) -> np.ndarray:
        """Return where each kv head's first shown query head is, ``[layers, kv_heads]``; -1 where absent."""
        serves = self.kv_index[:, :, None] == np.arange(len(self.kv_heads))
        return np.where(serves.any(1), serves.argmax(1) if self.heads else 0, -1)

    def ordered(self, block: str) -> list[tuple[int, int]]:
        """Places ``(layer, unit)`` of the slices of a block that exist, by layer, then by (first) query head."""
        slices = [(int(layer), int(unit)) for layer, unit in np.argwhere(self.exists(block))]
        first = self._first(block)
        return sorted(slices, key=lambda place: (self.layers[place[0]], self.heads[first[place]]))

    def names(self, block: str, layer: int, unit: int) -> dict[str, int]:
        """What a slice is called: ``layer, head``, and ``kv_head`` for K and V, whose ``head`` is the first shown."""
        named = {"layer": self.layers[layer], "head": self.heads[self._first(block)[layer, unit]]}
        return named | ({"kv_head": self.kv_heads[unit]} if block in "KV" else {})

    def pair_rows(
        self, block: str, strongest: Strongest, sample_a: Sequence[int | str], sample_b: Sequence[int | str]
    ) -> list[dict[str, Any]]:
        """Rows of :class:`qkov.strongest.Strongest` whose ranks are places in :meth:`ordered`, with true numbers and ids."""
        slices, rows = self.ordered(block), []
        for score, rank, place in zip(strongest.scores, strongest.ranks, strongest.places, strict=True):
            i, j = divmod(int(place), len(sample_b))
            named = {"sample_i": sample_a[i], "sample_j": sample_b[j]} | self.names(block, *slices[rank])
            rows.append(named | {"score": float(score)})
        return rows

    def _first(self, block: str) -> np.ndarray:
        if block in "KV":
            return self.first_heads()
        return np.arange(len(self.heads))[None].repeat(len(self.layers), 0)


def unit_name(block: str) -> str:
    """What a unit of a block is called."""
    return "kv head" if block in "KV" else "head"


def read_only(array: np.ndarray, shape: Sequence[int], name: str, *, freeze: bool = True) -> np.ndarray:
    """Return an array of the shape that it must have, not to be written into."""
    if array.shape != shape:
        raise errors.ShapeError(f"{name} has shape {array.shape}; expected {shape}.")
    array.flags.writeable = not freeze
    return array
