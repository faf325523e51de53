"""Directions of optimisers and the change a step makes, on plain tensors."""

import pytest
import torch

from qkov import step


@pytest.fixture
def grads():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator, dtype=torch.float64)


def test_sgd_steps_along_the_gradient(grads):
    fisher = grads.square().mean(0)
    assert torch.equal(step.direction(grads.mean(0), fisher, 1.0, "sgd"), grads.mean(0))


def test_adam_divides_by_the_root_of_the_mean_square_not_of_the_squared_mean(grads):
    fisher = grads.square().mean(0)
    found = step.direction(grads.mean(0), fisher, float(fisher.mean()), "adam")
    slow = [float(grads[:, k].mean()) / float(sum(g**2 for g in grads[:, k]) / 6) ** 0.5 for k in range(5)]
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), rtol=1e-7, atol=0)
    assert (found.abs() <= 1).all()  # |mean| <= root mean square


def test_adam_is_adams_step_once_its_second_moment_rests(grads):
    # torch.optim.Adam fed single samples over and over, its first moment off: the mean of its steps is our direction.
    parameter = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([parameter], lr=1.0, betas=(0.0, 0.999), eps=1e-12)
    for _ in range(900):
        before = parameter.detach().clone()
        total = torch.zeros(5, dtype=torch.float64)
        for grad in grads:
            last = parameter.detach().clone()
            parameter.grad = grad.clone()
            optimiser.step()
            total += parameter.detach() - last
    fisher = grads.square().mean(0)
    expected = -step.direction(grads.mean(0), fisher, float(fisher.mean()), "adam")
    torch.testing.assert_close((parameter.detach() - before) / 6, expected, rtol=1e-2, atol=5e-3)
    torch.testing.assert_close(total / 6, expected, rtol=1e-2, atol=5e-3)


def test_sign_leaves_rounding_noise_where_it_is():
    grads = torch.tensor([2.0, -1.0, 1e-18, 0.0], dtype=torch.float64)
    assert step.direction(grads, grads**2, 1.0, "sign").tolist() == [1.0, -1.0, 0.0, 0.0]


def test_directions_of_a_dead_slice_are_zero():
    dead = torch.zeros(3, 4)
    for optimiser in step.OPTIMISERS:
        assert not step.direction(dead, dead[0], 0.0, optimiser).any()


def test_a_quadratic_loss_changes_as_predicted():
    # loss_i = (x_i . theta - y_i)^2 / 2 has g_i = r_i x_i; with residuals of +-1, g g^T is the Hessian x x^T exactly.
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, 1.0]], dtype=torch.float64)
    residual = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    d = torch.tensor([0.03, -0.02], dtype=torch.float64)
    change = ((residual + x @ d) ** 2 - residual**2) / 2
    first = step.first_order(residual[:, None] * x, d)
    torch.testing.assert_close(first + first**2 / 2, change, rtol=1e-12, atol=0)
    diagonal = torch.stack([step.diagonal_curvature(residual[:, None] * x, d**2)]).squeeze()
    torch.testing.assert_close(diagonal, ((x * d) ** 2).sum(1) / 2, rtol=1e-12, atol=0)
