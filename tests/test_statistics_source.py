"""The test against a reference task: Welch's t on cluster means of log lifts, compared with SciPy and loops."""

import numpy as np
import pytest
import scipy.stats

from qkov.errors import NonFiniteError, OptionError, ShapeError, StatisticsError, StatisticsWarning
from qkov.statistics import relabelings, source, test_source
from tests.statistics_cases import gradients, of_sizes, quietly, whole_scores
from validation import statistics_loops as loops

LABELS_A, LABELS_R = list("aabbbcd"), list("vwwxyyyz")


def tasks(seed=1, samples_a=7, samples_r=8, samples_b=6, **planted):
    return (
        gradients(seed, samples_a, **planted),
        gradients(seed + 1, samples_r),
        gradients(seed + 2, samples_b, **planted),
    )


def run(g_a, g_r, g_b, clusters_a=LABELS_A, clusters_r=LABELS_R, n_permutations=200, seed=5, **options):
    return quietly(
        test_source,
        g_a,
        g_r,
        g_b,
        clusters_a=clusters_a,
        clusters_r=clusters_r,
        n_permutations=n_permutations,
        seed=seed,
        **options,
    )


def cluster_means(g_a, g_r, g_b, one):
    lifts = loops.log_lifts(np.concatenate([g_a[:, one], g_r[:, one]]), g_b[:, one])
    labels = LABELS_A + LABELS_R
    means = {label: np.mean([x for x, other in zip(lifts, labels, strict=True) if other == label]) for label in labels}
    return [means[label] for label in dict.fromkeys(LABELS_A)], [means[label] for label in dict.fromkeys(LABELS_R)]


def test_statistic_and_effect_are_those_of_cluster_means():
    given = tasks()
    found = run(*given)
    for one in range(3):
        of_a, of_r = cluster_means(*given, one)
        assert found.statistic[one] == pytest.approx(scipy.stats.ttest_ind(of_a, of_r, equal_var=False)[0], rel=1e-9)
        assert found.effect[one] == pytest.approx(np.exp(np.mean(of_a) - np.mean(of_r)), rel=1e-10)


def test_null_holds_the_statistic_of_every_relabeling():
    given = tasks(4)
    found = run(*given, n_permutations=40)
    drawn = relabelings.draw(4, 5, 40, 5)
    for one in range(3):
        values = np.concatenate(cluster_means(*given, one))
        expected = [scipy.stats.ttest_ind(values[row], values[~row], equal_var=False)[0] for row in drawn.first]
        np.testing.assert_allclose(found.null[:, one], expected, rtol=1e-8)
    np.testing.assert_array_equal(found.p_maxt, loops.step_down(found.statistic, found.null))
    np.testing.assert_allclose(found.q_bh, scipy.stats.false_discovery_control(found.p))
    assert found.p.tolist() == [loops.p_value(found.statistic[one], found.null[:, one]) for one in range(3)]


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_p_equals_the_exact_permutation_test_of_scipy(alternative):
    given = tasks(7)
    found = run(*given, alternative=alternative)
    assert found.n_distinct == 126
    assert found.n_permutations == 125
    for one in range(3):
        expected = scipy.stats.permutation_test(
            cluster_means(*given, one),
            lambda x, y, axis: scipy.stats.ttest_ind(x, y, equal_var=False, axis=axis)[0],
            alternative=alternative,
            n_resamples=np.inf,
            vectorized=True,
        )
        # For "two-sided" SciPy doubles the smaller tail, which is another test unless both sides are of one size.
        tails = np.abs(expected.null_distribution) >= abs(expected.statistic) - 1e-10
        p = tails.mean() if alternative == "two-sided" else expected.pvalue
        assert found.p[one] == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_swapping_a_and_r_negates_the_statistic(alternative):
    # Whole numbers that add up exactly, so that the order of clusters leaves no rounding in the means.
    lifts = whole_scores(1, 8, 5, 60).astype(float)
    a, r = of_sizes([1, 1, 1]), of_sizes([1, 1, 1, 1, 1])
    opposite = {"greater": "less", "less": "greater", "two-sided": "two-sided"}[alternative]
    options = {"n_permutations": 99, "seed": 1}
    found = quietly(source.from_lifts, lifts, a, r, alternative=alternative, **options)
    swapped = quietly(source.from_lifts, np.roll(lifts, 5, axis=0), r, a, alternative=opposite, **options)
    np.testing.assert_allclose(found.statistic, -swapped.statistic, rtol=1e-13)
    np.testing.assert_allclose(found.effect, 1 / swapped.effect)
    np.testing.assert_array_equal(found.p, swapped.p)  # all relabelings: the same ones
    np.testing.assert_array_equal(found.p_maxt, swapped.p_maxt)


