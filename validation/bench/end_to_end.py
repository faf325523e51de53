"""From tokens to scores of all pairs, beside the two ways that PyTorch itself offers.

One sample at a time with ``torch.autograd.grad`` for the attention weights alone, all others frozen; and
``torch.func.vmap(grad)`` over passes of as many tokens as ours. Both stack full gradients and score them with one matrix
product a slice. All routes must give the same scores.
"""

import torch

import qkov
from qkov import losses

from . import clock, shapes, stacked
from .collection import operations
from .goals import DisagreementError, Measured

BOUND = 1e-5
TOKENS_A_PASS = 512  # as in qkov.passes on a CPU


def ours(model, batches):
    """Collect both tasks and score all pairs."""
    collector = qkov.FisherCollector()
    for task, batch in batches.items():
        collector.collect_fisher(model, batch, task, progress=False)
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
    return metric.compute_heatmap(*batches, progress=False)


def attention_weights(model, config):
    """``{param_name: parameter}`` of all attention projections, which alone require a gradient afterwards."""
    model.requires_grad_(False)
    names = dict.fromkeys(
        projection.slice_of(0).param_name for layout in config.layers for projection in layout.projections
    )
    parameters = dict(model.named_parameters())
    return {name: parameters[name].requires_grad_(True) for name in names}


def one_by_one(model, weights, batch):
    """Stack the gradients of each sample's summed loss, a backward each."""
    count = len(batch["input_ids"])
    stacks = {name: weight.new_empty(count, *weight.shape) for name, weight in weights.items()}
    for row in range(count):
        loss = losses.causal_lm_loss(model, {"input_ids": batch["input_ids"][row : row + 1]})[0].sum()
        for stack, grad in zip(stacks.values(), torch.autograd.grad(loss, list(weights.values())), strict=True):
            stack[row] = grad
    return stacks


def by_vmap(model, weights, batch):
    """Stack the same gradients with ``vmap(grad)``, chunk by chunk."""
    ids = batch["input_ids"]
    chunk = max(1, TOKENS_A_PASS // ids.shape[1])
    fixed = {name: value for name, value in (*model.named_parameters(), *model.named_buffers()) if name not in weights}

    def loss(trained, row):
        logits = torch.func.functional_call(model, {**fixed, **trained}, (), {"input_ids": row[None]}).logits[0]
        return torch.nn.functional.cross_entropy(logits[:-1], row[1:], reduction="sum")

    trained = {name: weight.detach() for name, weight in weights.items()}
    stacks = {name: weight.new_empty(len(ids), *weight.shape) for name, weight in trained.items()}
    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
    for start in range(0, len(ids), chunk):
        found = per_sample(trained, ids[start : start + chunk])
        for name, stack in stacks.items():
            stack[start : start + chunk] = found[name]
    return stacks


def other_route(collect, model, config, weights, batches):
    """Scores of a route that ends in stacked gradients."""
    grads = [collect(model, weights, batch) for batch in batches.values()]
    with torch.no_grad():
        counts = torch.full((len(grads[0][next(iter(weights))]),), float(batches["a"]["input_ids"].shape[1] - 1))
        return stacked.scores(config, *grads, counts)


def measure(sizes, say=None):
    """Time the routes in turn and compare their scores."""
    layers = min(sizes.few_layers, sizes.layers)
    vocabulary = shapes.scaled_vocabulary(sizes, layers)
    model = shapes.gpt2(sizes, layers=layers, vocabulary=vocabulary)
    config = qkov.QKOVConfig.from_model(model)
    # vmap knows no fused attention on a CPU and would take it apart, sample by sample; written out it is its faster way.
    eager = shapes.gpt2(sizes, layers=layers, vocabulary=vocabulary, attention="eager")
    weights, of_eager = attention_weights(model, config), attention_weights(eager, config)
    batches = {
        name: shapes.tokens(sizes.samples, sizes.tokens, vocabulary, seed) for name, seed in (("a", 1), ("b", 2))
    }
    variants = {
        "ours": clock.Timed(lambda: ours(model, batches)),
        "autograd": clock.Timed(lambda: other_route(one_by_one, model, config, weights, batches)),
        "vmap": clock.Timed(lambda: other_route(by_vmap, eager, config, of_eager, batches)),
    }
    few = {name: shapes.tokens(2, 8, vocabulary, 3) for name in batches}
    ours(model, few)  # first calls of everything
    seconds, results = clock.interleaved(variants, repeats=sizes.repeats, say=say)
    expected = stacked.of_metric(config, results["ours"])
    differences, wrong = {}, {}
    for name in ("autograd", "vmap"):
        try:
            differences[name] = stacked.worst_difference(results[name], expected, BOUND, f"scores by {name}")
        except DisagreementError as error:
            wrong[name] = str(error)
    said = (
        f"{layers} layers, d {sizes.hidden}, {vocabulary:,} tokens of vocabulary, so that the output layer has the share of "
        f"work that it has in {sizes.layers} layers and {sizes.vocabulary:,}; {sizes.samples} + {sizes.samples} samples of "
        f"T = {sizes.tokens}; scores agree to {{:.1g}}"
    )
    count = 2 * sizes.samples * sum(operations(model.config, sizes.tokens).values())
    return Measured(
        values={name: clock.ratio(seconds, "ours", name) for name in differences},
        conditions={name: said.format(value) for name, value in differences.items()},
        wrong=wrong,
        details={"seconds": seconds, "differences": differences, "operations of collecting": count},
    )
