"""Address heads of a whole model: layer, head and block in, rows and columns of a parameter out.

:mod:`qkov.geometry` draws where heads lie in one module and :mod:`qkov.locate` finds the modules; here they are
numbered. Layers are always the model's own indices, heads are query heads, and negative indices are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from . import locate
from .errors import LayoutError, ShapeError, SliceIndexError
from .geometry import BLOCKS, AttentionLayout, BlockHeadSlice

__all__ = ["BLOCKS", "AttentionLayout", "BlockHeadSlice", "QKOVConfig", "QKOVIndexer"]

PerLayer = int | tuple[int, ...]


def uncompiled(model: nn.Module) -> nn.Module:
    """Return what ``torch.compile(model)`` wraps, so that parameters have the names of the checkpoint; else the model."""
    return getattr(model, "_orig_mod", model)


@dataclass(frozen=True)
class QKOVConfig:
    """Hold the layouts of all attention layers of a model, sorted by layer.

    Sizes are ints where all layers agree and tuples, one entry per attention layer, where they do not.

    Attributes:
        layers: An :class:`AttentionLayout` for each layer with attention, in rising order.

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> model = LlamaModel(LlamaConfig(hidden_size=24, intermediate_size=8, vocab_size=11, num_hidden_layers=2,
        ...                                num_attention_heads=4, num_key_value_heads=2))
        >>> config = QKOVConfig.from_model(model)
        >>> config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim, config.uses_gqa
        (2, 4, 2, 6, True)
        >>> print(QKOVIndexer(config).get_slice(layer=1, head=3, block="O"))
        layers.1.self_attn.o_proj.weight[:, 18:24]
    """

    layers: tuple[AttentionLayout, ...]

    def __post_init__(self) -> None:
        indices = [layout.layer for layout in self.layers]
        if not indices or indices != sorted(set(indices)):
            raise LayoutError(f"Expected at least one layer, each once and in rising order; found layers {indices}.")

    @classmethod
    def from_model(cls, model: nn.Module, *, attention: str | None = None) -> QKOVConfig:
        """Locate every head of a model; see :func:`qkov.locate.find_attention` for what is refused.

        Args:
            model: A model, or what ``torch.compile`` made of one.
            attention: Which kind of attention, in a model with several.

        Returns:
            The layouts of its layers.
        """
        return cls(locate.find_attention(uncompiled(model), attention))

    @property
    def num_layers(self) -> int:
        """Number of layers with attention."""
        return len(self.layers)

    @property
    def layer_indices(self) -> tuple[int, ...]:
        """Indices of the layers with attention, as the model numbers them."""
        return tuple(layout.layer for layout in self.layers)

    @property
    def num_heads(self) -> PerLayer:
        """Query heads."""
        return self._agreed(lambda layout: layout.num_heads)

    @property
    def num_kv_heads(self) -> PerLayer:
        """Key and value heads."""
        return self._agreed(lambda layout: layout.num_kv_heads)

    @property
    def head_dim(self) -> PerLayer:
        """Width of a query head; of a key head too, but for multi-latent attention."""
        return self._agreed(lambda layout: layout.head_dim)

    @property
    def k_head_dim(self) -> PerLayer:
        """Width of what a key head has of its own: ``head_dim``, or less with multi-latent attention."""
        return self._agreed(lambda layout: layout.k_head_dim)

    @property
    def v_head_dim(self) -> PerLayer:
        """Width of a value head."""
        return self._agreed(lambda layout: layout.v_head_dim)

    @property
    def hidden_size(self) -> PerLayer:
        """Width of what the query projections read."""
        return self._agreed(lambda layout: layout.hidden_size)

    @property
    def uses_gqa(self) -> bool:
        """Whether any layer has fewer kv heads than query heads."""
        return any(layout.num_kv_heads < layout.num_heads for layout in self.layers)

    def layer(self, index: int) -> AttentionLayout:
        """Return the layout of a layer by the model's own index.

        Args:
            index: The layer as the model numbers it.

        Returns:
            Its layout.

        Raises:
            SliceIndexError: If no attention was found there, naming the layers that have it.
        """
        for layout in self.layers:
            if layout.layer == index and not isinstance(index, bool):
                return layout
        raise SliceIndexError(f"No attention in layer {index!r}; valid layers are {_ranges(self.layer_indices)}.")

    def describe(self) -> str:
        """Return a table of where every slice lies: one line per layer, block and head (kv head for K and V).

        Example:
            >>> from qkov.geometry import Projection
            >>> parts = [Projection(b, "a.qkv", "a.qkv.weight", None, (3, 2), 0, "output", (i,), 1)
            ...          for i, b in enumerate("QKV")]
            >>> parts.append(Projection("O", "a.out", "a.out.weight", None, (2, 1), 1, "input", (0,), 1))
            >>> print(QKOVConfig((AttentionLayout(0, "a", "concatenated", 1, 1, 1, 1, 2, tuple(parts)),)).describe())
            layer  block  head  kv head  slice
                0  Q      0     -        a.qkv.weight[0:1, :]
                0  K      0     0        a.qkv.weight[1:2, :]
                0  V      0     0        a.qkv.weight[2:3, :]
                0  O      0     -        a.out.weight[:, 0:1]
        """
        rows = [("layer", "block", "head", "kv head", "slice")]
        for layout in self.layers:
            for projection in layout.projections:
                for unit in range(projection.num_units):
                    heads = [h for h in range(layout.num_heads) if layout.unit(projection.block, h) == unit]
                    kv_head = str(unit) if projection.block in "KV" else "-"
                    rows.append(
                        (
                            str(layout.layer),
                            projection.block,
                            _ranges(heads),
                            kv_head,
                            _shown(projection.slice_of(unit)),
                        )
                    )
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            "  ".join([row[0].rjust(widths[0]), *(row[i].ljust(widths[i]) for i in (1, 2, 3)), row[4]]) for row in rows
        )

    def __repr__(self) -> str:
        packings = "/".join(sorted({layout.packing for layout in self.layers}))
        own_key = f"k_head_dim={self.k_head_dim}, " if self.k_head_dim != self.head_dim else ""
        return (
            f"QKOVConfig(layers {_ranges(self.layer_indices)}, num_heads={self.num_heads}, "
            f"num_kv_heads={self.num_kv_heads}, head_dim={self.head_dim}, {own_key}v_head_dim={self.v_head_dim}, "
            f"hidden_size={self.hidden_size}, {packings})"
        )

    def _agreed(self, read: Callable[[AttentionLayout], int]) -> PerLayer:
        values = tuple(read(layout) for layout in self.layers)
        return values[0] if len(set(values)) == 1 else values


@dataclass(frozen=True)
class QKOVIndexer:
    """Answer where a head lies, and cut it out of a tensor.

    K and V exist once per kv head: heads that share one get the same slice.

    Attributes:
        config: The layouts of the model.
    """

    config: QKOVConfig

    def get_slice(self, layer: int, head: int, block: str) -> BlockHeadSlice:
        """Return the slice of a query head in a block.

        Args:
            layer: The layer as the model numbers it.
            head: A query head.
            block: "Q", "K", "V" or "O".

        Returns:
            Where the slice lies; for K and V that of the kv head that the query head reads.

        Raises:
            SliceIndexError: If the layer, the head or the block does not exist, naming those that do.
        """
        layout = self.config.layer(layer)
        return layout.projection(block).slice_of(layout.unit(block, head))

    def slice_tensor(self, tensor: Any, layer: int, head: int, block: str) -> Any:
        """Cut a head out of a tensor shaped like the block's stored weight; leading axes are kept.

        Args:
            tensor: ``[..., rows, columns]``: the weight, its gradient, or a stack of either (torch or NumPy).
            layer, head, block: As for :meth:`get_slice`.

        Returns:
            A view ``[..., rows of the slice, columns of the slice]``.

        Raises:
            ShapeError: If the last two axes are not those of the stored weight.
        """
        part = self.get_slice(layer, head, block)
        expected = self.config.layer(layer).projection(block).weight_shape
        if tuple(tensor.shape[-2:]) != expected:
            raise ShapeError(
                f"A tensor of shape {tuple(tensor.shape)} does not fit {part.param_name!r}; expected [..., "
                f"{expected[0]}, {expected[1]}], as the weight is stored. Pass the whole gradient, not a part of it."
            )
        return tensor[(..., *part.index)]

    def __iter__(self) -> Iterator[tuple[int, str, int, BlockHeadSlice]]:
        """Walk over ``(layer, block, unit, slice)``, every slice once: heads of Q and O, kv heads of K and V."""
        for layout in self.config.layers:
            for projection in layout.projections:
                for unit in range(projection.num_units):
                    yield layout.layer, projection.block, unit, projection.slice_of(unit)


def _shown(part: BlockHeadSlice) -> str:
    return str(part) if part.bias_slice is None else f"{part} + bias[{part.bias_slice[0]}:{part.bias_slice[1]}]"


def _ranges(indices: Any) -> str:
    """Write sorted integers shortly: 0-3, 5."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