def test_welch_with_the_names_swapped_is_negated_exactly():
    values = whole_scores(2, 8, 4) / 1024.0
    first = relabelings.draw(4, 4, 69, 0).first
    np.testing.assert_allclose(source.welch(values, first), -source.welch(values, ~first), rtol=0, atol=1e-13)


def test_order_within_and_of_clusters_changes_nothing():
    g_a, g_r, g_b = tasks(8)
    found = run(g_a, g_r, g_b)
    order = np.array([6, 3, 1, 5, 4, 0, 2])
    moved = run(g_a[order], g_r[::-1], g_b[::-1], [LABELS_A[one] for one in order], LABELS_R[::-1])
    for name in ("statistic", "effect", "p", "q_bh", "p_maxt"):
        np.testing.assert_allclose(getattr(moved, name), getattr(found, name), rtol=1e-9)


def test_a_louder_sample_changes_nothing():
    given = tasks(9)
    found = run(*given)
    for group in range(3):
        louder = [grads.copy() for grads in given]
        louder[group][2] *= 1024.0
        np.testing.assert_array_equal(run(*louder).null, found.null)
        np.testing.assert_array_equal(run(*louder).statistic, found.statistic)


def test_lists_of_slices_give_the_same():
    given = tasks(10)
    found = run(*given)
    listed = run(*(list(grads.transpose(1, 0, 2)) for grads in given))
    np.testing.assert_array_equal(found.null, listed.null)
    np.testing.assert_array_equal(found.p, listed.p)


def test_planted_slice_is_found_in_its_direction():
    given = tasks(17, 16, 16, 16, planted=[1], factor=6.0)
    found = test_source(*given, clusters_a="iid", clusters_r="iid", n_permutations=999, seed=1)
    assert found.p_maxt[1] == found.min_p == 0.001
    assert (found.p_maxt[[0, 2]] > 0.05).all()
    assert found.effect[1] > 1.2
    assert found.unit == "samples, taken as independent"
    other = test_source(*given, clusters_a="iid", clusters_r="iid", n_permutations=999, seed=1, alternative="less")
    assert other.p[1] == 1.0
    assert "1 with q <= 0.05" in repr(found)
    assert found.warnings == ()


def test_result_says_what_it_speaks_against():
    found = run(*tasks())
    assert found.null_statement == "A and R are exchangeable as sources of what B changes"
    assert "more than those of R do" in found.claim
    assert found.effect_name == "ratio of geometric mean lifts, A to R"
    assert (found.unit, found.seed, found.alternative) == ("clusters", 5, "greater")


def test_number_of_relabelings_has_a_default():
    found = test_source(*tasks(12, 10, 10), clusters_a="iid", clusters_r="iid", seed=0)
    assert found.n_permutations == 9999
    assert found.n_distinct == 184756


def test_slice_without_gradient_is_not_tested_and_said_so():
    g_a, g_r, g_b = tasks(13, 10, 10)
    g_r[4, 1] = 0
    with pytest.warns(
        StatisticsWarning, match="1 of 3 slices are not tested: a sample has no gradient there"
    ) as caught:
        found = test_source(g_a, g_r, g_b, clusters_a="iid", clusters_r="iid", n_permutations=99, seed=0)
    for name in ("statistic", "effect", "p", "q_bh", "p_maxt"):
        assert np.isnan(getattr(found, name)).tolist() == [False, True, False], name
    assert found.warnings == tuple(str(one.message) for one in caught)
    assert caught[0].filename == __file__  # it points at who asked


def test_values_that_are_all_equal_are_not_tested():
    lifts = np.repeat([[0.1, 2.0]], 8, axis=0)
    lifts[3, 1] = 1.0
    found = quietly(
        source.from_lifts, lifts, of_sizes([1] * 4), of_sizes([1] * 4), n_permutations=99, seed=0, alternative="greater"
    )
    assert np.isnan(found.statistic).tolist() == [True, False]


def test_what_counts_as_equal_is_relative_to_the_size_of_the_values():
    step = np.arange(8.0)[:, None]
    first = np.tile(np.arange(8) < 4, (1, 1))
    # Rounding beside a million; ten times what could be rounding there; small steps beside nothing.
    values = np.column_stack([1e6 + 1e-8 * step, 1e6 + 1e-5 * step, 6e-13 * step])
    assert np.isnan(source.welch(values, first)[0]).tolist() == [True, False, False]


