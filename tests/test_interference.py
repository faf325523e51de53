"""Heatmaps and single pairs against the slow reference for every option, and what is said about them."""

import dataclasses
import functools
import itertools
import re
import types

import numpy as np
import pytest
import torch
import transformers

import qkov
from qkov import (
    errors,
    interference,
    losses,
    memory,
    reference,
    resources,
    score_files,
    scoring,
    tile_halves,
    tiles,
)
from qkov.errors import (
    EmptyTaskError,
    EmptyTaskWarning,
    ModelChangedError,
    OptionError,
    SliceIndexError,
    UnknownSampleError,
    UnknownTaskError,
)
from qkov.fisher import FISHER_SOURCES, HEALTH_STATISTICS
from qkov.formula import FISHER_POOLS, VARIANTS
from qkov.meaning import VARIANT_MEANING
from tests.builders import FAMILIES, build_batch, build_model
from tests.scored_tasks import IDS_A, IDS_B, LENGTHS_A, LENGTHS_B, metric_of, score, two_tasks
from tests.statistics_models import uneven_tasks


def small_tasks():
    """One layer, two query heads on one kv head, biases: small enough to try every combination."""
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8}
    return two_tasks("llama", layers=1, **sizes)


def before_mutants():
    """Make what tests share, and the metric has no part in, before mutants of the metric are judged one by one."""
    small_tasks()
    for family in FAMILIES:
        two_tasks(family)


def largest_error(heatmap, truth, config, **options):
    """Largest error over all slices, relative to the largest score of the block and layer."""
    worst, compared = 0.0, 0
    for place, layer in enumerate(heatmap.layers):
        layout = config.layer(layer)
        for block in "QKVO":
            found = heatmap.arrays[block][:, :, place]
            units = heatmap.kv_heads if block in "KV" else heatmap.heads
            expected = np.stack(
                [reference.scores(*truth["a"], *truth["b"], layout, block, unit, **options) for unit in units], -1
            )
            assert found.shape == expected.shape
            worst = max(worst, np.abs(found - expected).max() / np.abs(expected).max())
            compared += expected.size
    assert compared
    assert np.isfinite(worst)
    return worst


# Agreement with the reference

DAMPINGS = ({}, {"ridge_lambda_rel": 1e-2}, {"epsilon": 1e-3, "ridge_lambda": 1e-4})


