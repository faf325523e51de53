"""Processes of their own, and whether a setting of theirs does anything."""

import numpy as np
import pytest

from validation import environments


def test_words_are_the_same_numbers_everywhere():
    found = environments.words(7, 2, 2)
    assert [[value.hex() for value in row] for row in found] == [
        ["0x1.00320d4f8f2a4p-2", "0x1.96bf36f2bc99ap-1"], ["0x1.1a4d597e502bep-1", "-0x1.19634950aa578p-1"],
    ]  # fmt: skip
    many = environments.words(1, 10_000)
    assert -1 <= many.min() < -0.99
    assert 0.99 < many.max() < 1


def test_a_setting_that_changes_nothing_did_not_act():
    plain = environments.probe()
    assert environments.acted(environments.probe(), plain) == []
    assert environments.acted(plain | {"numpy exp": "other bits"}, plain) == ["numpy exp"]


def test_a_process_has_its_threads_and_variables():
    code = "print(os.environ['OMP_NUM_THREADS'], os.environ['X'])"
    given = {"X": "given"}
    said = environments.run_module("timeit", "-n1", "-r1", "-s", "import os", code, threads=3, environment=given)
    assert said.startswith("3 given")


def test_a_process_that_ends_badly_says_why():
    with pytest.raises(environments.ChildError, match=r"python -m timeit ended with status 1: .*ZeroDivisionError"):
        environments.run_module("timeit", "-n1", "1 / 0")


def test_the_probe_sees_another_product(monkeypatch):
    plain = environments.probe()
    drawn = environments.words
    monkeypatch.setattr(environments, "words", lambda *given: np.nextafter(drawn(*given), 2))
    assert "numpy product" in environments.acted(environments.probe(), plain)
