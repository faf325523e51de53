"""The measurement of speed measures what it says: small sizes, and never a goal, as machines differ."""

import json

import numpy as np
import pytest

from qkov.statistics import pair_forms
from validation import bench


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench, "SQUARE", 64)


def test_engine_and_loop_agree_to_the_last_bit_of_the_grid():
    found = bench.measure(num_slices=2, num_permutations=50, loop_permutations=20)
    assert found["largest difference"] < 1e-13
    assert found["rate over square product"] > 0
    assert found["times faster than a loop"] > 1


def test_a_wrong_engine_is_seen(monkeypatch):
    right = pair_forms.PairForm.sym
    monkeypatch.setattr(pair_forms.PairForm, "sym", lambda form, labellings: right(form, labellings) * (1 + 1e-9))
    assert bench.measure(num_slices=1, num_permutations=30, loop_permutations=10)["largest difference"] > 1e-10


def test_loop_is_the_definition_on_two_against_two():
    scores = np.arange(16.0).reshape(4, 4) ** 2
    form = pair_forms.PairForm.of(scores, np.arange(4))
    (found,) = bench.looped(form, np.array([[True, True, False, False]]))
    expected = (1 + 16) / 2 + (121 + 196) / 2 - (4 + 9 + 36 + 49) / 4 - (64 + 81 + 144 + 169) / 4
    assert np.isclose(found, expected, rtol=1e-5)


def test_a_missed_goal_is_the_exit_status(monkeypatch, tmp_path, capsys):
    found = {name: 0.1 for name in bench.GOALS} | {"largest difference": 0.0}
    monkeypatch.setattr(bench, "measure", lambda: found)
    path = tmp_path / "deep" / "bench.json"
    assert bench.main(["--output", str(path)]) == 1
    assert json.loads(path.read_text())["missed"] == list(bench.GOALS)
    assert "goal: at least 0.65" in capsys.readouterr().out
    monkeypatch.setattr(bench, "measure", lambda: found | {name: 1e3 for name in bench.GOALS})
    assert bench.main(["--output", str(path)]) == 0
