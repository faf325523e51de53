"""A slice that is moved really is moved, alone, and put back."""

import copy

import pytest
import torch

import qkov
from qkov import losses
from tests import builders
from validation import interventions


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("block", "unit"), [("Q", 4), ("K", 1), ("V", 1), ("O", 5)])
def test_the_change_is_that_of_a_changed_copy(family, block, unit):
    model = builders.build_model(family)
    batch = builders.build_batch((5, 8, 6), seed=1)
    layout = qkov.QKOVConfig.from_model(model).layer(1)
    projection = layout.projection(block)
    watched = interventions.watch(model, batch)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    place = projection.slice_of(unit).index
    size = model.get_parameter(projection.param_name)[place].numel()
    step = 0.05 * torch.randn(size, generator=generator, dtype=torch.float64)
    found = interventions.change(watched, layout, projection, unit, step)
    # By hand: heads of Q, K, V are rows of nn.Linear and columns of Conv1D, heads of O the other way round.
    twin = copy.deepcopy(model)
    with torch.no_grad():
        weight = twin.get_parameter(projection.param_name)
        stored = weight[place]
        rows = stored if stored.shape[0] == projection.width and projection.head_axis == 0 else stored.T
        rows += step.reshape(rows.shape)
    expected = losses.causal_lm_loss(twin, batch)[0] - losses.causal_lm_loss(model, batch)[0]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-7)
    assert found.abs().max() > 1e-4
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_nothing_moved_changes_nothing():
    model = builders.build_model("llama", dtype=torch.float32)
    layout = qkov.QKOVConfig.from_model(model).layer(1)
    projection = layout.projection("V")
    watched = interventions.watch(model, builders.build_batch((5, 8, 6)))
    size = model.get_parameter(projection.param_name)[projection.slice_of(0).index].numel()
    assert not interventions.change(watched, layout, projection, 0, torch.zeros(size)).any()
    assert watched.num_tokens == pytest.approx((4 + 7 + 5) / 3)
    assert "forward" not in vars(watched.layers[0])  # replayed layers compute again
