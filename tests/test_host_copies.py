"""How often the host asks the device while collecting and scoring: not once more for more samples, layers or tiles.

Counted on the CPU, where the same operations ask; what it saves on a GPU has not been measured.
"""

import pytest
import torch

import qkov
from qkov import gradients, losses, sample_rows
from tests import builders
from tests.host_copies import HostCopies

LENGTHS = (7, 5, 6, 4, 7, 6, 5, 7)


def asked(run):
    with HostCopies() as counted:
        run()
    return counted


def collection_pass(model, num_samples, *, first_axis=None):
    """Questions of one pass over ``num_samples`` samples."""
    config = qkov.QKOVConfig.from_model(model)
    batch = builders.build_batch(LENGTHS[:num_samples], seed=1)
    return asked(
        lambda: gradients.collect_factors(
            model, batch, config, losses.causal_lm_loss, list(range(num_samples)), first_axis
        )
    )


@pytest.mark.parametrize(
    ("ask", "number"),
    [
        (lambda tensor: tensor.tolist(), 1),
        (lambda tensor: float(tensor.sum()), 1),
        (lambda tensor: bool((tensor > 0).all()), 1),
        (lambda tensor: tensor[tensor > 0], 1),
        (lambda tensor: tensor.sum().item() + int(tensor.max()), 2),
        (lambda tensor: torch.equal(tensor, tensor), 1),
        (lambda tensor: (tensor > 0).nonzero(), 1),
        (lambda tensor: tensor.cpu().numpy(), 2),
        (lambda tensor: tensor[0] + tensor[1:] @ tensor[1:], 0),
        (lambda tensor: tensor.index_select(0, torch.tensor([0, 1])), 0),
    ],
)
def test_what_asks_is_counted_and_nothing_else(ask, number):
    assert asked(lambda: ask(torch.arange(4.0))).total == number


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
@pytest.mark.parametrize("known", [True, False])
def test_a_pass_asks_as_often_for_many_samples_as_for_few(family, known):
    model = builders.build_model(family)
    counts = [
        collection_pass(model, number, first_axis=sample_rows.FirstAxis(True) if known else None)
        for number in (2, len(LENGTHS))
    ]
    assert counts[0].by_name == counts[1].by_name
    assert 0 < counts[0].total <= 14


def test_a_pass_asks_as_often_for_many_layers_as_for_one():
    counts = [collection_pass(builders.build_model("llama", layers=layers), 3) for layers in (1, 4)]
    assert counts[0].by_name == counts[1].by_name


def test_asking_for_each_sample_and_module_is_seen(monkeypatch):
    def one_by_one(found, sample_names):
        for factors in found:
            for pair in factors.values():
                assert torch.isfinite(pair.deltas).all()

    monkeypatch.setattr(gradients, "_require_finite", one_by_one)
    model = builders.build_model("llama")
    assert collection_pass(model, 8).total > collection_pass(model, 2).total + 40


def test_one_number_for_each_slice_is_asked_for_slice_by_slice_and_not_sample_by_sample():
    model = builders.build_model("llama")

    def questions(num_samples):
        collector = builders.collect(model, builders.build_batch(LENGTHS[:num_samples], seed=1))
        task = collector.tasks[0]
        return asked(lambda: collector.group_statistics(task)).total

    assert questions(2) == questions(8)


def test_norms_of_all_blocks_of_a_layer_are_asked_for_at_once():
    model = builders.build_model("llama")
    collector = builders.collect(model, builders.build_batch(LENGTHS[:2], seed=1))
    (sample, _), layout = collector.samples("a"), collector.config.layers[0]
    assert asked(lambda: gradients.squared_norms(sample.factors, layout)).total == 1
    one_by_one = {one.block: gradients.squared_norm(sample.factors, one) for one in layout.projections}
    assert gradients.squared_norms(sample.factors, layout) == one_by_one


def test_scoring_asks_as_often_for_many_tiles_as_for_few():
    model = builders.build_model("llama", dtype=torch.float32)
    collector = qkov.FisherCollector()
    for task, seed in (("a", 1), ("b", 2)):
        collector.collect_fisher(model, builders.build_batch(LENGTHS, seed=seed), task, progress=False)

    def questions(tile_elements):
        metric = qkov.QKOVInterferenceMetric(
            collector.config, collector, min_samples_for_fisher=1, tile_elements=tile_elements
        )
        metric.compute_heatmap("a", "b", progress=False)  # norms of blocks are kept
        return asked(lambda: metric.compute_heatmap("a", "b", progress=False)).total

    assert questions(16 * 4 * 3) == questions(2**22)
