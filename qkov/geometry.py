"""Where the heads of one attention module lie in its stored weights: plain numbers, no tensors.

A weight is drawn as it is stored. ``nn.Linear`` stores ``[out, in]``; GPT-2's ``Conv1D`` stores ``[in, out]``. Queries,
keys and values leave a projection, so their heads cut its OUTPUT features. The output projection receives the heads
side by side, so its heads cut its INPUT features. Hence, for H query heads and G kv heads (here H = 4, G = 2, query
heads 0, 1 share kv head 0, and 2, 3 share kv head 1)::

    split, nn.Linear (Llama, OPT, BERT): Q, K, V by rows, O by columns

        q_proj          k_proj          v_proj            o_proj
        +-------+       +-------+       +-------+         +--+--+--+--+
        | q 0   |       | k 0   |       | v 0   |         |  |  |  |  |
        | q 1   |       +-------+       +-------+  hidden |o |o |o |o |
        | q 2   | H d_k | k 1   | G d_k | v 1   | G d_v   |0 |1 |2 |3 |
        | q 3   |       +-------+       +-------+         |  |  |  |  |
        +-------+        hidden          hidden           +--+--+--+--+
         hidden                                               H d_v

    concatenated (Phi-3: rows of an nn.Linear)       concatenated, Conv1D (GPT-2: columns; G = H)

        qkv_proj                                      c_attn: hidden x 3 H d
        +-----+-----+-----+-----+                     +---+---+---+---+---+---+---+---+---+
        | q 0 | q 1 | q 2 | q 3 |   (turned by        |q 0|q 1|...|k 0|k 1|...|v 0|v 1|...|
        +-----+-----+-----+-----+    90 degrees:      +---+---+---+---+---+---+---+---+---+
        | k 0 | k 1 |                one long         c_proj: H d x hidden
        +-----+-----+                column of        +-----------+
        | v 0 | v 1 |                rows)            | o 0       |   heads of O are ROWS here
        +-----+-----+                                 | o 1 ...   |
                                                      +-----------+

    interleaved by head (GPT-NeoX; G = H): rows of query_key_value

        | q 0 | k 0 | v 0 | q 1 | k 1 | v 1 | q 2 | k 2 | v 2 | ...

    grouped (Falcon's new decoder): the queries of a kv group, then its key and value

        | q 0 | q 1 | k 0 | v 0 | q 2 | q 3 | k 1 | v 1 |

    blocked (CodeGen): queries, values and keys of a quarter of the heads at a time

    gated, counted as split (Qwen3-Next): behind the rows of each query, as many rows of a gate, which belong to no block

    multi-latent (DeepSeek-V3, MiniCPM3; G = H): Q reads a latent or the hidden state, K and V read another latent

        q_b_proj or q_proj            kv_b_proj              o_proj: columns, as in split
        +-----------------+           +--------+             +--+--+--+--+
        | q 0 without     | nope      | k 0    | nope        |  |  |  |  |
        |     with rotary | rope      | v 0    | d_v  hidden |o |o |o |o |
        | q 1 without     |           | k 1    |             |0 |1 |2 |3 |
        |     with rotary |           | v 1    |             |  |  |  |  |
        | ...             |           | ...    |             +--+--+--+--+
        +-----------------+           +--------+                 H d_v
           query latent                kv latent

        The rope rows of a query meet rope rows of kv_a_proj_with_mqa, one key for all heads: so K is narrower than Q. What
        makes the latents (q_a_proj, kv_a_proj_with_mqa, their norms) serves all heads at once and belongs to no block.

K and V exist once per kv head. What a query head shows for them is the slice of ``kv_head_of(head)``. The bias of Q, K
and V is cut as their output features are; the bias of O is added after the heads are summed and belongs to none.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import LayoutError, SliceIndexError

BLOCKS = ("Q", "K", "V", "O")
PACKINGS = ("split", "concatenated", "interleaved", "grouped", "blocked", "multi-latent")

Interval = tuple[int, int]


@dataclass(frozen=True)
class BlockHeadSlice:
    """Name the part of the model's parameters that one head of one block owns.

    Attributes:
        param_name: Name of the weight, as in ``model.named_parameters()``.
        row_slice: ``(start, stop)`` on axis 0 of the stored weight, or None for all rows.
        col_slice: ``(start, stop)`` on axis 1 of the stored weight, or None for all columns.
        bias_name: Name of the bias that belongs to the slice, or None.
        bias_slice: ``(start, stop)`` in that bias, or None.
    """

    param_name: str
    row_slice: Interval | None
    col_slice: Interval | None
    bias_name: str | None = None
    bias_slice: Interval | None = None

    @property
    def index(self) -> tuple[slice, slice]:
        """What to write between the brackets of the stored weight, ``weight[s.index]``."""
        return slice(*(self.row_slice or (None,))), slice(*(self.col_slice or (None,)))

    @property
    def bias_index(self) -> slice | None:
        """What to write between the brackets of the bias, or None where the slice has no bias."""
        return None if self.bias_slice is None else slice(*self.bias_slice)

    def __str__(self) -> str:
        rows, cols = ("{}:{}".format(*part) if part else ":" for part in (self.row_slice, self.col_slice))
        return f"{self.param_name}[{rows}, {cols}]"


@dataclass(frozen=True)
class Projection:
    """Place the heads of one block in the weight that holds them.

    Attributes:
        block: One of ``BLOCKS``.
        module_name: The linear module that holds the weight; fused blocks share it.
        param_name: Its weight.
        bias_name: Its bias, or None: where there is none, and always for O, whose bias belongs to no head.
        weight_shape: Shape of the weight as stored.
        head_axis: Axis of the stored weight along which heads lie.
        side: "output" (Q, K, V) or "input" (O): which features of the module the heads cut.
        starts: First index on ``head_axis`` of each unit: query heads for Q and O, kv heads for K and V.
        width: Indices per unit: head_dim for Q, k_head_dim for K, v_head_dim for V and O.
    """

    block: str
    module_name: str
    param_name: str
    bias_name: str | None
    weight_shape: tuple[int, int]
    head_axis: int
    side: str
    starts: tuple[int, ...]
    width: int

    def __post_init__(self) -> None:
        if self.block not in BLOCKS or self.head_axis not in (0, 1) or self.side not in ("output", "input"):
            raise LayoutError(
                f"{self.param_name!r}: expected a block of {BLOCKS}, head_axis 0 or 1 and side 'output' or 'input'; "
                f"found {self.block!r}, {self.head_axis!r}, {self.side!r}."
            )
        size = self.weight_shape[self.head_axis]
        if self.width < 1 or not self.starts or min(self.starts) < 0 or max(self.starts) + self.width > size:
            raise LayoutError(
                f"{self.param_name!r} has {size} indices on axis {self.head_axis}; the {len(self.starts)} slices of "
                f"block {self.block} with width {self.width} and starts {_shown(self.starts)} do not lie inside."
            )

    @property
    def num_units(self) -> int:
        """How many separate slices there are: query heads for Q and O, kv heads for K and V."""
        return len(self.starts)

    def interval(self, unit: int) -> Interval:
        """Return ``(start, stop)`` of a ``unit`` on the head axis."""
        kind = "kv head" if self.block in "KV" else "head"
        unit = checked_index(unit, self.num_units, f"{kind} of block {self.block} in {self.module_name!r}")
        start = self.starts[unit]
        return start, start + self.width

    def slice_of(self, unit: int) -> BlockHeadSlice:
        """Return the slice of a ``unit``: a query head for Q and O, a kv head for K and V."""
        interval = self.interval(unit)
        rows, cols = (interval, None) if self.head_axis == 0 else (None, interval)
        return BlockHeadSlice(self.param_name, rows, cols, self.bias_name, interval if self.bias_name else None)


@dataclass(frozen=True)
class AttentionLayout:
    """Place every head of one attention module.

    Attributes:
        layer: Index of the layer in the model's own list of layers.
        module_name: The attention module, as in ``model.named_modules()``.
        packing: One of ``PACKINGS``.
        num_heads: Query heads.
        num_kv_heads: Key and value heads, a divisor of ``num_heads``.
        head_dim: Width of a query head, and of a key head unless ``k_head_dim`` says otherwise.
        v_head_dim: Width of a value head.
        hidden_size: Input width of the query projection; with multi-latent attention, of what makes its latents.
        projections: The four blocks in the order of ``BLOCKS``.
        k_head_dim: Width of what a key head has of its own, at most ``head_dim`` and by default that: with multi-latent
            attention the rest of a key is shared by all heads.
    """

    layer: int
    module_name: str
    packing: str
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    hidden_size: int
    projections: tuple[Projection, Projection, Projection, Projection]
    k_head_dim: int = 0

    def __post_init__(self) -> None:
        if not self.k_head_dim:
            object.__setattr__(self, "k_head_dim", self.head_dim)
        if not 0 < self.k_head_dim <= self.head_dim:
            raise LayoutError(
                f"{self.module_name!r}: a key head is {self.k_head_dim} wide; expected 1 to head_dim = {self.head_dim}, "
                "what a query head can meet."
            )
        _check_groups(self.num_heads, self.num_kv_heads, f"{self.module_name!r}")
        found = tuple(projection.block for projection in self.projections)
        if found != BLOCKS or self.packing not in PACKINGS:
            raise LayoutError(
                f"{self.module_name!r}: expected projections {BLOCKS} and a packing of {PACKINGS}; "
                f"found {found} and {self.packing!r}."
            )
        for projection in self.projections:
            kv = projection.block in "KV"
            widths = {"Q": self.head_dim, "K": self.k_head_dim, "V": self.v_head_dim, "O": self.v_head_dim}
            expected = (self.num_kv_heads if kv else self.num_heads, widths[projection.block])
            if (projection.num_units, projection.width) != expected:
                raise LayoutError(
                    f"{self.module_name!r}: block {projection.block} has {projection.num_units} slices of width "
                    f"{projection.width}; expected {expected[0]} {'kv ' if kv else ''}heads of width {expected[1]}."
                )
        _check_disjoint(self)

    def projection(self, block: str) -> Projection:
        """Return the projection of a block.

        Args:
            block: "Q", "K", "V" or "O".

        Returns:
            Where its heads lie.

        Raises:
            SliceIndexError: If there is no such block.
        """
        if block not in BLOCKS:
            raise SliceIndexError(f"Block {block!r} does not exist; valid blocks are {', '.join(BLOCKS)}.")
        return self.projections[BLOCKS.index(block)]

    def kv_head(self, head: int) -> int:
        """Return the kv head that a query ``head`` reads."""
        return kv_head_of(head, self.num_heads, self.num_kv_heads)

    def num_units(self, block: str) -> int:
        """Return the number of separate slices of a ``block``."""
        return self.projection(block).num_units

    def unit(self, block: str, head: int) -> int:
        """Return which slice of a ``block`` a query ``head`` shows: the head itself for Q and O, its kv head for K and
        V.
        """
        kv = self.projection(block).block in "KV"
        checked_index(head, self.num_heads, f"head in layer {self.layer} ({self.module_name})")
        return self.kv_head(head) if kv else operator.index(head)


def kv_head_of(head: int, num_heads: int, num_kv_heads: int) -> int:
    r"""Return the kv head that a query head reads: neighbours share one.

    .. math:: h_{kv} = \lfloor h / (H / H_{kv}) \rfloor

    Args:
        head: A query head.
        num_heads: Number of query heads.
        num_kv_heads: Number of kv heads, a divisor of it.

    Returns:
        The kv head.

    Example:
        >>> [kv_head_of(head, 8, 2) for head in range(8)]
        [0, 0, 0, 0, 1, 1, 1, 1]
    """
    _check_groups(num_heads, num_kv_heads, "this attention")
    return checked_index(head, num_heads, "head") // (num_heads // num_kv_heads)


def checked_index(value: Any, size: int, what: str) -> int:
    """Return an index in ``0 .. size - 1`` as a plain int; negative indices are refused, not wrapped around.

    Args:
        value: What was given.
        size: How many there are.
        what: What is counted, for the message.

    Returns:
        The index.

    Raises:
        SliceIndexError: If it is not an integer, or outside, naming the valid range.
    """
    try:
        index = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        index = -1
    if not 0 <= index < size:
        raise SliceIndexError(f"No {what} with index {value!r}; valid are the integers 0 to {size - 1}.")
    return index


def _check_groups(num_heads: int, num_kv_heads: int, where: str) -> None:
    if num_heads < 1 or num_kv_heads < 1 or num_heads % num_kv_heads:
        raise LayoutError(
            f"{where} has {num_heads} query heads and {num_kv_heads} kv heads; expected a number of query heads that "
            "is a positive multiple of the number of kv heads, so that each kv head serves equally many."
        )


def _check_disjoint(layout: AttentionLayout) -> None:
    by_param: dict[str, list[Projection]] = {}
    for projection in layout.projections:
        by_param.setdefault(projection.param_name, []).append(projection)
    for param_name, sharing in by_param.items():
        if len({(projection.head_axis, projection.weight_shape) for projection in sharing}) > 1:
            raise LayoutError(
                f"{param_name!r}: its blocks disagree on the shape of the weight or on the axis of the heads."
            )
        intervals = sorted(
            (projection.interval(unit), projection.block)
            for projection in sharing
            for unit in range(projection.num_units)
        )
        for (first, block_a), (second, block_b) in itertools.pairwise(intervals):
            if first[1] > second[0]:
                raise LayoutError(
                    f"{param_name!r}: slices {first} of block {block_a} and {second} of {block_b} overlap."
                )


def _shown(values: Sequence[int]) -> str:
    return str(list(values)) if len(values) <= 6 else f"[{values[0]}, {values[1]}, ..., {values[-1]}]"
