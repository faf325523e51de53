"""Plans beside what is measured: memory, disk, passes and time of three models, ``python -m validation.plans``.

A plan is made from the shapes of a model alone, in a process of its own. Then the same is done in earnest, each in another
process: samples collected into memory and scored, samples collected into a store, that store scored. Ratios of plan to
measurement go to ``_build/plans.json``. Times are process times on one thread.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers

import qkov
from qkov import gradients, memory, reproducibility

from . import environments
from .committed import CommittedEvidence

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = CommittedEvidence(
    ROOT / "validation" / "evidence" / "plans.json",
    "qkov-plans",
    (
        "qkov/module_capture.py", "qkov/operations.py", "qkov/pace.py", "qkov/pass_memory.py", "qkov/peaks.py",
        "qkov/planning.py", "qkov/stored_sizes.py", "validation/plans.py",
    ),
)  # fmt: skip
BOUND = 0.2
_LLAMA = {"vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4}
CASES = {
    "gpt2, 4 layers, 128 tokens": (
        transformers.GPT2Config(n_layer=4, bos_token_id=0, eos_token_id=0), {"samples": 20, "tokens": 128},
    ),
    "llama, grouped, 128 tokens": (
        transformers.LlamaConfig(**_LLAMA, num_attention_heads=8, num_key_value_heads=2),
        {"samples": 32, "tokens": 128},
    ),
    "qwen3, 320 tokens": (
        transformers.Qwen3Config(**_LLAMA, num_attention_heads=8, num_key_value_heads=4, head_dim=64),
        {"samples": 12, "tokens": 320},
    ),
}  # fmt: skip
QUANTITIES = {
    "passes": 0.0,
    "bytes of factors": 0.01,
    "bytes of the store": 0.01,
    "peak of collection in memory": BOUND,
    "peak of scoring in memory": BOUND,
    "peak of collection into a store": BOUND,
    "peak of scoring a store": BOUND,
    "seconds of collection": BOUND,
    "seconds of scoring": BOUND,
}
"""What is compared, and by how much plan and measurement may differ, relative."""


def shapes(case):
    """The model of a case on the meta device."""
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(CASES[case][0])


def planned(case):
    """What the plans of a case say, by quantity."""
    sizes = CASES[case][1]
    asked = {"samples_a": sizes["samples"], "samples_b": sizes["samples"], "tokens": sizes["tokens"]}
    stored = qkov.plan(shapes(case), **asked, keep="disk", timing="skip")
    in_memory = qkov.plan(shapes(case), **asked)  # last: its probes leave holes in this process's memory
    return {
        "passes": in_memory.num_passes,
        "bytes of factors": in_memory.held_bytes,
        "bytes of the store": stored.disk_bytes,
        "peak of collection in memory": in_memory.collection_peak,
        "peak of scoring in memory": in_memory.scoring_peak,
        "peak of collection into a store": stored.collection_peak,
        "peak of scoring a store": stored.scoring_peak,
        "seconds of collection": in_memory.seconds.collection,
        "seconds of scoring": in_memory.seconds.materialising + in_memory.seconds.scoring,
    }


def measured(case, folder):
    """The same quantities, measured: three processes."""
    found = {}
    for step in ("memory", "store", "scores of a store"):
        found |= json.loads(
            environments.run_module("validation.plans", "--case", case, "--step", step, "--folder", folder)
        )
    return found


def step(case, name, folder):
    """One process of a measurement."""
    if name == "scores of a store":
        held = qkov.FisherCollector.open(Path(folder) / "store")
        return {"peak of scoring a store": _peak(lambda: _score(held))[1]}
    config, sizes = CASES[case]
    model = transformers.AutoModelForCausalLM.from_config(config)
    held = qkov.FisherCollector(store=Path(folder) / "store" if name == "store" else None)
    passes = _counted_passes()
    seconds, peak = _peak(lambda: _collect(held, model, **sizes))
    if name == "store":
        held.seal()
        files = [one for one in (Path(folder) / "store").rglob("*") if one.is_file()]
        return {
            "peak of collection into a store": peak,
            "bytes of the store": sum(one.stat().st_size for one in files),
        }
    scoring = _peak(lambda: _score(held))
    return {
        "passes": len(passes),
        "bytes of factors": _held_bytes(held),
        "peak of collection in memory": peak,
        "seconds of collection": seconds,
        "seconds of scoring": scoring[0],
        "peak of scoring in memory": scoring[1],
    }


def _collect(held, model, samples, tokens):
    generator = torch.Generator().manual_seed(0)
    for task in "ab":
        ids = torch.randint(3, model.config.vocab_size, (samples, tokens), generator=generator)
        held.collect_fisher(model, {"input_ids": ids}, task, progress=False)


def _score(held):
    metric = qkov.QKOVInterferenceMetric(held.config, held)
    return metric.compute_heatmap("a", "b", progress=False)


def _peak(call):
    """Process time of a call and the most memory that the process has held meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    start = time.process_time()
    call()
    return time.process_time() - start, memory.peak_resident_bytes()


def _counted_passes():
    made, original = [], gradients.collect_factors

    def counting(*arguments, **options):
        made.append(1)
        return original(*arguments, **options)

    gradients.collect_factors = counting
    return made


def _held_bytes(held):
    tensors = {
        (tensor.data_ptr(), tensor.shape): tensor.nbytes
        for task in held.tasks
        for sample in held.samples(task)
        for pair in sample.factors.values()
        for tensor in (pair.inputs, pair.deltas)
    }
    return sum(tensors.values())


def rows(case, plan, truth):
    """A row for each quantity: the ratio of plan to measurement, and whether it is near enough to 1."""
    for quantity, bound in QUANTITIES.items():
        ratio = plan[quantity] / truth[quantity]
        yield {
            "study": "plans", "procedure": quantity, "data": case, "sets": 1, "value": abs(ratio - 1),
            "low": None, "high": None,
            "planned": plan[quantity], "measured": truth[quantity], "ratio": ratio, "bound": bound,
            "direction": "at most", "status": "passed" if abs(ratio - 1) <= bound else "failed",
        }  # fmt: skip


def measure(cases=CASES):
    """Return the rows of some cases."""
    found = []
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            plan = json.loads(environments.run_module("validation.plans", "--case", case, "--step", "plan"))
            found += rows(case, plan, measured(case, folder))
    return found


def main(arguments=None):
    """Measure, write the JSON, print plan beside measurement; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m validation.plans", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "plans.json", help="where the JSON goes")
    parser.add_argument("--commit", action="store_true", help="also rewrite the committed evidence")
    parser.add_argument("--case", choices=CASES, help="one case alone")
    parser.add_argument("--step", choices=("plan", "memory", "store", "scores of a store"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.step:
        answer = planned(options.case) if options.step == "plan" else step(options.case, options.step, options.folder)
        print(json.dumps(answer))
        return 0
    start = time.perf_counter()
    found = measure([options.case] if options.case else CASES)
    for row in found:
        print(f"{row['data']:28} {row['procedure']:33} {row['ratio']:6.3f}  {row['status']}", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"environment": reproducibility.environment_record(), "rows": found}
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.commit:
        EVIDENCE.write(found, time.perf_counter() - start)
    return 1 if any(row["status"] != "passed" for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
