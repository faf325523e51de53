r"""Per-sample gradients of linear modules from one forward and backward of a whole batch.

For a linear layer the gradient of sample i is ``G_i = delta_i^T x_i``, a sum over its tokens of output gradient times
input. Hooks keep ``x`` and ``delta`` of the chosen modules only; no weight gradient is ever formed during collection, and
``T (d_in + d_out)`` numbers per sample replace ``d_in d_out``. A head's slice is then one small matrix product of
columns of one factor with the other. Samples do not share terms of the loss, so ``delta_i`` of the summed loss is that
of sample i's own loss. Which rows are sample i's is seen from the first axis, or found out: :mod:`qkov.sample_rows`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import module_capture, non_finite, returned_losses, sample_rows
from .errors import OptionError

if TYPE_CHECKING:
    from torch import nn
    from torch.autograd.graph import GradientEdge

    from .geometry import AttentionLayout, Projection
    from .layout import QKOVConfig
    from .linear_weights import LinearWeight
    from .option_types import LossFunction, SampleId
    from .sample_rows import FirstAxis
    from .samples import Sample


@dataclass(frozen=True)
class Factors:
    """One sample at one projection module: ``inputs [tokens, d_in]`` and ``deltas [tokens, d_out]``.

    Tokens whose output gradient is zero at every projection of the layer are left out; they add nothing. Where samples
    are not along the first axis, those are left out that are zero at every projection which reads them.

    ``bias [d_out]`` is given where the rows are no tokens but the whole gradient, ``deltas [d_in, d_out]``, beside an
    identity: then the bias's gradient is no longer the sum of deltas, and nothing that needs tokens can be computed.
    """

    inputs: torch.Tensor
    deltas: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def delta_sum(self) -> torch.Tensor:
        """The gradient of the module's bias, ``[d_out]``, float32 or wider."""
        return widened(self.deltas).sum(0) if self.bias is None else self.bias


def collect_factors(
    model: nn.Module,
    batch: Mapping[str, Any],
    config: QKOVConfig,
    loss_fn: LossFunction,
    sample_names: Sequence[SampleId],
    first_axis: FirstAxis | None = None,
    weights: Sequence[LinearWeight] | None = None,
) -> list[tuple[dict[str, Factors], int]]:
    """Run one forward and backward and return what per-sample gradients are made of.

    The model is in eval mode and all its parameters are frozen while this runs; training and requires_grad flags and
    accumulated gradients are as before afterwards. Works under ``no_grad`` and ``inference_mode``.

    Args:
        model: The model that ``config`` describes.
        batch: Mapping of tensors with leading axis N, on the model's device.
        config: Where the projections are.
        loss_fn: ``loss_fn(model, batch) -> losses [N]`` or ``(losses [N], tokens [N])``.
        sample_names: N names for error messages.
        first_axis: A ``sample_rows.FirstAxis`` that earlier passes with the same model and loss have filled; None
            finds out anew whether samples lie along the first axis, which takes one more backward pass.
        weights: :class:`qkov.linear_weights.LinearWeight` of what to collect; None means the attention projections.
            Of a layer's attention all projections are collected or none. What is collected of them does not depend on
            which other modules are, bit for bit.

    Returns:
        A list of N pairs ``(factors, tokens)``: ``{module_name: Factors}`` and the number of tokens in the loss.

    Raises:
        BatchError: If the losses are not one number per sample, do not depend on the model, or count no token; if the
            model mixes samples.
        NonFiniteError: If a loss or a gradient is NaN or infinite; names the sample.
        ModuleReuseError: If a projection runs twice, or never.
    """
    groups = module_capture.module_groups(config, weights)
    names = [name for group in groups for name in group]
    first_axis = sample_rows.FirstAxis() if first_axis is None else first_axis
    # Compiled parts run as they are: hooks inside a compiled graph would have it compiled anew for every pass.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.compiler.set_stance("force_eager"),
        evaluation(model),
        module_capture.captured_modules(model, names) as captured,
    ):
        losses, tokens = returned_losses.per_sample(loss_fn(model, batch), len(sample_names))
        counts = tokens.tolist()
        returned_losses.check_losses(losses, counts, sample_names)
        module_capture.check_ran_once(captured, names)
        parts = _by_axis(config, names, first_axis)
        suspects = [
            axis.suspect({name: captured[name].output for name in part}, len(sample_names)) for axis, part in parts
        ]
        edges = {name: captured[name].edge for name in names}
        deltas = torch.autograd.grad(losses.sum(), list(edges.values()), allow_unused=True, retain_graph=any(suspects))  # type: ignore[arg-type]  # torch takes both at once
        deltas = {
            name: module_capture.zero_if_unused(delta, captured[name])
            for name, delta in zip(names, deltas, strict=True)
        }
        group_of = {name: number for number, group in enumerate(groups) for name in group}
        owners = dict.fromkeys(names)
        for (axis, part), suspect in zip(parts, suspects, strict=True):
            if suspect:
                read = {name: (group_of[name], *module_capture.same_tensor(captured[name].inputs)) for name in part}
                found = sample_rows.find_owners(
                    axis,
                    losses,
                    _only(edges, part),  # type: ignore[arg-type]  # torch takes both at once
                    _only(deltas, part),  # type: ignore[arg-type]  # torch takes both at once
                    read,
                    sample_names,
                )
                owners.update(found or {})
    inputs = {name: captured[name].inputs for name in names}
    captured.clear()
    del losses, edges  # with them the graph, where it was retained, before the samples' tokens are copied
    places = _places(groups, deltas, owners, len(sample_names))
    found = [_sample_factors(groups, inputs, deltas, owners, places, row) for row in range(len(sample_names))]
    _require_finite(found, sample_names)
    return list(zip(found, counts, strict=True))


