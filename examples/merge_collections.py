"""Two jobs have collected parts of my samples. How do I make one collection of them?

    python merge_collections.py [FOLDER]

Each job fills a store of its own, here one after the other, elsewhere on machines that know nothing of each other. What
they must agree on is the model and the settings, and no sample id may be used twice: `merge_stores` refuses everything
else. (Jobs that run at the same time and share a file system can fill one store together instead: see
`distributed.py`.)

It prints what the parts hold, what the merged store holds, and a refusal. The merged store has the bytes of the store
that one job would have filled, and so the same scores, bit for bit.
"""

import ast
import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import qkov


def texts():
    """Return ``{task: {id: batch row}}``: code of one module and its docstrings, in pieces with ids that say where from."""
    source = Path(ast.__file__).read_text()
    nodes = (one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.FunctionDef | ast.ClassDef))
    prose = "\n".join(filter(None, map(ast.get_docstring, nodes)))
    cut = {"prose": prose.encode(), "code": source.encode()[2000:]}
    return {
        task: {f"{task}@{40 * i}": list(data[40 * i : 40 * i + 40]) for i in range(24)} for task, data in cut.items()
    }


def collect(store, parts):
    """Collect some halves of every task into a store, one call for each."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=256, **sizes))
    with qkov.FisherCollector(store=store) as collector:
        for part in parts:
            for task, rows in texts().items():
                ids = list(rows)[12 * part : 12 * part + 12]
                batch = {"input_ids": torch.tensor([rows[one] for one in ids])}
                collector.collect_fisher(model, batch, task, sample_ids=ids)
    return store


def digests(store):
    files = sorted(path for path in Path(store).rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(store): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def scores(collector):
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, fisher_pool="pooled")
    return metric.compute_heatmap("prose", "code").data.scores.values


def main(folder):
    parts = [collect(folder / "first.store", (0,)), collect(folder / "second.store", (1,))]
    merged = qkov.merge_stores(parts, folder / "merged.store")
    for store in (*parts, merged):
        held = qkov.FisherCollector.open(store)
        print(f"{store.name}: {sum(len(held.samples(task)) for task in held.tasks)} samples of tasks {held.tasks}")
    try:
        qkov.merge_stores([parts[0], parts[0]], folder / "twice.store")
    except qkov.errors.SampleIdError as error:
        print("refused:", error)

    whole = collect(folder / "whole.store", (0, 1))
    assert digests(merged) == digests(whole)
    np.testing.assert_array_equal(*(scores(qkov.FisherCollector.open(store)) for store in (merged, whole)))
    print("the merged store is the one that a single job makes, byte for byte, and so are its scores")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path((sys.argv[1:] or [temporary])[0]))
