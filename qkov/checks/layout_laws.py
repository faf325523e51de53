"""Laws of the layout: experiments on the model itself that only a right map of its heads survives.

The maps are tried without being trusted: that head h arrives at input columns ``[h d_v, (h+1) d_v)`` of the output
projection is the one fact used (it held in every family measured), and everything else shows in exact zeros of gradients
or in the model computing the same function after a change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import gradients, layout
from .case import some, take
from .edits import group_of, has_head_norms, masked_heads, parts, permute, restored, rotate, scale
from .measurement import Comparison, NotRun
from .registry import check

if TYPE_CHECKING:
    from torch import nn

    from ..geometry import AttentionLayout, Projection
    from .case import Case
    from .measurement import Measurement


@check
def check_slices_tile(case: Case) -> Measurement | NotRun:
    """The slices of all heads cover every entry of the four projections exactly once."""
    if outside := case.gated():
        return outside
    comparison = Comparison()
    shapes = dict(case.model.named_parameters())
    indexer = layout.QKOVIndexer(case.config)
    for one in case.config.layers:
        claims: dict[Any, Any] = {}
        for projection in one.projections:
            for head in {one.unit(projection.block, head): head for head in range(one.num_heads)}.values():
                where = indexer.get_slice(layer=one.layer, head=head, block=projection.block)
                claim = claims.setdefault(where.param_name, np.zeros(shapes[where.param_name].shape))
                claim[where.index] += 1
                if where.bias_name:
                    claims.setdefault(where.bias_name, np.zeros(shapes[where.bias_name].shape))[where.bias_index] += 1
        for claim in claims.values():
            comparison.near(claim, np.ones_like(claim))
    return comparison.measurement(case.bound("same"))


@check
def check_output_columns(case: Case) -> Measurement | NotRun:
    """Only the O slice of a head has a gradient when only that head reaches the output projection."""
    return _head_alone(case, ("O",))


@check
def check_head_rows(case: Case) -> Measurement | NotRun:
    """Only a head's Q slice and its kv head's K and V slices have a gradient when only that head reaches the output."""
    if outside := case.coupled() or case.gated():
        return outside
    return _head_alone(case, ("Q", "K", "V"))


def _head_alone(case: Case, blocks: Sequence[str]) -> Measurement | NotRun:
    comparison = Comparison()
    for one in case.layouts():
        for head in some(one.num_heads):
            others = [other for other in range(one.num_heads) if other != head]
            with masked_heads(case.model, one, others):
                grads = _attention_gradients(case, one)
            inside: dict[Any, Any] = {}
            for block in blocks:
                where = one.projection(block).slice_of(one.unit(block, head))
                inside.setdefault(where.param_name, []).append(where.index)
            for name, indices in inside.items():
                rest = grads[name].clone()
                for index in indices:
                    comparison.true(bool((rest[index] != 0).any()))
                for index in indices:
                    rest[index] = 0
                comparison.zero(rest, grads[name].abs().max())
    # Rounding noise can stand where exact zeros do not (norms of queries and keys over one head have none).
    return comparison.measurement(case.bound("ablated"))


def _attention_gradients(case: Case, one: AttentionLayout) -> dict[str, torch.Tensor]:
    """Weight gradients of a fixed functional of one layer's attention output, by plain autograd on those weights."""
    modules = dict(case.model.named_modules())
    parameters = dict(case.model.named_parameters())
    names = list(dict.fromkeys(projection.param_name for projection in one.projections))
    outputs = []
    handle = modules[one.projection("O").module_name].register_forward_hook(lambda _m, _a, out: outputs.append(out))
    try:
        with torch.inference_mode(False), torch.enable_grad(), gradients.evaluation(case.model):
            for name in names:
                parameters[name].requires_grad_(True)
            (case.loss_fn or _forward)(case.model, case.on_device(case.batch_a))
            signs = torch.sin(torch.arange(outputs[0].numel(), dtype=outputs[0].dtype, device=outputs[0].device) * 0.7)
            found = torch.autograd.grad((outputs[0].reshape(-1) * signs).sum(), [parameters[name] for name in names])
    finally:
        handle.remove()
    return dict(zip(names, found, strict=True))


def _forward(model: nn.Module, batch: Mapping[str, Any]) -> Any:
    return model(**{name: value for name, value in batch.items() if name != "labels"})


