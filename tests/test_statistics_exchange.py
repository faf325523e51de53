"""The test of two tasks against loops over pairs of samples, also with unbalanced clusters."""

import numpy as np
import pytest
import scipy.stats

from qkov.errors import NonFiniteError, OptionError, ShapeError, StatisticsError, StatisticsWarning
from qkov.statistics import exchange, pair_forms, relabelings, slices, test_exchange
from tests.statistics_cases import gradients, of_sizes, quietly, whole_scores
from validation import statistics_loops as loops

LABELS_A, LABELS_B = list("aabbbcd"), list("vwwyyyyz")
STATISTICS = ("sym", "asym")


def run(g_a, g_b, clusters_a=LABELS_A, clusters_b=LABELS_B, n_permutations=60, seed=5, **options):
    return quietly(
        test_exchange, g_a, g_b, clusters_a=clusters_a, clusters_b=clusters_b, n_permutations=n_permutations, seed=seed,
        **options,
    )  # fmt: skip


def codes_of(*labels):
    flat = [label for one in labels for label in one]
    return [list(dict.fromkeys(flat)).index(label) for label in flat]


def by_loops(pairs, codes, num_a, first, apart, statistic):
    """Observed statistic and null of one slice, scaled by labellings drawn apart, all in loops."""
    form = {"sym": loops.symmetric_on_grid, "asym": loops.leaning_on_grid}[statistic]
    given = np.arange(max(codes) + 1) < num_a
    values = np.array([form(pairs, codes, row) for row in apart])
    centre = values.mean() if statistic == "sym" else 0.0
    scale = np.sqrt(((values - centre) ** 2).mean())
    return (form(pairs, codes, given) - centre) / scale, [(form(pairs, codes, row) - centre) / scale for row in first]


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("sizes", [((1, 1, 1), (1, 1, 1, 1)), ((2, 2, 2), (2, 2, 2)), ((4, 1, 2), (1, 3, 2, 1))])
def test_statistic_and_null_equal_the_loop_bit_by_bit(statistic, sizes):
    a, b = (of_sizes(one) for one in sizes)
    codes = [*a.codes.tolist(), *(a.number + b.codes).tolist()]
    pairs = whole_scores(1, len(codes), len(codes)) / 256.0 + 10
    test = exchange.Exchange(1, a, b, statistic=statistic, n_permutations=15, seed=9)
    test.add(pairs)
    found = quietly(test.result)
    drawn = relabelings.draw(a.number, b.number, 15, 9)
    apart = relabelings.draw_apart(a.number, b.number, exchange.SCALE_DRAWS, 9)
    observed, null = by_loops(pairs, codes, a.number, drawn.first, apart, statistic)
    assert found.statistic.tolist() == [observed]
    assert found.null[:, 0].tolist() == null


