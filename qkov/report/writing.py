"""A report in a run folder: the page, and its pictures as files."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from .. import durable, run_folder
from . import figures, page
from .data import gather

FILE = "report.html"
FIGURES = "figures"
LARGEST = 2**30
"""Bytes of a file of scores that is read into memory; of a larger one a slice is read at a time."""


def write_report(
    run: run_folder.RunFolder | Path | str,
    path: Path | str | None = None,
    *,
    show_text: bool = False,
    top_pairs: int = 5,
) -> Path:
    """Write the report of a run, and its pictures beside it in ``figures/``.

    Args:
        run: A run folder, or a :class:`qkov.run_folder.RunFolder`.
        path: The file; by default ``report.html`` in the run folder.
        show_text: Show the texts of the listed samples. They are read from the task files, which must not have changed.
        top_pairs: How many of the strongest pairs of samples are listed for every slice.

    Returns:
        Path of the page. The same run gives the same bytes.

    Raises:
        RunFolderError: If the folder is no complete run.
        ResultFileError: If a result, or with ``show_text`` a task file, is not what the run wrote or read.
        OptionError: If the run holds no scores, or ``top_pairs`` is negative.
        DiskError: If the files cannot be written.
    """
    run = run if isinstance(run, run_folder.RunFolder) else run_folder.open_run(run)
    path = run.path / FILE if path is None else Path(path)
    config = run.config
    with contextlib.ExitStack() as scratch:
        data = gather(
            [_scores(run, variant, scratch) for variant in run.variants],
            statistics=run.statistics(),
            prediction=run.prediction(),
            top_pairs=run.top_pairs(),
            head_types=run.head_types(),
            record=run.record,
            texts={task: run.texts(task) for task in (config.source, config.target)} if show_text else None,
            alpha=config.statistics.alpha,
            pairs_per_slice=top_pairs,
        )
        pictures = figures.draw(data)
        written = page.write(data, pictures)
    durable.make_folder(path.resolve().parent)
    figures.write(pictures, path.resolve().parent / FIGURES)
    durable.write_file(path.resolve(), [written.encode()])
    return path


def _scores(run: run_folder.RunFolder, variant: str, scratch: contextlib.ExitStack) -> Any:
    size = (run.path / run_folder.scores_name(variant)).stat().st_size
    if size <= LARGEST:
        return run.scores(variant)
    # Ends with the last slice read: the files are laid out in a folder of their own.
    return run.scores(variant, scores_path=scratch.enter_context(tempfile.TemporaryDirectory(dir=run.path)))
