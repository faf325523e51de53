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
import textwrap

import numpy as np
import torch
import transformers

import qkov


def windows(text, count, length=48):
    """Cut random windows of a text, bytes as tokens."""
    draw, data = random.Random(0), text.encode()
    starts = [draw.randrange(len(data) - length) for _ in range(count)]
    return {"input_ids": torch.tensor([list(data[start : start + length]) for start in starts])}


def train(model, ids, steps):
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        rows = ids[8 * step % len(ids) :][:8]
        model(input_ids=rows, labels=rows).loss.backward()
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
    ranks = [
        np.argsort(np.argsort(np.concatenate([scores[block].ravel() for block in "QO"]))) for scores in (one, other)
    ]
    return np.corrcoef(*ranks)[0, 1]


def part(batch, rows):
    return {"input_ids": batch["input_ids"][rows]}


def main():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    before = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=256, **sizes))
    documented = (argument for module in (random, inspect, textwrap) for argument in vars(module).values())
    prose = windows("\n".join(filter(None, (inspect.getdoc(one) for one in documented if callable(one)))), 96)
    code = windows(inspect.getsource(inspect), 96)
    train(before, prose["input_ids"][32:], steps=60)
    after = copy.deepcopy(before)
    train(after, code["input_ids"][32:], steps=60)

    prose, code = part(prose, slice(32)), part(code, slice(32))  # what was not trained on
    for variant in ("natural", "unsigned"):
        first, second = (mean_scores(model, prose, code, variant) for model in (before, after))
        for block in "QKVO":
            print(f"{variant:9} {block}: {first[block].mean():.4g} before, {second[block].mean():.4g} after")
        halves = [
            mean_scores(after, part(prose, half), part(code, half), variant) for half in (slice(16), slice(16, 32))
        ]
        print(f"{variant:9} ranks of heads: {alikeness(first, second):.2f} alike before and after,", end=" ")
        print(f"{alikeness(*halves):.2f} alike on two halves of the samples")
        twice = mean_scores(after, prose, code, variant, loss_fn=doubled)
        change = max(abs(twice[block] / second[block] - 1).max() for block in "QKVO")
        print(f"{variant:9} with the loss of prose doubled: scores change by at most {change:.1%}\n")
        assert (change < 1e-3) == (variant == "natural")


if __name__ == "__main__":
    main()