@pytest.mark.parametrize("statistic", STATISTICS)
def test_gradients_become_pairs_slice_by_slice(statistic):
    g_a, g_b = gradients(1, 7), gradients(2, 8)
    found = run(g_a, g_b, statistic=statistic, n_permutations=30)
    codes = codes_of(LABELS_A, LABELS_B)
    drawn = relabelings.draw(4, 4, 30, 5)
    apart = relabelings.draw_apart(4, 4, exchange.SCALE_DRAWS, 5)
    for one in range(3):
        pairs = loops.pair_scores(np.concatenate([g_a[:, one], g_b[:, one]]))
        observed, null = by_loops(pairs, codes, 4, drawn.first, apart, statistic)
        np.testing.assert_allclose([found.statistic[one], *found.null[:, one]], [observed, *null], atol=1e-4)
        means = loops.pair_means(pairs, codes, np.arange(8) < 4)
        expected = {
            "sym": np.log((means["AB"] + means["BA"]) / 2) - np.log(means["AA"] * means["BB"]) / 2,
            "asym": np.log(means["AB"] / means["BA"]),
        }[statistic]
        assert found.effect[one] == pytest.approx(expected, rel=1e-9)
    turned = (found.statistic, found.null) if statistic == "sym" else (np.abs(found.statistic), np.abs(found.null))
    assert found.p.tolist() == [loops.p_value(turned[0][one], turned[1][:, one]) for one in range(3)]
    np.testing.assert_array_equal(found.p_maxt, loops.step_down(*turned))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_p_equals_the_exact_permutation_test_of_scipy(statistic):
    g_a, g_b = gradients(3, 4), gradients(4, 4)
    g_b[:, 2, 0] *= 4
    found = run(g_a, g_b, "iid", "iid", statistic=statistic, n_permutations=100)
    assert found.n_permutations == 69
    for one in range(3):
        pairs = loops.pair_scores(np.concatenate([g_a[:, one], g_b[:, one]]))

        def form(x, y, pairs=pairs):
            means = loops.pair_means(pairs, range(8), [code in x for code in range(8)])
            if statistic == "asym":
                return means["AB"] - means["BA"]
            return means["AA"] + means["BB"] - means["AB"] - means["BA"]

        expected = scipy.stats.permutation_test(
            (np.arange(4), np.arange(4, 8)),
            form,
            alternative="greater" if statistic == "sym" else "two-sided",
            n_resamples=np.inf,
            vectorized=False,
        )
        assert found.p[one] == pytest.approx(expected.pvalue, abs=1e-12)


def test_swapping_both_tasks_keeps_sym_and_negates_asym():
    g_a, g_b = gradients(5, 4), gradients(6, 5)
    for statistic, sign in (("sym", 1), ("asym", -1)):
        found = run(g_a, g_b, "iid", "iid", n_permutations=200, statistic=statistic)
        swapped = run(g_b, g_a, "iid", "iid", n_permutations=200, statistic=statistic)
        np.testing.assert_allclose(found.statistic, sign * swapped.statistic, rtol=1e-5)
        np.testing.assert_allclose(found.effect, sign * swapped.effect, rtol=1e-9)
        np.testing.assert_array_equal(found.p, swapped.p)  # all relabelings: the same ones


def test_sign_of_asym_is_the_direction():
    # Drawn relabelings: no shift by their mean may turn a small difference around.
    pairs = np.abs(whole_scores(7, 24, 24)) + 5000.0
    pairs[:12, 12:] += 1.0
    test = exchange.Exchange(1, of_sizes([1] * 12), of_sizes([1] * 12), statistic="asym", n_permutations=99, seed=3)
    test.add(pairs)
    found = test.result()
    assert np.sign(found.statistic[0]) == np.sign(found.effect[0])
    assert found.statistic[0] == pytest.approx(difference(pairs, np.arange(24) < 12) / scale_of(pairs), rel=1e-4)


def difference(pairs, first):
    return pairs[first][:, ~first].mean() - pairs[~first][:, first].mean()


def scale_of(pairs):
    rows = relabelings.draw_apart(12, 12, exchange.SCALE_DRAWS, 3)
    return np.sqrt(np.mean([difference(pairs, row) ** 2 for row in rows]))


def test_scale_knows_nothing_of_the_given_labelling():
    # The same pairs under two labellings, all relabelings listed: the set of statistics is the same.
    pairs = whole_scores(8, 6, 6) / 8.0 + 50
    other = np.array([1, 3, 5, 0, 2, 4])
    found = []
    for order in (np.arange(6), other):
        test = exchange.Exchange(1, of_sizes([1] * 3), of_sizes([1] * 3), n_permutations=99, seed=1)
        test.add(pairs[np.ix_(order, order)])
        result = quietly(test.result)
        found.append(np.sort([*result.null[:, 0], result.statistic[0]]))
    np.testing.assert_allclose(*found, rtol=1e-12)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_order_within_and_of_clusters_changes_nothing(statistic):
    g_a, g_b = gradients(9, 7), gradients(10, 8)
    found = run(g_a, g_b, n_permutations=200, statistic=statistic)
    order = np.array([6, 3, 1, 5, 4, 0, 2])
    moved = run(
        g_a[order], g_b[::-1], [LABELS_A[one] for one in order], LABELS_B[::-1], n_permutations=200, statistic=statistic
    )
    for name in ("statistic", "effect", "p", "q_bh", "p_maxt"):
        np.testing.assert_allclose(getattr(moved, name), getattr(found, name), rtol=1e-4)


