"""Does the methods appendix suffice? What a program written from its text alone computes, beside what is published.

:mod:`validation.independent` runs in a process in which `qkov` cannot be imported. Its values are compared with the committed
ones (`validation/reference`), with those of the package for options of which none are committed, and with the committed
decisions of tests. Then everything is compared again for each wrong reading of the text, which must be noticed.
"""

import functools
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import qkov
from qkov import checks, result_file
from qkov.errors import QKOVWarning
from qkov.geometry import BLOCKS
from qkov.statistics import confidence_interval
from qkov.statistics import test_source as qkov_test_source  # under another name, as pytest collects by name

from . import decisions, decisions_evidence, reference_models, reference_values, suite, tasks

ROOT = Path(__file__).resolve().parent.parent
MARGIN = 10
"""A misreading is noticed where the error is this many times its bound; where counts must be equal, by any other count."""
PREDICTED = 1e-9
WITHOUT_QKOV = (
    "import runpy, sys; sys.modules['qkov'] = None; runpy.run_module('validation.independent', run_name='__main__')"
)
"""An entry of None makes each import of qkov fail, in this module and in all that it imports."""
OPTIONS = {
    "pool A": {"fisher_pool": "A"},
    "pool B": {"fisher_pool": "B"},
    "ema": {"fisher_source": "ema"},
    "one value for each head": {"fisher_source": "head"},
    "absolute damping": {"epsilon": 1e-3, "ridge_lambda": 1e-2},
    "B's gradients for each token": {"normalize_gj": "per_token"},
    "without normalisation by tokens": {"contribution_normalisation": "none"},
    "mean over the slice": {"aggregate": "mean"},
    "with biases": {"include_bias": True},
}
"""The package's names for what :mod:`validation.independent` computes under the same words."""


def run_independent(gradients=decisions.FOLDER / "gradients.safetensors"):
    """Run the program from the text, and read what it prints.

    Raises:
        RuntimeError: If it ends with another status than 0; the message holds its last lines.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TRANSFORMERS_VERBOSITY": "error"}
    env |= {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, "-c", WITHOUT_QKOV, str(gradients)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the independent program ended with status {done.returncode}: {done.stderr.strip()[-600:]}")
    return json.loads(done.stdout)


def measure_independent(found=None):
    """Compare the program's values with the published ones.

    Returns:
        ``(results, misreadings)``: rows of the evidence, and a row for each wrong reading of the text: name, equation,
        noticed_by, ratio, status.
    """
    started = time.perf_counter()
    found = run_independent() if found is None else found
    published = json.loads(reference_values.PATH.read_text(encoding="utf-8"))["models"]
    decided = json.loads(decisions_evidence.EXPECTED.read_text(encoding="utf-8"))
    results = [
        row("independent_scores", name, compare_scores(found["models"][name], published[name]["exact"]),
            reference_values.EXACT, started)
        for name in reference_models.NAMES
    ]  # fmt: skip
    for name in reference_models.NAMES:
        top = compare_top(found["models"][name]["top"], published[name]["single"]["top"])
        results.append(row("independent_top", name, top, reference_values.SINGLE, started))
        held = collect(name)
        results.append(row("independent_options", name, compare_options(found["options"][name], held),
                           reference_values.EXACT, started))  # fmt: skip
        results.append(row("independent_predicted", name, compare_predicted(found["predicted"][name], held),
                           PREDICTED, started))  # fmt: skip
    noise = compare_noise(found["noise"])
    results.append(row("independent_noise", "equal tokens", noise, reference_values.EXACT, started))
    counts, floats = compare_tests(found["tests"], decided)
    results += [
        row("independent_tests", "committed files", counts, 0.0, started),
        row("independent_statistics", "committed files", floats, reference_values.EXACT, started),
        row(
            "independent_unequal",
            "committed files",
            compare_unequal(found["tests"]["unequal"]),
            reference_values.EXACT,
            started,
        ),
        row(
            "independent_intervals",
            "committed files",
            compare_intervals(found["tests"]),
            reference_values.EXACT,
            started,
        ),
    ]
    misread = [judge(name, wrong, published, decided) for name, wrong in found["misread"].items()]
    missed = checks.Comparison()
    for one in misread:
        missed.true(one["status"] == "noticed")
    return [*results, row("independent_misreadings", "all of the above", missed, 0.0, started)], misread


def row(check, name, comparison, bound, started):
    """A row of the evidence from a comparison."""
    measured = comparison.measurement(bound)
    status, said = ("passed", "") if measured.passed else ("failed", "the text does not lead to the published values")
    seconds = time.perf_counter() - started
    return suite.result_row(
        checks.CheckResult(check, name, status, measured.error, bound, measured.compared, seconds, said)
    )


def compare_scores(found, published):
    """Averages and the largest scores of every variant and block, and Fisher sums."""
    return reference_values.compare(found, {"scores": published["scores"], "fisher": published["fisher"]}, 0.0)


def compare_top(found, published):
    """The strongest pairs of every block, under the names of heads that a reader sees."""
    comparison = checks.Comparison()
    for block in BLOCKS:
        reference_values.compare_top(comparison, found[block], published[block], reference_values.SINGLE)
    return comparison


def collect(name):
    """The package's collection of a reference model in double precision."""
    model, held = reference_models.build(name).double(), qkov.FisherCollector()
    for task in ("a", "b"):
        held.collect_fisher(model, reference_models.batch(task), task, progress=False)
    return held


