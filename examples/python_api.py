"""Where in a model does what code changes meet what prose depends on, and is it more than with another task?

    python python_api.py [FOLDER]

Trains a small byte-level model for some seconds on Python's standard library, collects three tasks (docstrings, source
code, sums), scores every head, tests all of them against the sums as reference, and predicts what a step on code does
to the loss of prose. Results and pictures go to FOLDER.

It prints the strongest pair of samples, what may be concluded from the tests, and the predicted change in nats. A score
says where, a test whether it is more than with the reference, a prediction how much and with which sign.
"""

import ast
import random
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch
import transformers

import qkov

LENGTH = 48


def docstrings(source):
    """Join the docstrings of a module."""
    nodes = [one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.FunctionDef | ast.ClassDef)]
    return "\n".join(filter(None, map(ast.get_docstring, nodes))).encode()


def texts():
    """Return one sample of each unit, ``{task: {unit: bytes}}``; a module gives prose or code, never both."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    modules = {path.stem: path.read_bytes() for path in files if path.stat().st_size > 12000}
    prose = {name: docstrings(source) for name, source in list(modules.items())[::2]}
    draw = random.Random(0)
    sums = [(draw.randrange(1000), draw.randrange(1000)) for _ in range(32 * 8)]
    lines = [f"{one} + {two} = {one + two}\n" for one, two in sums]
    return {
        "prose": dict([(name, text) for name, text in prose.items() if len(text) > 400][:32]),
        "code": dict([(name, source[3000:]) for name, source in list(modules.items())[1::2]][:32]),
        "sums": {f"sums {i}": "".join(lines[8 * i : 8 * i + 8]).encode() for i in range(32)},
    }


def batch(found, start=0):
    return {"input_ids": torch.tensor([list(text[start : start + LENGTH]) for text in found.values()])}


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=256, num_key_value_heads=2, **sizes)
    model, tasks = transformers.LlamaForCausalLM(config), texts()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):  # on the text behind what is measured, where there is more of it
        ids = batch(tasks[list(tasks)[step % 3]], start=LENGTH)["input_ids"]
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    collector = qkov.FisherCollector()
    for task, found in tasks.items():
        collector.collect_fisher(model, batch(found), task, sample_ids=list(found), clusters=list(found))

    metric = qkov.QKOVInterferenceMetric(collector.config, collector, fisher_pool="pooled")
    heatmap = metric.compute_heatmap("prose", "code")
    heatmap.plot().savefig(folder / "heatmap.png")
    heatmap.save(folder / "scores.safetensors")
    print("strongest pair of the values:", heatmap["V"]["top_conflicts"][0])

    found = qkov.QKOVStatistics().test_heatmap(collector, "prose", "code", reference_task="sums", seed=0)
    found.save(folder / "statistics.safetensors")
    print(found.conclusion())

    change = qkov.predict_change(collector, "prose", "code", optimiser="adam")
    change.save(folder / "prediction.safetensors")
    print(change)

    assert qkov.load_heatmap(folder / "scores.safetensors") == heatmap
    assert qkov.load_statistics(folder / "statistics.safetensors") == found
    assert qkov.load_prediction(folder / "prediction.safetensors") == change
    print("what was saved reads back equal")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path((sys.argv[1:] or [temporary])[0]))
