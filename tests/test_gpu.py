"""On a GPU: the same numbers as on the CPU within tier D3. Skipped, and counted as skipped, where there is none."""

import gc
import importlib.util
import time

import numpy as np
import pytest
import torch

import qkov
from qkov import formula, reproducibility, tiers
from tests import builders

pytestmark = pytest.mark.gpu
BATCHES = {"a": builders.build_batch([9, 6, 8, 7], seed=1), "b": builders.build_batch([7, 8, 5], seed=2)}
D3 = tiers.D3_SINGLE


def collect_on(device, family, dtype=torch.float32):
    model = builders.build_model(family, dtype=dtype).to(device)
    collector = qkov.FisherCollector()
    for task, batch in BATCHES.items():
        collector.collect_fisher(model, batch, task, loss_fn=builders.loss_of(family), progress=False)
    return collector


@pytest.mark.parametrize("family", builders.FAMILIES)
def test_scores_agree_with_the_cpu_wherever_they_are_collected_and_computed(family):
    found = {}
    for collected, computed in (("cpu", "cpu"), ("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")):
        collector = collect_on(collected, family)
        metric = qkov.QKOVInterferenceMetric(
            collector.config, collector, min_samples_for_fisher=1, computation_device=computed
        )
        found[collected, computed] = metric.compute_heatmap("a", "b", progress=False)
    expected = found["cpu", "cpu"].arrays
    for result in found.values():
        for block, scores in expected.items():
            np.testing.assert_allclose(result.arrays[block], scores, atol=D3 * scores.max())


@pytest.mark.parametrize("variant", formula.MATRIX_VARIANTS)
def test_matrix_weighted_scores_agree_with_the_cpu(variant):
    found = {}
    for collected, computed in (("cpu", "cpu"), ("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")):
        collector = collect_on(collected, "llama")
        metric = qkov.QKOVInterferenceMetric(
            collector.config, collector, variant=variant, fisher_pool="pooled", include_bias=True,
            min_samples_for_fisher=1, computation_device=computed,
        )  # fmt: skip
        scaled = qkov.scale_by_fisher(collector, "a", method=variant, computation_device=computed).slices[1, "K", 0]
        found[collected, computed] = metric.compute_heatmap("a", "b", progress=False).arrays | {"scaled": scaled.cpu()}
    expected = found["cpu", "cpu"]
    for result in found.values():
        for block, scores in expected.items():
            np.testing.assert_allclose(result[block], scores, atol=D3 * abs(scores).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_laws_hold_on_the_gpu(dtype):
    model = builders.build_model("llama", dtype=dtype).to("cuda")
    results = qkov.check_model(model, BATCHES["a"], BATCHES["b"], progress=False)
    assert [str(result) for result in results if result.status == "failed"] == []


@pytest.mark.skipif(importlib.util.find_spec("statsmodels") is None, reason="statsmodels is missing")
@pytest.mark.filterwarnings("ignore::qkov.errors.StatisticsWarning")
def test_tests_agree_with_the_cpu():
    found = [
        qkov.QKOVStatistics(n_permutations=9, n_splits=2).test_heatmap(
            collect_on(device, "llama"), "a", "b", clusters="iid", seed=1, computation_device=device, progress=False
        )
        for device in ("cpu", "cuda")
    ]
    for name in ("exchange_effect", "lift", "lift_low"):
        np.testing.assert_allclose(found[1].columns[name], found[0].columns[name], rtol=D3, atol=D3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_fisher_diagonal_agrees_with_the_cpu_and_with_that_of_kept_samples(family):
    model = builders.build_model(family, dtype=torch.float32)
    expected = qkov.collect_fisher_diagonal(model, BATCHES["a"], "a", progress=False)
    model.to("cuda")
    found = qkov.collect_fisher_diagonal(model, BATCHES["a"], "a", progress=False)
    kept = qkov.FisherDiagonal.of(builders.collect(model, BATCHES["a"], weights=("attention", "mlp")), "a")
    for name, value in expected.values.items():
        assert found.values[name].device.type == "cpu"
        for other in (found, kept):
            np.testing.assert_allclose(other.values[name], value, atol=D3 * float(value.max()))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bfloat16_model_is_scored_in_float32_and_finite(family):
    collector = collect_on("cuda", family, torch.bfloat16)
    sample = collector.samples("a")[0]
    assert {pair.deltas.dtype for pair in sample.factors.values()} == {torch.bfloat16}
    assert {pair.deltas.device.type for pair in sample.factors.values()} == {"cuda"}
    found = score_on("cuda", collector)
    exact = score_on("cuda", collect_on("cuda", family))
    for block, scores in found.items():
        assert np.isfinite(scores).all()
        # No promise on digits (tier D4), but not another measurement either.
        assert np.corrcoef(scores.ravel(), exact[block].ravel())[0, 1] > 0.9


def score_on(device, collector, **options):
    metric = qkov.QKOVInterferenceMetric(
        collector.config,
        collector,
        fisher_pool="pooled",
        min_samples_for_fisher=1,
        computation_device=device,
        **options,
    )
    return metric.compute_heatmap("a", "b", progress=False).arrays


def test_all_memory_comes_back():
    def allocated_after():
        score_on("cuda", collect_on("cuda", "llama"))
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    first = allocated_after()  # with the workspaces of the libraries
    assert [allocated_after() for _ in range(3)] == [first] * 3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_gpu_repeats_its_bits(family):
    with reproducibility.deterministic():
        one, other = (score_on("cuda", collect_on("cuda", family)) for _ in range(2))
    for block, scores in one.items():
        assert (scores == other[block]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_pass_that_is_too_large_is_halved(monkeypatch, dtype):
    from qkov import gradients

    collect, sizes = gradients.collect_factors, []

    def refusing(model, batch, *rest):
        sizes.append(len(batch["input_ids"]))
        if sizes[-1] > 2:
            torch.empty(2**50, device="cuda")  # more than any device has
        return collect(model, batch, *rest)

    monkeypatch.setattr(gradients, "collect_factors", refusing)
    assert len(collect_on("cuda", "llama", dtype).samples("a")) == 4
    assert max(sizes) > 2 >= sizes[-1]


def seconds_of(run, repeats=5):
    """Median seconds of a call on the device, after one that is not counted."""
    run()
    found = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return sorted(found)[repeats // 2]


def test_scoring_reaches_six_tenths_of_the_square_product():
    """A goal, never measured so far: one layer of GPT-2 small, 100 + 100 samples of 128 tokens, float32."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=1, vocab_size=1000, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config).eval().to("cuda")
    collector = qkov.FisherCollector()
    for task, seed in (("a", 1), ("b", 2)):
        ids = torch.randint(0, 1000, (100, 128), generator=torch.Generator().manual_seed(seed))
        collector.collect_fisher(model, {"input_ids": ids}, task, progress=False)
    square = torch.randn(8192, 8192, device="cuda")
    rate = 2 * 8192**3 / seconds_of(lambda: square @ square)
    num_parameters = 4 * 768 * 768
    operations = 2 * num_parameters * (128 * 200 + 100 * 100)
    assert operations / seconds_of(lambda: score_on("cuda", collector)) >= 0.60 * rate
