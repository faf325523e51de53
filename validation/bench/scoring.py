"""How fast all pairs are scored: operations a second over the machine's square product, and how the time grows.

Operations are those of materialising the slices and of one matrix product a slice, ``2 T K (n_a + n_b) + 2 K n_a n_b``;
Fisher, damping and everything elementwise are not counted, so they lower the rate. One layer of GPT-2 small with all its
heads; the work is linear in layers.
"""

import math

import qkov

from . import clock, shapes
from .goals import Measured


def score(collector):
    """Score all pairs of a collector."""
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
    return metric.compute_heatmap("a", "b", progress=False)


def forget(collector):
    """Drop what samples remember of earlier scores; they would not have to be computed again."""
    for task in collector.tasks:
        for one in collector.samples(task):
            one.squared_norms.clear()
    return collector


def timed(make):
    """Scoring of a collector that ``make()`` returns, made anew and forgetful for each run."""
    return clock.Timed(score, lambda: forget(make()))


def collected(sizes, num_samples):
    """A collector of really collected samples of one layer, so many of each task."""
    model = shapes.gpt2(sizes, layers=1, vocabulary=min(256, sizes.vocabulary))
    collector = qkov.FisherCollector()
    for task, seed in (("a", 1), ("b", 2)):
        batch = shapes.tokens(num_samples, sizes.tokens, model.config.vocab_size, seed)
        collector.collect_fisher(model, batch, task, progress=False)
    return collector


def exponent(points):
    """Slope of log time over log size, by least squares.

    Example:
        >>> round(exponent([(1, 3.0), (2, 12.0), (4, 48.0)]), 6)
        2.0
    """
    xs, ys = ([math.log(value) for value in column] for column in zip(*points, strict=True))
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    upper = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return upper / sum((x - mean_x) ** 2 for x in xs)


def median_time(row):
    """Time of a cell in units of the square product: its operations over its rate, so that load cancels."""
    return row["operations"] / row["rate"]


def measure(sizes, say=None):
    """Time all cells in turn; a goal holds in the worst of its cells."""
    config = shapes.layout_of(shapes.gpt2, sizes, layers=1)
    parameters = shapes.slice_parameters(config)
    asked = list(dict.fromkeys((*sizes.cells, *sizes.short, *sizes.by_n, *sizes.by_t)))
    pool = shapes.RandomFactors(config, max(2 * n * length for n, length in asked))
    cells = {
        f"n={n} T={length}": (
            shapes.scoring_operations(parameters, n, n, length),
            timed(lambda n=n, length=length: pool.collector(n, n, length)),
        )
        for n, length in asked
    }
    real = collected(sizes, sizes.samples)
    operations = shapes.scoring_operations(parameters, sizes.samples, sizes.samples, sizes.tokens)
    cells["collected"] = operations, timed(lambda: real)
    score(pool.collector(*(2 * [min(n for n, _ in asked)]), min(length for _, length in asked)))  # first calls
    rows, square = clock.relative_rates(cells, clock.Square(sizes.square), repeats=sizes.repeats, say=say)

    def worst(chosen):
        return min((*[f"n={n} T={length}" for n, length in chosen],), key=lambda name: rows[name]["rate"])

    names = {"scoring": worst(sizes.cells), "scoring-short": worst(sizes.short)}
    if rows["collected"]["rate"] < rows[names["scoring"]]["rate"]:
        names["scoring"] = "collected"
    by_n = [(n, median_time(rows[f"n={n} T={length}"])) for n, length in sizes.by_n]
    by_t = [(length, median_time(rows[f"n={n} T={length}"])) for n, length in sizes.by_t]
    width = f"one layer, d {sizes.hidden}, {sizes.heads} heads"
    counted = {
        "n": exponent([(n, rows[f"n={n} T={length}"]["operations"]) for n, length in sizes.by_n]),
        "t": exponent([(length, rows[f"n={n} T={length}"]["operations"]) for n, length in sizes.by_t]),
    }
    return Measured(
        values={name: rows[cell]["rate"] for name, cell in names.items()}
        | {"growth-n": exponent(by_n), "growth-t": exponent(by_t)},
        conditions={
            "scoring": f"{width}; worst of {len(sizes.cells)} sizes and of one really collected: {names['scoring']}",
            "scoring-short": f"{width}; worst of {len(sizes.short)} sizes: {names['scoring-short']}",
            "growth-n": f"{width}, T = {sizes.by_n[0][1]}; operations grow with {counted['n']:.2f}",
            "growth-t": f"{width}, n = {sizes.by_t[0][0]}; operations grow with {counted['t']:.2f}",
        },
        details={
            "cells": rows,
            "square product, operations per second": square["median"],
            "by n": [[n, f"n={n} T={length}"] for n, length in sizes.by_n],
            "by T": [[length, f"n={n} T={length}"] for n, length in sizes.by_t],
            "exponents of the operations": counted,
        },
    )