@pytest.mark.filterwarnings("ignore::qkov.errors.DampingWarning")
@pytest.mark.parametrize("source", FISHER_SOURCES)
@pytest.mark.parametrize("pool", FISHER_POOLS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_combination_of_options_agrees_with_the_reference(variant, pool, source):
    collector, truth = small_tasks()
    normalize_gj = ("none", "per_token") if variant == "unsigned" else ("none",)
    combinations = itertools.product(("mean", "sum"), (False, True), ("tokens", "none"), DAMPINGS, normalize_gj)
    for aggregate, include_bias, normalisation, damping, normalize in combinations:
        options = {
            "variant": variant, "fisher_pool": pool, "fisher_source": source, "aggregate": aggregate,
            "include_bias": include_bias, "contribution_normalisation": normalisation, "normalize_gj": normalize,
        } | damping  # fmt: skip
        error = largest_error(score(collector, **options), truth, collector.config, **options)
        assert error < 1e-10, options


@pytest.mark.parametrize("options", [
    {}, {"variant": "signed", "fisher_pool": "pooled", "include_bias": True}, {"variant": "natural", "fisher_source": "ema"},
], ids=["unsigned", "signed", "natural"])  # fmt: skip
@pytest.mark.parametrize("family", FAMILIES)
def test_families_agree_with_the_reference(family, options):
    collector, truth = two_tasks(family)
    assert largest_error(score(collector, **options), truth, collector.config, **options) < 1e-10


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_agrees_with_the_reference(family, variant):
    collector, truth = two_tasks(family, torch.float32)
    options = {"variant": variant, "fisher_pool": "pooled"}
    assert largest_error(score(collector, **options), truth, collector.config, **options) < 1e-4


def test_decay_of_the_collector_is_that_of_the_scores():
    model = build_model("gpt2")
    collector = qkov.FisherCollector(ema_decay=0.3)
    truth = {}
    for task, seed in (("a", 1), ("b", 2)):
        batch = build_batch((4, 6, 5), seed=seed)
        collector.collect_fisher(model, batch, task, progress=False)
        truth[task] = reference.sample_gradients(model, batch)
    found = score(collector, fisher_source="ema")
    assert largest_error(found, truth, collector.config, fisher_source="ema", ema_decay=0.3) < 1e-10
    assert largest_error(found, truth, collector.config, fisher_source="ema", ema_decay=0.9) > 1e-3


def test_normalisation_defaults_to_that_of_the_collector():
    model = build_model("gpt2")
    collector = qkov.FisherCollector(contribution_normalisation="none")
    collector.collect_fisher(model, build_batch((4, 6)), "a", progress=False)
    by_default, given = score(collector, "a", "a"), score(collector, "a", "a", contribution_normalisation="tokens")
    assert by_default.attributes["contribution_normalisation"] == "none"
    assert not np.allclose(by_default.arrays["V"], given.arrays["V"])


# Pairs and selections


@pytest.mark.parametrize(
    "options", [{}, {"variant": "natural"}, {"variant": "dot", "aggregate": "sum"}, {"normalize_gj": "per_token"}]
)
def test_pair_is_the_entry_of_the_heatmap_at_its_ids(options):
    collector, _ = two_tasks("llama")
    heatmap = score(collector, **options)
    metric = metric_of(collector, **options)
    for sample_i, sample_j, layer, head in (("r", 30, 0, 0), ("p", 10, 1, 5), ("q", 30, 1, 2)):
        pair = metric.compute_sample_pair("a", sample_i, "b", sample_j, layer, head)
        assert list(pair) == ["Q", "K", "V", "O"]
        for block, value in pair.items():
            i, j = IDS_A.index(sample_i), IDS_B.index(sample_j)
            assert value == pytest.approx(heatmap[block]["scores"][i, j, layer, head], rel=1e-12)


def test_pair_takes_ids_not_positions():
    metric = metric_of(two_tasks("llama")[0])
    with pytest.raises(UnknownSampleError, match="task 'b' has no sample 0"):
        metric.compute_sample_pair("a", "p", "b", 0, 0, 0)
    with pytest.raises(UnknownSampleError, match="task 'a' has no sample 0"):
        metric.compute_sample_pair("a", 0, "b", 10, 0, 0)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        (("c", "p", "b", 10, 0, 0), UnknownTaskError),
        (("a", "p", "c", 10, 0, 0), UnknownTaskError),
        (("a", "p", "b", 10, 2, 0), SliceIndexError),
        (("a", "p", "b", 10, 0, 6), SliceIndexError),
        (("a", "p", "b", 10, 0, -1), SliceIndexError),
    ],
)
def test_pair_that_does_not_exist_is_refused(place, error):
    with pytest.raises(error):
        metric_of(two_tasks("llama")[0]).compute_sample_pair(*place)


@pytest.mark.parametrize(
    ("layers", "heads", "kv_heads"),
    [([1], None, (0, 1)), (None, [4], (1,)), ([1, 0], [5, 0, 1], (0, 1)), (1, 2, (0,)), (range(2), (3, 4), (1,))],
)
def test_selection_is_a_part_of_the_whole(layers, heads, kv_heads):
    collector, _ = two_tasks("llama")
    whole, part = score(collector), score(collector, layers=layers, heads=heads)
    assert part.kv_heads == kv_heads
    for block in "QKVO":
        taken = whole[block]["scores"][:, :, list(part.layers)][..., list(part.heads)]
        assert np.array_equal(part[block]["scores"], taken)
        for statistic, values in part[block]["health"].items():
            expected = whole[block]["health"][statistic][list(part.layers)][:, list(part.heads)]
            assert np.array_equal(values, expected)


@pytest.mark.parametrize(
    ("selection", "error"),
    [
        ({"layers": [0, 2]}, SliceIndexError),
        ({"layers": [-1]}, SliceIndexError),
        ({"layers": "0"}, SliceIndexError),
        ({"heads": [6]}, SliceIndexError),
        ({"heads": [0.5]}, SliceIndexError),
        ({"layers": []}, OptionError),
        ({"heads": []}, OptionError),
        ({"layers": [0, 0]}, OptionError),
        ({"heads": [1, 1]}, OptionError),
        ({"most": 0}, OptionError),
    ],
)
def test_selection_that_does_not_exist_is_refused(selection, error):
    with pytest.raises(error):
        score(two_tasks("llama")[0], **selection)


def test_refused_selections_say_why():
    metric = metric_of(two_tasks("llama")[0])

    def refused(**selection):
        with pytest.raises(OptionError) as caught:
            metric.compute_heatmap("a", "b", progress=False, **selection)
        return str(caught.value)

    assert refused(layers=[]) == "layers is empty, so there is nothing to score; leave it None for all."
    assert refused(heads=[]) == "heads is empty, so there is nothing to score; leave it None for all."
    assert refused(layers=[1, 1]) == "layers is [1, 1]; expected each number once."
    assert refused(heads=[0, 0]) == "heads is [0, 0]; expected each number once."
    assert refused(max_samples_per_task=0) == "max_samples_per_task is 0; expected at least 1, or None for all."


