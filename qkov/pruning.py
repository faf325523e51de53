r"""Masks that keep the parameters, channels or heads that matter most to a task, and a model that runs under them.

A unit is one parameter ("unstructured"), one hidden feature of a feed-forward layer ("channel") or one query head
("head"); its score is the sum of importance over what it owns. Within a layer, or over all of them, with scores sorted
from the best, :math:`s_{(1)} \ge s_{(2)} \ge \dots`, and k units to keep,

.. math:: \text{"count": the first } k \text{ units}; \qquad \text{"quantile": all with } s \ge s_{(k)} .

Equal scores are ordered by layer, then by weight in the order of collection (module for channels), then by position, so
"count" keeps exactly k whatever the ties, and larger k keep what smaller k did; "quantile" keeps all that tie with the last.

A query head is taken out as a whole: its rows of Q, its columns of O. The K and V that it shares stay until no head of
their group is left. With its columns of O at zero a head has no effect, whatever its biases are, unless a norm spans
several heads: there, taking one out changes what the others compute.

For single parameters take an importance with ``saliency="fisher_weight"``: F alone ignores the size of the weight that is set
to zero, and prunes large weights that the model stands on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import errors, escaping, formula, importance, labels, parts, result_file
from .layout import uncompiled

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from torch import nn

    from .diagonal import FisherDiagonal
    from .importance import FisherImportance
    from .layout import QKOVConfig
    from .linear_weights import LinearWeight
    from .option_types import Keep, PathLike, Rule, Scope, Structure


__all__ = ["PruningMasks", "apply_masks", "get_fisher_pruning_masks", "load_pruning_masks"]

FORMAT_NAME = "qkov-pruning-masks"
FORMAT_VERSION = 1
STRUCTURES = ("head", "channel", "unstructured")
SCOPES = ("layer", "global")
RULES = ("count", "quantile")
KEEP = ("highest", "lowest")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PruningMasks:
    """Which parameters are kept, and how many of each layer.

    Attributes:
        task: Whose importance decided.
        masks: ``{param_name: bool tensor}`` in the stored shape, True where a parameter is kept: attention weights for
            "head", feed-forward weights for "channel", all collected ones for "unstructured".
        weights: A ``LinearWeight`` for each.
        config: Where the heads are, or None.
        rows: A dict per layer: ``layer, num_units, kept_units, threshold`` (the lowest score kept, the highest with
            ``keep="lowest"``; None where nothing is), ``num_parameters, kept_parameters``.
        attributes: JSON-able facts: the options and what the importance says of itself.
    """

    task: str
    masks: dict
    weights: tuple
    config: QKOVConfig | None
    rows: tuple
    attributes: dict

    def __post_init__(self) -> None:
        found = {name: (tuple(mask.shape), mask.dtype) for name, mask in self.masks.items()}
        expected = {one.param_name: (tuple(one.weight_shape), torch.bool) for one in self.weights}
        if found != expected:
            wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise errors.ShapeError(
                f"the mask of {wrong[0]!r} is {found.get(wrong[0])}; expected {expected.get(wrong[0])} as its weight says."
            )
        object.__setattr__(self, "rows", tuple(labels.plain_json(row) for row in self.rows))
        object.__setattr__(self, "attributes", labels.plain_json(self.attributes))

    @property
    def structure(self) -> str:
        """Say what is kept or pruned as one: "head", "channel" or "unstructured"."""
        return self.attributes["structure"]

    @property
    def kept_share(self) -> float:
        """Share of the masks' parameters that is kept."""
        return sum(row["kept_parameters"] for row in self.rows) / sum(row["num_parameters"] for row in self.rows)

    def units(self) -> dict[tuple[int | None, str], np.ndarray]:
        """Return which units are kept, ``{(layer, name): bool array}``, read off the masks.

        Names: the weight for "unstructured" (flat, as stored), the writing module for "channel", "heads" for "head".
        """
        if self.structure == "unstructured":
            return {
                (one.layer, one.param_name): self.masks[one.param_name].reshape(-1).numpy()
                for one in parts.in_order(self.weights)
            }
        if self.structure == "channel":
            return {
                (group.layer, group.module_name): _along(self.masks[group.weights[0].param_name], group.weights[0])
                for group in parts.channel_groups(self.weights)
            }
        kept: dict[tuple[int | None, str], np.ndarray] = {}
        for layout in parts.require_config(self.config, "masks of heads").layers:
            output = layout.projection("O")
            if output.param_name in self.masks:
                along = self.masks[output.param_name].all(1 - output.head_axis).numpy()
                kept[layout.layer, "heads"] = along[list(output.starts)]
        return kept

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas table, a row per layer: what :attr:`rows` holds, and the shares kept."""
        import pandas as pd

        table = pd.DataFrame(list(self.rows))
        table["layer"] = table["layer"].astype("Int64")
        table["threshold"] = table["threshold"].astype(np.float64)
        table["kept_share"] = table["kept_units"] / table["num_units"]
        table["kept_parameter_share"] = table["kept_parameters"] / table["num_parameters"]
        table.attrs = {"task": self.task, **self.attributes}
        return table

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the result, in hex."""
        return result_file.digest(*self._parts())

    def __eq__(self, other: object) -> bool:
        return self.fingerprint == other.fingerprint if isinstance(other, PruningMasks) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and so without a hash

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        content = parts.describe_layout(self.weights, self.config)
        content |= {"task": self.task, "rows": list(self.rows), "attributes": self.attributes}
        return content, {name: mask.numpy() for name, mask in self.masks.items()}

    def save(self, path: PathLike) -> Path:
        """Write one safetensors file of bool tensors to ``path``, keyed like the checkpoint, atomically. Returns the
        path.
        """
        return result_file.write(path, *self._parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _headline(self) -> str:
        facts = self.attributes
        kept, total = (sum(row[name] for row in self.rows) for name in ("kept_units", "num_units"))
        unit = {"unstructured": "parameters", "channel": "channels", "head": "query heads"}[self.structure]
        return (
            f"{self.task}: keeps {kept} of {total} {unit} ({self.kept_share:.1%} of the parameters of {len(self.masks)} "
            f"weights), {facts['keep']} {facts['saliency']} by {facts['scope']}, rule {facts['rule']}"
        )

    def __repr__(self) -> str:
        return escaping.for_terminal(f"<PruningMasks {self._headline()}\n  {importance.CAVEAT}>")

    def _repr_html_(self) -> str:
        said = f"<p><b>PruningMasks</b> {escaping.for_html(self._headline())}</p>"
        table = escaping.html_table(self.to_dataframe().astype(object))
        return escaping.html_block(said, table, f"<p>{importance.CAVEAT}</p>")


def get_fisher_pruning_masks(
    source: FisherDiagonal | FisherImportance,
    *,
    share: float | None = None,
    count: int | None = None,
    structure: Structure = "head",
    scope: Scope = "layer",
    rule: Rule = "count",
    keep: Keep = "highest",
) -> PruningMasks:
    """Choose what to keep by importance.

    Args:
        source: A :class:`qkov.FisherImportance`, or a :class:`qkov.FisherDiagonal`, whose plain values then decide.
        share: Share of units to keep, 0 to 1; a half is rounded up. Give this or ``count``.
        count: Number of units to keep: of each layer, or of all.
        structure: "head", "channel" or "unstructured".
        scope: "layer": each layer keeps its share. "global": units of all layers compete; with layers of different scale
            give an importance with ``normalisation="layer"``, or whole layers may go.
        rule: "count" or "quantile", see the module.
        keep: "highest", or "lowest": the opposite choice, a control.

    Returns:
        :class:`PruningMasks`.

    Raises:
        OptionError: If an option has no meaning, or not exactly one of ``share`` and ``count`` is given.
        UnknownParameterError: If the weights that the structure needs were not collected.
        LayoutError: If heads are asked for and the layout is not known.
    """
    for name, value, choices in (
        ("structure", structure, STRUCTURES),
        ("scope", scope, SCOPES),
        ("rule", rule, RULES),
        ("keep", keep, KEEP),
    ):
        formula.require_choice(name, value, choices)
    _check_size(share, count)
    source = importance.as_importance(source)
    scores = _scores(source, structure)
    kept, thresholds = _choose(scores, share, count, scope, rule, keep)
    masks = _masks(source, structure, kept)
    weights = tuple(one for one in source.weights if one.param_name in masks)
    attributes = source.attributes | {
        "structure": structure,
        "scope": scope,
        "rule": rule,
        "keep": keep,
        "share": None if share is None else float(share),
        "count": None if count is None else int(count),
    }
    return PruningMasks(
        task=source.task,
        masks=masks,
        weights=weights,
        config=source.config,
        rows=tuple(_rows(weights, masks, kept, thresholds)),
        attributes=attributes,
    )


@contextlib.contextmanager
def apply_masks(model: nn.Module, masks: PruningMasks | Mapping[str, torch.Tensor]) -> Iterator[nn.Module]:
    """Set every parameter that is not kept to zero until the block ends, then restore the weights bit by bit.

    Args:
        model: The model, changed in place; one thread at a time.
        masks: A :class:`PruningMasks`, or ``{param_name: bool tensor}``.

    Yields:
        The model.

    Raises:
        UnknownParameterError, ShapeError: If a mask does not fit the model; nothing is changed then.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> with apply_masks(model, {"weight": torch.tensor([[True, False]])}):
        ...     print(model.weight[0, 1].item())
        0.0
    """
    chosen = masks.masks if isinstance(masks, PruningMasks) else masks
    parameters = dict(uncompiled(model).named_parameters(remove_duplicate=False))
    for name, mask in chosen.items():
        if name not in parameters:
            raise errors.UnknownParameterError(f"the model has no parameter {name!r}, for which there is a mask.")
        if parameters[name].shape != mask.shape or mask.dtype != torch.bool:
            raise errors.ShapeError(
                f"the mask of {name!r} is {tuple(mask.shape)}, {mask.dtype}; expected "
                f"{tuple(parameters[name].shape)}, torch.bool, as the parameter."
            )
    saved = {name: parameters[name].detach().clone() for name in chosen}
    try:
        with torch.no_grad():
            for name, mask in chosen.items():
                parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)
        yield model
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)


