"""Times are taken in turn, ratios inside a round, and what is slow comes out slow."""

import time

import pytest
import torch

from tests.slow_clock import SlowClock
from validation.bench import clock


@pytest.fixture
def slow(monkeypatch):
    return SlowClock(monkeypatch)


def test_rate_is_operations_a_second_over_those_of_the_square_product(slow):
    cells = {"half": (4e9, clock.Timed(lambda: slow.spend(8.0))), "full": (4e9, clock.Timed(lambda: slow.spend(4.0)))}
    rows, square = clock.relative_rates(cells, clock.Square(1000), repeats=3)
    assert rows["half"]["rate"] == pytest.approx(0.5)
    assert rows["full"]["rate"] == pytest.approx(1.0)
    assert rows["full"]["seconds"] == pytest.approx([4.0] * 3)
    assert square["median"] == pytest.approx(1e9)
    assert len(square["all"]) == 6


def test_a_machine_that_slows_down_slows_both(monkeypatch, slow):
    """Each round takes three times as long as the one before, the square product too: the ratio stays."""
    pace = iter([1.0, 3.0, 9.0])
    state = {"pace": 1.0}
    monkeypatch.setattr(
        clock.Square, "timed", lambda square: clock.Timed(lambda: slow.spend(state["pace"] * square.operations / 1e9))
    )

    def run(new):
        slow.spend(2.0 * new)

    def prepare():
        state["pace"] = next(pace)
        return state["pace"]

    rows, _ = clock.relative_rates({"cell": (1e9, clock.Timed(run, prepare))}, clock.Square(1000), repeats=3)
    before_and_after = [2 / (1 + 1), 2 / (1 + 3), 2 / (3 + 9)]
    expected = [0.5 / (rate * pace) for rate, pace in zip(before_and_after, (1, 3, 9), strict=True)]
    assert rows["cell"]["rates"] == pytest.approx(expected)


def test_variants_take_turns_and_preparation_is_not_counted(slow):
    order = []

    def variant(name, seconds):
        return clock.Timed(lambda _: order.append(name) or slow.spend(seconds) or name, lambda: slow.spend(100.0))

    seconds, results = clock.interleaved({"a": variant("a", 1.0), "b": variant("b", 4.0)}, repeats=3)
    assert order == ["a", "b"] * 3
    assert seconds == {"a": [1.0] * 3, "b": [4.0] * 3}
    assert results == {"a": "a", "b": "b"}
    assert clock.ratio(seconds, "a", "b") == 0.25


def test_ratio_is_the_median_of_rounds_not_the_ratio_of_medians():
    assert clock.ratio({"a": [1, 2, 30], "b": [1, 4, 10]}, "a", "b") == 1


def test_sleeping_takes_no_process_time_and_work_does():
    assert clock.Timed(lambda: time.sleep(0.05)).seconds() < 0.04
    one = torch.ones(300, 300)
    assert clock.Timed(lambda: [one @ one for _ in range(20)]).seconds() > 1e-4


def test_square_product_counts_its_operations():
    square = clock.Square(32, calls=3)
    assert square.operations == 3 * 2 * 32**3
    assert square.timed().seconds() > 0