def slice_factors(
    factors: Mapping[str, Factors], projection: Projection, unit: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``(U [tokens, width], V [tokens, other])`` so that a slice's gradient is ``U^T V``.

    U holds the head's own columns: of delta for Q, K and V, of x for O. A slice's canonical shape is
    ``[width, other]`` whatever the storage order of the weight.

    Args:
        factors: Of one sample, by module name.
        projection: Where the heads of the block lie.
        unit: A query head for Q and O, a kv head for K and V.

    Returns:
        Two matrices with a row for each token.
    """
    start, stop = projection.interval(unit)
    pair = factors[projection.module_name]
    if projection.side == "output":
        return pair.deltas[:, start:stop], pair.inputs
    return pair.inputs[:, start:stop], pair.deltas


def slice_gradient(
    factors: Mapping[str, Factors],
    projection: Projection,
    unit: int,
    out: torch.Tensor,
    columns: tuple[int | None, int | None] = (None, None),
) -> None:
    """Write the gradient of a slice, ``U^T V``, or some of its columns, in the dtype of what it is written to.

    Args:
        factors: Of one sample, by module name.
        projection, unit: The slice.
        out: Where to write, ``[width, columns]``.
        columns: ``(start, stop)`` of the other axis; default all.
    """
    head, other = slice_factors(factors, projection, unit)
    torch.matmul(head.T.to(out), other[:, slice(*columns)].to(out), out=out)


def bias_gradient(factors: Mapping[str, Factors], projection: Projection, unit: int, out: torch.Tensor) -> None:
    """Write the gradient of a slice's bias, the sum of delta over tokens, into ``out [width]``.

    Args:
        factors: Of one sample, by module name.
        projection: Where the heads of the block lie.
        unit: A query head for Q, a kv head for K and V.
        out: Where to write, ``[width]``.
    """
    if factors[projection.module_name].bias is not None:
        out.copy_(_head_bias(factors, projection, unit))
        return
    head, _ = slice_factors(factors, projection, unit)
    torch.sum(head.to(out), dim=0, out=out)


def parameter_gradient(factors: Mapping[str, Factors], weight: LinearWeight) -> torch.Tensor:
    """Return the gradient of a whole :class:`LinearWeight`, in its stored orientation, float32 or wider.

    Args:
        factors: Of one sample, by module name.
        weight: Where the weight is, and how it is stored.

    Returns:
        The gradient, in the shape of the stored weight.
    """
    pair = factors[weight.module_name]
    inputs, deltas = widened(pair.inputs), widened(pair.deltas)
    return deltas.T @ inputs if weight.out_axis == 0 else inputs.T @ deltas  # stored [out, in], else Conv1D's [in, out]


def squared_norm(factors: Mapping[str, Factors], projection: Projection, grams: dict[int, Any] | None = None) -> float:
    r"""Sum the squared gradient over all heads of a block without forming it: ``sum_tt' (U U^T)_tt' (V V^T)_tt'``.

    Both Gram matrices are symmetric, so that of four quarters three are computed. ``grams`` is a dict that holds those of V
    from one block of a layer to the next: Q, K and V read one tensor.

    Args:
        factors: Of one sample, by module name.
        projection: Where the heads of the block lie.
        grams: A dict that holds Gram matrices from one block to the next, or None.

    Returns:
        The sum, a float, in units of squared gradient.
    """
    return float(_squared_norm(factors, projection, {} if grams is None else grams))


def squared_norms(factors: Mapping[str, Factors], layout: AttentionLayout) -> dict[str, float]:
    """Return ``{block: squared norm}`` of all blocks of a layer, asked of the device at once; see :func:`squared_norm`.

    Args:
        factors: Of one sample, by module name.
        layout: The layer.

    Returns:
        A float for each block.
    """
    grams: dict[Any, Any] = {}
    found = torch.stack([_squared_norm(factors, one, grams) for one in layout.projections])
    return {one.block: value for one, value in zip(layout.projections, found.tolist(), strict=True)}


def _squared_norm(factors: Mapping[str, Factors], projection: Projection, grams: dict[int, Any]) -> torch.Tensor:
    parts = [slice_factors(factors, projection, unit) for unit in range(projection.num_units)]
    other = parts[0][1]
    if id(other) not in grams:
        # Cloned, as products depend on where in memory their factors begin: the same bits from a store and from memory.
        aligned = widened(other).clone(memory_format=torch.contiguous_format)
        grams[id(other)] = other, _gram_quarters(aligned)  # held, so that no other tensor gets its id
    heads = _gram_quarters(widened(torch.cat([head for head, _ in parts], dim=1)))
    first, second, between = (
        (one * two).sum(dtype=torch.float64) for one, two in zip(heads, grams[id(other)][1], strict=True)
    )
    return (first + second + 2 * between).clamp_min(0)


def _gram_quarters(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Products of the first half of some rows with themselves, of the second, and of the first with the second."""
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    return first @ first.T, second @ second.T, first @ second.T


def squared_bias_norm(factors: Mapping[str, Factors], projection: Projection) -> float:
    """Sum the squared bias gradient over all heads of a block; ``factors`` are one sample's, ``projection`` is the
    block's.
    """
    heads = [_head_bias(factors, projection, unit) for unit in range(projection.num_units)]
    return float(sum(head.square().sum(dtype=torch.float64) for head in heads))


def _head_bias(factors: Mapping[str, Factors], projection: Projection, unit: int) -> torch.Tensor:
    whole = factors[projection.module_name].bias
    if whole is not None:
        return whole[slice(*projection.interval(unit))]
    return widened(slice_factors(factors, projection, unit)[0]).sum(0)


def require_tokens(sample: Sample, module_name: str) -> Factors:
    """Return the factors of a module, or say that only its whole gradient is held.

    Args:
        sample: A collected sample.
        module_name: One of its modules.

    Returns:
        The factors.

    Raises:
        OptionError: If so.
    """
    pair = sample.factors[module_name]
    if pair.bias is not None:
        raise OptionError(
            f"sample {sample.sample_id!r} holds the whole gradient of {module_name!r}, which takes fewer bytes than its "
            "tokens, and Kronecker factors need the tokens. Collect it with FisherCollector(store=..., "
            "store_form='factors')."
        )
    return pair


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """Return a ``tensor`` in float32 or wider."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@contextlib.contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put a ``model`` in eval mode with every parameter frozen, and restore each module's and parameter's flag after."""
    training = [(module, module.training) for module in model.modules()]
    requires = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in requires:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in requires:
            parameter.requires_grad_(flag)
        for module, flag in training:
            module.training = flag


def _by_axis(config: QKOVConfig, names: Sequence[str], first_axis: FirstAxis) -> list[tuple[FirstAxis, list[str]]]:
    """Attention modules with what is known of their first axis, the others with theirs: some models join all tokens."""
    attention = {projection.module_name for layout in config.layers for projection in layout.projections}
    parts = (first_axis, [name for name in names if name in attention]), (
        first_axis.beside, [name for name in names if name not in attention],
    )  # fmt: skip
    return [(axis, part) for axis, part in parts if part]


def _only(
    values: Mapping[str, GradientEdge | torch.Tensor], names: Sequence[str]
) -> dict[str, GradientEdge | torch.Tensor]:
    return {name: values[name] for name in names}


def _sample_factors(
    groups: Sequence[list[str]],
    inputs: Mapping[str, torch.Tensor],
    deltas: Mapping[str, torch.Tensor],
    owners: Mapping[str, torch.Tensor | None],
    places: Mapping[str, tuple[torch.Tensor, ...]],
    row: int,
) -> dict[str, Factors]:
    factors = {}
    for modules in groups:
        kept_inputs = {}  # Q, K and V of split projections read one tensor; keep one copy of it
        for name in modules:

            def select(tensor: torch.Tensor, name: str = name) -> torch.Tensor:
                return _rows(tensor, None if owners[name] is not None else row).index_select(0, places[name][row])

            source = inputs[name]
            key = module_capture.same_tensor(source)
            if key not in kept_inputs:
                kept_inputs[key] = select(source)
            factors[name] = Factors(kept_inputs[key], select(deltas[name]))
    return factors


def _require_finite(found: Sequence[dict[str, Factors]], sample_names: Sequence[SampleId]) -> None:
    """Refuse NaN and infinity. The host waits for the device once, not for every sample and module."""
    tensors = {id(one): one for factors in found for pair in factors.values() for one in (pair.inputs, pair.deltas)}
    flags = torch.stack([torch.isfinite(one).all() for one in tensors.values()]).tolist() if tensors else []
    finite = dict(zip(tensors, flags, strict=True))
    for factors, sample_name in zip(found, sample_names, strict=True):
        for name, pair in factors.items():
            if not (finite[id(pair.inputs)] and finite[id(pair.deltas)]):
                raise non_finite.gradient_error(sample_name, name, pair.inputs, pair.deltas)


def _places(
    groups: Sequence[list[str]],
    deltas: Mapping[str, torch.Tensor],
    owners: Mapping[str, torch.Tensor | None],
    num_samples: int,
) -> dict[str, tuple[torch.Tensor, ...]]:
    """Find out which rows of a module's activations are kept: ``{module_name: [long [tokens] of every sample]}``.

    Where samples lie along the first axis, rows are counted from the sample's first, else from the first of all. The host
    waits for the device once: a mask taken as an index would have it wait for each sample and module.
    """
    masks, key_of = {}, {}  # type: ignore[var-annotated]  # filled below
    for number, modules in enumerate(groups):
        for name in modules:
            if owners[name] is None:
                reached = (deltas[name] != 0).any(-1).reshape(num_samples, -1)
                key = number, reached.shape[1]  # cross-attention has two numbers of tokens
                masks[key] = reached | masks.get(key, torch.zeros_like(reached))
            else:
                key = id(owners[name])
                rows = torch.arange(num_samples, device=owners[name].device)  # type: ignore[union-attr]  # there in this variant
                masks[key] = owners[name][None] == rows[:, None]  # type: ignore[index]  # there in this variant
            key_of[name] = key
    kept = dict(zip(masks, _indices(list(masks.values())), strict=True))
    return {name: kept[key] for name, key in key_of.items()}  # type: ignore[index]  # of two kinds


def _indices(masks: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
    """Turn masks ``[samples, rows]`` into ``[long [kept] of each sample]`` for each, by one copy to the host and one back."""
    flat = torch.cat([mask.flatten() for mask in masks]).cpu().numpy()
    ends = np.cumsum([mask.numel() for mask in masks])[:-1]
    by_row = [part.reshape(mask.shape) for part, mask in zip(np.split(flat, ends), masks, strict=True)]
    counts = [part.sum(1).tolist() for part in by_row]
    found = torch.from_numpy(np.concatenate([part.nonzero()[1] for part in by_row])).to(masks[0].device)
    by_mask = found.split([sum(count) for count in counts])
    return [part.split(count) for part, count in zip(by_mask, counts, strict=True)]


def _rows(tensor: torch.Tensor, row: int | None) -> torch.Tensor:
    """Flatten the leading axes of a sample, or of all where samples do not lie along the first axis."""
    return (tensor if row is None else tensor[row]).reshape(-1, tensor.shape[-1])
