r"""The metric on plain tensors: contribution, damping, the five variants, aggregation, lift.

One slice (one block, layer and head) or one tile of it at a time; the caller slices. Symbols: ``g_i`` is the gradient
of sample i's summed token loss, ``tokens_i`` the number of tokens whose label enters that loss,
``h_i = g_i / sqrt(tokens_i)`` (or ``g_i``), ``C_i = h_i^2`` the contribution, squared before any reduction, ``F`` a
weighted mean of contributions, and ``D`` the damped ``F`` that a score divides by. Every variant here is one matrix
product of a left factor (task A) and a right factor (task B), which is what makes all pairs affordable. Those that weigh
by the inverse of a whole matrix are in :mod:`qkov.full_fisher` and :mod:`qkov.kfac`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .errors import OptionError, PrecisionError, ShapeError

VARIANTS = ("unsigned", "natural", "signed", "symmetric", "dot")  # products of a left and a right factor
MATRIX_VARIANTS = ("full", "kfac")  # weighed by the inverse of a matrix: see full_fisher and kfac
FISHER_POOLS = ("A", "B", "pooled")
AGGREGATES = ("mean", "sum")
NORMALISATIONS = ("tokens", "none")
GRAD_NORMALISATIONS = ("none", "per_token")
SEED_EPSILON, SEED_RIDGE_LAMBDA = 1e-10, 1e-8  # absolute constants of the seeds, used when either is given
RELATIVE_RIDGE = 1e-8
MATRIX_RIDGE = 0.1  # of a mean eigenvalue: the matrices are singular, and their damping is part of the model


def require_choice(name: str, value: str | None, choices: Sequence[str | None]) -> None:
    """Raise OptionError unless ``value`` is one of ``choices``.

    Args:
        name: Of the option, for the message.
        value: What was given.
        choices: What may be given.

    Raises:
        OptionError: If so.
    """
    if value not in choices:
        raise OptionError(f"{name}={value!r} is not known; expected one of {', '.join(map(repr, choices))}.")


def require_wide(tensor: torch.Tensor, what: str = "contributions") -> torch.Tensor:
    """Refuse half precision: most squares of gradients underflow there (float16: 92 % at 1e-4).

    Args:
        tensor: What will be squared, any shape.
        what: What it is, for the message.

    Returns:
        The tensor.

    Raises:
        PrecisionError: If it is neither float32 nor float64.
    """
    if tensor.dtype not in (torch.float32, torch.float64):
        raise PrecisionError(
            f"{what} have dtype {tensor.dtype}; expected torch.float32 or torch.float64. "
            "Squares of gradients underflow in half precision: convert with .float() before squaring."
        )
    return tensor


def normalise(grad: torch.Tensor, num_tokens: torch.Tensor, normalisation: str = "tokens") -> torch.Tensor:
    r"""Divide each gradient by the square root of its token count: ``h_i = g_i / sqrt(tokens_i)``.

    Args:
        grad: Per-sample gradients of the summed loss, ``[samples, slice]``.
        num_tokens: Tokens whose label enters each loss, ``[samples]``.
        normalisation: ``"tokens"`` or ``"none"`` (then ``h = g``).

    Returns:
        ``h``, ``[samples, slice]``; its square is the contribution.
    """
    if normalisation == "none":
        return grad
    return grad / num_tokens.to(grad).sqrt()[:, None]


def contribution(h: torch.Tensor) -> torch.Tensor:
    r"""Square elementwise, before anything is averaged: ``C_ik = h_ik^2``, ``[samples, slice]``.

    Args:
        h: Normalised gradients, ``[samples, slice]``, float32 or wider.

    Returns:
        C, ``[samples, slice]``, in units of squared gradient.
    """
    return require_wide(h, "gradients").square()


def damp(
    fisher: torch.Tensor,
    block_mean: float | torch.Tensor,
    *,
    ridge_lambda_rel: float = RELATIVE_RIDGE,
    epsilon: float | None = None,
    ridge_lambda: float | None = None,
) -> torch.Tensor:
    r"""Return the denominator D of a slice.

    .. math:: D_k = F_k + \rho \bar F + \text{tiny} \qquad\text{or}\qquad D_k = \max(F_k, \epsilon) + \lambda

    The relative form (default) keeps a dead slice at score 0 and head sums exact, because the mean of F runs over all
    heads of the layer and block; rounding noise far below that mean is not normalised up. The absolute form, chosen by
    giving ``epsilon`` or ``ridge_lambda``, is the seeds' and depends on the unit of the loss.

    Args:
        fisher: ``[slice]``, or a scalar for one value per slice.
        block_mean: Mean of ``fisher`` over all heads of this layer and block, a number.
        ridge_lambda_rel: Relative ridge, in units of ``block_mean``.
        epsilon: Absolute floor; ``1e-10`` when only ``ridge_lambda`` is given.
        ridge_lambda: Absolute ridge; ``1e-8`` when only ``epsilon`` is given.

    Returns:
        ``D`` with the shape of ``fisher``, in units of squared gradient.
    """
    if epsilon is not None or ridge_lambda is not None:
        floor = SEED_EPSILON if epsilon is None else epsilon
        return fisher.clamp_min(floor) + (SEED_RIDGE_LAMBDA if ridge_lambda is None else ridge_lambda)
    return fisher + (ridge_lambda_rel * float(block_mean) + torch.finfo(fisher.dtype).tiny)


def is_noise(block_mean: float, largest_mean: float, dtype: torch.dtype) -> bool:
    r"""Tell whether a whole block holds rounding noise only, which no damping relative to itself can see.

    .. math:: \bar F \le (16\,\varepsilon)^2 \max_{\text{blocks of the layer}} \bar F

    with the machine epsilon of the gradients' dtype. Q and K of a sample whose tokens are all equal are such a case:
    their exact gradient is 0. A block that is noise scores 0, as a dead one does.

    Args:
        block_mean: Mean of F over the heads of a layer and block, a number.
        largest_mean: The largest such mean of the layer.
        dtype: Of the gradients, as torch names it.

    Returns:
        A bool.
    """
    return block_mean <= (16 * torch.finfo(dtype).eps) ** 2 * largest_mean


def left_factor(variant: str, grad_a: torch.Tensor, h_a: torch.Tensor, damped_a: torch.Tensor) -> torch.Tensor:
    r"""Form task A's side of the product, ``[n_a, slice]``.

    Args:
        variant: Which score.
        grad_a: Per-sample gradients of A, ``[n_a, slice]``.
        h_a: The same, normalised.
        damped_a: The D that the variant divides by, ``[slice]``.

    Returns:
        ``[n_a, slice]``.
    """
    if variant == "dot":
        return grad_a
    if variant == "signed":
        return h_a / damped_a
    if variant == "symmetric":
        return h_a.abs() / damped_a
    return contribution(h_a) / damped_a  # unsigned, natural


def right_factor(
    variant: str,
    grad_b: torch.Tensor,
    h_b: torch.Tensor,
    damped_b: torch.Tensor | None,
    num_tokens_b: torch.Tensor,
    normalize_gj: str = "none",
) -> torch.Tensor:
    r"""Form task B's side of the product, ``[n_b, slice]``.

    Args:
        variant: Which score.
        grad_b: Per-sample gradients of B, signed, ``[n_b, slice]``.
        h_b: The same, normalised.
        damped_b: B's own D, ``[slice]``; it enters only "natural".
        num_tokens_b: Tokens of each sample, ``[n_b]``.
        normalize_gj: "none", or "per_token" to divide "unsigned" by them.

    Returns:
        ``[n_b, slice]``.
    """
    if variant == "dot":
        return grad_b
    if variant == "signed":
        return h_b
    if variant == "symmetric":
        return h_b.abs()
    if variant == "natural":
        return h_b.abs() / damped_b.sqrt()  # type: ignore[union-attr]  # "natural" gives B its own D
    if normalize_gj == "per_token":
        return grad_b.abs() / num_tokens_b.to(grad_b)[:, None]
    return grad_b.abs()


def pair_scores(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    r"""Sum over the parameters of the slice: ``M_ij = sum_k left_ik right_jk``, ``[n_a, n_b]``.

    Args:
        left: From :func:`left_factor`, ``[n_a, slice]``.
        right: From :func:`right_factor`, ``[n_b, slice]``.

    Returns:
        Sums over the slice, ``[n_a, n_b]``.

    Raises:
        ShapeError: If the slices differ in size.
    """
    if left.shape[-1] != right.shape[-1]:
        raise ShapeError(
            f"task A's slice has {left.shape[-1]} parameters and task B's has {right.shape[-1]}; expected the same "
            "slice of the same model on both sides. Collect both tasks with one model."
        )
    return left @ right.T


def aggregate_scores(total: torch.Tensor, num_parameters: int, aggregate: str = "mean") -> torch.Tensor:
    """Turn sums over a slice into the reported score: the mean over its parameters, or the sum itself.

    Args:
        total: Sums over a slice, any shape.
        num_parameters: Size of the slice.
        aggregate: "mean" or "sum".

    Returns:
        Scores in the shape of ``total``.
    """
    return total / num_parameters if aggregate == "mean" else total


def interference(contribution_a: torch.Tensor, damped: torch.Tensor, grad_b: torch.Tensor) -> torch.Tensor:
    r"""Score how much task A's sample i leans on what task B's sample j moves, on one whole slice.

    .. math:: M_{ij} = \sum_k \frac{C_{ik}}{D_k} \, |g_{jk}|

    The "unsigned" variant written out; unsigned and asymmetric in i and j. Source: seed documents, section 4.1.

    Args:
        contribution_a: Squared per-sample gradients of A, ``[n_a, slice]``, float32 or wider.
        damped: Damped mean of ``contribution_a``, ``[slice]``.
        grad_b: Per-sample gradients of B, signed, ``[n_b, slice]``.

    Returns:
        Scores ``[n_a, n_b]``, in units of B's gradient.

    Raises:
        ShapeError: If the slices differ in size.
        PrecisionError: If the contributions are in half precision.

    Example:
        >>> contribution_a = torch.tensor([[4.0, 1.0], [0.0, 1.0]])
        >>> interference(contribution_a, contribution_a.mean(0), torch.tensor([[0.5, -3.0]]))
        tensor([[4.],
                [3.]])
    """
    require_wide(contribution_a)
    if contribution_a.shape[-1] != damped.shape[-1]:
        raise ShapeError(
            f"contributions have {contribution_a.shape[-1]} parameters and the Fisher diagonal {damped.shape[-1]}; "
            "expected one Fisher value per parameter of the slice."
        )
    return pair_scores(contribution_a / damped, grad_b.abs())


def lift(grad_a: torch.Tensor, grad_b: torch.Tensor, damped: torch.Tensor) -> torch.Tensor:
    r"""Measure how much more than evenly A's sensitive parameters are also B's, per sample of A.

    .. math:: \text{lift}_i = \frac{K \sum_k u_{ik} \bar v_k}{\sum_k u_{ik} \sum_k \bar v_k}, \quad
        u_{ik} = \hat g_{ik}^2 / D_k, \quad \bar v_k = \tfrac1{n_B} \sum_j |\hat g_{jk}|, \quad \hat g = g / \|g\|

    1 means that A's sensitive parameters are no more B's than an average parameter is. Dimensionless, and unmoved when
    a sample's gradient is multiplied by a constant (``damped`` held).

    Args:
        grad_a: ``[n_a, slice]``. grad_b: ``[n_b, slice]``. damped: ``[slice]``.

    Returns:
        ``[n_a]``; 0 for a sample whose gradient is 0.
    """
    weight = _direction(grad_a).square() / damped
    profile = _direction(grad_b).abs().mean(0)
    even = weight.sum(-1) * profile.sum()
    return torch.where(even > 0, weight.shape[-1] * (weight @ profile) / even, torch.zeros_like(even))


def _direction(grad: torch.Tensor) -> torch.Tensor:
    """Scale each row to length 1, a row of zeros staying zero; by its peak first, so that no square leaves the range."""
    peak = grad.abs().amax(-1, keepdim=True)
    return torch.nn.functional.normalize(torch.where(peak > 0, grad / peak, torch.zeros_like(grad)), dim=-1)
