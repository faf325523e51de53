"""Tests of how scoring fits into a memory budget: what it needs, what is given up first, and what is refused."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

import qkov
from qkov import errors, score_memory, scoring, tiles
from qkov.score_memory import Demand, fitted
from qkov.scoring import ScoreOptions
from tests.builders import build_batch, build_model, collect

MB = 10**6
DEMAND = Demand(
    num_samples=200, kept=400 * MB, stacked=160 * MB, one_sample=MB, fixed=5 * MB, width=64, itemsize=4, factor=1
)
TILE = 4 * 2**23


def test_with_enough_memory_nothing_changes():
    options = ScoreOptions()
    assert fitted(options, DEMAND, 10**9) == options
    assert fitted(options, DEMAND, 565 * MB + TILE) == options


def test_tiles_become_narrower_before_anything_is_read_again():
    found = fitted(ScoreOptions(), DEMAND, 565 * MB + TILE // 2)
    assert found == ScoreOptions(tile_elements=2**22)


def test_reading_again_is_given_up_before_stacks():
    found = fitted(ScoreOptions(), DEMAND, 400 * MB)
    assert found == ScoreOptions(reads="again")
    found = fitted(ScoreOptions(), DEMAND, 170 * MB)
    assert (found.reads, found.stacked_bytes) == ("again", 2**30)
    assert 2**18 <= found.tile_elements < 2**20


def test_stacks_are_given_up_before_samples_are_divided():
    found = fitted(ScoreOptions(), DEMAND, 60 * MB)
    assert (found.reads, found.stacked_bytes, found.sample_block) == ("again", 0, None)
    assert found.tile_elements == ScoreOptions().tile_elements
    found = fitted(ScoreOptions(), DEMAND, 7 * MB + 3 * DEMAND.column)
    assert found.tile_elements == 3 * 200 * 64


def test_samples_are_divided_last_and_refused_below_one():
    found = fitted(ScoreOptions(), DEMAND, 7 * MB + 10 * 64 * 4)
    assert (found.sample_block, found.tile_elements) == (5, 2 * 5 * 64)
    with pytest.raises(errors.MemoryLimitError, match=r"and the smallest takes 512 bytes\. Raise memory_budget"):
        fitted(ScoreOptions(), DEMAND, 7 * MB + 511)
    with pytest.raises(errors.MemoryLimitError, match=r"0 bytes are left for tiles"):
        fitted(ScoreOptions(), DEMAND, MB)


def test_fixed_tiles_keep_their_columns():
    options = ScoreOptions(tiling="fixed")
    assert fitted(options, DEMAND, 440 * MB) == options  # nothing is stacked
    padded = 2 * 64 * 256 * 64 * 4
    block = 64 * 2 * 256 * 64 * 4
    found = fitted(options, DEMAND, 7 * MB + padded + block)
    assert (found.sample_block, found.tile_elements) == (64, options.tile_elements)
    with pytest.raises(errors.MemoryLimitError):
        fitted(options, DEMAND, 7 * MB + padded + block - 1)


@pytest.fixture(scope="module")
def collectors(tmp_path_factory):
    model = build_model("llama", dtype=torch.float32)
    memory = collect(model, build_batch((9, 6, 8)), "a")
    memory.collect_fisher(model, build_batch((7, 5), seed=2), "b", progress=False)
    with qkov.FisherCollector(store=tmp_path_factory.mktemp("budget") / "s", store_form="factors") as stored:
        stored.collect_fisher(model, build_batch((9, 6, 8)), "a", progress=False)
        stored.collect_fisher(model, build_batch((7, 5), seed=2), "b", progress=False)
    return memory, stored


def sides_of(collector, options, rows_a=(0, 1, 2)):
    return [scoring.Side(collector.samples(task), list(rows), options) for task, rows in (("a", rows_a), ("b", (0, 1)))]


def test_demand_is_counted_from_sizes(collectors):
    options = ScoreOptions()
    found = score_memory.demand_of(sides_of(collectors[0], options), collectors[0].config.layers, options)
    tokens = [
        len(one.factors["model.layers.0.self_attn.q_proj"].deltas) for t in "ab" for one in collectors[0].samples(t)
    ]
    assert found == Demand(
        num_samples=5, kept=0, stacked=sum(tokens) * 48 * 4, one_sample=max(tokens) * 48 * 4,
        fixed=3 * 2 * 28 + 8 * 8 * 4 * 24 + 8 * tiles.CHUNK * 4, width=4, itemsize=4, factor=1,
    )  # fmt: skip
    stored = score_memory.demand_of(sides_of(collectors[1], options), collectors[1].config.layers, options)
    layer = sum(tokens) * (2 * 48 + 2 * 32) * 4  # Q and O are square, K and V a third as wide
    assert stored == dataclasses.replace(found, kept=layer)
    assert (
        score_memory.demand_of(sides_of(collectors[0], options, (0,)), collectors[0].config.layers, options).factor == 2
    )


def test_samples_on_disk_are_not_read_to_count_them(collectors, monkeypatch):
    monkeypatch.setattr(qkov.shards.Shard, "tensor", None)
    options = ScoreOptions()
    assert score_memory.demand_of(sides_of(collectors[1], options), collectors[1].config.layers, options).kept > 0


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("options", [
    {"reads": "again"}, {"reads": "again", "stacked_bytes": 0}, {"sample_block": 1, "stacked_bytes": 0},
])  # fmt: skip
def test_scores_in_little_memory_are_the_same(collectors, which, options):
    collector = collectors[which]
    usual = ScoreOptions()
    expected, tight = (
        [
            scoring.score_slice(*sides_of(collector, one), layout, projection, 0, one).scores
            for layout in collector.config.layers
            for projection in layout.projections
        ]
        for one in (usual, dataclasses.replace(usual, **options))
    )
    for a, b in zip(expected, tight, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=0)


def test_what_was_read_is_let_go_of(collectors):
    for reads, kept in (("kept", True), ("again", False)):
        options = ScoreOptions(reads=reads)
        sides = sides_of(collectors[1], options)
        layout = collectors[1].config.layers[0]
        scoring.score_slice(*sides, layout, layout.projection("Q"), 0, options)
        for one in sides[0].members:
            assert bool(one.factors._kept) == kept
            one.factors.forget()


def test_a_budget_below_what_is_in_use_is_refused(collectors):
    metric = qkov.QKOVInterferenceMetric(
        collectors[0].config, collectors[0], memory_budget="1MB", min_samples_for_fisher=1
    )
    with pytest.raises(errors.MemoryLimitError, match=r"are in use and the result takes .* the budget is 1 MB\. Raise"):
        metric.compute_heatmap("a", "b", progress=False)


def test_a_budget_that_nobody_can_read_is_refused(collectors):
    with pytest.raises(errors.OptionError, match="memory_budget"):
        qkov.QKOVInterferenceMetric(collectors[0].config, collectors[0], memory_budget="much")


def test_budget_is_kept_to_and_ignoring_it_shows():
    """In a process of its own: peak of the process over the budget, for a tight one; and without one, beyond it."""
    program = """
import json, sys, torch
from tests.test_score_memory import scored_within
torch.set_num_threads(1)
print(json.dumps(scored_within(json.loads(sys.argv[1]))))
"""
    for extra in (50, None):
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps(extra)], capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        peak, budget, before = json.loads(done.stdout.splitlines()[-1])
        if extra is None:
            assert peak > before + 60 * MB, (peak, before)
        else:
            assert peak <= budget, (peak, budget)


def scored_within(extra):
    """Score synthetic samples with a budget of so many MB beyond what is in use; return peak, budget, and use before."""
    from qkov import memory
    from validation.bench import shapes

    config = shapes.layout_of(shapes.llama, shapes.FULL)
    collector = shapes.RandomFactors(config, 160 * 128).collector(80, 80, 128)
    before = memory.resident_bytes()
    budget = None if extra is None else before + extra * MB
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, memory_budget=budget)
    metric.compute_heatmap("a", "b", progress=False)
    return memory.peak_resident_bytes(), budget, before
