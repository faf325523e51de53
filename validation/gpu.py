"""The laws on a GPU, and the same numbers as on the CPU: `python -m validation.gpu`.

A plain program for the image of a GPU runner: it needs torch, transformers, numpy, scipy and xarray alone. What needs another
package and does not find it is reported as not run, and so is everything where there is no device: with ``--require-gpu`` that
is exit status 1, without it status 0 and the words "not run".

===============  ================================================================================================
what             promise
===============  ================================================================================================
laws             every law of :mod:`qkov.checks` on every model, in float32 and in bfloat16, models on the device
agreement        float32 scores within tier D3 (1e-3 of a block's largest), wherever they are collected and computed
repeated         the same bits from a second collection and scoring with deterministic algorithms
memory           what the device has allocated returns to what it was
statistics       p-values of heads from gradients on the device as from those on the CPU, within tier D3
bfloat16 spread  shown, without a promise (tier D4): how far bfloat16 scores are from float32 ones
===============  ================================================================================================
"""

import argparse
import gc
import importlib.util
import json
import os
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

# Before cuBLAS starts: without it deterministic algorithms are refused.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import torch

import qkov
from qkov import checks, escaping, reproducibility, tiers
from qkov.errors import QKOVWarning, StatisticsWarning

from . import models, suite

ROOT = Path(__file__).resolve().parent.parent
FORMAT = "qkov-gpu-1"
CASES = (
    "split-linear-gqa", "concatenated-conv1d-mha", "interleaved-linear-mqa", "concatenated-linear-gqa-joined",
    "llama-sdpa", "gpt2-sdpa", "qwen3-sdpa", "bert-sdpa", "llama-eager",
)  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
D3 = tiers.D3_SINGLE
NO_DEVICE = "no CUDA device"


def missing_device(device):
    """Why nothing can run on a device, or an empty string."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        return NO_DEVICE
    return ""


def row(check, model, error, bound, compared, seconds):
    """A row of what was compared; beyond its bound, not a number or of nothing at all is a failure."""
    kept = compared > 0 and error <= bound
    return {
        "check": check, "model": model, "status": "passed" if kept else "failed", "error": suite.finite(error),
        "bound": bound, "compared": compared, "seconds": round(seconds, 3), "reason": "" if kept else "beyond its bound",
    }  # fmt: skip


def unmeasured(check, model, status, reason, error=None):
    """A row without a verdict: not run, failed by an exception, or shown."""
    return {
        "check": check, "model": model, "status": status, "error": error, "bound": None, "compared": 0, "seconds": 0.0,
        "reason": reason,
    }  # fmt: skip


def build(name, device, dtype):
    """``(model, batch_a, batch_b, loss_fn)`` of a case on a device."""
    model, batch_a, batch_b, loss_fn = models.CASES[name].build()
    return model.to(device=device, dtype=dtype), batch_a, batch_b, loss_fn


def collect(name, device, dtype=torch.float32):
    """Both tasks of a case, collected on a device."""
    model, batch_a, batch_b, loss_fn = build(name, device, dtype)
    held = qkov.FisherCollector()
    for task, batch in (("a", batch_a), ("b", batch_b)):
        held.collect_fisher(model, batch, task, loss_fn=loss_fn, progress=False)
    return held


def score(held, device, **options):
    """Scores of all blocks, computed on a device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QKOVWarning)  # few samples, on purpose
        metric = qkov.QKOVInterferenceMetric(
            held.config, held, fisher_pool="pooled", min_samples_for_fisher=1, computation_device=device, **options
        )
        return metric.compute_heatmap("a", "b", progress=False).arrays


def distance(found, expected):
    """``(largest difference over the block's largest score, numbers compared)``; infinite where not a number."""
    worst, compared = 0.0, 0
    for block, scores in expected.items():
        there = ~np.isnan(scores)
        apart = np.abs(found[block] - scores)[there]
        apart = float(apart.max() / np.abs(scores[there]).max()) if there.any() else 0.0
        worst, compared = max(worst, apart if np.isfinite(apart) else np.inf), compared + int(there.sum())
    return worst, compared


def laws(name, device):
    """Every law on one model in each precision."""
    rows = []
    for word, dtype in DTYPES.items():
        model, batch_a, batch_b, loss_fn = build(name, device, dtype)
        case = checks.Case(f"{name}, {word}, on {device}", model, batch_a, batch_b, loss_fn, models.CASES[name].twin)
        rows += suite.measure(case)
    return rows


def agreement(name, device):
    """Float32 scores collected and computed on either side, against both on the CPU."""
    started = time.perf_counter()
    held = {place: collect(name, place) for place in ("cpu", device)}
    expected = score(held["cpu"], "cpu")
    rows = []
    for collected, computed in ((device, device), (device, "cpu"), ("cpu", device)):
        error, compared = distance(score(held[collected], computed), expected)
        seconds = time.perf_counter() - started
        rows.append(
            row("agreement", f"{name}, collected on {collected}, computed on {computed}", error, D3, compared, seconds)
        )
    return rows


def repeated(name, device):
    """A second collection and scoring gives the same bits."""
    started = time.perf_counter()
    with reproducibility.deterministic():
        one, other = (score(collect(name, device), device) for _ in range(2))
    different = sum(int((~((one[block] == other[block]) | np.isnan(one[block]))).sum()) for block in one)
    compared = sum(scores.size for scores in one.values())
    return [row("repeated", f"{name} on {device}", different, 0, compared, time.perf_counter() - started)]