def test_a_head_that_does_not_exist_is_named_with_its_place():
    metric = metric_of(two_tasks("llama")[0])
    with pytest.raises(SliceIndexError, match=r"^No head of layer 1 with index 6; valid are the integers 0 to 5\.$"):
        metric.compute_sample_pair("a", "p", "b", 10, 1, 6)
    with pytest.raises(SliceIndexError, match=r"^No head with index 6; valid are the integers 0 to 5\.$"):
        metric.compute_heatmap("a", "b", heads=[6], progress=False)


def test_most_samples_limits_scores_and_fisher_takes_all():
    collector, _ = two_tasks("llama")
    whole, part = score(collector), score(collector, most=1)
    assert (part.sample_a, part.sample_b) == (("p",), (30,))
    assert part.attributes["num_fisher_samples_a"] == 3
    for block in "QKVO":
        np.testing.assert_allclose(part.arrays[block], whole.arrays[block][:1, :1], rtol=1e-12)


def test_more_samples_than_there_are_means_all():
    collector, _ = two_tasks("llama")
    assert score(collector, most=99).identical(score(collector))


def test_task_can_be_scored_against_itself():
    collector, _ = two_tasks("llama")
    found = score(collector, "a", "a", variant="signed", aggregate="sum")
    np.testing.assert_allclose(found.arrays["Q"], found.arrays["Q"].transpose(1, 0, 2, 3), rtol=1e-9, atol=1e-12)


# Tiles


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("source", FISHER_SOURCES)
def test_size_of_tiles_does_not_matter(variant, source):
    collector, _ = two_tasks("gpt2")
    options = {"variant": variant, "fisher_source": source, "include_bias": True}
    whole = score(collector, **options)
    for tile_elements in (1, 5 * 4 * 7, 5 * 4 * 24):  # one column, seven columns of 24, all of them
        tiled = score(collector, tile_elements=tile_elements, **options)
        for block in "QKVO":
            scale = np.abs(whole.arrays[block]).max()
            np.testing.assert_allclose(tiled.arrays[block], whole.arrays[block], rtol=1e-11, atol=1e-13 * scale)


