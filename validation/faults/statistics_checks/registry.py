"""What every function of :mod:`qkov.statistics` must return, by routes that share no code with it.

Each check takes a moment: loops in float64, closed forms, SciPy, and whole numbers that were written down once. They stand
beside the studies (:mod:`validation.statistics_evidence`), which ask whether the tests keep their level; these ask whether
the code is the formula. Each is named "statistics: ..." in the evidence.
"""

import itertools
import time
import warnings

import numpy as np

from qkov.checks import CheckResult, Comparison
from qkov.statistics import clusters as clusters_module

MODEL = "drawn gradients"
CHECKS = {}  # name -> function returning a Comparison
BOUND = 1e-9  # rounding of sums of some hundred terms, relative to the largest; the loops add up exactly

LABELS_A, LABELS_B, LABELS_R = list("aabcced"), list("vwwxyyyz"), list("kllmmno")
ESTIMANDS = ("lift", "mean")


def check(name):
    """Register a check."""

    def register(function):
        CHECKS[f"statistics: {name}"] = function
        return function

    return register


def run_check(name):
    """Run one check; whatever breaks in it is a failure, told by its message."""
    started, model = time.perf_counter(), MODEL
    compared = Comparison()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the data are deliberately few
            CHECKS[name](compared)
    except Exception as error:  # noqa: BLE001  # told as failed with its message, whatever a wrong implementation breaks
        seconds = time.perf_counter() - started
        return CheckResult(name, model, "failed", None, None, 0, seconds, f"{type(error).__name__}: {error}")
    measured = compared.measurement(BOUND)
    status = "passed" if measured.passed else "failed"
    reason = "" if measured.passed else "the error exceeds the bound" if measured.compared else "nothing was compared"
    seconds = time.perf_counter() - started
    return CheckResult(name, model, status, measured.error, measured.bound, measured.compared, seconds, reason)


def gradients(seed, samples, num_slices=3, parameters=5):
    """Normal gradients, ``[samples, slices, parameters]``."""
    return np.random.default_rng(seed).normal(size=(samples, num_slices, parameters))


def codes_of(labels):
    """Number of each label in the order of first appearance."""
    names = list(dict.fromkeys(labels))
    return np.array([names.index(one) for one in labels])


def read(labels):
    """Labels as the package reads them."""
    return clusters_module.read_clusters(labels, len(labels), "the task")


def cluster_means(values, labels):
    """Means of rows within clusters, by a loop."""
    codes = codes_of(labels)
    return np.array(
        [
            np.mean([row for row, of in zip(values, codes, strict=True) if of == one], axis=0)
            for one in range(max(codes) + 1)
        ]
    )


def all_labellings(num_first, total):
    """Every way to call some clusters first, the given one first of all."""
    return [np.isin(np.arange(total), chosen) for chosen in itertools.combinations(range(total), num_first)]
