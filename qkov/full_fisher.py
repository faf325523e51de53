r"""Inverse of the full empirical Fisher matrix of a slice, through the samples' Gram matrix; plain float64 tensors.

With the samples stacked as rows, ``H [N, p]``, weights ``w`` and ``W = diag(w)``, the Fisher matrix of a slice is
``F = H^T W H``, p x p: 1,000 GiB for one head of a large model. Its rank is at most ``min(N, p)``, and everything about
it that meets the samples is in ``K = H H^T [N, N]``:

.. math:: S = W^{1/2} K W^{1/2} = U\,\mathrm{diag}(e)\,U^T, \qquad \operatorname{tr} F = \operatorname{tr} S,
   \qquad H\,(F + \lambda I)^{-1} = W^{-1/2} (S + \lambda I)^{-1} W^{1/2} H .

The eigenvalues ``e`` of S are those of F, zeros aside. No approximation is made beyond rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .errors import OptionError

MIN_RIDGE = 1e-8
"""Least damping of a matrix variant in units of its mean eigenvalue: below, the solve is rounding noise in float64."""
MIN_RIDGE_SINGULAR = 1e-3
"""Least damping of "full" where samples are fewer than parameters, in the same unit."""


def weighted_gram(gram: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return ``S = W^1/2 K W^1/2``, symmetric to the last bit, ``[N, N]``.

    Args:
        gram: Inner products K of the stacked samples, ``[N, N]``.
        weights: Of each sample in F, ``[N]``.

    Returns:
        ``[N, N]``.
    """
    root = weights.sqrt()
    weighted = root[:, None] * gram * root
    return (weighted + weighted.T) / 2


def rank_bound(weights: torch.Tensor, num_parameters: int) -> int:
    """Return the largest rank that F can have: samples that weigh something, or parameters, whichever are fewer.

    Args:
        weights: Of each sample in F, ``[N]``.
        num_parameters: Size of the slice.

    Returns:
        An int.
    """
    return max(1, min(int((weights > 0).sum()), num_parameters))


def ridge(
    gram: torch.Tensor, weights: torch.Tensor, num_parameters: int, *, relative: float, absolute: float | None = None
) -> float:
    r"""Return the damping of a slice, ``lambda = rho tr(F) / min(n, p)``, or the absolute one if given.

    ``tr(F) / min(n, p)`` is the mean of the eigenvalues that can be other than 0. Within A and with its own Fisher,
    ``M_ij -> n delta_ij`` as damping vanishes, whatever the gradients are, as long as n <= p and they are linearly
    independent; with a pooled Fisher every score between A and B goes to 0. So little damping is refused there.

    Args:
        gram: ``K [N, N]``. weights: ``[N]``, 0 for samples that are only scored. num_parameters: p.
        relative: rho. absolute: lambda itself, in units of squared gradient.

    Raises:
        OptionError: If the damping is too small to leave anything of the data, or of float64.
    """
    count = int((weights > 0).sum())
    mean = float((weights * gram.diagonal()).sum()) / rank_bound(weights, num_parameters)
    if count >= num_parameters:
        return checked_ridge(mean, relative=relative, absolute=absolute)
    why = (
        f"because {count} samples make the Fisher matrix of {num_parameters} parameters: with less damping scores within A "
        "go to n delta_ij and, with a pooled Fisher, those between A and B to 0, whatever the gradients are"
    )
    return checked_ridge(mean, relative=relative, absolute=absolute, least=MIN_RIDGE_SINGULAR, why=why)


def checked_ridge(
    mean: float,
    *,
    relative: float,
    absolute: float | None = None,
    least: float = MIN_RIDGE,
    why: str = "below which float64 keeps no inverse",
) -> float:
    """Return the damping, ``relative * mean`` or the absolute one, if it is not too small.

    Args:
        mean: Mean eigenvalue of the Fisher matrix of a slice.
        relative: Damping in units of the mean eigenvalue.
        absolute: Damping itself; takes the place of ``relative``.
        least: The least damping that is taken, in units of the mean eigenvalue.
        why: What happens below, for the message.

    Returns:
        The damping, in units of squared gradient.

    Raises:
        OptionError: If it is below ``least`` mean eigenvalues.
    """
    damping = relative * mean if absolute is None else absolute
    if damping < least * mean:
        raise OptionError(
            f"damping is {damping / mean:.1e} times the mean eigenvalue of the Fisher matrix of a slice; expected at least "
            f"{least:g}, {why}. Leave ridge_lambda_rel at its default, 0.1, or raise ridge_lambda."
        )
    return damping


