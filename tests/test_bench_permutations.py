"""The measurement of the permutation engine measures what it says: small sizes, and never a goal, as machines differ."""

import dataclasses

import numpy as np
import pytest

from qkov.statistics import pair_forms
from validation.bench import goals, permutations, shapes

SIZES = dataclasses.replace(shapes.QUICK, square=64, repeats=1, slices=1, permutations=30)


def test_engine_and_loop_agree_to_the_last_bit_of_the_grid():
    found = permutations.measure(SIZES)
    assert found.details["largest difference"] < 1e-13
    assert found.values["permutations"] > 0
    assert found.values["permutation-loop"] > 1
    assert found.details["whole test with p values, seconds"] > 0


def test_a_wrong_engine_is_seen(monkeypatch):
    right = pair_forms.PairForm.sym
    monkeypatch.setattr(pair_forms.PairForm, "sym", lambda form, labellings: right(form, labellings) * (1 + 1e-9))
    with pytest.raises(goals.DisagreementError, match="engine and loop"):
        permutations.measure(SIZES)


def test_loop_is_the_definition_on_two_against_two():
    scores = np.arange(16.0).reshape(4, 4) ** 2
    form = pair_forms.PairForm.of(scores, np.arange(4))
    (found,) = permutations.looped(form, np.array([[True, True, False, False]]))
    expected = (1 + 16) / 2 + (121 + 196) / 2 - (4 + 9 + 36 + 49) / 4 - (64 + 81 + 144 + 169) / 4
    assert np.isclose(found, expected, rtol=1e-5)
