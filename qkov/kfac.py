r"""Kronecker factors of a slice's Fisher matrix, and solving with them; plain float64 tensors.

A slice's gradient is a sum over tokens, ``G_i = U_i^T V_i = sum_t u_it v_it^T``: u of the head's own features, v of the
other side of the weight. KFAC takes every token as a data point of its own ("expand": Eschenhagen et al. 2023,
arXiv:2311.00636, section 3.1; Martens and Grosse 2015) and u and v as uncorrelated:

.. math:: F = \sum_i w_i \operatorname{vec} h_i \operatorname{vec} h_i^T \;\approx\;
   \sum_{i,t} \omega_i\, (u_{it} u_{it}^T) \otimes (v_{it} v_{it}^T) \;\approx\; B \otimes A,

.. math:: B = \sum_{i,t} \omega_i\, u_{it} u_{it}^T, \qquad
   A = \frac{\sum_{i,t} \omega_i\, v_{it} v_{it}^T}{\sum_{i,t} \omega_i}, \qquad \omega_i = w_i / \text{tokens}_i

(``omega = w`` without normalisation by tokens). So B carries the scale of F, the weight of a sample and its number of
tokens; A is a mean over tokens. Its tokens are those at which the weight gets a gradient (``curvature.reached``). It
equals F where both steps are exact: with one token per sample and u independent of v
in the weighted sample, such as a full grid or either of them constant, and with several tokens whose cross terms cancel.
``vec`` runs over ``[width, other]`` row by row, so that the matrix is ``torch.kron(B, A)``. A bias is one more entry of
v that is always 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from . import full_fisher

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class KroneckerFactors:
    """Hold the two factors of the Fisher matrix of a slice.

    Attributes:
        own: B ``[width, width]``, of the head's own features.
        other: A ``[other, other]``, of the features on the other side.
    """

    own: torch.Tensor
    other: torch.Tensor


@dataclass(frozen=True)
class Eigenbasis:
    """Hold eigenvalues and eigenvectors of both factors; the matrix has eigenvalues ``own_i other_j``.

    Attributes:
        own_values, own_vectors: Of the head's own features, ``[width]`` and, as columns, ``[width, width]``.
        other_values, other_vectors: Of the other side, ``[other]`` and ``[other, other]``.
    """

    own_values: torch.Tensor
    own_vectors: torch.Tensor
    other_values: torch.Tensor
    other_vectors: torch.Tensor

    @property
    def values(self) -> torch.Tensor:
        """Eigenvalues of the Kronecker product, ``[width, other]``."""
        return self.own_values[:, None] * self.other_values

    @property
    def mean(self) -> float:
        """Mean of all eigenvalues: trace over number of parameters."""
        return float(self.own_values.mean() * self.other_values.mean())


def kronecker_factors(
    pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], token_weights: torch.Tensor | Sequence[float]
) -> KroneckerFactors:
    r"""Return B and A of a slice.

    Args:
        pairs: ``(U [tokens, width], V [tokens, other])`` of every sample, as from ``gradients.slice_factors``; with a bias,
            V with a column of ones.
        token_weights: ``omega_i``, one number per sample: its weight in F, over its tokens if gradients are so normalised.

    Returns:
        ``KroneckerFactors``, float64.

    Example:
        >>> u, v = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> found = kronecker_factors([(u[:1], v[:1]), (u[1:], v[1:])], [0.5, 0.5])
        >>> found.own.diagonal().tolist(), found.other.diagonal().tolist()
        ([0.5, 0.5], [0.5, 2.0])
    """
    own = [head for head, _ in pairs]
    other = [rest for _, rest in pairs]
    return KroneckerFactors(token_moment(own, token_weights), token_mean_moment(other, token_weights))


def token_moment(rows: Sequence[torch.Tensor], token_weights: torch.Tensor | Sequence[float]) -> torch.Tensor:
    r"""Return ``sum_i omega_i X_i^T X_i``, ``[features, features]``, of a list of ``X_i [tokens, features]``.

    Args:
        rows: ``X_i [tokens, features]`` of each sample.
        token_weights: The ``omega_i`` of each sample, of all its tokens alike.

    Returns:
        ``[features, features]``.
    """
    total = torch.zeros(rows[0].shape[1], rows[0].shape[1], dtype=torch.float64, device=rows[0].device)
    for tokens, weight in zip(rows, token_weights, strict=True):
        wide = tokens.double()
        total += float(weight) * (wide.T @ wide)
    return total


def token_mean_moment(rows: Sequence[torch.Tensor], token_weights: torch.Tensor | Sequence[float]) -> torch.Tensor:
    r"""Return the weighted mean over tokens of ``x x^T``: the moment over ``sum_i omega_i tokens_i``.

    Args:
        rows: ``X_i [tokens, features]`` of each sample.
        token_weights: The ``omega_i`` of each sample, of all its tokens alike.

    Returns:
        ``[features, features]``.
    """
    mass = sum(float(weight) * len(tokens) for tokens, weight in zip(rows, token_weights, strict=True))
    return token_moment(rows, token_weights) / mass if mass > 0 else token_moment(rows, token_weights)


def eigenbasis(factors: KroneckerFactors) -> Eigenbasis:
    """Decompose both of the ``factors``."""
    own, other = full_fisher.spectrum(factors.own), full_fisher.spectrum(factors.other)
    return Eigenbasis(*own, *other)


def ridge(basis: Eigenbasis, *, relative: float, absolute: float | None = None) -> float:
    """Return the damping, ``relative`` times the mean eigenvalue of the Kronecker product, or the absolute one.

    Args:
        basis: Eigenvalues of the factors.
        relative: Damping in units of the mean eigenvalue.
        absolute: Damping itself; takes the place of ``relative``.

    Returns:
        The damping, in units of squared gradient.
    """
    return full_fisher.checked_ridge(basis.mean, relative=relative, absolute=absolute)


def solve(factors: Eigenbasis, grads: torch.Tensor, damping: float, *, power: float = 1.0) -> torch.Tensor:
    r"""Return ``(B x A + lambda I)^{-power} vec G`` of each gradient, exactly, by the eigenvectors of both factors.

    .. math:: Q_B \Bigl[ \frac{Q_B^T G\, Q_A}{(\beta \alpha^T + \lambda)^{power}} \Bigr] Q_A^T

    Equal to ``torch.linalg.solve`` with ``torch.kron(B, A)``, which has ``(width other)^2`` entries.

    Args:
        factors: ``KroneckerFactors`` or their ``Eigenbasis``. grads: ``[..., width, other]``. damping: lambda > 0.
        power: 1 (natural gradient) or 0.5.

    Returns:
        ``[..., width, other]``, float64.
    """
    basis = factors if isinstance(factors, Eigenbasis) else eigenbasis(factors)
    turned = basis.own_vectors.T @ grads.double() @ basis.other_vectors
    return basis.own_vectors @ (turned / (basis.values + damping) ** power) @ basis.other_vectors.T
