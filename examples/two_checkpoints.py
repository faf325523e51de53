"""Did fine-tuning on code change where code meets prose? Two checkpoints of one model, compared.

    python two_checkpoints.py

A small model is trained on docstrings, then fine-tuned on code for some steps. Each checkpoint gets a collector of its
own (one collector refuses a second model: gradients of different weights do not belong into one score), with the same
samples.

What may be compared: scores without a unit. "natural" measures each task against its own Fisher, so it stays the same
when the loss of a task is multiplied by a constant; here that is shown by doubling it. What may NOT be compared:
"unsigned", "dot" and predicted changes at two checkpoints. They grow with the gradients, whose size training changes by
itself.

It prints the mean score of each block at both checkpoints, natural and unsigned, and how alike two rankings of the
heads are: of the two checkpoints, and of two halves of the samples at one checkpoint. Where the halves agree no better
than the checkpoints, nothing is known of what training did. And a pair of checkpoints is one run of training: another
seed may move other heads.
"""

import copy
import inspect
import random
import shutil
import tempfile
import textwrap

import numpy as np
import torch
import transformers

import qkov


def windows(text, length=48):
    """Cut a text, bytes as tokens: 32 samples to measure, the rest to train on."""
    data = text.encode()
    rows = torch.tensor([list(data[start : start + length]) for start in range(0, len(data) - length, length)])
    return {"input_ids": rows[:32]}, rows[32:]


def train(model, rows, steps):
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        some = rows[8 * step % (len(rows) - 8) :][:8]
        model(input_ids=some, labels=some).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def doubled(model, batch):
    losses, tokens = qkov.losses.causal_lm_loss(model, batch)
    return 2 * losses, tokens


def mean_scores(model, prose, code, variant, loss_fn=None):
    """Return the mean score of every head, ``{block: [layers, heads]}``."""
    collector = qkov.FisherCollector()
    collector.collect_fisher(model, prose, "prose", loss_fn=loss_fn)
    collector.collect_fisher(model, code, "code")
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, variant=variant, fisher_pool="pooled")
    heatmap = metric.compute_heatmap("prose", "code")
    return {block: heatmap[block]["layer_head_avg"] for block in "QKVO"}


def alikeness(one, other):
    """Return the rank correlation of all heads of the queries and of the outputs."""
    values = [np.concatenate([scores[block].ravel() for block in "QO"]) for scores in (one, other)]
    return np.corrcoef(*(value.argsort().argsort() for value in values))[0, 1]


def half(batch, number):
    return {"input_ids": batch["input_ids"][16 * number :][:16]}


def main():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    before = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=256, **sizes))
    named = [one for module in (random, inspect, textwrap, tempfile, shutil) for one in vars(module).values()]
    prose, more_prose = windows("\n".join(inspect.getdoc(one) or "" for one in named if callable(one)))
    code, more_code = windows(inspect.getsource(inspect))
    train(before, more_prose, steps=60)
    after = copy.deepcopy(before)
    train(after, more_code, steps=60)

    for variant in ("natural", "unsigned"):
        first, second = (mean_scores(model, prose, code, variant) for model in (before, after))
        for block in "QKVO":
            print(f"{variant:9} {block}: {first[block].mean():.4g} before, {second[block].mean():.4g} after")
        halves = [mean_scores(after, half(prose, number), half(code, number), variant) for number in (0, 1)]
        print(f"{variant:9} ranks of heads: {alikeness(first, second):.2f} alike before and after,", end=" ")
        print(f"{alikeness(*halves):.2f} alike on two halves of the samples")
        twice = mean_scores(after, prose, code, variant, loss_fn=doubled)
        change = max(abs(twice[block] / second[block] - 1).max() for block in "QKVO")
        print(f"{variant:9} with the loss of prose doubled: scores change by at most {change:.1%}\n")
        assert (change < 1e-3) == (variant == "natural")


if __name__ == "__main__":
    main()
