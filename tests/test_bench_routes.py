"""Other routes give the same numbers, and where they do not no time is shown; memory and accuracy are what they are called."""

import dataclasses
import gc

import numpy as np
import pytest
import torch

import qkov
from qkov import scoring as own_scoring
from validation.bench import accuracy, end_to_end, goals, libraries, memory, pair_loop, shapes, stacked, storage

SIZES = dataclasses.replace(shapes.QUICK, repeats=1, samples=3, square=64)


def statuses(measured, group):
    return {row["name"]: row["status"] for row in goals.rows_of(group, measured)}


def test_autograd_and_vmap_give_the_same_scores():
    found = end_to_end.measure(SIZES)
    assert set(found.values) == {"autograd", "vmap"}
    assert not found.wrong
    assert max(found.details["differences"].values()) < end_to_end.BOUND
    assert all(value > 0 for value in found.values.values())


def test_wrong_scores_of_another_route_are_an_error_and_no_time(monkeypatch):
    right = end_to_end.by_vmap

    def wrong(*arguments):
        return {name: 1.01 * stack for name, stack in right(*arguments).items()}

    monkeypatch.setattr(end_to_end, "by_vmap", wrong)
    found = end_to_end.measure(SIZES)
    assert statuses(found, "end_to_end") == {"autograd": "held", "vmap": "wrong"} or "autograd" in found.values
    assert "vmap" not in found.values
    assert "scores by vmap" in found.wrong["vmap"]


def test_wrong_scores_of_ours_are_an_error_too(monkeypatch):
    right = qkov.QKOVInterferenceMetric.compute_heatmap

    def wrong(metric, *arguments, **options):
        heatmap = right(metric, *arguments, **options)
        return dataclasses.replace(heatmap, arrays={block: 1.001 * one for block, one in heatmap.arrays.items()})

    monkeypatch.setattr(qkov.QKOVInterferenceMetric, "compute_heatmap", wrong)
    assert set(end_to_end.measure(SIZES).wrong) == {"autograd", "vmap"}
    assert set(pair_loop.measure(SIZES).wrong) == {"pair-loop", "pair-loop-diagnostics"}
    assert accuracy.measure(SIZES).values["oracle"] > 9e-4