def load_pruning_masks(path: PathLike) -> PruningMasks:
    """Load what :meth:`PruningMasks.save` wrote, checked.

    Args:
        path: The file.

    Returns:
        The result, equal to the one that was saved.

    Raises:
        ResultFileError: If the file is not such a result, or is damaged.
        OSError: If it cannot be opened.
    """
    content, arrays = result_file.read(path, format_name=FORMAT_NAME, format_version=FORMAT_VERSION)
    with result_file.consistent(path, "does not hold consistent masks"):
        weights, config = parts.read_layout(content)
        masks = {one.param_name: torch.from_numpy(arrays[one.param_name]) for one in weights}
        fields = {name: content[name] for name in ("task", "rows", "attributes")}
        return PruningMasks(masks=masks, weights=weights, config=config, **fields)


def _check_size(share: float | None, count: int | None) -> None:
    if (share is None) == (count is None):
        raise errors.OptionError(f"share={share!r} and count={count!r}; expected exactly one of them.")
    if share is not None and (isinstance(share, bool) or not 0 <= share <= 1):
        raise errors.OptionError(f"share is {share!r}; expected a number from 0 to 1.")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0):
        raise errors.OptionError(f"count is {count!r}; expected an integer from 0 up.")


def _scores(source: FisherImportance, structure: str) -> dict[tuple[int | None, str], np.ndarray]:
    """Return ``{(layer, name): scores}`` of all units, in the order in which ties are decided."""
    if structure == "unstructured":
        return {
            (one.layer, one.param_name): source.values[one.param_name].reshape(-1).numpy()
            for one in parts.in_order(source.weights)
        }
    if structure == "head":
        scores: dict[Any, np.ndarray] = {(layer, "heads"): values for layer, values in source.query_heads().items()}
    else:
        sums = source.channels()
        groups = parts.channel_groups(source.weights)
        scores = {(group.layer, group.module_name): sums[group.module_name] for group in groups}
    if not scores:
        group = "attention" if structure == "head" else "mlp"
        raise errors.UnknownParameterError(
            f"no weights of {group} were collected, so there is no {structure} to choose."
        )
    return scores


