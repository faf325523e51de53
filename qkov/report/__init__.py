"""A report of one comparison of two tasks: a single HTML file, from a run folder or from results in memory.

The file needs no other file and no network. Words, maps, tables and pictures come from the same results; whoever reads only
the summary reads what the statistics allow and no more.
"""

from __future__ import annotations

from typing import Any

from . import figures, page
from .data import ALPHA, ReportData, gather
from .writing import write_report

__all__ = ["ReportData", "make_report", "write_report"]


def make_report(
    heatmap: Any,
    statistics: Any = None,
    prediction: Any = None,
    top_pairs: Any = None,
    head_types: Any = None,
    record: dict[str, Any] | None = None,
    texts: dict[str, dict[Any, str]] | None = None,
    *,
    alpha: float = ALPHA,
    pairs_per_slice: int = 5,
    pictures: bool = False,
) -> str:
    """Write results as one HTML page.

    Args:
        heatmap: A :class:`qkov.Heatmap`, or several of the same samples and slices in a list, one per variant.
        statistics: A :class:`qkov.HeadStatistics` of the same tasks, if there is one.
        prediction: A :class:`qkov.Prediction`, likewise.
        top_pairs: A :class:`qkov.TopPairs`, likewise.
        head_types: A :class:`qkov.HeadTypes` that covers the heads.
        record: How the results were made, as ``run.json`` says it: versions, commit, seeds, what was not run and why.
        texts: Texts to show with the strongest pairs, ``{task: {sample id: text}}``; by default none is shown.
        alpha: Level at which a slice is marked.
        pairs_per_slice: How many of the strongest pairs are listed for every slice.
        pictures: Whether the page also holds the figures, to download.

    Returns:
        The page: the same text for the same results. 80 layers of 64 heads with tests make less than 7 MB.

    Raises:
        OptionError: If results are of other tasks than the heatmap, or a number is out of range.
        ModelChangedError: If results are of another model.
    """
    data = gather(
        heatmap,
        statistics=statistics,
        prediction=prediction,
        top_pairs=top_pairs,
        head_types=head_types,
        record=record,
        texts=texts,
        alpha=alpha,
        pairs_per_slice=pairs_per_slice,
    )
    return page.write(data, figures.draw(data) if pictures else {})
