"""The labelled result of scoring heads by what they attend to: scores and chance values, labels, files, tables, pictures.

:mod:`qkov.pattern_scores` defines the types and :mod:`qkov.head_scoring` measures them. A type says where a head looks on
the inputs that were read. It does not say what the head writes, nor that the model needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from . import errors, escaping, labels, result_file

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from .heatmap import Heatmap
    from .option_types import PathLike


__all__ = ["HeadTypes", "load_head_types"]

FORMAT_NAME = "qkov-head-types"
FORMAT_VERSION = 1
THRESHOLD = 0.5
NONE = "none"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HeadTypes:
    """Scores of every query head for every head type.

    Attributes:
        types: Names of the rows of ``scores``, :data:`qkov.pattern_scores.MEASURES`: six types, then ``one_offset`` and
            ``non_uniformity``, which are no types.
        scores: ``[type, layer, head]``, float64; NaN for a head that the layer does not have, and for a type that does
            not apply to these inputs, see ``attributes["not_applicable"]``.
        chance: What attention spread evenly over all visible tokens scores, ``[type, layer]``: layers see different
            numbers of tokens where some have a sliding window.
        offset: How many positions back each head looks most often, ``[layer, head]``; negative is ahead.
        layers: True layer numbers.
        heads: True query-head numbers.
        attributes: JSON-able facts: ``inputs`` (what the model read), ``inputs_fingerprint``, ``model_fingerprint``,
            ``threshold`` of :meth:`label`, ``not_applicable`` (type to reason).

    Raises:
        ShapeError: If arrays and labels do not fit.
        OptionError: If the attributes cannot be written as JSON, or hold no threshold in (0, 1].
    """

    types: tuple
    scores: np.ndarray
    chance: np.ndarray
    offset: np.ndarray
    layers: tuple
    heads: tuple
    attributes: dict

    def __post_init__(self) -> None:
        for name in ("layers", "heads"):
            object.__setattr__(self, name, labels.checked_numbers(getattr(self, name), name))
        object.__setattr__(self, "types", tuple(self.types))
        grid = (len(self.layers), len(self.heads))
        shapes = {"scores": (len(self.types), *grid), "chance": (len(self.types), grid[0]), "offset": grid}
        for name, shape in shapes.items():
            values = np.add(getattr(self, name), 0.0, dtype=np.float64, order="C")
            if values.shape != shape:
                raise errors.ShapeError(f"{name} has shape {values.shape}; expected {shape}.")
            values[np.isnan(values)] = np.nan  # one NaN of the many bit patterns
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        facts = labels.plain_json({"threshold": THRESHOLD, "not_applicable": {}} | self.attributes)
        object.__setattr__(self, "attributes", facts)
        _check_threshold(facts["threshold"])

    def score(self, name: str) -> np.ndarray:
        """Return one type's scores, ``[layer, head]``.

        Args:
            name: Of the type.

        Returns:
            Float64 ``[layer, head]``, NaN for an absent head.
        """
        return self.scores[self._row(name)]

    def _row(self, name: str) -> int:
        if name not in self.types:
            raise errors.OptionError(f"No head type {name!r}; there are {', '.join(self.types)}.")
        return self.types.index(name)

    @property
    def present(self) -> np.ndarray:
        """Which query heads exist, bool ``[layer, head]``."""
        return ~np.isnan(self.score("non_uniformity"))

    def above_chance(self) -> np.ndarray:
        """Return ``(score - chance) / (1 - chance)``, ``[type, layer, head]``: 0 is even attention, 1 all attention."""
        chance = self.chance[:, :, None]
        return (self.scores - chance) / (1 - chance)

    def label(self, threshold: float | None = None) -> np.ndarray:
        """Name the dominant type of every head, str ``[layer, head]``.

        The rule: the attention type (previous_token, current_token, duplicate_token, induction, first_token) with the
        largest ``(score - chance) / (1 - chance)``, if that reaches the threshold; else "positional", if that score and
        ``non_uniformity`` both reach it; else "none". An absent head is "".

        Args:
            threshold: In (0, 1]; that of the attributes, 0.5, if not given: more than half of what could be there.

        Returns:
            Strings ``[layer, head]``.
        """
        threshold = _check_threshold(self.attributes["threshold"] if threshold is None else threshold)
        above = self.above_chance()
        attention = np.stack([above[self._row(name)] for name in _attention_types()])
        known = np.where(np.isnan(attention), -np.inf, attention)
        found = np.array(_attention_types(), object)[known.argmax(0)]
        positional = np.minimum(self.score("positional"), self.score("non_uniformity")) >= threshold  # NaN is False
        found = np.where(known.max(0) >= threshold, found, np.where(positional, "positional", NONE))
        return np.where(self.present, found, "").astype(str)

    def with_threshold(self, threshold: float) -> HeadTypes:
        """Return the same scores with another ``threshold`` for their labels, in (0, 1]."""
        return replace(self, attributes=self.attributes | {"threshold": _check_threshold(threshold)})

    def select(self, layers: Sequence[int], heads: Sequence[int]) -> HeadTypes:
        """Return the result for some layers and heads, in the order given.

        Args:
            layers: Layer numbers.
            heads: Query heads.

        Returns:
            A new result; this one is left as it was.

        Raises:
            SliceIndexError: If one of them was not scored.
        """
        for name, asked, known in (("layer", layers, self.layers), ("head", heads, self.heads)):
            if missing := [number for number in asked if number not in known]:
                raise errors.SliceIndexError(f"No {name} {missing[0]} among the scored ones, {list(known)}.")
        grid = np.ix_([self.layers.index(one) for one in layers], [self.heads.index(one) for one in heads])
        return replace(
            self,
            scores=self.scores[(slice(None), *grid)],  # type: ignore[arg-type]  # numpy takes slices among arrays
            chance=self.chance[:, grid[0][:, 0]],
            offset=self.offset[grid],
            layers=tuple(layers),
            heads=tuple(heads),
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return a tidy pandas table: a row per head with its label, offset and scores; chance by layer in ``attrs``."""
        import pandas as pd

        rows, columns = np.nonzero(self.present)
        table = {
            "layer": np.array(self.layers, np.int64)[rows],
            "head": np.array(self.heads, np.int64)[columns],
            "type": self.label()[rows, columns],
            "offset": self.offset[rows, columns].astype(np.int64),
        }
        table |= {name: self.score(name)[rows, columns] for name in self.types}
        frame = pd.DataFrame(table)
        chance = {name: dict(zip(self.layers, row, strict=True)) for name, row in self._chances()}
        frame.attrs = {"chance": chance} | self.attributes
        return frame

    def _chances(self) -> list[tuple[str, list[float]]]:
        """Pairs of a type that applies and its chance by layer, as plain lists."""
        pairs = zip(self.types, self.chance.tolist(), strict=True)
        return [(name, row) for name, row in pairs if not np.isnan(self.score(name)).all()]

    def plot(self) -> Figure:
        """Draw one layer-by-head map per type, all on one scale from 0; returns a matplotlib ``Figure``."""
        from . import pattern_scores, plots

        shown = {}
        for name, chance in self._chances():
            if name in pattern_scores.TYPES:
                values = sorted({f"{value:.2f}" for value in chance})
                panel = f"{name}, chance {' to '.join([values[0], *values[1:][-1:]])}"
                shown[panel] = np.where(self.present, np.maximum(self.score(name), 0), np.nan)
        return plots.plot_maps(
            shown,
            layers=self.layers,
            heads=self.heads,
            title=f"What heads attend to\n{self.attributes.get('inputs', '')}",
            unit="share",
            scale="shared",
            note=_MEANING,
            absent="Grey: the model has no such head.",
        )

    def __eq__(self, other: object) -> bool:
        return self.identical(other) if isinstance(other, HeadTypes) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and so without a hash

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the result, in hex."""
        return result_file.digest(*self.parts())

    def identical(self, other: object) -> bool:
        """Tell whether ``other`` has the same labels, attributes and every bit of every array."""
        return isinstance(other, HeadTypes) and self.fingerprint == other.fingerprint

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return ``(content, arrays)``, JSON-able and numpy: what a file holds, and :func:`from_parts` takes."""
        content = {name: list(getattr(self, name)) for name in ("types", "layers", "heads")}
        return content | {"attributes": self.attributes}, {
            name: getattr(self, name) for name in ("scores", "chance", "offset")
        }

    def save(self, path: PathLike) -> Path:
        """Write one safetensors file to ``path``, atomically; equal results give equal bytes. Returns the path."""
        return result_file.write(path, *self.parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _counts(self) -> dict[str, int]:
        found = self.label()[self.present].tolist()
        return {name: found.count(name) for name in (*self.types, NONE) if name in found}

    def _best(self) -> Iterator[tuple[str, str, str]]:
        """Rows of type, its best head and score, chance: for people."""
        for name, chance in self._chances():
            if name != "non_uniformity":
                scores = self.score(name)
                layer, head = np.unravel_index(np.nanargmax(scores), scores.shape)
                where = f"layer {self.layers[layer]}, head {self.heads[head]}"
                yield name, f"{scores[layer, head]:.2f} at {where}", f"{chance[layer]:.2f}"

    def _headline(self) -> str:
        counted = ", ".join(f"{number} {name}" for name, number in self._counts().items())
        return f"{int(self.present.sum())} heads: {counted} (threshold {self.attributes['threshold']})"

    def _notes(self) -> list[str]:
        missing = [f"{name} not measured: {why}" for name, why in self.attributes["not_applicable"].items()]
        return [*missing, _MEANING]

    def __repr__(self) -> str:
        rows = "".join(f"\n  {name}: at most {best}, chance {chance}" for name, best, chance in self._best())
        notes = "".join(f"\n  {note}" for note in self._notes())
        return escaping.for_terminal(f"<HeadTypes {self._headline()}{rows}{notes}>")

    def _repr_html_(self) -> str:
        cells = [("type", "largest score", "chance"), *self._best()]
        rows = "".join(
            "<tr>" + "".join(f"<td>{escaping.for_html(cell)}</td>" for cell in row) + "</tr>" for row in cells
        )
        notes = "".join(f"<p>{escaping.for_html(note)}</p>" for note in self._notes())
        said = f"<p><b>HeadTypes</b> {escaping.for_html(self._headline())}</p>"
        return escaping.html_block(said, f"<table>{rows}</table>{notes}")


_MEANING = (
    "A type says where a head looks on these inputs; not what it writes, nor that the model needs it. Chance is attention"
    " spread evenly over all that is visible."
)


def _attention_types() -> tuple[str, ...]:
    from . import pattern_scores

    return pattern_scores.TYPES[:-1]


def _check_threshold(threshold: float) -> float:
    if not 0 < threshold <= 1:
        raise errors.OptionError(f"threshold is {threshold!r}; expected a number above 0, at most 1.")
    return threshold


def from_parts(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray], prefix: str = "") -> HeadTypes:
    """Build a result from what :meth:`HeadTypes.parts` gave; names of its arrays may have a prefix."""
    return HeadTypes(**{name: arrays[prefix + name] for name in ("scores", "chance", "offset")}, **content)  # type: ignore[arg-type]  # a mapping is enough


