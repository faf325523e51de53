"""The labelled result of a prediction: what a step on B is expected to do to A's loss, slice by slice and in groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import errors, escaping, head_statistics, labels, result_file
from .geometry import BLOCKS

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from .option_types import PathLike


__all__ = ["Prediction", "load_prediction"]

FORMAT_NAME = "qkov-prediction"
FORMAT_VERSION = 1
LEVELS = ("slice", "kv_head", "layer", "block", "all")
LARGEST_SHARE = 0.1
"""Share of the first-order change that the curvature may have where the prediction still counts as first order."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Prediction:
    r"""Predicted changes of task A's loss by a step on task B.

    Arrays are those of step size 1; at step size :math:`\eta` first-order changes are :math:`\eta` times, curvatures
    :math:`\eta^2` times as large. Changes are in nats of a sample of A, summed over its tokens; above 0 the step hurts A.

    Attributes:
        blocks, layers, units: Labels of the slices, one entry each; units are query heads for Q and O, kv heads for K and V.
        sample_a: Ids of A's samples.
        first: First-order change of every sample of A, ``[n_a, slices]``.
        second: Diagonal curvature of every curvature sample, or its first-order change (curvature "gradient"),
            ``[n_c, slices]``.
        influence: First-order change of A's mean loss by every sample of B alone, ``[n_b, slices]``.
        descent: First-order decrease of B's own mean loss, ``[slices]``.
        tokens_a: Tokens of A's samples, ``[n_a]``.
        codes_a, codes_b: Number of the cluster of every sample; None where clusters are not known, and no interval is.
        step_size: Learning rate that tables and pictures use.
        attributes: JSON-able facts: tasks, optimiser, curvature, estimand, level, numbers of heads, versions.

    Raises:
        ShapeError: If an array does not fit the labels.
    """

    blocks: tuple
    layers: tuple
    units: tuple
    sample_a: tuple
    first: np.ndarray
    second: np.ndarray
    influence: np.ndarray
    descent: np.ndarray
    tokens_a: np.ndarray
    codes_a: np.ndarray | None
    codes_b: np.ndarray | None
    step_size: float
    attributes: dict

    def __post_init__(self) -> None:
        if not (np.isfinite(self.step_size) and self.step_size > 0):
            raise errors.OptionError(f"step_size is {self.step_size}; expected a positive number, a learning rate.")
        object.__setattr__(self, "step_size", float(self.step_size))
        object.__setattr__(self, "sample_a", labels.checked_ids(self.sample_a, "sample_a"))
        if not set(self.blocks) <= set(BLOCKS) or len(set(zip(*self._labels, strict=True))) < len(self.blocks):
            raise errors.OptionError("slices are not labelled once each by a block, a layer and a unit.")
        slices, samples = len(self.blocks), len(self.sample_a)
        for name, shape in (("first", (samples, slices)), ("second", (None, slices)), ("influence", (None, slices)),
                            ("descent", (slices,)), ("tokens_a", (samples,)), ("codes_a", (samples,)),
                            ("codes_b", (len(self.influence),))):  # fmt: skip
            values = getattr(self, name)
            if values is None and name.startswith("codes"):
                continue
            whole = name.startswith(("codes", "tokens"))
            values = labels.whole_array(values, name) if whole else np.array(values, np.float64)
            if len(values.shape) != len(shape) or any(
                a not in (None, b) for a, b in zip(shape, values.shape, strict=True)
            ):
                raise errors.ShapeError(f"{name} has shape {values.shape}; expected {shape}.")
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        object.__setattr__(self, "attributes", labels.plain_json(self.attributes))

    @property
    def _labels(self) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
        return self.blocks, self.layers, self.units

    def at(self, step_size: float) -> Prediction:
        """Return the same prediction for another ``step_size``."""
        return dataclasses.replace(self, step_size=step_size)

    @property
    def change(self) -> np.ndarray:
        """Predicted change of A's mean loss by each slice's step, ``[slices]``, nats of a sample."""
        return self.to_dataframe("slice")["change"].to_numpy()

    def to_dataframe(self, level: Literal["slice", "kv_head", "layer", "block", "all"] = "slice") -> pd.DataFrame:
        r"""Return a pandas table of predicted changes, one row per slice or per group of slices that step together.

        Columns: labels; ``change`` (nats of a sample of A), ``low`` and ``high`` (NaN without clusters), ``change_per_token``
        (over A's mean number of tokens), ``first_order``, ``curvature`` (their sum is the change), ``decrease_of_b`` (nats of
        a sample of B, first order) and ``first_order_until``: the step size at which the curvature is a tenth of the
        first-order change.

        Args:
            level: "slice"; "kv_head" (K and V of it with Q and O of the query heads that it serves); "layer"; "block"
                (of a layer); "all". A group's first-order change and diagonal curvature are sums over its slices;
                curvature "gradient" is that of the joint step.

        Returns:
            A pandas ``DataFrame``.

        Raises:
            OptionError: If the level is not known.
        """
        import pandas as pd

        if level not in LEVELS:
            raise errors.OptionError(f"level is {level!r}; expected one of {', '.join(LEVELS)}.")
        rows = [{**names, **self._changes(np.array(members))} for names, members in self._groups(level)]
        table = pd.DataFrame(rows)
        for name in ("head", "kv_head"):
            if name in table:
                table[name] = table[name].astype("Int64")
        table.attrs = {"step_size": self.step_size, **self.attributes}
        return table

    def _groups(self, level: str) -> list[tuple[dict[str, Any], list[int]]]:
        """Pairs of labels and numbers of slices."""
        groups: dict[Any, Any] = {}
        for number, (block, layer, unit) in enumerate(zip(*self._labels, strict=True)):
            size = self.attributes["num_heads"][str(layer)] // self.attributes["num_kv_heads"][str(layer)]
            own_kv = block in "KV"
            kv_head = unit if own_kv else unit // size
            names: Any = {
                "slice": {"block": block, "layer": layer, "head": None if own_kv else unit, "kv_head": kv_head},
                "kv_head": {"layer": layer, "kv_head": kv_head},
                "layer": {"layer": layer},
                "block": {"block": block, "layer": layer},
                "all": {},
            }[level]
            groups.setdefault(tuple(names.items()), []).append(number)
        return [(dict(names), members) for names, members in groups.items()]

    def _changes(self, members: Sequence[int] | np.ndarray) -> dict[str, float]:
        first = self.step_size * self.first[:, members].sum(1)
        second = self._curvature(members)
        own = self.attributes["curvature_task"] is None
        low, high = self._interval(first + second if own else first, members, 0.0 if own else second.mean())
        change = first.mean() + second.mean()
        size = abs(second.mean())
        return {
            "change": change,
            "low": low,
            "high": high,
            "change_per_token": change / self.tokens_a.mean(),
            "first_order": first.mean(),
            "curvature": second.mean(),
            "decrease_of_b": self.step_size * self.descent[members].sum(),
            "first_order_until": LARGEST_SHARE * abs(first.mean()) / size * self.step_size if size else np.inf,
        }

    def _curvature(self, members: Sequence[int] | np.ndarray) -> np.ndarray:
        total = self.second[:, members].sum(1)
        if self.attributes["curvature"] == "gradient":
            return (self.step_size * total) ** 2 / 2  # the joint step's: slices do not add up
        return self.step_size**2 * total

    def _interval(self, changes: np.ndarray, members: Sequence[int] | np.ndarray, rest: float) -> tuple[float, float]:
        """A t interval of the mean whose units are clusters of A, and for the population's step those of B as well."""
        from scipy import stats

        if self.codes_a is None or self.codes_a.max() < 1:
            return np.nan, np.nan
        variances = [_variance(changes, self.codes_a)]
        freedoms = [self.codes_a.max()]
        if self.attributes["estimand"] == "population":
            if self.codes_b is None:
                return np.nan, np.nan
            variances.append(_variance(self.step_size * self.influence[:, members].sum(1), self.codes_b))
            freedoms.append(self.codes_b.max())
        total = sum(variances)
        freedom = total**2 / sum(v**2 / f for v, f in zip(variances, freedoms, strict=True)) if total else freedoms[0]
        half = stats.t.ppf((1 + self.attributes["level"]) / 2, freedom) * total**0.5
        return changes.mean() + rest - half, changes.mean() + rest + half

    def maps(self, values: np.ndarray | pd.Series | None = None) -> dict[str, np.ndarray]:
        """Lay values of the slices out by layer and query head, NaN where absent.

        Args:
            values: ``[slices]``; default the changes.

        Returns:
            ``{block: [layers, query heads]}``, float64.
        """
        values = self.change if values is None else np.asarray(values, np.float64)
        return head_statistics.lay_out(*self._labels, values, self.kv_index)

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """The layers, each once, in rising order."""
        return tuple(sorted(set(self.layers)))

    @cached_property
    def kv_index(self) -> np.ndarray:
        """The kv head of every query head, ``[layers, heads]``; -1 where a layer has no such head."""
        return head_statistics.kv_heads_of(self.layer_numbers, self.attributes)

    def plot(self) -> Figure:
        """Draw the predicted changes, layer by head, a dot where the interval excludes 0; a matplotlib ``Figure``."""
        from . import plots

        table = self.to_dataframe("slice")
        facts = self.attributes
        known = table["low"].notna().any()
        marks = (table["low"] > 0) | (table["high"] < 0)
        title = f"{facts['task_a']} (A) after a step on {facts['task_b']} (B), each slice alone"
        return plots.plot_maps(
            self.maps(),
            layers=self.layer_numbers,
            kv_index=self.kv_index,
            title=f"{title}\n{facts['optimiser']}, step size {self.step_size:.3g}",
            unit="predicted change of A's loss, nats of a sample",
            kind="diverging",
            note=f"A dot: the {facts['level']:.0%} interval excludes 0." if known else "",
            marks={block: values == 1 for block, values in self.maps(marks).items()} if known else None,
            sign="above 0 the step on B raises A's loss",
            conflict="high",
        )

    def __eq__(self, other: object) -> bool:
        return self.identical(other) if isinstance(other, Prediction) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and so without a hash

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the result, in hex."""
        return result_file.digest(*self._parts())

    def identical(self, other: object) -> bool:
        """Tell whether ``other`` has the same labels, attributes and every bit of every array."""
        return isinstance(other, Prediction) and self.fingerprint == other.fingerprint

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        content: dict[str, Any] = {
            name: list(getattr(self, name)) for name in ("blocks", "layers", "units", "sample_a")
        }
        content |= {"attributes": self.attributes, "step_size": self.step_size}
        names = ("first", "second", "influence", "descent", "tokens_a", "codes_a", "codes_b")
        return content, {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def save(self, path: PathLike) -> Path:
        """Write one safetensors file to ``path``, atomically; equal results give equal bytes. Returns the path."""
        return result_file.write(path, *self._parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _said(self) -> str:
        facts, whole = self.attributes, self.to_dataframe("all").iloc[0]
        changes = self.change
        moved = "raises" if whole["change"] > 0 else "lowers"
        head = (
            f"one {facts['optimiser']} step of size {self.step_size:.3g} on all slices for {facts['task_b']!r} {moved} the "
            f"loss of {facts['task_a']!r} by {abs(whole['change']):.3g} nats a sample"
        )
        interval = "" if np.isnan(whole["low"]) else f" [{whole['low']:.3g}, {whole['high']:.3g}]"
        counts = f"{int((changes > 0).sum())} of {len(changes)} slices alone would raise it"
        fitted = facts.get("num_cross_fitted", 0)
        shared = (
            f"; {fitted} samples of A share a cluster or their input with B and meet a step without it"
            if fitted
            else ""
        )
        return f"{head}{interval}; {counts}{shared}"

    def __repr__(self) -> str:
        until = f"First order up to a step of about {self._until():.2g}."
        return escaping.for_terminal(f"<Prediction: {self._said()}. {until}>")

    def _until(self) -> float:
        return float(self.to_dataframe("all")["first_order_until"].iloc[0])

    def _repr_html_(self) -> str:
        table = self.to_dataframe("slice").sort_values("change", ascending=False, kind="stable").head(10)
        table["head"] = table["head"].astype(object).where(table["head"].notna(), "")
        said = f"<p><b>Prediction</b>: {escaping.for_html(self._said())}.</p><p>The slices that hurt most:</p>"
        return escaping.html_block(said, escaping.html_table(table))


def _variance(values: np.ndarray, codes: np.ndarray) -> float:
    """Variance of a mean over samples from the sums of what is left of their clusters."""
    sums = np.bincount(codes, values - values.mean())
    return len(sums) / (len(sums) - 1) * float(sums @ sums) / len(values) ** 2


def load_prediction(path: PathLike) -> Prediction:
    """Load what :meth:`Prediction.save` wrote, checked.

    Args:
        path: The file.

    Returns:
        The result, equal to the one that was saved.

    Raises:
        ResultFileError: If the file is not such a result, is damaged, or contradicts itself.
        OSError: If it cannot be opened.
    """
    content, arrays = result_file.read(path, format_name=FORMAT_NAME, format_version=FORMAT_VERSION)
    with result_file.consistent(path, "is not a consistent prediction"):
        names = {name: tuple(content.pop(name)) for name in ("blocks", "layers", "units", "sample_a")}
        return Prediction(**names, **content, **{"codes_a": None, "codes_b": None, **arrays})  # type: ignore[arg-type]  # a mapping is enough
