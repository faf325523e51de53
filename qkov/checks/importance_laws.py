"""Laws of importance and masks: heads add up to what the model has, and masked heads do what removed heads do."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import diagonal, importance, pruning, reference
from .edits import masked_heads
from .measurement import Comparison
from .registry import check

if TYPE_CHECKING:
    from .case import Case
    from .measurement import Measurement, NotRun


@check
def check_importance(case: Case) -> Measurement | NotRun:
    """Importance of a head is the sum of its Fisher diagonal, by the reference; query heads add up to the layer's heads."""
    comparison = Comparison()
    found = importance.compute_fisher_importance(diagonal.FisherDiagonal.of(case.collect(), "a"))
    heads, query_heads, places = found.heads(), found.query_heads(), found.to_dataframe("head")
    grads, tokens = case.reference("a")
    for layout in case.layouts():
        total = 0.0
        for projection in layout.projections:
            block = projection.block
            expected = [
                np.mean(
                    [(reference.cut(g, layout, block, unit) ** 2).sum() / t for g, t in zip(grads, tokens, strict=True)]
                )
                for unit in range(projection.num_units)
            ]
            comparison.near(heads[layout.layer, block], expected)
            rows = places[(places["layer"] == layout.layer) & (places["block"] == block)]
            comparison.near(rows["sum"].to_numpy(), expected)
            total += sum(expected)
        comparison.near(query_heads[layout.layer].sum(), total)
    return comparison.measurement(case.bound("fisher"))


@check
def check_pruned_heads(case: Case) -> Measurement | NotRun:
    """Masks keep exactly as many heads as asked; under them the model does what it does with those heads' output at zero."""
    if outside := case.adapters() or case.coupled():
        return outside
    comparison = Comparison()
    fisher = diagonal.FisherDiagonal.of(case.collect(), "a")
    fewest = min(one.num_heads for one in fisher.config.layers)  # type: ignore[attr-defined]  # of heads, so there is a layout
    for count in {min(1, fewest - 1), fewest - 1}:
        masks = pruning.get_fisher_pruning_masks(fisher, count=count)
        kept = masks.units()
        with pruning.apply_masks(case.model, masks):
            found = case.behaviour(case.batch_a)
        with contextlib.ExitStack() as stack:
            for layout in fisher.config.layers:  # type: ignore[attr-defined]  # of heads, so there is a layout
                flags = kept[layout.layer, "heads"]
                comparison.true(int(flags.sum()) == count)
                stack.enter_context(masked_heads(case.model, layout, np.flatnonzero(~flags)))
                for block in "KV":  # kept with their group, gone with it
                    projection = layout.projection(block)
                    mask = masks.masks[projection.param_name]
                    for unit in range(projection.num_units):
                        served = [flags[head] for head in range(layout.num_heads) if layout.kv_head(head) == unit]
                        comparison.true(bool((mask[projection.slice_of(unit).index] == any(served)).all()))
            expected = case.behaviour(case.batch_a)
        for one, other in zip(found, expected, strict=True):
            comparison.near(one, other)
    intact = case.behaviour(case.batch_a)
    comparison.true(not all(torch.equal(one, other) for one, other in zip(intact, expected, strict=True)))
    return comparison.measurement(case.bound("function"))
