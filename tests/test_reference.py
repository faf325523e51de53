"""The slow reference itself, against numbers worked out by hand and an independent differentiation."""

import numpy as np
import pytest
import torch

from qkov import reference
from qkov.errors import OptionError
from qkov.layout import QKOVConfig
from tests.builders import build_batch, build_model, loss_of, pooled_loss


@pytest.fixture(scope="module")
def layout():
    return QKOVConfig.from_model(build_model("llama", layers=1)).layers[0]


@pytest.fixture(scope="module")
def tasks():
    model = build_model("llama", layers=1)
    return [
        reference.sample_gradients(model, build_batch(lengths, seed=seed)) for lengths, seed in (((4, 6), 1), ((5,), 2))
    ]


def test_gradient_is_the_slope_of_the_loss():
    model = build_model("gpt2", layers=1)
    batch = build_batch((4, 6))
    grads, tokens = reference.sample_gradients(model, batch)
    assert tokens == [3, 5]
    weight = model.transformer.h[0].attn.c_attn.weight
    with torch.no_grad():
        for row in range(2):
            step = 1e-6
            losses = []
            for sign in (1, -1):
                weight[3, 40] += sign * step
                losses.append(float(reference._own_loss(model, batch, row)[0]))
                weight[3, 40] -= sign * step
            slope = (losses[0] - losses[1]) / (2 * step)
            assert grads[row]["transformer.h.0.attn.c_attn.weight"][3, 40] == pytest.approx(slope, rel=1e-6)


def test_model_is_left_as_it_was():
    model = build_model("gpt2", dtype=torch.float32).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reference.sample_gradients(model, build_batch((4,)))
    assert model.training
    assert all(parameter.grad is None and parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Turned(torch.nn.Module):
    """A linear layer whose outputs are turned in the complex plane, as Llama 4's vision tower turns its positions."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)
        self.register_buffer("turn", torch.polar(torch.ones(2), torch.tensor([0.5, 1.0])))

    def forward(self, x):
        pairs = torch.view_as_complex(self.linear(x).float().reshape(-1, 2, 2))
        return torch.view_as_real(pairs * self.turn)


def test_complex_buffers_of_a_model_keep_both_parts():
    torch.manual_seed(0)
    model, x = Turned(), torch.randn(1, 3)

    def loss_fn(model, batch):
        return (model(batch["x"]) * torch.tensor([1.0, 2.0])).sum((1, 2))

    (grad,), _ = reference.sample_gradients(model, {"x": x}, loss_fn)
    loss_fn(model, {"x": x}).backward()
    assert grad["linear.weight"] == pytest.approx(model.linear.weight.grad.numpy(), rel=1e-5)


def test_user_loss_without_counts_counts_one():
    _, tokens = reference.sample_gradients(build_model("bert"), build_batch((4, 6)), loss_of("bert"))
    assert tokens == [1, 1]


def test_user_loss_may_count_and_take_entries_that_are_no_tensors():
    def counted(model, batch):
        assert batch.pop("note") == "kept"
        assert batch.pop("weight").dtype == torch.float64
        return pooled_loss(model, batch), [7]

    batch = build_batch((4, 6)) | {"note": "kept", "weight": torch.ones(2)}
    _, tokens = reference.sample_gradients(build_model("bert", layers=1), batch, counted)
    assert tokens == [7, 7]


@pytest.mark.parametrize("block", "QKVO")
def test_cut_takes_the_rows_or_columns_of_one_unit(layout, block):
    where = layout.projection(block)
    grad = {where.param_name: np.arange(np.prod(where.weight_shape), dtype=float).reshape(where.weight_shape)}
    start = where.width  # unit 1
    whole = grad[where.param_name]
    expected = whole[:, start : start + where.width] if block == "O" else whole[start : start + where.width]
    assert np.array_equal(reference.cut(grad, layout, block, 1), expected.ravel())


def test_cut_appends_the_bias_where_there_is_one(layout):
    query, output = layout.projection("Q"), layout.projection("O")
    grad = {
        query.param_name: np.zeros(query.weight_shape),
        query.bias_name: np.arange(24.0),
        output.param_name: np.zeros(output.weight_shape),
    }
    assert reference.cut(grad, layout, "Q", 2, include_bias=True)[-4:].tolist() == [8, 9, 10, 11]
    assert reference.cut(grad, layout, "O", 2, include_bias=True).size == 24 * 4


def by_hand(layout, tasks, block="V", unit=1):
    """Slices and token counts of both tasks, for formulas in the tests."""
    (grads_a, tokens_a), (grads_b, tokens_b) = tasks
    a, b = ([reference.cut(one, layout, block, unit) for one in grads] for grads in (grads_a, grads_b))
    return np.array(a), np.array(tokens_a), np.array(b), np.array(tokens_b)


def test_score_is_the_formula_written_for_arrays(layout, tasks):
    a, tokens_a, b, _ = by_hand(layout, tasks)
    contribution = a**2 / tokens_a[:, None]
    found = reference.scores(*tasks[0], *tasks[1], layout, "V", 1, ridge_lambda_rel=0.0)
    np.testing.assert_allclose(found, (contribution / contribution.mean(0)) @ np.abs(b).T / a.shape[1], rtol=1e-12)


def test_absolute_damping_is_the_floor_plus_the_ridge(layout, tasks):
    a, tokens_a, b, _ = by_hand(layout, tasks)
    contribution = a**2 / tokens_a[:, None]
    damped = np.maximum(contribution.mean(0), 1e-3) + 1e-2
    found = reference.scores(*tasks[0], *tasks[1], layout, "V", 1, epsilon=1e-3, ridge_lambda=1e-2, aggregate="sum")
    np.testing.assert_allclose(found, (contribution / damped) @ np.abs(b).T, rtol=1e-12)


def test_dot_is_the_inner_product(layout, tasks):
    a, _, b, _ = by_hand(layout, tasks)
    found = reference.scores(*tasks[0], *tasks[1], layout, "V", 1, variant="dot", aggregate="sum")
    np.testing.assert_allclose(found, a @ b.T, rtol=1e-12, atol=1e-14)


def test_head_source_divides_by_one_number(layout, tasks):
    a, _, b, _ = by_hand(layout, tasks)
    found = reference.scores(
        *tasks[0],
        *tasks[1],
        layout,
        "V",
        1,
        fisher_source="head",
        contribution_normalisation="none",
        ridge_lambda_rel=0.0,
    )
    np.testing.assert_allclose(found, (a**2 / (a**2).mean()) @ np.abs(b).T / a.shape[1], rtol=1e-12)


def test_ema_source_weighs_later_samples_more(layout, tasks):
    a, _, b, _ = by_hand(layout, tasks)
    weights = np.array([0.5 * 0.5, 0.5]) / 0.75
    found = reference.scores(
        *tasks[0], *tasks[1], layout, "V", 1, fisher_source="ema", ema_decay=0.5, contribution_normalisation="none",
        ridge_lambda_rel=0.0,
    )  # fmt: skip
    np.testing.assert_allclose(found, (a**2 / (weights @ a**2)) @ np.abs(b).T / a.shape[1], rtol=1e-12)


def test_unknown_variant_is_refused(layout, tasks):
    with pytest.raises(OptionError, match="'cosine' is not known to the reference"):
        reference.scores(*tasks[0], *tasks[1], layout, "V", 1, variant="cosine")
