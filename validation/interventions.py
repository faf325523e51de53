"""What a change of weights really does: one slice is moved, every watched sample's loss is measured, and it is put back.

Nothing here is an estimate. The layers below the moved one compute what they computed before, so their outputs are replayed.
"""

import contextlib
from dataclasses import dataclass

import torch

from qkov import losses


@dataclass(frozen=True)
class Watched:
    """A model and samples whose losses are watched.

    Attributes:
        model: In eval mode; a causal language model whose layers lie in one list.
        batch: Padded samples.
        layers: The modules of that list.
        outputs: What each layer computed before anything was moved.
        base: Losses before, float64 ``[samples]``, nats summed over tokens.
        num_tokens: Mean number of tokens of a sample.
    """

    model: torch.nn.Module
    batch: dict
    layers: tuple
    outputs: tuple
    base: torch.Tensor
    num_tokens: float


def watch(model, batch):
    """Measure the losses of a batch, and keep what every layer computes."""
    layers = tuple(next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList)))
    outputs = []
    handles = [layer.register_forward_hook(lambda _module, _args, output: outputs.append(output)) for layer in layers]
    try:
        base, tokens = _losses(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return Watched(model, batch, layers, tuple(outputs), base, float(tokens.double().mean()))


def change(watched, layout, projection, unit, step):
    """Return the change of every watched sample's loss when a slice moves by ``step``, float64 ``[samples]``.

    Args:
        watched: As :func:`watch` gives it.
        layout: The attention module, of ``QKOVConfig``. projection: One of its blocks. unit: Query head, or kv head.
        step: ``[parameters]`` in the slice's canonical order, ``[width, other]`` flattened, as
            ``qkov.scoring.slice_tiles`` yields gradients.
    """
    weight = watched.model.get_parameter(projection.param_name)
    place = projection.slice_of(unit).index
    moved = step.reshape(projection.width, -1)
    moved = moved if projection.head_axis == 0 else moved.T
    kept = weight.detach()[place].clone()
    try:
        with torch.no_grad(), _replayed(watched, layout.layer):
            weight[place] += moved.to(weight)
            return _losses(watched.model, watched.batch)[0] - watched.base
    finally:
        with torch.no_grad():
            weight[place] = kept


def _losses(model, batch):
    with torch.no_grad():
        found, tokens = losses.causal_lm_loss(model, batch)
    return found.double(), tokens


@contextlib.contextmanager
def _replayed(watched, number):
    """Let the layers below one answer what they answered before."""
    below = watched.layers[:number]
    try:
        for layer, output in zip(below, watched.outputs, strict=False):
            layer.forward = lambda *_args, _output=output, **_options: _output
        yield
    finally:
        for layer in below:
            layer.__dict__.pop("forward", None)
