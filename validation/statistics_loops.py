"""What the statistics are by definition: float64 loops that share no code with `qkov.statistics`."""

import math

import numpy as np


def normalised(grads):
    """Samples over their norm, one after the other."""
    rows = []
    for row in grads:
        norm = math.sqrt(math.fsum(float(value) ** 2 for value in row))
        rows.append([float(value) / norm if norm else 0.0 for value in row])
    return rows


def fisher_of(rows):
    """Damped mean square of every parameter."""
    size = len(rows[0])
    fisher = [math.fsum(row[k] ** 2 for row in rows) / len(rows) for k in range(size)]
    ridge = 1e-8 * math.fsum(fisher) / size
    return [one + ridge for one in fisher]


def log_lifts(sources, target):
    """Log lift of every source sample."""
    rows, others = normalised(sources), normalised(target)
    fisher, size = fisher_of(rows), len(sources[0])
    v = [math.fsum(abs(row[k]) for row in others) / len(others) for k in range(size)]
    found = []
    for row in rows:
        u = [row[k] ** 2 / fisher[k] for k in range(size)]
        both = math.fsum(u[k] * v[k] for k in range(size))
        found.append(math.log(size * both / (math.fsum(u) * math.fsum(v))))
    return np.array(found)


def pair_scores(grads):
    """Score of every pair of samples."""
    rows = normalised(grads)
    fisher, size = fisher_of(rows), len(rows[0])
    return np.array([
        [math.fsum(one[k] ** 2 / fisher[k] * abs(other[k]) for k in range(size)) / size for other in rows] for one in rows
    ])  # fmt: skip


def score(g_a, g_b, estimand, fisher=None):
    """Mean or lift of task A against task B from gradients, F over all samples of both unless it is given."""
    a, b, size = normalised(g_a), normalised(g_b), len(g_a[0])
    fisher = fisher_of(a + b) if fisher is None else fisher
    u = [math.fsum(row[k] ** 2 for row in a) / len(a) / fisher[k] for k in range(size)]
    v = [math.fsum(abs(row[k]) for row in b) / len(b) for k in range(size)]
    both = math.fsum(x * y for x, y in zip(u, v, strict=True))
    return both / size if estimand == "mean" else size * both / (math.fsum(u) * math.fsum(v))


def pair_means(scores, codes, first):
    """Means over ordered pairs of samples of different clusters; clusters in `first` are called A."""
    pairs = {"AA": [], "BB": [], "AB": [], "BA": []}
    for i, one in enumerate(codes):
        for j, other in enumerate(codes):
            if one != other:
                name = ("A" if first[one] else "B") + ("A" if first[other] else "B")
                pairs[name].append(float(scores[i][j]))
    return {name: math.fsum(values) / len(values) for name, values in pairs.items()}


def grid_of(matrix):
    """Round a square matrix to whole multiples of the smallest power of two that keeps every row sum within 2**24."""
    largest = max(abs(float(value)) for row in matrix for value in row)
    step = 2.0**-1074
    while step * 2**24 < largest * len(matrix):
        step *= 2
    return [[round(float(value) / step) for value in row] for row in matrix], step


def cluster_sums(scores, codes):
    """Scores summed within pairs of different clusters, and how many pairs there are."""
    number = max(codes) + 1
    sums, counts = ([[0.0] * number for _ in range(number)] for _ in range(2))
    for i, one in enumerate(codes):
        for j, other in enumerate(codes):
            if one != other:
                sums[one][other] += float(scores[i][j])
                counts[one][other] += 1
    return sums, counts


def symmetric_on_grid(scores, codes, first):
    """AA + BB - AB - BA of the rounded scores, in whole numbers up to the last division."""
    sums, counts = cluster_sums(scores, codes)
    number = len(sums)
    mean = math.fsum(value for row in sums for value in row) / sum(map(sum, counts))
    centred = [[sums[g][h] - counts[g][h] * mean for h in range(number)] for g in range(number)]
    grid, step = grid_of([[(centred[g][h] + centred[h][g]) / 2 for h in range(number)] for g in range(number)])
    total, pairs = {"AA": 0, "BB": 0, "AB": 0}, {"AA": 0, "BB": 0, "AB": 0}
    for g in range(number):
        for h in range(number):
            name = "AB" if first[g] != first[h] else "AA" if first[g] else "BB"
            total[name] += grid[g][h] if name != "AB" or first[g] else 0
            pairs[name] += counts[g][h] if name != "AB" or first[g] else 0
    return step * (total["AA"] / pairs["AA"] + total["BB"] / pairs["BB"] - 2 * total["AB"] / pairs["AB"])


def leaning_on_grid(scores, codes, first):
    """AB - BA of the rounded differences, in whole numbers up to the last division."""
    sums, counts = cluster_sums(scores, codes)
    number = len(sums)
    grid, step = grid_of([[sums[g][h] - sums[h][g] for h in range(number)] for g in range(number)])
    total = sum(grid[g][h] for g in range(number) for h in range(number) if first[g] and not first[h])
    pairs = sum(counts[g][h] for g in range(number) for h in range(number) if first[g] and not first[h])
    return step * total / pairs


def tied_or_larger(value, observed):
    """Whether a statistic under a relabelling counts against the observed one."""
    return value >= observed or abs(value - observed) <= 1e-10 * max(1.0, abs(value), abs(observed))


def p_value(observed, null):
    """Share of labellings, the given one among them, with as large a statistic."""
    return (1 + sum(tied_or_larger(float(value), float(observed)) for value in null)) / (1 + len(null))


def step_down(observed, null):
    """Westfall and Young's step-down max-T, slice after slice."""
    order = sorted(range(len(observed)), key=lambda one: -observed[one])
    found, before = [0.0] * len(observed), 0.0
    for place, one in enumerate(order):
        largest = [max(float(row[other]) for other in order[place:]) for row in null]
        before = found[one] = max(before, p_value(observed[one], largest))
    return np.array(found)
