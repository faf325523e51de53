"""Collect and score a model of real size within a budget of memory: `python -m validation.real_size`, or ``nox -s real_size``.

GPT-2 small (124 million parameters, random weights of a fixed seed), 100 + 100 samples of 128 tokens, collected into a store
on disk and scored on all heads and blocks, on two threads, by a process of its own whose peak of resident memory is read from
the kernel: Python, torch and the model included. Rates are in operations per second of process time beside the square product
of the same process, so that other load on the machine matters little; wall time is shown beside.

The result goes to ``_build/real_size.json`` and, as committed evidence, to ``validation/evidence/real_size.json`` with the
SHA-256 of the sources that it rests on. Where one of them has changed since, the figures are shown with a note and count as
not run.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from qkov import memory

from . import committed

ROOT = committed.ROOT
COMMAND = "nox -s real_size"
OUTPUT = ROOT / "_build" / "real_size.json"
SOURCES = (
    "collector", "handed_out", "passes", "gradients", "module_capture", "returned_losses", "sample_rows", "keeping",
    "shards", "store", "pass_memory", "memory", "interference", "scoring", "score_memory", "tiles", "tile_halves",
    "factor_tiles", "denominators", "sides", "score_options",
    "score_frame", "score_attributes", "score_warnings", "formula", "fisher", "heatmap",
)  # fmt: skip
"""Modules of qkov through which the run goes and that decide what it takes."""
EVIDENCE = committed.CommittedEvidence(
    committed.FOLDER / "real_size.json",
    "qkov-real-size-1",
    ("validation/real_size.py", *(f"qkov/{name}.py" for name in SOURCES)),
)
STUDY = "real size"
STAGES = ("building", "collecting", "scoring")


@dataclass(frozen=True)
class Size:
    """What is run. ``config`` changes GPT-2's own configuration; ``budget`` is in bytes of resident memory."""

    num_samples: int = 100
    num_tokens: int = 128
    threads: int = 2
    seed: int = 0
    budget: int = 4_000_000_000
    least_parameters: int = 100_000_000
    square: int = 2048
    config: dict | None = None


def measure(size, folder):
    """Build, collect and score in this process; a JSON-able dict of what was measured."""
    import torch
    from transformers import GPT2LMHeadModel  # noqa: F401  # importing takes seconds, which are no part of a stage

    from qkov import interference  # noqa: F401

    torch.set_num_threads(size.threads)
    found = {"threads": torch.get_num_threads(), "stages": {}, "square": [square_rate(size.square)]}

    def timed(stage, run):
        wall, process = time.perf_counter(), time.process_time()
        result = run()
        found["stages"][stage] = {
            "wall": time.perf_counter() - wall,
            "process": time.process_time() - process,
            "peak": memory.peak_resident_bytes(),
        }
        return result

    model = timed("building", lambda: build_model(size))
    config = timed("collecting", lambda: collect(model, size, folder))
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    found["disk"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    heatmap = timed("scoring", lambda: score(config, folder, size.budget))
    found["headline"] = headline(heatmap)
    found["square"].append(square_rate(size.square))
    found["peak"] = memory.peak_resident_bytes()  # before operations are counted, which is no part of the run
    found["operations"] = {
        "collecting": collection_operations(model, size),
        "scoring": scoring_operations(config, size),
    }
    return found


def square_rate(side, repeats=3):
    """Operations per second of process time of a square float32 product."""
    import torch

    one, other = torch.randn(2, side, side)
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        torch.mm(one, other)
        seconds.append(time.process_time() - start)
    return 2 * side**3 / max(statistics.median(seconds[1:]), 1e-9)


def build_model(size):
    """GPT-2 small with random weights, or the smaller one that ``size.config`` describes."""
    import torch
    import transformers

    torch.manual_seed(size.seed)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**(size.config or {}))).eval()


def batch_of(model, size, task):
    """Random tokens, of the lower half of the vocabulary for task "a" and the upper for "b"."""
    import torch

    half = model.config.vocab_size // 2
    generator = torch.Generator().manual_seed(size.seed + 1 + ("a", "b").index(task))
    low = half * ("a", "b").index(task)
    return {"input_ids": torch.randint(low, low + half, (size.num_samples, size.num_tokens), generator=generator)}


def collect(model, size, folder):
    """Collect both tasks into a store within the budget; the layout."""
    import qkov

    with qkov.FisherCollector(store=folder, memory_budget=size.budget) as collector:
        for task in ("a", "b"):
            collector.collect_fisher(model, batch_of(model, size, task), task, progress=False)
        return collector.config


def score(config, folder, budget):
    """Score all samples of "a" against all of "b" on every head and block, within a budget of bytes."""
    import qkov

    stored = qkov.FisherCollector.open(folder)
    metric = qkov.QKOVInterferenceMetric(
        config, stored, fisher_pool="pooled", min_samples_for_fisher=1, memory_budget=budget
    )
    return metric.compute_heatmap("a", "b", progress=False)


def headline(heatmap):
    """The number of scores, and for each block the slice with the largest average."""
    import numpy as np

    found = {"scores": int(sum(array.size for array in heatmap.arrays.values()))}
    for block, array in heatmap.arrays.items():
        average = array.mean((0, 1))
        layer, head = np.unravel_index(np.nanargmax(average), average.shape)
        found[block] = {"layer": int(layer), "head": int(head), "average": float(average[layer, head])}
    return found


