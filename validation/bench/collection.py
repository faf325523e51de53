"""How fast per-sample gradients are collected: operations of forward and activation backward a second over the square product.

Counted is what cannot be left out: linear modules and the output layer once forward and once for the gradient of their
input, and the products of attention over the visible half of all pairs of tokens, twice forward and four times backward.
Not counted: what attention computes again in its backward, the hidden half, normalisation, softmax, the loss. No gradient
of a weight is needed, nor that of the input of the first layer's Q, K and V.
"""

from qkov import FisherCollector

from . import clock, shapes
from .goals import Measured


def operations(config, length, *, visible=None):
    """Operations of one sample of GPT-2: ``{"forward": ..., "backward": ...}``.

    Args:
        config: Of transformers. length: Tokens.
        visible: Pairs of tokens counted in attention; default: those that a causal mask shows.
    """
    hidden, layers = config.n_embd, config.n_layer
    pairs = length * (length + 1) / 2 if visible is None else visible
    inner = config.n_inner or 4 * hidden
    fused, output, feed_forward = 3 * hidden**2, hidden**2, 2 * hidden * inner
    linear = layers * (fused + output + feed_forward) + hidden * config.vocab_size
    attention = 2.0 * layers * hidden * pairs  # one product of all heads: queries with keys, or weights with values
    return {
        "forward": 2.0 * length * linear + 2 * attention,
        "backward": 2.0 * length * (linear - fused) + 4 * attention,
    }


def started(model):
    """A collector that has seen the model and has verified where its samples lie; every later pass is plain."""
    collector = FisherCollector()
    collector.collect_fisher(model, shapes.tokens(2, 8, model.config.vocab_size, 99), "first", progress=False)
    return collector


def measure(sizes, say=None):
    """Collect samples with the whole model."""
    model = shapes.gpt2(sizes)
    batch = shapes.tokens(sizes.collected, sizes.tokens, sizes.vocabulary, 1)
    count = sizes.collected * sum(operations(model.config, sizes.tokens).values())

    def run(collector):
        collector.collect_fisher(model, batch, "a", progress=False)

    run(started(model))
    cells = {"collection": (count, clock.Timed(run, lambda: started(model)))}
    rows, square = clock.relative_rates(cells, clock.Square(sizes.square), repeats=sizes.repeats, say=say)
    said = (
        f"{sizes.layers} layers, d {sizes.hidden}, {sizes.vocabulary:,} tokens of vocabulary, {sizes.collected} samples "
        f"of T = {sizes.tokens}; without the one pass that verifies where samples lie"
    )
    return Measured(
        values={"collection": rows["collection"]["rate"]},
        conditions={"collection": said},
        details={"cells": rows, "square product, operations per second": square["median"]},
    )
