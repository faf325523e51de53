"""Scaled gradients against dense matrices, against the scores they make, and in the checkpoint's layout."""

import json

import numpy as np
import pytest
import torch

import qkov
from qkov import errors, formula, layout
from tests.builders import build_batch, build_model

LENGTHS = (5, 7, 4, 6)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def collector(request):
    model, held = build_model(request.param), qkov.FisherCollector()
    for task, seed in (("a", 1), ("b", 2)):
        held.collect_fisher(model, build_batch(LENGTHS, seed=seed), task, progress=False)
    return held


def every_slice(collector):
    return [
        (one, projection, unit)
        for one in collector.config.layers
        for projection in one.projections
        for unit in range(projection.num_units)
    ]


def gradients_of(collector, task, one, projection, unit, include_bias=False):
    """``h`` of a slice in the order ``[width, other]``, bias last, from whole stored gradients."""
    rows = []
    for member in collector.samples(task):
        grads = collector.get_sample_gradients(task, member.sample_id)
        where = projection.slice_of(unit)
        part = grads[projection.param_name][where.index].double()
        part = part if projection.head_axis == 0 else part.T
        if include_bias and projection.bias_name:
            part = torch.cat([part, grads[projection.bias_name][where.bias_index].double()[:, None]], 1)
        rows.append(part.flatten() / member.num_tokens**0.5)
    return torch.stack(rows)


@pytest.mark.parametrize("method", ["diagonal", "kfac", "full"])
@pytest.mark.parametrize("include_bias", [False, True])
def test_product_with_a_gradient_is_the_score(collector, method, include_bias):
    variant = {"diagonal": "signed"}.get(method, method)
    found = qkov.scale_by_fisher(collector, "b", fisher_task="a", method=method, include_bias=include_bias)
    metric = qkov.QKOVInterferenceMetric(
        collector.config,
        collector,
        variant=variant,
        aggregate="sum",
        include_bias=include_bias,
        min_samples_for_fisher=1,
    )
    scores = metric.compute_heatmap("a", "b", progress=False)
    for one, projection, unit in every_slice(collector):
        h = gradients_of(collector, "a", one, projection, unit, include_bias)
        product = h @ found.slices[one.layer, projection.block, unit].flatten(1).T
        expected = scores.arrays[projection.block][:, :, one.layer, unit]
        assert np.abs(product.numpy() - expected).max() <= 1e-9 * np.abs(expected).max()


