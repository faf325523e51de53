"""A picture of conflicts: mean cosine across tasks by group, on the band of what is usual inside the tasks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.style
import numpy as np

from . import cosine_summary, escaping, plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .plots import Picture
    from .sample_conflicts import SampleConflicts


ACROSS, INSIDE_A, INSIDE_B = "#b2182b", "#2166ac", "#4d9221"
MOST_NAMES = 60
ALPHA = 0.05
NOTE = (
    "Above: all pairs of samples; grey from percentile {low} to {high} of pairs inside A or inside B. Below: cosines between "
    "mean gradients of halves of tasks, which have less noise; grey up to the agreement of a task with itself. A red point "
    "below 0 where both lines are well above is a conflict of the tasks; that is not a test."
)


def plot_conflicts(found: SampleConflicts) -> Picture:
    """Draw cosines across tasks by group, for single pairs and for means of halves, on what is usual inside the tasks.

    Args:
        found: A :class:`qkov.sample_conflicts.SampleConflicts`.

    Returns:
        The figure. Groups stand block by block in the order of the model; "all" is the last one. A ring is drawn where a test
        against a reference rejects.
    """
    with matplotlib.style.context(plots.STYLE, after_reset=True):
        order = _order(found)
        columns = {name: values[order] for name, values in found.columns.items()}
        figure = plots.Picture(figsize=(float(np.clip(0.2 * len(order) + 2.5, 6.0, 14.0)), 6.4), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.12)  # type: ignore[call-arg, union-attr]  # of matplotlib, set when the figure is made
        above, below = figure.subplots(2, 1, sharex=True)
        low = np.fmin(columns["within_a_low"], columns["within_b_low"])
        high = np.fmax(columns["within_a_high"], columns["within_b_high"])
        _draw(above, found, low, high, [columns[f"{name}mean_cosine"] for name in ("within_a_", "within_b_", "")])
        halves = [columns[f"half_cosine{name}"] for name in ("_a", "_b", "")]
        _draw(below, found, np.zeros(len(order)), np.fmin(*halves[:2]), halves)
        if found.group_tests:
            kept = columns["p_maxt"] <= ALPHA
            above.scatter(np.flatnonzero(kept), columns["mean_cosine"][kept], s=70, facecolors="none", edgecolors="black",
                          label=f"below the reference, family-wise p <= {ALPHA}", zorder=4)  # fmt: skip
        above.set_ylabel("pairs of samples")
        below.set_ylabel("means of halves")
        _label(below, [_short(found, one) for one in order])
        for panel in (above, below):
            _separate(panel, [_block(found, one) for one in order])
        entries = list(zip(*above.get_legend_handles_labels(), strict=True))
        plots.literal_legend(figure, entries, loc="outside upper right", frameon=False, fontsize=8, ncols=2)
        _surround(figure, found)
    return figure


def _draw(panel: Axes, found: SampleConflicts, low: np.ndarray, high: np.ndarray, means: Sequence[np.ndarray]) -> None:
    places = np.arange(len(low))
    panel.axhline(0.0, color="0.4", linewidth=0.8)
    panel.vlines(places, low, high, color="0.88", linewidth=5, label="inside a task", zorder=1)
    for side, colour, values in zip("ab", (INSIDE_A, INSIDE_B), means[:2], strict=True):
        label = f"inside {found.attributes[f'task_{side}']} ({side.upper()}), mean"
        panel.scatter(places, values, s=60, marker="_", color=colour, label=label, zorder=2)
    panel.scatter(places, means[2], s=22, color=ACROSS, label="across tasks, mean", zorder=3)
    panel.margins(y=0.08)


def _short(found: SampleConflicts, place: int) -> str:
    """The label of a group; a weight that holds no head goes by its layer and the end of its name."""
    if place >= len(found.groups) or found.groups[place].block or found.groups[place].parameter is None:
        return found.labels[place]
    group = found.groups[place]
    name = ".".join(group.parameter.removesuffix(".weight").split(".")[-2:])
    return name if group.layer is None else f"layer {group.layer} {name}"


def _block(found: SampleConflicts, place: int) -> str | None:
    return found.groups[place].block if place < len(found.groups) else None


def _order(found: SampleConflicts) -> list[int]:
    """Blocks one after the other; other weights and "all" behind, each in the order of the model."""
    blocks = {"Q": 0, "K": 1, "V": 2, "O": 3, None: 4}
    return sorted(range(len(found.labels)), key=lambda one: blocks[_block(found, one)])


def _label(panel: Axes, names: Sequence[str]) -> None:
    step = -(-len(names) // MOST_NAMES)
    kept = sorted({*range(0, len(names) - 1, step), len(names) - 1})
    shown = [escaping.for_picture(names[one]) for one in kept]
    panel.set_xticks(kept, shown, rotation=90, fontsize=7, parse_math=False)
    panel.set_xlim(-0.7, len(names) - 0.3)


def _separate(panel: Axes, blocks: Sequence[str | None]) -> None:
    for place in (one for one in range(1, len(blocks)) if blocks[one] != blocks[one - 1]):
        panel.axvline(place - 0.5, color="0.6", linewidth=0.8, linestyle=":")


def _surround(figure: Picture, found: SampleConflicts) -> None:
    facts, width = found.attributes, int(figure.get_figwidth() * 72 / (0.55 * 8))
    low, high = cosine_summary.BAND
    title = f"{facts['task_a']} (A) against {facts['task_b']} (B)\ncosine of gradients, {facts['metric']}"
    figure.suptitle(escaping.for_picture(title), x=0.01, ha="left", size=11, parse_math=False)
    note = textwrap.fill(NOTE.format(low=low, high=high), width)
    frame = {"boxstyle": "round,pad=0.4", "facecolor": "#fff6d5", "edgecolor": "0.4"}
    figure.supxlabel(note, size=8, bbox=frame, parse_math=False)
    # Laid out once, here: a layout redone at each saving starts from the last one and differs in the last bits.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