def _choose(
    scores: Mapping[tuple[int | None, str], np.ndarray],
    share: float | None,
    count: int | None,
    scope: str,
    rule: str,
    keep: str,
) -> tuple[dict[tuple[int | None, str], np.ndarray], dict[int | None, float | None]]:
    """Return ``{(layer, name): kept}`` and ``{layer: threshold}``."""
    kept: dict[tuple[int | None, str], np.ndarray]
    thresholds: dict[int | None, float | None]
    kept, thresholds = {}, {}
    layers = list(dict.fromkeys(layer for layer, _ in scores))
    for group in [layers] if scope == "global" else [[layer] for layer in layers]:
        keys = [key for key in scores if key[0] in group]
        size = sum(len(scores[key]) for key in keys)
        if count is not None and count > size:
            where = "all layers" if scope == "global" else f"layer {group[0]}"
            raise errors.OptionError(f"count is {count}; expected at most {size}, the number of units of {where}.")
        number = count if count is not None else int(np.floor(share * size + 0.5))  # type: ignore[operator]  # share is given where count is not
        values = [scores[key] if keep == "highest" else -scores[key] for key in keys]
        chosen, threshold = _best(values, number, rule)
        kept |= dict(zip(keys, chosen, strict=True))
        if threshold is not None:
            threshold = threshold if keep == "highest" else -threshold
        thresholds |= dict.fromkeys(group, threshold)
    return kept, thresholds