def test_diagonal_is_the_left_factor_of_signed(collector):
    found = qkov.scale_by_fisher(collector, "a")
    for one, projection, unit in every_slice(collector):
        h = gradients_of(collector, "a", one, projection, unit)
        block = [gradients_of(collector, "a", one, projection, other) for other in range(projection.num_units)]
        damped = formula.damp(h.square().mean(0), torch.cat(block, 1).square().mean())
        expected = formula.left_factor("signed", None, h, damped)
        rows = found.slices[one.layer, projection.block, unit].flatten(1)
        assert (rows - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("method", ["diagonal", "kfac", "full"])
def test_root_twice_is_the_power_of_one(collector, method):
    """(F + lambda)^-1/2 of h, and the same of h', have the product h^T (F + lambda)^-1 h'."""
    whole, root = (qkov.scale_by_fisher(collector, "b", fisher_task="a", method=method, power=p) for p in (1, 0.5))
    for one, projection, unit in every_slice(collector)[::3]:
        key = one.layer, projection.block, unit
        h, half = gradients_of(collector, "b", one, projection, unit), root.slices[key].flatten(1)
        expected = h @ whole.slices[key].flatten(1).T
        assert (half @ half.T - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_full_equals_the_dense_power(collector):
    for one, projection, unit in every_slice(collector)[::4]:
        h = gradients_of(collector, "a", one, projection, unit)
        matrix = h.T @ h / len(h)
        values, vectors = torch.linalg.eigh(matrix + 0.1 * matrix.trace() / len(h) * torch.eye(len(matrix)).double())
        for power in (1, 0.5):
            found = qkov.scale_by_fisher(collector, "a", method="full", power=power)
            expected = h @ (vectors / values**power @ vectors.T)
            rows = found.slices[one.layer, projection.block, unit].flatten(1)
            assert (rows - expected).abs().max() <= 1e-7 * expected.abs().max()


@pytest.mark.parametrize("method", ["diagonal", "full"])
def test_parameters_are_laid_out_like_the_checkpoint(collector, method):
    found = qkov.scale_by_fisher(collector, "a", method=method, include_bias=True)
    grads = collector.get_sample_gradients("a", 0)
    indexer, parameters = layout.QKOVIndexer(collector.config), dict(found.parameters)
    assert set(parameters) == set(grads)
    for layer, block, unit, where in indexer:
        rows = found.slices[layer, block, unit]
        part = parameters[where.param_name][(slice(None), *where.index)]
        part = part if collector.config.layer(layer).projection(block).head_axis == 0 else part.transpose(1, 2)
        assert torch.equal(part, rows[:, :, : part.shape[2]])
        if where.bias_name:
            assert torch.equal(parameters[where.bias_name][:, where.bias_index], rows[:, :, -1])
    for name, grad in grads.items():
        assert parameters[name].shape == (4, *grad.shape)


def test_mean_is_the_mean_of_the_rows_and_rows_are_the_samples_asked_for(collector):
    for method in ("diagonal", "kfac", "full"):
        every = qkov.scale_by_fisher(collector, "a", method=method)
        mean = qkov.scale_by_fisher(collector, "a", method=method, average="mean")
        some = qkov.scale_by_fisher(collector, "a", method=method, sample_ids=[2, 0])
        key = (1, "V", 0)
        np.testing.assert_allclose(mean.slices[key], every.slices[key].mean(0, keepdim=True), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(some.slices[key], every.slices[key][[2, 0]], rtol=1e-9, atol=1e-9)
        assert mean.sample_ids == ("mean",)
        assert some.sample_ids == (2, 0)


def test_a_dead_slice_stays_zero():
    model, held = build_model("llama"), qkov.FisherCollector()
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[:, :12] = 0  # heads 0 to 2: the first kv group
    held.collect_fisher(model, build_batch(LENGTHS), "a", progress=False)
    for method in ("diagonal", "kfac", "full"):
        found = qkov.scale_by_fisher(held, "a", method=method)
        assert not found.slices[0, "V", 0].any()
        assert found.slices[0, "V", 1].any()


def test_attributes_are_json_and_the_text_says_what_it_is(collector):
    found = qkov.scale_by_fisher(collector, "a", method="kfac", power=0.5, fisher_task="b")
    facts = json.loads(json.dumps(found.attributes))
    assert (facts["fisher_task"], facts["ridge_lambda_rel"], facts["num_fisher_samples"]) == ("b", 0.1, 4)
    assert "kfac Fisher of 'b' to the power -0.5, 4 rows" in repr(found)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "natural"}, errors.OptionError, "method='natural'"),
        ({"power": 2}, errors.OptionError, "power=2 is not known"),
        ({"average": "sum"}, errors.OptionError, "average='sum'"),
        ({"fisher_source": "head"}, errors.OptionError, "scales a slice by one number"),
        ({"sample_ids": []}, errors.OptionError, "no sample of task 'a'"),
        ({"sample_ids": [9]}, errors.UnknownSampleError, "no sample 9"),
        ({"fisher_task": "c"}, errors.UnknownTaskError, "no task 'c'"),
        ({"method": "full", "ridge_lambda": 0.0}, errors.OptionError, "the matrix is singular"),
    ],
)
def test_request_without_meaning_is_refused(collector, options, error, message):
    with pytest.raises(error, match=message):
        qkov.scale_by_fisher(collector, "a", **options)
