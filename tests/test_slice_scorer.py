"""Tests of scoring where memory runs out: smaller blocks of samples, said in the log, with the same scores."""

import logging

import pytest
import torch

import qkov
from qkov import errors, scoring, slice_scorer, tile_halves
from tests.builders import build_batch, build_model, collect


def collected():
    model = build_model("llama", dtype=torch.float64)
    collector = collect(model, build_batch((9, 6, 8, 7, 5)), "a")
    collector.collect_fisher(model, build_batch((7, 8, 5), seed=2), "b", progress=False)
    return collector


def metric_of(collector, **options):
    return qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1, **options)


def of_rows(monkeypatch, most, error):
    """Make blocks of more than ``most`` samples run out of memory."""
    real = tile_halves.Part.__init__

    def limited(part, half, columns, block):
        if len(block) > most:
            raise error
        real(part, half, columns, block)

    monkeypatch.setattr(tile_halves.Part, "__init__", limited)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
])  # fmt: skip
@pytest.mark.parametrize("call", ["compute_heatmap", "compute_heatmaps", "compute_summary"])
def test_samples_are_halved_and_the_log_says_so(monkeypatch, caplog, error, call):
    metric = metric_of(collected())
    options = {"variants": ("unsigned", "dot")} if call == "compute_heatmaps" else {}
    expected = getattr(metric, call)("a", "b", progress=False, **options)
    of_rows(monkeypatch, 1, error)
    with caplog.at_level(logging.WARNING):
        found = getattr(metric, call)("a", "b", progress=False, **options)
    said = [record.message for record in caplog.records]
    assert said == [
        "out of memory at layer 0, block Q, slice 0; at most 2 samples of a task at a time from here on",
        "out of memory at layer 0, block Q, slice 0; at most 1 samples of a task at a time from here on",
    ]
    if call == "compute_heatmap":
        for block in "QKVO":
            scale = abs(expected.arrays[block]).max()
            assert abs(found.arrays[block] - expected.arrays[block]).max() <= 1e-12 * scale
        assert found.attributes == expected.attributes


def test_what_does_not_fit_one_at_a_time_is_refused(monkeypatch):
    of_rows(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(
        errors.MemoryLimitError, match="layer 0, block Q, slice 0 do not fit the memory of cpu"
    ) as raised:
        metric_of(collected()).compute_heatmap("a", "b", progress=False)
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


def test_fixed_tiles_are_not_divided(monkeypatch):
    of_rows(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(errors.MemoryLimitError):
        metric_of(collected(), tiling="fixed").compute_heatmap("a", "b", progress=False)


def test_another_error_is_passed_on(monkeypatch):
    of_rows(monkeypatch, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        metric_of(collected()).compute_heatmap("a", "b", progress=False)


def test_matrix_variants_are_not_divided(monkeypatch):
    def full(*_arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(slice_scorer.curvature, "score_slice", full)
    with pytest.raises(errors.MemoryLimitError):
        metric_of(collected(), variant="full").compute_heatmap("a", "b", progress=False)


def test_what_failed_is_let_go_of_before_the_next_try(monkeypatch):
    """Buffers of the larger block would take the memory that the smaller one needs."""
    collector = collected()
    options = scoring.ScoreOptions()
    sides = [scoring.Side(collector.samples(task), [0, 1], options) for task in "ab"]
    scorer = slice_scorer.SliceScorer(sides, options)
    layout = collector.config.layers[0]
    scorer.pairs(layout, layout.projection("Q"), 0)
    assert sides[0].buffers
    of_rows(monkeypatch, 2, MemoryError())
    seen, real = [], scorer._shrink
    monkeypatch.setattr(scorer, "_shrink", lambda *rest: real(*rest) or seen.append([dict(s.buffers) for s in sides]))
    scorer.pairs(layout, layout.projection("Q"), 1)
    assert seen == [[{}, {}]]
