"""Pictures of speed and memory: how near the limit scoring is, how it grows, other routes, bytes."""

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from qkov import plots

from .bench_tables import details_of, rows_of
from .remedies_pictures import in_style, panels

OURS, LIMIT, GOAL = "#0072b2", "0.55", "#d55e00"
ROUTES = {
    "autograd": ("end_to_end", "autograd", "one sample at a time"),
    "vmap": ("end_to_end", "vmap", "torch.func, vmap(grad)"),
    "opacus": ("libraries", "opacus", "Opacus, others frozen"),
    "opacus-all": ("libraries", "opacus-all", "Opacus, nothing frozen"),
    "kronfluence": ("libraries", "kronfluence", "Kronfluence, identity"),
}


def write_pictures(folder, evidence):
    """Write every picture into a folder as SVG; the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "bench_limit.svg": draw_limit(evidence),
        "bench_growth.svg": draw_growth(evidence),
        "bench_routes.svg": draw_routes(evidence),
        "bench_memory.svg": draw_memory(evidence),
    }
    for name, figure in made.items():
        plots.save_picture(figure, folder / name)
    return list(made)


def goal_of(evidence, name):
    """What a row must hold, or None."""
    return next((row["hold"] for row in rows_of(evidence) if row["name"] == name), None)


@in_style
def draw_limit(evidence):
    """Rates over the square product's, every round a point: scoring at every size, collection, permutations."""
    cells = {f"scoring, {name}": row["rates"] for name, row in details_of(evidence, "scoring").get("cells", {}).items()}
    if rates := details_of(evidence, "collection").get("cells"):
        cells["collection"] = rates["collection"]["rates"]
    if rates := details_of(evidence, "permutations").get("rates"):
        cells["permutations"] = rates
    for name, row in details_of(evidence, "gpu").get("cells", {}).items():
        cells[f"GPU, {name}"] = row["rates"]
    figure, axes = panels(["fraction of the square float32 product"] if cells else [], 8.5, 1 + 0.24 * len(cells), 1)
    for axis in axes.values():
        for place, (name, rates) in enumerate(cells.items()):
            axis.plot(rates, [place] * len(rates), "o", color=OURS, markersize=3, alpha=0.5)
            axis.plot([np.median(rates)], [place], "|", color=OURS, markersize=11, markeredgewidth=2)
            hold = goal_of(evidence, goal_name(evidence, name))
            if hold is not None:
                axis.plot([hold], [place], "|", color=GOAL, markersize=11, markeredgewidth=1.2)
        axis.set_yticks(range(len(cells)), list(cells), fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, max(1.02, 1.05 * max(max(rates) for rates in cells.values())))
        axis.axvline(1, color=LIMIT, linewidth=0.8)
        axis.set_xlabel("points: rounds; blue: median; orange: goal; 1 is the limit")
    return figure


def goal_name(evidence, label):
    """Which goal a cell of the picture belongs to, if any."""
    kind = label.split(", ")[0]
    if kind != "scoring":
        return {"GPU": "gpu"}.get(kind, kind)
    if label.endswith("collected"):
        return "scoring"
    n, length = (int(part.split("=")[1]) for part in label.split(", ")[1].split())
    if n < 50:
        return ""
    return "scoring" if length >= 128 else "scoring-short" if n == 50 else ""


@in_style
def draw_growth(evidence):
    """Scoring time against samples and against tokens, both logarithmic, above the time that its operations would take."""
    details = details_of(evidence, "scoring")
    series = {"growth-n": ("by n", "samples of each task, n"), "growth-t": ("by T", "tokens of a sample, T")}
    values = {row["name"]: row["value"] for row in rows_of(evidence)}
    shown = {name: one for name, one in series.items() if details.get(one[0])}
    figure, axes = panels(list(shown), 9.0, 3.2)
    for name, axis in axes.items():
        key, label = shown[name]
        rate = details["square product, operations per second"]
        sizes = [size for size, _ in details[key]]
        cells = [details["cells"][cell] for _, cell in details[key]]
        least = [one["operations"] / rate for one in cells]
        taken = [seconds / one["rate"] for seconds, one in zip(least, cells, strict=True)]
        axis.plot(sizes, taken, "o-", color=OURS, markersize=4, label="measured")
        axis.plot(sizes, least, "--", color=LIMIT, label="limit: its operations\nat the rate of the square product")
        logarithmic(axis, sizes)
        axis.set_title(f"time grows with {key[-1]} to the power {values[name]:.2f}", fontsize=9)
        axis.set_xlabel(label)
        axis.set_ylabel("seconds for one layer")
    for axis in list(axes.values())[:1]:
        axis.legend(fontsize=7, frameon=False)
    return figure


def logarithmic(axis, sizes):
    """Both axes logarithmic, with plain numbers at the sizes that were measured."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(sizes, [str(one) for one in sizes])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())


@in_style
def draw_routes(evidence):
    """Time of other routes over ours, every round a point; right of 1 ours is faster."""
    found = {}
    for group, name, label in ROUTES.values():
        seconds = details_of(evidence, group).get("seconds", {})
        if name in seconds:
            found[label] = [two / one for one, two in zip(seconds["ours"], seconds[name], strict=True)]
    loop = details_of(evidence, "pair_loop")
    for place, name in enumerate(("loop", "with diagnostics") if loop else ()):
        times = loop["pairs"] / loop["pairs timed"][place]
        label = {"loop": "loop over pairs", "with diagnostics": "loop with diagnostics"}[name]
        found[label] = [
            times * two / one for one, two in zip(loop["seconds"]["ours"], loop["seconds"][name], strict=True)
        ]
    figure, axes = panels(["time of other routes over ours"] if found else [], 8.5, 1 + 0.26 * len(found), 1)
    for axis in axes.values():
        for place, values in enumerate(found.values()):
            axis.plot(values, [place] * len(values), "o", color=OURS, markersize=3, alpha=0.5)
            axis.plot([np.median(values)], [place], "|", color=OURS, markersize=11, markeredgewidth=2)
        axis.set_yticks(range(len(found)), list(found), fontsize=8)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.axvline(1, color=LIMIT, linewidth=0.8)
        axis.set_xlabel("points: rounds; blue: median; right of 1 ours is faster")
    return figure


@in_style
def draw_memory(evidence):
    """Bytes over those of full gradients: kept on disk, taken at most in memory; and the goals."""
    values = {row["name"]: row["value"] for row in rows_of(evidence) if row["value"] is not None}
    labels = {"stored": "store on disk", "peak": "peak memory beyond the model"}
    shown = {name: label for name, label in labels.items() if name in values}
    figure, axes = panels(["bytes over one full float32 gradient for each sample"] if shown else [], 8.5, 1.6, 1)
    for axis in axes.values():
        for place, name in enumerate(shown):
            axis.barh([place], [values[name]], color=OURS, height=0.5)
            axis.plot([goal_of(evidence, name)] * 2, [place - 0.4, place + 0.4], color=GOAL, linewidth=1.5)
        axis.barh([len(shown)], [1.0], color=LIMIT, height=0.5)
        axis.set_yticks(range(len(shown) + 1), [*shown.values(), "full gradients, stacked"], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.05)
        axis.set_xlabel("orange: goal")
    return figure
