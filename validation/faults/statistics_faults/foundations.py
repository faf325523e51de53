"""Faults of what every test is computed from: scores, units, relabelings and p values."""

import dataclasses

import numpy as np

from qkov.statistics import clusters, multiplicity, relabelings, slices

from .registering import replacing, statistics


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


@statistics("multiplicity.step_down", expected="step-down")
def nothing_to_test_is_rejected(original):
    """A slice without a statistic has the smallest family-wise p instead of none."""
    return lambda observed, null: np.nan_to_num(original(observed, null), nan=1 / (1 + len(null)))


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
