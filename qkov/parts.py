r"""The parts that collected weights fall into: heads by block, channels of feed-forward layers; sums over them.

Heads are cut as :mod:`qkov.geometry` draws them, so a fused weight holds heads of several blocks, and what belongs to no
head (rows of a gate) is block "other". A channel of a feed-forward layer is one hidden feature: an output feature of each
weight that reads the residual stream and an input feature of the one that writes to it::

    gate [m, d], up [m, d]: row c        down [d, m]: column c        (Conv1D: the other way round)

A weight whose number of channels is not that of the writing weight (gate and up fused into one) is in no channel here: how
it interleaves them is not known from its shape. The writing weight alone decides whether a channel has any effect.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import errors
from .geometry import AttentionLayout, Projection
from .layout import QKOVConfig
from .linear_weights import LinearWeight

BLOCKS = ("Q", "K", "V", "O", "mlp", "other")
"""Every collected parameter is in exactly one."""


@dataclass(frozen=True)
class ChannelGroup:
    """The weights of one feed-forward layer whose channels are the same hidden features.

    Attributes:
        layer: The model's own index.
        module_name: The module that writes to the residual stream.
        num_channels: Number of hidden features.
        weights: The writing weight first, then those that read.
    """

    layer: int | None
    module_name: str
    num_channels: int
    weights: tuple


def in_order(weights: Sequence[LinearWeight]) -> tuple[LinearWeight, ...]:
    """Sort weights by layer, those outside layers last, and within a layer as they were collected: the order of ties."""
    return tuple(sorted(weights, key=lambda one: (one.layer is None, one.layer or 0)))


def axis_sums(tensor: torch.Tensor, axis: int) -> np.ndarray:
    """Sum a matrix over its other axis, in float64 (whole numbers for flags): numpy ``[size of axis]``."""
    wide = torch.int64 if tensor.dtype == torch.bool else torch.float64
    return tensor.sum(1 - axis, dtype=wide).cpu().numpy()


def require_config(config: QKOVConfig | None, what: str) -> QKOVConfig:
    """Return a layout, or say how to get one.

    Raises:
        LayoutError: If there is none.
    """
    if config is None:
        raise errors.LayoutError(
            f"{what} needs to know where the heads are, and this result does not. Collect the weights of attention, or "
            "give it config=QKOVConfig.from_model(model) with dataclasses.replace."
        )
    return config


def head_slices(config: QKOVConfig, names: Collection[str]) -> Iterator[tuple[AttentionLayout, Projection, int]]:
    """Yield ``(layout, projection, unit)`` of every head of every block whose weight is among ``names``, in order."""
    for layout in config.layers:
        for projection in layout.projections:
            if projection.param_name in names:
                for unit in range(projection.num_units):
                    yield layout, projection, unit


def channel_groups(weights: Sequence[LinearWeight]) -> tuple[ChannelGroup, ...]:
    """Return the :class:`ChannelGroup` of every feed-forward weight that writes to the residual stream.

    A layer with one such weight owns all its reading weights; with several (experts), each owns those beside it.
    """
    members = [one for one in in_order(weights) if one.kind == "mlp"]
    groups = []
    for out in (one for one in members if one.role == "out"):
        alone = sum(one.role == "out" and one.layer == out.layer for one in members) == 1
        reads = tuple(
            one
            for one in members
            if one.role == "in"
            and one.layer == out.layer
            and one.num_channels == out.num_channels
            and (alone or _parent(one) == _parent(out))
        )
        groups.append(ChannelGroup(out.layer, out.module_name, out.num_channels, (out, *reads)))
    return tuple(groups)


def _parent(weight: LinearWeight) -> str:
    return weight.module_name.rpartition(".")[0]


def blocks_along(weight: LinearWeight, config: QKOVConfig) -> tuple[int, np.ndarray]:
    """Tell which block each index of a weight belongs to: ``(axis, array of block names [size of axis])``."""
    if weight.kind != "attention":
        block = "mlp" if weight.kind == "mlp" else "other"
        return 0, np.full(weight.weight_shape[0], block, dtype=object)
    axis, names = weight.channel_axis, np.full(weight.num_channels, "other", dtype=object)
    config = require_config(config, f"the blocks of {weight.param_name!r}")
    for _, projection, unit in head_slices(config, {weight.param_name}):
        axis = projection.head_axis
        names[slice(*projection.interval(unit))] = projection.block
    return axis, names


def describe_layout(weights: Sequence[LinearWeight], config: QKOVConfig | Any) -> dict[str, Any]:
    """Return weights and layout as JSON-able numbers and words, for a file."""
    layers = None if config is None else [dataclasses.asdict(layout) for layout in config.layers]
    return {"weights": [dataclasses.asdict(one) for one in weights], "layers": layers}


def read_layout(content: Mapping[str, Any]) -> tuple[tuple[LinearWeight, ...], QKOVConfig | None]:
    """Rebuild ``(weights, config)`` from :func:`describe_layout`; the classes check them again.

    Raises:
        LayoutError, KeyError, TypeError: If it does not describe any.
    """
    try:
        return _read_layout(content)
    except (AttributeError, IndexError) as error:  # not the mappings, or not the sizes, that are written
        raise errors.LayoutError(f"Weights and layers are not described as this package does it: {error!r}.") from error


def _read_layout(content: Mapping[str, Any]) -> tuple[tuple[LinearWeight, ...], QKOVConfig | None]:
    weights = tuple(LinearWeight(**_tuples(one)) for one in content["weights"])
    if content["layers"] is None:
        return weights, None
    layouts = []
    for one in content["layers"]:
        projections = tuple(Projection(**_tuples(part)) for part in one["projections"])
        layouts.append(AttentionLayout(**(one | {"projections": projections})))
    return weights, QKOVConfig(tuple(layouts))


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
