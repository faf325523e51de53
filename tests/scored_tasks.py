"""Two tasks on tiny models and the metric of them, for the tests of scores."""

import functools

import torch

import qkov
from qkov import reference
from tests.builders import build_batch, build_model, loss_of

LENGTHS_A, LENGTHS_B = (5, 3, 6), (4, 7)
IDS_A, IDS_B = ("p", "q", "r"), (30, 10)


@functools.cache
def two_tasks(family, dtype=torch.float64, **changes):
    """A collector with tasks "a" (string ids) and "b" (int ids), and the reference gradients of both."""
    model = build_model(family, dtype=dtype, **changes)
    truth_model = build_model(family, **changes)
    collector = qkov.FisherCollector()
    truth = {}
    for task, lengths, ids, seed in (("a", LENGTHS_A, IDS_A, 1), ("b", LENGTHS_B, IDS_B, 2)):
        batch = build_batch(lengths, seed=seed)
        collector.collect_fisher(model, batch, task, sample_ids=ids, loss_fn=loss_of(family), progress=False)
        truth[task] = reference.sample_gradients(truth_model, batch, loss_of(family))
    return collector, truth


def metric_of(collector, **options):
    return qkov.QKOVInterferenceMetric(collector.config, collector, **{"min_samples_for_fisher": 0} | options)


def score(collector, *tasks, layers=None, heads=None, most=None, **options):
    """A heatmap without warnings on so few samples."""
    return metric_of(collector, **options).compute_heatmap(
        *(tasks or ("a", "b")), layers=layers, heads=heads, max_samples_per_task=most, progress=False
    )
