"""What results say of themselves to people: a headline, a table of rows, and notes, for a terminal or as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import escaping
from .slice_labels import unit_name

if TYPE_CHECKING:
    from .heatmap import Heatmap
    from .pair_summary import PairSummary


def kind_of(attributes: Mapping[str, Any]) -> str:
    """Say from the ``attributes`` of a result which variant it holds, and whose Fisher divides."""
    pool = attributes.get("fisher_pool", "?")
    return f"{attributes.get('variant', 'scores')}, Fisher {pool if pool == 'pooled' else f'of {pool}'}"


def headline(result: Heatmap | PairSummary, sizes: str) -> str:
    """Say what was compared, and how: the tasks of a ``result``, its kind, and ``sizes``."""
    return f"{result.task_a} x {result.task_b}: {kind_of(result.attributes)}; {sizes}"


def where_strongest(block: str, top: Mapping[str, Any]) -> str:
    """Say of the strongest conflict of a ``block``, a row of ``top_conflicts``, how large it is and where."""
    unit = top["kv_head" if block in "KV" else "head"]
    found = f"{top['score']:.3g} at layer {top['layer']}, {unit_name(block)} {unit}"
    return f"{found}, {top['sample_i']!r} x {top['sample_j']!r}"


def notes_of(attributes: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """List those of the notes ``names`` that the ``attributes`` of a result hold: what is easily misread."""
    return [note for note in map(attributes.get, names) if note]


def in_terminal(
    name: str, said: str, columns: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str]
) -> str:
    """Write a result on lines of text.

    Args:
        name: Of its class. said: The headline.
        columns: Names of the cells of a row after the first, which is the block.
        rows: Cells. notes: Sentences.

    Returns:
        Text without control characters.
    """
    lines = [
        f"{block}: " + ", ".join(f"{column} {cell}" for column, cell in zip(columns, cells, strict=True))
        for block, *cells in rows
    ]
    text = "".join(f"\n  {line}" for line in (*lines, *notes))
    return escaping.for_terminal(f"<{name} {said}{text}>")


def in_html(name: str, said: str, columns: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str]) -> str:
    """Write a result as an HTML table; arguments as of :func:`in_terminal`."""
    header = "".join(f"<th>{column}</th>" for column in ("block", *columns))
    body = "".join("<tr>" + "".join(f"<td>{escaping.for_html(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    below = "".join(f"<p>{escaping.for_html(note)}</p>" for note in notes)
    return escaping.html_block(
        f"<p><b>{name}</b> {escaping.for_html(said)}</p><table><thead><tr>{header}</tr></thead>",
        f"<tbody>{body}</tbody></table>{below}",
    )