def test_lists_of_slices_give_the_same():
    g_a, g_b = gradients(11, 7), gradients(12, 8)
    found, listed = run(g_a, g_b), run(list(g_a.transpose(1, 0, 2)), list(g_b.transpose(1, 0, 2)))
    np.testing.assert_array_equal(found.null, listed.null)
    np.testing.assert_array_equal(found.statistic, listed.statistic)
    ragged = run([g_a[:, 0], g_a[:, 1, :2]], [g_b[:, 0], g_b[:, 1, :2]])
    np.testing.assert_array_equal(ragged.null[:, 0], found.null[:, 0])


def test_planted_difference_is_found_and_claims_no_interference():
    g_a, g_b = gradients(13, 16, planted=[1], factor=6.0), gradients(14, 16)
    found = test_exchange(g_a, g_b, clusters_a="iid", clusters_b="iid", n_permutations=999, seed=1)
    assert found.p_maxt[1] == found.min_p == 0.001
    assert (found.p_maxt[[0, 2]] > 0.05).all()
    assert found.effect[1] < 0  # across tasks less alike than within
    assert "not that one interferes" in found.claim
    assert found.null_statement == "A and B are identically distributed in the slice"
    assert found.unit == "samples, taken as independent"


def test_asym_finds_the_source():
    g_a, g_b = gradients(15, 20, 1, 8), gradients(16, 20, 1, 8)
    g_a[:, 0, :4] *= np.where(np.arange(20) % 2, 9.0, 0.1)[:, None]  # sensitive where B is, in half of its samples
    found = test_exchange(g_a, g_b, clusters_a="iid", clusters_b="iid", statistic="asym", n_permutations=499, seed=1)
    other = test_exchange(g_b, g_a, clusters_a="iid", clusters_b="iid", statistic="asym", n_permutations=499, seed=1)
    assert found.p[0] <= 0.01
    assert found.statistic[0] * other.statistic[0] < 0
    assert found.alternative == "two-sided"


def test_slice_without_gradient_is_not_tested_and_said_so():
    g_a, g_b = gradients(17, 10), gradients(18, 10)
    g_b[3, 0] = 0
    with pytest.warns(
        StatisticsWarning, match="1 of 3 slices are not tested: a sample has no gradient there"
    ) as caught:
        found = test_exchange(g_a, g_b, clusters_a="iid", clusters_b="iid", n_permutations=99, seed=0)
    for name in ("statistic", "effect", "p", "q_bh", "p_maxt"):
        assert np.isnan(getattr(found, name)).tolist() == [True, False, False], name
    assert caught[0].filename == __file__


@pytest.mark.parametrize("statistic", STATISTICS)
def test_slice_in_which_all_pairs_score_alike_is_not_tested(statistic):
    grads = np.ones((6, 1, 4)) * np.arange(1, 7)[:, None, None]
    found = run(grads, grads, "iid", "iid", statistic=statistic)
    assert np.isnan(found.statistic).all()


def test_tasks_that_share_no_parameter_have_no_effect_size_but_a_p_value():
    g_a, g_b = gradients(19, 8, 1, 6), gradients(20, 8, 1, 6)
    g_a[..., 3:], g_b[..., :3] = 0, 0
    found = run(g_a, g_b, "iid", "iid", n_permutations=199)
    assert np.isnan(found.effect).all()
    assert found.p[0] == found.min_p


def test_number_of_relabelings_has_a_default():
    found = test_exchange(gradients(21, 9), gradients(22, 9), clusters_a="iid", clusters_b="iid", seed=0)
    assert found.n_permutations == 9999


