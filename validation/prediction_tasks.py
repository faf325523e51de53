"""Pairs of tasks on which predictions are compared with real steps, and the models of several seeds that take them.

The pairs were chosen by two figures of the gradients, before any prediction was compared with a real step on them: the
cosine of both tasks' mean gradients, which names the pair, and how well half of A's samples rank the slices as the other
half does (both are measured again in every run, as ``tasks: cosine`` and ``tasks: reliability``). The models never saw
arithmetic, capitals or random bytes; of code and prose they are near their best, where little gradient is left to measure.

==========  =================  =============================  =========================================================
pair        A, watched         B, makes the step              why
==========  =================  =============================  =========================================================
conflict    code in capitals   prose in capitals, unlearned   what is unlearned on one text is lost on the other
help        prose in capitals  code in capitals               learning capitals on one text serves the other
mixed       arithmetic         code                           about half of the slices conflict
unrelated   code in capitals   random bytes                   nothing in common: the signal is near 0; no bound
trained     code               prose                          the two tasks of the training, in balance; no bound
==========  =================  =============================  =========================================================

To unlearn is to step up the loss: B's loss is negated.
"""

import random
from dataclasses import dataclass

import qkov
from qkov import losses

from . import tasks, trained

LENGTH = 64
"""Bytes of a sample at most."""
BOUNDED = ("conflict", "help", "mixed")
PAIRS = {
    "conflict": ("code in capitals", "prose in capitals, unlearned"),
    "help": ("prose in capitals", "code in capitals"),
    "mixed": ("arithmetic", "code"),
    "unrelated": ("code in capitals", "random bytes"),
    "trained": ("code", "prose"),
}
CAPITALS = " in capitals"
UNLEARNED = ", unlearned"
LABELS = "a, labels of the model"
"""The task of A's texts with labels drawn from the model."""


@dataclass(frozen=True)
class PairData:
    """What one pair gives on one model.

    Attributes:
        model: A trained model. collector: Holds tasks "a", "b" and :data:`LABELS`.
        held_out: A batch of A whose modules nothing was collected from.
        clusters: Of the samples of ``held_out``; None where each is its own.
        loss_b: Mean loss of B's samples, nats. batches: ``{"a": ..., "b": ...}``, what was collected.
    """

    model: object
    collector: qkov.FisherCollector
    held_out: dict
    clusters: tuple | None
    loss_b: float
    batches: dict


def draw(name, num_samples, seed):
    """Draw two disjoint sets of a task, ``((texts, clusters), (texts, clusters))``: no module gives to both.

    Arithmetic is generated, every sample by itself; random bytes are too. Their clusters are None.
    """
    if name == "random bytes":
        order = random.Random(f"random bytes/{seed}")
        every = [bytes(order.choices(range(32, 127), k=LENGTH)) for _ in range(2 * num_samples)]
        return (every[:num_samples], None), (every[num_samples:], None)
    capitals, source = name.endswith(CAPITALS), name.removesuffix(CAPITALS)
    text = tasks.load_task(source, 6 * num_samples, LENGTH, seed=seed, per_cluster=4)
    if source == "arithmetic":  # its clusters are the nine kinds of problem, of which every set has all
        every = list(text.texts)[: 2 * num_samples]
        return (every[::2], None), (every[1::2], None)
    modules = list(dict.fromkeys(text.clusters))
    sets = []
    for chosen in (set(modules[::2]), set(modules[1::2])):
        rows = [row for row, module in enumerate(text.clusters) if module in chosen][:num_samples]
        if len(rows) < num_samples:
            raise ValueError(f"{name} has {len(rows)} samples in half of its modules; {num_samples} were asked for.")
        texts = [text.texts[row].upper() if capitals else text.texts[row] for row in rows]
        sets.append((texts, tuple(text.clusters[row] for row in rows)))
    return tuple(sets)


def collect(pair, seed, num_samples, *, family="llama", draws=1):
    """Collect both tasks of a pair on the model of a seed, and A with labels drawn from the model."""
    model = trained.load_model(family, seed)
    name_a, name_b = PAIRS[pair]
    (texts_a, clusters_a), (held_out, held_clusters) = draw(name_a, num_samples, seed)
    (texts_b, clusters_b), _ = draw(name_b.removesuffix(UNLEARNED), num_samples, seed)
    batches = {"a": tasks.as_batch(texts_a), "b": tasks.as_batch(texts_b)}
    # Raw gradients: Fisher and curvature then belong to the loss of a sample, whose change is predicted.
    collector = qkov.FisherCollector(contribution_normalisation="none")
    losses_of = {"a": None, "b": negated_loss if name_b.endswith(UNLEARNED) else None}
    for name, clusters in (("a", clusters_a), ("b", clusters_b)):
        clusters = clusters or [f"{name}{row}" for row in range(num_samples)]
        collector.collect_fisher(model, batches[name], name, clusters=clusters, loss_fn=losses_of[name], progress=False)
    drawn = losses.sample_labels(model, batches["a"], seed=seed, num_draws=draws)
    collector.collect_fisher(model, drawn, LABELS, progress=False)
    return PairData(model, collector, tasks.as_batch(held_out), held_clusters, mean_loss(model, batches["b"]), batches)


def negated_loss(model, batch):
    """The loss of a task that is to be unlearned."""
    found, tokens = losses.causal_lm_loss(model, batch)
    return -found, tokens


def mean_loss(model, batch):
    """Mean over samples of the summed token loss, nats; what sizes of steps are shares of, also where it is to rise."""
    import torch

    with torch.no_grad():
        return losses.causal_lm_loss(model, batch)[0].double().mean().item()
