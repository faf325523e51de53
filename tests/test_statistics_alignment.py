"""The exploratory alignment of two Fisher diagonals: a description that never claims anything."""

import itertools

import numpy as np
import pytest

from qkov.errors import StatisticsError
from qkov.statistics import alignment_exploratory
from tests.statistics_cases import gradients
from validation import statistics_loops as loops


def logs(grads, one):
    squares = [np.square(row) for row in loops.normalised(grads[:, one])]
    fisher = np.mean(squares, axis=0)
    return np.log(fisher + 1e-8 * fisher.mean())


def test_correlation_is_that_of_the_log_fisher_diagonals():
    g_a, g_b = gradients(1, 7), gradients(2, 8)
    found = alignment_exploratory(g_a, g_b, seed=0, n_permutations=9)
    for one in range(3):
        assert found.correlation[one] == pytest.approx(np.corrcoef(logs(g_a, one), logs(g_b, one))[0, 1], rel=1e-9)
    assert (found.n_permutations, found.seed) == (9, 0)


@pytest.mark.parametrize(("width", "rows"), [(None, 6), (3, 3), (np.int64(2), 2)])
def test_p_is_the_share_of_permutations_of_whole_rows(width, rows):
    g_a, g_b = gradients(3, 7, 1, 6), gradients(4, 8, 1, 6)
    found = alignment_exploratory(g_a, g_b, seed=0, width=width, n_permutations=3000)
    table = logs(g_b, 0).reshape(rows, -1)
    null = [
        np.corrcoef(logs(g_a, 0), table[list(order)].ravel())[0, 1] for order in itertools.permutations(range(rows))
    ]  # fmt: skip
    expected = np.mean(np.array(null) >= found.correlation[0] - 1e-9)
    assert found.p_exploratory[0] == pytest.approx(expected, abs=5 * np.sqrt(0.25 / 3000))


def test_permutations_are_those_of_a_published_generator():
    # A recorded seed gives the same p with every version: stream 8 of Philox, sorted.
    g_a, g_b = gradients(3, 7, 1, 6), gradients(4, 8, 1, 6)
    words = np.random.Philox(key=(8 << 64) + 11).random_raw(60 * 6).reshape(60, 6)
    first, second = logs(g_a, 0), logs(g_b, 0)
    null = [np.corrcoef(first, second[np.argsort(row)])[0, 1] for row in words]
    found = alignment_exploratory(g_a, g_b, seed=11, n_permutations=60)
    assert found.p_exploratory[0] == (1 + np.sum(np.array(null) >= found.correlation[0] - 1e-9)) / 61
    assert 1 / 61 < found.p_exploratory[0] < 1


def test_one_row_can_only_stay_where_it_is():
    found = alignment_exploratory(gradients(3, 7, 1, 6), gradients(4, 8, 1, 6), seed=0, width=1)
    assert found.p_exploratory[0] == 1
    assert found.n_permutations == 999


def test_note_says_that_it_is_no_test():
    found = alignment_exploratory(gradients(5, 4), gradients(6, 4), seed=0, n_permutations=9)
    assert "exploratory" in found.note
    assert "no p value here may be called significant" in found.note
    assert not any("q" in name.split("_") for name in vars(found))


def test_constant_diagonal_has_no_correlation_and_no_p():
    found = alignment_exploratory(np.ones((4, 1, 6)), gradients(7, 4, 1, 6), seed=0, n_permutations=9)
    assert np.isnan(found.correlation).all()
    assert np.isnan(found.p_exploratory).all()


def test_same_task_is_aligned_with_itself():
    grads = gradients(8, 6, 1, 12)
    found = alignment_exploratory(grads, grads, seed=0, n_permutations=99)
    assert found.correlation[0] == pytest.approx(1)
    assert found.p_exploratory[0] == 0.01


@pytest.mark.parametrize("width", [0, 4, 2.0, True, -1])
def test_width_must_divide_the_parameters(width):
    with pytest.raises(StatisticsError, match=f"width={width}; expected a divisor of the 5 parameters of a slice"):
        alignment_exploratory(gradients(9, 4), gradients(10, 4), seed=0, width=width)


def test_seed_and_number_are_checked():
    given = gradients(9, 4), gradients(10, 4)
    with pytest.raises(StatisticsError, match="seed=None"):
        alignment_exploratory(*given, seed=None)
    with pytest.raises(StatisticsError, match="n_permutations=0"):
        alignment_exploratory(*given, seed=0, n_permutations=0)
