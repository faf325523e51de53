r"""What one optimiser step on task B does to task A's loss, on plain tensors: the direction, and the change it makes.

To second order in the step d on some parameters, with ``g_i`` the raw gradient of sample i's summed token loss,

.. math:: \ell_i(\theta + d) - \ell_i(\theta) \approx g_i \cdot d + \tfrac12 q_i(d), \qquad d = -\eta\, u

where ``u`` is the direction of the optimiser and ``q`` stands for the unknown curvature :math:`d^T H_i d`:

==========  =======================================  ==========================================================
curvature   q_i(d)                                   what it is
==========  =======================================  ==========================================================
"none"      0                                        first order
"diagonal"  :math:`\sum_k g_{ik}^2 d_k^2`            its mean over A is the empirical Fisher diagonal of A's loss
"gradient"  :math:`(g_i \cdot d)^2`                  its mean over A is the whole empirical Fisher; too large on real
                                                     models, where gradients of one sample's tokens add up
==========  =======================================  ==========================================================

The Fisher stands for the Hessian only where the model's predictions are right on average; see "Martens, New insights and
perspectives on the natural gradient method", JMLR 2020, section 9 to 11.
"""

from __future__ import annotations

import torch

from . import formula

OPTIMISERS = ("sgd", "adam", "sign")
CURVATURES = ("none", "diagonal", "gradient")


def direction(grad: torch.Tensor, fisher: torch.Tensor, block_mean: float, optimiser: str) -> torch.Tensor:
    r"""Return the direction u that an optimiser steps along (backwards), for a mean gradient or single ones.

    .. math:: u = g \ \text{("sgd")}, \qquad u = g / \sqrt{D} \ \text{("adam")}, \qquad u = \operatorname{sign} g
              \ \text{("sign")}

    "adam" is Adam's step with its second moment at rest: D is the mean of B's squared per-sample gradients, damped relative
    to its block. "sign" is Adam's first step, and the limit of small batches of equal noise; entries at the rounding noise
    of the block's gradients have no sign and do not move.

    Args:
        grad: ``[..., parameters]``, raw gradients of the summed token loss.
        fisher: Mean of squared per-sample gradients of B, ``[parameters]``.
        block_mean: Mean of ``fisher`` over all heads of the layer and block.
        optimiser: One of :data:`OPTIMISERS`.

    Returns:
        ``[..., parameters]``.
    """
    if optimiser == "sgd":
        return grad
    if optimiser == "adam":
        return grad / formula.damp(fisher, block_mean).sqrt()
    noise = 16 * torch.finfo(grad.dtype).eps * float(block_mean) ** 0.5
    return torch.where(grad.abs() > noise, grad.sign(), torch.zeros_like(grad))


def first_order(grads: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    r"""Return the first-order change of each sample's loss, :math:`g_i \cdot d`, ``[samples]`` (nats)."""
    return grads @ step


def diagonal_curvature(grads: torch.Tensor, squared_step: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`\tfrac12 \sum_k g_{ik}^2 d_k^2` of each sample, ``[samples]`` (nats); ``squared_step`` is d squared."""
    return grads.square() @ squared_step / 2
