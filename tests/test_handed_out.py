"""What a collector hands out: gradients and contributions by name, and their sums by head."""

import numpy as np
import pytest
import torch

import qkov
from qkov.errors import OptionError, UnknownParameterError, UnknownSampleError, UnknownTaskError
from tests.builders import build_batch, build_model, collect, pooled_loss, reference_gradients

LENGTHS = (5, 8, 3, 7)


@pytest.fixture(scope="module")
def model():
    return build_model("llama")


@pytest.fixture(scope="module")
def collected(model):
    """Task "a" with string ids; treated as read-only."""
    return collect(model, build_batch(LENGTHS), sample_ids=["p", "q", "r", "s"])


def test_contributions_are_squares_over_tokens_under_their_public_keys(collected):
    assert list(collected.contribution_cache) == ["a"]
    assert list(collected.contribution_cache["a"]) == ["a_p", "a_q", "a_r", "a_s"]
    assert len(collected.contribution_cache["a"]) == 4
    expected, tokens = reference_gradients("llama", "sdpa", LENGTHS)
    for key, truth, count in zip(collected.contribution_cache["a"], expected, tokens, strict=True):
        for name, contribution in collected.contribution_cache["a"][key].items():
            assert contribution.shape == truth[name].shape
            np.testing.assert_allclose(
                contribution.numpy(), truth[name] ** 2 / count, rtol=1e-9, atol=1e-20 * (truth[name] ** 2).max()
            )


def test_contributions_without_normalisation_are_squares(model):
    found = qkov.FisherCollector(contribution_normalisation="none")
    found.collect_fisher(model, build_batch((5,)), "a", progress=False)
    grads = found.get_sample_gradients("a", 0)
    assert all(torch.equal(found.contribution_cache["a"]["a_0"][name], grads[name].square()) for name in grads)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "phi3", "bert"])
def test_every_projection_parameter_is_handed_out_in_its_stored_shape(family):
    model = build_model(family)
    loss_fn = pooled_loss if family == "bert" else None
    grads = collect(model, build_batch((5,)), loss_fn=loss_fn).get_sample_gradients("a", 0)
    parameters = dict(model.named_parameters())
    assert {name: grad.shape for name, grad in grads.items()} == {name: parameters[name].shape for name in grads}
    per_layer = {"llama": 7, "gpt2": 3, "gpt_neox": 3, "opt": 7, "phi3": 2, "bert": 7}[
        family
    ]  # O's bias belongs to no head
    assert len(grads) == 2 * per_layer


def test_values_are_built_on_demand(collected):
    contributions = collected.contribution_cache["a"]["a_p"]
    name = next(iter(contributions))
    assert contributions[name] is not contributions[name]
    assert "a_p" in repr(collected.contribution_cache["a"])


def test_unknown_keys_of_what_is_handed_out_are_our_errors(collected):
    with pytest.raises(UnknownTaskError, match="no entry 'b'; known: 'a'"):
        collected.contribution_cache["b"]
    with pytest.raises(UnknownSampleError, match="no entry 'a_9'; known: 'a_p', 'a_q'"):
        collected.contribution_cache["a"]["a_9"]
    with pytest.raises(UnknownParameterError, match=r"no entry 'lm_head.weight'; known: .*, \.\.\."):
        collected.contribution_cache["a"]["a_p"]["lm_head.weight"]
    with pytest.raises(UnknownParameterError):
        collected.get_sample_gradients("a", "p")["lm_head.weight"]
    assert "a_9" not in collected.contribution_cache["a"]


def test_fisher_of_a_task_is_the_mean_of_its_contributions(collected):
    group = collected.get_group_fisher("a", mode="welford")
    assert set(group) == {(layer, block) for layer in (0, 1) for block in "QKVO"}
    for layout in collected.config.layers:
        for projection in layout.projections:
            mean = torch.stack([one[projection.param_name] for one in collected.contribution_cache["a"].values()]).mean(
                0
            )
            for unit, found in enumerate(group[layout.layer, projection.block]):
                assert float(found) == pytest.approx(float(mean[projection.slice_of(unit).index].sum()), rel=1e-10)


def test_exponential_fisher_weighs_in_the_order_of_collection(model):
    found = qkov.FisherCollector(ema_decay=0.5)
    found.collect_fisher(model, build_batch((4, 6)), "a", progress=False)
    first, second = found._group_contributions("a")[1, "V"]
    expected = (0.25 * first + 0.5 * second) / 0.75
    assert torch.allclose(found.get_group_fisher("a")[1, "V"], expected, rtol=1e-13)
    assert found.get_group_fisher("a")[1, "V"].shape == (2,)


def test_group_statistics_hold_variance_and_standard_error(collected):
    state = collected.group_statistics("a")[0, "Q"]
    values = collected._group_contributions("a")[0, "Q"]
    assert state.count == 4
    assert torch.allclose(state.variance, values.var(0), rtol=1e-12)
    assert torch.allclose(state.standard_error, values.std(0) / 2, rtol=1e-12)


def test_group_fisher_of_another_mode_is_refused(collected):
    with pytest.raises(OptionError, match="mode='median'"):
        collected.get_group_fisher("a", mode="median")
