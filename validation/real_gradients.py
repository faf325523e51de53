r"""Type I error on gradients of trained models: one task split in two, where nothing can differ, next to real contrasts.

The clusters of one task are split in halves at random, again and again, and the halves are given to a test as two tasks.
By construction the null is true of every slice, with the tails, outliers and dependence that gradients have and that a
generator may lack. The same test with samples as its unit, which ignores that chunks of a module resemble each other, is
run beside it and must be seen failing. A random half is one of the labellings that a test draws from, so a permutation test
that is one, with scores that do not know the halves, is exact here whatever the gradients; what fails is an implementation.

F is pooled over all samples of a test. That is the union of both halves, the same for every split, so scores are computed
once and a split costs milliseconds: `tests/test_real_gradients.py` compares with the tests called on halves.

Values are means over splits. Intervals are 95 %, their unit is the split of the given gradients: Student's t for shares,
Clopper and Pearson for rates of any rejection; for ratios a jackknife over clusters.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import numpy as np

from qkov.errors import StatisticsWarning
from qkov.statistics import clusters as units
from qkov.statistics import exchange, slices, source, splits

from . import trained, trained_gradients

ALPHA = 0.05
PERMUTATIONS = 499
SEED = 2026
_STREAMS = {"code": 21, "prose": 22}


@dataclass(frozen=True)
class Length:
    """How much is run, and the bounds that go with it.

    Attributes:
        families: Trained models.
        splits: Of the null. contrasts: Splits of everything else, which needs fewer to be seen.
        share: Largest mean share of slices rejected. familywise: Largest rate of any rejection by max-T.
    """

    families: tuple[str, ...]
    splits: int
    contrasts: int
    share: float
    familywise: float


LONG = Length(tuple(trained.FAMILIES), 100, 20, 0.07, 0.10)
SHORT = Length(("llama",), 24, 6, 0.10, 0.21)
"""The share of one split scatters by .05 about its .05, so that 24 splits stay five standard errors below .10; a valid
test rejects by max-T in more than 5 of 24 splits with probability .001, and in more than 10 of 100 with .01."""
LEAST_DIFFERENT = 0.8
"""Share of slices in which code and prose must differ, so that a test that never rejects fails."""


@dataclass(frozen=True)
class Scores:
    """Scores of a model's gradients that no relabelling changes.

    Attributes:
        within: Of all pairs of code, ``[slices, code, code]``.
        across: Of all pairs of code and prose, ``[slices, code + prose, code + prose]``.
        lifts: Log lifts of code into prose, ``[code, slices]``.
        against: Of code and of arithmetic into prose, ``[code + arithmetic, slices]``.
    """

    within: np.ndarray
    across: np.ndarray
    lifts: np.ndarray
    against: np.ndarray


@dataclass(frozen=True)
class Outcomes:
    """What a test said of many splits.

    Attributes:
        shares: Of slices rejected at 0.05, ``[splits]``. any_familywise: Whether max-T rejected any, ``[splits]``.
    """

    shares: np.ndarray
    any_familywise: np.ndarray


def score(gradients):
    """Compute what all splits share, from :class:`validation.trained_gradients.Gradients` of all three tasks."""
    parts = [
        (
            slices.pair_scores(code),
            slices.pair_scores(np.concatenate([code, prose])),
            slices.log_lifts(code, prose),
            slices.log_lifts(np.concatenate([code, other]), prose),
        )
        for code, prose, other in gradients.by_slice("code", "prose", "arithmetic")
    ]
    within, across, lifts, against = zip(*parts, strict=True)
    return Scores(np.stack(within), np.stack(across), np.column_stack(lifts), np.column_stack(against))


def exchange_halves(pairs, labels, first, second, *, seed, unit="clusters"):
    """Run :func:`qkov.statistics.test_exchange` on scores that are there already.

    Args:
        pairs: ``[slices, samples, samples]``. labels: Cluster of each sample.
        first, second: Samples of both tasks, bool ``[samples]``.
        seed: Of the relabelings.
        unit: What to relabel: "clusters", or "samples", which is wrong where clusters have several.
    """
    order = np.concatenate([np.flatnonzero(first), np.flatnonzero(second)])
    test = exchange.Exchange(len(pairs), *_sides(labels, first, second, unit), n_permutations=PERMUTATIONS, seed=seed)
    for one in pairs:
        test.add(one[np.ix_(order, order)])
    return _quietly(test.result)


def source_halves(lifts, labels, first, second, *, seed):
    """Run :func:`qkov.statistics.test_source` on log lifts that are there already, ``[samples, slices]``."""
    order = np.concatenate([np.flatnonzero(first), np.flatnonzero(second)])
    return _quietly(
        source.from_lifts,
        lifts[order],
        *_sides(labels, first, second, "clusters"),
        n_permutations=PERMUTATIONS,
        seed=seed,
        alternative="greater",
    )


def outcomes(test, first, second):
    """Run ``test(first, second, seed)`` on every split, bool ``[splits, samples]`` each; :class:`Outcomes`."""
    found = [test(one, other, seed=SEED + split) for split, (one, other) in enumerate(zip(first, second, strict=True))]
    # A slice that is not tested is not rejected.
    return Outcomes(
        np.array([(one.p <= ALPHA).mean() for one in found]), np.array([(one.p_maxt <= ALPHA).any() for one in found])
    )


def sample_halves(labels, number, task):
    """Split the clusters of a task in halves at random; which samples are in the first, bool ``[number, samples]``."""
    sides = units.read_clusters(list(labels), len(labels), task)
    return splits.draw_halves(sides.number, number, SEED, _STREAMS[task])[:, sides.codes]


def cross_within(pairs, labels, is_first):
    r"""Measure :math:`\overline{AB} / \sqrt{\overline{AA}\,\overline{BB}}`, its log averaged over slices.

    Args:
        pairs: ``[slices, samples, samples]``. labels: Cluster of each sample. is_first: bool ``[samples]``.

    Returns:
        ``(ratio, low, high)``: jackknife over the clusters of both tasks, scores as they are (F not fitted again).
    """
    sides = units.read_clusters(list(labels), len(labels), "both tasks")
    sums = np.zeros((len(pairs), sides.number, sides.number))
    np.add.at(sums, (slice(None), sides.codes[:, None], sides.codes[None]), pairs)
    of_first = np.zeros(sides.number, dtype=bool)
    of_first[sides.codes] = is_first

    def mean_log(kept):
        a, b = (np.where(kept & side, 1.0, 0.0) for side in (of_first, ~of_first))
        means = [_mean_apart(sums, sides.sizes, *pair) for pair in ((a, a), (b, b), (a, b), (b, a))]
        return float((np.log((means[2] + means[3]) / 2) - np.log(means[0] * means[1]) / 2).mean())

    everyone = np.ones(sides.number, dtype=bool)
    without = np.array([mean_log(everyone & (np.arange(sides.number) != one)) for one in range(sides.number)])
    return jackknifed(mean_log(everyone), [without[of_first], without[~of_first]])


def lift_ratio(lifts, labels, is_first):
    """Measure the ratio of geometric mean lifts over clusters, all slices; ``(ratio, low, high)`` as above."""
    sides = units.read_clusters(list(labels), len(labels), "both tasks")
    means = sides.means(lifts).mean(1)
    of_first = np.zeros(sides.number, dtype=bool)
    of_first[sides.codes] = is_first
    one, other = means[of_first], means[~of_first]
    full = one.mean() - other.mean()
    shifts = [(side.mean() - side) / (len(side) - 1) for side in (one, other)]
    return jackknifed(full, [full + shifts[0], full - shifts[1]])


def jackknifed(log_value, without):
    """Return ``exp`` of a value and of the ends of its interval, from values without each cluster, side by side."""
    from scipy import stats

    parts = [(len(side) - 1) / len(side) * np.square(side - side.mean()).sum() for side in without]
    variance = sum(parts)
    dof = variance**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, without, strict=True))
    half = stats.t.ppf(0.975, dof) * np.sqrt(variance)
    return tuple(float(value) for value in np.exp([log_value, log_value - half, log_value + half]))


def rows(long):
    """Run the null and the contrasts on the trained models; rows of the evidence, whose ``sets`` count splits."""
    length = LONG if long else SHORT
    return [row for family in length.families for row in model_rows(trained_gradients.collect(family), length)]


def model_rows(gradients, length):
    """Rows of one model."""
    scores, made = score(gradients), _Rows(length)
    null_rows(made, gradients, scores)
    contrast_rows(made, gradients, scores)
    return made.rows


def null_rows(made, gradients, scores):
    """Split code in two."""
    labels = gradients.clusters["code"]
    first = sample_halves(labels, made.length.splits, "code")
    few, data = first[: made.length.contrasts], f"{gradients.name}, halves of code"
    exchanged = functools.partial(exchange_halves, scores.within, labels)
    as_source = functools.partial(source_halves, scores.lifts, labels)
    made.rates("test_exchange", data, outcomes(exchanged, first, ~first))
    made.rates("test_source", f"{data} into prose", outcomes(as_source, first, ~first))
    ignoring = outcomes(functools.partial(exchanged, unit="samples"), few, ~few)
    made.share("invalid", "test_exchange, clusters ignored", data, ignoring, made.length.share, "must exceed")


def contrast_rows(made, gradients, scores):
    """Compare half of code with half of prose, as many clusters as in the null, and code with arithmetic."""
    code, prose, arithmetic = (gradients.clusters[task] for task in ("code", "prose", "arithmetic"))
    number, name = made.length.contrasts, gradients.name
    half = sample_halves(code, number, "code")
    first = np.pad(half, ((0, 0), (0, len(prose))))
    second = np.pad(sample_halves(prose, number, "prose"), ((0, 0), (len(code), 0)))
    labels = np.concatenate([code, prose])
    found = outcomes(functools.partial(exchange_halves, scores.across, labels), first, second)
    made.share("real contrast", "test_exchange, share of slices", f"{name}, half of code and half of prose", found,
               LEAST_DIFFERENT, "at least")  # fmt: skip
    ratio = cross_within(scores.across, labels, np.arange(len(labels)) < len(code))
    made.add("real contrast", "cross / within", f"{name}, code and prose", 1, ratio, 1.0, "at most")

    labels = np.concatenate([code, arithmetic])
    is_code = np.arange(len(labels)) < len(code)
    first = np.pad(half, ((0, 0), (0, len(arithmetic))))
    found = outcomes(
        functools.partial(source_halves, scores.against, labels), first, np.broadcast_to(~is_code, first.shape)
    )
    made.share("real contrast", "test_source, share of slices", f"{name}, half of code and arithmetic into prose",
               found, None, "shown")  # fmt: skip
    ratio = lift_ratio(scores.against, labels, is_code)
    made.add("real contrast", "lift, code / arithmetic", f"{name}, into prose", 1, ratio, None, "shown")


class _Rows:
    """Rows of the evidence, as they are made."""

    def __init__(self, length):
        self.length, self.rows = length, []

    def rates(self, procedure, data, found):
        self.share("real null", f"{procedure}, share of slices", data, found, self.length.share, "at most")
        from scipy import stats

        rejected, count = int(found.any_familywise.sum()), len(found.any_familywise)
        ends = stats.binomtest(rejected, count).proportion_ci(0.95, method="exact")
        self.add("real null", f"{procedure}, FWER of max-T", data, count, (rejected / count, ends.low, ends.high),
                 self.length.familywise, "at most")  # fmt: skip

    def share(self, study, procedure, data, found, bound, direction):
        from scipy import stats

        mean, count = found.shares.mean(), len(found.shares)
        half = stats.t.ppf(0.975, count - 1) * found.shares.std(ddof=1) / np.sqrt(count)
        self.add(study, procedure, data, count, (mean, max(0.0, mean - half), min(1.0, mean + half)), bound, direction)

    def add(self, study, procedure, data, count, found, bound, direction):
        value, low, high = map(float, found)
        self.rows.append(trained_gradients.row(study, procedure, data, count, value, low, high, bound, direction))


def _sides(labels, first, second, unit):
    chosen = [units.IID] * 2 if unit == "samples" else [list(labels[side]) for side in (first, second)]
    return [
        units.read_clusters(one, int(side.sum()), name)
        for one, side, name in zip(chosen, (first, second), ("the first half", "the second half"), strict=True)
    ]


def _quietly(function, *arguments, **options):
    # 499 relabelings are too few for BH over a hundred slices, and it says so; max-T and single p values are read here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticsWarning)
        return function(*arguments, **options)


def _mean_apart(sums, sizes, one, other):
    """Mean over pairs of samples of different clusters, one of each side (weights 0 or 1), ``[slices]``."""
    total = np.einsum("g,sgh,h->s", one, sums, other) - np.einsum("g,sgg,g->s", one, sums, other)
    counts = np.outer(sizes * one, sizes * other)
    return total / (counts.sum() - np.trace(counts))
