"""A program for torchrun: collect two tasks of two models into stores, score them, and save what each rank has.

``QKOV_TEST_KILL="RANK PRIMITIVE COUNT"`` has a rank kill itself at the count-th call: of the loss, or of ``replace`` or
``fsync``, with which shards and lines reach the disk.
"""

import os
import signal
import sys
from pathlib import Path

import torch

import qkov
from qkov import durable
from tests.builders import build_model
from tests.stores import fill

FAMILIES = ("llama", "gpt2")
VARIANTS = {
    "unsigned": {},
    "pooled": {"fisher_pool": "pooled"},
    "ema": {"fisher_source": "ema"},
    "signed": {"variant": "signed"},
}


class System:
    """``os``, one of whose calls ends this process."""

    def __getattr__(self, name):
        return getattr(os, name)


def lethal(original, count):
    """A call after whose first ``count - 1`` uses this process is dead."""
    calls = []

    def call(*arguments, **options):
        calls.append(None)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    return call


def prepared(rank):
    """Return the loss, after planting what kills this rank."""
    loss = qkov.losses.causal_lm_loss
    victim, primitive, count = os.environ.get("QKOV_TEST_KILL", "-1 none 0").split()
    if int(victim) != rank:
        return loss
    if primitive != "loss":
        durable.os = System()
        setattr(durable.os, primitive, lethal(getattr(os, primitive), int(count)))
        return loss
    fatal = lethal(loss, int(count))
    fatal.__module__, fatal.__qualname__ = loss.__module__, loss.__qualname__  # the store knows a loss by its name
    return fatal


def heatmaps(collector, compute):
    """Yield the name and the heatmap of each variant."""
    for name, options in VARIANTS.items():
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1, **options)
        yield name, compute(metric)


def main(folder):
    """Collect, score, save."""
    with qkov.distributed.ranks() as ranks:
        loss = prepared(ranks.rank)
        for family in FAMILIES:
            model = build_model(family, dtype=torch.float32, layers=3)
            with ranks.collector(store=folder / family) as collector:
                fill(collector, model, loss_fn=loss)
            for name, found in heatmaps(collector, lambda metric: ranks.compute_heatmap(metric, "a", "b")):
                found.save(folder / f"{family}-{name}-{ranks.rank}.safetensors")
            fisher = ranks.get_group_fisher(collector, "a", "welford")
        (folder / f"fisher-{ranks.rank}.txt").write_text(repr({key: value.tolist() for key, value in fisher.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
