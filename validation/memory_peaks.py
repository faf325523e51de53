"""`python -m validation.memory_peaks`: the peak of resident memory beside `memory_budget`, from comfortable to tight.

Every case runs in a process of its own. Its budget is what the process holds once the model is built (and, for scoring, the
samples are collected), and ``room`` beside; the peak is what Linux counts from then on. A case passes when the peak is at
most :data:`BOUND` times the budget; one with ``refused`` when it ends with MemoryLimitError at no higher peak.

A further case is an entry of :func:`cases` with one of :data:`RUNS`.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from . import committed

BOUND = 1.10
ROOT = committed.ROOT
MB = 10**6
EVIDENCE = committed.CommittedEvidence(
    path=committed.FOLDER / "memory_peaks.json",
    format="qkov-memory-peaks-1",
    sources=(
        "validation/memory_peaks.py",
        "qkov/memory.py",
        "qkov/pass_memory.py",
        "qkov/collection_budget.py",
        "qkov/passes.py",
        "qkov/gradients.py",
        "qkov/module_capture.py",
        "qkov/returned_losses.py",
        "qkov/keeping.py",
        "qkov/score_memory.py",
    ),
)


@dataclass(frozen=True)
class PeakCase:
    """One process.

    Attributes:
        name: Its key. run: What it does, of :data:`RUNS`. model: Of :data:`MODELS`.
        num_samples, length: Of each task. room: MB of the budget beside what the process holds before.
        refused: Whether it must be refused. ignore: Do not pass the budget on: a planted wrong implementation.
    """

    name: str
    run: str
    model: str
    num_samples: int
    length: int
    room: float
    refused: bool = False
    ignore: bool = False


def cases():
    """Yield every case, by run, model and budget. Of a budget the last number is the room beside what is held, in MB."""
    found = [
        PeakCase(f"{run} {model} {count} x {length} +{room}", run, model, count, length, room)
        for run, model, count, length, rooms in (
            ("memory", "tiny llama", 16, 64, (200, 60)),
            ("memory", "llama", 16, 128, (600, 320, 250, 195)),
            ("memory", "gpt2", 16, 128, (1200, 500, 400, 300)),
            ("memory", "gpt2", 6, 512, (1000, 740)),
            ("store", "tiny llama", 16, 64, (200, 60)),
            ("store", "llama", 16, 128, (600, 180, 110)),
            ("store", "gpt2", 16, 128, (1200, 300, 160)),
            ("store", "gpt2", 6, 512, (1000, 560)),
            ("score memory", "gpt2", 16, 128, (300, 80, 50)),
            ("score store", "gpt2", 16, 128, (600, 120, 60)),
        )
        for room in rooms
    ]  # fmt: skip
    refused = (
        ("memory", "gpt2", 16, 128, 120), ("store", "gpt2", 16, 128, 60), ("memory", "llama", 64, 128, 150),
        ("score memory", "gpt2", 16, 128, 0.1),
    )  # fmt: skip
    return found + [
        PeakCase(f"{run} {model} {count} x {length} +{room} refused", run, model, count, length, room, refused=True)
        for run, model, count, length, room in refused
    ]


def _tiny_llama():
    import transformers

    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=1000, hidden_size=64, intermediate_size=172, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )
    )  # fmt: skip


def _llama():
    import transformers

    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=32000, hidden_size=512, intermediate_size=1376, num_hidden_layers=4, num_attention_heads=8,
            num_key_value_heads=2,
        )
    )  # fmt: skip


def _gpt2():
    import transformers

    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=4))


MODELS = {"tiny llama": _tiny_llama, "llama": _llama, "gpt2": _gpt2}
"""Random weights; "gpt2" is GPT-2-small with 4 of its 12 layers."""


def _batch(model, case, seed):
    import torch

    generator = torch.Generator().manual_seed(seed)
    shape = case.num_samples, case.length
    return {"input_ids": torch.randint(0, model.config.vocab_size, shape, generator=generator)}


def _collect_into(folder):
    """Collect a task with a budget, in memory or into a store."""

    def prepare(case):
        model = _model(case)
        batch = _batch(model, case, 1)

        def run(budget):
            import qkov

            collector = qkov.FisherCollector(store=folder and f"{folder}/store", memory_budget=budget)
            collector.collect_fisher(model, batch, "a", progress=False)
            return collector

        return run

    return prepare


def _score_from(folder):
    """Score two tasks with a budget, collected without one."""

    def prepare(case):
        import qkov

        model = _model(case)
        where = folder and f"{folder}/store"
        collector = qkov.FisherCollector(store=where)
        for seed, task in enumerate("ab"):
            collector.collect_fisher(model, _batch(model, case, seed), task, progress=False)
        collector.seal()
        collector = qkov.FisherCollector.open(where) if where else collector
        return lambda budget: qkov.QKOVInterferenceMetric(
            collector.config, collector, memory_budget=budget
        ).compute_heatmap("a", "b", progress=False)

    return prepare


RUNS = {
    "memory": lambda folder: _collect_into(None),
    "store": _collect_into,
    "score memory": lambda folder: _score_from(None),
    "score store": _score_from,
}
"""``run(folder)(case)`` prepares, without counting, and returns what is measured, a function of the budget."""


def _model(case):
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return MODELS[case.model]().eval()


def measure_here(case):
    """Run a case in this process, which should be new.

    Returns:
        ``{"held", "budget", "peak", "outcome", "seconds"}``: bytes; "done" or "refused".
    """
    from qkov import memory
    from qkov.errors import MemoryLimitError

    with tempfile.TemporaryDirectory() as folder:
        run = RUNS[case.run](folder)(case)
        memory.return_what_is_freed()
        held = memory.resident_bytes()
        budget = held + int(case.room * MB)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        started = time.perf_counter()
        try:
            kept = run(None if case.ignore else budget)
            outcome = "done"
        except MemoryLimitError as error:
            kept, outcome = None, f"refused: {error}"
        seconds = time.perf_counter() - started
        peak = memory.peak_resident_bytes()
        del kept
    return {"held": held, "budget": budget, "peak": peak, "outcome": outcome, "seconds": round(seconds, 2)}


def measure(case):
    """Run a case in a process of its own; what :func:`measure_here` returns."""
    command = [sys.executable, "-m", "validation.memory_peaks", "--here", json.dumps(asdict(case))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case.name} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row(case, found):
    """Make a row of evidence, see :class:`validation.committed.CommittedEvidence`, of what a case measured."""
    value = found["peak"] / found["budget"]
    expected = found["outcome"].startswith("refused") == case.refused
    return {
        "study": "peak memory / memory_budget",
        "procedure": "refused" if found["outcome"].startswith("refused") else "kept",
        "data": case.name,
        "sets": 1,
        "value": value,
        "low": value,
        "high": value,
        "bound": BOUND,
        "direction": "at most",
        "status": "passed" if expected and math.isfinite(value) and value <= BOUND else "failed",
        **{name: found[name] for name in ("held", "budget", "peak", "outcome", "seconds")},
    }


def main(arguments=None):
    """Measure every case; 0 if all hold."""
    parser = argparse.ArgumentParser(prog="python -m validation.memory_peaks", description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "_build" / "memory_peaks.json", help="where the JSON goes"
    )
    parser.add_argument("--evidence", action="store_true", help=f"also write {EVIDENCE.path.relative_to(ROOT)}")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        print(json.dumps(measure_here(PeakCase(**json.loads(options.here)))))
        return 0
    started, rows = time.perf_counter(), []
    for case in cases():
        if options.only in case.name:
            rows.append(row(case, measure(case)))
            one = rows[-1]
            shown = f"{one['peak'] / MB:6.0f} of {one['budget'] / MB:6.0f} MB, {one['held'] / MB:.0f} held before"
            print(f"{one['status']:7} {one['value']:.3f} {case.name:42} {shown}", flush=True)
            if one["status"] != "passed":
                print(f"        {one['outcome']}", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(committed.written({"rows": rows}), encoding="utf-8")
    if options.evidence and not options.only:
        EVIDENCE.write(rows, time.perf_counter() - started)
    return 0 if rows and all(one["status"] == "passed" for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
