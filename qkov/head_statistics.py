"""The labelled result of testing every head: a row per slice, a row per layer, and what may be claimed, in words."""

import html
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import errors, result_file

__all__ = ["HeadStatistics", "load_statistics"]

FORMAT_NAME = "qkov-head-statistics"
FORMAT_VERSION = 1
ALPHA = 0.05
CRITERIA = ("p_maxt", "q", "p")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HeadStatistics:
    """What was found in every slice and layer.

    Attributes:
        blocks, layers, units: Labels of the slices, one entry each; ``units`` are query heads for Q and O, kv heads for K
            and V, which are one hypothesis per kv head.
        columns: Name to float64 ``[slices]``; NaN where nothing could be tested. ``exchange_...`` (do the tasks differ)
            always; ``source_...`` (is A a source of what B changes more than the reference) with a reference task, with
            ``statistic``, ``effect``, ``p``, ``q`` (Benjamini-Hochberg) and ``p_maxt`` (family-wise); ``lift`` with its
            interval; ``contrast`` with the other heads of the layer and block.
        by_layer: Name to ``[layers]``: the main test, layer by layer.
        attributes: JSON-able facts: tasks, numbers of samples and clusters, seed, claims, reliability, notes.
    """

    blocks: tuple
    layers: tuple
    units: tuple
    columns: dict
    by_layer: dict
    attributes: dict

    def __post_init__(self):
        count = len(self.blocks)
        for name, values in self.columns.items():
            if np.shape(values) != (count,):
                raise errors.ShapeError(f"column {name!r} has shape {np.shape(values)}; expected ({count},).")
        object.__setattr__(self, "columns", {name: _frozen(values) for name, values in self.columns.items()})
        object.__setattr__(self, "by_layer", {name: _frozen(values) for name, values in self.by_layer.items()})

    @property
    def main_test(self):
        """ "source" with a reference task, else "exchange"."""
        return self.attributes["main_test"]

    @property
    def claim(self):
        """What may be said of a slice that the main test rejects."""
        return self.attributes["tests"][self.main_test]["claim"]

    def survives(self, alpha=ALPHA, criterion="p_maxt"):
        """Tell which slices the main test rejects, bool ``[slices]``.

        Args:
            alpha: Level.
            criterion: "p_maxt" (family-wise error), "q" (false discovery rate) or "p" (of a single slice chosen
                beforehand).
        """
        if criterion not in CRITERIA:
            raise errors.OptionError(f"criterion={criterion!r} is not known; expected one of {', '.join(CRITERIA)}.")
        values = self.columns[f"{self.main_test}_{criterion}"]
        return ~np.isnan(values) & (values <= alpha)

    def table(self):
        """Return a pandas table, a row per slice, sorted by evidence: family-wise p, then p, then the statistic."""
        import pandas as pd

        labels = {"block": list(self.blocks), "layer": list(self.layers), "unit": list(self.units)}
        frame = pd.DataFrame(labels | self.columns)
        keys = [self.columns[f"{self.main_test}_{name}"] for name in ("p_maxt", "p", "statistic")]
        strength = (
            -np.abs(keys[2]) if self.attributes["tests"][self.main_test]["alternative"] == "two-sided" else -keys[2]
        )
        if self.attributes["tests"][self.main_test]["alternative"] == "less":
            strength = keys[2]
        order = np.lexsort((strength, keys[1], keys[0]))  # NaN last; ties in the order of the model
        return frame.iloc[order].reset_index(drop=True)

    to_dataframe = table

    def layer_table(self):
        """Return a pandas table of the main test, a row per layer."""
        import pandas as pd

        return pd.DataFrame(self.by_layer).astype({"layer": int})

    @cached_property
    def data(self):
        """``xarray.Dataset`` with a variable per column on a dimension ``slice`` labelled by block, layer and unit."""
        import xarray as xr

        coords = {
            "block": ("slice", list(self.blocks)),
            "layer": ("slice", list(self.layers)),
            "unit": ("slice", list(self.units)),
        }
        return xr.Dataset({name: ("slice", values) for name, values in self.columns.items()}, coords)

    def maps(self, column):
        """Lay a column out as ``{block: [layers, units]}``, with NaN where a layer has no such unit; and its layers."""
        rows = sorted(set(self.layers))
        found = {}
        for block in dict.fromkeys(self.blocks):
            mine = [index for index, one in enumerate(self.blocks) if one == block]
            grid = np.full((len(rows), 1 + max(self.units[index] for index in mine)), np.nan)
            for index in mine:
                grid[rows.index(self.layers[index]), self.units[index]] = self.columns[column][index]
            found[block] = grid
        return found, tuple(rows)

    def plot(self, *, alpha=ALPHA, criterion="p_maxt"):
        """Draw the effect of the main test, layer by head, with a mark where a slice survives; a matplotlib ``Figure``."""
        from . import plots

        return plots.plot_statistics(self, alpha=alpha, criterion=criterion)

    @cached_property
    def fingerprint(self):
        """SHA-256 of everything in the result, in hex."""
        return result_file.digest(*self._parts())

    def identical(self, other):
        """Tell whether another result has the same labels, attributes and every bit of every array."""
        return isinstance(other, HeadStatistics) and self.fingerprint == other.fingerprint

    def save(self, path):
        """Write one safetensors file, atomically; equal results give equal bytes. Returns the path."""
        return result_file.write(path, *self._parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _parts(self):
        content = {name: list(getattr(self, name)) for name in ("blocks", "layers", "units")}
        content |= {"attributes": self.attributes, "columns": list(self.columns), "by_layer": list(self.by_layer)}
        arrays = {f"column.{number}": values for number, values in enumerate(self.columns.values())}
        arrays |= {f"layer.{number}": values for number, values in enumerate(self.by_layer.values())}
        return content, arrays

    def _headline(self):
        facts = self.attributes
        against = f" against {facts['reference_task']!r}" if facts["reference_task"] else ""
        return (
            f"{facts['task_a']!r} into {facts['task_b']!r}{against}: {int(self.survives().sum())} of {len(self.blocks)} "
            f"slices with family-wise p <= {ALPHA}, {int(self.survives(criterion='q').sum())} with q <= {ALPHA}"
        )

    def __repr__(self):
        said = "".join(f"\n  {sentence}" for sentence in self.attributes["notes"])
        return f"<HeadStatistics {self._headline()}\n  a rejection says: {self.claim}{said}>"

    def _repr_html_(self):
        notes = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.attributes["notes"])
        return (
            f"<p><b>HeadStatistics</b> {html.escape(self._headline())}</p><p>A rejection says: {html.escape(self.claim)}.</p>"
            f"{notes}{self.table().head(10).to_html(index=False, float_format='{:.3g}'.format)}"
        )


def load_statistics(path):
    """Load what :meth:`HeadStatistics.save` wrote, checked.

    Raises:
        ResultFileError: If the file is not such a result, is damaged, or contradicts itself.
        OSError: If it cannot be opened.
    """
    content, arrays = result_file.read(path, format_name=FORMAT_NAME, format_version=FORMAT_VERSION)
    try:
        return HeadStatistics(
            blocks=tuple(content["blocks"]),
            layers=tuple(content["layers"]),
            units=tuple(content["units"]),
            columns={name: arrays[f"column.{number}"] for number, name in enumerate(content["columns"])},
            by_layer={name: arrays[f"layer.{number}"] for number, name in enumerate(content["by_layer"])},
            attributes=content["attributes"],
        )
    except (errors.QKOVError, KeyError, TypeError) as error:
        raise errors.ResultFileError(f"{path} is not a consistent result of tests: {error!r}") from error


def _frozen(values):
    values = np.add(values, 0.0, dtype=np.float64)  # a copy, and -0.0 becomes 0.0
    values.flags.writeable = False
    return values
