"""Fine-tune chosen weights of a model on one task, some slices of heads held fast, and watch losses on the way.

A slice is held fast by setting its gradient to zero before every step. Neither SGD nor Adam moves a parameter whose
gradient was always zero (there is no weight decay), so a held slice keeps its bits. Everything is float32 on one thread;
every text has the same length, so that a mean over tokens is a mean over samples and needs no padding.
"""

import copy
from dataclasses import dataclass

import torch

from qkov import reproducibility

from . import tasks

LENGTH = 128
"""Bytes of a text; one less is predicted."""
TASKS = {
    "arithmetic": ("arithmetic", None),
    "code": ("code", None),
    "prose": ("prose", None),
    "capitals": ("code", bytes.upper),
}
"""Which text of :mod:`validation.tasks` a task reads, and what is done to it."""
OPTIMISERS = {
    "SGD": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate),
    "Adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.99)),
}


@dataclass(frozen=True)
class Curve:
    """Losses along a fine-tuning.

    Attributes:
        steps: Number of steps taken, ascending, the first one 0.
        losses: ``{name: one loss in nats per byte for each of steps}``.
    """

    steps: tuple[int, ...]
    losses: dict


def draw(task, number, *, split, seed):
    """Draw texts of one task, all of :data:`LENGTH` bytes; ids and clusters as in :func:`validation.tasks.load_task`."""
    source, change = TASKS[task]
    text = tasks.load_task(source, number, LENGTH, split=split, seed=seed, shortest=LENGTH)
    texts = text.texts if change is None else tuple(map(change, text.texts))
    return tasks.TaskText(task, split, text.ids, text.clusters, texts)


def as_ids(text):
    """Token ids ``[texts, LENGTH]`` of texts of one length."""
    return tasks.as_batch(text)["input_ids"]


def sample_losses(model, ids):
    """Mean loss of each text in nats per byte, ``[texts]``, of all its bytes but the first."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def held_out_losses(model, ids):
    """Mean loss of each text, float64 ``[texts]``; 16 at a time, which is quicker than all at once."""
    with torch.no_grad():
        return torch.cat([sample_losses(model, part) for part in ids.split(16)]).double()


def held_out_loss(model, ids):
    """Mean loss over texts, a float."""
    return held_out_losses(model, ids).mean().item()


def frozen_masks(shapes, slices):
    """Tell which parameters are held fast.

    Args:
        shapes: ``{param_name: shape}`` of what is trained.
        slices: :class:`qkov.layout.BlockHeadSlice`, each inside one of them.

    Returns:
        ``{param_name: bool tensor}``, True where a slice lies.
    """
    masks = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for one in slices:
        masks[one.param_name][one.index] = True
    return masks


def fine_tune(model, names, batches, *, optimiser, rate, frozen=(), watched=None, at=()):
    """Train some weights of a copy of a model, one step for each batch.

    Args:
        model: Stays as it is.
        names: Parameters to train.
        batches: Token ids ``[texts, LENGTH]``, one step each, in this order.
        optimiser: A key of :data:`OPTIMISERS`. rate: Its learning rate, the same at every step.
        frozen: Slices that must not move, of the parameters named.
        watched: ``{name: token ids}`` whose loss is taken, without training on them.
        at: Numbers of steps after which it is taken; 0 is before the first.

    Returns:
        The trained copy in eval mode, and a :class:`Curve`.
    """
    tuned = copy.deepcopy(model).eval()
    trained = {name: parameter for name, parameter in tuned.named_parameters() if name in set(names)}
    for name, parameter in tuned.named_parameters():
        parameter.requires_grad_(name in trained)
    masks = frozen_masks({name: parameter.shape for name, parameter in trained.items()}, frozen)
    taken, losses = [], {name: [] for name in watched or {}}
    with reproducibility.deterministic(threads=1):
        stepper = OPTIMISERS[optimiser](list(trained.values()), rate)
        for step in range(len(batches) + 1):
            if step in at:
                taken.append(step)
                for name, ids in (watched or {}).items():
                    losses[name].append(held_out_loss(tuned, ids))
            if step < len(batches):
                stepper.zero_grad(set_to_none=True)
                sample_losses(tuned, batches[step]).mean().backward()
                for name, parameter in trained.items():
                    parameter.grad.masked_fill_(masks[name], 0.0)
                stepper.step()
    return tuned, Curve(tuple(taken), {name: tuple(values) for name, values in losses.items()})


def attention_weights(config):
    """Names of the weights that hold heads, each once, in the order of the layers."""
    return list(dict.fromkeys(one.param_name for layout in config.layers for one in layout.projections))


def slices_of(config):
    """Every slice of every head of Q, K, V and O, K and V once per kv head, in the order of ``Gradients.by_slice``."""
    return [
        projection.slice_of(unit)
        for layout in config.layers
        for projection in layout.projections
        for unit in range(projection.num_units)
    ]
