"""A picture of conflicts: mean cosine across tasks by group, on the band of what is usual inside the tasks."""

import textwrap

import matplotlib.style
import numpy as np

from . import cosine_summary, plots

ACROSS, INSIDE_A, INSIDE_B = "#b2182b", "#2166ac", "#4d9221"
MOST_NAMES = 60
NOTE = (
    "Band: percentiles {low} to {high} of single pairs inside A or inside B. A point below the lines is a group in which "
    "tasks agree less than samples of one task do; that is not a test."
)


def plot_conflicts(found):
    """Draw a point per group, the two means inside the tasks as lines, and a ring where a test against a reference rejects.

    Args:
        found: A :class:`qkov.sample_conflicts.SampleConflicts`.

    Returns:
        The figure. Groups stand block by block in the order of the model; "all" is the last one.
    """
    with matplotlib.style.context(plots.STYLE, after_reset=True):
        order, places = _order(found), np.arange(len(found.labels))
        columns = {name: values[order] for name, values in found.columns.items()}
        figure = plots.Picture(figsize=(float(np.clip(0.2 * len(order) + 2.5, 6.0, 14.0)), 5.0), layout="constrained")
        panel = figure.subplots()
        low, high = (
            reduce(columns[f"within_a_{end}"], columns[f"within_b_{end}"])
            for reduce, end in ((np.fmin, "low"), (np.fmax, "high"))
        )
        panel.axhline(0.0, color="0.4", linewidth=0.8)
        panel.vlines(places, low, high, color="0.88", linewidth=5, label="pairs inside a task", zorder=1)
        for side, colour in (("a", INSIDE_A), ("b", INSIDE_B)):
            task, marker = found.attributes[f"task_{side}"], "_"
            panel.scatter(places, columns[f"within_{side}_mean_cosine"], s=60, marker=marker, color=colour,
                          label=f"mean inside {task} ({side.upper()})", zorder=2)  # fmt: skip
        panel.scatter(places, columns["mean_cosine"], s=22, color=ACROSS, label="mean across tasks", zorder=3)
        if found.group_tests:
            kept = columns["p_maxt"] <= 0.05
            panel.scatter(places[kept], columns["mean_cosine"][kept], s=70, facecolors="none", edgecolors="black",
                          label="below the reference, family-wise p <= 0.05", zorder=4)  # fmt: skip
        _label(panel, [found.labels[one] for one in order], [_block(found, one) for one in order])
        panel.set_ylabel(f"cosine, {found.attributes['metric']}")
        figure.legend(*panel.get_legend_handles_labels(), loc="outside upper right", frameon=False, fontsize=8, ncols=2)
        _surround(figure, found)
    return figure


def _block(found, place):
    return found.groups[place].block if place < len(found.groups) else None


def _order(found):
    """Blocks one after the other; other weights and "all" behind, each in the order of the model."""
    blocks = {"Q": 0, "K": 1, "V": 2, "O": 3, None: 4}
    return sorted(range(len(found.labels)), key=lambda one: blocks[_block(found, one)])


def _label(panel, names, blocks):
    for place in (one for one in range(1, len(blocks)) if blocks[one] != blocks[one - 1]):
        panel.axvline(place - 0.5, color="0.6", linewidth=0.8, linestyle=":")
    step = -(-len(names) // MOST_NAMES)
    kept = sorted({*range(0, len(names) - 1, step), len(names) - 1})
    panel.set_xticks(kept, [names[one] for one in kept], rotation=90, fontsize=7, parse_math=False)
    panel.set_xlim(-0.7, len(names) - 0.3)
    panel.margins(y=0.08)
    panel.figure.get_layout_engine().set(h_pad=0.12)


def _surround(figure, found):
    facts, width = found.attributes, int(figure.get_figwidth() * 72 / (0.55 * 8))
    low, high = cosine_summary.BAND
    figure.suptitle(
        f"{facts['task_a']} (A) against {facts['task_b']} (B)", x=0.01, ha="left", size=11, parse_math=False
    )
    note = textwrap.fill(NOTE.format(low=low, high=high), width)
    frame = {"boxstyle": "round,pad=0.4", "facecolor": "#fff6d5", "edgecolor": "0.4"}
    figure.supxlabel(note, size=8, bbox=frame, parse_math=False)
    # Laid out once, here: a layout redone at each saving starts from the last one and differs in the last bits.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
