"""Scores from full per-sample gradients that are stacked, ``[n, *weight shape]`` each: what other routes end with.

Written for their advantage: in place, one matrix product a slice, no copy that can be avoided. Numbers equal those of the
metric with its defaults, or of "dot".
"""

import torch


def scores(config, grads_a, grads_b, counts_a, *, variant="unsigned", aggregate="mean"):
    """Score all pairs on all slices.

    Args:
        config: A ``QKOVConfig``. grads_a, grads_b: ``{param_name: [n, *weight shape]}``; overwritten where that saves time.
        counts_a: Tokens of A's samples in the loss, ``[n_a]``.
        variant: "unsigned" with F of A, or "dot".

    Returns:
        ``{(layer, block): float32 [units, n_a, n_b]}``.
    """
    found = {}
    for layout in config.layers:
        for projection in layout.projections:
            where = [projection.slice_of(unit) for unit in range(projection.num_units)]
            a, b = grads_a[where[0].param_name], grads_b[where[0].param_name]
            slices = [(_cut(a, one), _cut(b, one)) for one in where]
            if variant == "unsigned":
                slices = _weighed(slices, counts_a)
            size = slices[0][0].shape[1] if aggregate == "mean" else 1
            found[layout.layer, projection.block] = torch.stack([left @ right.T / size for left, right in slices])
    return found


def _cut(grad, where):
    rows, columns = (slice(None) if one is None else slice(*one) for one in (where.row_slice, where.col_slice))
    return grad[:, rows, columns].reshape(len(grad), -1)


def _weighed(slices, counts_a):
    """``C_i / D`` and ``|g_j|`` of every slice of a block; damping is relative to the mean of F over its heads."""
    fishers = []
    for left, right in slices:
        left.square_().div_(counts_a[:, None])
        right.abs_()
        fishers.append(left.mean(0))
    mean = float(torch.stack([one.mean(dtype=torch.float64) for one in fishers]).mean())
    for (left, _), fisher in zip(slices, fishers, strict=True):
        left.mul_(fisher.add_(1e-8 * mean).add_(torch.finfo(fisher.dtype).tiny).reciprocal_())
    return slices


def of_metric(config, heatmap):
    """The scores of a heatmap in the same form, float64; K and V once per kv head."""
    found = {}
    for block, array in heatmap.arrays.items():
        for place, layout in enumerate(config.layers):
            units = layout.projection(block).num_units
            found[layout.layer, block] = torch.tensor(array[:, :, place, :units]).permute(2, 0, 1)
    return found


def worst_difference(found, expected, bound, what):
    """Largest difference over all layers and blocks, each relative to its largest score; more than ``bound`` is an error."""
    from .goals import require_agreement

    return max(require_agreement(found[key], expected[key], bound, f"{what}, {key}") for key in expected)
