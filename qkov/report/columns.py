"""Numbers of every slice, one column each: scores, tests, predictions, health; and its strongest pairs of samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import strongest
from ..geometry import BLOCKS
from .data import ReportData

HEALTH_WORDS = {
    "fisher_min": "smallest F",
    "fisher_median": "median F",
    "fisher_max": "largest F",
    "share_below_epsilon": "share of parameters whose F vanishes",
    "damping": "median damping (D − F)",
    "fisher_over_damped": "median F / D (1: no damping acted; below 0.5: damping dominates)",
}


@dataclass(frozen=True)
class Column:
    """One number or word per slice.

    Attributes:
        name: What a filter calls it. label: What a person reads beside others of its group.
        group: Under which heading it stands.
        values: One per slice in the order of :attr:`ReportData.slices`; None where there is none.
        low, high: Names of the columns that hold its interval.
        main: Whether the table shows it unasked.
        heading: What a person reads above a column, if that is more than the label.
    """

    name: str
    label: str
    group: str
    values: tuple
    low: str = ""
    high: str = ""
    main: bool = False
    heading: str = ""


@dataclass(frozen=True)
class SlicePairs:
    """The strongest pairs of every slice of one heatmap: places on the sample axes and scores, ``[slices][pairs]``."""

    name: str
    order: str
    sample_a: tuple
    sample_b: tuple
    scores: tuple


def plain(values: Any) -> tuple[float | None, ...]:
    """Round to six significant digits, which is what a report shows and sorts by; NaN and infinities become None."""
    return tuple(
        float(f"{value:.6g}") + 0.0 if np.isfinite(value) else None for value in np.asarray(values, np.float64)
    )


def score_columns(data: ReportData) -> tuple[list[Column], list[SlicePairs]]:
    """Return ``(columns, pairs)`` of every heatmap, each read once, a slice at a time."""
    columns, pairs = [], []
    for heatmap, name in zip(data.heatmaps, data.names, strict=True):
        means, found = _read_scores(heatmap, name, data.pairs_per_slice)
        suffix = "" if name == data.names[0] else f"_{name}"
        several = "" if len(data.names) == 1 else f", {name}"
        for number, (stat, label) in enumerate(SCORE_WORDS.items()):
            values = plain(means[:, number])
            column = Column(f"{stat}{suffix}", label, f"Score{several}", values)
            columns.append(replace(column, main=stat == "score", heading=f"{label}{several}"))
        pairs.append(found)
    return columns, pairs


SCORE_WORDS = {
    "score": "mean score",
    "sd": "deviation over all pairs",
    "sd_over_a": "deviation over A's samples",
}


def _read_scores(heatmap: Any, name: str, number: int) -> tuple[np.ndarray, SlicePairs]:
    ascending = heatmap.attributes["conflict_order"] == "ascending"
    means: list[tuple[float, float, float]] = []
    kept: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for block in BLOCKS:
        for _, scores in heatmap.each_slice(block):
            if not scores.size:
                means.append((np.nan,) * 3)
                found = ((), (), ())
            else:
                means.append((scores.mean(), scores.std(), scores.mean(1).std()))
                values = scores.reshape(-1)
                places = strongest.strongest_places(values, number, ascending=ascending)
                rows, columns = np.divmod(places, scores.shape[1])
                found = tuple(rows.tolist()), tuple(columns.tolist()), values[places]
            for one, part in zip(kept, found, strict=True):
                one.append(part)
    order = "ascending" if ascending else "descending"
    return np.array(means).reshape(-1, 3), SlicePairs(name, order, *map(tuple, kept))


def tested_columns(data: ReportData) -> list[Column]:
    """Columns of the tests: those of the main test first, under short names."""
    statistics = data.statistics
    if statistics is None:
        return []
    main, names = statistics.main_test, _test_words(statistics)
    places = {
        label: at for at, label in enumerate(zip(statistics.blocks, statistics.layers, statistics.units, strict=True))
    }
    rows = [places.get(data.labels(*one), -1) for one in data.slices]
    found = []
    for name, (label, group, low, high, shown) in names.items():
        if name not in statistics.columns:
            continue
        values = np.append(statistics.columns[name], np.nan)[rows]  # place -1 is the last entry: not tested
        short = name.removeprefix(f"{main}_")
        low, high = (one.removeprefix(f"{main}_") if one in statistics.columns else "" for one in (low, high))
        found.append(Column(short, label, group, plain(values), low, high, shown))
    return found


def _test_words(statistics: Any) -> dict[str, tuple[str, str, str, str, bool]]:
    main, level = statistics.main_test, f"{statistics.attributes['level']:.0%}"
    words: dict[str, tuple[str, str, str, str, bool]] = {}
    for test in dict.fromkeys((main, "exchange")):
        own = test == main
        group = {"source": "Test: A against the reference as source", "exchange": "Test: do the tasks differ"}[test]
        effect = statistics.attributes["tests"][test]["effect"]
        words |= {
            f"{test}_effect": (f"effect: {effect}", group, f"{test}_effect_low", f"{test}_effect_high", own),
            f"{test}_effect_low": (f"effect, low end of {level}", group, "", "", False),
            f"{test}_effect_high": (f"effect, high end of {level}", group, "", "", False),
            f"{test}_statistic": ("test statistic", group, "", "", False),
            f"{test}_p": ("p", group, "", "", own),
            f"{test}_q": ("q (false discovery rate)", group, "", "", own),
            f"{test}_p_maxt": ("p, family-wise (max-T)", group, "", "", own),
        }
        if test == "source":
            words["superiority"] = ("P(lift of A > lift of R)", group, "", "", False)
    other = "Size, not tested"
    return words | {
        "lift": ("lift of A into B (1: no more than chance would share)", other, "lift_low", "lift_high", False),
        "lift_low": (f"lift, low end of {level}", other, "", "", False),
        "lift_high": (f"lift, high end of {level}", other, "", "", False),
        "contrast": ("log lift against the layer's other heads", other, "contrast_low", "contrast_high", False),
        "contrast_low": (f"contrast, low end of {level}", other, "", "", False),
        "contrast_high": (f"contrast, high end of {level}", other, "", "", False),
        "contrast_p_adjusted": ("contrast, adjusted p", other, "", "", False),
    }


def prediction_columns(data: ReportData) -> list[Column]:
    """Columns of the predicted change by each slice's step alone."""
    prediction = data.prediction
    if prediction is None:
        return []
    table = prediction.to_dataframe("slice")
    units = table["head"].astype(object).where(table["head"].notna(), table["kv_head"])
    places = {label: at for at, label in enumerate(zip(table["block"], table["layer"], units, strict=True))}
    rows = [places.get(data.labels(*one), -1) for one in data.slices]
    level = f"{prediction.attributes['level']:.0%}"
    words = {
        "change": "change of A's loss, nats a sample",
        "low": f"change, low end of {level}",
        "high": f"change, high end of {level}",
        "first_order": "of which first order",
        "curvature": "of which curvature",
    }
    names = {"low": "change_low", "high": "change_high"}
    known = bool(table["low"].notna().any())
    found = []
    for name, label in words.items():
        if name in names and not known:
            continue
        values = plain(np.append(table[name].to_numpy(np.float64), np.nan)[rows])
        interval = ("change_low", "change_high") if name == "change" and known else ("", "")
        group = "Predicted, by a step on this slice alone"
        found.append(Column(names.get(name, name), label, group, values, *interval, name == "change"))
    return found


