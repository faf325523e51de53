"""The same result again: in another process bit for bit (D1), with other threads, batches and tiles within bounds (D2).

A heatmap of the trained Llama-style model is collected and scored from scratch in processes of their own.
"""

import time

import numpy as np
import torch
from scipy import stats

from qkov import checks

from . import models, suite

MODEL = "trained-llama"
D2_SCORES, D2_RANKS = 1e-4, 0.9999  # relative to the block's largest score; Spearman correlation of heads
TIERS = {
    "D0": "decisions from a score file are bitwise: the package makes no decisions yet, so there is nothing to repeat",
    "D3": "CPU against GPU, other versions of torch and transformers: needs a second machine or environment",
    "D4": "half precision: no promise",
}


def scored(name, threads, micro_batch, tile_elements):
    """Collect and score a model from scratch; ``(fingerprint, {block: scores})``."""
    torch.set_num_threads(threads)
    one = models.CASES[name]
    model, batch_a, batch_b, loss_fn = one.build()
    case = checks.Case(name, model, batch_a, batch_b, loss_fn)
    held = case.collect(micro_batch=micro_batch)
    found = case.heatmap(held, fisher_pool="pooled", tile_elements=tile_elements)
    return found.fingerprint, found.arrays


def measure_repetition(name=MODEL, *, jobs=2):
    """Measure tiers D1 and D2 on a model; rows of results."""
    started = time.perf_counter()
    settings = [(1, None, 2**22), (1, None, 2**22), (2, 1, 2**14)]
    with suite.process_pool(jobs, max_tasks_per_child=1) as pool:
        runs = [run.result() for run in [pool.submit(scored, name, *one) for one in settings]]
    seconds = time.perf_counter() - started
    return [compare_bits(name, runs[0], runs[1], seconds), compare_values(name, runs[0], runs[2], seconds)]


def compare_bits(name, first, second, seconds):
    """D1: labels, attributes and every bit of every array are the same in two processes."""
    comparison = checks.Comparison()
    comparison.true(first[0] == second[0])
    for block in first[1]:
        comparison.true(first[1][block].tobytes() == second[1][block].tobytes(), first[1][block].size)
    return row("repetition_D1", name, comparison.measurement(0.0), seconds)


def compare_values(name, first, second, seconds):
    """D2: scores agree within 1e-4, heads keep their ranks, and the strongest pairs are the same up to ties."""
    comparison = checks.Comparison()
    for block in first[1]:
        one, two = first[1][block], second[1][block]
        comparison.near(two, one)
        ranks = stats.spearmanr(one.mean((0, 1)).ravel(), two.mean((0, 1)).ravel()).statistic
        comparison.true(ranks >= D2_RANKS)
        top = np.argsort(-one, axis=None, kind="stable")[:10]
        # The tenth pair may trade places with one that equals it within the bound.
        comparison.true(
            bool((two.ravel()[top] >= np.sort(two, axis=None)[-10] - D2_SCORES * one.max()).all()), len(top)
        )
    return row("repetition_D2", name, comparison.measurement(D2_SCORES), seconds)


def row(check, name, measurement, seconds):
    """A row of the evidence from a measurement."""
    result = checks.CheckResult(
        check, name, "passed" if measurement.passed else "failed", measurement.error, measurement.bound,
        measurement.compared, seconds, "" if measurement.passed else "the results differ",
    )  # fmt: skip
    return suite.result_row(result)