def test_stacked_scores_are_the_metrics_in_float64():
    """By definition, on gradients that are drawn: F, damping over the block's heads, then the sum."""
    config = shapes.layout_of(shapes.gpt2, SIZES, layers=1)
    generator = torch.Generator().manual_seed(0)
    names = {one.slice_of(0).param_name: one.weight_shape for one in config.layers[0].projections}
    a, b = ({name: torch.randn(4, *shape, generator=generator) for name, shape in names.items()} for _ in "ab")
    one = config.layers[0].projection("O")
    rows = slice(*one.slice_of(1).row_slice)
    name = one.slice_of(1).param_name
    c, g = a[name][:, rows].double().flatten(1) ** 2 / 7, b[name][:, rows].double().flatten(1).abs()
    damping = 1e-8 * float((a[name].double() ** 2 / 7).mean())
    expected = c / (c.mean(0) + damping) @ g.T / c.shape[1]
    found = stacked.scores(config, a, b, torch.full((4,), 7.0))
    assert torch.allclose(found[0, "O"][1].double(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["opacus", "kronfluence"])
def test_libraries_agree_where_they_are_installed(name):
    if reason := libraries.missing(name):
        pytest.skip(reason)
    found = libraries.measure(SIZES)
    assert set(libraries.PACKAGES[name]) <= found.values.keys()
    assert not found.wrong


def test_missing_libraries_are_not_run(monkeypatch):
    monkeypatch.setattr(libraries, "missing", lambda name: f"{name} is not installed")
    rows = goals.rows_of("libraries", libraries.measure(SIZES))
    assert {row["status"] for row in rows} == {"not run"}
    assert {row["reason"] for row in rows} == {"opacus is not installed", "kronfluence is not installed"}


def test_what_is_missing_is_named():
    assert libraries.missing("torch") == ""
    assert "no_such_package is not installed" in libraries.missing("no_such_package")


@pytest.mark.parametrize(("factor", "status"), [(1.0, "held"), (1.001, "wrong")])
def test_dot_products_of_a_library_are_compared(monkeypatch, factor, status):
    """A stand-in that multiplies gradients made one by one, right or wrong by a thousandth."""
    monkeypatch.setattr(libraries, "missing", lambda name: "" if name == "opacus" else "not here")
    monkeypatch.setattr(libraries, "opacus_model", lambda model, config, freeze=True: model)

    def stand_in(model, config, batches):
        weights = end_to_end.attention_weights(model, config)
        grads = [end_to_end.one_by_one(model, weights, batch) for batch in batches.values()]
        scores = stacked.scores(config, *grads, None, variant="dot", aggregate="sum")
        return {key: factor * value for key, value in scores.items()}

    monkeypatch.setattr(libraries, "by_opacus", stand_in)
    found = libraries.measure(SIZES)
    rows = {row["name"]: row["status"] for row in goals.rows_of("libraries", found)}
    assert rows["kronfluence"] == "not run"
    assert (rows["opacus"] == "wrong") == (status == "wrong")
    assert ("opacus" in found.values) == (status == "held")


def test_loop_over_pairs_gives_the_scores_and_is_multiplied():
    found = pair_loop.measure(SIZES)
    seconds, pairs, (plain, diagnosed) = (found.details[name] for name in ("seconds", "pairs", "pairs timed"))
    assert pairs == (2 * SIZES.samples) ** 2
    assert found.values["pair-loop"] == pytest.approx(seconds["loop"][0] / seconds["ours"][0] * pairs / plain)
    assert found.values["pair-loop-diagnostics"] == pytest.approx(
        seconds["with diagnostics"][0] / seconds["ours"][0] * pairs / diagnosed
    )
    assert f"timed on {plain} of {pairs} pairs" in found.conditions["pair-loop"]


def test_health_of_a_pair_is_of_its_slices():
    c, g, f = torch.tensor([[0.0, 4.0]]), torch.tensor([[-3.0, 4.0]]), torch.tensor([[1e-12, 2.0]])
    health = pair_loop.health_of(c, g, f)
    assert health["below floor"] == 0.5
    assert health["gradient"] == [5.0, 4.0, 0.0]
    assert health["contribution"][2] == 0.5
    assert health["finite"] is True
    assert pair_loop.health_of(c, g * float("nan"), f)["finite"] is False


def test_stored_bytes_are_all_files_of_the_store(monkeypatch):
    found = storage.measure(SIZES)
    count = SIZES.collected * 4 * SIZES.layers * 4 * SIZES.hidden**2
    assert found.details["bytes of full gradients"] == count
    assert found.values["stored"] == found.details["stored bytes"] / count
    factors = SIZES.collected * SIZES.layers * 4 * SIZES.tokens * SIZES.hidden * 6  # x, three deltas; x, delta
    assert found.details["stored bytes"] > factors * (SIZES.tokens - 1) / SIZES.tokens


def test_peak_counts_what_is_let_go_again(monkeypatch):
    calls = []

    def hungry(model, batches):
        calls.append(np.ones(20_000_000 if calls else 1).sum())  # 160 MB, gone at once

    monkeypatch.setattr(end_to_end, "ours", hungry)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    gc.collect()
    found = memory.peak_beyond_baseline(SIZES)
    assert 150e6 < found["peak"] < 400e6
    assert found["full"] == 4 * SIZES.samples * 4 * SIZES.layers * 4 * SIZES.hidden**2


def test_resident_memory_that_the_system_does_not_tell_is_not_run():
    with pytest.raises(goals.NotRunError, match="VmNothing"):
        memory.resident("VmNothing")


def test_a_small_error_of_scoring_shows_in_the_accuracy(monkeypatch):
    right = own_scoring.formula.left_factor
    monkeypatch.setattr(
        own_scoring.formula, "left_factor", lambda *arguments, **options: right(*arguments, **options) * (1 + 3e-5)
    )
    assert accuracy.measure(SIZES).values["oracle"] > 2e-5
