"""Wrong implementations of the statistics, each with a test that must fail on it."""

import numpy as np
import pytest

from qkov.statistics import (
    cluster_mass,
    clusters,
    exchange,
    head_result,
    intervals,
    jackknife,
    layer_result,
    map_reliability,
    multiplicity,
    pair_forms,
    relabelings,
    slices,
    source,
    splits,
)
from tests import test_statistics_cluster_mass as of_cluster_mass
from tests import test_statistics_clusters as of_clusters
from tests import test_statistics_effects as of_effects
from tests import test_statistics_exchange as of_exchange
from tests import test_statistics_golden as of_golden
from tests import test_statistics_head_result as of_head_result
from tests import test_statistics_intervals as of_intervals
from tests import test_statistics_jackknife as of_jackknife
from tests import test_statistics_layer_result as of_layer_result
from tests import test_statistics_map_reliability as of_map_reliability
from tests import test_statistics_multiplicity as of_multiplicity
from tests import test_statistics_pair_forms as of_pair_forms
from tests import test_statistics_relabelings as of_relabelings
from tests import test_statistics_slices as of_slices
from tests import test_statistics_source as of_source
from tests import test_statistics_splits as of_splits


def larger_only(values, observed, *, unit=0.0):
    """Ties do not count against the null."""
    return values > observed + 1e-9


def exactly_reaches(values, observed, *, unit=0.0):
    """Rounding decides whether equal statistics tie."""
    return values >= observed


def without_the_given_labelling(observed, null):
    """p = count / P, which may be 0."""
    return np.array([multiplicity.exceedances(null[:, one], value) / len(null) for one, value in enumerate(observed)])


def single_step(observed, null):
    """Every slice against the largest of all slices."""
    known = ~np.isnan(observed)
    largest = null[:, known].max(1)
    return np.array([(1 + multiplicity.exceedances(largest, value)) / (1 + len(null)) for value in observed])


def not_monotone(observed, null):
    """Step-down without the running maximum."""
    order = np.argsort(-observed)
    p = np.empty(len(observed))
    for place, one in enumerate(order):
        largest = null[:, order[place:]].max(1)
        p[one] = (1 + multiplicity.exceedances(largest, observed[one])) / (1 + len(null))
    return p


def not_adjusted(p, method="fdr_bh"):
    return np.asarray(p)


