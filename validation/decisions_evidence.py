"""Evidence of D0: decisions of several processes beside the committed ones, and the files that they are made from."""

import json
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import qkov
from qkov import checks, result_file
from qkov.errors import StatisticsWarning
from qkov.geometry import BLOCKS

from . import decisions, environments, reference_models, suite

EXPECTED = decisions.FOLDER / "decisions.json"
FLOATS = 1e-12


@dataclass(frozen=True)
class Place:
    """Where decisions are made: a process with so many threads and these variables."""

    name: str
    threads: int = 1
    environment: dict = field(default_factory=dict)


PLACES = (
    Place("a process"),
    Place("another process"),
    Place("two threads", threads=2),
    Place("OpenBLAS of another core", environment=environments.ENVIRONMENTS["OpenBLAS of another core"]),
    Place("kernels of NumPy without AVX", environment=environments.ENVIRONMENTS["kernels of NumPy without AVX"]),
    Place(
        "kernels of torch without AVX, MKL in its compatible mode",
        environment=environments.ENVIRONMENTS["kernels of torch without AVX"]
        | environments.ENVIRONMENTS["MKL in its compatible mode"],
    ),
)


def compare(found, expected):
    """Compare decisions with those that are committed.

    Returns:
        ``(exact, floats)``: a Comparison that no difference passes, and one of relative errors.
    """
    exact, floats = checks.Comparison(), checks.Comparison()
    exact.true(found["exact"].keys() == expected["exact"].keys() and bool(expected["exact"]))
    for name in found["exact"].keys() & expected["exact"].keys():
        exact.true(found["exact"][name] == expected["exact"][name], count_of(expected["exact"][name]))
    floats.true(found["floats"].keys() == expected["floats"].keys() and bool(expected["floats"]))
    for name in found["floats"].keys() & expected["floats"].keys():
        floats.near(found["floats"][name], expected["floats"][name])
    return exact, floats


def count_of(value):
    """How many single decisions a nested list holds."""
    nested = value.values() if isinstance(value, dict) else value
    return sum(map(count_of, nested)) if isinstance(value, list | dict) else 1


def measure_decisions(places=PLACES, *, jobs=2, expected=EXPECTED):
    """Decide in every place; ``(results, settings)``, rows of the evidence and a row per place."""
    started = time.perf_counter()
    wanted = json.loads(Path(expected).read_text(encoding="utf-8"))
    with ThreadPoolExecutor(jobs) as pool:
        answers = list(pool.map(ask, places))
    rows = [judge(place, answer, answers[0], wanted) for place, answer in zip(places, answers, strict=True)]
    ran = [row for row in rows if row["status"] != "not run"]
    seconds = round(time.perf_counter() - started, 3)
    results = []
    for check, key, bound in (("decisions_D0", "bits_error", 0.0), ("decisions_D0_floats", "scores_error", FLOATS)):
        errors = [suite.INFINITE if row[key] is None else row[key] for row in ran]
        compared = sum(row.get(key.replace("error", "compared"), 0) for row in ran)
        measured = checks.Measurement(max(errors, default=np.inf), bound, compared)
        said = "" if measured.passed else next((row["reason"] for row in ran if row["reason"]), "decisions differ")
        status = "passed" if measured.passed else "failed"
        results.append(suite.result_row(
            checks.CheckResult(check, "committed files", status, measured.error, bound, compared, seconds, said)
        ))  # fmt: skip
    return results, rows


def ask(place):
    """Decide in a process of its own; what it said, or why it could not."""
    try:
        return json.loads(
            environments.run_module("validation.decisions", threads=place.threads, environment=place.environment)
        )
    except environments.ChildError as error:
        return str(error)


def judge(place, answer, plain, wanted):
    """One row: what a place decided, beside what is committed."""
    row = {"tier": "D0", "setting": place.name, "model": "committed files", "bits": "decisions", "bits_error": None}
    row |= {"gradients_error": None, "scores_error": None, "ranks": None, "compared": 0}
    if broken := next((one for one in (answer, plain) if isinstance(one, str)), None):
        return row | {"status": "failed", "reason": broken}
    if place.environment and not environments.acted(answer["probe"], plain["probe"]):
        said = ", ".join(f"{key}={value}" for key, value in place.environment.items())
        return row | {"status": "not run", "reason": f"{said} changes nothing on this machine"}
    exact, floats = compare(answer, wanted)
    kept = exact.measurement(0.0).passed and floats.measurement(FLOATS).passed
    row |= {"bits_error": suite.finite(exact.error), "scores_error": suite.finite(floats.error)}
    row |= {"bits_compared": exact.compared, "scores_compared": floats.compared}
    row |= {"compared": exact.compared + floats.compared}
    return row | {"status": "passed" if kept else "failed", "reason": "" if kept else "decisions differ"}


def make_files(folder=decisions.FOLDER):
    """Write the files that decisions are made from, those that are not there yet.

    Gradients and heatmap follow from integers and are the same everywhere; the conflicts were measured once, on one machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (path := folder / "gradients.safetensors").exists():
        result_file.write(path, {}, gradients(), **decisions.FORMAT)
    if not (path := folder / "heatmap.safetensors").exists():
        heatmap().save(path)
    if not (path := folder / "conflicts.safetensors").exists():
        conflicts().save(path)


def gradients():
    """Gradients of three tasks, ``[samples, slices, parameters]``; in three of nine slices A and B favour parameters."""
    made = {}
    for task, codes in decisions.LABELS.items():
        grads = environments.words(reference_models.seed_of(task), len(codes), 9, 6)
        if task in "ab":
            grads[:, :3, :2] *= 9
        made[task] = grads.astype(np.float32)
    return made


def heatmap():
    """A heatmap of eighths between 0 and 1, so that most scores have an equal."""
    drawn = {
        block: np.rint(environments.words(at, 4, 3, 2, 4 if block in "QO" else 2) * 4 + 4) / 8
        for at, block in enumerate(BLOCKS)
    }
    return qkov.Heatmap(
        arrays=drawn, task_a="a", task_b="b", sample_a=("w", "x", "y", "z"), sample_b=(7, 5, 6), layers=(0, 1),
        heads=(0, 1, 2, 3), kv_heads=(0, 1), kv_index=np.array([[0, 0, 1, 1]] * 2), health={}, attributes={},
    )  # fmt: skip


def conflicts():
    """Conflicts of the deterministic Llama-style model, by block."""
    model, held = reference_models.build("deterministic-llama"), qkov.FisherCollector()
    for task in ("a", "b", "r"):
        batch = reference_models.batch(task)
        held.collect_fisher(model, batch, task, clusters=[f"{task}{row}" for row in range(4)], progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticsWarning)
        return qkov.detect_conflicts(
            held, "a", "b", reference="r", groups="block", seed=decisions.SEED,
            n_permutations=decisions.PERMUTATIONS, q=0.5, progress=False,
        )  # fmt: skip
