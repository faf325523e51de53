"""``qkov test``: which heads are real, from what a run has collected."""

from __future__ import annotations

import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import StatisticsWarning
from . import options
from .console import Form, echo, echo_json, told_errors


class Clusters(StrEnum):
    """What independent units are."""

    auto = "auto"
    given = "given"
    iid = "iid"


class Criterion(StrEnum):
    """What a slice must keep under the level."""

    p_maxt = "p_maxt"
    q = "q"
    p = "p"


class Alternative(StrEnum):
    """What speaks against the null of the test with a reference."""

    greater = "greater"
    less = "less"
    two_sided = "two-sided"


def run_test(
    path: Annotated[Path, typer.Argument(metavar="RUN", help='Folder that "qkov run" made, or a store alone.')],
    task_a: Annotated[str | None, typer.Option(help="The source; default: that of the run.")] = None,
    task_b: Annotated[str | None, typer.Option(help="What changes; default: that of the run.")] = None,
    reference: Annotated[
        str | None, typer.Option(help='What A is compared with as a source; "none" for no reference.')
    ] = None,
    clusters: Annotated[
        Clusters | None,
        typer.Option(
            help="Independent units: those given with the samples, each sample (iid), or the first if there are any."
        ),
    ] = None,
    permutations: Annotated[
        int | None, typer.Option(help="Relabelings; default: as many as rejections need, at least 9,999.")
    ] = None,
    alternative: Annotated[Alternative, typer.Option(help="Of the test with a reference.")] = Alternative.greater,
    seed: Annotated[int | None, typer.Option(help="Of relabelings and splits; default: that of the run, or 0.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Level; default: that of the run, or 0.05.")] = None,
    criterion: Annotated[
        Criterion,
        typer.Option(help="Family-wise error (p_maxt), false discovery rate (q), or a slice named beforehand (p)."),
    ] = Criterion.p_maxt,
    rows: Annotated[int, typer.Option(min=0, help="Slices to list, by evidence.")] = 10,
    out: Annotated[Path | None, typer.Option(help="File to write instead of one in the run.")] = None,
    form: options.OutputForm = Form.table,
    with_traceback: options.Traceback = False,
) -> None:
    """Test all heads of a run, or of a store, and say what may be concluded.

    The result goes into the run: statistics.safetensors for the run's own settings, else the next free
    statistics-2.safetensors and so on. Nothing that is there is overwritten; the same result is not written twice.

    \b
    Example:
      qkov test run-1 --permutations 99999
      qkov test math-code.store --task-a math --task-b code --reference chat --clusters iid --out found.safetensors
    """
    with told_errors(with_traceback):
        from .. import run_tests

        samples = run_tests.open_samples(
            path,
            task_a=task_a,
            task_b=task_b,
            reference=reference,
            clusters=None if clusters is None else clusters.value,
            n_permutations=permutations,
            alternative=alternative.value,
            seed=seed,
            alpha=alpha,
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", StatisticsWarning)
            found = run_tests.statistics_of(samples, progress=sys.stderr.isatty())
        for one in caught:
            if str(one.message) not in found.attributes["notes"]:  # which are printed anyway
                warnings.warn(one.message, one.category, stacklevel=1)
        saved = None
        if out is not None:
            saved = run_tests.save_beside(found, out)
        elif samples.run is not None:
            saved = run_tests.save_in_run(samples, found)
        if form is Form.json:
            echo_json(_document(found, samples.alpha, criterion.value, saved))
        else:
            echo(_text(found, samples.alpha, criterion.value, rows, saved))


def _text(found: Any, alpha: float, criterion: str, rows: int, saved: Any) -> str:
    parts = [found.conclusion(alpha, criterion), *found.attributes["notes"]]
    names = [f"{found.main_test}_{name}" for name in ("effect", "statistic", "p", "q", "p_maxt")]
    table = found.table()[["block", "layer", "head", "kv_head", *names]].head(rows)
    # Heads of K and V are none; a word in place of pandas' <NA>.
    table["head"] = table["head"].astype(object).where(table["head"].notna(), "-")
    table.columns = [name.removeprefix(f"{found.main_test}_") for name in table.columns]
    if rows:
        parts.append(f"the first {len(table)} of {len(found.blocks)} slices, by evidence:\n{_lines(table)}")
    reliability = found.reliability_table()
    if len(reliability):
        parts.append(f"is the map stable, and is it about the tasks:\n{_lines(reliability)}")
    if saved is not None:
        path, new = saved
        parts.append(f"written to {path}" if new else f"the same as {path}, nothing written")
    return "\n\n".join(parts)


def _lines(table: Any) -> str:
    return table.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="-")


def _document(found: Any, alpha: float, criterion: str, saved: Any) -> dict[str, Any]:
    table = found.table()
    return {
        "conclusion": found.conclusion(alpha, criterion),
        "alpha": alpha,
        "criterion": criterion,
        "main_test": found.main_test,
        "survive": int(found.survives(alpha, criterion).sum()),
        "slices": len(found.blocks),
        "attributes": found.attributes,
        "rows": [{name: _plain(value) for name, value in row.items()} for row in table.to_dict("records")],
        "file": None if saved is None else str(saved[0]),
        "written": saved is not None and saved[1],
    }


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it: nothing in place of NaN, infinity as a word."""
    if isinstance(value, str):
        return value
    if value is None or value != value or str(value) == "<NA>":  # NaN is not itself
        return None
    return str(float(value)) if value in (float("inf"), float("-inf")) else getattr(value, "item", lambda: value)()
