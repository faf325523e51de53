"""What a test reports beside its statistics: the smallest possible p, and warnings when nothing can be rejected."""

import warnings

import numpy as np
import pytest

from qkov.errors import StatisticsWarning
from qkov.statistics import exchange, head_result, relabelings, source
from tests.statistics_cases import of_sizes, quietly, whole_scores

WORDS = {"null_statement": "nothing", "claim": "something", "effect_name": "size", "unit": "clusters"}


def assembled(observed, null, drawn, **options):
    options = {"alternative": "greater", "symmetric": False, "seed": 3} | options
    observed = np.array(observed, dtype=float)
    return head_result.assemble(observed, observed, np.array(null, dtype=float), drawn, **options, **WORDS)


def relabelings_of(number, exhaustive=False):
    return relabelings.Relabelings(
        np.zeros((number, 4), dtype=bool), 10**6 if not exhaustive else number + 1, exhaustive
    )


@pytest.mark.parametrize(("a", "r"), [(2, 2), (2, 3), (3, 3), (4, 2)])
@pytest.mark.parametrize("alternative", head_result.ALTERNATIVES)
def test_smallest_p_of_the_source_test_is_reached_and_never_passed(a, r, alternative):
    # The strongest data there are: all of A far above all of R, or below.
    lifts = (np.arange(a + r) ** 2 / 1000 + 10 * (np.arange(a + r) >= a))[:, None] * (
        -1 if alternative == "greater" else 1
    )
    found = quietly(
        source.from_lifts,
        lifts,
        of_sizes([1] * a),
        of_sizes([1] * r),
        n_permutations=99,
        seed=0,
        alternative=alternative,
    )
    assert found.p[0] == pytest.approx(found.min_p)
    assert found.min_p == pytest.approx((2 if alternative == "two-sided" and a == r else 1) / found.n_distinct)


@pytest.mark.parametrize(("a", "b"), [(2, 2), (2, 3), (3, 3)])
def test_smallest_p_of_a_symmetric_statistic_counts_its_mirror(a, b):
    total = a + b
    is_a = np.arange(total) < a
    scores = np.where(is_a[:, None] == is_a[None], 5.0, 1.0) + np.abs(whole_scores(1, total, total, 9)) / 1000
    test = exchange.Exchange(1, of_sizes([1] * a), of_sizes([1] * b), n_permutations=99, seed=0)
    test.add(scores)
    found = quietly(test.result)
    assert found.p[0] == pytest.approx(found.min_p)
    assert found.min_p == pytest.approx((2 if a == b else 1) / found.n_distinct)


def test_drawn_relabelings_need_not_hold_the_mirror():
    assert head_result.smallest_p(relabelings_of(99), symmetric=True) == 0.01
    assert head_result.smallest_p(relabelings_of(99, exhaustive=True), symmetric=True) == 0.02


def test_warns_that_no_slice_can_reach_significance():
    with pytest.warns(StatisticsWarning, match=r"no slice can reach p <= 0\.05: .* is 0\.1; ask for more permutations"):
        assembled([1.0], np.zeros((9, 1)), relabelings_of(9))
    with pytest.warns(StatisticsWarning, match="no more relabelings exist: collect more clusters"):
        assembled([1.0], np.zeros((9, 1)), relabelings_of(9, exhaustive=True))


def test_warns_that_a_single_slice_cannot_survive_the_family():
    with pytest.warns(
        StatisticsWarning, match=r"a single slice out of 6 cannot reach q <= 0\.05 by itself.*0\.00833; ask"
    ):
        found = assembled(np.ones(6), np.zeros((99, 6)), relabelings_of(99))
    assert len(found.warnings) == 1


@pytest.mark.parametrize("slices", [1, 3, 7, 13, 24, 60, 133])
def test_as_many_relabelings_as_a_rejection_needs_are_enough(slices):
    enough = round(slices / 0.05) - 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assembled(np.ones(slices), np.zeros((enough, slices)), relabelings_of(enough))
    with pytest.warns(StatisticsWarning, match="can.* reach"):
        assembled(np.ones(slices), np.zeros((enough - 1, slices)), relabelings_of(enough - 1))


def test_slices_without_a_statistic_are_counted():
    with pytest.warns(StatisticsWarning, match="2 of 3 slices are not tested"):
        found = assembled([1.0, np.nan, np.nan], np.zeros((99, 3)), relabelings_of(99))
    assert found.p.tolist()[0] == 0.01
    with pytest.warns(StatisticsWarning, match="1 of 1 slices are not tested"):
        found = assembled([np.nan], np.full((99, 1), np.nan), relabelings_of(99))
    assert "0 slices" in repr(found)


def test_sentences_say_what_cannot_be_found_and_what_to_do():
    found = quietly(assembled, [1.0, np.nan], np.zeros((9, 2)), relabelings_of(9))
    assert found.warnings == (
        "no slice can reach p <= 0.05: the smallest possible p is 0.1; ask for more permutations.",
        "1 of 2 slices are not tested: a sample has no gradient there, or they score 0 or all the same.",
    )
    found = quietly(assembled, np.ones(6), np.zeros((99, 6)), relabelings_of(99, exhaustive=True))
    assert found.warnings == (
        "a single slice out of 6 cannot reach q <= 0.05 by itself: the smallest possible p is 0.01, and one rejection needs "
        "0.00833; no more relabelings exist: collect more clusters.",
    )


def test_result_holds_what_it_was_made_of():
    null = whole_scores(3, 99, 2) / 100.0
    found = quietly(assembled, [3.0, -1.0], null, relabelings_of(99), alternative="less")
    np.testing.assert_array_equal(found.null, null)
    assert found.statistic.tolist() == found.effect.tolist() == [3.0, -1.0]
    assert (found.n_permutations, found.n_distinct, found.min_p, found.seed) == (99, 10**6, 0.01, 3)
    assert (found.alternative, found.null_statement, found.claim, found.effect_name, found.unit) == (
        "less", "nothing", "something", "size", "clusters",
    )  # fmt: skip


def test_a_p_at_the_bound_is_significant():
    # 19 relabelings: the smallest p is 0.05, which a slice can reach.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = assembled([1.0], np.zeros((19, 1)), relabelings_of(19))
    assert found.p[0] == 0.05
    assert "1 with q <= 0.05, 1 with p_maxt <= 0.05" in repr(found)


def test_notes_of_the_test_come_first():
    with pytest.warns(StatisticsWarning, match="look here"):
        found = assembled([1.0], np.zeros((99, 1)), relabelings_of(99), notes=("look here",))
    assert found.warnings == ("look here",)


def test_alternatives_turn_statistics():
    values = np.array([-2.0, 1.0])
    assert head_result.directed(values, "greater").tolist() == [-2, 1]
    assert head_result.directed(values, "less").tolist() == [2, -1]
    assert head_result.directed(values, "two-sided").tolist() == [2, 1]
    null = np.array([[-3.0], [-1.0], [1.5], [0.0]])
    counts = {name: assembled_p(null, name) for name in head_result.ALTERNATIVES}
    assert counts == {"greater": 4 / 5, "less": 2 / 5, "two-sided": 2 / 5}


def assembled_p(null, alternative):
    return quietly(assembled, [-2.0], null, relabelings_of(4), alternative=alternative).p[0]


def test_repr_counts_rejections():
    found = quietly(assembled, [3.0, 0.0], np.zeros((99, 2)), relabelings_of(99))
    assert repr(found) == (
        "HeadTest(2 slices, 99 relabelings of clusters: 1 with q <= 0.05, 1 with p_maxt <= 0.05; nothing)"
    )
