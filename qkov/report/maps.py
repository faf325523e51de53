"""What the maps of a report can show, and in which colours.

Colours are perceptually even: viridis from the smallest value up, and red to blue through a neutral middle for values with
a sign. In print and for eyes that see no hue, lightness tells size, and a bar in the cell that a value is below the middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np

from .data import ReportData

STEPS = 64
DARK_ENDS = (0.76, 0.15)  # lightness and chroma in OKLab of the ends of the diverging colours on dark ground
DARK_MIDDLE = 0.30
HUES = {"low": 25.0, "high": 250.0}  # red and blue, degrees


@dataclass(frozen=True)
class Map:
    """One number per slice that the maps can show.

    Attributes:
        column: Name of the column. label: What a person chooses.
        kind: "sequential" or "diverging".
        logarithmic: Whether colours follow the logarithm, the middle being 1.
        unit, note: Below the maps. conflict: Which end of a diverging range is red, "low" or "high".
        shared: Whether all blocks have one colour scale at first.
        marked: Whether the marks of the tests belong to it.
    """

    column: str
    label: str
    kind: str
    unit: str
    note: str = ""
    logarithmic: bool = False
    conflict: str = "low"
    shared: bool = False


def available(data: ReportData) -> tuple[Map, ...]:
    """Every map that the data has, the first heatmap's average first."""
    return (*_of_scores(data), *_of_tests(data), *_of_prediction(data))


def _of_scores(data: ReportData) -> Iterator[Map]:
    for heatmap, name in zip(data.heatmaps, data.names, strict=True):
        facts = heatmap.attributes
        signed = facts.get("range", "").startswith("(-inf")
        notes = [facts.get("average_caveat", ""), f"Sign: {facts.get('sign', '')}." if signed else ""]
        yield Map(
            column="score" if name == data.names[0] else f"score_{name}",
            label=f"Mean score, {name}",
            kind="diverging" if signed else "sequential",
            unit=facts.get("unit", ""),
            note=" ".join(note for note in notes if note),
            conflict="high" if facts["conflict_order"] == "descending" else "low",
        )


def _of_tests(data: ReportData) -> Iterator[Map]:
    if data.statistics is None:
        return
    facts = data.statistics.attributes["tests"][data.statistics.main_test]
    source = data.statistics.main_test == "source"
    yield Map(
        column="effect",
        label="Effect of the test",
        kind="diverging",
        unit=facts["effect"],
        note=f"A mark says: {data.statistics.claim}.",
        logarithmic=source,
        conflict="high",
        shared=True,
    )
    yield Map(
        column="lift",
        label="Lift of A into B",
        kind="diverging",
        unit="lift; 1: A's sensitive parameters are no more B's than average",
        note=data.statistics.attributes.get("lift_note", ""),
        logarithmic=True,
        conflict="high",
        shared=True,
    )


def _of_prediction(data: ReportData) -> Iterator[Map]:
    if data.prediction is None:
        return
    facts = data.prediction.attributes
    yield Map(
        column="change",
        label="Predicted change of A's loss",
        kind="diverging",
        unit=f"nats of a sample of A; {facts['optimiser']} step of size {data.prediction.step_size:.3g} on the slice alone",
        note="Above 0 the step on B raises A's loss. Predicted from gradients, not measured.",
        conflict="high",
    )


def colour_rules() -> str:
    """CSS rules of all colours: class ``c0`` to ``c63`` inside ``.sequential``, ``.diverging`` and ``.turned``."""
    low_red, dark = _hexes(matplotlib.colormaps["RdBu"]), _dark_diverging()
    palettes = {
        "sequential": (_hexes(matplotlib.colormaps["viridis"]),) * 2,
        "diverging": (low_red, dark),
        "turned": (low_red[::-1], dark[::-1]),
    }
    return "\n".join(
        f".{kind} .c{step}{{fill:{light};fill:light-dark({light},{night})}}"
        for kind, palette in palettes.items()
        for step, (light, night) in enumerate(zip(*palette, strict=True))
    )


def _hexes(colours: Any) -> list[str]:
    return [matplotlib.colors.to_hex(colours(step / (STEPS - 1))) for step in range(STEPS)]


def _dark_diverging() -> list[str]:
    """Red to blue through a dark middle: lightness rises evenly to both ends, so that size reads the same on both sides."""
    found = []
    for at in np.linspace(-1, 1, STEPS):
        size, hue = abs(at), HUES["low" if at < 0 else "high"]
        found.append(_from_oklch(DARK_MIDDLE + size * (DARK_ENDS[0] - DARK_MIDDLE), size * DARK_ENDS[1], hue))
    return found


def _from_oklch(lightness: float, chroma: float, hue: float) -> str:
    """Return the hex of a colour of OKLCH (Ottosson 2020), cut to what a screen can show."""
    a, b = chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))
    roots = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    )
    to_linear = np.array([
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ])  # fmt: skip
    linear = np.clip(to_linear @ (roots @ [lightness, a, b]) ** 3, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return matplotlib.colors.to_hex(np.clip(encoded, 0, 1))
