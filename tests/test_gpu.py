"""On a GPU: the same numbers as on the CPU within tier D3. Skipped, and counted as skipped, where there is none."""

import numpy as np
import pytest
import torch

import qkov
from qkov import formula
from tests import builders

pytestmark = pytest.mark.gpu
BATCHES = {"a": builders.build_batch([9, 6, 8, 7], seed=1), "b": builders.build_batch([7, 8, 5], seed=2)}
D3 = 1e-3


def collect_on(device, family):
    model = builders.build_model(family, dtype=torch.float32).to(device)
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


def test_laws_hold_on_the_gpu():
    model = builders.build_model("llama", dtype=torch.float64).to("cuda")
    results = qkov.check_model(model, BATCHES["a"], BATCHES["b"], progress=False)
    assert [str(result) for result in results if result.status == "failed"] == []


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
