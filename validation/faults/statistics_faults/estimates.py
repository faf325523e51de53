"""Faults of intervals, sizes of effects, reliability of maps and single samples."""

import dataclasses

import numpy as np
from scipy import stats

from qkov.statistics import slices

from .registering import replacing, statistics


@statistics("jackknife.leave_out_slice", expected="scores without a cluster")
def fisher_not_fitted_again(_original):
    """A cluster is left out of the score, but not of F."""

    def leave_out_slice(one_a, one_b, a, b, estimand):
        u, _ = slices.sensitivities(one_a, one_b)
        v = np.abs(slices.unit(one_b))
        all_a, all_b = np.ones(len(u), dtype=bool), np.ones(len(v), dtype=bool)
        rows = [(all_a, all_b)]
        rows += [(a.codes != code, all_b) for code in range(a.number)]
        rows += [(all_a, b.codes != code) for code in range(b.number)]
        means = [(u[one].mean(0), v[other].mean(0)) for one, other in rows]
        if estimand == "mean":
            return np.log([x @ y / len(x) for x, y in means])
        return np.log([len(x) * (x @ y) / (x.sum() * y.sum()) for x, y in means])

    return leave_out_slice


@statistics("jackknife._Sums._score", expected="scores without a cluster")
def mean_is_a_sum(original):
    """The estimand "mean" is a sum over parameters."""

    def score(self, *sums):
        return original(self, *sums) * (len(self.total[0]) if self.estimand == "mean" else 1)

    return score


@statistics("jackknife.LeftOut.logs", expected="jackknife error")
def logs_not_corrected(_original):
    """Log scores keep their bias, scores do not."""
    return lambda self: self.full


@statistics("jackknife._corrected", expected="jackknife error")
def bias_not_corrected(_original):
    """Estimates keep their bias."""
    return lambda full, *sides: full


@statistics("jackknife.LeftOut.error", expected="jackknife error")
def degrees_of_the_smaller_side(original):
    """Degrees of freedom are those of the side with fewer clusters, not Satterthwaite's."""

    def error(self):
        variance, dof = original(self)
        return variance, np.full_like(dof, min(len(self.without_a), len(self.without_b)) - 1)

    return error


@statistics("jackknife.LeftOut.error", expected="jackknife error")
def error_of_one_side(_original):
    """Only clusters of A make the error."""

    def error(self):
        count = len(self.without_a)
        variance = (count - 1) / count * np.square(self.without_a - self.without_a.mean(0)).sum(0)
        return variance, np.full(variance.shape, count - 1.0)

    return error


@statistics("intervals.interval_of", expected="jackknife interval")
def interval_even_on_the_score(original):
    """The interval is even around the score and not around its logarithm."""
    return replacing(low=lambda found: 2 * found.estimate - found.high)(original)


@statistics("intervals.interval_of", expected="jackknife interval")
def normal_quantile(original):
    """The interval takes the normal distribution for t, as if the error were known."""

    def interval_of(left, *, estimand, level):
        found = original(left, estimand=estimand, level=level)
        half = stats.norm.ppf((1 + level) / 2) * np.sqrt(left.error()[0])
        return dataclasses.replace(found, low=found.estimate * np.exp(-half), high=found.estimate * np.exp(half))

    return interval_of


@statistics("intervals._contrast_weights", expected="head against its layer")
def head_among_the_others(_original):
    """A head is compared with the mean of its layer, itself included."""

    def contrast_weights(layer_of_slice, known):
        layers = np.array(layer_of_slice)
        same = (layers[:, None] == layers[None]) & known & known[:, None]
        alone = ~known | (same.sum(1) < 2)
        weights = np.eye(len(known)) - same / np.maximum(same.sum(1), 1)[:, None]
        return np.where(alone[:, None], 0.0, weights), alone

    return contrast_weights


@statistics("intervals._resampled", expected="bootstrap of both sides")
def both_sides_drawn_alike(original):
    """The bootstrap draws the same clusters on both sides."""
    return lambda count, draws, seed, stream: original(count, draws, seed, 2)


@statistics("effects.effect_of_lifts", expected="size of an effect")
def ties_are_wins(original):
    """A tie counts as a win in the probability of superiority."""

    def effect_of_lifts(lifts, a, r, *, level=0.95):
        of_a, of_r = a.means(lifts[: len(a.codes)]), r.means(lifts[len(a.codes) :])
        wins = (of_a[:, None] >= of_r[None]).mean((0, 1))
        return dataclasses.replace(original(lifts, a, r, level=level), superiority=wins)

    return effect_of_lifts


@statistics("splits.draw_halves", expected="halves")
def halves_always_the_same(_original):
    """Every split puts the same clusters into the first half."""
    return lambda number, splits, seed, stream: np.tile(np.arange(number) < number // 2, (splits, 1))


@statistics("splits.correlation", expected="halves")
def correlation_not_centred(_original):
    """Correlations are cosines."""
    return lambda one, other: one @ other / np.sqrt((one @ one) * (other @ other))


@statistics("splits.stepped_up", expected="full length")
def reliability_of_a_half(_original):
    """The reliability is that of half of the samples."""
    return lambda r: r


@statistics("splits.stepped_up", expected="full length")
def halves_that_contradict_each_other(original):
    """Halves whose correlation is -1 have a reliability."""
    return lambda r: original(r) if r > -1 else -1.0


@statistics("map_reliability._swap_change", expected="reliability of a map")
def change_is_likeness(original):
    """The change when another task takes A's place is how alike both maps are."""
    return lambda maps, swapped: 1 - original(maps, swapped)


@statistics("cross_within", expected="ceiling of likeness")
def ceiling_without_its_root(original):
    """The ceiling is the product of both reliabilities, not its root."""
    return replacing(ceiling=lambda found: found.ceiling**2)(original)


@statistics("conformal_samples", expected="single samples")
def sample_not_among_the_reference(original):
    """A sample's p value is a count over the reference and may be 0."""

    def conformal_samples(scores_a, scores_r, *, q=0.1):
        return replacing(p=lambda found: (found.p * (1 + len(scores_r)) - 1) / len(scores_r))(original)(
            scores_a, scores_r, q=q
        )

    return conformal_samples


@statistics("conformal_samples", expected="single samples")
def selected_by_p(original):
    """Samples are selected by p, whatever their number."""
    return replacing(selected=lambda found: found.p <= found.level)(original)


@statistics("alignment_exploratory", expected="likeness of diagonals")
def parameters_permuted_not_rows(original):
    """Single parameters are permuted where rows were asked for."""
    return lambda g_a, g_b, *, seed, width=None, n_permutations=999: original(
        g_a, g_b, seed=seed, n_permutations=n_permutations
    )
