"""Pictures of "Does it predict?", drawn from the committed long run: real against predicted, and ranks by score."""

import numpy as np

from qkov import plots

from .prediction_tables import FAMILY, PAIRS, SMALL, rows_of
from .remedies_pictures import in_style, panels

BLOCK_COLOURS = {"Q": "#0072b2", "K": "#e69f00", "V": "#d55e00", "O": "#009e73"}


def write_pictures(folder, evidence):
    """Write every picture into a folder as SVG; the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "prediction_points.svg": draw_points(rows_of(evidence, "points")),
        "prediction_ranks.svg": draw_ranks(rows_of(evidence, "rank", FAMILY)),
    }
    for name, figure in made.items():
        plots.save_picture(figure, folder / name)
    return list(made)


@in_style
def draw_points(rows):
    """Real against predicted change of every slice, the line real = predicted; small and large steps."""
    shown = {
        f"{row['pair']}, {row['where']}": row
        for row in rows
        if row["where"] in (f"sgd, {SMALL}", "sgd, size 0.3", f"adam, {SMALL}", "adam, size 0.3")
    }
    figure, axes = panels(list(shown), 9.5, 2.9, columns=4)
    for name, axis in axes.items():
        points = np.array(shown[name]["points"])
        ends = np.array([points.min(), points.max()])
        axis.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
        for block, colour in BLOCK_COLOURS.items():
            own = points[[one == block for one in shown[name]["blocks"]]]
            axis.plot(own[:, 0], own[:, 1], ".", color=colour, label=block, markersize=4)
        axis.set_title(name, fontsize=8)
        axis.set_xlabel("predicted, nats", fontsize=8)
        axis.set_ylabel("real, nats", fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in list(axes.values())[:1]:
        axis.legend(fontsize=7, frameon=False)
    return figure


@in_style
def draw_ranks(rows):
    """Rank correlation of every score with what a small gradient step really does, best first, one panel a pair."""
    names = [pair for pair in PAIRS if any(row["pair"] == pair for row in rows)]
    figure, axes = panels(names, 9.5, 3.6)
    for name, axis in axes.items():
        own = {row["procedure"]: row for row in rows if row["pair"] == name and row["where"] == f"sgd, {SMALL}"}
        order = sorted(own.values(), key=lambda row: row["value"])
        for place, row in enumerate(order):
            colour = "#0072b2" if row["procedure"].startswith("predicted") else "0.35"
            colour = "#d55e00" if row["procedure"].startswith("seeds'") else colour
            axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.5)
            axis.plot([row["value"]], [place], "o", color=colour, markersize=4)
        axis.axvline(0, color="0.6", linewidth=0.8)
        axis.set_yticks(range(len(order)), [row["procedure"] for row in order], fontsize=7)
        axis.set_xlim(-1, 1.02)
        axis.set_xlabel("rank correlation with the real change of held-out loss", fontsize=8)
    return figure
