"""What is timed, how operations are counted, and that slow scoring misses its goal."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import qkov
from qkov import gradients, losses
from tests.slow_clock import SlowClock
from validation.bench import collection, goals, scoring, shapes

SIZES = dataclasses.replace(shapes.QUICK, repeats=1, samples=3)


def status(measured, group):
    return {row["name"]: row["status"] for row in goals.rows_of(group, measured)}


@pytest.mark.parametrize(("speed", "verdict"), [(0.7, "held"), (0.6, "missed")])
def test_slow_scoring_misses_its_goal(monkeypatch, speed, verdict):
    slow = SlowClock(monkeypatch)

    def score(collector):
        n, length = len(collector.samples("a")), collector.samples("a")[0].num_tokens + 1
        parameters = shapes.slice_parameters(collector.config)
        slow.spend(shapes.scoring_operations(parameters, n, n, length) / (speed * 1e9))

    monkeypatch.setattr(scoring, "score", score)
    found = scoring.measure(SIZES)
    assert found.values["scoring"] == pytest.approx(speed)
    assert status(found, "scoring")["scoring"] == verdict
    assert found.values["growth-n"] == pytest.approx(found.details["exponents of the operations"]["n"])


def test_one_slow_size_is_what_counts(monkeypatch):
    slow = SlowClock(monkeypatch)

    def score(collector):
        n, length = len(collector.samples("a")), collector.samples("a")[0].num_tokens + 1
        operations = shapes.scoring_operations(shapes.slice_parameters(collector.config), n, n, length)
        slow.spend(operations / (0.4 if n == 8 else 0.9) / 1e9)

    monkeypatch.setattr(scoring, "score", score)
    found = scoring.measure(SIZES)
    assert found.values["scoring"] == pytest.approx(0.4)
    assert "n=8 T=16" in found.conditions["scoring"]


def test_what_samples_remember_is_forgotten_before_the_clock_starts():
    collector = shapes.RandomFactors(shapes.layout_of(shapes.gpt2, SIZES, layers=1), 60).collector(3, 3, 10)
    timed = scoring.timed(lambda: collector)
    timed.seconds()
    assert all(one.squared_norms for one in collector.samples("a"))
    timed.prepare()
    assert not any(one.squared_norms for one in collector.samples("a"))


def test_random_factors_score_like_collected_ones():
    """The same samples through the collector's own gradients: what is timed is scoring, not something like it."""
    config = shapes.layout_of(shapes.gpt2, SIZES, layers=1)
    collector = shapes.RandomFactors(config, 60).collector(3, 2, 12)
    heatmap = scoring.score(collector)
    layout = config.layers[0]
    h = {}
    for task in "ab":
        h[task] = []
        for one in collector.samples(task):
            projection = layout.projection("K")
            out = torch.empty(projection.width, shapes.other_width(projection))
            gradients.slice_gradient(one.factors, projection, 1, out)
            h[task].append(out.flatten().double().numpy())
    contributions = np.square(h["a"]) / 11
    expected = contributions / contributions.mean(0) @ np.abs(h["b"]).T / contributions.shape[1]
    assert np.allclose(heatmap["K"]["scores"][:, :, 0, 1], expected, rtol=1e-4)


def test_a_pool_that_is_too_small_is_refused():
    pool = shapes.RandomFactors(shapes.layout_of(shapes.gpt2, SIZES, layers=1), 60)
    with pytest.raises(ValueError, match="the pool holds 60 tokens"):
        pool.collector(4, 3, 10)


def test_parameters_of_slices_are_counted_once_for_each_kv_head():
    config = qkov.QKOVConfig.from_model(shapes.llama(SIZES))
    hidden = SIZES.llama_hidden
    assert shapes.slice_parameters(config) == SIZES.llama_layers * (2 * hidden**2 + 2 * hidden * hidden // 4)


def test_operations_of_collecting_are_those_that_torch_counts():
    """With attention written out, torch's own counter sees every product; the whole square of token pairs then."""
    model = shapes.gpt2(SIZES, attention="eager")
    length = 8
    batch = shapes.tokens(1, length, SIZES.vocabulary, 0)
    counted = collection.operations(model.config, length, visible=length**2)
    with FlopCounterMode(display=False) as counter:
        loss = losses.causal_lm_loss(model, batch)[0].sum()
    assert counter.get_total_flops() == counted["forward"]
    collector = collection.started(model)
    with FlopCounterMode(display=False) as counter:
        collector.collect_fisher(model, batch, "a", progress=False)
    assert counter.get_total_flops() == counted["forward"] + counted["backward"]
    assert loss.isfinite()


def test_less_is_counted_of_attention_than_the_square():
    config = shapes.gpt2(SIZES).config
    assert sum(collection.operations(config, 8).values()) < sum(collection.operations(config, 8, visible=64).values())


@pytest.mark.parametrize(("speed", "verdict"), [(0.75, "held"), (0.5, "missed")])
def test_slow_collection_misses_its_goal(monkeypatch, speed, verdict):
    slow = SlowClock(monkeypatch)
    right = qkov.FisherCollector.collect_fisher
    config = shapes.gpt2(SIZES).config
    count = SIZES.collected * sum(collection.operations(config, SIZES.tokens).values())

    def collect(collector, model, batch, task, **options):
        right(collector, model, batch, task, **options)
        slow.spend(count / speed / 1e9)

    monkeypatch.setattr(qkov.FisherCollector, "collect_fisher", collect)
    found = collection.measure(SIZES)
    assert found.values["collection"] == pytest.approx(speed)
    assert status(found, "collection") == {"collection": verdict}
