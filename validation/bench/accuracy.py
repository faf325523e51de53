"""How far float32 is from the float64 reference, which runs one sample at a time and writes every sum out."""

import numpy as np

import qkov
from qkov import formula, reference

from . import shapes
from .goals import Measured

HEADS = 3  # of each layer that the reference scores; its loops take a second for each


def measure(sizes, say=None):
    """Score with the package in float32 and with the reference in float64: the largest error, relative to its slice's.

    The value is that of "unsigned", the default, entry by entry: its sums have no cancellation, so every score has an error
    of its own. Of the variants with a sign the error is relative to the largest score of the slice.
    """
    layers = min(sizes.few_layers, sizes.layers)
    vocabulary = min(256, sizes.vocabulary)
    model = shapes.gpt2(sizes, layers=layers, vocabulary=vocabulary)
    n = sizes.oracle_samples
    batches = {name: shapes.tokens(n, sizes.tokens, vocabulary, seed) for name, seed in (("a", 1), ("b", 2))}
    collector = qkov.FisherCollector()
    for task, batch in batches.items():
        collector.collect_fisher(model, batch, task, progress=False)
    exact = [one for batch in batches.values() for one in reference.sample_gradients(model, batch)]
    errors = {variant: 0.0 for variant in formula.VARIANTS}
    entries = 0
    heads = range(min(HEADS, sizes.heads))
    for variant in formula.VARIANTS:
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, variant=variant, min_samples_for_fisher=1)
        heatmap = metric.compute_heatmap("a", "b", heads=heads, progress=False)
        # The other variants share every sum with this one but the last: one head of one layer each is enough for them.
        chosen = [(layout, head) for layout in collector.config.layers for head in heads]
        for layout, head in chosen if variant == "unsigned" else chosen[:1]:
            for block in "QKVO":
                found = heatmap[block]["scores"][:, :, layout.layer, head]
                expected = reference.scores(*exact, layout, block, layout.unit(block, head), variant=variant)
                scale = np.abs(expected) if variant == "unsigned" else np.abs(expected).max()
                errors[variant] = max(errors[variant], float((np.abs(found - expected) / scale).max()))
                entries += found.size if variant == "unsigned" else 0
            if say is not None:
                say(f"{variant}, layer {layout.layer}, head {head}: {errors[variant]:.2g}")
    said = (
        f"{layers} layers, d {sizes.hidden}, {n} + {n} samples of T = {sizes.tokens}; {entries:,} scores of "
        f"{len(heads)} heads and four blocks, each by itself"
    )
    return Measured(values={"oracle": errors["unsigned"]}, conditions={"oracle": said}, details={"errors": errors})
