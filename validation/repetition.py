"""The same result again: bit for bit (D1), and with other threads, batches, tiles, orders and kernels within bounds (D2).

Models trained here are collected and scored from scratch in processes of their own. What is tried is data,
:data:`SETTINGS`: a further setting is a further entry. A setting of the environment that does nothing on this machine
counts as not run.
"""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from qkov import checks, reproducibility, result_file, tiers

from . import environments, models, repeated_run, suite
from .repeated_run import Setting

MODELS = ("trained-llama", "trained-gpt2")
D2_GRADIENTS, D2_SCORES, D2_RANKS = tiers.D2_GRADIENTS, tiers.D2_SCORES, tiers.D2_RANKS
"""Relative to the norm of a sample's gradient of a weight, and to the block's largest score; rank correlation of heads.

The bound of gradients is loosened as those of the laws are, ``checks.Case.conditioning``: trained models amplify rounding."""
EMA_LAW = 1e-9
ORDER_MATTERS = 1e-4  # relative; what the exponential mean must move by when samples come the other way round

FIRST = Setting("first")
EVERYTHING = ("labels", "gradients", "scores", "ema")
SETTINGS = (
    Setting("another process", "D1", EVERYTHING, process="second"),
    Setting("tasks collected in the other order", "D1", ("gradients", "scores", "ema"), order="tasks swapped"),
    Setting("killed, and resumed from the store", "D1", EVERYTHING, collect="killed and resumed"),
    Setting("one sample a pass", micro_batch=1),
    Setting("samples reversed, one a pass", "D1", ("gradients",), "one sample a pass", micro_batch=1,
            order="samples reversed"),
    Setting("samples reversed", order="samples reversed"),
    Setting("four samples a pass", micro_batch=4),
    Setting("tiles of 2^14", tile_elements=2**14),
    Setting("tiles of 2^12", tile_elements=2**12),
    Setting("two threads", threads=2),
    Setting("two threads, one sample a pass, tiles of 2^14", threads=2, micro_batch=1, tile_elements=2**14),
    *(Setting(name, environment=environments.ENVIRONMENTS[name])
      for name in ("kernels of torch without AVX", "MKL in its compatible mode")),
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What one process found: fingerprints of the heatmaps, arrays by name, the probe."""

    labels: dict
    arrays: dict
    probe: dict

    def part(self, name):
        """Arrays of one part: "gradients", "scores" or "ema"."""
        return {key: value for key, value in self.arrays.items() if key.startswith(f"{name}/")}


def measure_repetition(names=MODELS, settings=SETTINGS, *, jobs=2):
    """Repeat the models under every setting.

    Returns:
        ``(results, settings, arrays)``: rows of the evidence, one per check and model; a row per setting and model with
        what was measured; and a record of the arrays of the first run.
    """
    started = time.perf_counter()
    cases = {name: models.CASES[name].build() for name in names}
    bounds = {name: D2_GRADIENTS * checks.Case(name, *parts).conditioning for name, parts in cases.items()}
    with tempfile.TemporaryDirectory() as folder:
        runs = repeat(cases, (FIRST, *settings), folder, jobs=jobs)
    rows = [compare(one, name, runs, bounds[name]) for name in names for one in settings]
    seconds = round(time.perf_counter() - started, 3)
    results = [row for name in names for row in summarise(name, rows, runs, bounds[name], seconds)]
    recorded = [row for name in names if isinstance(runs[name, FIRST.name], Run)
                for row in array_records(name, runs[name, FIRST.name])]  # fmt: skip
    return results, rows, recorded


def repeat(cases, settings, folder, *, jobs):
    """Make every setting of every ``{name: (model, batches, loss)}``, all of ``models.CASES``.

    Returns:
        ``{(name, setting): Run, or why there is none}``.
    """
    for name, parts in cases.items():
        repeated_run.write_case(folder, name, parts)
    places = {}
    for one in settings:
        places.setdefault(one.place, []).append(one)
    numbered = list(enumerate(places.values()))
    failures = {}

    def start(numbered_settings):
        number, chosen = numbered_settings
        repeated_run.write_request(folder, number, cases, chosen)
        try:
            environments.run_module("validation.repeated_run", folder, number, threads=chosen[0].threads,
                                    environment=chosen[0].environment)  # fmt: skip
        except environments.ChildError as error:
            failures.update({one.name: str(error) for one in chosen})

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, [one for one in numbered if one[1][0].threads == 1]))
    # Several threads alone: programs that contend for the cores are many times slower.
    for one in numbered:
        if one[1][0].threads > 1:
            start(one)
    return {
        (name, one.name): failures.get(one.name) or read(repeated_run.path_of(folder, one.name, name))
        for name in cases
        for one in settings
    }


def read(path):
    """Read one run."""
    content, arrays = result_file.read(path, **repeated_run.FORMAT)
    return Run(content["labels"], arrays, content["probe"])


def compare(setting, name, runs, bound=D2_GRADIENTS):
    """Compare one setting on one model with what it must equal, gradients within a bound; a row with the errors."""
    row = {"tier": setting.tier, "setting": setting.name, "model": name, "bits": ", ".join(setting.bits)}
    row |= {"bits_error": None, "gradients_error": None, "scores_error": None, "ranks": None, "compared": 0}
    one, two = runs[name, setting.against], runs[name, setting.name]
    if broken := next((run for run in (one, two) if isinstance(run, str)), None):
        return row | {"status": "failed", "reason": broken}
    if setting.environment and not environments.acted(two.probe, runs[name, FIRST.name].probe):
        said = ", ".join(f"{key}={value}" for key, value in setting.environment.items())
        return row | {"status": "not run", "reason": f"{said} changes nothing on this machine"}
    bits, gradients, scores = (
        compare_bits(setting.bits, one, two),
        compare_gradients(one, two),
        compare_scores(one, two),
    )
    if setting.order != "samples reversed":  # whose exponential mean is another result, see ``compare_order``
        compare_maps(scores, one.part("ema"), two.part("ema"))
    row |= {"bits_error": None if not setting.bits else suite.finite(bits.error)}
    row |= {"gradients_error": suite.finite(gradients.error), "scores_error": suite.finite(scores.error)}
    counts = {
        "bits_compared": bits.compared,
        "gradients_compared": gradients.compared,
        "scores_compared": scores.compared,
    }
    row |= {"ranks": lowest_ranks(one, two), "compared": sum(counts.values()), **counts}
    kept = gradients.measurement(bound).passed and scores.measurement(D2_SCORES).passed
    kept = kept and (not setting.bits or bits.measurement(0.0).passed)
    return row | {"status": "passed" if kept else "failed", "reason": "" if kept else "the results differ"}


def compare_bits(parts, one, two):
    """D1: the named parts have the same bits, dtypes and shapes."""
    comparison = checks.Comparison()
    for part in parts:
        if part == "labels":
            comparison.true(one.labels == two.labels)
            continue
        first, second = one.part(part), two.part(part)
        comparison.true(first.keys() == second.keys() and bool(first))
        for name in first.keys() & second.keys():
            same = (first[name].dtype, first[name].shape) == (second[name].dtype, second[name].shape)
            comparison.true(same and first[name].tobytes() == second[name].tobytes(), first[name].size)
    return comparison


def compare_gradients(one, two):
    """D2: every gradient of every sample, relative to its own norm."""
    comparison, first, second = checks.Comparison(), one.part("gradients"), two.part("gradients")
    comparison.true(first.keys() == second.keys() and bool(first))
    for name in first.keys() & second.keys():
        expected = first[name].astype(np.float64)
        if second[name].shape != expected.shape:
            comparison.true(False)
            continue
        distance, norm = np.linalg.norm(second[name] - expected), np.linalg.norm(expected)
        # A gradient of zeros has no scale: then every other one is wrong.
        comparison.near(distance / norm if norm else distance, 0.0, scale=1.0 if norm else 1e-300)
        comparison.compared += expected.size - 1
    return comparison


def compare_scores(one, two):
    """D2: scores, the order of heads, and the strongest pairs."""
    comparison = checks.Comparison()
    compare_maps(comparison, one.part("scores"), two.part("scores"))
    return comparison


def compare_maps(comparison, first, second):
    """Compare scores by block: within the bound, heads keep their ranks, and the strongest pairs are the same up to ties."""
    comparison.true(first.keys() == second.keys() and bool(first))
    for name in first.keys() & second.keys():
        one, two = first[name], second[name]
        comparison.near(two, one)
        if one.shape != two.shape:
            continue
        comparison.true(ranks(one, two) >= D2_RANKS)
        top = np.argsort(-one, axis=None, kind="stable")[: tiers.TOP_PAIRS]
        # The last pair may trade places with one that equals it within the bound.
        lowest = np.sort(two, axis=None)[-len(top)] - D2_SCORES * np.abs(one).max()
        comparison.true(bool((two.ravel()[top] >= lowest).all()), len(top))


def ranks(one, two):
    """Rank correlation of the averages of the slices."""
    return stats.spearmanr(one.mean((0, 1)).ravel(), two.mean((0, 1)).ravel()).statistic


def lowest_ranks(one, two):
    """The lowest rank correlation of the blocks."""
    pairs = [(array, two.arrays.get(key)) for key, array in one.part("scores").items()]
    found = [float(ranks(array, other)) for array, other in pairs if np.shape(other) == array.shape]
    return min(found) if found and np.isfinite(found).all() else None


def compare_order(runs, name):
    """The exponential mean follows the order of collection: that of a plain loop, and another one the other way round."""
    law, moved = checks.Comparison(), checks.Comparison()
    for one in (FIRST.name, "samples reversed"):
        for task in ("a", "b"):
            arrays = runs[name, one].arrays
            law.near(arrays[f"ema law/{task}"], arrays[f"ema loop/{task}"])
            moved.near(arrays[f"ema law/{task}"], runs[name, FIRST.name].arrays[f"ema law/{task}"])
    law.true(moved.error >= ORDER_MATTERS)
    return law


def summarise(name, rows, runs, bound, seconds):
    """Rows of the evidence for one model: the worst of all settings."""
    mine = [row for row in rows if row["model"] == name and row["status"] != "not run"]
    broken = next((row["reason"] for row in mine if row["gradients_error"] is None), None)

    def worst(check, key, bound):
        errors = [suite.INFINITE if row["gradients_error"] is None else row[key] for row in mine]
        compared = sum(row.get(key.replace("error", "compared"), 0) for row in mine)
        return row_of(check, name, [one for one in errors if one is not None], bound, compared, seconds, broken)

    found = [
        worst("repetition_D1", "bits_error", 0.0),
        worst("repetition_D2_gradients", "gradients_error", bound),
        worst("repetition_D2", "scores_error", D2_SCORES),
    ]
    if {(name, FIRST.name), (name, "samples reversed")} <= runs.keys() and not broken:
        law = compare_order(runs, name)
        found.append(row_of("order_of_ema", name, [law.error], EMA_LAW, law.compared, seconds, None))
    return found


def row_of(check, name, errors, bound, compared, seconds, reason):
    """A row of the evidence: the largest of some errors; none is a failure."""
    measured = checks.Measurement(max(errors, default=np.inf), bound, compared if errors else 0)
    said = "" if measured.passed else reason or "the results differ"
    status = "passed" if measured.passed else "failed"
    return suite.result_row(
        checks.CheckResult(check, name, status, measured.error, bound, measured.compared, seconds, said)
    )


def array_records(name, run):
    """Shape, dtype, SHA-256 and a few values of the gradients of one sample of each task, and of the scores."""
    chosen = {key: value for key, value in run.arrays.items() if key.split("/")[0] in ("scores", "ema")}
    for task in ("a", "b"):
        chosen |= {key: value for key, value in run.arrays.items() if key.startswith(f"gradients/{task}/0/")}
    return [
        {
            "model": name,
            "array": key,
            "shape": list(value.shape),
            "dtype": str(value.dtype),
            "sha256": reproducibility.tensor_digest(torch.from_numpy(np.ascontiguousarray(value))),
            "values": [float(value.ravel()[at]) for at in (0, value.size // 2, -1)],
        }
        for key, value in sorted(chosen.items())
    ]