@check
def check_query_position(case: Case) -> Measurement | NotRun:
    """Changing a head's query at one position changes what it attends to there and nowhere else; a key or value does.

    Zeros alone cannot tell Q from K: without the one, the other has no gradient either.
    """
    comparison = Comparison()
    mask, row = case.batch_a.get("attention_mask"), 0
    if mask is not None and mask.ndim == 2:
        row = int((mask != 0).sum(1).argmax())
    # Alone, so that positions are the flattened leading axes, whichever of them is that of the samples.
    alone = take(case.batch_a, [row])
    for one in case.layouts():
        intact = _head_outputs(case, one, batch=alone)
        intact = intact.flatten(0, -2)
        places = torch.arange(len(intact))
        if mask is not None and mask.ndim == 2 and mask.shape[1] == len(intact):
            places = torch.where(mask[row] != 0)[0]
        if len(places) < 3:
            return NotRun("no sample has three tokens, so no position has one before and one after it")
        middle = int(places[len(places) // 2])
        elsewhere = [int(place) for place in places if place != middle]
        for head in some(one.num_heads, 2):
            columns = slice(head * one.v_head_dim, (head + 1) * one.v_head_dim)
            for block in "QKV":
                # With sparse attention no query may have chosen the position in the middle: then another is tried.
                for place in [middle] if block == "Q" else [middle, *elsewhere]:
                    moved = _head_outputs(case, one, (one.projection(block), one.unit(block, head), place), batch=alone)
                    change = (moved.flatten(0, -2) - intact)[:, columns]
                    others = [other for other in (middle, *elsewhere) if other != place]
                    heard = bool((change[others] != 0).any())
                    if heard:
                        break
                if block == "Q":
                    comparison.zero(change[elsewhere], float(intact.abs().max()))
                    comparison.true(bool((change[middle] != 0).any()))
                else:
                    comparison.true(heard)
    return comparison.measurement(case.bound("ablated"))


@check
def check_row_perturbation(case: Case) -> Measurement | NotRun:
    """Changing the weights of one Q, K or V slice moves what its own heads send into O, and no other head's."""
    if outside := case.coupled():
        return outside
    comparison = Comparison()
    for one in case.layouts():
        intact = _head_outputs(case, one)
        for block in "QKV":
            projection = one.projection(block)
            for unit in some(projection.num_units, 2):
                with restored(case.model) as parameters:
                    weight = parts(parameters, projection, unit, bias=False)[0]
                    steps = torch.linspace(1, 2, weight.numel(), dtype=weight.dtype, device=weight.device)
                    weight += weight.abs().mean() * steps.reshape(weight.shape)
                    change = _head_outputs(case, one) - intact
                for head in range(one.num_heads):
                    moved = change[..., head * one.v_head_dim : (head + 1) * one.v_head_dim]
                    if one.unit(block, head) == unit:
                        comparison.true(bool((moved != 0).any()))
                    else:
                        comparison.zero(moved, float(intact.abs().max()))
    return comparison.measurement(case.bound("ablated"))


def _head_outputs(
    case: Case,
    one: AttentionLayout,
    shifted: tuple[Projection, int, int] | None = None,
    batch: Mapping[str, Any] | None = None,
) -> torch.Tensor:
    """Return what the heads of a layer send into O, ``[..., H d_v]``.

    Args:
        shifted: ``(projection, unit, position)``: add something to that slice's output at that position, which counts
            the flattened leading axes, or at its last where it has fewer: cross-attention may read fewer keys than it
            answers queries.
        batch: Default: batch A.
    """
    modules = dict(case.model.named_modules())
    seen = []

    def shift(_module: nn.Module, _args: Sequence[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        projection, unit, position = shifted  # type: ignore[misc]  # given to this law
        output = output.clone(memory_format=torch.contiguous_format)
        amount = torch.linspace(1, 2, projection.width, dtype=output.dtype, device=output.device)
        flat = output.view(-1, output.shape[-1])
        flat[min(position, len(flat) - 1), slice(*projection.interval(unit))] += amount
        return output

    handles = [
        modules[one.projection("O").module_name].register_forward_pre_hook(
            lambda _module, args: seen.append(args[0].detach().clone())
        )
    ]
    if shifted is not None:
        handles.append(modules[shifted[0].module_name].register_forward_hook(shift))
    try:
        with torch.no_grad(), gradients.evaluation(case.model):
            (case.loss_fn or _forward)(case.model, case.on_device(case.batch_a if batch is None else batch))
    finally:
        for handle in handles:
            handle.remove()
    return seen[0]


@check
def check_ablation(case: Case) -> Measurement | NotRun:
    """Masking a head's way into O removes its Q and O, and K and V only with the whole kv group."""
    if outside := case.coupled():
        return outside
    comparison = Comparison()
    one = case.layouts()[-1]
    intact = case.collect().get_group_fisher("a", mode="welford")
    group = group_of(one, 0)
    for heads in ([group[0]], group):
        with masked_heads(case.model, one, heads):
            held = case.collect()
        found = held.get_group_fisher("a", mode="welford")
        scores = case.heatmap(held, layers=[one.layer])
        for block in "QO":
            scale_of = float(intact[one.layer, block].max())
            comparison.zero(found[one.layer, block][heads], scale_of)
            comparison.zero(scores.arrays[block][:, :, 0, heads], scores.arrays[block].max())
            alive = [head for head in range(one.num_heads) if head not in heads]
            comparison.true(bool((found[one.layer, block][alive] > 0).all()))
        for block in "KV":
            value = float(found[one.layer, block][0])
            if heads == group:
                comparison.zero(value, float(intact[one.layer, block].max()))
            else:
                comparison.true(value > 0)
    return comparison.measurement(case.bound("ablated"))


@check
def check_zeroed_weights(case: Case) -> Measurement | NotRun:
    """Zeroing one block of a kv group silences exactly those blocks that act through it; this tells Q, K, V, O apart."""
    if outside := case.coupled() or case.shifted() or case.adapters():
        return outside
    comparison = Comparison()
    one = case.layouts()[-1]
    intact = case.collect().get_group_fisher("a", mode="welford")
    heads = group_of(one, 0)
    silenced = {"O": "QKV", "V": "QKO", "Q": "K", "K": "Q"}
    if one.k_head_dim < one.head_dim:
        silenced["K"] = ""  # the rest of the query still meets the key that all heads share
    for block, dead in silenced.items():
        projection = one.projection(block)
        with restored(case.model) as parameters:
            for unit in sorted({one.unit(block, head) for head in heads}):
                scale(parameters, projection, unit, 0.0)
            found = case.collect().get_group_fisher("a", mode="welford")
        for other in "QKVO":
            units = sorted({one.unit(other, head) for head in heads})
            values = found[one.layer, other][units]
            if other in dead:
                comparison.zero(values, float(intact[one.layer, other].max()))
            else:
                comparison.true(bool((values > 0).all()), len(units))
    return comparison.measurement(case.bound("ablated"))


@check
def check_gauge(case: Case) -> Measurement | NotRun:
    """W_Q x 2 with W_K / 2 (V and O likewise) is the same function; each variant moves by its own power of 2, or not."""
    if outside := case.adapters():
        return outside
    comparison = Comparison()
    one = case.layouts()[-1]
    before = case.collect()
    behaviour = case.behaviour(case.batch_a)
    # A key that all heads share takes no part in the scaling of one head's own.
    held = has_head_norms(case.model, one) or one.k_head_dim < one.head_dim
    pairs = [("V", "O")] if held else [("Q", "K"), ("V", "O")]
    powers = {"unsigned": -1, "natural": 0, "signed": 0, "symmetric": 0, "dot": -2}
    scores: list[dict[str, Any]] = [
        {"layers": [one.layer], "variant": variant, "ridge_lambda_rel": 0.0} for variant in powers
    ]
    intact = [case.heatmap(before, **options) for options in scores]
    for first, second in pairs:
        up, down = (2.0, 0.5)
        with restored(case.model) as parameters:
            for block, factor in ((first, up), (second, down)):
                for unit in sorted({one.unit(block, head) for head in group_of(one, 0)}):
                    scale(parameters, one.projection(block), unit, factor)
            for found, expected in zip(case.behaviour(case.batch_a), behaviour, strict=True):
                comparison.near(found, expected)
            after = case.collect()
        for options, old in zip(scores, intact, strict=True):
            power, new = powers[options["variant"]], case.heatmap(after, **options)
            for block in "QKVO":
                touched = {one.unit(block, head) for head in group_of(one, 0)} if block in (first, second) else set()
                step = (up if block == first else down) ** power
                for unit in range(one.num_units(block)):
                    expected = old.arrays[block][:, :, 0, unit] * (step if unit in touched else 1.0)
                    comparison.near(new.arrays[block][:, :, 0, unit], expected)
    return comparison.measurement(case.bound("score"))


@check
def check_rotation(case: Case) -> Measurement | NotRun:
    """Rotating V with O is the same function and keeps the summed Fisher of a slice; diagonal scores do move."""
    if outside := case.adapters() or case.gated():  # a gate multiplies values feature by feature
        return outside
    comparison = Comparison()
    one = case.layouts()[-1]
    if one.v_head_dim < 2:
        return NotRun("value heads of width 1 cannot be rotated")
    before, behaviour = case.collect(), case.behaviour(case.batch_a)
    dtype = next(case.model.parameters()).dtype
    device = next(case.model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(one.v_head_dim, one.v_head_dim, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(mixed).Q.to(dtype=dtype, device=device)
    with restored(case.model) as parameters:
        for block in "VO":
            for unit in sorted({one.unit(block, head) for head in group_of(one, 0)}):
                rotate(parameters, one.projection(block), unit, rotation)
        for found, expected in zip(case.behaviour(case.batch_a), behaviour, strict=True):
            comparison.near(found, expected)
        after = case.collect()
    old, new = (held.get_group_fisher("a", mode="welford") for held in (before, after))
    for block in "QKVO":
        comparison.near(new[one.layer, block], old[one.layer, block])
    scores = [case.heatmap(held, layers=[one.layer]).arrays["V"][:, :, 0, 0] for held in (before, after)]
    moved = np.abs(scores[1] - scores[0]).max() > 1e-3 * scores[0].max()
    comparison.true(moved or not scores[0].any())
    return comparison.measurement(case.bound("function"))


@check
def check_relabelling(case: Case) -> Measurement | NotRun:
    """Permuting heads in all four blocks, whole kv groups and heads inside them, permutes scores and nothing else."""
    if outside := case.coupled() or case.gated() or case.adapters():
        return outside
    comparison = Comparison()
    one = case.layouts()[-1]
    if one.num_heads < 2:
        return NotRun("a single head cannot be permuted")
    before, behaviour = case.collect(), case.behaviour(case.batch_a)
    size = one.num_heads // one.num_kv_heads
    kv_order = [*range(1, one.num_kv_heads), 0]
    # Heads of one group only change places among themselves: what is the same in every group would hide h % H_kv.
    inner = {kv: list(range(size)) for kv in kv_order} | {kv_order[0]: list(range(size))[::-1]}
    order = [kv * size + inside for kv in kv_order for inside in inner[kv]]
    with restored(case.model) as parameters:
        for projection in one.projections:
            permute(parameters, projection, kv_order if projection.block in "KV" else order)
        for found, expected in zip(case.behaviour(case.batch_a), behaviour, strict=True):
            comparison.near(found, expected)
        after = case.collect()
    for variant in ("unsigned", "signed"):
        old = case.heatmap(before, layers=[one.layer], variant=variant)
        new = case.heatmap(after, layers=[one.layer], variant=variant)
        for block in "QKVO":
            moved = old.arrays[block][..., kv_order if block in "KV" else order]
            comparison.near(new.arrays[block], moved)
            view = old[block]["scores"][..., order]
            comparison.near(new[block]["scores"], view)
    return comparison.measurement(case.bound("score"))


@check
def check_gqa_twin(case: Case) -> Measurement | NotRun:
    """In the twin with one K and V per query head, K and V gradients of a group sum to the grouped gradient."""
    if case.twin is None:
        return NotRun("no expanded twin was given for this model")
    comparison = Comparison()
    twin = case.twin(case.model)
    held = case.collect()
    expanded = case.collect(model=twin)
    indexer, twin_indexer = layout.QKOVIndexer(held.config), layout.QKOVIndexer(expanded.config)
    for one in case.layouts():
        comparison.true(expanded.config.layer(one.layer).num_kv_heads == one.num_heads)
        for sample_id in held.sample_ids("a"):
            grads, twins = held.get_sample_gradients("a", sample_id), expanded.get_sample_gradients("a", sample_id)
            for block in "QKVO":
                sums: dict[Any, Any] = {}
                for head in range(one.num_heads):
                    place = indexer.get_slice(layer=one.layer, head=head, block=block)
                    part = twin_indexer.slice_tensor(twins[twin_indexer.get_slice(
                        layer=one.layer, head=head, block=block).param_name], one.layer, head, block)  # fmt: skip
                    sums[place] = sums.get(place, 0) + part
                for place, expected in sums.items():
                    comparison.near(grads[place.param_name][place.index], expected, grads[place.param_name].abs().max())
    normed = any(has_head_norms(case.model, one) for one in case.layouts())
    return comparison.measurement(case.bound("normed twin" if normed else "score"))
