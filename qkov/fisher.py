r"""The empirical Fisher diagonal: means of contributions, their variance, exponential weights, pools and health.

"Empirical" because the labels are the data's, not drawn from the model. Every function squares nothing: it takes
contributions, which are already squared per sample, so a sum of squares can never turn into the square of a sum.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeVar

import torch

from .errors import EmptyTaskError, OptionError, ShapeError
from .formula import FISHER_POOLS, require_choice, require_wide

if TYPE_CHECKING:
    Values = TypeVar("Values", torch.Tensor, float)


FISHER_SOURCES = ("contributions", "ema", "head")
EMA_DECAY = 0.99
HEALTH_STATISTICS = (
    "fisher_min", "fisher_median", "fisher_max", "share_below_epsilon", "damping", "fisher_over_damped",
)  # fmt: skip


def sample_weights(num_samples: int, source: str = "contributions", decay: float = EMA_DECAY) -> torch.Tensor:
    r"""Return the weight of each sample in F, float64 ``[samples]``, summing to 1.

    .. math:: w_i = 1/n \qquad\text{or, for "ema",}\qquad w_i = \frac{(1-\beta)\,\beta^{\,n-1-i}}{1-\beta^n}

    The second is what a bias-corrected exponential moving average with one update per sample in the submitted order
    amounts to; the order is part of the result.

    Args:
        num_samples: How many samples make F.
        source: "contributions" and "head" (plain mean) or "ema".
        decay: The :math:`\beta` of "ema", between 0 and 1.

    Returns:
        Float64 ``[samples]``.

    Raises:
        EmptyTaskError: If there is no sample.
        OptionError: If the source is not known, or the decay is not between 0 and 1.
    """
    require_choice("fisher_source", source, FISHER_SOURCES)
    if num_samples == 0:
        raise EmptyTaskError("a Fisher diagonal needs at least one sample; found 0. Collect the task first.")
    if source != "ema":
        return torch.full((num_samples,), 1.0 / num_samples, dtype=torch.float64)
    if not 0.0 < decay < 1.0:
        raise OptionError(f"ema decay is {decay}; expected a number between 0 and 1, exclusive.")
    age = torch.arange(num_samples - 1, -1, -1, dtype=torch.float64)
    return (1 - decay) * decay**age / -torch.expm1(num_samples * torch.log(torch.tensor(decay, dtype=torch.float64)))


def weighted_fisher(contributions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    r"""Average contributions over samples: ``F_k = sum_i w_i C_ik``, ``[slice]``, in the contributions' dtype.

    Args:
        contributions: Squared gradients, ``[samples, slice]``, float32 or wider.
        weights: ``[samples]``, see :func:`sample_weights`.

    Returns:
        F, ``[slice]``.

    Raises:
        ShapeError: If there is not one weight for each sample.
    """
    require_wide(contributions)
    if contributions.shape[0] != weights.shape[0]:
        raise ShapeError(f"{contributions.shape[0]} samples but {weights.shape[0]} weights; expected one weight each.")
    return (contributions * weights.to(contributions)[:, None]).sum(0)


def pool_fisher(fisher_a: Values, fisher_b: Values, pool: str = "A") -> Values:
    r"""Choose whose Fisher normalises: A's, B's, or the mean ``(F_A + F_B) / 2``.

    Args:
        fisher_a, fisher_b: Fisher diagonals of the two tasks, ``[slice]``.
        pool: "A", "B" or "pooled".

    Returns:
        One Fisher diagonal, ``[slice]``.
    """
    require_choice("fisher_pool", pool, FISHER_POOLS)
    if pool == "A":
        return fisher_a
    if pool == "B":
        return fisher_b
    return (fisher_a + fisher_b) / 2


def reduce_heads(contributions: torch.Tensor) -> torch.Tensor:
    r"""Reduce already squared gradients of a slice to one number per sample: ``sum_k C_ik``, float64 ``[samples]``.

    Squares first, sums second: for ``g = [1, -1]`` this is 2; the square of the sum would be 0.

    Args:
        contributions: Squared gradients, ``[samples, slice]``.

    Returns:
        Float64 ``[samples]``.
    """
    return require_wide(contributions).sum(-1, dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class Welford:
    r"""Running mean and variance of contributions, in float64; merges exactly with another (Chan et al. 1983).

    Attributes:
        count: Samples seen. mean: ``[...]``. m2: Sum of squared deviations from the mean, ``[...]``.

    Example:
        >>> state = Welford.of(torch.tensor([[1.0], [2.0], [6.0]]))
        >>> state.mean.item(), state.variance.item()
        (3.0, 7.0)
    """

    count: int
    mean: torch.Tensor
    m2: torch.Tensor

    @classmethod
    def of(cls, contributions: torch.Tensor) -> Welford:
        """Start from contributions ``[samples, ...]``; with no samples the state is an exact zero of merging.

        Args:
            contributions: Squared gradients, ``[samples, ...]``.

        Returns:
            The state of these samples.
        """
        values = require_wide(contributions).double()
        if not len(values):
            zero = torch.zeros(values.shape[1:], dtype=torch.float64)
            return cls(0, zero, zero.clone())
        mean = values.mean(0)
        return cls(len(values), mean, (values - mean).square().sum(0))

    def merge(self, other: Welford) -> Welford:
        """Combine two disjoint sets of samples, in any order and grouping.

        Args:
            other: The state of other samples, of the same shape.

        Returns:
            The state of both.

        Raises:
            ShapeError: If the shapes differ.
        """
        if self.mean.shape != other.mean.shape:
            raise ShapeError(f"cannot merge means of shapes {tuple(self.mean.shape)} and {tuple(other.mean.shape)}.")
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        share = other.count / count
        return Welford(count, self.mean + delta * share, self.m2 + other.m2 + delta.square() * (self.count * share))

    @property
    def variance(self) -> torch.Tensor:
        """Unbiased variance over samples; NaN below two samples."""
        return self.m2 / (self.count - 1) if self.count > 1 else torch.full_like(self.m2, torch.nan)

    @property
    def standard_error(self) -> torch.Tensor:
        """Standard error of the mean, as if samples were independent."""
        return (self.variance / max(self.count, 1)).sqrt()


@dataclasses.dataclass(frozen=True)
class ExponentialMean:
    """Hold a bias-corrected exponential moving average with one update per sample, in float64.

    Attributes:
        decay: Weight of what was there before, between 0 and 1.
        count: Number of updates.
        biased: The average as it is updated, starting from 0; see :attr:`mean`.
    """

    decay: float = EMA_DECAY
    count: int = 0
    biased: torch.Tensor | float = 0.0

    def update(self, sample_contribution: torch.Tensor) -> ExponentialMean:
        """Take one more sample's contribution, any shape.

        Args:
            sample_contribution: Its squared gradients, any shape, the same each time.

        Returns:
            The new average; this one is left as it was.
        """
        value = require_wide(sample_contribution).double()
        return ExponentialMean(self.decay, self.count + 1, self.decay * self.biased + (1 - self.decay) * value)

    @property
    def mean(self) -> torch.Tensor:
        """Average with the start-up bias divided out.

        Raises:
            EmptyTaskError: If there was no update.
        """
        if self.count == 0:
            raise EmptyTaskError("an exponential mean of 0 samples is not defined; update it first.")
        return self.biased / (1 - self.decay**self.count)  # type: ignore[return-value]  # a sum that starts at 0


def slice_health(fisher: torch.Tensor, damped: torch.Tensor, epsilon: float) -> dict[str, float]:
    """Summarise how well conditioned a slice is.

    Args:
        fisher: F of every parameter of the slice, ``[slice]``. damped: D, ``[slice]``.
        epsilon: The floor below which F counts as vanishing.

    Returns:
        Numbers named as in ``HEALTH_STATISTICS``: the spectrum of F, the share of parameters below ``epsilon``, the
        median damping that acted (D - F) and the median of F / D (1: none acted; below 0.5: damping dominates).
    """
    fisher, damped = fisher.double(), damped.double()
    values = (
        fisher.min(), fisher.median(), fisher.max(), (fisher < epsilon).double().mean(),
        (damped - fisher).median(), (fisher / damped).median(),
    )  # fmt: skip
    return dict(zip(HEALTH_STATISTICS, (float(value) for value in values), strict=True))
