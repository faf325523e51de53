"""Faults of importance and masks: what is summed into a head, how many are kept, and what goes with them."""

import functools

import torch

from .planting import fault

pruning = functools.partial(fault, area="importance and masks")


@pruning("parts.axis_sums", expected="importance")
def importance_always_by_rows(original):
    """Importance is summed by rows for every block, so that heads of O are rows of it."""
    return lambda tensor, axis: original(tensor, 0)


@pruning("parts.axis_sums", expected="importance")
def importance_reduced_before_squared(_original):
    """Importance sums magnitudes over a row and squares the sum."""
    return lambda tensor, axis: tensor.double().sqrt().sum(1 - axis).square().numpy()


@pruning("pruning._best", expected="pruned_heads")
def one_kept_too_few(original):
    """One unit fewer than asked is kept."""
    return lambda values, number, rule: original(values, max(0, number - 1), rule)


@pruning("pruning._masks", expected="pruned_heads")
def shared_keys_go_with_the_first_head(original):
    """K and V of a group are pruned as soon as one of its query heads is."""

    def masks(source, structure, kept):
        found = original(source, structure, kept)
        for layout in source.config.layers:
            group = layout.num_heads // layout.num_kv_heads
            for block in "KV":
                projection = layout.projection(block)
                for unit in range(projection.num_units):
                    if not kept[layout.layer, "heads"][unit * group : (unit + 1) * group].all():
                        found[projection.param_name][projection.slice_of(unit).index] = False
        return found

    return masks


@pruning("pruning._masks", expected="pruned_heads")
def output_columns_stay(original):
    """Q, K and V of a pruned head are masked and its part of O is not, so biases of its values still act."""

    def masks(source, structure, kept):
        found = original(source, structure, kept)
        for layout in source.config.layers:
            name = layout.projection("O").param_name
            found[name] = torch.ones_like(found[name])
        return found

    return masks
