"""Of several tasks, which would hurt which? All ordered pairs, from one collection.

    python all_pairs.py

Four tasks are collected once each; every pair is then computed from what is held, with no further pass of the model.
Row A, column B: what a step on task B is predicted to do to the loss of task A, in nats a sample, when the step lowers
the loss of B by 0.01 nats a token. Above 0 it hurts.

Twelve pairs are twelve chances to be fooled. So each interval is wider (Bonferroni): as far as each holds what it says,
all twelve at once do so with 95 %. A star stands where such an interval leaves 0 out. Intervals are about other samples
of these tasks, not about other models or seeds; the model is small and trained for seconds. The matrix need not be
symmetric, as each step has a length of its own; with one step size for all its first order is, and that is checked in
the end.
"""

import itertools
import random

import numpy as np
import torch
import transformers

import qkov

LENGTH = 32
WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not")


def lines(make, count=24, seed=0):
    """Return a batch of generated texts, bytes as tokens."""
    draw = random.Random(seed)
    rows = ["".join(make(draw) for _ in range(LENGTH)).encode()[:LENGTH] for _ in range(count)]
    return {"input_ids": torch.tensor([list(row) for row in rows])}


def words(draw):
    return draw.choice(WORDS) + " "


def sums(draw):
    one, two = draw.randrange(100), draw.randrange(100)
    return f"{one}+{two}={one + two};"


def differences(draw):
    one, two = draw.randrange(100), draw.randrange(100)
    return f"{one + two}-{two}={one};"


def brackets(draw):
    return draw.choice(["()", "[]", "{}", "(())", "[()]", "{[]}", "[{}]"])


TASKS = {"words": words, "sums": sums, "differences": differences, "brackets": brackets}


def main():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=128, **sizes))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(80):
        ids = torch.cat([lines(make, 4, seed=step + 1)["input_ids"] for make in TASKS.values()])
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    collector = qkov.FisherCollector()
    for task, make in TASKS.items():
        collector.collect_fisher(model, lines(make), task)

    pairs = list(itertools.permutations(TASKS, 2))
    level = 1 - 0.05 / len(pairs)
    found = {(a, b): qkov.predict_change(collector, a, b, clusters="iid", level=level) for a, b in pairs}
    change = {pair: one.to_dataframe("all").iloc[0] for pair, one in found.items()}
    print(f"{'A, below: B':>12}", *(f"{b:>13}" for b in TASKS))
    for a in TASKS:
        cells = ["-" if a == b else f"{change[a, b].change:+.4f}" for b in TASKS]
        stars = ["*" if a != b and change[a, b].low * change[a, b].high > 0 else " " for b in TASKS]
        print(f"{a:>12}", *(f"{cell:>12}{star}" for cell, star in zip(cells, stars, strict=True)))
    print(f"* the interval of {level:.2%} leaves 0 out; all {len(pairs)} hold together with 95 %")

    for a, b in itertools.combinations(TASKS, 2):
        one, two = (found[pair].at(0.01).to_dataframe("all").first_order[0] for pair in ((a, b), (b, a)))
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-7)
    print("with one step size the first-order change of A by B is that of B by A")


if __name__ == "__main__":
    main()
