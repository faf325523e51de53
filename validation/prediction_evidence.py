r"""`python -m validation.prediction_evidence`: does the metric predict real interference? In full, for the record.

The full study takes too long for every run of the validation, which repeats one small cell of it and reads the full one from
`validation/evidence/prediction_long.json`; see :mod:`validation.committed`. A row is the mean over seeds; its 95 % interval
takes in the error of every seed's own figure (jackknife over clusters) and the scatter of the seeds:

.. math:: V = \frac1S \Big( \overline{V_s} + \frac1{S-1} \sum_s (x_s - \bar x)^2 \Big)
"""

import argparse
import os
import sys
import time

import numpy as np
from tqdm import tqdm

from . import committed, planted_conflicts, prediction_study, prediction_tasks, suite, trained

EVIDENCE = committed.CommittedEvidence(
    path=committed.FOLDER / "prediction_long.json",
    format="qkov-prediction-1",
    # Collection, Fisher and scoring are held against written-out references in every run, and are no part of this.
    sources=(
        "qkov/formula.py",
        "qkov/full_fisher.py",
        "qkov/kfac.py",
        "qkov/prediction.py",
        "qkov/step.py",
        "validation/interventions.py",
        "validation/planted_conflicts.py",
        "validation/prediction_*.py",
        "validation/rank_agreement.py",
        "validation/tasks.py",
        "validation/training.py",
    ),
)
SEEDS = (0, 1, 2, 3, 4)
SAMPLES = 200
SIZES = {"sgd": (0.01, 0.03, 0.1, 0.3), "adam": (0.03, 0.3), "sign": (0.03,)}
SHORT = prediction_study.Cell("mixed", "llama", 0, 100, {"sgd": (prediction_study.SMALL,)}, every_score=False)
NORMAL = 1.96
BOUNDS = {
    # study: (bound, direction) of "predicted" on the bounded pairs at small sizes
    "rank": [(prediction_study.RANK, "at least")],
    "slope": [(prediction_study.SLOPE[0], "at least"), (prediction_study.SLOPE[1], "at most")],
    "R2": [(prediction_study.R_SQUARED, "at least")],
    "pairs": [(prediction_study.PAIR_RANK, "at least")],
}
SHORT_BOUNDS = {"rank": [(0.9, "at least")], "slope": [(0.7, "at least"), (1.3, "at most")], "R2": [(0.9, "at least")]}
"""With half the samples and one seed the slope alone has a standard error of a tenth."""
HIGHEST = {"rank": 1.0, "rank in a block": 1.0, "R2": 1.0, "R2 of real = predicted": 1.0, "pairs": 1.0}


def cells():
    """Every cell of the full study: four pairs on five Llama-style models, one on two; two of them on GPT-2's as well."""
    found = []
    for pair in prediction_tasks.PAIRS:
        for seed in SEEDS[:2] if pair == "trained" else SEEDS:
            opposed = pair in ("conflict", "help")
            found.append(
                prediction_study.Cell(
                    pair, "llama", seed, SAMPLES, SIZES, num_steps=2 if opposed else 0, points=opposed and seed == 0
                )
            )
    for pair in ("help", "mixed"):
        found.append(prediction_study.Cell(pair, "gpt2", 0, SAMPLES, {"sgd": (0.03, 0.1, 0.3), "adam": (0.03,)}))
    return found


def measure(long, *, jobs):
    """Measure all cells, or the short one; rows as :class:`validation.committed.CommittedEvidence` describes them."""
    if not long:
        with suite.process_pool(1) as pool:
            facts = pool.submit(prediction_study.measure, SHORT).result()
        return rows_of(facts, SHORT_BOUNDS)
    with suite.process_pool(jobs) as pool:
        models = [pool.submit(trained.load_model, "llama", seed) for seed in SEEDS]
        for one in models:
            one.result()
        work = [pool.submit(prediction_study.measure, cell) for cell in cells()]
        work += [pool.submit(planted_conflicts.measure, "llama", seed, SAMPLES) for seed in SEEDS]
        work += [pool.submit(planted_conflicts.measure, "gpt2", 0, SAMPLES)]
        facts = [fact for one in tqdm(work, desc="prediction", unit=" cells") for fact in one.result()]
    return rows_of(facts)


def rows_of(facts, bounds=None):
    """Average facts over seeds and hold them against their bounds."""
    groups = {}
    for fact in facts:
        key = tuple(fact[name] for name in ("study", "procedure", "pair", "family", "where"))
        groups.setdefault(key, []).append(fact)
    bounds = BOUNDS if bounds is None else bounds
    return [row for key, members in groups.items() for row in _rows(key, members, bounds)]


def _rows(key, members, bounds):
    study, procedure, pair, family, where = key
    values = np.array([one["value"] for one in members])
    variance = np.mean([one["error"] ** 2 for one in members]) + (values.var(ddof=1) if len(values) > 1 else 0.0)
    half = NORMAL * (variance / len(values)) ** 0.5
    row = {
        "study": f"prediction: {study}",
        "procedure": procedure,
        "data": f"{pair}, {family}, {where}",
        "sets": len(values),
        "value": float(values.mean()),
        "low": float(values.mean() - half),
        "high": min(float(values.mean() + half), HIGHEST.get(study, np.inf)),
        "bound": None,
        "direction": "shown",
        "status": "passed",
        **{name: members[0][name] for name in ("points", "blocks") if name in members[0]},
        **({"each": values.tolist()} if study == "limit" else {}),
    }
    if procedure != "predicted" or pair not in prediction_tasks.BOUNDED or study not in bounds:
        return [row]
    if float(where.partition("size ")[2].partition(",")[0]) > prediction_study.SMALL:
        return [row]
    return [row | _judged(row["value"], bound, direction) for bound, direction in bounds[study]]


def _judged(value, bound, direction):
    kept = value >= bound if direction == "at least" else value <= bound  # False for NaN
    return {"bound": bound, "direction": direction, "status": "passed" if kept else "failed"}


def make_long(jobs):
    """Measure in full, write the file, return the rows."""
    started = time.perf_counter()
    rows = measure(True, jobs=jobs)
    EVIDENCE.write(rows, time.perf_counter() - started)
    return rows


def main(arguments=None):
    """Make the full evidence; 0 if every row holds."""
    parser = argparse.ArgumentParser(
        prog="python -m validation.prediction_evidence", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes of one thread each")
    rows = make_long(parser.parse_args(arguments).jobs)
    for row in rows:
        if row["bound"] is not None or row["study"].startswith("prediction: limit"):
            print(committed.sentence(row), flush=True)
    return 0 if rows and all(row["status"] == "passed" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
