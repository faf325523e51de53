"""The labelled result of testing every head: a row per slice, a row per layer, and what may be claimed, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from . import errors, escaping, labels, result_file
from .geometry import BLOCKS

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from .head_types import HeadTypes
    from .option_types import PathLike


__all__ = ["HeadStatistics", "load_statistics"]

FORMAT_NAME = "qkov-head-statistics"
FORMAT_VERSION = 1
ALPHA = 0.05
CRITERIA = {"p_maxt": "family-wise p", "q": "false discovery rate q", "p": "p of a slice named beforehand"}
MAPS = {"lift": "lift of A into B", "marginal": "average with A's Fisher: L1 norm of B's gradient"}
"""Maps whose reliability and validity stand in every result."""
SHOWN = ("effect", "statistic", "p", "q", "p_maxt")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HeadStatistics:
    """What was found in every slice and layer.

    Attributes:
        blocks, layers, units: Labels of the slices, one entry each; ``units`` are query heads for Q and O, kv heads for K
            and V, which are one hypothesis per kv head. A slice that a layer does not have has no entry.
        columns: Name to float64 ``[slices]``; NaN where nothing could be tested (rounding noise, a sample without a
            gradient). ``exchange_...`` (do the tasks differ) always; ``source_...`` (is A a source of what B changes more
            than the reference) with a reference task, with ``statistic``, ``effect``, ``p``, ``q`` (Benjamini-Hochberg)
            and ``p_maxt`` (family-wise); ``lift`` with its interval; ``contrast``: log lift against the other heads of
            the layer and block.
        by_layer: Name to float64 ``[layers]``: the main test, layer by layer, in the order of ``layer_numbers``.
        attributes: JSON-able facts: tasks, numbers of samples, clusters and heads, seed, claims, reliability, notes.

    Raises:
        ShapeError: If a column does not fit the labels.
        OptionError: If labels or columns are not those of such a result.
    """

    blocks: tuple
    layers: tuple
    units: tuple
    columns: dict
    by_layer: dict
    attributes: dict

    def __post_init__(self) -> None:
        if not set(self.blocks) <= set(BLOCKS) or not all(type(one) is int for one in (*self.layers, *self.units)):
            raise errors.OptionError(f"labels are not blocks of {', '.join(BLOCKS)} and integer layers and units.")
        if len(set(zip(self.blocks, self.layers, self.units, strict=True))) < len(self.blocks):
            raise errors.OptionError("a slice is labelled twice; expected each block, layer and unit once.")
        for group, count in ((self.columns, len(self.blocks)), (self.by_layer, len(self.layer_numbers))):
            for name, values in group.items():
                if np.shape(values) != (count,):
                    raise errors.ShapeError(f"column {name!r} has shape {np.shape(values)}; expected ({count},).")
        object.__setattr__(self, "columns", {name: _frozen(values) for name, values in self.columns.items()})
        object.__setattr__(self, "by_layer", {name: _frozen(values) for name, values in self.by_layer.items()})
        object.__setattr__(self, "attributes", labels.plain_json(self.attributes))
        if missing := [name for name in SHOWN if f"{self.main_test}_{name}" not in self.columns]:
            raise errors.OptionError(f"the main test lacks its {', '.join(missing)}.")

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """The layers, each once, in rising order."""
        return tuple(sorted(set(self.layers)))

    @property
    def main_test(self) -> str:
        """Name the test that conclusions rest on: "source" with a reference task, else "exchange"."""
        return self.attributes["main_test"]

    @property
    def claim(self) -> str:
        """What may be said of a slice that the main test rejects."""
        return self.attributes["tests"][self.main_test]["claim"]

    @property
    def alternative(self) -> str:
        """Which values of the main test speak against its null: "greater", "less" or "two-sided"."""
        return self.attributes["tests"][self.main_test]["alternative"]

    def conclusion(self, alpha: float = ALPHA, criterion: str = "p_maxt") -> str:
        """Say in words what may be concluded, and what may not.

        Args:
            alpha, criterion: As for :meth:`survives`.

        Returns:
            Sentences that may be quoted.
        """
        facts, number = self.attributes, int(self.survives(alpha, criterion).sum())
        tested = int((~np.isnan(self.columns[f"{self.main_test}_p"])).sum())
        names = f"A is {facts['task_a']!r}, B is {facts['task_b']!r}"
        names += f", R is {facts['reference_task']!r}" if facts["reference_task"] else ""
        limits = {
            "source": "Nothing is claimed of the other slices, and not that B does A harm: to coincide has no sign.",
            "exchange": "That the tasks differ is all that can be concluded, because there is no reference task.",
        }[self.main_test]
        return (
            f"{names}. In {number} of {tested} tested slices ({CRITERIA[criterion]} <= {alpha}): {self.claim}. {limits}"
        )

    def survives(self, alpha: float = ALPHA, criterion: str = "p_maxt") -> np.ndarray:
        """Tell which slices the main test rejects, bool ``[slices]``.

        Args:
            alpha: Level.
            criterion: "p_maxt" (family-wise error), "q" (false discovery rate) or "p" (of a single slice named
                beforehand).

        Returns:
            Bool ``[slices]``.

        Raises:
            OptionError: If the criterion is not known.
        """
        if criterion not in CRITERIA:
            raise errors.OptionError(f"criterion={criterion!r} is not known; expected one of {', '.join(CRITERIA)}.")
        values = self.columns[f"{self.main_test}_{criterion}"]
        return ~np.isnan(values) & (values <= alpha)

    def table(self, *, head_types: HeadTypes | None = None) -> pd.DataFrame:
        """Return a pandas table, a row per slice, sorted by evidence: family-wise p, then p, then the statistic.

        ``head`` is missing for K and V, whose slices belong to a kv head; ``kv_head`` of a Q or O row is the one it reads.

        Args:
            head_types: A :class:`qkov.HeadTypes` of the model, for a column ``head_type``: of a kv head the type that all
                its query heads share, or "mixed".
        """
        import pandas as pd

        own_kv = [block in "KV" for block in self.blocks]
        heads = [pd.NA if own else unit for own, unit in zip(own_kv, self.units, strict=True)]
        sizes = [self._group_size(layer) for layer in self.layers]
        kv_heads = [unit if own else unit // size for own, unit, size in zip(own_kv, self.units, sizes, strict=True)]
        names = {
            "block": list(self.blocks),
            "layer": np.array(self.layers, np.int64),
            "head": pd.array(heads, dtype="Int64"),
            "kv_head": pd.array(kv_heads, dtype="Int64"),
        }
        if head_types is not None:
            names["head_type"] = self._types_of_slices(head_types)
        turned: dict[str, Any] = {
            "greater": np.negative,
            "less": np.positive,
            "two-sided": lambda values: -np.abs(values),
        }
        statistic, p, p_maxt = (self.columns[f"{self.main_test}_{name}"] for name in ("statistic", "p", "p_maxt"))
        order = np.lexsort((turned[self.alternative](statistic), p, p_maxt))
        return pd.DataFrame(names | self.columns).iloc[order].reset_index(drop=True)

    to_dataframe = table

    def _types_of_slices(self, head_types: HeadTypes) -> list[str]:
        known, other = self.attributes.get("model_fingerprint"), head_types.attributes.get("model_fingerprint")
        if known and other and known != other:
            raise errors.ModelChangedError("these head types were measured on another model than these tests.")
        found = head_types.select(self.layer_numbers, range(self.kv_index.shape[1])).label()
        rows = {layer: row for row, layer in enumerate(self.layer_numbers)}
        named = []
        for block, layer, unit in zip(self.blocks, self.layers, self.units, strict=True):
            own = self.kv_index[rows[layer]] == unit if block in "KV" else slice(unit, unit + 1)
            served = set(found[rows[layer], own].tolist())
            named.append(served.pop() if len(served) == 1 else "mixed")
        return named

    def layer_table(self) -> pd.DataFrame:
        """Return a pandas table of the main test, a row per layer."""
        import pandas as pd

        return pd.DataFrame({"layer": np.array(self.layer_numbers, np.int64)} | self.by_layer)

    def reliability_table(self) -> pd.DataFrame:
        """Return a pandas table with a row per map: is it stable (reliability), and is it about the tasks (validity).

        The row of the seeds' average is a control: stable, and the norm of B's gradient whatever A is. Empty where a task
        has fewer than four clusters.
        """
        import pandas as pd

        order = ("reliability", "norm_correlation", "swap_change", "half", "num_slices")
        measured = self.attributes["reliability"].items()
        return pd.DataFrame([{"map": MAPS[one], **{name: found[name] for name in order}} for one, found in measured])

    @cached_property
    def data(self) -> xr.Dataset:
        """Show all columns: ``xarray.Dataset`` on a dimension ``slice`` labelled by block, layer and unit."""
        import xarray as xr

        coords = {
            "block": ("slice", list(self.blocks)),
            "layer": ("slice", np.array(self.layers, np.int64)),
            "unit": ("slice", np.array(self.units, np.int64)),
        }
        return xr.Dataset(
            {name: ("slice", values) for name, values in self.columns.items()}, coords, attrs=dict(self.attributes)
        )

    def maps(self, values: np.ndarray | str) -> dict[str, np.ndarray]:
        """Lay values of the slices out as ``{block: [layers, query heads]}``, float64, NaN where there is no such slice.

        A kv head stands under each query head that it serves, see :attr:`kv_index`.

        Args:
            values: Name of a column, or ``[slices]``.

        Returns:
            A dict of arrays.
        """
        values = self.columns[values] if isinstance(values, str) else np.asarray(values, np.float64)
        return lay_out(self.blocks, self.layers, self.units, values, self.kv_index)

    @cached_property
    def kv_index(self) -> np.ndarray:
        """The kv head of every query head, ``[layers, heads]``; -1 where a layer has no such head."""
        return kv_heads_of(self.layer_numbers, self.attributes)

    def _group_size(self, layer: int) -> int:
        return self.attributes["num_heads"][str(layer)] // self.attributes["num_kv_heads"][str(layer)]

    def plot(self, *, alpha: float = ALPHA, criterion: str = "p_maxt") -> Figure:
        """Draw the effect of the main test, layer by head, with a dot where a slice survives; a matplotlib ``Figure``.

        Args:
            alpha, criterion: As for :meth:`survives`.

        Returns:
            A matplotlib ``Figure``.
        """
        from . import plots

        facts, kept = self.attributes, self.survives(alpha, criterion)
        effect, unit = self.columns[f"{self.main_test}_effect"], facts["tests"][self.main_test]["effect"]
        if (
            self.main_test == "source"
        ):  # a ratio of lifts, 1 being no difference; the other effect is a logarithm already
            effect, unit = np.log(effect), f"log {unit}"
        a, b, r = (facts[name] for name in ("task_a", "task_b", "reference_task"))
        tasks = f"{a} (A) and {b} (B)" if r is None else f"{a} (A) into {b} (B), against {r} (R)"
        return plots.plot_maps(
            self.maps(effect),
            layers=self.layer_numbers,
            kv_index=self.kv_index,
            title=f"{tasks}\n{int(kept.sum())} of {len(kept)} slices with a dot: {CRITERIA[criterion]} <= {alpha}",
            unit=unit,
            kind="diverging",
            scale="shared",
            note=f"A dot says: {self.claim}.",
            marks={block: values == 1 for block, values in self.maps(kept).items()},
            absent="Grey: the model has no such slice, or nothing can be tested there.",
        )

    def __eq__(self, other: object) -> bool:
        return self.identical(other) if isinstance(other, HeadStatistics) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and so without a hash

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the result, in hex."""
        return result_file.digest(*self._parts())

    def identical(self, other: object) -> bool:
        """Tell whether ``other`` has the same labels, attributes and every bit of every array."""
        return isinstance(other, HeadStatistics) and self.fingerprint == other.fingerprint

    def save(self, path: PathLike) -> Path:
        """Write one safetensors file to ``path``, atomically; equal results give equal bytes. Returns the path."""
        return result_file.write(path, *self._parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        content: dict[str, Any] = {name: list(getattr(self, name)) for name in ("blocks", "layers", "units")}
        content |= {"attributes": self.attributes, "columns": list(self.columns), "by_layer": list(self.by_layer)}
        arrays = {f"column.{number}": values for number, values in enumerate(self.columns.values())}
        arrays |= {f"layer.{number}": values for number, values in enumerate(self.by_layer.values())}
        return content, arrays

    def __repr__(self) -> str:
        said = "".join(f"\n  {sentence}" for sentence in self.attributes["notes"])
        return escaping.for_terminal(f"<HeadStatistics {self.conclusion()}{said}>")

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escaping.for_html(sentence)}</p>" for sentence in self.attributes["notes"])
        names = [f"{self.main_test}_{name}" for name in SHOWN]
        top = self.table()[["block", "layer", "head", "kv_head", *names]].head(10).astype({"head": object})
        top["head"] = [
            "" if own else head for own, head in zip(top["block"].isin(["K", "V"]), top["head"], strict=True)
        ]
        rest = f"<p>The first {len(top)} of {len(self.blocks)} slices, by evidence:</p>"
        said = f"<p><b>HeadStatistics</b> {escaping.for_html(self.conclusion())}</p>"
        return escaping.html_block(said, notes, rest, escaping.html_table(top))