def memory(name, device):
    """What the device has allocated after collecting, scoring and dropping everything, less what it had before."""
    if torch.device(device).type != "cuda":
        return [
            unmeasured("memory", f"{name} on {device}", "not run", "only a CUDA device counts what it has allocated")
        ]

    def run():
        score(collect(name, device), device)
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(device)

    before = run()  # the first run leaves the workspaces of the libraries
    return [row("memory", f"{name} on {device}", abs(run() - before), 0, 1, 0.0)]


def spread(name, device):
    """How far scores of the model in bfloat16 are from float32 ones; shown."""
    exact, rounded = (score(collect(name, device, dtype), device) for dtype in DTYPES.values())
    error, _ = distance(rounded, exact)
    shown = unmeasured(
        "bfloat16 spread", f"{name} on {device}", "shown", "tier D4 promises nothing", suite.finite(error)
    )
    return [shown]


def statistics(name, device):
    """The tests of heads on either side."""
    if importlib.util.find_spec("statsmodels") is None:
        return [unmeasured("statistics", f"{name} on {device}", "not run", "statsmodels is missing")]
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticsWarning)  # few samples and permutations, on purpose
        tested = [
            qkov.QKOVStatistics(n_permutations=9, n_splits=2).test_heatmap(
                collect(name, place), "a", "b", clusters="iid", seed=1, computation_device=place, progress=False
            )
            for place in ("cpu", device)
        ]
    names = ("exchange_effect", "lift", "lift_low")
    expected, found = ({one: np.asarray(result.columns[one], float) for one in names} for result in tested)
    error, compared = distance(found, expected)
    return [row("statistics", f"{name} on {device}", error, D3, compared, time.perf_counter() - started)]


PARTS = {
    "laws": laws, "agreement": agreement, "repeated": repeated, "memory": memory, "bfloat16 spread": spread,
    "statistics": statistics,
}  # fmt: skip
ONCE = ("memory", "statistics")
"""Parts of which one model says enough: the first."""


def measure(names, device, report=lambda text: None):
    """Run all parts on the named models; rows."""
    rows = []
    for name in names:
        started = time.perf_counter()
        for part, run in PARTS.items():
            if part not in ONCE or name == names[0]:
                rows += attempt(part, run, name, device)
        report(f"{name}: {time.perf_counter() - started:.1f} s")
    return rows


def attempt(part, run, name, device):
    """Run a part; an exception is a failure with its message, a module that is not installed a part that did not run."""
    try:
        return run(name, device)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] not in ("qkov", "validation"):
            return [unmeasured(part, f"{name} on {device}", "not run", f"{error.name} is missing")]
        raise
    except Exception as error:  # noqa: BLE001  # told as failed with its message, whatever broke; the others still run
        return [unmeasured(part, f"{name} on {device}", "failed", f"{type(error).__name__}: {error}")]


def summary(rows, device):
    """One line of counts. Rows that were not made on a GPU are a rehearsal of the program and count as not run."""
    counts = Counter(one["status"] for one in rows)
    said = f"{counts['passed']} passed, {counts['failed']} failed, {counts['not run']} not run, {counts['shown']} shown"
    if torch.device(device).type == "cuda":
        return f"on {torch.cuda.get_device_name(device)}: {said}"
    return f"on a GPU: 0 passed, 0 failed, {len(rows)} not run; rehearsed on {device}: {said}"


def parse_arguments(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m validation.gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("--require-gpu", action="store_true", help="fail where there is no CUDA device")
    parser.add_argument(
        "--device", default="cuda", help="default: cuda; cpu rehearses the program and proves nothing of a GPU"
    )
    parser.add_argument("--case", action="append", choices=list(models.CASES), metavar="NAME",
                        help="only this model of validation.models; may be given again")  # fmt: skip
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "gpu.json", help="where the JSON goes")
    return parser.parse_args(arguments)


def say(text):
    """Print one line at once, so that a log shows what is running."""
    print(escaping.for_terminal(text), flush=True)


def main(arguments=None):
    """Run everything; exit status 1 if a row failed, nothing passed, or a GPU is required and there is none."""
    options = parse_arguments(arguments)
    names = tuple(options.case or CASES)
    on_gpu = torch.device(options.device).type == "cuda"
    if options.require_gpu and (reason := missing_device("cuda") or ("" if on_gpu else f"--device {options.device}")):
        say(f"validation.gpu: --require-gpu: {reason}; nothing was run")
        return 1
    if reason := missing_device(options.device):
        say(f"not run: {reason}")
        say(f"0 passed, 0 failed, {len(names) * (len(PARTS) - len(ONCE)) + len(ONCE)} parts not run")
        return 0
    torch.set_num_threads(1)  # the CPU's side is small models; two programs that contend for cores are ten times slower
    rows = measure(names, options.device, say)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "format": FORMAT,
        "device": options.device,
        "environment": reproducibility.environment_record(),
        "rows": rows,
    }
    options.output.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for one in rows:
        if one["status"] != "passed":
            error = "" if one["error"] is None else f" {one['error']:.2e}"
            say(f"{one['status']}: {one['check']} on {one['model']}{error}: {one['reason']}")
    say(summary(rows, options.device))
    statuses = [one["status"] for one in rows]
    return 0 if "passed" in statuses and "failed" not in statuses else 1


if __name__ == "__main__":
    sys.exit(main())