@pytest.mark.parametrize("source", ["contributions", "head"])
@pytest.mark.parametrize("columns", [1, 3, 24])
def test_no_tile_is_larger_than_allowed(monkeypatch, columns, source):
    collector, _ = two_tasks("llama")
    shapes, real = [], tile_halves.Part.__init__

    def recorded(part, *arguments):
        real(part, *arguments)
        shapes.append(part.grads.shape)

    monkeypatch.setattr(tile_halves.Part, "__init__", recorded)
    tile_elements = 5 * 4 * columns  # samples of both tasks, head_dim, columns
    score(collector, tile_elements=tile_elements, fisher_source=source, include_bias=True)
    assert sum({rows: size for rows, size in shapes if size == 4 * columns}) * 4 * columns == tile_elements
    assert max(size for _, size in shapes) == 4 * columns
    slices, passes = 2 * (6 + 2 + 2 + 6), 2 if source == "head" else 1
    # Two tasks; a bias is one tile more.
    kept = (
        2 * 6 if (columns, source) == (24, "head") else 0
    )  # O has no bias: its only tile is still there at the second pass
    assert len(shapes) == 2 * (passes * (slices * (24 // columns) + 2 * (6 + 2 + 2)) - kept)


def test_tiles_are_of_one_slice_at_a_time(monkeypatch):
    collector, _ = two_tasks("llama")
    seen, real = [], tiles.SliceFactors.__init__

    def recorded(factors, stacks, unit, tokens):
        seen.append((stacks.projection.module_name, stacks.projection.block, unit, len(stacks.members)))
        real(factors, stacks, unit, tokens)

    monkeypatch.setattr(tiles.SliceFactors, "__init__", recorded)
    score(collector)
    assert len(seen) == len(set(seen)) == 2 * 2 * (6 + 2 + 2 + 6)


# Laws that need the whole pipeline


@pytest.mark.parametrize("options", [
    {}, {"aggregate": "sum"}, {"normalize_gj": "per_token"}, {"contribution_normalisation": "none"}, {"include_bias": True},
], ids=["mean", "sum", "per token", "no normalisation", "bias"])  # fmt: skip
def test_average_over_a_is_the_norm_of_the_gradient_of_b(options):
    collector, _ = two_tasks("llama")
    metric = metric_of(collector, ridge_lambda_rel=1e-14, **options)
    heatmap, norms = metric.compute_heatmap("a", "b", progress=False), metric.compute_gradient_norms("b")
    for block in "QKVO":
        np.testing.assert_allclose(heatmap.arrays[block].mean(0), norms[block], rtol=1e-8)


def test_gradient_norms_are_means_of_absolute_values():
    collector, truth = two_tasks("llama")
    norms = metric_of(collector).compute_gradient_norms("b")
    for row, grads in enumerate(truth["b"][0]):
        for place, layout in enumerate(collector.config.layers):
            for block in "QKVO":
                for unit in range(layout.num_units(block)):
                    expected = np.abs(reference.cut(grads, layout, block, unit)).mean()
                    assert norms[block][row, place, unit] == pytest.approx(expected, rel=1e-10)


def test_gradient_norms_are_added_up_wider_than_the_gradients():
    collector, _ = two_tasks("llama", torch.float32)
    metric = metric_of(collector)
    norms = metric.compute_gradient_norms("b")
    for place, layout in enumerate(collector.config.layers):
        for projection in layout.projections:
            found = list(scoring.slice_tiles(collector.samples("b"), projection, 0, metric.options))
            assert found[0].dtype == torch.float32
            expected = sum(one.double().abs().sum(-1) for one in found) / scoring.num_parameters(
                projection, metric.options
            )
            np.testing.assert_allclose(norms[projection.block][:, place, 0], expected.numpy(), rtol=1e-14)


@pytest.mark.parametrize(("pool", "samples"), [("A", 3), ("pooled", 6)])
def test_score_is_bounded_by_the_number_of_samples(pool, samples):
    collector, _ = two_tasks("llama")
    metric = metric_of(collector, fisher_pool=pool)
    scores, norms = metric.compute_heatmap("a", "b", progress=False), metric.compute_gradient_norms("b")
    for block in "QKVO":
        assert (scores.arrays[block] <= samples * norms[block][None] * (1 + 1e-12)).all()
        assert (scores.arrays[block] >= 0).all()


@functools.cache
def scaled_tasks(factor_a, factor_b):
    model, collector = build_model("gpt2"), qkov.FisherCollector()
    for task, factor, seed in (("a", factor_a, 1), ("b", factor_b, 2)):
        collector.collect_fisher(
            model, build_batch((4, 6), seed=seed), task, loss_fn=functools.partial(scaled_loss, factor), progress=False
        )
    return collector


def scaled_loss(factor, model, batch):
    loss, tokens = losses.causal_lm_loss(model, batch)
    return factor * loss, tokens


@pytest.mark.parametrize("place", [0, 1, 2], ids=["A", "B", "both"])
@pytest.mark.parametrize("pool", FISHER_POOLS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_doubled_loss_scales_scores_by_the_stated_power(variant, pool, place):
    degree = VARIANT_MEANING[variant]["degrees"][pool][place]
    factors = ((2.0, 1.0), (1.0, 2.0), (2.0, 2.0))[place]
    options = {"variant": variant, "fisher_pool": pool}
    once, twice = score(scaled_tasks(1.0, 1.0), **options), score(scaled_tasks(*factors), **options)
    for block in "QKVO":
        ratio = twice.arrays[block] / once.arrays[block]
        assert (np.ptp(ratio) > 0) if degree is None else (ratio == 2.0**degree).all()


def test_signed_is_bounded_by_symmetric():
    collector, _ = two_tasks("qwen3")
    signed, symmetric = (score(collector, variant=variant) for variant in ("signed", "symmetric"))
    for block in "QKVO":
        assert (np.abs(signed.arrays[block]) <= symmetric.arrays[block] * (1 + 1e-12)).all()
        assert (signed.arrays[block] < 0).any()


# Labels


def test_result_is_labelled_by_ids_layers_and_heads():
    heatmap = score(two_tasks("llama")[0])
    assert (heatmap.task_a, heatmap.task_b) == ("a", "b")
    assert (heatmap.sample_a, heatmap.sample_b) == (IDS_A, IDS_B)
    assert (heatmap.layers, heatmap.heads, heatmap.kv_heads) == ((0, 1), tuple(range(6)), (0, 1))
    assert {block: heatmap[block]["scores"].shape for block in heatmap} == dict.fromkeys("QKVO", (3, 2, 2, 6))
    first = heatmap["K"]["top_conflicts"][0]
    assert first["sample_i"] in IDS_A
    assert first["sample_j"] in IDS_B


def test_kv_heads_are_shown_under_every_query_head_they_serve():
    scores = score(two_tasks("llama")[0])["V"]["scores"]
    assert (scores[..., 0] == scores[..., 2]).all()
    assert (scores[..., 2] != scores[..., 3]).all()


def test_options_have_the_defaults_that_are_written_down():
    collector, _ = two_tasks("llama")
    metric = qkov.QKOVInterferenceMetric(collector.config, collector)
    assert dataclasses.asdict(metric.options) | {"device": str(metric.options.device)} == {
        "variant": "unsigned", "fisher_pool": "A", "fisher_source": "contributions", "aggregate": "mean",
        "normalize_gj": "none", "contribution_normalisation": "tokens", "include_bias": False, "epsilon": None,
        "ridge_lambda": None, "ridge_lambda_rel": metric.options.ridge_lambda_rel, "ema_decay": 0.99,
        "tile_elements": 8_388_608, "tiling": "fast", "sample_block": None, "stacked_bytes": 2**30, "reads": "kept",
        "device": "cpu",
    }  # fmt: skip
    assert (metric.min_samples_for_fisher, metric.fisher_tasks) == (10, {})


def test_same_call_gives_the_same_bits():
    collector, _ = two_tasks("llama")
    assert score(collector).identical(score(collector))


def test_health_covers_every_slice():
    heatmap = score(two_tasks("llama")[0])
    for block, units in (("Q", 6), ("K", 2), ("V", 2), ("O", 6)):
        assert set(heatmap.health[block]) == set(HEALTH_STATISTICS)
        for values in heatmap.health[block].values():
            assert values.shape == (2, units)
            assert np.isfinite(values).all()


# A model whose layers differ


@pytest.fixture(scope="module")
def uneven():
    """Layer 0 has 6 query and 2 kv heads, layer 1 has 3 and 1."""
    model = build_model("llama")
    smaller = transformers.LlamaConfig(
        hidden_size=24, num_attention_heads=3, num_key_value_heads=1, head_dim=4, attention_bias=True
    )
    smaller._attn_implementation = "sdpa"
    torch.manual_seed(0)
    attention = type(model.model.layers[1].self_attn)(smaller, layer_idx=1)
    model.model.layers[1].self_attn = attention.double().eval()
    collector, truth = qkov.FisherCollector(), {}
    for task, lengths, seed in (("a", LENGTHS_A, 1), ("b", LENGTHS_B, 2)):
        batch = build_batch(lengths, seed=seed)
        collector.collect_fisher(model, batch, task, progress=False)
        truth[task] = reference.sample_gradients(model, batch)
    return collector, truth


def test_heads_that_a_layer_does_not_have_are_declared_absent(uneven):
    collector, _ = uneven
    heatmap = score(collector)
    assert heatmap.present.tolist() == [[True] * 6, [True] * 3 + [False] * 3]
    assert heatmap.kv_index.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, -1, -1, -1]]
    for block in "QKVO":
        absent = np.isnan(heatmap[block]["scores"])
        assert absent[:, :, 1, 3:].all()
        assert absent.sum() == 3 * 2 * 3
    assert np.isnan(metric_of(collector).compute_gradient_norms("b")["Q"][:, 1, 3:]).all()


@pytest.mark.parametrize("layer", [0, 1])
def test_layers_that_differ_agree_with_the_reference(uneven, layer):
    collector, truth = uneven
    assert largest_error(score(collector, layers=[layer]), truth, collector.config) < 1e-10


def test_head_is_checked_against_its_own_layer(uneven):
    metric = metric_of(uneven[0])
    assert set(metric.compute_sample_pair("a", 0, "b", 0, 0, 5)) == set("QKVO")
    with pytest.raises(SliceIndexError, match="head of layer 1"):
        metric.compute_sample_pair("a", 0, "b", 0, 1, 3)


# Warnings and refusals


def test_one_sample_of_task_b_is_enough_for_a_valid_result():
    model, collector = build_model("llama"), qkov.FisherCollector()
    for task, lengths in (("a", LENGTHS_A), ("b", (4,))):
        collector.collect_fisher(model, build_batch(lengths), task, progress=False)
    assert score(collector).attributes["valid"] is True


@pytest.mark.parametrize("collected", [True, False], ids=["empty", "never collected"])
def test_task_b_without_samples_gives_an_empty_result_and_a_warning(collected):
    model, collector = build_model("llama"), qkov.FisherCollector()
    collector.collect_fisher(model, build_batch(LENGTHS_A), "a", progress=False)
    if collected:
        collector.collect_fisher(model, {"input_ids": torch.empty(0, 4, dtype=torch.long)}, "b", progress=False)
    with pytest.warns(EmptyTaskWarning, match="task B, 'b', has no samples; averages are 0 .* known tasks: 'a'"):
        heatmap = score(collector)
    assert heatmap.attributes["valid"] is False
    for block in "QKVO":
        assert heatmap[block]["scores"].shape == (3, 0, 2, 6)
        assert (heatmap[block]["layer_head_avg"] == 0).all()
        assert heatmap[block]["top_conflicts"] == []


def test_task_a_without_samples_is_refused():
    model, collector = build_model("llama"), qkov.FisherCollector()
    collector.collect_fisher(model, {"input_ids": torch.empty(0, 4, dtype=torch.long)}, "a", progress=False)
    collector.collect_fisher(model, build_batch((4,)), "b", progress=False)
    with pytest.raises(EmptyTaskError, match="task A, 'a', has no samples"):
        score(collector)
    with pytest.raises(EmptyTaskError):
        metric_of(collector).compute_gradient_norms("a")


def test_unknown_task_a_is_refused():
    with pytest.raises(UnknownTaskError, match="known tasks: 'a', 'b'"):
        score(two_tasks("llama")[0], "c", "b")


def test_a_refused_layout_and_an_empty_task_say_what_to_do():
    collector, _ = two_tasks("llama")
    with pytest.raises(ModelChangedError) as other_model:
        qkov.QKOVInterferenceMetric(two_tasks("gpt2")[0].config, collector)
    assert str(other_model.value) == (
        "the collector holds gradients of a model with another layout than config. Pass QKOVConfig.from_model(model) of the "
        "model that was collected."
    )
    empty = qkov.FisherCollector()
    empty.collect_fisher(build_model("llama"), {"input_ids": torch.empty(0, 4, dtype=torch.long)}, "a", progress=False)
    with pytest.raises(EmptyTaskError) as no_samples:
        score(empty, "a", "a")
    assert str(no_samples.value) == "task A, 'a', has no samples; its Fisher is not defined. Collect it first."


def test_heatmap_larger_than_the_memory_is_refused_before_it_is_allocated(monkeypatch):
    collector, _ = two_tasks("llama")
    # 3 x 2 samples, 2 layers, 6 heads for Q and O, 2 kv heads for K and V, float64 twice
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 * 2 * 2 * (6 + 2) * 2 * 16 / memory.SHARE)
    score(collector)
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 * 2 * 2 * (6 + 2) * 2 * 16 / memory.SHARE - 2)
    monkeypatch.setattr(interference, "Frame", None)
    with pytest.raises(errors.MemoryLimitError, match=r"3 x 2 samples on 2 layers, 192 scores, ") as raised:
        score(collector)
    remedy = (
        " Score fewer samples with max_samples_per_task, or fewer layers or heads at a time; keep them in files with "
    )
    remedy += "scores_path, or reduce them while they are made (compute_summary)."
    assert str(raised.value).endswith(remedy)


