"""Small gradients and scores for the tests of `qkov.statistics`, the same on every machine."""

import warnings

import numpy as np

from qkov.errors import StatisticsWarning
from qkov.statistics import clusters


def gradients(seed, samples, slices=3, parameters=5, planted=(), factor=3.0):
    """Normal gradients; slices named in `planted` have their first two parameters made larger."""
    grads = np.random.default_rng(seed).normal(size=(samples, slices, parameters))
    for one in planted:
        grads[:, one, :2] *= factor
    return grads


def quietly(function, *args, **kwargs):
    """Call a test on data that are deliberately too few, without its warnings about that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticsWarning)
        return function(*args, **kwargs)


def of_sizes(sizes, name="c"):
    """Clusters of these sizes, their samples interleaved."""
    codes = [code for turn in range(max(sizes)) for code, size in enumerate(sizes) if turn < size]
    return clusters.read_clusters([f"{name}{code}" for code in codes], len(codes), "the task")


def whole_scores(seed, rows, columns, high=1000):
    """Whole numbers by a rule that needs no generator: the same bits everywhere."""
    index = np.arange(rows * columns, dtype=np.int64) + 1
    return ((index * (48271 + 2 * seed)) % 2147483647 * 69621 % 2147483647 % (2 * high + 1) - high).reshape(
        rows, columns
    )
