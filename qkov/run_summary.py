"""What a run found, on a page of a terminal: the conclusion in words, the strongest slices, where the files are."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from . import run_folder
from .escaping import visible
from .geometry import BLOCKS
from .heatmap import Heatmap
from .run_folder import RunFolder
from .slice_labels import unit_name

SHOWN = 5


def summary(run: RunFolder) -> str:
    """Write what a run found, what it did not run, and what to do next."""
    return "\n".join(_lines(run))


def _lines(run):
    config, statistics, prediction = run.config, run.statistics(), run.prediction()
    if statistics is not None:
        yield statistics.conclusion(config.statistics.alpha)
        yield ""
        yield from _tested(statistics)
    else:
        yield (
            f"A is {config.source!r}, B is {config.target!r}. Nothing was tested: a high score is no finding. The slices "
            "with the strongest average:"
        )
        yield ""
        yield from _averaged(run.scores(scores_path=None)) if run.variants else ()
    if prediction is not None:
        yield ""
        yield f"{prediction!r}"[len("<Prediction: ") : -1]
    yield ""
    for note in run.record["notes"]:
        yield f"note: {note}"
    for one in run.record["not_run"]:
        yield f"not run: {one['what']}: {one['reason']}"
    if not config.statistics.run or not config.prediction.run:
        left = [name for name in ("statistics", "prediction") if not getattr(config, name).run]
        yield f"not asked for: {', '.join(left)}"
    yield (
        f"files in {visible(run.path)}: {', '.join([run_folder.CONFIG, run_folder.RECORD, *run.record['results']])}"
        + (f", {run_folder.STORE}/" if (run.path / run_folder.STORE).is_dir() else "")
    )
    yield f"next: {shlex.join(['qkov', 'report', str(run.path)])}"


def _tested(statistics):
    test = statistics.main_test
    names = ["block", "layer", "head", "kv_head", f"{test}_effect", f"{test}_p", f"{test}_q", f"{test}_p_maxt"]
    heading = ("block", "layer", "head", "kv head", "effect", "p", "q", "family-wise p")
    table = statistics.table()[names].head(SHOWN)
    yield from _table(heading, [["" if one is None else one for one in map(_cell, row)] for row in table.to_numpy()])


def _averaged(heatmap: Heatmap) -> Iterator[str]:
    rows = []
    for block in BLOCKS:
        means, exists = heatmap.mean_map(block), heatmap.exists(block)
        for layer, unit in zip(*exists.nonzero(), strict=True):
            units = heatmap.slices.units(block)
            rows.append((float(means[layer, unit]), block, heatmap.layers[layer], f"{unit_name(block)} {units[unit]}"))
    ascending = heatmap.attributes["conflict_order"] == "ascending"
    rows.sort(key=lambda row: row[0] if ascending else -row[0])
    shown = [[block, str(layer), unit, f"{mean:.3g}"] for mean, block, layer, unit in rows[:SHOWN]]
    yield from _table(("block", "layer", "slice", "average score"), shown)


def _cell(value):
    """Text of a number; nothing where there is none."""
    import pandas as pd

    if pd.isna(value):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    for row in (heading, *rows):
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
