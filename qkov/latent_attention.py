r"""Place the heads of multi-latent attention: those of its up-projections; the latents below them belong to no head.

For hidden state :math:`x` and head :math:`h`, with the compressed latents :math:`c_q, c_{kv}` that all heads share,

.. math:: q_h = W^Q_h c_q, \quad k_h = [\, W^K_h c_{kv} \,;\, R x \,], \quad v_h = W^V_h c_{kv},

where :math:`R x`, with rotary positions, is one key for all heads. :math:`W^Q` are the rows of ``q_b_proj`` (of ``q_proj``
with :math:`c_q = x` where the query has no latent), :math:`W^K` and :math:`W^V` those of ``kv_b_proj``. So the map is
partial: a score of K speaks of the part of a key that a head makes by itself. :mod:`qkov.geometry` draws it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .errors import LayoutError
from .geometry import AttentionLayout
from .linear import Linear, described

PACKING = "multi-latent"

K_NOTE = (
    "With multi-latent attention, K is the part of a key that a head makes from the shared latent, without the rotary part "
    "that all heads share; the projections into the latents belong to no head and are not scored."
)
"""What a score of K stands for, for results and tables."""

_LATENT_OF_QUERIES = "makes the latent that the queries of all heads are read from"
_LATENT_OF_KEYS = "makes the latent that the keys and values of all heads are read from"
_SHARED_KEY = "makes the rotary part of the key, one for all heads"
_SHARED = {
    "q_a_proj": _LATENT_OF_QUERIES,
    "q_a_layernorm": "normalises the latent that the queries of all heads are read from",
    "kv_a_layernorm": "normalises the latent that the keys and values of all heads are read from",
    "k_rope_only_layernorm": "normalises the rotary part of the key, one for all heads",
    "indexer": "chooses the positions that all heads attend to",
}

# Under which names modules and configurations state a size. A configuration's head_dim is the rotary part alone in some.
_STATED = {
    "num_heads": ("num_heads", "num_attention_heads"),
    "num_kv_heads": ("num_kv_heads", "num_key_value_heads"),
    "num_key_value_groups": ("num_key_value_groups",),
    "qk_head_dim": ("qk_head_dim",),
    "qk_nope_head_dim": ("qk_nope_head_dim",),
    "qk_rope_head_dim": ("qk_rope_head_dim",),
    "v_head_dim": ("v_head_dim",),
    "kv_lora_rank": ("kv_lora_rank",),
    "q_lora_rank": ("q_lora_rank",),
}


def latent_layout(
    module: nn.Module,
    name: str,
    config: Any,
    *,
    query: str | None = None,
    latent: str | None = "kv_a_proj_with_mqa",
    key_value: str = "kv_b_proj",
    output: str = "o_proj",
    gate_rows: bool = False,
    num_heads: int | None = None,
) -> AttentionLayout:
    r"""Locate the heads of multi-latent attention in its up-projections and its output projection.

    .. math:: out_Q = H (d_{nope} + d_{rope}), \quad out_{KV} = H (d_{nope} + d_v), \quad in_O = H d_v, \quad
              out_{latent} = in_{KV} + d_{rope}

    The four equations leave one number open, :math:`H`; that they hold with what is stated shows that the rows of K and V
    are as wide as they are read. Rows of ``kv_b_proj`` go head by head, key before value.

    Args:
        module: The attention module.
        name: Its name in the model.
        config: Configuration that applies to it, or None.
        query: Path of the query projection below the module; by default ``q_b_proj``, or ``q_proj`` where the query has no
            latent.
        latent, key_value, output: Paths of the projection into the latent (None where an earlier layer makes it), of that
            into keys and values, and of O.
        gate_rows: Whether the query projection holds :math:`d_v` rows of a gate behind each query (AXK2), which belong to
            no block.
        num_heads: Query heads; by default as the module and its configuration state.

    Raises:
        LayoutError: If the sizes are unknown or contradict each other.
    """
    where = described(name, module)
    low_rank = getattr(module, "q_a_proj", None) is not None
    paths = (query or ("q_b_proj" if low_rank else "q_proj"), key_value, output)
    q, kv, o = (Linear.at(module, name, path) for path in paths)
    stated = _statements(module, config, num_heads)
    if not stated["num_heads"]:
        raise LayoutError(
            f"{where}: no number of heads is stated by the module or its configuration, and weight shapes alone do not "
            "tell. Give it with qkov.locate.register_layout."
        )
    heads = stated["num_heads"][0][1]
    v_width = _divided(o.inputs, heads, o, where)
    k_width = _divided(kv.outputs, heads, kv, where) - v_width
    q_width = _divided(q.outputs, heads, q, where) - (v_width if gate_rows else 0)
    rope = q_width - k_width
    if k_width < 1 or rope < 0:
        raise LayoutError(
            f"{where}: with {heads} heads, {q.name!r} has {q_width} rows for each and {kv.name!r} {k_width} for keys beside "
            f"{v_width} for values; expected at least one, and at most as many as for queries."
        )
    above = Linear.at(module, name, "q_a_proj") if low_rank else q
    if low_rank and q.inputs % above.outputs:
        raise LayoutError(
            f"{where}: {above.name!r} makes {above.outputs} numbers and {q.name!r} reads {q.inputs}; expected the same, or "
            "several times as many."
        )
    if latent is not None:
        down = Linear.at(module, name, latent)
        if (down.inputs, down.outputs) != (above.inputs, kv.inputs + rope):
            raise LayoutError(
                f"{where}: {down.name!r} makes {down.outputs} numbers of {down.inputs}; expected {kv.inputs} that "
                f"{kv.name!r} reads and {rope} that queries meet beside a head's own key, of {above.inputs} that "
                f"{above.name!r} reads."
            )
    sizes = {
        "num_heads": heads,
        "num_kv_heads": heads,
        "num_key_value_groups": 1,
        "qk_head_dim": q_width,
        "qk_nope_head_dim": k_width,
        "qk_rope_head_dim": rope,
        "v_head_dim": v_width,
        "kv_lora_rank": kv.inputs,
        "q_lora_rank": above.outputs if low_rank else None,
    }
    for size, statements in stated.items():
        for source, value in statements:
            if value != sizes[size]:
                raise LayoutError(
                    f"{where}: the shapes of the weights give {size} = {sizes[size]}; expected {value} ({source}). If "
                    f"{type(module).__name__} packs its heads in another way, say how with qkov.locate.register_layout."
                )
    key_step, query_step = k_width + v_width, q_width + (v_width if gate_rows else 0)
    return AttentionLayout(
        0,  # the caller knows the layer; see locate.find_attention
        name,
        PACKING,
        heads,
        heads,
        q_width,
        v_width,
        above.inputs,
        (
            q.projection("Q", [query_step * head for head in range(heads)], q_width),
            kv.projection("K", [key_step * head for head in range(heads)], k_width),
            kv.projection("V", [key_step * head + k_width for head in range(heads)], v_width),
            o.projection("O", [v_width * head for head in range(heads)], v_width),
        ),
        k_head_dim=k_width,
    )


def shared_parts(layout: AttentionLayout, name: str, rows: int) -> list[tuple[tuple[int, int] | None, str]]:
    """Say what a parameter of a multi-latent module that belongs to no head does for all of them.

    Args:
        layout: The module. name: The parameter. rows: Its size on axis 0.

    Returns:
        Pairs of a part, ``(start, stop)`` on axis 0 or None for all of it, and words; none where nothing is known of it.
    """
    key, path = layout.projection("K"), name.removeprefix(f"{layout.module_name}.").split(".")
    latent = key.weight_shape[1 - key.head_axis]
    if path[0] == "kv_a_proj_with_mqa":
        shared = [((latent, rows), _SHARED_KEY)] if rows > latent else []
        return [((0, latent), _LATENT_OF_KEYS), *shared]
    return [(None, _SHARED[path[0]])] if path[0] in _SHARED else []


def _statements(module: nn.Module, config: Any, num_heads: int | None) -> dict[str, list[tuple[str, int]]]:
    """What the module and its configuration state of each size, with who states it."""
    found = {
        size: [
            (f"{label}.{attribute}", getattr(source, attribute))
            for label, source in (("module", module), ("config", config))
            for attribute in attributes
            if _is_size(getattr(source, attribute, None))
        ]
        for size, attributes in _STATED.items()
    }
    if num_heads is not None:
        found["num_heads"] = [("the registered num_heads", num_heads)]
        found["num_kv_heads"] = found["num_key_value_groups"] = []
    return found


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _divided(features: int, heads: int, linear: Linear, where: str) -> int:
    if heads < 1 or features % heads or not features:
        raise LayoutError(
            f"{linear.name!r} in {where} has {linear.outputs} output and {linear.inputs} input features; {features} of "
            f"them cannot be cut into equal heads: expected a positive multiple of {heads} (num_heads)."
        )
    return features // heads