def collection_operations(model, size):
    """Operations of collecting, counted by torch on one sample and multiplied: the forward pass and what is differentiated."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import qkov
    from qkov import gradients, losses, sample_rows

    one = {name: value[:1] for name, value in batch_of(model, size, "a").items()}
    config = qkov.QKOVConfig.from_model(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        gradients.collect_factors(model, one, config, losses.causal_lm_loss, [0], sample_rows.FirstAxis(True))
    return counter.get_total_flops() * 2 * size.num_samples


def scoring_operations(config, size):
    """Operations of scoring: ``2 T K (n_a + n_b)`` for gradients, ``2 K n_a n_b`` for scores; K parameters in all slices."""
    parameters = sum(
        projection.num_units * projection.width * projection.weight_shape[1 if projection.head_axis == 0 else 0]
        for layout in config.layers
        for projection in layout.projections
    )
    return 2 * parameters * (size.num_tokens * 2 * size.num_samples + size.num_samples**2)


def run_apart(size, folder):
    """Measure in a process of its own; what it measured.

    Raises:
        RuntimeError: If it ended without a result; its own message is above.
    """
    result = folder / "result.json"
    env = {**os.environ, **{name: str(size.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}}
    env["OMP_WAIT_POLICY"] = (
        "passive"  # a thread that waits by spinning would count as work where others use the cores too
    )
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    given = ["--inside", json.dumps(asdict(size)), "--folder", str(folder), "--output", str(result)]
    done = subprocess.run([sys.executable, "-m", "validation.real_size", *given], env=env, check=False)
    if done.returncode or not result.exists():
        raise RuntimeError(f"the measuring process ended with status {done.returncode} and no result.")
    return json.loads(result.read_text(encoding="utf-8"))


def rows_of(found, size):
    """Turn what was measured into rows of evidence; bounds for the model's size and for the peak, everything else is shown."""
    square = statistics.median(found["square"])
    data = f"{found['parameters']:,} parameters, {size.num_samples} + {size.num_samples} samples of {size.num_tokens} tokens"

    def row(procedure, value, bound=None, direction="shown"):
        kept = {"at most": lambda: value <= bound, "at least": lambda: value >= bound, "shown": lambda: True}[
            direction
        ]()
        return {
            "study": STUDY, "procedure": procedure, "data": data, "sets": 2 * size.num_samples, "value": float(value),
            "low": None, "high": None, "bound": bound, "direction": direction, "status": "passed" if kept else "failed",
        }  # fmt: skip

    rows = [
        row("parameters, millions", found["parameters"] / 1e6, size.least_parameters / 1e6, "at least"),
        row("peak of resident memory, GB", found["peak"] / 1e9, size.budget / 1e9, "at most"),
        row("threads", found["threads"]),
    ]
    for stage in STAGES:
        of_stage = found["stages"][stage]
        rows += [row(f"{stage}, {kind} seconds", of_stage[kind]) for kind in ("wall", "process")]
        rows.append(row(f"peak after {stage}, GB", of_stage["peak"] / 1e9))
    rows.append(row("on disk, GB", found["disk"] / 1e9))
    rows.append(row("square product, GFLOP a second", square / 1e9))
    for stage, operations in found["operations"].items():
        rate = operations / max(found["stages"][stage]["process"], 1e-9)
        rows.append(row(f"{stage}, TFLOP", operations / 1e12))
        rows.append(row(f"{stage}, GFLOP a second", rate / 1e9))
        rows.append(row(f"{stage}, rate over square product", rate / square))
    rows.append(row("scores", found["headline"]["scores"]))
    for block in "QKVO":
        top = found["headline"][block]
        rows.append(row(f"largest average of block {block}: layer {top['layer']}, head {top['head']}", top["average"]))
    return rows


def parse_arguments(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m validation.real_size", description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the JSON goes")
    parser.add_argument("--evidence", type=Path, default=EVIDENCE.path, help="the committed file to write")
    parser.add_argument("--folder", type=Path, help="where the store is made; default: a temporary folder; about 6 GB")
    parser.add_argument("--budget", type=int, default=Size.budget, help="bytes of resident memory (default: 4 GB)")
    parser.add_argument("--inside", type=json.loads, metavar="SIZE", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(size, folder=None):
    """Measure in a process of its own and clean up; ``(rows, seconds)``."""
    started = time.perf_counter()
    place = Path(tempfile.mkdtemp(prefix="qkov-real-size-", dir=folder))
    try:
        found = run_apart(size, place)
    finally:
        shutil.rmtree(place)
    return rows_of(found, size), time.perf_counter() - started


def main(arguments=None):
    """Measure, write, print; exit status 1 if a bound is not kept."""
    options = parse_arguments(arguments)
    if options.inside is not None:
        found = measure(Size(**options.inside), options.folder / "store")
        options.output.write_text(json.dumps(found), encoding="utf-8")
        return 0
    before = EVIDENCE.source_hashes()
    rows, seconds = run(replace(Size(), budget=options.budget), options.folder)
    if EVIDENCE.source_hashes() != before:
        print("real_size: sources have changed while it ran, so the figures are of none of them; nothing is written")
        return 1
    for path in (options.output, options.evidence):
        replace(EVIDENCE, path=path).write(rows, seconds)
    for row in rows:
        bound = "" if row["bound"] is None else f"   {row['direction']} {row['bound']:g}: {row['status']}"
        print(f"{row['procedure']:48} {row['value']:12.4g}{bound}", flush=True)
    return 0 if all(row["status"] == "passed" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
