"""`python -m validation.remedies_evidence`: measure in full whether the scores help, and write the evidence that is committed.

Every run of the validation makes a short version and reads the full one from `validation/evidence/remedies_long.json`; see
:mod:`validation.committed`. What is measured and declared stands in :mod:`validation.freezing` and
:mod:`validation.merging_models`.
"""

import argparse
import os
import sys
import time

from . import committed, freezing, merging_models, suite, trained

EVIDENCE = committed.CommittedEvidence(
    path=committed.FOLDER / "remedies_long.json",
    format="qkov-remedies-1",
    # The trained model's recipe is not among them: every row says which weights it was measured on.
    sources=(
        "validation/remedies_evidence.py",
        "validation/freezing.py",
        "validation/freezing_scores.py",
        "validation/fine_tuning.py",
        "validation/merging_models.py",
        "validation/training.py",
        "validation/tasks.py",
        "qkov/formula.py",
        "qkov/step.py",
        "qkov/prediction.py",
        "qkov/diagonal.py",
        "qkov/merging.py",
    ),
)


def measure(long, *, jobs):
    """Make both studies; their rows, one behind the other.

    Rows are those of :class:`validation.committed.CommittedEvidence`; further keys are described where they are made, and
    ``model`` is the SHA-256 of the trained weights.
    """
    freezing_length = freezing.LONG if long else freezing.SHORT
    merging_length = merging_models.LONG if long else merging_models.SHORT
    with suite.process_pool(jobs) as pool:
        frozen = {
            part: pool.submit(freezing.measure_pair, *part, freezing_length) for part in freezing.work(freezing_length)
        }
        merged = {
            seed: pool.submit(merging_models.measure_seed, seed, merging_length)
            for seed in merging_models.work(merging_length)
        }
        frozen = {part: future.result() for part, future in frozen.items()}
        merged = {seed: future.result() for seed, future in merged.items()}
    weights = trained.load_record("llama")["weights"]
    rows = freezing.rows(frozen, freezing_length) + merging_models.rows(merged, merging_length)
    return [row | {"model": weights} for row in rows]


def make_long(jobs):
    """Measure in full, write the file, return the rows."""
    started = time.perf_counter()
    rows = measure(True, jobs=jobs)
    EVIDENCE.write(rows, time.perf_counter() - started)
    return rows


def main(arguments=None):
    """Make the full evidence; 0 if every row holds."""
    parser = argparse.ArgumentParser(
        prog="python -m validation.remedies_evidence", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes of one thread each")
    rows = make_long(parser.parse_args(arguments).jobs)
    for row in rows:
        print(committed.sentence(row), flush=True)
    return 0 if rows and all(row["status"] == "passed" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
