"""Pictures of "Does it help?", drawn from the committed long run: forgetting at equal progress, its curves, merging."""

import matplotlib.style
from matplotlib.ticker import MaxNLocator

from qkov import plots

from .remedies_tables import FREEZING, HALF, MERGING, NOT_MADE, RANDOM, REFERENCES, long_rows
from .tables import unique

# Arms that a curve is drawn for: the question, its opposite, the seeds' map, and the plain ones.
DRAWN = {
    "nothing frozen": ("0.0", "-"),
    "predicted": ("#0072b2", "-"),
    "predicted per progress": ("#56b4e9", "--"),
    "averaged heatmap": ("#d55e00", "-"),
    "signed": ("#009e73", "-."),
    "gradient of B": ("#e69f00", "--"),
    "helpful by prediction": ("#cc79a7", "-"),
    RANDOM: ("0.6", "-"),
}
METHODS = {
    "plain average": ("0.0", "-"),
    "Fisher-weighted": ("#0072b2", "-"),
    "Fisher-weighted, F as collected": ("#56b4e9", "--"),
}


def write_pictures(folder, evidence):
    """Write every picture into a folder as SVG; the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "remedies_freezing.svg": draw_differences(long_rows(evidence, FREEZING)),
        "remedies_half.svg": draw_differences(long_rows(evidence, HALF)),
        "remedies_curves.svg": draw_curves(long_rows(evidence, FREEZING, FREEZING + NOT_MADE)),
        "remedies_merging.svg": draw_merging(long_rows(evidence, MERGING, REFERENCES)),
    }
    for name, figure in made.items():
        plots.save_picture(figure, folder / name)
    return list(made)


def in_style(draw):
    """Draw in matplotlib's default style on white, whatever the settings of the machine."""

    def styled(rows):
        with matplotlib.style.context(plots.STYLE, after_reset=True):
            return draw(rows)

    styled.__doc__ = draw.__doc__
    return styled


def panels(names, width, height, columns=2):
    """A picture of one panel for each name, titled, at least one; axes by name."""
    rows = -(-max(1, len(names)) // columns)
    figure = plots.Picture(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        axis.set_title(name)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    if not names:
        axes[0].text(0, 0.5, "nothing was measured")
    return figure, dict(zip(names, axes, strict=False))


@in_style
def draw_differences(rows):
    """Forgetting of every arm minus that of random slices, with intervals, least first."""
    names = unique(row["data"] for row in rows)
    figure, axes = panels(names, 10.5, 3.4)
    for name, axis in axes.items():
        arms = sorted(
            (row for row in rows if row["data"] == name and row["against_random"]),
            key=lambda row: -row["against_random"][0],
        )
        for place, row in enumerate(arms):
            value, low, high = (1000 * one for one in row["against_random"])
            colour = "#0072b2" if high < 0 else "#d55e00" if low > 0 else "0.4"
            axis.plot([low, high], [place, place], color=colour, linewidth=1.5)
            axis.plot([value], [place], "o", color=colour, markersize=4)
        axis.axvline(0, color="0.6", linewidth=0.8)
        axis.set_yticks(range(len(arms)), [row["procedure"] for row in arms])
        axis.set_xlabel("A's loss at equal progress on B, minus that\nwith random slices frozen, 1/1000 nats per byte")
    return figure


@in_style
def draw_curves(rows):
    """A's loss against B's along the fine-tuning, mean over seeds."""
    names = unique(row["data"] for row in rows)
    figure, axes = panels(names, 9.5, 3.4)
    for name, axis in axes.items():
        for row in (row for row in rows if row["data"] == name and row["procedure"] in DRAWN):
            colour, line = DRAWN[row["procedure"]]
            learned = [1000 * (row["curve_b"][0] - value) for value in row["curve_b"]]
            forgotten = [1000 * (value - row["curve_a"][0]) for value in row["curve_a"]]
            axis.plot(learned, forgotten, line, color=colour, marker=".", markersize=4, label=row["procedure"])
        axis.axhline(0, color="0.85", linewidth=0.8, zorder=0)
        axis.set_xlabel("B learned, 1/1000 nats per byte")
        axis.set_ylabel("A forgotten")
        axis.xaxis.set_major_locator(MaxNLocator(6))
    for axis in list(axes.values())[:1]:
        axis.legend(fontsize=7, frameon=False)
    return figure


@in_style
def draw_merging(rows):
    """Mean of both held-out losses against the weight of the second model, and where single models stand."""
    names = unique(row["data"] for row in rows)
    figure, axes = panels(names, 9.5, 3.2)
    for name, axis in axes.items():
        for row in (row for row in rows if row["data"] == name):
            if row["study"] == MERGING:
                colour, line = METHODS.get(row["procedure"], ("0.5", ":"))
                both = [(a + b) / 2 for a, b in zip(row["curve_a"], row["curve_b"], strict=True)]
                axis.plot(row["grid"], both, line, color=colour, marker=".", label=row["procedure"])
            elif row["procedure"] in ("the start", "each task by its expert"):
                axis.axhline(row["value"], color="0.7", linewidth=0.8, zorder=0)
                axis.annotate(row["procedure"], (0.5, row["value"]), fontsize=7, color="0.4", ha="center", va="bottom")
        axis.set_xlabel("weight of the second task's model")
        axis.set_ylabel("mean of both losses, nats per byte")
    for axis in list(axes.values())[:1]:
        axis.legend(fontsize=7, frameon=False)
    return figure