def load_statistics(path: PathLike) -> HeadStatistics:
    """Load what :meth:`HeadStatistics.save` wrote, checked.

    Args:
        path: The file.

    Returns:
        The result, equal to the one that was saved.

    Raises:
        ResultFileError: If the file is not such a result, is damaged, or contradicts itself.
        OSError: If it cannot be opened.
    """
    content, arrays = result_file.read(path, format_name=FORMAT_NAME, format_version=FORMAT_VERSION)
    with result_file.consistent(path, "is not a consistent result of tests"):
        return HeadStatistics(
            blocks=tuple(content["blocks"]),
            layers=tuple(content["layers"]),
            units=tuple(content["units"]),
            columns={name: arrays[f"column.{number}"] for number, name in enumerate(content["columns"])},
            by_layer={name: arrays[f"layer.{number}"] for number, name in enumerate(content["by_layer"])},
            attributes=content["attributes"],
        )


def lay_out(
    blocks: Sequence[str], layers: Sequence[int], slice_units: Sequence[int], values: np.ndarray, kv_index: np.ndarray
) -> dict[str, np.ndarray]:
    """Lay values of slices out as ``{block: [layers, query heads]}``, a kv head under each query head that it serves.

    Args:
        blocks, layers, slice_units: Labels of the slices. values: One per slice.
        kv_index: As :func:`kv_heads_of` gives it.
    """
    rows = {layer: row for row, layer in enumerate(sorted(set(layers)))}
    found = {block: np.full(kv_index.shape, np.nan) for block in dict.fromkeys(blocks)}
    for block, layer, unit, value in zip(blocks, layers, slice_units, values, strict=True):
        row = rows[layer]
        found[block][row, kv_index[row] == unit if block in "KV" else unit] = value
    return found


def kv_heads_of(layer_numbers: Sequence[int], attributes: Mapping[str, Any]) -> np.ndarray:
    """Return the kv head of every query head, ``[layers, heads]``, from ``num_heads`` and ``num_kv_heads`` of each layer."""
    numbers = [attributes["num_heads"][str(layer)] for layer in layer_numbers]
    index = np.full((len(numbers), max(numbers)), -1)
    for row, (layer, number) in enumerate(zip(layer_numbers, numbers, strict=True)):
        index[row, :number] = np.arange(number) // (number // attributes["num_kv_heads"][str(layer)])
    return index


def _frozen(values: np.ndarray) -> np.ndarray:
    values = np.add(values, 0.0, dtype=np.float64)  # a copy, and -0.0 becomes 0.0
    values[np.isnan(values)] = np.nan  # one NaN of the many bit patterns
    values.flags.writeable = False
    return values
