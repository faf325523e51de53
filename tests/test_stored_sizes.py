"""Bytes of samples, in memory exactly and in a store within one per cent, before there are any."""

import dataclasses
from pathlib import Path

import pytest
import torch

import qkov
from qkov import linear_weights, operations, resources, stored_sizes
from tests.builders import build_batch, build_model


def shape_of(model, tokens):
    hollow = operations.hollow(model)
    config = qkov.QKOVConfig.from_model(hollow)
    weights = linear_weights.find_linear_weights(hollow, config, "attention")
    return operations.trace_pass(hollow, config, [one.module_name for one in weights], tokens), weights, config


def collected(model, tokens, folder, dtype="float32", form="smaller"):
    with qkov.FisherCollector(store=folder, store_dtype=dtype, store_form=form) as collector:
        for task, count in (("a", 7), ("b", 5)):
            batch = build_batch((tokens,) * count, start=3, seed=count)
            collector.collect_fisher(model, batch, task, progress=False, micro_batch=3)
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("family", "tokens", "dtype", "form"),
    [
        ("llama", 12, "float32", "smaller"),
        ("gpt2", 12, "bfloat16", "smaller"),
        ("gpt2", 31, "float32", "smaller"),  # whole gradients take fewer bytes
        ("gpt2", 31, "float32", "factors"),
        ("phi3", 31, "bfloat16", "smaller"),
        ("opt", 31, "float32", "smaller"),
    ],
)
def test_a_store_takes_what_was_planned(family, tokens, dtype, form, tmp_path):
    model = build_model(family, dtype=torch.float32)
    shape, weights, config = shape_of(model, tokens)

    def planned(shape, form=form):
        stored = getattr(torch, dtype)
        return stored_sizes.store_bytes(shape, weights, config, {"a": 7, "b": 5}, 3, dtype=stored, store_form=form)

    taken = collected(model, tokens, tmp_path / "store", dtype, form)
    assert planned(shape) == pytest.approx(taken, rel=0.01)
    if tokens == 31:  # the other form is told apart
        assert planned(shape, {"smaller": "factors", "factors": "smaller"}[form]) != pytest.approx(taken, rel=0.01)
    else:  # so is one token more
        assert planned(dataclasses.replace(shape, num_tokens=tokens)) != pytest.approx(taken, rel=0.01)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "qwen3"])
def test_factors_take_what_was_planned(family):
    model = build_model(family, dtype=torch.float32)
    shape, weights, config = shape_of(model, 12)
    collector = qkov.FisherCollector()
    collector.collect_fisher(model, build_batch((12,)), "a", progress=False)
    pairs = collector.samples("a")[0].factors.values()
    tensors = {tensor.data_ptr(): tensor.nbytes for pair in pairs for tensor in (pair.inputs, pair.deltas)}
    assert stored_sizes.factor_bytes(shape, 4) == sum(tensors.values())
    assert stored_sizes.factor_bytes(shape, 4) == resources.sample_bytes(weights, config, 11, 4)


def test_what_is_read_of_a_sample_is_some_tensors_not_all():
    model = build_model("llama", dtype=torch.float32, layers=4)
    shape, _, config = shape_of(model, 12)
    read = stored_sizes.read_bytes(shape, config, dtype=torch.float32)
    layer = stored_sizes.factor_bytes(shape, 4) / 4
    assert layer < read < 2 * layer
