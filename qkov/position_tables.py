"""Samples longer than a table of learned positions, refused before an accelerator turns them into an opaque failure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from . import losses
from .errors import BatchError

if TYPE_CHECKING:
    from .option_types import LossFunction


_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?)$")
_OTHER_PARTS = re.compile(r"vision|visual|image|audio|speech")  # their positions are not those of tokens


def check_positions(
    model: nn.Module, batch: Mapping[str, Any], names: Sequence[int | str], loss_fn: LossFunction
) -> None:
    """Refuse samples that reach a position which the model does not hold.

    Args:
        model: Any. batch: Its batch. names: N names for the message.
        loss_fn: Nothing is checked but for the default loss: what positions another one uses is its own affair.

    Raises:
        BatchError: Names the sample and the table.
    """
    if loss_fn is not losses.causal_lm_loss or not len(names) or not losses.accepts(model, "position_ids"):
        return
    positions = batch.get("position_ids", losses.position_ids(batch))
    if positions.ndim != 2 or len(positions) != len(names):  # one row for all, or several axes of positions
        return
    longest = positions.amax(1)
    for name, size in _tables(model):
        row = int(longest.argmax())
        if longest[row] >= size:
            raise BatchError(
                f"sample {names[row]!r} reaches position {int(longest[row])}; {name!r} holds 0 to {size - 1}. Cut samples "
                f"to {size} tokens, or split them."
            )


def _tables(model: nn.Module) -> Iterator[tuple[str, int]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and _TABLE.search(name) and not _OTHER_PARTS.search(name):
            yield name, module.num_embeddings - getattr(module, "offset", 0)  # OPT keeps two rows that no token has
