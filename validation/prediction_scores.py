"""Every score that might say where a step on B hurts A: one number per slice, higher meaning more harm.

A score is returned for each of A's samples, ``[n_a, slices]``, so that its mean can be taken without some of them; scores
that know nothing of A's samples one by one have one row. Those with a sign (conflict is negative) are turned.
"""

import numpy as np

import qkov
from qkov import scoring
from qkov.statistics import slices as normalised

VARIANTS = {
    # name: (options of the metric, +1 or -1)
    "seeds' average (unsigned, pool A)": ({"variant": "unsigned", "fisher_pool": "A"}, 1),
    "unsigned, pooled": ({"variant": "unsigned", "fisher_pool": "pooled"}, 1),
    "natural": ({"variant": "natural"}, 1),
    "symmetric, pooled": ({"variant": "symmetric", "fisher_pool": "pooled"}, 1),
    "signed, pooled": ({"variant": "signed", "fisher_pool": "pooled"}, -1),
    "dot": ({"variant": "dot"}, -1),
    "full, pooled": ({"variant": "full", "fisher_pool": "pooled"}, -1),
    "kfac, pooled": ({"variant": "kfac", "fisher_pool": "pooled"}, -1),
}
PREDICTED = (
    "predicted",
    "predicted, first order",
    "predicted, whole empirical Fisher",
    "predicted, whole true Fisher",
)
"""The product's prediction: with its default curvature (diagonal), with none, and with two that pair all parameters."""
BASELINES = ("norm of B's gradient", "product of norms", "cosine", "size of the weights", "lift")
STATIC = (*VARIANTS, *BASELINES)
"""Scores that do not depend on the optimiser or the step size."""


def slice_labels(config):
    """Every slice once, in the order of all arrays here: ``(layout, projection, unit)``."""
    return [
        (layout, projection, unit)
        for layout in config.layers
        for projection in layout.projections
        for unit in range(projection.num_units)
    ]


def pair_scores(data):
    """Scores of all pairs by every variant, summed over a slice, ``{name: [n_a, n_b, slices]}``."""
    return {name: sign * variant_scores(data, options) for name, (options, sign) in VARIANTS.items()}


def static_scores(data, pairs):
    """``{name: [n_a, slices] or [1, slices]}`` of all variants and baselines; ``pairs`` as :func:`pair_scores` gives them."""
    return {name: scores.mean(1) for name, scores in pairs.items()} | baseline_scores(data)


def variant_scores(data, options):
    """Scores of one variant, ``[n_a, n_b, slices]``."""
    metric = qkov.QKOVInterferenceMetric(
        data.collector.config, data.collector, aggregate="sum", min_samples_for_fisher=1, **options
    )
    heatmap = metric.compute_heatmap("a", "b", progress=False)
    places = {layer: place for place, layer in enumerate(heatmap.layers)}
    columns = [
        heatmap.arrays[projection.block][:, :, places[layout.layer], unit]
        for layout, projection, unit in slice_labels(data.collector.config)
    ]
    return np.stack(columns, 2)


def baseline_scores(data):
    """Plain scores that anybody would try first."""
    columns = {name: [] for name in BASELINES}
    for (_, projection, unit), grads_a, grads_b in gradients(data.collector):
        mean_a, mean_b = grads_a.mean(0), grads_b.mean(0)
        norms = np.linalg.norm(mean_a) * np.linalg.norm(mean_b)
        weight = data.model.get_parameter(projection.param_name).detach()[projection.slice_of(unit).index]
        columns["norm of B's gradient"].append([np.abs(grads_b).sum(1).mean()])
        columns["product of norms"].append([norms])
        columns["cosine"].append(-(grads_a @ mean_b) / norms if norms else np.zeros(len(grads_a)))
        columns["size of the weights"].append([weight.double().norm().item()])
        columns["lift"].append(np.exp(normalised.log_lifts(grads_a, grads_b)))
    return {name: np.column_stack(values) for name, values in columns.items()}


def gradients(collector, *, task_a="a", task_b="b"):
    """Walk over the slices: label, gradients of A and of B, float64 ``[samples, parameters]``."""
    options = scoring.ScoreOptions(tile_elements=2**62)  # whole slices
    for label in slice_labels(collector.config):
        pair = (
            next(scoring.slice_tiles(collector.samples(task), label[1], label[2], options)).double().numpy()
            for task in (task_a, task_b)
        )
        yield label, *pair