def fisher_of_the_first(*groups):
    """F from A only."""
    squares = [np.square(slices.unit(group)) for group in groups]
    first = squares[0] if len(squares) > 1 else squares[0][: len(squares[0]) // 2]
    return [square / slices.damped(first.mean(0)) for square in squares]


def absolute_damping(fisher):
    return fisher + 1e-3


def not_normalised(grads):
    return grads


def not_fitted_again(one_a, one_b, a, b, estimand):
    """Scores without a cluster, but with the F that was fitted with it."""
    u, _ = slices.sensitivities(one_a, one_b)
    v = np.abs(slices.unit(one_b))
    all_a, all_b = np.ones(len(u), dtype=bool), np.ones(len(v), dtype=bool)
    rows = [
        (all_a, all_b),
        *((a.codes != code, all_b) for code in range(a.number)),
        *((all_a, b.codes != code) for code in range(b.number)),
    ]
    means = [(u[one].mean(0), v[other].mean(0)) for one, other in rows]
    return np.log([len(x) * (x @ y) / (x.sum() * y.sum()) for x, y in means])


def samples_as_units(labels, num_samples, name, *, minimum=2):
    """Clusters are read and then ignored."""
    return clusters.Clusters(np.arange(num_samples), tuple((name, one) for one in range(num_samples)))


def without_replacement_of_names(first, second, first_name, second_name):
    """A cluster may lie in both tasks."""


def coin_flips(num_first, total, number, seed, stream=0):
    """Every cluster on either side by itself: the numbers of clusters are not kept."""
    return relabelings.raw_words(number, total, seed, stream) % np.uint64(2) == 0


def fixed_words(rows, columns, seed, stream):
    """The seed is ignored."""
    return np.random.Philox(key=1).random_raw(rows * columns).reshape(rows, columns)


def words_of_a_list(rows, columns, seed, stream):
    """Seeds above 2**63 pass through float64."""
    return np.random.Philox(key=[seed % 2**64, stream]).random_raw(rows * columns).reshape(rows, columns)


def pooled_t(values, first):
    """Student's t: one variance for both sides."""
    found = []
    for row in first:
        one, other = values[row], values[~row]
        spread = (one.var(0, ddof=1) * (len(one) - 1) + other.var(0, ddof=1) * (len(other) - 1)) / (len(values) - 2)
        found.append((one.mean(0) - other.mean(0)) / np.sqrt(spread * (1 / len(one) + 1 / len(other))))
    return np.array(found)


def rounding_as_error(values, first):
    """A side without spread is left to rounding."""
    first = first.astype(float)
    count, others = first.sum(1)[:, None], (1 - first).sum(1)[:, None]
    means = first @ values / count, (1 - first) @ values / others
    squares = first @ values**2 / count, (1 - first) @ values**2 / others
    error = sum((s - m**2) / (n - 1) for s, m, n in zip(squares, means, (count, others), strict=True))
    return (means[0] - means[1]) / np.sqrt(np.maximum(error, 1e-24))


def means_of_samples(self, values):
    """Clusters count by their size: the first sample stands for its cluster."""
    return np.array([values[self.codes == code][0] for code in range(self.number)])


def unrounded(values):
    """Sums of whatever the scores are, in float32."""
    return np.float64(np.float32(values)), 1.0


def coarse(values):
    """A grid of eight bits."""
    step = np.abs(values).max() / 256
    return (np.rint(values / step), float(step)) if step else (np.zeros_like(values), 0.0)


def one_for_both(relabelings, *, symmetric):
    """The mirror of the given labelling is forgotten."""
    return 1 / (1 + len(relabelings.first))


def undirected(values, alternative):
    return values


def all_layers_joined(statistics, of_slice, threshold):
    """One cluster of whatever is above the threshold."""
    above = np.where(statistics > threshold, statistics, 0.0)
    rows = np.arange(len(above))
    return np.repeat(rows[:, None], len(np.unique(of_slice)), axis=1), above.sum(1)


def not_stepped_up(r):
    return r


def same_for_both_sides(count, draws, seed, stream):
    """The same clusters are drawn on both sides."""
    return RESAMPLED(count, draws, seed, 2)


RESAMPLED, DRAW_HALVES = intervals._resampled, splits.draw_halves


def first_half_always(num_clusters, number, seed, stream):
    return np.tile(np.arange(num_clusters) < num_clusters // 2, (number, 1))


def not_weighted_by_degrees(self):
    """The fewest degrees of freedom instead of Satterthwaite's."""
    variance = sum(
        np.square(side - side.mean(0)).sum(0) * (1 - 1 / len(side)) for side in (self.without_a, self.without_b)
    )
    return variance, np.full(variance.shape, float(min(len(self.without_a), len(self.without_b)) - 1))


def no_bias(full, *sides):
    return full


FAULTS = {
    "counts > instead of >=": (multiplicity, "reaches", larger_only, of_multiplicity.test_ties_count),
    "counts > instead of >=, seen against SciPy": (
        multiplicity,
        "reaches",
        larger_only,
        lambda: of_exchange.test_p_equals_the_exact_permutation_test_of_scipy("sym"),
    ),
    "lets rounding decide ties": (
        multiplicity,
        "reaches",
        exactly_reaches,
        of_multiplicity.test_statistics_that_are_zero_but_for_rounding_tie,
    ),
    "forgets the given labelling": (
        multiplicity,
        "permutation_p",
        without_the_given_labelling,
        of_multiplicity.test_given_labelling_counts_among_the_relabelings,
    ),
    "forgets the given labelling, seen against SciPy": (
        multiplicity,
        "permutation_p",
        without_the_given_labelling,
        lambda: of_source.test_p_equals_the_exact_permutation_test_of_scipy("greater"),
    ),
    "single-step max-T": (multiplicity, "step_down", single_step, of_multiplicity.test_step_down_by_hand),
    "step-down that is not monotone": (multiplicity, "step_down", not_monotone, of_multiplicity.test_step_down_by_hand),
    "q values that are p values": (
        multiplicity,
        "adjust",
        not_adjusted,
        of_source.test_null_holds_the_statistic_of_every_relabeling,
    ),
    "F from A only": (
        slices,
        "sensitivities",
        fisher_of_the_first,
        of_slices.test_fisher_does_not_know_which_samples_are_called_a,
    ),
    "F from A only, seen in the lifts": (
        slices,
        "sensitivities",
        fisher_of_the_first,
        of_slices.test_lifts_equal_the_loop,
    ),
    "F from A only, seen when tasks swap": (
        slices,
        "sensitivities",
        fisher_of_the_first,
        of_exchange.test_swapping_both_tasks_keeps_sym_and_negates_asym,
    ),
    "damping that is not relative": (slices, "damped", absolute_damping, of_slices.test_damping_is_relative),
    "samples that are not normalised": (
        slices,
        "unit",
        not_normalised,
        of_slices.test_lift_does_not_move_when_a_sample_is_rescaled,
    ),
    "permutes samples instead of clusters": (
        source,
        "read_clusters",
        samples_as_units,
        of_source.test_statistic_and_effect_are_those_of_cluster_means,
    ),
    "permutes samples of both tasks": (
        exchange,
        "read_clusters",
        samples_as_units,
        lambda: of_exchange.test_gradients_become_pairs_slice_by_slice("sym"),
    ),
    "a cluster stands in both tasks": (
        of_clusters,
        "require_disjoint",
        without_replacement_of_names,
        of_clusters.test_cluster_in_both_tasks_is_refused,
    ),
    "a cluster is its first sample": (
        clusters.Clusters,
        "means",
        means_of_samples,
        of_source.test_statistic_and_effect_are_those_of_cluster_means,
    ),
    "relabelings that do not keep the numbers": (
        relabelings,
        "_random",
        coin_flips,
        of_relabelings.test_relabelings_keep_the_numbers_of_clusters,
    ),
    "relabelings that ignore the seed": (
        relabelings,
        "raw_words",
        fixed_words,
        lambda: of_relabelings.test_seeds_give_different_relabelings((0, 1)),
    ),
    "seeds that pass through float64": (
        relabelings,
        "raw_words",
        words_of_a_list,
        lambda: of_relabelings.test_words_are_those_of_the_published_generator(seed=2**63 + 1, stream=1),
    ),
    "relabelings of another generator": (
        relabelings,
        "raw_words",
        fixed_words,
        of_relabelings.test_words_of_a_relabeling_never_change,
    ),
    "other relabelings, seen in the decisions": (
        relabelings,
        "raw_words",
        fixed_words,
        lambda: of_golden.test_decisions_never_change("source, greater, uneven"),
    ),
    "Student's t instead of Welch's": (
        source,
        "welch",
        pooled_t,
        of_source.test_statistic_and_effect_are_those_of_cluster_means,
    ),
    "an error that is rounding": (
        source,
        "welch",
        rounding_as_error,
        of_source.test_sides_without_any_spread_tie_with_themselves,
    ),
    "sums that are not exact": (
        pair_forms,
        "_rounded",
        unrounded,
        lambda: of_pair_forms.test_all_labellings_equal_the_loop_bit_by_bit((1, 4, 2, 3, 1, 2)),
    ),
    "a grid too coarse": (
        pair_forms,
        "_rounded",
        coarse,
        lambda: of_pair_forms.test_rounding_is_far_below_the_statistic((2, 2, 2, 2)),
    ),
    "smallest p without the mirror": (
        head_result,
        "smallest_p",
        one_for_both,
        lambda: of_head_result.test_smallest_p_of_a_symmetric_statistic_counts_its_mirror(3, 3),
    ),
    "one-sided p of a two-sided test": (
        head_result,
        "directed",
        undirected,
        lambda: of_source.test_p_equals_the_exact_permutation_test_of_scipy("less"),
    ),
    "layers in which signs cancel": (
        layer_result.head_result,
        "directed",
        undirected,
        of_layer_result.test_opposite_slices_do_not_cancel_where_both_signs_count,
    ),
    "clusters over layers that do not follow each other": (
        cluster_mass,
        "components",
        all_layers_joined,
        of_cluster_mass.test_layers_that_do_not_follow_each_other_are_not_joined,
    ),
    "F is not fitted again": (
        jackknife,
        "leave_out_slice",
        not_fitted_again,
        lambda: of_jackknife.test_scores_left_out_equal_those_from_raw_gradients_with_f_fitted_again(
            "lift", (of_jackknife.LABELS_A, of_jackknife.LABELS_B)
        ),
    ),
    "F is not fitted again, seen in the interval": (
        jackknife,
        "leave_out_slice",
        not_fitted_again,
        lambda: of_intervals.test_jackknife_interval_is_its_formula("lift", 0.95),
    ),
    "bias is not corrected": (
        jackknife,
        "_corrected",
        no_bias,
        of_jackknife.test_bias_of_a_population_variance_is_removed_exactly,
    ),
    "degrees of freedom of the smaller side": (
        jackknife.LeftOut,
        "error",
        not_weighted_by_degrees,
        of_jackknife.test_degrees_of_freedom_are_satterthwaites,
    ),
    "both sides drawn alike": (
        intervals,
        "_resampled",
        same_for_both_sides,
        lambda: of_intervals.test_pigeonhole_equals_a_literal_double_resampling("lift"),
    ),
    "reliability of half of the data": (
        splits,
        "stepped_up",
        not_stepped_up,
        lambda: of_splits.test_stepped_up_reliability_is_that_of_the_whole(2.0),
    ),
    "reliability of a map of half of the data": (
        map_reliability.splits,
        "stepped_up",
        not_stepped_up,
        lambda: of_map_reliability.test_reliability_and_validity_equal_maps_from_raw_gradients("lift"),
    ),
    "a ceiling of half of the data": (
        splits,
        "stepped_up",
        not_stepped_up,
        of_effects.test_ceiling_is_the_geometric_mean_of_both_reliabilities,
    ),
    "halves that are always the same": (
        splits,
        "draw_halves",
        first_half_always,
        of_splits.test_every_cluster_is_as_often_in_the_first_half,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_wrong_implementation_is_caught(name, monkeypatch):
    place, attribute, wrong, test = FAULTS[name]
    test()  # passes as it is
    monkeypatch.setattr(place, attribute, wrong)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test()
