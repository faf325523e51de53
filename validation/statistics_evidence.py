"""`python -m validation.statistics_evidence`: calibrate the statistics in full and write the evidence that is committed.

The full calibration takes too long for every run of the validation, which makes a short one and reads the full one from
`validation/evidence/statistics_long.json`. That file names the SHA-256 of every source that made it; where one of them
has changed since, it is evidence about other code, and is refused.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

from qkov import reproducibility

from . import calibration, real_gradients, snr, suite

ROOT = Path(__file__).resolve().parent.parent
LONG = ROOT / "validation" / "evidence" / "statistics_long.json"
FORMAT = "qkov-statistics-1"
SOURCES = (
    "qkov/statistics/*.py",
    "validation/calibration.py",
    "validation/calibration_cells.py",
    "validation/simulated_gradients.py",
    "validation/invalid_procedures.py",
    "validation/real_gradients.py",
    "validation/trained_gradients.py",
    "validation/snr.py",
)
COMMAND = "nox -s validate -- --long"


def measure(long, *, jobs):
    """Make all studies; their rows, one behind the other.

    A row holds study, procedure, data, sets (data sets, or splits), value, low and high (95 % interval), bound, direction
    ("at most", "at least", "must exceed" for a procedure that must be seen failing, "shown") and status.
    """
    rows = calibration.rows(long, jobs)
    with suite.process_pool(jobs) as pool:
        measured = [pool.submit(study.rows, long) for study in (real_gradients, snr)]
        return rows + [row for one in measured for row in one.result()]


def source_hashes(root=ROOT):
    """SHA-256 of every source that the evidence depends on, by path."""
    paths = sorted(path for pattern in SOURCES for path in root.glob(pattern))
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def write_long(rows, seconds, path=LONG):
    """Write the rows of a full run with what made them."""
    document = {
        "format": FORMAT,
        "seconds": round(seconds, 1),
        "environment": reproducibility.environment_record(),
        "sources": source_hashes(),
        "rows": [{key: rounded(value) for key, value in row.items()} for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def rounded(value):
    """Six digits after the point are more than a thousand data sets can tell."""
    return round(value, 6) if isinstance(value, float) else value


def read_long(path=LONG, root=ROOT):
    """Read the committed evidence.

    Returns:
        ``{"rows": [...], "seconds": number or None, "complaints": [...]}``: sentences that say why the evidence does not
        speak for the present sources; none if it does.
    """
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    again = f"Run `{COMMAND}` and commit the file."
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"rows": [], "seconds": None, "complaints": [f"{shown} does not exist. {again}"]}
    except json.JSONDecodeError as error:
        return {"rows": [], "seconds": None, "complaints": [f"{shown} is not JSON ({error}). {again}"]}
    if document.get("format") != FORMAT:
        found = document.get("format")
        complaint = f"{shown} has format {found!r}; expected {FORMAT!r}. {again}"
        return {"rows": [], "seconds": None, "complaints": [complaint]}
    complaints = []
    made_by, present = document["sources"], source_hashes(root)
    changed = sorted(name for name in made_by.keys() | present.keys() if made_by.get(name) != present.get(name))
    if changed:
        complaints.append(f"{shown} was made by other sources; changed since: {', '.join(changed)}. {again}")
    if not document["rows"]:
        complaints.append(f"{shown} holds no row. {again}")
    complaints += [f"{shown}: {sentence(row)}" for row in document["rows"] if row["status"] != "passed"]
    return {"rows": document["rows"], "seconds": document["seconds"], "complaints": complaints}


def sentence(row):
    """Say what a row found, for a log."""
    bound = "" if row["bound"] is None else f", {row['direction']} {row['bound']:.3f}"
    return f"{row['status']}: {row['study']} of {row['procedure']} on {row['data']}: {row['value']:.3f}{bound}"


def make_long(jobs):
    """Measure in full, write the file, return the rows."""
    started = time.perf_counter()
    rows = measure(True, jobs=jobs)
    write_long(rows, time.perf_counter() - started)
    return rows


def main(arguments=None):
    """Make the full evidence; 0 if every row holds."""
    parser = argparse.ArgumentParser(
        prog="python -m validation.statistics_evidence", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes of one thread each")
    rows = make_long(parser.parse_args(arguments).jobs)
    for row in rows:
        print(sentence(row), flush=True)
    return 0 if rows and all(row["status"] == "passed" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