# Scores in files


@pytest.mark.parametrize("options", [
    {}, {"variant": "signed", "fisher_pool": "pooled"}, {"variant": "full"}, {"variant": "dot"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_in_files_are_the_same_bits(tmp_path, options, dtype):
    metric = metric_of(two_tasks("llama", dtype)[0], **options)
    found = metric.compute_heatmap("a", "b", scores_path=tmp_path / "scores", progress=False)
    assert found.memory_mapped
    assert found.identical(metric.compute_heatmap("a", "b", progress=False))
    chosen = {"layers": [1], "heads": [5, 0], "max_samples_per_task": 2, "progress": False}
    part = metric.compute_heatmap("a", "b", scores_path=tmp_path / "part", **chosen)
    assert part.identical(metric.compute_heatmap("a", "b", **chosen))


def test_layers_without_a_slice_are_absent_in_files_too(tmp_path):
    metric = metric_of(uneven_tasks())
    found = metric.compute_heatmap("a", "b", scores_path=tmp_path / "scores", progress=False)
    assert not found.present.all()
    assert found.identical(metric.compute_heatmap("a", "b", progress=False))


def test_an_empty_task_b_in_files(tmp_path):
    with pytest.warns(EmptyTaskWarning):
        found = metric_of(two_tasks("llama")[0]).compute_heatmap(
            "a", "none", scores_path=tmp_path / "x", progress=False
        )
    assert found["K"]["scores"].shape == (3, 0, 2, 6)
    assert not found.mean_map("Q").any()


def test_a_heatmap_larger_than_the_memory_fits_into_files(tmp_path, monkeypatch):
    metric = metric_of(two_tasks("llama")[0])
    monkeypatch.setattr(memory, "available_bytes", lambda: 1)
    with pytest.raises(errors.MemoryLimitError):
        metric.compute_heatmap("a", "b", progress=False)
    assert metric.compute_heatmap("a", "b", scores_path=tmp_path / "scores", progress=False).memory_mapped


def test_a_heatmap_larger_than_the_disk_is_refused_before_a_file_is_made(tmp_path, monkeypatch):
    metric = metric_of(two_tasks("llama")[0])
    needed = 8 * 192 / resources.SHARE
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=needed - 1))
    with pytest.raises(errors.DiskError, match="a heatmap of 192 scores needs about"):
        metric.compute_heatmap("a", "b", scores_path=tmp_path / "scores", progress=False)
    assert list((tmp_path / "scores").iterdir()) == []
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=needed + 1))
    assert metric.compute_heatmap("a", "b", scores_path=tmp_path / "scores", progress=False).memory_mapped
    with pytest.raises(OptionError, match="a new or empty folder"):
        metric.compute_heatmap("a", "b", scores_path=tmp_path / "scores", progress=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, errors.NonFiniteError])