def inverse_products(
    gram: torch.Tensor, weights: torch.Tensor, damping: float, rows_a: Sequence[int], rows_b: Sequence[int]
) -> torch.Tensor:
    r"""Return ``M_ij = h_i^T (F + lambda I)^{-1} h_j`` for chosen rows of the stack, ``[rows_a, rows_b]``.

    Where one side belongs to the samples that make F, the formula of the module's head is used (for pool "A" it reads
    ``n (K_AA + n lambda I)^{-1} K_AB``); else Woodbury's, which is equal but subtracts:

    .. math:: M = \tfrac1\lambda \bigl(K - K W^{1/2} (S + \lambda I)^{-1} W^{1/2} K\bigr) .

    Args:
        gram: ``K [N, N]``, float64. weights: ``[N]``. damping: lambda > 0.
        rows_a, rows_b: Places in the stack.
    """
    counted = weights > 0
    if bool(counted[rows_a].all()):
        return _pushed_through(gram, weights, damping, rows_a, rows_b)
    if bool(counted[rows_b].all()):
        return _pushed_through(gram, weights, damping, rows_b, rows_a).T
    inside = torch.nonzero(counted).flatten()
    values, vectors = spectrum(weighted_gram(gram[inside][:, inside], weights[inside]))
    turned = vectors.T * weights[inside].sqrt() @ gram[inside]  # [eigenvalues, N]
    taken = turned[:, rows_a].T @ (turned[:, rows_b] / (values + damping)[:, None])
    return (gram[rows_a][:, rows_b] - taken) / damping


def _pushed_through(
    gram: torch.Tensor, weights: torch.Tensor, damping: float, rows: Sequence[int], others: Sequence[int]
) -> torch.Tensor:
    inside = torch.nonzero(weights > 0).flatten()
    root = weights[inside].sqrt()
    values, vectors = spectrum(weighted_gram(gram[inside][:, inside], weights[inside]))
    solved = vectors @ ((vectors.T * root @ gram[inside][:, others]) / (values + damping)[:, None]) / root[:, None]
    places = torch.zeros(len(weights), dtype=torch.long, device=weights.device)
    places[inside] = torch.arange(len(inside), device=weights.device)
    return solved[places[rows]]


def inverse_power(
    rows: torch.Tensor, weights: torch.Tensor, damping: float, grads: torch.Tensor, power: float = 1
) -> torch.Tensor:
    r"""Return ``(F + lambda I)^{-power} h`` of each gradient, ``[grads, p]``, without a p x p matrix.

    .. math:: f(F)\, h = f(0)\, h + H^T W^{1/2} U\, \mathrm{diag}\Bigl(\frac{f(e) - f(0)}{e}\Bigr) U^T W^{1/2} H\, h,
       \qquad f(x) = (x + \lambda)^{-power}

    Args:
        rows: H, the samples that make F, ``[n, p]``. weights: Theirs, positive. damping: lambda > 0.
        grads: ``[grads, p]``. power: 1 or 0.5.
    """
    rooted = rows * weights.sqrt()[:, None]
    values, vectors = spectrum(rooted @ rooted.T)
    kept, damped = damping**power, (values + damping) ** power
    # (f(e) - f(0)) / e without the difference, which would lose digits where e is small.
    slope = -1 / (kept * damped) if power == 1 else -1 / (kept * damped * (kept + damped))
    inner = vectors.T @ (rooted @ grads.T)
    return grads / kept + (rooted.T @ (vectors @ (slope[:, None] * inner))).T


def spectrum(symmetric: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eigenvalues (rounding below 0 taken away) and eigenvectors of a positive semidefinite matrix.

    Args:
        symmetric: The matrix, ``[N, N]``.

    Returns:
        Eigenvalues ``[N]`` in rising order, and eigenvectors as columns, ``[N, N]``.
    """
    values, vectors = torch.linalg.eigh(symmetric)
    return values.clamp_min(0), vectors
