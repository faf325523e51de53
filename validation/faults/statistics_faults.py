"""Faults of the statistics: what is permuted, what counts, how errors are made, what is fitted again."""

import dataclasses
import functools

import numpy as np
from scipy import stats

from qkov.statistics import clusters, multiplicity, relabelings, slices

from .planting import STATISTICS_FAULTS, fault


def statistics(target, *, expected):
    """Register a fault of the statistics; ``expected`` without the "statistics: " of its check."""
    return fault(
        f"statistics.{target}", area="statistics", expected=f"statistics: {expected}", case="statistics",
        registry=STATISTICS_FAULTS,
    )  # fmt: skip


def replacing(**changes):
    """Return a wrong function that changes fields of a right result, each by ``change(result)``."""

    def wrong(original):
        @functools.wraps(original)
        def function(*arguments, **options):
            found = original(*arguments, **options)
            return dataclasses.replace(found, **{name: change(found) for name, change in changes.items()})

        return function

    return wrong


# --- what everything is computed from


@statistics("slices.sensitivities", expected="lifts")
def half_of_the_samples_in_fisher(_original):
    """F is fitted to the first half of the samples."""

    def sensitivities(*groups):
        squares = [np.square(slices.unit(group)) for group in groups]
        every = np.concatenate(squares)
        return [square / slices.damped(every[: len(every) // 2].mean(0)) for square in squares]

    return sensitivities


@statistics("slices.sensitivities", expected="order of the tasks")
def fisher_of_task_a_only(original):
    """With two tasks, F is that of the first one: it knows which samples are called A."""

    def sensitivities(*groups):
        squares = [np.square(slices.unit(group)) for group in groups]
        return [square / slices.damped(squares[0].mean(0)) for square in squares]

    return sensitivities


@statistics("slices.unit", expected="lifts")
def scaled_to_sum_one(_original):
    """Gradients are divided by the sum of their magnitudes instead of their length."""
    return lambda grads: grads / np.maximum(np.abs(grads).sum(1, keepdims=True), 1e-300)


@statistics("slices.unit", expected="rescaled samples")
def samples_not_scaled(_original):
    """Samples keep their length, and a loud one decides."""
    return lambda grads: grads


@statistics("slices.unit", expected="rescaled samples")
def squares_leave_the_range(_original):
    """Lengths are taken of squares as they are, which vanish or overflow for very small and very large gradients."""

    def unit(grads):
        with np.errstate(over="ignore"):
            norm = np.sqrt(np.square(grads).sum(1, keepdims=True))
        return grads / np.where(norm > 0, norm, 1.0)

    return unit


@statistics("slices.log_lifts", expected="lifts")
def lift_without_its_size(original):
    """The number of parameters is left out of the lift, so that 1 is no longer an even share."""
    return lambda sources, target: original(sources, target) - np.log(sources.shape[1])


@statistics("slices.damped", expected="relative damping")
def damped_absolutely(_original):
    """The damping is a constant, whatever the unit of the gradients."""
    return lambda fisher: fisher + 1e-3


@statistics("slices.damped", expected="relative damping")
def floor_under_fisher(original):
    """F has a floor that only very small gradients reach."""
    return lambda fisher: original(fisher) + 1e-40


@statistics("slices.damped", expected="relative damping")
def ridge_a_hundred_times_larger(original):
    """The damping is a hundred times what is documented."""
    return lambda fisher: original(fisher) + 99 * slices.RELATIVE_RIDGE * fisher.mean(-1, keepdims=True)


@statistics("slices.log", expected="samples without a gradient")
def logarithm_of_nothing_is_small(_original):
    """A score of 0 has a large negative logarithm instead of none."""
    return lambda scores: np.log(np.maximum(np.nan_to_num(scores), 1e-300))


@statistics("slices.pair_scores", expected="pair scores")
def source_and_target_exchanged(original):
    """Scores of pairs are transposed."""
    return lambda grads: original(grads).T


@statistics("slices.pair_scores", expected="pair scores")
def signs_of_the_target_kept(_original):
    """A pair's score keeps the signs of the second sample."""

    def pair_scores(grads):
        (u,) = slices.sensitivities(grads)
        return u @ slices.unit(grads).T / grads.shape[1]

    return pair_scores


# --- units


@statistics("clusters.Clusters.means", expected="clusters")
def cluster_is_its_first_sample(_original):
    """The mean of a cluster is its first sample."""
    return lambda self, values: np.array([values[self.codes == code][0] for code in range(self.number)])


@statistics("clusters.read_clusters", expected="clusters")
def clusters_in_alphabetical_order(original):
    """Clusters are numbered by their labels and not as they come."""

    def read_clusters(labels, num_samples, name, *, minimum=2):
        found = original(labels, num_samples, name, minimum=minimum)
        if found.labels is None:
            return found
        order = sorted(range(len(found.labels)), key=lambda one: str(found.labels[one]))
        return clusters.Clusters(np.argsort(order)[found.codes], tuple(found.labels[one] for one in order))

    return read_clusters


@statistics("clusters.read_clusters", expected="clusters")
def labels_of_other_clusters(original):
    """Names of clusters are sorted and their numbers are not, so that a number stands for another name."""

    def read_clusters(labels, num_samples, name, *, minimum=2):
        found = original(labels, num_samples, name, minimum=minimum)
        return found if found.labels is None else clusters.Clusters(found.codes, tuple(sorted(found.labels, key=str)))

    return read_clusters


@statistics("clusters.Clusters.sums", expected="scores without a cluster")
def sums_of_clusters_are_means(original):
    """Sums over a cluster are means, so that large clusters weigh too little."""
    return lambda self, values: original(self, values) / self.sizes.reshape(-1, *[1] * (values.ndim - 1))


@statistics("source.read_clusters", expected="source test")
def samples_permuted_not_clusters(_original):
    """Clusters of the source test are read and then ignored."""
    return _each_its_own


@statistics("exchange.read_clusters", expected="exchange test")
def pairs_of_samples_permuted(_original):
    """Clusters of the exchange test are read and then ignored."""
    return _each_its_own


def _each_its_own(labels, num_samples, name, *, minimum=2):
    return clusters.Clusters(np.arange(num_samples), tuple((name, one) for one in range(num_samples)))


@statistics("exchange.require_disjoint", expected="tasks of different clusters")
def cluster_in_both_tasks(_original):
    """A cluster may have samples in both tasks, and an exchange tears it apart."""
    return lambda *_: None


# --- relabelings


@statistics("relabelings._random", expected="relabelings")
def coin_for_every_cluster(_original):
    """Every cluster is called first or second by itself, and the numbers of clusters are not kept."""
    return lambda num_first, total, number, seed, stream=0: (
        relabelings.raw_words(number, total, seed, stream) % np.uint64(2) == 0
    )


@statistics("relabelings.draw", expected="relabelings")
def given_labelling_listed_again(original):
    """Where all relabelings are listed, the given one is among them and counts twice."""

    def draw(num_first, num_second, number, seed):
        found = original(num_first, num_second, number, seed)
        given = np.arange(num_first + num_second)[None] < num_first
        return dataclasses.replace(found, first=np.concatenate([given, found.first])) if found.exhaustive else found

    return draw


@statistics("relabelings.draw", expected="relabelings")
def seed_ignored_by_draws(original):
    """Relabelings that are drawn are the same for every seed; those that are listed are right."""
    return lambda num_first, num_second, number, seed: original(num_first, num_second, number, 0)


@statistics("exchange.SCALE_DRAWS", expected="scale of the exchange test")
def scale_of_few_draws(_original):
    """The scale of the exchange test is that of 64 relabelings."""
    return 64


@statistics("relabelings.draw_apart", expected="scale of the exchange test")
def scaled_by_the_relabelings_of_the_test(_original):
    """The scale of the exchange test comes from the very relabelings that it is compared with."""
    return lambda num_first, num_second, number, seed: relabelings._random(
        num_first, num_first + num_second, number, seed
    )


@statistics("relabelings.raw_words", expected="words of the generator")
def seed_ignored(_original):
    """Every seed gives the same relabelings."""
    return lambda rows, columns, seed, stream: np.random.Philox(key=1).random_raw(rows * columns).reshape(rows, columns)


@statistics("relabelings.raw_words", expected="words of the generator")
def purposes_share_words(original):
    """Relabelings, splits and draws of one seed are made of the same random words."""
    return lambda rows, columns, seed, stream: original(rows, columns, seed, 0)


@statistics("relabelings.raw_words", expected="words of the generator")
def seed_through_float64(_original):
    """Seeds of more than 53 bits lose digits."""
    return lambda rows, columns, seed, stream: (
        np.random.Philox(key=(stream << 64) + int(float(seed))).random_raw(rows * columns).reshape(rows, columns)
    )


@statistics("relabelings.default_number", expected="number of relabelings")
def always_as_many_relabelings(_original):
    """The default does not grow with the number of slices, and nothing can be rejected among many."""
    return lambda num_slices: relabelings.DEFAULT


# --- p values


@statistics("multiplicity.reaches", expected="ties")
def ties_do_not_count(_original):
    """Only larger statistics count against the null, not equal ones."""
    return lambda values, observed, *, unit=0.0: values > observed + 1e-9


@statistics("multiplicity.reaches", expected="ties")
def rounding_decides_ties(_original):
    """Equal statistics tie or not as rounding has it."""
    return lambda values, observed, *, unit=0.0: values >= observed


@statistics("multiplicity.reaches", expected="ties")
def ties_relative_only(original):
    """Statistics that are 0 but for rounding do not tie."""
    return lambda values, observed, *, unit=0.0: original(values, observed)


@statistics("multiplicity.permutation_p", expected="permutation p")
def nothing_to_test_has_a_p(original):
    """A slice without a statistic has a p value of 1 over P instead of none."""
    return lambda observed, null: np.nan_to_num(original(observed, null), nan=1 / (1 + len(null)))


@statistics("multiplicity.permutation_p", expected="permutation p")
def given_labelling_forgotten(_original):
    """p is a count over P and may be 0."""
    return lambda observed, null: np.array(
        [multiplicity.exceedances(null[:, one], value) / len(null) for one, value in enumerate(observed)]
    )


@statistics("multiplicity.step_down", expected="step-down")
def largest_of_all_slices(_original):
    """Max-T in a single step: every slice is compared with the largest of all."""

    def step_down(observed, null):
        largest = null[:, ~np.isnan(observed)].max(1)
        return np.array([(1 + multiplicity.exceedances(largest, value)) / (1 + len(null)) for value in observed])

    return step_down


@statistics("multiplicity.step_down", expected="step-down")
def steps_not_monotone(_original):
    """Step-down without the running maximum: a smaller statistic may have a smaller p."""

    def step_down(observed, null):
        order = np.argsort(-observed)
        p = np.empty(len(observed))
        for place, one in enumerate(order):
            largest = null[:, order[place:]].max(1)
            p[one] = (1 + multiplicity.exceedances(largest, observed[one])) / (1 + len(null))
        return p

    return step_down


@statistics("multiplicity.adjust", expected="many hypotheses")
def q_is_p(_original):
    """Adjusted p values are not adjusted."""
    return lambda p, method="fdr_bh": np.asarray(p, dtype=float)


@statistics("multiplicity._holm", expected="many hypotheses")
def holm_in_one_step(_original):
    """Holm's method multiplies every p by the number of hypotheses, as Bonferroni's does."""
    return lambda p: np.minimum(p * len(p), 1)


@statistics("head_result.assemble", expected="false discovery rate of a test")
def q_is_family_wise(original):
    """The q values of a test are its family-wise p values."""
    return replacing(q_bh=lambda found: found.p_maxt)(original)


@statistics("head_result.smallest_p", expected="smallest p")
def mirror_forgotten(_original):
    """The smallest p of a symmetric statistic forgets that both tasks may change names."""
    return lambda drawn, *, symmetric: 1 / (1 + len(drawn.first))


@statistics("head_result.smallest_p", expected="smallest p")
def mirror_where_none_is_drawn(_original):
    """The mirror of the given labelling is counted even where relabelings are drawn and it need not be among them."""
    return lambda drawn, *, symmetric: (1 + symmetric) / (1 + len(drawn.first))


@statistics("head_result.directed", expected="source test")
def one_sided_always(_original):
    """Large values speak against the null whatever the alternative."""
    return lambda values, alternative: values


# --- tests of slices


@statistics("source.welch", expected="Welch's t")
def variances_pooled(_original):
    """Student's t: one variance for both sides."""

    def welch(values, first):
        found = []
        for row in first.astype(bool):
            one, other = values[row], values[~row]
            spread = one.var(0, ddof=1) * (len(one) - 1) + other.var(0, ddof=1) * (len(other) - 1)
            error = spread / (len(values) - 2) * (1 / len(one) + 1 / len(other))
            found.append((one.mean(0) - other.mean(0)) / np.sqrt(np.maximum(error, 1e-12)))
        return np.array(found)

    return welch


@statistics("source.welch", expected="Welch's t")
def variances_of_the_population(_original):
    """Variances divide by n instead of n - 1, and t is too large."""

    def welch(values, first):
        first = first.astype(bool)
        error = [values[row].var(0) / row.sum() + values[~row].var(0) / (~row).sum() for row in first]
        gap = [values[row].mean(0) - values[~row].mean(0) for row in first]
        return np.array(gap) / np.sqrt(np.maximum(error, 1e-12))

    return welch


@statistics("pair_forms._rounded", expected="sums over pairs")
def sums_in_float32(_original):
    """Scores are added up as they are, in float32: sums depend on their order."""
    return lambda values: (np.float64(np.float32(values)), 1.0)


@statistics("pair_forms._rounded", expected="sums over pairs")
def grid_of_eight_bits(_original):
    """Scores are rounded to eight bits."""

    def rounded(values):
        step = np.abs(values).max() / 256
        return (np.rint(values / step), float(step)) if step else (np.zeros_like(values), 0.0)

    return rounded


@statistics("pair_forms.Labellings.of", expected="sums over pairs")
def pairs_within_clusters_counted(original):
    """Pairs of samples of one cluster are counted, though their scores are left out."""

    def of(cls, first, sizes):
        found, in_a = original.__func__(cls, first, sizes), first @ np.asarray(sizes, dtype=float)
        return dataclasses.replace(found, pairs_aa=in_a**2, pairs_bb=(np.sum(sizes) - in_a) ** 2)

    return classmethod(of)


@statistics("exchange.effect", expected="exchange test")
def likeness_in_one_direction(original):
    """The effect averages A against B only, not B against A."""

    def effect(pairs, codes, num_a, statistic):
        one_way = pairs.copy()
        one_way[num_a:, :num_a] = pairs[:num_a, num_a:].T
        return original(one_way if statistic == "sym" else pairs, codes, num_a, statistic)

    return effect


@statistics("test_layers", expected="tests of layers")
def signs_cancel_in_a_layer(original):
    """Heads of a layer that lean either way cancel in a two-sided test."""

    def test_layers(head_test, layer_of_slice):
        greater = head_test.alternative == "two-sided"
        return original(dataclasses.replace(head_test, alternative="greater") if greater else head_test, layer_of_slice)

    return test_layers


@statistics("cluster_mass.components", expected="stretches of layers")
def layers_apart_are_joined(original):
    """Layers above the threshold are joined though others lie between them."""
    return lambda values, of_slice, threshold: original(
        values, np.unique(of_slice, return_inverse=True)[1].reshape(of_slice.shape), threshold
    )


@statistics("cluster_mass.components", expected="stretches of layers")
def mass_is_a_count(original):
    """The mass of a stretch is how many slices it holds."""
    return lambda values, of_slice, threshold: original(
        np.where(values > threshold, threshold + 1.0, 0.0), of_slice, threshold
    )


# --- scores with errors


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


# --- sizes of effects, maps, single samples


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