@pytest.mark.parametrize(("r", "alternative", "ties"), [(3, "two-sided", 2), (4, "two-sided", 1), (3, "greater", 1)])
def test_mirrored_labels_tie_where_both_signs_and_both_sizes_are_alike(r, alternative, ties):
    lifts = np.concatenate([np.full(3, 5.0), np.zeros(r)])[:, None] + np.arange(3.0 + r)[:, None] / 7
    sides = of_sizes([1] * 3), of_sizes([1] * r)
    found = quietly(source.from_lifts, lifts, *sides, n_permutations=99, seed=0, alternative=alternative)
    assert found.min_p == found.p[0] == pytest.approx(ties / found.n_distinct)


@pytest.mark.parametrize("named", [0, 1])
def test_clusters_are_relabelled_where_one_task_has_any(named):
    labels = ["iid", "iid"]
    labels[named] = (LABELS_A, LABELS_R)[named]
    found = quietly(test_source, *tasks(), clusters_a=labels[0], clusters_r=labels[1], n_permutations=20, seed=0)
    assert found.unit == "clusters"


def test_sides_without_any_spread_tie_with_themselves():
    # Perfect separation of values in ties: the error is 0 but for rounding, whose size must not decide.
    values = np.array([0.1, 0.1, 0.1, 0.7, 0.7, 0.7])[:, None] + [[0.0, 1 / 3, 1e5]]
    first = np.tile([[True] * 3 + [False] * 3, [False] * 3 + [True] * 3], (40, 1))
    found = source.welch(values, first)
    np.testing.assert_allclose(found[::2], 0 * found[::2] - 2 / np.sqrt(source.FLOOR), rtol=1e-6)
    np.testing.assert_allclose(found[::2], -found[1::2], rtol=1e-11)


def test_without_labels_of_clusters_there_is_no_test():
    given = tasks()
    with pytest.raises(StatisticsError, match="clusters of task A are not known"):
        run(*given, clusters_a=None)
    with pytest.raises(StatisticsError, match="clusters of the reference task are not known"):
        run(*given, clusters_r=[1, 2, None, 3, 4, 5, 6, 7])
    with pytest.raises(StatisticsError, match="1 clusters have samples in both task A and the reference task: 'a'"):
        run(*given, clusters_r=list("awwxyyyz"))
    with pytest.raises(StatisticsError, match="task A has 1 independent clusters; expected at least 2"):
        run(*given, clusters_a=[0] * 7)


@pytest.mark.parametrize("name", ["g_a", "g_r", "g_b"])
def test_gradients_that_are_refused_are_named(name):
    given = dict(zip(("g_a", "g_r", "g_b"), tasks(), strict=True)) | {name: np.ones((7, 5))}
    with pytest.raises(ShapeError, match=rf"^{name} has shape \(7, 5\)"):
        run(**given)


@pytest.mark.parametrize(("side", "name"), [("clusters_a", "task A"), ("clusters_r", "the reference task")])
def test_task_without_clusters_is_named(side, name):
    with pytest.raises(StatisticsError, match=f"^clusters of {name} are not known"):
        run(*tasks(), **{side: None})


@pytest.mark.parametrize("seed", [None, -3, True])
def test_seed_must_be_given(seed):
    with pytest.raises(StatisticsError, match=f"seed={seed}; expected a non-negative int"):
        run(*tasks(), seed=seed)


def test_seed_has_no_default():
    with pytest.raises(TypeError, match="seed"):
        test_source(*tasks(), clusters_a="iid", clusters_r="iid")


def test_other_options_are_refused():
    with pytest.raises(StatisticsError, match="n_permutations=0; expected a positive int"):
        run(*tasks(), n_permutations=0)
    with pytest.raises(OptionError, match=r"^alternative='larger' is not known; expected one of 'greater', 'less'"):
        run(*tasks(), alternative="larger")


def test_gradients_must_belong_together():
    g_a, g_r, g_b = tasks()
    with pytest.raises(ShapeError, match="g_a 3, g_r 2, g_b 3 slices"):
        run(g_a, g_r[:, :2], g_b)
    with pytest.raises(ShapeError, match="g_a 5, g_r 5, g_b 4 parameters"):
        run(g_a, g_r, g_b[:, :, :4])
    g_b[0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="sample 0 of g_b"):
        run(g_a, g_r, g_b)
