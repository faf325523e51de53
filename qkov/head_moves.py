"""Two maps of the same heads that need not agree, such as those of two checkpoints: how alike, and which heads moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import BLOCKS
from .heatmap import Heatmap
from .result_agreement import head_ranks

__all__ = ["HeadMoves", "head_moves"]


@dataclass(frozen=True)
class HeadMoves:
    """One block of one variant in two runs.

    Attributes:
        what: Which scores. block: "Q", "K", "V" or "O".
        correlation: Of the averages of the slices, Pearson; None where one map is constant.
        rank_correlation: Spearman.
        moves: The slices whose share of their map changed most: ``layer, unit, first, second, rank_first, rank_second``.
    """

    what: str
    block: str
    correlation: float | None
    rank_correlation: float
    moves: tuple[dict[str, float], ...]


def head_moves(one: Heatmap, two: Heatmap, what: str, *, top: int = 3) -> tuple[HeadMoves, ...]:
    """Compare the averages of every slice, block by block; empty where the heads are not the same.

    Averages are related to the largest of their map, as two models may differ in the size of their gradients alone.

    Args:
        one, two: Scores on the same layers and heads, of any samples. what: For the report. top: Slices listed a block.
    """
    if (one.layers, one.heads, one.kv_heads) != (two.layers, two.heads, two.kv_heads):
        return ()
    if not (np.array_equal(one.kv_index, two.kv_index) and np.array_equal(one.present, two.present)):
        return ()
    return tuple(_of_block(one, two, what, block, top) for block in BLOCKS if one.exists(block).any())


def _of_block(one, two, what, block, top):
    exists = one.exists(block)
    places, units = np.argwhere(exists), one.kv_heads if block in "KV" else one.heads
    first, second = (found.mean_map(block)[exists] for found in (one, two))
    shares = [values / (np.abs(values).max() or 1.0) for values in (first, second)]
    ranks = [np.argsort(np.argsort(-values, kind="stable"), kind="stable") + 1 for values in (first, second)]
    moved = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:top]
    rows = tuple(
        {
            "layer": int(one.layers[places[at][0]]),
            "unit": int(units[places[at][1]]),
            "first": float(first[at]),
            "second": float(second[at]),
            "rank_first": int(ranks[0][at]),
            "rank_second": int(ranks[1][at]),
        }
        for at in moved
        if shares[0][at] != shares[1][at]
    )
    constant = np.ptp(first) == 0 or np.ptp(second) == 0
    correlation = None if constant or len(first) < 2 else float(np.corrcoef(first, second)[0, 1])
    return HeadMoves(what, block, correlation, head_ranks(first, second), rows)
