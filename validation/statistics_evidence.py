"""`python -m validation.statistics_evidence`: calibrate the statistics in full and write the evidence that is committed.

The full calibration takes too long for every run of the validation, which makes a short one and reads the full one from
`validation/evidence/statistics_long.json`; see :mod:`validation.committed`.
"""

import argparse
import os
import sys
import time

from . import calibration, committed, real_gradients, snr, suite

EVIDENCE = committed.CommittedEvidence(
    path=committed.FOLDER / "statistics_long.json",
    format="qkov-statistics-1",
    sources=(
        "qkov/statistics/*.py",
        "validation/calibration.py",
        "validation/calibration_cells.py",
        "validation/simulated_gradients.py",
        "validation/invalid_procedures.py",
        "validation/real_gradients.py",
        "validation/trained_gradients.py",
        "validation/snr.py",
    ),
)


def measure(long, *, jobs):
    """Make all studies; their rows, one behind the other.

    Rows are those of :class:`validation.committed.CommittedEvidence`.
    """
    rows = calibration.rows(long, jobs)
    with suite.process_pool(jobs) as pool:
        measured = [pool.submit(study.rows, long) for study in (real_gradients, snr)]
        return rows + [row for one in measured for row in one.result()]


def make_long(jobs):
    """Measure in full, write the file, return the rows."""
    started = time.perf_counter()
    rows = measure(True, jobs=jobs)
    EVIDENCE.write(rows, time.perf_counter() - started)
    return rows


def main(arguments=None):
    """Make the full evidence; 0 if every row holds."""
    parser = argparse.ArgumentParser(
        prog="python -m validation.statistics_evidence", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes of one thread each")
    rows = make_long(parser.parse_args(arguments).jobs)
    for row in rows:
        print(committed.sentence(row), flush=True)
    return 0 if rows and all(row["status"] == "passed" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
