"""The measurement on a GPU, rehearsed on a CPU with the device's clock replaced: everything but the device itself."""

import dataclasses
import time

import pytest
import torch

from validation.bench import goals, gpu, shapes

SIZES = dataclasses.replace(shapes.QUICK, samples=3)


@pytest.fixture
def rehearsed(monkeypatch):
    def event_seconds(run):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "event_seconds", event_seconds)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a stand-in")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return monkeypatch


def test_rate_is_that_of_the_slowest_case(rehearsed):
    seen = []
    before = torch.backends.cuda.matmul.allow_tf32
    right = gpu.cases

    def cases(sizes):
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        ((layout, n, length),) = right(sizes).values()
        return {"one": (layout, n, length), "two": (layout, n + 2, length)}  # fmt: skip

    rehearsed.setattr(gpu, "cases", cases)
    found = gpu.measure(SIZES)
    rates = {name: row["rate"] for name, row in found.details["cells"].items()}
    assert found.values["gpu"] == min(rates.values()) > 0
    assert "a stand-in, float32, TF32 off" in found.conditions["gpu"]
    assert seen == [False]
    assert torch.backends.cuda.matmul.allow_tf32 is before


def test_slow_scoring_on_a_gpu_misses_its_goal(rehearsed):
    seconds = iter([1.0] * 2 + [1.0, 1e9, 1.0] * 3)  # squares, then square, scoring, square, three times
    rehearsed.setattr(gpu, "event_seconds", lambda run: (run(), next(seconds))[1])
    (row,) = goals.rows_of("gpu", gpu.measure(SIZES))
    assert row["status"] == "missed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_is_not_run():
    with pytest.raises(goals.NotRunError, match="finds no CUDA device"):
        gpu.measure(SIZES)