def health_columns(data: ReportData) -> list[Column]:
    """Columns of the first heatmap's health."""
    health, slices = data.first.health, data.slices
    return [
        Column(
            stat,
            HEALTH_WORDS.get(stat, stat),
            "Health",
            plain([health[block][stat][row, unit] for block, row, unit in slices]),
        )
        for stat in health["Q"]
    ]


def type_column(data: ReportData) -> list[Column]:
    """A column with what each head attends to, if that was measured."""
    types = data.types
    if types is None:
        return []
    values = tuple(str(types[block][layer, unit]) for block, layer, unit in data.slices)
    return [Column("head_type", "head type", "Type", values, main=True)]


def marks(data: ReportData) -> tuple[int | None, ...] | None:
    """Mark every slice: 2 survives the family-wise error, 1 only the false discovery rate, 0 neither, None was not tested."""
    if data.statistics is None:
        return None
    statistics = data.statistics
    strong, weak = (statistics.survives(data.alpha, one) for one in ("p_maxt", "q"))
    tested = ~np.isnan(statistics.columns[f"{statistics.main_test}_p"])
    labels = zip(statistics.blocks, statistics.layers, statistics.units, strict=True)
    marked = {
        label: (2 if a else 1 if b else 0) if known else None
        for label, a, b, known in zip(labels, strong.tolist(), weak.tolist(), tested.tolist(), strict=True)
    }
    return tuple(marked.get(data.labels(*one)) for one in data.slices)


def strongest_rows(data: ReportData, pairs: SlicePairs) -> list[tuple[int, int, int, float]]:
    """The strongest pairs of every block, ties by slice and sample order: places of slice and samples, and the score."""
    rows = []
    slices = data.slices
    ranks = {(block, *place): rank for block in BLOCKS for rank, place in enumerate(data.first.slices.ordered(block))}
    sign = 1 if pairs.order == "ascending" else -1
    for block in BLOCKS:
        found = [
            (sign * score, ranks[slices[at]], number, at, i, j, score)
            for at in range(len(slices))
            if slices[at][0] == block
            for number, (i, j, score) in enumerate(
                zip(pairs.sample_a[at], pairs.sample_b[at], pairs.scores[at], strict=True)
            )
        ]
        rows += [(at, i, j, float(score)) for *_, at, i, j, score in sorted(found)[: data.pairs_per_slice]]
    return rows