def test_slices_may_come_one_at_a_time():
    g_a, g_b = gradients(23, 7), gradients(24, 8)
    labels = (LABELS_A, LABELS_B)
    a, b = (exchange.read_clusters(one, len(one), "a task") for one in labels)
    test = exchange.Exchange(3, a, b, n_permutations=60, seed=5)
    for one in range(3):
        test.add(slices.pair_scores(np.concatenate([g_a[:, one], g_b[:, one]])))
    np.testing.assert_array_equal(quietly(test.result).null, run(g_a, g_b).null)


def test_form_is_made_once_for_all_labellings(monkeypatch):
    calls, made = [], pair_forms.PairForm.of.__func__
    monkeypatch.setattr(pair_forms.PairForm, "of", classmethod(lambda cls, *args: calls.append(1) or made(cls, *args)))
    run(gradients(25, 7), gradients(26, 8))
    assert len(calls) == 3


def test_without_labels_of_clusters_there_is_no_test():
    given = gradients(1, 7), gradients(2, 8)
    with pytest.raises(StatisticsError, match="clusters of task A are not known"):
        run(*given, clusters_a=None)
    with pytest.raises(StatisticsError, match="task B has 8 samples and 7 cluster labels; expected one each"):
        run(*given, clusters_b=LABELS_A)
    with pytest.raises(StatisticsError, match="1 clusters have samples in both task A and task B: 'a'"):
        run(*given, clusters_b=list("awwxyyyz"))
    with pytest.raises(StatisticsError, match="task B has 1 independent clusters; expected at least 2"):
        run(*given, clusters_b=["x"] * 8)


@pytest.mark.parametrize("sizes", [(3, 3), (3, 4)])
def test_result_says_what_was_relabelled_and_how_small_p_can_be(sizes):
    given = gradients(1, sizes[0]), gradients(2, sizes[1])
    found = run(*given, clusters_a="iid", clusters_b="iid", n_permutations=99)
    # All relabelings are there; with equal sides each has a mirror with the same statistic.
    assert found.min_p == pytest.approx((2 if sizes == (3, 3) else 1) / found.n_distinct)
    assert (found.seed, found.unit) == (5, "samples, taken as independent")
    for named in range(2):
        labels = ["iid", "iid"]
        labels[named] = list("uvwx")[: sizes[named]]
        assert run(*given, *labels).unit == "clusters"


@pytest.mark.parametrize("name", ["g_a", "g_b"])
def test_gradients_that_are_refused_are_named(name):
    given = {"g_a": gradients(1, 7), "g_b": gradients(2, 8)} | {name: np.ones((7, 5))}
    with pytest.raises(ShapeError, match=rf"^{name} has shape \(7, 5\)"):
        run(**given)


@pytest.mark.parametrize(("side", "name"), [("clusters_a", "task A"), ("clusters_b", "task B")])
def test_task_without_clusters_is_named(side, name):
    with pytest.raises(StatisticsError, match=f"^clusters of {name} are not known"):
        run(gradients(1, 7), gradients(2, 8), **{side: None})


@pytest.mark.parametrize("seed", [None, -3, True])
def test_seed_must_be_given(seed):
    with pytest.raises(StatisticsError, match=f"seed={seed}; expected a non-negative int"):
        run(gradients(1, 7), gradients(2, 8), seed=seed)


def test_other_options_are_refused():
    given = gradients(1, 7), gradients(2, 8)
    with pytest.raises(StatisticsError, match="n_permutations=0; expected a positive int"):
        run(*given, n_permutations=0)
    with pytest.raises(OptionError, match=r"^statistic='both' is not known; expected one of 'sym', 'asym'\.$"):
        run(*given, statistic="both")
    with pytest.raises(ShapeError, match="g_a 3, g_b 2 slices"):
        run(given[0], given[1][:, :2])
    given[0][0, 0, 0] = np.inf
    with pytest.raises(NonFiniteError, match="sample 0 of g_a"):
        run(*given)
