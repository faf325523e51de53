"""Look at what a loss function has returned, before any backward pass: one finite loss and one count for every sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .errors import BatchError, NonFiniteError

if TYPE_CHECKING:
    from .option_types import SampleId


def per_sample(
    result: tuple[torch.Tensor, torch.Tensor] | torch.Tensor, num_samples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take apart what a loss function returned for ``num_samples`` samples.

    Returns:
        Losses ``[N]``, and how many tokens enter each, ``[N]``, whole numbers; ones if they were not given.

    Raises:
        BatchError: If they are not one number per sample, or do not depend on the model.
    """
    if isinstance(result, tuple) and len(result) != 2:
        raise BatchError(f"loss_fn returned {len(result)} values; expected losses [N], or (losses [N], tokens [N]).")
    losses, tokens = result if isinstance(result, tuple) else (result, None)
    if not isinstance(losses, torch.Tensor) or tuple(losses.shape) != (num_samples,):
        found = f"shape {tuple(losses.shape)}" if isinstance(losses, torch.Tensor) else f"a {type(losses).__name__}"
        raise BatchError(
            f"loss_fn returned {found}; expected one loss per sample, shape ({num_samples},). "
            "Sum over each sample's tokens; do not average over the batch."
        )
    if not losses.requires_grad:
        raise BatchError(
            "the losses do not depend on any projection of the model through autograd. Compute them from the model's "
            "output, without detach() or no_grad()."
        )
    if tokens is None:
        return losses, torch.ones(num_samples, dtype=torch.long)
    counts = tokens if isinstance(tokens, torch.Tensor) else torch.tensor(tokens)
    if tuple(counts.shape) != (num_samples,) or not torch.equal(counts, counts.long().to(counts)):
        raise BatchError(
            f"loss_fn returned token counts {tokens}; expected {num_samples} whole numbers, one per sample: how many "
            "tokens enter each loss."
        )
    return losses, counts.long()


def check_losses(losses: torch.Tensor, counts: Sequence[int], sample_names: Sequence[SampleId]) -> None:
    """Refuse a sample of which no token enters the loss, or whose loss is NaN or infinite, by its name."""
    for loss, count, name in zip(losses.tolist(), counts, sample_names, strict=True):
        if count < 1:
            raise BatchError(
                f"sample {name!r} has no predicted token: every label is masked, padded or the first. "
                "Remove it, or unmask at least one label after its first token."
            )
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise NonFiniteError(
                f"sample {name!r} has loss {loss}. A common cause is float64 with eager attention and padding on the "
                "left, where rows without any visible token become NaN: pad on the right or use sdpa."
            )
