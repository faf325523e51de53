"""Collect and score with many processes, on one machine or many.

    torchrun --standalone --nproc-per-node 2 examples/distributed.py

Put your own model and texts in place of the made-up ones. The store must lie on a file system that all machines share. If
the job is ended, or a machine fails, start the same command again, with any number of processes: it goes on where it was.
"""

import argparse

import torch
import transformers

import qkov

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--store", default="math-code.store")
parser.add_argument("--result", default="heatmap.safetensors")
arguments = parser.parse_args()

with qkov.distributed.ranks() as ranks, qkov.reproducibility.deterministic(threads=1):
    torch.manual_seed(0)  # every rank must hold the same weights
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(ranks.device)
    math, code = ({"input_ids": torch.randint(0, 100, (12, 16))} for _ in range(2))

    # Every rank is given all samples, and collects a part of them.
    with ranks.collector(store=arguments.store) as collector:
        collector.collect_fisher(model, math, task="math", micro_batch=2)
        collector.collect_fisher(model, code, task="code", micro_batch=2)

    metric = qkov.QKOVInterferenceMetric(collector.config, collector, computation_device=ranks.device)
    heatmap = ranks.compute_heatmap(metric, "math", "code")
    if ranks.rank == 0:  # every rank has the whole result; one tells
        heatmap.save(arguments.result)
        print(heatmap)
        print("fingerprint", heatmap.fingerprint)