def compare_noise(found):
    """Scores of samples whose tokens are all equal, beside the package's: exactly 0 where all is rounding."""
    comparison = checks.Comparison()
    for variant, published in of_equal_tokens().items():
        for block, ours in published.items():
            one = found[variant][block]
            if block in "VO":
                comparison.true(ours["largest"] > 0)
                comparison.near(one["mean"], ours["mean"], scale=ours["largest"])
                comparison.near(one["largest"], ours["largest"])
            elif variant == "dot":  # nothing is divided, so that noise stays as small as it is
                comparison.true(max(one["largest"], ours["largest"]) < 1e-20 * published["V"]["largest"])
            else:
                comparison.true(one["largest"] == ours["largest"] == 0.0)
    return comparison


@functools.cache
def of_equal_tokens():
    """The package's averages of samples whose tokens are all equal, by variant and block."""
    model, held = reference_models.build("deterministic-llama").double(), qkov.FisherCollector()
    for task, rows in EQUAL.items():
        held.collect_fisher(model, tasks.pad_rows(rows, pad_id=0), task, progress=False)
    return {variant: package_scores(held, variant) for variant in reference_values.VARIANTS}


EQUAL = {"a": ([5] * 6, [7] * 9), "b": ([3] * 7, [11] * 5)}


def package_scores(held, variant, **given):
    """The package's averages of every block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QKOVWarning)  # few samples, and absolute constants, on purpose
        options = {"fisher_pool": "pooled", "aggregate": "sum", "min_samples_for_fisher": 1} | given
        metric = qkov.QKOVInterferenceMetric(held.config, held, variant=variant, **options)
        heatmap = metric.compute_heatmap("a", "b", progress=False)
    return {block: reference_values.averages(heatmap.arrays[block]) for block in BLOCKS}


def compare_options(found, held):
    """Scores with every other choice that the text offers, beside the package's."""
    comparison = checks.Comparison()
    comparison.true(found.keys() == OPTIONS.keys())
    for said, given in OPTIONS.items():
        for variant, by_block in found[said].items():
            for block, ours in package_scores(held, variant, **given).items():
                comparison.near(by_block[block]["mean"], ours["mean"], scale=ours["largest"])
                comparison.near(by_block[block]["largest"], ours["largest"])
    return comparison


def compare_predicted(found, held):
    """Predicted changes of every optimiser and curvature, slice by slice."""
    comparison = checks.Comparison()
    for said, rows in found.items():
        optimiser, curvature = said.split()
        table = qkov.predict_change(
            held,
            "a",
            "b",
            step_size=STEP_SIZE,
            optimiser=optimiser,
            curvature=curvature,
            clusters="iid",
            progress=False,
        )
        ours = dict(zip(zip(table.layers, table.blocks, table.units, strict=True), table.change.tolist(), strict=True))
        comparison.true(ours.keys() == {(layer, block, unit) for layer, block, unit, _ in rows})
        changes = [[change, ours[layer, block, unit]] for layer, block, unit, change in rows]
        one, two = zip(*changes, strict=True)
        comparison.near(one, two)
    return comparison