def fitting(types: HeadTypes, heatmap: Heatmap) -> HeadTypes:
    """Return the types for the layers and heads of a heatmap, in its order, checked to be of its model."""
    if not isinstance(types, HeadTypes):
        raise errors.OptionError(
            f"head types are a {type(types).__name__}; expected what qkov.score_head_types returns."
        )
    known, other = heatmap.attributes.get("model_fingerprint"), types.attributes.get("model_fingerprint")
    if known and other and known != other:
        raise errors.ModelChangedError(
            "these head types were measured on another model, or on other weights, than the heatmap; measure them on the"
            " same model."
        )
    selected = types.select(heatmap.layers, heatmap.heads)
    if (heatmap.present & ~selected.present).any():
        layer, head = np.argwhere(heatmap.present & ~selected.present)[0]
        raise errors.ShapeError(
            f"head types lack layer {heatmap.layers[layer]}, head {heatmap.heads[head]}, which the heatmap has."
        )
    return selected


def load_head_types(path: PathLike) -> HeadTypes:
    """Load what :meth:`HeadTypes.save` wrote, checked.

    Args:
        path: The file.

    Returns:
        The result, equal to the one that was saved.

    Raises:
        ResultFileError: If the file is not such a result, is damaged, or contradicts itself.
        OSError: If it cannot be opened.
    """
    content, arrays = result_file.read(path, format_name=FORMAT_NAME, format_version=FORMAT_VERSION)
    with result_file.consistent(path, "is not a consistent result of head types"):
        return from_parts(content, arrays)
