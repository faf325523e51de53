r"""How important each parameter, head, channel, weight and layer is to a task, from its Fisher diagonal.

.. math:: I_k = F_k \;\text{("fisher")}, \qquad I_k = \tfrac12 F_k w_k^2 \;\text{("fisher\_weight")}, \qquad
          \hat I_k = I_k / \text{mean}_{k' \in \text{layer or all}} I_{k'}

"fisher" says how sharply the loss bends along a parameter; "fisher_weight" how much the loss is expected to rise when that
parameter alone is set to zero, to second order, where the gradient vanishes and F stands for the curvature. Neither is what
removing many parameters together does: that is an experiment (:func:`qkov.apply_masks`). The second is the saliency of
LeCun, Denker and Solla, "Optimal Brain Damage" (1989), with the empirical Fisher diagonal in place of the Hessian's.

Sums are float64 and each parameter counts once: K and V by kv head, heads of a fused weight apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import diagonal, errors, escaping, formula, labels, parts, reproducibility, result_file
from .layout import uncompiled

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from torch import nn

    from .diagonal import FisherDiagonal
    from .geometry import BlockHeadSlice
    from .layout import QKOVConfig
    from .linear_weights import LinearWeight
    from .option_types import ImportanceLevel, ImportanceNormalisation, PathLike, RankBy, Saliency


__all__ = ["FisherImportance", "compute_fisher_importance", "load_fisher_importance"]

FORMAT_NAME = "qkov-fisher-importance"
FORMAT_VERSION = 1
NORMALISATIONS = ("none", "layer", "global")
SALIENCIES = ("fisher", "fisher_weight")
LEVELS = ("head", "channel", "weight", "layer")
CAVEAT = (
    "Sensitivity at the present weights, to second order and each parameter alone; not what removing a part does to the "
    "loss."
)
_PER = {"tokens": "per token", "none": "per sample"}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FisherImportance:
    """Importance of every collected parameter, and sums of it by part.

    Attributes:
        task: Its name.
        values: ``{param_name: importance}`` in the stored shape, keyed like the checkpoint.
        weights: A ``LinearWeight`` for each.
        config: Where the heads are, or None.
        attributes: JSON-able facts: ``saliency``, ``normalisation``, ``unit``, ``divisors`` (what each layer was divided
            by; null stands for what lies outside layers) and what the Fisher diagonal says of itself.
    """

    task: str
    values: dict
    weights: tuple
    config: QKOVConfig | None
    attributes: dict
    _cache: dict = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for one in self.weights:
            found = self.values.get(one.param_name)
            if found is None or tuple(found.shape) != tuple(one.weight_shape):
                raise errors.ShapeError(
                    f"importance of {one.param_name!r} is {None if found is None else tuple(found.shape)}; expected an "
                    f"entry of shape {tuple(one.weight_shape)}."
                )
            if not torch.isfinite(found).all():
                raise errors.NonFiniteError(f"importance of {one.param_name!r} is NaN or infinite somewhere.")
        if len(self.values) != len(self.weights):
            raise errors.ShapeError(f"{len(self.values)} entries for {len(self.weights)} weights; expected one each.")
        object.__setattr__(self, "attributes", labels.plain_json(self.attributes))

    def _sums(self, weight: LinearWeight, axis: int) -> np.ndarray:
        key = weight.param_name, axis
        if key not in self._cache:
            self._cache[key] = parts.axis_sums(self.values[weight.param_name], axis)
        return self._cache[key]

    @property
    def _by_name(self) -> dict[str, LinearWeight]:
        return {one.param_name: one for one in self.weights}

    def heads(self) -> dict[tuple[int, str], np.ndarray]:
        """Sum over the slice of every head: ``{(layer, block): float64 [heads]}``; K and V have one entry per kv head."""
        config, weights = parts.require_config(self.config, "importance by head"), self._by_name
        sums: dict[Any, Any] = {}
        for layout, projection, unit in parts.head_slices(config, weights):
            along = self._sums(weights[projection.param_name], projection.head_axis)
            value = along[slice(*projection.interval(unit))].sum()
            sums.setdefault((layout.layer, projection.block), []).append(value)
        return {key: np.array(values, np.float64) for key, values in sums.items()}

    def query_heads(self) -> dict[int, np.ndarray]:
        """Sum what pruning a query head would take away: ``{layer: float64 [query heads]}``.

        Its Q and O, and its equal share of the K and V that its group reads, so that heads add up to the layer.

        Returns:
            ``{layer: float64 [query heads]}``.

        Raises:
            UnknownParameterError: If a layer was collected with some of its four blocks only.
        """
        heads, totals = self.heads(), {}
        for layout in parts.require_config(self.config, "importance by head").layers:
            missing = [block for block in "QKVO" if (layout.layer, block) not in heads]
            if missing == list("QKVO"):
                continue
            if missing:
                raise errors.UnknownParameterError(
                    f"layer {layout.layer} was collected without block {', '.join(missing)}; a head as a whole needs all "
                    'four. Collect with weights="attention".'
                )
            q, k, v, o = (heads[layout.layer, block] for block in "QKVO")
            group = layout.num_heads // layout.num_kv_heads
            totals[layout.layer] = q + o + np.repeat((k + v) / group, group)
        return totals

    def channels(self) -> dict[str, np.ndarray]:
        """Sum over the weights of every feed-forward channel: ``{module that writes: float64 [channels]}``."""
        return {
            group.module_name: sum(self._sums(one, one.channel_axis) for one in group.weights)  # type: ignore[misc]  # a sum that starts at 0
            for group in parts.channel_groups(self.weights)
        }

    def layers(self) -> dict[int | None, float]:
        """Sum over all collected weights of a layer: ``{layer: float}``; None stands for what lies outside layers."""
        totals: dict[Any, Any] = {}
        for one in parts.in_order(self.weights):
            totals[one.layer] = totals.get(one.layer, 0.0) + float(self._sums(one, one.channel_axis).sum())
        return totals

    def to_dataframe(self, level: ImportanceLevel = "head", *, rank_by: RankBy = "sum") -> pd.DataFrame:
        """Return a pandas table of one level, a row per part.

        Args:
            level: "head" (one block of one head; K and V per kv head), "channel", "weight" (a whole matrix) or "layer".
            rank_by: "sum" over the part or "mean" over its parameters; differs where parts differ in size.

        Returns:
            Labels, ``num_parameters, sum, mean, rank``. Rank 1 is the highest; equal values keep the order of layer, block
            and head, so no rank occurs twice. Heads are ranked within their block, over all layers: blocks of different
            width share no scale.
        """
        import pandas as pd

        formula.require_choice("level", level, LEVELS)
        formula.require_choice("rank_by", rank_by, ("sum", "mean"))
        rows = {"head": self._head_rows, "channel": self._channel_rows, "weight": self._weight_rows}
        table = pd.DataFrame(list(rows.get(level, self._layer_rows)()), columns=_COLUMNS[level])
        for name in ("layer", "head", "kv_head"):
            if name in table:
                table[name] = table[name].astype("Int64")
        table["mean"] = table["sum"] / table["num_parameters"]
        groups = table["block"] if level == "head" else pd.Series(0, index=table.index)
        # method "first": ties in the order of the rows, which is layer, block, head.
        table["rank"] = table.groupby(groups)[rank_by].rank(method="first", ascending=False).astype(np.int64)
        table.attrs = {"task": self.task, **self.attributes}
        return table

    def ranking(self, level: ImportanceLevel = "head", *, top_k: int = 10, rank_by: RankBy = "sum") -> pd.DataFrame:
        """Return the ``top_k`` rows of :meth:`to_dataframe`, highest first; of every block, for heads.

        Args:
            level, rank_by: As for :meth:`to_dataframe`.
            top_k: How many rows.

        Returns:
            A pandas ``DataFrame``.
        """
        table = self.to_dataframe(level, rank_by=rank_by)
        table = table[table["rank"] <= top_k]
        if level == "head":
            blocks = table["block"].map("QKVO".index)
            return (
                table.assign(order=blocks).sort_values(["order", "rank"]).drop(columns="order").reset_index(drop=True)
            )
        return table.sort_values("rank").reset_index(drop=True)

    def _head_rows(self) -> Iterator[tuple[Any, ...]]:
        heads, weights = self.heads(), self._by_name
        for layout, projection, unit in parts.head_slices(self.config, weights):  # type: ignore[arg-type]  # there is a layout once something is held
            own_kv = projection.block in "KV"
            place, size = projection.slice_of(unit), projection.weight_shape[1 - projection.head_axis]
            rows, columns = (part or (0, end) for part, end in _with_ends(place, projection.weight_shape))
            yield (
                layout.layer,
                projection.block,
                None if own_kv else unit,
                unit if own_kv else layout.kv_head(unit),
                projection.param_name,
                *rows,
                *columns,
                projection.width * size,
                float(heads[layout.layer, projection.block][unit]),
            )

    def _channel_rows(self) -> Iterator[tuple[Any, ...]]:
        sums = self.channels()
        for group in parts.channel_groups(self.weights):
            size = sum(one.weight_shape[1 - one.channel_axis] for one in group.weights)
            for channel in range(group.num_channels):
                yield group.layer, group.module_name, channel, size, float(sums[group.module_name][channel])

    def _weight_rows(self) -> Iterator[tuple[Any, ...]]:
        for one in parts.in_order(self.weights):
            total = float(self._sums(one, one.channel_axis).sum())
            yield one.layer, one.kind, one.param_name, one.weight_shape[0] * one.weight_shape[1], total

    def _layer_rows(self) -> Iterator[tuple[Any, ...]]:
        for layer, total in self.layers().items():
            yield layer, sum(self.values[one.param_name].numel() for one in self.weights if one.layer == layer), total

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the result, in hex."""
        return result_file.digest(*self._parts())

    def __eq__(self, other: object) -> bool:
        return self.fingerprint == other.fingerprint if isinstance(other, FisherImportance) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and so without a hash

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        content = parts.describe_layout(self.weights, self.config)
        content |= {"task": self.task, "attributes": self.attributes}
        return content, {name: value.numpy() for name, value in self.values.items()}

    def save(self, path: PathLike) -> Path:
        """Write one safetensors file to ``path``, its tensors keyed like the checkpoint, atomically. Returns the path."""
        return result_file.write(path, *self._parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _headline(self) -> str:
        facts = self.attributes
        size = sum(value.numel() for value in self.values.values())
        return (
            f"{self.task}: {facts['saliency']}, normalisation {facts['normalisation']}; {len(self.values)} weights, "
            f"{size} parameters; {facts['unit']}"
        )

    def __repr__(self) -> str:
        return escaping.for_terminal(f"<FisherImportance {self._headline()}\n  {CAVEAT}>")

    def _repr_html_(self) -> str:
        level: ImportanceLevel = "weight" if self.config is None else "head"
        said = f"<p><b>FisherImportance</b> {escaping.for_html(self._headline())}</p>"
        table = escaping.html_table(self.ranking(level, top_k=3).astype(object))
        return escaping.html_block(said, table, f"<p>{CAVEAT}</p>")


_SUMS = ["num_parameters", "sum"]
_PLACE = ["row_start", "row_stop", "column_start", "column_stop"]
_COLUMNS = {
    "head": ["layer", "block", "head", "kv_head", "parameter", *_PLACE, *_SUMS],
    "channel": ["layer", "module", "channel", *_SUMS],
    "weight": ["layer", "kind", "parameter", *_SUMS],
    "layer": ["layer", *_SUMS],
}


def compute_fisher_importance(
    fisher: FisherDiagonal | Mapping[str, FisherDiagonal],
    *,
    normalisation: ImportanceNormalisation = "none",
    saliency: Saliency = "fisher",
    model: nn.Module | Mapping[str, torch.Tensor] | None = None,
) -> FisherImportance:
    """Turn a Fisher diagonal into importance of parameters, heads, channels, weights and layers.

    Args:
        fisher: A :class:`qkov.FisherDiagonal`.
        normalisation: "none": values keep their unit. "layer": each is divided by the mean over the collected parameters
            of its layer, so that layers can no longer be compared with one another, only parts within a layer. "global":
            by the mean over all, so that tasks with losses of different size can be compared. A mean of 0 divides nothing.
        saliency: "fisher" or "fisher_weight", see the module.
        model: For "fisher_weight": the model that was collected from, or its state dict.

    Returns:
        :class:`FisherImportance`, in the number format of ``fisher``. With "none" and "fisher" its tensors are those of
        ``fisher``, not copies.

    Raises:
        OptionError: If an option has no meaning, or "fisher_weight" has no model.
        ModelChangedError: If the model's weights are not those that were collected from.
        UnknownParameterError, ShapeError: If the state dict is of another model.
    """
    formula.require_choice("normalisation", normalisation, NORMALISATIONS)
    formula.require_choice("saliency", saliency, SALIENCIES)
    if not isinstance(fisher, diagonal.FisherDiagonal):
        raise errors.OptionError(
            f"fisher is a {type(fisher).__name__}; expected a FisherDiagonal, as FisherCollector.fisher_diagonal gives it."
        )
    values = fisher.values
    if saliency == "fisher_weight":
        held = _held_weights(model, fisher)
        values = {
            name: (0.5 * one.double() * held[name].detach().to(one.device, torch.float64).square()).to(one.dtype)
            for name, one in values.items()
        }
    divisors = _divisors(values, fisher.weights, normalisation)
    if normalisation != "none":
        layer_of = {one.param_name: one.layer for one in fisher.weights}
        values = {name: one / divisors[layer_of[name]] for name, one in values.items()}
    attributes = fisher.attributes | {
        "saliency": saliency,
        "normalisation": normalisation,
        "unit": _unit(saliency, normalisation, fisher.attributes.get("contribution_normalisation")),
        "divisors": [[layer, value] for layer, value in divisors.items()],
        "num_samples": fisher.num_samples,
        "caveat": CAVEAT,
    }
    return FisherImportance(
        task=fisher.task,
        values=dict(values),
        weights=fisher.weights,
        config=fisher.config,  # type: ignore[arg-type]  # there is a layout once something is held
        attributes=attributes,
    )


def load_fisher_importance(path: PathLike) -> FisherImportance:
    """Load what :meth:`FisherImportance.save` wrote, checked.

    Args:
        path: The file.

    Returns:
        The result, equal to the one that was saved.

    Raises:
        ResultFileError: If the file is not such a result, or is damaged.
        OSError: If it cannot be opened.
    """
    content, arrays = result_file.read(path, format_name=FORMAT_NAME, format_version=FORMAT_VERSION)
    with result_file.consistent(path, "is not a consistent importance"):
        weights, config = parts.read_layout(content)
        values = {one.param_name: torch.from_numpy(arrays[one.param_name]) for one in weights}
        task, attributes = content["task"], content["attributes"]
        return FisherImportance(task=task, values=values, weights=weights, config=config, attributes=attributes)


def as_importance(source: FisherDiagonal | FisherImportance, **options: Any) -> FisherImportance:
    """Return an importance as it is, and a Fisher diagonal as the importance that ``options`` ask for."""
    return source if isinstance(source, FisherImportance) else compute_fisher_importance(source, **options)


def _held_weights(
    model: nn.Module | Mapping[str, torch.Tensor] | None, fisher: FisherDiagonal
) -> Mapping[str, torch.Tensor]:
    if model is None:
        raise errors.OptionError('saliency="fisher_weight" multiplies by the weights; give model=, or its state dict.')
    if not isinstance(model, Mapping):
        model = uncompiled(model)
        known = fisher.attributes.get("model_fingerprint")
        if known is not None and known != reproducibility.model_fingerprint(model):
            raise errors.ModelChangedError(
                "the model's weights are not those that this Fisher diagonal was collected from; F of other weights says "
                "nothing about these. Collect again."
            )
        model = dict(model.named_parameters())
    for name, value in fisher.values.items():
        if name not in model:
            raise errors.UnknownParameterError(
                f"the model has no parameter {name!r}, of which there is a Fisher diagonal."
            )
        if model[name].shape != value.shape:
            raise errors.ShapeError(
                f"{name!r} has shape {tuple(model[name].shape)} in the model; expected {tuple(value.shape)} as collected."
            )
    return model


def _divisors(
    values: Mapping[str, torch.Tensor], weights: Sequence[LinearWeight], normalisation: str
) -> dict[int | None, float]:
    """Mean over each layer, or over all, by layer; 1 where nothing is divided."""
    sums: dict[int | None, float]
    counts: dict[int | None, int]
    sums, counts = {}, {}
    for one in parts.in_order(weights):
        key = one.layer if normalisation == "layer" else None
        sums[key] = sums.get(key, 0.0) + float(values[one.param_name].sum(dtype=torch.float64))
        counts[key] = counts.get(key, 0) + values[one.param_name].numel()
    divisors = {}
    for one in parts.in_order(weights):
        key = one.layer if normalisation == "layer" else None
        mean = sums[key] / counts[key]
        divisors[one.layer] = 1.0 if normalisation == "none" or mean == 0 else mean
    return divisors


def _unit(saliency: str, normalisation: str, contribution_normalisation: Any) -> str:
    if normalisation != "none":
        return f"times the mean over {'its layer' if normalisation == 'layer' else 'all collected parameters'}"
    per = _PER.get(contribution_normalisation, "per sample")
    return f"expected rise of the loss, {per}" if saliency == "fisher_weight" else f"squared gradient, {per}"


def _with_ends(place: BlockHeadSlice, shape: tuple[int, int]) -> Iterator[tuple[tuple[int, int] | None, int]]:
    return zip((place.row_slice, place.col_slice), shape, strict=True)
