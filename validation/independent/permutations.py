"""The tests of slices and the intervals, equations S1 to S11, on gradients ``[samples, slices, parameters]``."""

import itertools
import math

import numpy as np

RELATIVE, TINY, TIES, FLOOR, SCALE_DRAWS = 1e-8, 2.0**-1022, 1e-10, 1e-12, 512


def unit(grads):
    """Each sample divided by its norm in the slice."""
    return grads / np.linalg.norm(grads, axis=1, keepdims=True)


def sensitivity(grads):
    """Equation S1: u of the samples of all tasks whose labels are exchanged."""
    squares = unit(grads) ** 2
    fisher = squares.mean(0)
    return squares / (fisher + RELATIVE * fisher.mean() + TINY)


def codes(labels):
    """Numbers of clusters in the order of first appearance."""
    order = list(dict.fromkeys(labels))
    return np.array([order.index(one) for one in labels])


def draw(count_1, count_2, number, seed, stream=0):
    """Equation S2: which clusters the first task gets, bool ``[relabelings, clusters]``; all others where few exist."""
    total = count_1 + count_2
    if stream == 0 and math.comb(total, count_1) - 1 <= number:
        chosen = list(itertools.combinations(range(total), count_1))[1:]
    else:
        words = np.random.Philox(key=stream * 2**64 + seed).random_raw(number * total).reshape(number, total)
        chosen = np.argsort(words, axis=1, kind="stable")[:, :count_1]
    first = np.zeros((len(chosen), total), dtype=bool)
    for row, members in enumerate(chosen):
        first[row, list(members)] = True
    return first


def reaches(values, observed, least=1.0):
    """The comparison of equation S3, ties counted."""
    return values >= observed - TIES * np.maximum(np.maximum(np.abs(observed), np.abs(values)), least)


def counts(observed, null):
    """The numerators of equation S3, one for each slice."""
    return [1 + int(reaches(null[:, one], value).sum()) for one, value in enumerate(observed)]


def family_counts(observed, null):
    """The numerators of equation S4."""
    order = np.argsort(-observed, kind="stable")
    found, largest = np.zeros(len(observed), dtype=int), 0
    for place, one in enumerate(order):
        behind = null[:, order[place:]].max(1)
        largest = max(largest, 1 + int(reaches(behind, observed[one]).sum()))
        found[one] = largest
    return found.tolist()


def source(g_a, g_r, g_b, labels_a, labels_r, number, seed):
    """``test_source``: statistics, effects, and their null."""
    of_a, of_r = codes(labels_a), codes(labels_r)
    of_each = np.concatenate([of_a, of_a.max() + 1 + of_r])
    count_a, count_r = of_a.max() + 1, of_r.max() + 1
    first = np.concatenate([(np.arange(count_a + count_r) < count_a)[None], draw(count_a, count_r, number, seed)])
    statistics, effects = [], []
    for one in range(g_a.shape[1]):
        u = sensitivity(np.concatenate([g_a[:, one], g_r[:, one]]))
        v = np.abs(unit(g_b[:, one])).mean(0)
        x = np.log(u.shape[1] * (u @ v) / (u.sum(1) * v.sum()))  # M17 with u of S1
        means = np.array([x[of_each == cluster].mean() for cluster in range(count_a + count_r)])
        statistics.append([welch(means[row], means[~row], means.var()) for row in first])
        effects.append(math.exp(means[:count_a].mean() - means[count_a:].mean()))
    table = np.array(statistics).T
    return table[0], np.array(effects), table[1:]


def welch(one, two, variance):
    """Equation S5."""
    error = one.var(ddof=1) / len(one) + two.var(ddof=1) / len(two)
    return (one.mean() - two.mean()) / math.sqrt(max(error, FLOOR * variance))


def exchange(g_a, g_b, labels_a, labels_b, statistic, number, seed):
    """``test_exchange``: statistics, effects, and their null; for "asym" of either sign."""
    of_a, of_b = codes(labels_a), codes(labels_b)
    of_each = np.concatenate([of_a, of_a.max() + 1 + of_b])
    count_a, count_b = of_a.max() + 1, of_b.max() + 1
    sizes = np.bincount(of_each)
    drawn = draw(count_a, count_b, number, seed)
    given = (np.arange(count_a + count_b) < count_a)[None]
    exhaustive = math.comb(count_a + count_b, count_a) - 1 <= number
    apart = np.concatenate([given, drawn]) if exhaustive else draw(count_a, count_b, SCALE_DRAWS, seed, stream=1)
    rows = []
    for one in range(g_a.shape[1]):
        grads = np.concatenate([g_a[:, one], g_b[:, one]])
        scores = sensitivity(grads) @ np.abs(unit(grads)).T / grads.shape[1]  # S6
        sums = np.array([[scores[np.ix_(of_each == c, of_each == d)].sum() for d in range(len(sizes))]
                         for c in range(len(sizes))])  # fmt: skip
        value = form(sums, sizes, statistic)
        spread = value(apart)
        centre = spread.mean() if statistic == "sym" else 0.0
        scale = math.sqrt(((spread - centre) ** 2).mean())
        table = (value(np.concatenate([given, drawn])) - centre) / scale
        rows.append((table[0], exchange_effect(sums, sizes, count_a, statistic), table[1:]))
    observed, effects, null = zip(*rows, strict=True)
    return np.array(observed), np.array(effects), np.array(null).T


