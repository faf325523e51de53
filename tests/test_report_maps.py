"""Colours of a report tell values by lightness alone, evenly, on light and dark ground, and alike on both sides of a sign."""

import re

import numpy as np
import pytest

from qkov.report import maps
from qkov.report.data import gather
from tests.heatmaps import make_heatmap
from tests.report_cases import make_prediction, make_statistics

RULE = re.compile(r"\.(\w+) \.c(\d+)\{fill:(#\w{6});fill:light-dark\((#\w{6}),(#\w{6})\)\}")


def palettes():
    """``{(kind, ground): hexes}``, in order."""
    found = {}
    for kind, step, plain, light, dark in RULE.findall(maps.colour_rules()):
        assert plain == light  # of a browser that knows one ground
        for ground, colour in (("light", light), ("dark", dark)):
            found.setdefault((kind, ground), {})[int(step)] = colour
    return {key: [steps[step] for step in range(maps.STEPS)] for key, steps in found.items()}


def oklab(colours):
    """Lightness and the two hues of colours, ``[colours, 3]`` (Ottosson 2020)."""
    encoded = np.array([[int(one[at : at + 2], 16) / 255 for at in (1, 3, 5)] for one in colours])
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    cones = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                      [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
    mixed = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                      [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
    return np.cbrt(linear @ cones.T) @ mixed.T


def uneven(colours, *, diverging):
    """What is wrong with a palette: where lightness does not rise, or jumps; and for a sign, sides that differ."""
    lightness = oklab(colours)[:, 0]
    middle = len(colours) // 2
    problems = []
    sides = [lightness[:middle][::-1], lightness[middle:]] if diverging else [lightness]
    for side in sides:
        steps = np.diff(side)
        steps = -steps if diverging and side[-1] < side[0] else steps
        if (steps < -0.004).any():
            problems.append("lightness turns back")
        if steps.max() > 4 * np.abs(side[-1] - side[0]) / len(steps):
            problems.append("lightness jumps")
        if abs(side[-1] - side[0]) < 0.35:
            problems.append("hardly any range")
    if diverging and np.abs(sides[0] - sides[1]).max() > 0.12:
        problems.append("sides differ")
    return problems


@pytest.mark.parametrize("ground", ["light", "dark"])
@pytest.mark.parametrize("kind", ["sequential", "diverging", "turned"])
def test_lightness_tells_size(kind, ground):
    assert uneven(palettes()[kind, ground], diverging=kind != "sequential") == []


def test_a_rainbow_is_noticed():
    import matplotlib

    for name in ("jet", "hsv", "rainbow"):
        colours = maps._hexes(matplotlib.colormaps[name])
        assert uneven(colours, diverging=False)
        assert uneven(colours, diverging=True)


def test_a_turned_palette_has_red_at_the_other_end():
    found = palettes()
    for ground in ("light", "dark"):
        red = oklab(found["diverging", ground])[[0, -1], 1]
        assert red[0] > 0 > red[1]  # the low end is red
        assert found["turned", ground] == found["diverging", ground][::-1]


def test_ends_differ_for_those_who_see_no_red_or_no_green():
    """In the blue-yellow direction, which protanopes and deuteranopes see."""
    for ground in ("light", "dark"):
        ends = oklab(palettes()["diverging", ground])[[0, -1], 2]
        assert ends[0] - ends[1] > 0.08


def test_maps_say_what_their_colours_mean():
    heatmap = make_heatmap(pool="pooled")
    data = gather(
        [heatmap, make_heatmap(variant="signed", pool="pooled")],
        statistics=make_statistics(heatmap),
        prediction=make_prediction(heatmap),
    )
    found = {one.column: one for one in maps.available(data)}
    assert list(found) == ["score", "score_signed", "effect", "lift", "change"]
    assert (found["score"].kind, found["score_signed"].kind) == ("sequential", "diverging")
    assert found["score_signed"].conflict == "low"  # - is conflict, and red
    assert found["change"].conflict == "high"  # above 0 the step hurts A
    assert found["effect"].logarithmic  # a ratio, 1 in the middle
    exchange = gather(heatmap, statistics=make_statistics(heatmap, main="exchange"))
    assert not {one.column: one for one in maps.available(exchange)}["effect"].logarithmic
