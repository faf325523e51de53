r"""One row per head, block and task, as a table and as a CSV file that a spreadsheet opens without running anything.

Text that a spreadsheet would take for a formula (the name of a task, say) is defused by :func:`qkov.escaping.for_csv`, which
:func:`load_head_table` undoes. Numbers are written in full: they come back in every bit.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from . import errors, escaping, importance

if TYPE_CHECKING:
    import pandas as pd

    from .diagonal import FisherDiagonal
    from .importance import FisherImportance

    Source: TypeAlias = FisherDiagonal | FisherImportance

    from .option_types import PathLike, RankBy


__all__ = ["export_head_table", "head_table", "load_head_table"]

TEXT_COLUMNS = ("task", "block", "parameter", "saliency", "normalisation", "unit")
WHOLE_COLUMNS = (
    "layer", "head", "kv_head", "row_start", "row_stop", "column_start", "column_stop", "num_parameters", "rank",
)  # fmt: skip
COLUMNS = (
    "task", "layer", "block", "head", "kv_head", "parameter", "row_start", "row_stop", "column_start", "column_stop",
    "num_parameters", "sum", "mean", "rank", "saliency", "normalisation", "unit",
)  # fmt: skip


def head_table(sources: Source | Sequence[Source] | Mapping[str, Source], *, rank_by: RankBy = "sum") -> pd.DataFrame:
    """Return a pandas table of all heads of one or several tasks.

    Args:
        sources: A :class:`qkov.FisherDiagonal` or :class:`qkov.FisherImportance`, or several of different tasks (a list,
            or a mapping's values).
        rank_by: "sum" or "mean": what ``rank`` orders, within task and block, 1 the highest.

    Returns:
        A row per task, layer, block and head. ``head`` is missing for K and V, which belong to a kv head; ``kv_head`` of a
        Q or O row is the one it reads. Rows and columns are those of the stored ``parameter``, the stop excluded. ``sum``
        and ``mean`` are over the slice, in the ``unit`` named beside them.

    Raises:
        OptionError: If two sources are of the same task, or there is none.
    """
    import pandas as pd

    if isinstance(sources, Mapping):
        sources = tuple(sources.values())
    found = [importance.as_importance(one) for one in (sources if isinstance(sources, list | tuple) else [sources])]  # type: ignore[arg-type]  # told apart by its type
    tasks = [one.task for one in found]
    if not tasks or len(set(tasks)) < len(tasks):
        raise errors.OptionError(f"the tasks are {tasks}; expected one or several, each once.")
    tables = []
    for one in found:
        facts = {name: one.attributes[name] for name in ("saliency", "normalisation", "unit")}
        tables.append(one.to_dataframe("head", rank_by=rank_by).assign(task=one.task, **facts))
    for table in tables:
        table.attrs = {}  # of several tasks; what matters is in the columns
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def export_head_table(
    sources: Source | Sequence[Source] | Mapping[str, Source], path: PathLike, *, rank_by: RankBy = "sum"
) -> Path:
    """Write :func:`head_table` as CSV in UTF-8, atomically, without an index column; text is safe in a spreadsheet.

    Args:
        sources, rank_by: As for :func:`head_table`.
        path: Where to; an existing file is replaced.

    Returns:
        The path.
    """
    import csv

    table = head_table(sources, rank_by=rank_by)
    for name in TEXT_COLUMNS:
        table[name] = table[name].map(escaping.for_csv)
    # All text is quoted: the csv module leaves a carriage return inside a cell bare otherwise.
    text = table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        temporary.write_bytes(text.encode("utf-8"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_head_table(path: PathLike) -> pd.DataFrame:
    """Read what :func:`export_head_table` wrote: equal to :func:`head_table` in every bit.

    Args:
        path: The CSV file.

    Returns:
        The table, as pandas ``DataFrame``.

    Raises:
        ResultFileError: If the columns are not those of such a table.
        OSError: If it cannot be opened.
    """
    import pandas as pd

    types = dict.fromkeys(TEXT_COLUMNS, object) | dict.fromkeys(WHOLE_COLUMNS, "Int64")
    try:
        # Only an empty cell is missing: a task may be called "NA". Python's float reads every bit, whatever pandas does.
        table = pd.read_csv(
            path,
            dtype=types,
            converters={"sum": float, "mean": float},
            keep_default_na=False,
            na_values={name: [""] for name in ("layer", "head", "kv_head")},
            encoding="utf-8",
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise errors.ResultFileError(f"{path} is not a table of heads: {error}") from error
    if tuple(table.columns) != COLUMNS:
        raise errors.ResultFileError(f"{path} has columns {list(table.columns)}; expected {list(COLUMNS)}.")
    for name in TEXT_COLUMNS:
        table[name] = table[name].map(escaping.from_csv)
    for name in WHOLE_COLUMNS[3:]:
        table[name] = table[name].astype("int64")
    return table