STEP_SIZE = 0.05


def compare_tests(found, decided):
    """Counts, which must be equal, and statistics and effects."""
    counts, floats = checks.Comparison(), checks.Comparison()
    for name, value in found["exact"].items():
        counts.true(value == decided["exact"][name], len(value))
    for name, value in found["floats"].items():
        floats.near(value, decided["floats"][name])
    counts.true(len(found["exact"]) == 7 and len(found["floats"]) == 6)
    return counts, floats


def committed_gradients():
    """The committed gradients, and the label of each sample's cluster."""
    _, grads = result_file.read(decisions.FOLDER / "gradients.safetensors", **decisions.FORMAT)
    return grads, {task: [f"{task}{one}" for one in codes] for task, codes in decisions.LABELS.items()}


def compare_unequal(found):
    """``test_source`` between six clusters and five, beside the package's: all relabelings that exist."""
    grads, labels = committed_gradients()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QKOVWarning)  # few clusters, on purpose
        ours = qkov_test_source(
            grads["a"], grads["r"][:6], grads["b"], clusters_a=labels["a"], clusters_r=labels["r"][:6],
            n_permutations=decisions.PERMUTATIONS, seed=decisions.SEED,
        )  # fmt: skip
    comparison, draws = checks.Comparison(), 1 + ours.n_permutations
    comparison.true(found["relabelings"] == ours.n_permutations and ours.n_distinct == draws)
    comparison.true(found["counts"] == np.rint(ours.p * draws).astype(int).tolist(), len(ours.p))
    comparison.true(found["family counts"] == np.rint(ours.p_maxt * draws).astype(int).tolist(), len(ours.p))
    comparison.near(found["statistic"], ours.statistic)
    comparison.near(found["effect"], ours.effect)
    return comparison


def compare_intervals(found):
    """Bias-corrected lifts with their intervals, beside the package's."""
    grads, labels = committed_gradients()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QKOVWarning)  # few clusters, on purpose
        ours = confidence_interval(grads["a"], grads["b"], clusters_a=labels["a"], clusters_b=labels["b"])
    comparison = checks.Comparison()
    for column, values in enumerate((ours.estimate, ours.low, ours.high)):
        comparison.near([one[column] for one in found["intervals"]], values)
    return comparison


def judge(name, wrong, published, decided):
    """Whether a wrong reading was noticed, and by which comparison."""
    errors = {
        f"independent_scores on {model}": compare_scores(wrong[model], published[model]["exact"])
        .measurement(reference_values.EXACT).error / reference_values.EXACT
        for model in reference_models.NAMES
    }  # fmt: skip
    for model in reference_models.NAMES:
        top = compare_top(wrong[model]["top"], published[model]["single"]["top"])
        errors[f"independent_top on {model}"] = top.measurement(reference_values.SINGLE).error / reference_values.SINGLE
    errors["independent_noise"] = (
        compare_noise(wrong["noise"]).measurement(reference_values.EXACT).error / reference_values.EXACT
    )
    counts, floats = compare_tests(wrong["tests"], decided)
    unequal = compare_unequal(wrong["tests"]["unequal"]).measurement(reference_values.EXACT).error
    errors["independent_unequal"] = unequal / reference_values.EXACT
    errors["independent_tests"] = np.inf if not counts.measurement(0.0).passed else 0.0
    errors["independent_statistics"] = floats.measurement(reference_values.EXACT).error / reference_values.EXACT
    noticed = [check for check, ratio in errors.items() if ratio >= MARGIN]
    ratios = [errors[check] for check in noticed if np.isfinite(errors[check])]
    return {
        "misreading": name,
        "equation": wrong["equation"],
        "noticed_by": noticed,
        "ratio": float(max(ratios)) if ratios else None,  # where lists or counts differ, there is no distance
        "status": "noticed" if noticed else "missed",
    }