def test_scoring_that_does_not_end_leaves_no_scores(tmp_path, monkeypatch, error):
    real, calls = interference.scoring.score_slice, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise error
        return real(*arguments)

    monkeypatch.setattr(interference.scoring, "score_slice", interrupted)
    metric = metric_of(two_tasks("llama")[0])
    with pytest.raises(error):
        metric.compute_heatmap("a", "b", scores_path=tmp_path / "scores", progress=False)
    assert list((tmp_path / "scores").iterdir()) == []
    monkeypatch.undo()
    found = metric.compute_heatmap("a", "b", scores_path=tmp_path / "scores", progress=False)
    assert found.identical(metric.compute_heatmap("a", "b", progress=False))


def test_a_slice_in_the_wrong_place_of_a_file_is_noticed(tmp_path, monkeypatch):
    """Planted: a file is written as if slices lay unit by unit instead of layer by layer."""
    real = score_files._place

    def transposed(shape, layer, unit, row):
        layers, units = shape[2:]
        place = unit * layers + layer
        return real(shape, place // units, place % units, row)

    metric = metric_of(two_tasks("llama")[0])
    monkeypatch.setattr(score_files, "_place", transposed)
    found = metric.compute_heatmap("a", "b", scores_path=tmp_path / "scores", progress=False)
    monkeypatch.undo()
    assert not found.identical(metric.compute_heatmap("a", "b", progress=False))


def test_slice_that_does_not_fit_an_accelerator_names_itself(monkeypatch):
    def full(*_arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(scoring, "score_slice", full)
    with pytest.raises(
        errors.MemoryLimitError, match=r"layer 0, block Q, slice 0 .* Lower tile_elements \(now 8388608\)"
    ):
        score(two_tasks("llama")[0])


@pytest.mark.parametrize("variant", [one for one in VARIANTS if one != "dot"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_block_of_rounding_noise_scores_zero(variant, dtype):
    # Every token of a sample is the same and positions enter queries and keys only: the values are equal, so attention
    # cannot change anything and the exact gradients of Q and K are 0.
    model = build_model("llama", dtype=dtype, layers=1)
    collector = qkov.FisherCollector()
    for task, tokens in (("a", (3, 5, 7)), ("b", (4, 6))):
        batch = {"input_ids": torch.tensor(tokens)[:, None].repeat(1, 6)}
        collector.collect_fisher(model, batch, task, progress=False)
    found = score(collector, variant=variant)
    assert collector.sample("a", 0).squared_norms[0, "Q"] > 0  # noise, not zeros
    assert not found.arrays["Q"].any()
    assert not found.arrays["K"].any()
    assert found.arrays["V"].any()
    assert found.arrays["O"].any()


def test_option_without_meaning_is_refused():
    collector, _ = two_tasks("llama")
    with pytest.raises(OptionError, match="variant='loud'"):
        metric_of(collector, variant="loud")


def test_layout_of_another_model_is_refused():
    collector, _ = two_tasks("llama")
    with pytest.raises(ModelChangedError, match=r"another layout than config.*from_model"):
        qkov.QKOVInterferenceMetric(two_tasks("gpt2")[0].config, collector)


def test_metric_may_be_made_before_collecting():
    model, collector = build_model("llama"), qkov.FisherCollector()
    metric = qkov.QKOVInterferenceMetric(qkov.QKOVConfig.from_model(model), collector, min_samples_for_fisher=0)
    collector.collect_fisher(model, build_batch((4, 5)), "a", progress=False)
    assert metric.compute_heatmap("a", "a", progress=False).sample_a == (0, 1)


# Device


def test_cuda_without_a_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match=r"torch finds no CUDA device\. Use 'cpu' or 'auto'"):
        metric_of(two_tasks("llama")[0], computation_device="cuda")


@pytest.mark.parametrize(("available", "expected"), [(False, "cpu"), (True, "cuda")])
def test_auto_takes_what_there_is(monkeypatch, available, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert metric_of(two_tasks("llama")[0], computation_device="auto").options.device == expected


@pytest.mark.parametrize("device", ["tpu", 1.5, None])
def test_unknown_device_is_refused(device):
    with pytest.raises(OptionError, match="is not known; expected 'cpu', 'cuda', 'auto'"):
        metric_of(two_tasks("llama")[0], computation_device=device)


def test_device_object_is_accepted():
    collector, _ = two_tasks("llama")
    assert score(collector, computation_device=torch.device("cpu")).identical(score(collector))


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
def test_gpu_agrees_with_the_reference(variant):
    collector, truth = two_tasks("llama")
    options = {"variant": variant, "include_bias": True}
    heatmap = score(collector, computation_device="cuda", **options)
    assert heatmap.attributes["computation_device"] == "cuda"
    assert largest_error(heatmap, truth, collector.config, **options) < 1e-10


# The bar


@pytest.mark.parametrize("progress", [True, False])
def test_bar_appears_on_long_work_unless_switched_off(monkeypatch, capfd, progress):
    collector, _ = two_tasks("llama")
    real = interference.tqdm

    def hurried(*args, delay, **options):
        assert delay == 2
        return real(*args, delay=1e-9, mininterval=0, **options)

    monkeypatch.setattr(interference, "tqdm", hurried)
    metric_of(collector).compute_heatmap("a", "b", **({} if progress else {"progress": False}))
    shown = capfd.readouterr().err
    assert ("score: 100%" in shown) == progress
    assert ("32/32" in shown) == progress
    assert bool(re.search(r"\d slices/s|s/ slices\]", shown)) == progress


def test_bar_stays_away_on_short_work(capfd):
    metric_of(two_tasks("llama")[0]).compute_heatmap("a", "b")
    assert capfd.readouterr().err == ""


# Several variants at once


@pytest.mark.parametrize("options", [{}, {"fisher_pool": "pooled", "include_bias": True}, {"aggregate": "sum"}])
def test_heatmaps_of_several_variants_are_those_of_each_alone(options, tmp_path):
    collector, _ = two_tasks("gpt2")
    where = {"layers": [1], "heads": [0, 2], "max_samples_per_task": 2, "progress": False}
    found = metric_of(collector, **options).compute_heatmaps("a", "b", variants=VARIANTS, **where)
    assert tuple(found) == VARIANTS
    kept = metric_of(collector, **options).compute_heatmaps(
        "a", "b", variants=("dot", "signed"), scores_path=tmp_path / "scores", **where
    )
    for variant, heatmap in found.items():
        alone = metric_of(collector, variant=variant, **options).compute_heatmap("a", "b", **where)
        assert heatmap.attributes == alone.attributes
        for block in "QKVO":
            scale = np.abs(alone.arrays[block]).max()
            np.testing.assert_allclose(heatmap.arrays[block], alone.arrays[block], rtol=1e-12, atol=1e-14 * scale)
            if variant in kept:
                np.testing.assert_allclose(kept[variant].arrays[block], heatmap.arrays[block], rtol=1e-12)


def test_variants_that_make_no_heatmaps_together_are_refused():
    metric = metric_of(two_tasks("llama")[0])
    for variants, message in (
        ((), "variants is empty"),
        (("full",), "variants='full' is not known"),
        (("loud",), "loud"),
    ):
        with pytest.raises(errors.OptionError, match=message):
            metric.compute_heatmaps("a", "b", variants=variants)
    with pytest.raises(errors.OptionError, match="normalize_gj='per_token' with variant='signed'"):
        metric_of(two_tasks("llama")[0], normalize_gj="per_token").compute_heatmaps("a", "b", variants=("signed",))


@pytest.mark.parametrize("tiling", ["fast", "fixed"])
def test_with_fixed_tiling_a_pair_is_the_same_bits_as_in_a_heatmap(tiling):
    collector, _ = two_tasks("llama", torch.float32)
    metric = metric_of(collector, tiling=tiling)
    heatmap = metric.compute_heatmap("a", "b", progress=False)
    assert heatmap.attributes["tiling"] == tiling
    ids = collector.sample_ids("a")[1], collector.sample_ids("b")[1]
    pair = metric.compute_sample_pair("a", ids[0], "b", ids[1], layer=1, head=3)
    found = {block: heatmap[block]["scores"][1, 1, 1, 3] for block in "QKVO"}
    if tiling == "fixed":
        assert pair == found
    else:
        assert pair == pytest.approx(found, rel=1e-5)
