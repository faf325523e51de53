"""The most memory that collecting and scoring take, in a process of their own, beside full gradients of all samples.

The process builds the model, works once on two short samples so that libraries are loaded and their buffers are there, and
notes its resident memory. What it takes at most beyond that, while it collects two tasks and scores all pairs, is the
numerator; the denominator is the bytes of every sample's full float32 gradient of the attention weights.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from . import shapes
from .goals import Measured, NotRunError

ROOT = Path(__file__).resolve().parents[2]
STATUS = Path("/proc/self/status")


def resident(field="VmRSS"):
    """Resident memory of this process in bytes: now ("VmRSS"), or the most so far ("VmHWM")."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise NotRunError(f"{STATUS} has no {field}")


def peak_beyond_baseline(sizes):
    """Bytes that collecting and scoring take beyond what the process had; to be called in a process of its own."""
    import gc

    import torch

    import qkov

    from .end_to_end import ours

    torch.set_num_threads(1)
    layers = min(sizes.few_layers, sizes.layers)
    vocabulary = shapes.scaled_vocabulary(sizes, layers)
    model = shapes.gpt2(sizes, layers=layers, vocabulary=vocabulary)
    ours(model, {name: shapes.tokens(2, 8, vocabulary, 3) for name in "ab"})
    n = 2 * sizes.samples
    batches = {name: shapes.tokens(n, sizes.tokens, vocabulary, seed) for name, seed in (("a", 1), ("b", 2))}
    full = 2 * n * 4 * shapes.slice_parameters(qkov.QKOVConfig.from_model(model))
    gc.collect()
    baseline = resident()
    if reset_peak():
        start = baseline
    else:  # what came before may then hide a part of the peak, which is no reason to call it small
        start = min(baseline, resident("VmHWM"))
    ours(model, batches)
    return {"baseline": baseline, "peak": resident("VmHWM") - start, "full": full}


def reset_peak():
    """Let the system count the peak anew; whether it could."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def in_a_process(sizes):
    """Run :func:`peak_beyond_baseline` in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "validation.bench.memory", json.dumps(dataclasses.asdict(sizes))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process that measures memory ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(sizes, say=None):
    """Measure three processes, or one if quick."""
    if not STATUS.exists():
        raise NotRunError(f"there is no {STATUS}, from which resident memory is read")
    runs = [in_a_process(sizes) for _ in range(1 if sizes.quick else sizes.repeats)]
    layers = min(sizes.few_layers, sizes.layers)
    n = 2 * sizes.samples
    said = (
        f"{layers} layers, d {sizes.hidden}, {n} + {n} samples of T = {sizes.tokens}, collected and scored; "
        f"{runs[0]['full'] / 1e9:.2f} GB of full gradients"
    )
    return Measured(
        values={"peak": statistics.median(run["peak"] / run["full"] for run in runs)},
        conditions={"peak": said},
        details={"runs": runs},
    )


if __name__ == "__main__":
    given = {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(sys.argv[1]).items()
    }
    print(json.dumps(peak_beyond_baseline(shapes.Sizes(**given))))
