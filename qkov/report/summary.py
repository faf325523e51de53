"""What a report says in words, made to be quoted: never more than the statistics allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import escaping
from ..inference import ENOUGH_CLUSTERS
from .data import ReportData

NO_PAIR_P = (
    "No pair of samples has a p value; pairs are listed because they are extreme, and would fall when drawn again."
)


@dataclass(frozen=True)
class Summary:
    """The words of a report.

    Attributes:
        question: What was asked, a sentence each.
        cautions: What stands in front because a reader would otherwise misread the maps.
        quotable: What may be said of the result, a sentence each, complete only together.
    """

    question: tuple
    cautions: tuple
    quotable: tuple


def summarise(data: ReportData) -> Summary:
    """Put a :class:`~qkov.report.data.ReportData` into words."""
    nothing = _nothing(data)
    return Summary(
        question=tuple(_question(data)),
        cautions=() if nothing else tuple(_cautions(data)),
        quotable=(*_names(data), *(nothing or (*_tests(data), *_prediction(data)))),
    )


def named(name: Any) -> str:
    """Quote a name that others chose."""
    return f"“{escaping.visible(name)}”"


def short(value: float) -> str:
    """Write a number for a sentence."""
    return f"{value:.3g}".replace("-", "−")


def _question(data: ReportData) -> Iterator[str]:
    a, b, r = named(data.first.task_a), named(data.first.task_b), data.reference_task
    yield (
        f"Task A is {a}, task B is {b}. In which attention heads do the parameters to which A is sensitive coincide with"
        " those that B would change?"
    )
    if r is not None:
        yield f"And is A more of a source of what B changes than the reference task R, {named(r)}, is?"


def _names(data: ReportData) -> Iterator[str]:
    r = data.reference_task
    reference = "" if r is None else f", R is {named(r)}"
    yield f"A is {named(data.first.task_a)}, B is {named(data.first.task_b)}{reference}."


def _empty_tasks(data: ReportData) -> list[str]:
    first = data.first
    sides = (("A", first.task_a, first.sample_a), ("B", first.task_b, first.sample_b))
    return [f"task {letter} ({named(name)})" for letter, name, ids in sides if not ids]


def _nothing(data: ReportData) -> tuple[str, ...]:
    empty = _empty_tasks(data)
    if empty:
        return (f"Nothing was measured: there are no samples of {' and '.join(empty)}.",)
    if not data.slices:
        return ("Nothing was measured: none of the chosen layers has a slice.",)
    return ()


def _cautions(data: ReportData) -> list[str]:
    """The caveats of averages, each once, with the variants that they are about where there are several."""
    found: dict[str, list[str]] = {}
    for heatmap, name in zip(data.heatmaps, data.names, strict=True):
        if caveat := heatmap.attributes.get("average_caveat"):
            found.setdefault(caveat, []).append(name)
    several = len(data.heatmaps) > 1
    return [f"Variant {', '.join(names)}: {caveat}" if several else caveat for caveat, names in found.items()]


def _tests(data: ReportData) -> Iterator[str]:
    first, statistics = data.first, data.statistics
    pairs = f"{len(first.sample_a)} × {len(first.sample_b)}"
    caution = "".join(f" {one}" for one in _cautions(data))
    if statistics is None:
        yield (
            f"Nothing was tested. The maps show averages over {pairs} pairs of samples; which differences between heads are"
            f" more than chance is not known, and no head is singled out.{caution}"
        )
        return
    if caution:
        yield caution.strip()
    p = statistics.columns[f"{statistics.main_test}_p"]
    tested = int((~np.isnan(p)).sum())
    if not tested:
        yield "Nothing could be tested: no slice has gradients that are more than rounding noise in every sample."
        return
    strong, weak = (int(statistics.survives(data.alpha, one).sum()) for one in ("p_maxt", "q"))
    yield from (_survivors if strong else _no_survivor)(data, tested, strong)
    if weak > strong:
        yield (
            f"With the false discovery rate in place of the family-wise error (q ≤ {data.alpha:g}) the list has {weak}"
            f" slices; of such a list up to {data.alpha:.0%} is expected to be false."
        )
    yield LIMITS[statistics.main_test]


LIMITS = {
    "source": "Nothing is claimed of slices that do not survive, nor that B does A harm: to coincide has no sign.",
    "exchange": "There was no reference task: nothing more than a difference between the tasks can be concluded, and not that"
    " one interferes with the other.",
}


def _survivors(data: ReportData, tested: int, strong: int) -> Iterator[str]:
    claim = data.statistics.claim
    yield f"In {strong} of {tested} tested slices (family-wise p ≤ {data.alpha:g}): {claim}."


def _no_survivor(data: ReportData, tested: int, strong: int) -> Iterator[str]:
    statistics = data.statistics
    what = {"source": statistics.claim, "exchange": "the tasks differ"}[statistics.main_test]
    yield (
        f"No slice survives: in none of {tested} tested slices was it shown that {what} (family-wise p ≤ {data.alpha:g})."
        " That is no proof of absence."
    )
    counts = statistics.attributes["num_clusters"]
    fewest = min(counts, key=counts.get)
    if counts[fewest] < ENOUGH_CLUSTERS:
        yield (
            f"Task {named(fewest)} has {counts[fewest]} independent clusters; with fewer than {ENOUGH_CLUSTERS} a real"
            " difference is often missed."
        )
    smallest = statistics.attributes["tests"][statistics.main_test].get("min_p", 0.0)
    if smallest > data.alpha:
        yield f"The smallest p that these samples allow is {short(smallest)}, so that no slice could have survived."


def _prediction(data: ReportData) -> Iterator[str]:
    prediction = data.prediction
    if prediction is None:
        return
    facts, whole = prediction.attributes, prediction.to_dataframe("all").iloc[0]
    change, low, high = (whole[name] for name in ("change", "low", "high"))
    step = f"one step ({facts['optimiser']}) of size {short(prediction.step_size)} on all slices for B"
    interval = f"{facts['level']:.0%} interval {short(low)} to {short(high)}"
    settled = low > 0 or high < 0
    if settled:
        moved = "raise" if change > 0 else "lower"
        ends = sorted((abs(low), abs(high)))
        interval = f"{facts['level']:.0%} interval {short(ends[0])} to {short(ends[1])}"
        said = f"is expected to {moved} A's loss by {short(abs(change))} nats a sample ({interval})."
    elif np.isnan(low):
        said = (
            f"is expected to change A's loss by {short(change)} nats a sample. How certain that is, is not known: samples"
            " have no clusters."
        )
    else:
        said = (
            f"is expected to change A's loss by {short(change)} nats a sample ({interval}); whether it goes up or down is not"
            " settled."
        )
    yield f"Predicted from gradients, not measured: {step} {said}"
