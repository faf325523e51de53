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
    """Whole numbers from -high to high by multiplying and shifting (SplitMix64): the same bits everywhere, without NumPy."""
    found, mask = [], 2**64 - 1
    for index in range(rows * columns):
        word = (seed * 1_000_003 + index + 1) * 0x9E3779B97F4A7C15 & mask
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & mask
        word = (word ^ word >> 27) * 0x94D049BB133111EB & mask
        found.append((word ^ word >> 31) % (2 * high + 1) - high)
    return np.array(found).reshape(rows, columns)
