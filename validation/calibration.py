r"""Do the tests and intervals keep what they promise? Error rates, power and coverage on data sets whose truth is known.

A row of the evidence is the mean of one series of :mod:`validation.calibration_cells` over data sets. Its interval (95 %)
treats data sets as the units: Wilson's for events, the normal one for shares, whose slices are not independent. With n
data sets a bound b moves outwards by

.. math:: Z \sqrt{b (1 - b)} (1 / \sqrt{n} - 1 / \sqrt{1000}), \qquad Z = 3

the additional binomial error of the smaller number. Rates have upper bounds, so a conservative procedure does not fail;
power has lower ones, so a test that never rejects does. Invalid procedures must exceed theirs, which lie above the nominal
rate and never move: seen failing, in the same run, on the same data sets as ours.
"""

from __future__ import annotations

import numpy as np
from tqdm.auto import tqdm

from . import calibration_cells as cells
from . import invalid_procedures as invalid
from . import suite

FULL_SETS = 1000
Z = 3.0
PERMUTATIONS = {"long": 1999, "short": 499}
CHUNK = 10


def judge(cell, series):
    """Turn what was measured on the data sets of a cell into rows.

    Args:
        cell: The :class:`~validation.calibration_cells.Cell`.
        series: ``{name: one number per data set}``.

    Returns:
        Rows: study, procedure, data, sets, value, low, high, bound, direction, status; for an invalid procedure also
        ``ours``, what ours measured on the same data sets (or None), and ``why`` it is invalid.
    """
    rows = []
    for band in cell.bands:
        values = np.asarray(series[band.series], dtype=np.float64)
        bound = widened(band.bound, band.direction, len(values))
        value, (low, high) = float(values.mean()), interval(values)
        row = {
            "study": band.study,
            "procedure": band.procedure,
            "data": cell.data,
            "sets": len(values),
            "value": value,
            "low": low,
            "high": high,
            "bound": bound,
            "direction": band.direction,
            "status": "passed" if holds(value, bound, band.direction) else "failed",
        }
        if band.why:
            row |= {"ours": float(np.mean(series[band.beside])) if band.beside else None, "why": invalid.WHY[band.why]}
        rows.append(row)
    return rows


def widened(bound, direction, sets):
    """Move a bound that was declared for 1,000 data sets outwards by the additional binomial error of fewer."""
    if bound is None or sets >= FULL_SETS or direction == "must exceed":
        return bound
    moved = Z * np.sqrt(bound * (1 - bound)) * (1 / np.sqrt(sets) - 1 / np.sqrt(FULL_SETS))
    return float(bound + moved if direction == "at most" else bound - moved)


def holds(value, bound, direction):
    """Whether a value keeps its bound; NaN keeps none."""
    if direction == "shown":
        return bool(np.isfinite(value))
    return bool(
        {"at most": np.less_equal, "at least": np.greater_equal, "must exceed": np.greater}[direction](value, bound)
    )


def interval(values):
    """Return a 95 % interval of a mean over data sets: Wilson's where values are events, else the normal one."""
    count, mean = len(values), values.mean()
    if np.isin(values, (0.0, 1.0)).all():
        centre, square = (mean + 1.96**2 / (2 * count)) / (1 + 1.96**2 / count), 1 + 1.96**2 / count
        half = 1.96 * np.sqrt(mean * (1 - mean) / count + 1.96**2 / (4 * count**2)) / square
    else:
        centre, half = mean, 1.96 * values.std(ddof=1) / np.sqrt(count)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def measure_chunk(name, first, last, permutations):
    """Measure the data sets first, ..., last - 1 of a cell; ``{series: values}``."""
    found = [cells.CELLS[name].measure(number, permutations) for number in range(first, last)]
    return {key: [one[key] for one in found] for key in found[0]}


def rows(long, jobs, *, progress=True):
    """Calibrate everything.

    Args:
        long: 1,000 data sets per cell and 1,999 relabelings; otherwise fewer and 499, with wider bounds.
        jobs: Processes of one thread each.
        progress: Show a bar.

    Returns:
        Rows of the evidence, see :func:`judge`.
    """
    length = "long" if long else "short"
    chunks = [
        (name, first, min(first + CHUNK, cell.sets[length]), PERMUTATIONS[length])
        for name, cell in cells.CELLS.items()
        for first in range(0, cell.sets[length], CHUNK)
    ]
    series = {name: {} for name in cells.CELLS}
    with suite.process_pool(jobs) as pool:
        measured = pool.map(measure_chunk, *zip(*chunks, strict=True))
        for (name, *_), found in zip(
            chunks, tqdm(measured, total=len(chunks), desc="calibration", disable=not progress), strict=True
        ):
            for key, values in found.items():
                series[name].setdefault(key, []).extend(values)
    return [row for name, cell in cells.CELLS.items() for row in judge(cell, series[name])]
