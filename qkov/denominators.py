"""What a score divides by: whose Fisher a variant takes, damped, and when there is nothing but noise to divide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import fisher, formula

if TYPE_CHECKING:
    import torch

    from .score_options import ScoreOptions


def denominators(
    fishers: Sequence[torch.Tensor], means: Sequence[float], options: ScoreOptions
) -> tuple[torch.Tensor, ...]:
    """Return F that health speaks of, and D for task A's and for task B's factor, ``[slice]`` each.

    Args:
        fishers: F of A and of B, ``[slice]``; where the options do not ask for one, it may be anything.
        means: Mean of F over the block, of A and of B, numbers.
    """
    fisher_a, fisher_b = fishers
    if options.variant == "natural":  # each task by its own Fisher, whatever the pool
        return fisher_a, damp(fisher_a, means[0], options), damp(fisher_b, means[1], options)
    chosen = fisher.pool_fisher(fisher_a, fisher_b, options.fisher_pool)
    damped = damp(chosen, owner_mean(means, options), options)
    return chosen, damped, damped


def damp(values: torch.Tensor, mean: float, options: ScoreOptions) -> torch.Tensor:
    """Damp F as the options say; see :func:`qkov.formula.damp`."""
    return formula.damp(
        values,
        mean,
        ridge_lambda_rel=options.ridge_lambda_rel,  # type: ignore[arg-type]  # filled in by ScoreOptions
        epsilon=options.epsilon,
        ridge_lambda=options.ridge_lambda,
    )


def owner_mean(means: Sequence[float], options: ScoreOptions) -> float:
    """Return the mean of F over the block, of whoever's Fisher divides."""
    return means[0] if options.variant == "natural" else fisher.pool_fisher(*means, options.fisher_pool)  # type: ignore[call-arg, arg-type]  # two means


def is_noise(means: Sequence[float], largest: Sequence[float], dtype: torch.dtype, options: ScoreOptions) -> bool:
    """Tell whether a block holds rounding noise only, which is not to be weighed; see :func:`qkov.formula.is_noise`."""
    if options.variant == "dot" or options.absolute_damping:
        return False
    if options.variant == "natural":
        return any(formula.is_noise(mean, most, dtype) for mean, most in zip(means, largest, strict=True))
    mean, most = (fisher.pool_fisher(*pair, options.fisher_pool) for pair in (means, largest))  # type: ignore[call-arg, arg-type]  # pairs
    return formula.is_noise(mean, most, dtype)
