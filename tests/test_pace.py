"""Times of a plan: finite here, extrapolated as the work grows; what is timed is the work itself, so no clock is asserted."""

import math

import pytest
import torch

import qkov
from qkov import operations, pace, scoring
from tests.builders import build_model
from tests.test_stored_sizes import shape_of

OPTIONS = scoring.ScoreOptions()


def test_probes_are_the_model_cut_to_some_layers():
    model = operations.hollow(build_model("qwen3", layers=3))  # its configuration has one entry a layer
    probe = pace._probe(model, 2, None, torch.float32)
    assert qkov.QKOVConfig.from_model(probe).num_layers == 2
    assert probe.get_input_embeddings().num_embeddings == 23
    wanted = model.model.layers[1].self_attn.q_proj.weight
    assert probe.model.layers[1].self_attn.q_proj.weight.shape == wanted.shape
    assert pace._probe(model, 1, 11, torch.float32).lm_head.weight.shape[0] == 11


def test_collection_grows_with_layers_and_the_vocabulary_counts_once(monkeypatch):
    """With passes that take 5 seconds, 3 more a layer and 7 more with the whole vocabulary."""
    model = build_model("llama", layers=9, vocab_size=600)

    def seconds(probe, num_tokens, samples):
        large = probe.get_input_embeddings().num_embeddings == 600
        return samples * num_tokens * (5 + 3 * len(probe.model.layers) + 7 * large)

    monkeypatch.setattr(pace, "_pass_seconds", seconds)
    shape, _, _ = shape_of(model, 12)
    found = pace.collection_pace(operations.hollow(model), shape, 12, 4, torch.float32)
    assert found.method == "probes"
    assert found.seconds_per_pass == pytest.approx(4 * 12 * (5 + 3 * 9 + 7))


def test_a_model_too_large_for_probes_is_timed_by_products(monkeypatch):
    model = operations.hollow(build_model("llama"))
    shape, _, _ = shape_of(model, 12)
    monkeypatch.setattr(pace, "PROBE_BYTES", 10)
    monkeypatch.setattr(pace, "product_rate", lambda *_: 1e6)
    found = pace.collection_pace(model, shape, 12, 4, torch.float32)
    assert (found.method, found.seconds_per_pass) == ("products", shape.operations * 4 / 1e6)


def test_scoring_of_more_samples_than_are_tried_is_extrapolated(monkeypatch):
    """Gradients take 2 seconds a sample; the rest 3 a sample and 0.5 a pair."""
    tried = []

    def timed(pool, layout, projection, num_a, num_b, options):
        tried.append(num_a)
        return 2.0 * (num_a + num_b), 3.0 * (num_a + num_b) + 0.5 * num_a * num_b

    monkeypatch.setattr(pace, "_timed_slice", timed)
    monkeypatch.setattr(pace, "_once_per_layer", lambda *_: 0.0)
    config = qkov.QKOVConfig.from_model(build_model("llama"))
    num_slices = 2 * (6 + 2 + 2 + 6)
    expected = (num_slices * 2.0 * 60, num_slices * (3.0 * 60 + 0.5 * 40 * 20))
    for limit in (pace.SLICE_OPERATIONS, 1e5):
        monkeypatch.setattr(pace, "SLICE_OPERATIONS", limit)
        tried.clear()
        found = pace.scoring_pace(config, 11, torch.float32, 40, 20, OPTIONS)
        assert (found.materialising, found.scoring) == pytest.approx(expected)
        assert (max(tried) == 40) == (limit > 1e6)
    shares = found.scoring * 60 * 60 / (40 * 20)  # as if all of it grew with the pairs
    assert shares != pytest.approx(num_slices * (3.0 * 120 + 0.5 * 60 * 60))


def test_real_work_takes_finite_time():
    model = build_model("gpt2", dtype=torch.float32)
    shape, _, config = shape_of(model, 12)
    collection = pace.collection_pace(operations.hollow(model), shape, 12, 4, torch.float32)
    found = pace.scoring_pace(config, 11, torch.float32, 4, 4, OPTIONS)
    numbers = (collection.seconds_per_pass, collection.seconds_per_task, found.materialising, found.scoring)
    assert all(math.isfinite(one) and one >= 0 for one in numbers)
    assert collection.seconds_per_pass > 0
    assert found.materialising > 0
    assert pace.product_rate(model, 64, torch.float32) > 1e6
