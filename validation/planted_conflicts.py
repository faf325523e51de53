"""Conflicts planted in known heads of a trained model: which score finds them, and how many others does it name?

Half of B's samples are random bytes, whose gradients are large and have nothing to do with A. The other half are texts like
A's whose loss is negated, with gradients that pass through the planted heads alone: their Q, K and V are asked to unlearn
what A needs, no other head's are. O is left out, because a gradient on O does not say through which head it came.

Precision among as many slices as were planted equals recall there; average precision looks at the whole ranking.
"""

import contextlib
import random

import numpy as np
import torch

import qkov
from qkov import losses, step

from . import prediction_scores, prediction_study, prediction_tasks, tasks, trained

PLANTED_SHARE = 4  # one kv head of so many


def measure(family, seed, num_samples):
    """Plant, score, look who is found; facts as in :mod:`validation.prediction_study`."""
    torch.set_num_threads(1)
    model = trained.load_model(family, seed)
    config = qkov.QKOVConfig.from_model(model)
    chosen = plant(config, seed)
    (texts_a, _), (texts_b, _) = prediction_tasks.draw("arithmetic", num_samples, seed)
    (noise, _), _ = prediction_tasks.draw("random bytes", num_samples, seed)
    collector = qkov.FisherCollector(contribution_normalisation="none")
    collector.collect_fisher(model, tasks.as_batch(texts_a), "a", progress=False)
    collector.collect_fisher(model, tasks.as_batch(noise[: num_samples // 2]), "b", progress=False)
    unlearn = unlearning_loss(config, chosen)
    collector.collect_fisher(model, tasks.as_batch(texts_b[: num_samples // 2]), "b", loss_fn=unlearn, progress=False)
    data = prediction_tasks.PairData(model, collector, {}, None, 0.0, {})
    scores = prediction_scores.static_scores(data, prediction_scores.pair_scores(data))
    for optimiser in step.OPTIMISERS:
        found = qkov.predict_change(
            collector, "a", "b", optimiser=optimiser, step_size=1.0, curvature="none", progress=False
        )
        scores[f"predicted, {optimiser}"] = found.first
    labels = prediction_scores.slice_labels(config)
    judged = np.array([projection.block != "O" for _, projection, _ in labels])
    planted = np.array([is_planted(chosen, *label) for label in labels])[judged]
    cell = prediction_study.Cell("planted", family, seed, num_samples, {})
    facts = []
    for name, rows in scores.items():
        precision, average = found_among(rows.mean(0)[judged], planted)
        where = f"{int(planted.sum())} of {len(planted)} slices"
        facts.append(prediction_study.fact(cell, "planted: precision and recall", name, where, precision))
        facts.append(prediction_study.fact(cell, "planted: average precision", name, where, average))
    return facts


def plant(config, seed):
    """Choose kv heads, ``{layer: kv heads}``, one of :data:`PLANTED_SHARE` over the whole model."""
    every = [(one.layer, kv_head) for one in config.layers for kv_head in range(one.num_kv_heads)]
    chosen = random.Random(f"planted/{seed}").sample(every, len(every) // PLANTED_SHARE)
    return {one.layer: sorted(kv_head for layer, kv_head in chosen if layer == one.layer) for one in config.layers}


def is_planted(chosen, layout, projection, unit):
    """Whether a slice belongs to a planted kv head: itself, or a query head that reads it."""
    return (unit if projection.block in "KV" else layout.kv_head(unit)) in chosen[layout.layer]


def unlearning_loss(config, chosen):
    """Return a loss: the negated causal loss, differentiable through the planted heads alone."""

    def loss(model, batch):
        with _only_through(model, config, chosen):
            found, tokens = losses.causal_lm_loss(model, batch)
        return -found, tokens

    return loss


@contextlib.contextmanager
def _only_through(model, config, chosen):
    """Cut the gradient where the output of any other head enters the output projection."""

    def hook_for(layout):
        kept = torch.zeros(layout.num_heads * layout.v_head_dim, dtype=torch.bool)
        for head in range(layout.num_heads):
            if layout.kv_head(head) in chosen[layout.layer]:
                kept[slice(*layout.projection("O").interval(head))] = True

        def hook(_module, args):
            return (torch.where(kept, args[0], args[0].detach()), *args[1:])

        return hook

    modules = dict(model.named_modules())
    handles = [
        modules[one.projection("O").module_name].register_forward_pre_hook(hook_for(one)) for one in config.layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def found_among(scores, planted):
    """Precision among as many highest scores as were planted, and average precision; ties in the order of slices."""
    order = np.argsort(-scores, kind="stable")
    hits = planted[order]
    ranks = np.arange(1, len(hits) + 1)
    return hits[: planted.sum()].mean(), (np.cumsum(hits) / ranks)[hits].mean()