def form(sums, sizes, statistic):
    """Equations S7 and S8: the statistic of each labelling, from whole numbers."""
    pairs = np.outer(sizes, sizes).astype(float)
    np.fill_diagonal(pairs, 0.0)
    between = np.where(pairs > 0, sums, 0.0)
    if statistic == "sym":
        centred = between - pairs * (between.sum() / pairs.sum())
        whole, step = rounded((centred + centred.T) / 2)
    else:
        whole, step = rounded(between - between.T)

    def value(first):
        found = []
        for row in first:
            a, b = row.astype(float), (~row).astype(float)
            mean = {
                names: (one @ whole @ two) / (one @ pairs @ two)
                for names, one, two in (("AA", a, a), ("BB", b, b), ("AB", a, b))
            }
            # With both directions in one matrix: AB + BA is twice the symmetric part, AB - BA the antisymmetric one.
            found.append(mean["AA"] + mean["BB"] - 2 * mean["AB"] if statistic == "sym" else mean["AB"])
        return step * np.array(found)

    return value


def rounded(matrix):
    """Equation S8."""
    wanted = len(matrix) * np.abs(matrix).max() / 2.0**24
    step = 2.0 ** math.ceil(math.log2(wanted))
    return np.rint(matrix / step), step


def exchange_effect(sums, sizes, count_a, statistic):
    """The logarithmic ratios below equation S7."""
    pairs = np.outer(sizes, sizes).astype(float)
    np.fill_diagonal(pairs, 0.0)
    between = np.where(pairs > 0, sums, 0.0)
    a = (np.arange(len(sizes)) < count_a).astype(float)
    mean = {names: (one @ between @ two) / (one @ pairs @ two)
            for names, one, two in (("AA", a, a), ("BB", 1 - a, 1 - a), ("AB", a, 1 - a), ("BA", 1 - a, a))}  # fmt: skip
    if statistic == "asym":
        return math.log(mean["AB"] / mean["BA"])
    return math.log((mean["AB"] + mean["BA"]) / 2 / math.sqrt(mean["AA"] * mean["BB"]))


def intervals(g_a, g_b, labels_a, labels_b, quantile):
    """Equations S9 and S10: ``(lift bias-corrected, low, high)`` of each slice; ``quantile`` is t's, a function of df."""
    sides, found = (codes(labels_a), codes(labels_b)), []
    for one in range(g_a.shape[1]):
        a, b = unit(g_a[:, one]), unit(g_b[:, one])
        theta, left = lift(a, b), []
        for side, of_each in enumerate(sides):
            kept = [
                [of_each != cluster if side == at else slice(None) for at in (0, 1)] for cluster in np.unique(of_each)
            ]
            left.append(np.array([lift(a[rows], b[columns]) for rows, columns in kept]))
        variances = [(len(x) - 1) / len(x) * ((np.log(x) - np.log(x).mean()) ** 2).sum() for x in left]
        total = sum(variances)
        df = total**2 / sum(v**2 / (len(x) - 1) for v, x in zip(variances, left, strict=True))
        corrected = theta - sum((len(x) - 1) * (x.mean() - theta) for x in left)
        half = quantile(df) * math.sqrt(total)
        found.append([corrected, corrected * math.exp(-half), corrected * math.exp(half)])
    return found


def lift(unit_a, unit_b):
    """The estimand "lift" of unit gradients, F over both tasks."""
    fisher = np.concatenate([unit_a, unit_b]).__pow__(2).mean(0)
    u = (unit_a**2).mean(0) / (fisher + RELATIVE * fisher.mean() + TINY)
    v = np.abs(unit_b).mean(0)
    return len(u) * (u @ v) / (u.sum() * v.sum())


def conformal_counts(scores_a, scores_r):
    """The numerators of equation S11."""
    return [1 + int(reaches(scores_r, one, least=0.0).sum()) for one in scores_a]