def _best(values: Sequence[np.ndarray], number: int, rule: str) -> tuple[list[np.ndarray], float | None]:
    """Flag the ``number`` largest of several arrays taken as one, the first of equals; in linear time."""
    if number == 0:
        return [np.zeros(len(one), bool) for one in values], None
    joined = np.concatenate(values)
    threshold = np.partition(joined, len(joined) - number)[len(joined) - number]
    if rule == "quantile":
        return [one >= threshold for one in values], float(threshold)
    left = number - sum(int((one > threshold).sum()) for one in values)
    chosen = []
    for one in values:
        flags = one > threshold
        ties = np.flatnonzero(one == threshold)[:left]
        flags[ties] = True
        left -= len(ties)
        chosen.append(flags)
    return chosen, float(threshold)


def _masks(
    source: FisherImportance, structure: str, kept: Mapping[tuple[int | None, str], np.ndarray]
) -> dict[str, torch.Tensor]:
    by_name = {one.param_name: one for one in source.weights}
    if structure == "unstructured":
        return {
            name: torch.from_numpy(kept[one.layer, name]).reshape(one.weight_shape) for name, one in by_name.items()
        }
    masks = {}
    if structure == "channel":
        for group in parts.channel_groups(source.weights):
            for one in group.weights:
                masks[one.param_name] = _spread(kept[group.layer, group.module_name], one)
        return masks
    for layout, projection, unit in parts.head_slices(source.config, by_name):  # type: ignore[arg-type]  # there is a layout once something is held
        name = projection.param_name
        masks.setdefault(name, torch.ones(projection.weight_shape, dtype=torch.bool))
        heads = kept[layout.layer, "heads"]
        group = layout.num_heads // layout.num_kv_heads if projection.block in "KV" else 1
        if not heads[unit * group : (unit + 1) * group].any():
            masks[name][projection.slice_of(unit).index] = False
    return masks


def _spread(flags: np.ndarray, weight: LinearWeight) -> torch.Tensor:
    """Repeat flags of channels over the whole of a weight."""
    flags = torch.from_numpy(flags)
    shaped = flags[:, None] if weight.channel_axis == 0 else flags[None, :]
    return shaped.expand(weight.weight_shape).clone()


def _along(mask: torch.Tensor, weight: LinearWeight) -> np.ndarray:
    return mask.all(1 - weight.channel_axis).numpy()


def _rows(
    weights: Sequence[LinearWeight],
    masks: Mapping[str, torch.Tensor],
    kept: Mapping[tuple[int | None, str], np.ndarray],
    thresholds: Mapping[int | None, float | None],
) -> Iterator[dict[str, Any]]:
    for layer, threshold in thresholds.items():
        flags = [one for (place, _), one in kept.items() if place == layer]
        members = [masks[one.param_name] for one in weights if one.layer == layer]
        yield {
            "layer": layer,
            "num_units": sum(len(one) for one in flags),
            "kept_units": sum(int(one.sum()) for one in flags),
            "threshold": threshold,
            "num_parameters": sum(mask.numel() for mask in members),
            "kept_parameters": sum(int(mask.sum()) for mask in members),
        }
