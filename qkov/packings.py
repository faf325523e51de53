r"""Work out the sizes and slices of one attention module from the shapes of its weights, one function per packing.

Every function answers with an :class:`~qkov.geometry.AttentionLayout` or raises. Weight shapes come first; what the
module and its configuration state about heads is needed to cut them, and all statements must agree with the shapes. The
packings are drawn in :mod:`qkov.geometry`; symbols: :math:`H` query heads, :math:`H_{kv}` key and value heads,
:math:`d_k` width of a query or key head, :math:`d_v` of a value head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .errors import LayoutError
from .geometry import BLOCKS, AttentionLayout
from .linear import Linear, described

# Names under which modules and configurations state each size.
_STATED = {
    "num_heads": ("num_heads", "num_attention_heads"),
    "num_kv_heads": ("num_kv_heads", "num_key_value_heads"),
    "head_dim": ("head_dim", "head_size", "attention_head_size"),
    "v_head_dim": ("v_head_dim",),
    "heads_per_kv_head": ("num_key_value_groups",),
}


def split_layout(
    module: nn.Module,
    name: str,
    config: Any,
    *,
    query: str = "q_proj",
    key: str = "k_proj",
    value: str = "v_proj",
    output: str = "o_proj",
    stated_by: str = "",
    gate_rows: bool = False,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
) -> AttentionLayout:
    r"""Locate the heads where Q, K, V and O each have a projection of their own.

    .. math:: out_Q = H d_k, \quad out_K = H_{kv} d_k, \quad out_V = H_{kv} d_v, \quad in_O = H d_v

    Args:
        module: The attention module.
        name: Its name in the model.
        config: Configuration that applies to it, or None.
        query, key, value, output: Paths of the four projections below the module.
        stated_by: Path of the submodule whose attributes state the head counts, if not the module itself.
        gate_rows: Whether the query projection gives each head :math:`d_k` rows of query, then as many of a gate on its
            output (Qwen3-Next): :math:`out_Q = 2 H d_k`. Rows of a gate belong to no block.
        num_heads, num_kv_heads: Head counts; by default those that the module and its configuration state.

    Returns:
        The layout; :func:`register_layout` puts the number of the layer in.

    Raises:
        LayoutError: If the sizes are unknown or contradict each other.
    """
    q, k, v, o = parts = [Linear.at(module, name, path) for path in (query, key, value, output)]
    if k.inputs != v.inputs:
        raise LayoutError(
            f"{described(name, module)}: Q, K and V read inputs of {q.inputs}, {k.inputs} and {v.inputs} features; "
            "expected the same for K and V. Q alone may read another input: that is cross-attention."
        )
    stated = _Stated(module.get_submodule(stated_by), name, config, num_heads=num_heads, num_kv_heads=num_kv_heads)
    heads, head_dim = stated.get("num_heads"), stated.get("head_dim")
    rows = 2 if gate_rows else 1
    if head_dim is None:
        if heads is None:
            raise stated.missing("neither the number of heads nor head_dim")
        head_dim = stated.divide(q.outputs, rows * heads, q, "2 * num_heads" if gate_rows else "num_heads")
    heads = stated.divide(q.outputs, rows * head_dim, q, "2 * head_dim" if gate_rows else "head_dim")
    kv_heads = stated.divide(k.outputs, head_dim, k, "head_dim")
    v_head_dim = stated.divide(v.outputs, kv_heads, v, "num_kv_heads")
    sizes = stated.agreed(heads, kv_heads, head_dim, v_head_dim, o)
    starts = [_run(0, *unit) for unit in sizes.units]
    starts[0] = _run(0, heads, rows * head_dim)
    return sizes.assemble(name, "split", parts, starts)


def concatenated_layout(
    module: nn.Module,
    name: str,
    config: Any,
    *,
    fused: str = "qkv_proj",
    output: str = "o_proj",
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
) -> AttentionLayout:
    r"""Locate the heads where one projection holds all queries, then all keys, then all values.

    .. math:: out = H d_k + H_{kv} (d_k + d_v), \quad in_O = H d_v

    Args:
        module: The attention module.
        name: Its name in the model.
        config: Configuration that applies to it, or None.
        fused: Path of the joint projection below the module.
        output: Path of the output projection below the module.
        num_heads, num_kv_heads: Head counts; by default those that the module and its configuration state.

    Returns:
        The layout; :func:`register_layout` puts the number of the layer in.

    Raises:
        LayoutError: If the sizes are unknown or contradict each other.
    """
    qkv, o = Linear.at(module, name, fused), Linear.at(module, name, output)
    stated = _Stated(module, name, config, num_heads=num_heads, num_kv_heads=num_kv_heads)
    heads, head_dim, kv_heads = (stated.get(size) for size in ("num_heads", "head_dim", "num_kv_heads"))
    if heads is None:
        raise stated.missing("no number of heads")
    v_head_dim = stated.divide(o.inputs, heads, o, "num_heads")
    if head_dim is None:
        if kv_heads is None:
            raise stated.missing("neither head_dim nor the number of kv heads")
        head_dim = stated.divide(
            qkv.outputs - kv_heads * v_head_dim, heads + kv_heads, qkv, "num_heads + num_kv_heads, the values set aside"
        )
    kv_heads = stated.divide(
        qkv.outputs - heads * head_dim, head_dim + v_head_dim, qkv, "head_dim + v_head_dim, the queries set aside"
    )
    sizes = stated.agreed(heads, kv_heads, head_dim, v_head_dim, o)
    keys = heads * head_dim
    values = keys + kv_heads * head_dim
    starts = [_run(first, *unit) for first, unit in zip((0, keys, values, 0), sizes.units, strict=True)]
    return sizes.assemble(name, "concatenated", [qkv, qkv, qkv, o], starts)


def query_apart_layout(
    module: nn.Module,
    name: str,
    config: Any,
    *,
    query: str = "to_q",
    fused: str = "to_kv",
    output: str = "to_out",
    order: str = "concatenated",
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
) -> AttentionLayout:
    r"""Locate the heads where Q has a projection of its own and another holds keys and values.

    .. math:: out_Q = H d_k, \quad out_{KV} = H_{kv} (d_k + d_v), \quad in_O = H d_v

    The two may read different inputs: GPT-2's cross-attention. In the ``order`` "concatenated" the joint projection
    ``fused`` holds all keys, then all values; in "interleaved" the key and value of kv head 0, then of kv head 1 (LeViT
    where it shrinks the picture). The layout bears that name as its packing. Arguments and errors as for
    :func:`split_layout`.
    """
    if order not in ("concatenated", "interleaved"):
        raise LayoutError(f'order is {order!r}; expected "concatenated" or "interleaved".')
    q, kv, o = (Linear.at(module, name, path) for path in (query, fused, output))
    stated = _Stated(module, name, config, num_heads=num_heads, num_kv_heads=num_kv_heads)
    heads = stated.get("num_heads")
    if heads is None:
        raise stated.missing("no number of heads")
    head_dim, v_head_dim = (
        stated.divide(q.outputs, heads, q, "num_heads"),
        stated.divide(o.inputs, heads, o, "num_heads"),
    )
    kv_heads = stated.divide(kv.outputs, head_dim + v_head_dim, kv, "head_dim + v_head_dim")
    sizes = stated.agreed(heads, kv_heads, head_dim, v_head_dim, o)
    starts = [_run(first, *unit) for first, unit in zip((0, 0, kv_heads * head_dim, 0), sizes.units, strict=True)]
    if order == "interleaved":
        starts[1:3] = (_run(first, kv_heads, head_dim + v_head_dim) for first in (0, head_dim))
    return sizes.assemble(name, order, [q, kv, kv, o], starts)


def interleaved_layout(
    module: nn.Module,
    name: str,
    config: Any,
    *,
    fused: str = "query_key_value",
    output: str = "dense",
    num_heads: int | None = None,
) -> AttentionLayout:
    r"""Locate the heads where one projection holds query, key and value of head 0, then of head 1, and so on.

    .. math:: out = H (2 d_k + d_v), \quad in_O = H d_v, \quad H_{kv} = H

    Args:
        module: The attention module.
        name: Its name in the model.
        config: Configuration that applies to it, or None.
        fused: Path of the joint projection below the module.
        output: Path of the output projection below the module.
        num_heads: Head count; by default the one that the module and its configuration state.

    Returns:
        The layout; :func:`register_layout` puts the number of the layer in.

    Raises:
        LayoutError: If the sizes are unknown or contradict each other.
    """
    stated = _Stated(module, name, config, num_heads=num_heads, num_kv_heads=num_heads)
    heads = stated.get("num_heads")
    return _kv_head_by_kv_head(module, name, stated, fused, output, heads, heads)


def grouped_layout(
    module: nn.Module,
    name: str,
    config: Any,
    *,
    fused: str = "query_key_value",
    output: str = "dense",
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
) -> AttentionLayout:
    r"""Locate the heads where one projection holds the queries that share kv head 0, its key, its value, then kv head 1.

    .. math:: out = H_{kv} (H / H_{kv} \cdot d_k + d_k + d_v), \quad in_O = H d_v

    Falcon's new decoder architecture. With as many kv heads as heads it is :func:`interleaved_layout`, and is called so.
    Arguments and errors as there.
    """
    stated = _Stated(module, name, config, num_heads=num_heads, num_kv_heads=num_kv_heads)
    return _kv_head_by_kv_head(module, name, stated, fused, output, stated.get("num_heads"), stated.get("num_kv_heads"))


def blocked_layout(
    module: nn.Module,
    name: str,
    config: Any,
    *,
    blocks: int,
    fused: str = "qkv_proj",
    output: str = "out_proj",
    num_heads: int | None = None,
) -> AttentionLayout:
    r"""Locate the heads where one projection is cut into equal blocks of queries, then VALUES, then keys.

    .. math:: out = 3 H d, \quad in_O = H d, \quad H_{kv} = H, \quad d_k = d_v = d

    Block ``b`` holds ``H / blocks`` heads, from head ``b * H / blocks`` on: CodeGen, which was trained on four devices.
    Arguments and errors as for :func:`split_layout`.
    """
    qkv, o = Linear.at(module, name, fused), Linear.at(module, name, output)
    stated = _Stated(module, name, config, num_heads=num_heads, num_kv_heads=num_heads)
    heads = stated.get("num_heads")
    if heads is None:
        raise stated.missing("no number of heads")
    per_block = stated.divide(heads, blocks, qkv, "blocks of heads")
    width = stated.divide(qkv.outputs, 3 * heads, qkv, "3 * num_heads")
    sizes = stated.agreed(heads, heads, width, width, o)
    part = per_block * width
    starts = [
        [3 * part * (head // per_block) + place * part + width * (head % per_block) for head in range(heads)]
        for place in (0, 2, 1)
    ]
    return sizes.assemble(name, "blocked", [qkv, qkv, qkv, o], [*starts, _run(0, heads, width)])


def _kv_head_by_kv_head(
    module: nn.Module, name: str, stated: _Stated, fused: str, output: str, heads: int | None, kv_heads: int | None
) -> AttentionLayout:
    qkv, o = Linear.at(module, name, fused), Linear.at(module, name, output)
    if heads is None or kv_heads is None:
        raise stated.missing("no number of heads" if heads is None else "no number of kv heads")
    group = stated.divide(heads, kv_heads, qkv, "num_kv_heads")
    v_head_dim = stated.divide(o.inputs, heads, o, "num_heads")
    what = "2 * num_heads, the values set aside" if heads == kv_heads else "num_heads + num_kv_heads, the values aside"
    head_dim = stated.divide(qkv.outputs - kv_heads * v_head_dim, heads + kv_heads, qkv, what)
    sizes = stated.agreed(heads, kv_heads, head_dim, v_head_dim, o)
    keys = group * head_dim
    period = keys + head_dim + v_head_dim
    starts = (
        [period * (head // group) + head_dim * (head % group) for head in range(heads)],
        _run(keys, kv_heads, period),
        _run(keys + head_dim, kv_heads, period),
        _run(0, heads, v_head_dim),
    )
    packing = "interleaved" if heads == kv_heads else "grouped"
    return sizes.assemble(name, packing, [qkv, qkv, qkv, o], starts)


@dataclass(frozen=True)
class _Sizes:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int

    @property
    def units(self) -> tuple[tuple[int, int], ...]:
        """Number and width of the slices of Q, K, V and O."""
        return (
            (self.num_heads, self.head_dim),
            (self.num_kv_heads, self.head_dim),
            (self.num_kv_heads, self.v_head_dim),
            (self.num_heads, self.v_head_dim),
        )

    def assemble(
        self, name: str, packing: str, parts: Sequence[Linear], starts: Sequence[Iterable[int]]
    ) -> AttentionLayout:
        q, k, v, o = (
            part.projection(block, tuple(begin), width)
            for block, part, begin, (_, width) in zip(BLOCKS, parts, starts, self.units, strict=True)
        )
        # The caller knows the layer; see locate.find_attention.
        return AttentionLayout(
            0,
            name,
            packing,
            self.num_heads,
            self.num_kv_heads,
            self.head_dim,
            self.v_head_dim,
            parts[0].inputs,
            (q, k, v, o),
        )


class _Stated:
    """What a module and its configuration state about their sizes, who states it, and the errors when that fails."""

    def __init__(self, module: nn.Module, name: str, config: Any, **explicit: int | None) -> None:
        self._where = described(name, module)
        self._advice = (
            f"If {type(module).__name__} packs its heads in another way, or the count of its heads is stated "
            "elsewhere, give them with qkov.locate.register_layout."
        )
        self._values: dict[str, list[tuple[str, int]]] = {}
        for size, attributes in _STATED.items():
            given = explicit.get(size)
            if given is not None:
                self._values[size] = [(f"the registered {size}", given)]
                continue
            sources = (("module", module), ("config", config))
            self._values[size] = [
                (f"{label}.{attribute}", getattr(source, attribute))
                for label, source in sources
                for attribute in attributes
                if _is_size(getattr(source, attribute, None))
            ]
        if explicit.get("num_heads") is not None or explicit.get("num_kv_heads") is not None:
            self._values["heads_per_kv_head"] = []
        for size, stated in self._values.items():
            if len({value for _, value in stated}) > 1:
                found = ", ".join(f"{source} = {value}" for source, value in stated)
                raise LayoutError(f"{self._where}: contradicting statements of {size}: {found}. {self._advice}")

    def get(self, size: str) -> int | None:
        """Return a size as stated, or None where nobody states it."""
        stated = self._values[size]
        return stated[0][1] if stated else None

    def missing(self, what: str) -> LayoutError:
        return LayoutError(
            f"{self._where}: {what} is stated by the module or its configuration, and weight shapes alone do not tell. "
            f"{self._advice}"
        )

    def divide(self, features: int, parts: int, linear: Linear, what: str) -> int:
        """Cut features into equal parts, or say which projection does not allow it."""
        if features < parts or features % parts:
            raise LayoutError(
                f"{linear.name!r} in {self._where} has {linear.outputs} output and {linear.inputs} input features; "
                f"{features} of them cannot be cut into equal heads: expected a positive multiple of {parts} ({what}). "
                f"{self._advice}"
            )
        return features // parts

    def agreed(self, num_heads: int, num_kv_heads: int, head_dim: int, v_head_dim: int, output: Linear) -> _Sizes:
        """Compare sizes derived from the weights with every statement, and with the output projection."""
        derived = {
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
            "v_head_dim": v_head_dim,
            "heads_per_kv_head": num_heads / num_kv_heads,
        }
        for size, stated in self._values.items():
            for source, value in stated:
                if value != derived[size]:
                    raise LayoutError(
                        f"{self._where}: the shapes of the weights give {size} = {derived[size]:g}; expected {value} "
                        f"({source}). {self._advice}"
                    )
        if output.inputs != num_heads * v_head_dim:
            raise LayoutError(
                f"{output.name!r} in {self._where} has {output.inputs} input features; expected num_heads * v_head_dim "
                f"= {num_heads} * {v_head_dim} = {num_heads * v_head_dim}. {self._advice}"
            )
        return _Sizes(num_heads, num_kv_heads, head_dim, v_head_dim)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _run(first: int, count: int, step: int) -> range:
    return range(first, first + count * step, step)
