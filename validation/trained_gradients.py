"""Gradients of the trained models on held-out text, with their clusters: collected once, read one slice at a time.

A module of the standard library is a cluster. Four chunks are taken of each for code, so that a procedure which takes
samples for independent can be seen to fail.
"""

import functools
from dataclasses import dataclass

import numpy as np

import qkov
from qkov import scoring

from . import tasks, trained

SAMPLES = {"code": (160, 4), "prose": (96, 2), "arithmetic": (90, 5)}
"""Samples of each task, and how many of a cluster are drawn at a time."""
LENGTH = 128
SEED = 1


@dataclass(frozen=True)
class Gradients:
    """Collected gradients of some tasks.

    Attributes:
        name: What evidence calls the model.
        collector: Holds them, as factors.
        clusters: ``{task: labels [samples]}``, arrays of strings.
    """

    name: str
    collector: qkov.FisherCollector
    clusters: dict

    def by_slice(self, *wanted):
        """Walk over the slices of Q, K, V and O in all layers, K and V once per kv head.

        Args:
            *wanted: Names of tasks.

        Yields:
            A tuple with one float64 array ``[samples, parameters]`` per task: gradients of summed token losses.
        """
        options = scoring.ScoreOptions(tile_elements=2**62)  # whole slices
        for layout in self.collector.config.layers:
            for projection in layout.projections:
                for unit in range(projection.num_units):
                    yield tuple(
                        next(scoring.slice_tiles(self.collector.samples(task), projection, unit, options))
                        .double()
                        .cpu()
                        .numpy()
                        for task in wanted
                    )


@functools.cache
def collect(family):
    """Collect all tasks of :data:`SAMPLES` on a trained model, ``"llama"`` or ``"gpt2"``; once per process."""
    texts = {
        task: tasks.load_task(task, number, LENGTH, seed=SEED, per_cluster=per_cluster)
        for task, (number, per_cluster) in SAMPLES.items()
    }
    return collect_texts(f"trained {family}", trained.load_model(family), texts)


def collect_texts(name, model, texts):
    """Collect ``{task: TaskText}`` on a causal language model that reads bytes."""
    collector = qkov.FisherCollector()
    for task, text in texts.items():
        batch = tasks.as_batch(text)
        collector.collect_fisher(model, batch, task, sample_ids=text.ids, clusters=text.clusters, progress=False)
    return Gradients(name, collector, {task: np.array(text.clusters, dtype=object) for task, text in texts.items()})


def row(study, procedure, data, sets, value, low, high, bound, direction):
    """Make a row of the evidence; without a bound nothing can fail."""
    passed = {
        "at most": lambda: value <= bound,
        "at least": lambda: value >= bound,
        "must exceed": lambda: value > bound,
        "shown": lambda: True,
    }
    return {
        "study": study,
        "procedure": procedure,
        "data": data,
        "sets": sets,
        "value": value,
        "low": low,
        "high": high,
        "bound": bound,
        "direction": direction,
        "status": "passed" if passed[direction]() else "failed",
    }
