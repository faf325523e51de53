"""A program for torchrun: collect two tasks of small models into stores, score them, and save what each rank has.

    python -m validation.rank_program FOLDER [FAMILY ...]

``QKOV_END_RANK="RANK CALL COUNT SIGNAL"`` sends a rank the signal at the count-th call of ``loss`` for the last family, or of
``replace`` or ``fsync``, with which shards and lines reach the disk; not once torchrun has started all ranks again.
"""

import os
import signal
import sys
from pathlib import Path

import torch

import qkov
from qkov import durable
from validation import synthetic

# Not those of transformers, which take each process seconds to load: grouped heads, and one fused projection.
FAMILIES = {
    "grouped": synthetic.SyntheticConfig(rotary=True, num_layers=3),
    "fused": synthetic.SyntheticConfig(packing="concatenated", orientation="conv1d", num_layers=3),
}
VARIANTS = {
    "unsigned": {},
    "pooled": {"fisher_pool": "pooled"},
    "ema": {"fisher_source": "ema"},
    "signed": {"variant": "signed"},
}
LENGTHS = {"a": (5, 8, 20, 3, 7, 9, 4, 6, 11, 5), "b": (6, 4, 9, 5, 7)}
MICRO_BATCH = 2


class System:
    """``os`` with some calls replaced."""

    def __getattr__(self, name):
        return getattr(os, name)


def ending(original, count, number):
    """A call that sends this process a signal when it is called for the count-th time."""
    calls = []

    def call(*arguments, **options):
        calls.append(None)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    return call


def prepared(rank):
    """Return the loss, after planting what ends this rank."""
    loss = qkov.losses.causal_lm_loss
    victim, name, count, number = os.environ.get("QKOV_END_RANK", "-1 none 0 SIGKILL").split()
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if int(victim) != rank or again:
        return loss
    if name != "loss":
        durable.os = System()
        setattr(durable.os, name, ending(getattr(os, name), int(count), signal.Signals[number]))
        return loss
    fatal = ending(loss, int(count), signal.Signals[number])
    fatal.__module__, fatal.__qualname__ = loss.__module__, loss.__qualname__  # the store knows a loss by its name
    return fatal


def build(family):
    """A model with the same weights in every process."""
    return synthetic.SyntheticLM(FAMILIES[family]).float().eval()


def fill(collector, model, loss_fn=None):
    """Collect both tasks."""
    for task, lengths in LENGTHS.items():
        generator = torch.Generator().manual_seed(len(lengths))
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        ids = torch.randint(3, 23, mask.shape, generator=generator) * mask
        batch = {"input_ids": ids, "attention_mask": mask.long()}
        collector.collect_fisher(model, batch, task, micro_batch=MICRO_BATCH, loss_fn=loss_fn, progress=False)


def heatmaps(collector, compute):
    """Return ``{variant: compute(metric)}``."""
    found = {}
    for name, options in VARIANTS.items():
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1, **options)
        found[name] = compute(metric)
    return found


def main(folder, families=tuple(FAMILIES)):
    """Collect, score, save."""
    with qkov.distributed.ranks() as ranks, qkov.reproducibility.deterministic(threads=1):
        for family in families:
            loss = prepared(ranks.rank if family == families[-1] else -2)
            with ranks.collector(store=folder / family) as collector:
                fill(collector, build(family), loss)
            for name, found in heatmaps(collector, lambda metric: ranks.compute_heatmap(metric, "a", "b")).items():
                found.save(folder / f"{family}-{name}-{ranks.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or tuple(FAMILIES))
