"""Labels of a result are normalised to plain types, or refused."""

import numpy as np
import pytest

from qkov import errors, labels


def test_numpy_integers_become_int():
    assert [type(i) for i in labels.checked_ids(np.arange(2), "ids")] == [int, int]
    assert labels.checked_numbers(np.array([3, 1]), "layers") == (3, 1)


def test_ids_of_an_empty_task_are_empty():
    assert labels.checked_ids([], "ids") == ()


def test_floats_are_neither_ids_nor_numbers():
    with pytest.raises(errors.SampleIdError, match="type float"):
        labels.checked_ids([1.0], "ids")
    with pytest.raises(TypeError):
        labels.checked_numbers([1.0], "layers")


@pytest.mark.parametrize(("given", "pairs", "valid"), [(True, 6, True), (False, 6, False), (True, 0, False)])
def test_a_result_is_valid_only_with_pairs(given, pairs, valid):
    assert labels.checked_attributes({"valid": given}, pairs=pairs)["valid"] is valid


@pytest.mark.parametrize("values", [[0.5], [np.nan], [np.inf], [True], ["1"], [10**30], [2**63], [1e19]])
def test_what_is_no_whole_number_becomes_none(values):
    with pytest.raises(errors.ShapeError, match=r"codes, of type .*expected whole numbers"):
        labels.whole_array(values, "codes")


def test_whole_numbers_are_copied_as_int64():
    given = np.array([[1, -2]], np.int64)
    found = labels.whole_array(given, "codes")
    found[0, 0] = 5
    assert given.tolist() == [[1, -2]]
    assert labels.whole_array([2.0], "codes").tolist() == [2]
    assert labels.whole_array([], "codes").dtype == labels.whole_array(np.zeros(2, np.uint8), "codes").dtype == np.int64
