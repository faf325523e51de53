"""Fisher diagonals of random numbers on the layouts of tiny real models, for tests of what is made from them."""

import functools

import torch

from qkov import diagonal, layout, linear_weights
from tests import builders


@functools.cache
def tiny_model(family):
    """The same model of a family every time; leave its weights as they are."""
    return builders.build_model(family)


def make_diagonal(
    family="llama", *, task="math", seed=0, include=("attention", "mlp"), dtype=torch.float64, values=None
):
    """A diagonal with squared normal entries, or with ``values(param_name, shape)``."""
    model = tiny_model(family)
    config = layout.QKOVConfig.from_model(model)
    weights = linear_weights.find_linear_weights(model, config, include)
    generator = torch.Generator().manual_seed(seed)
    draw = values or (lambda name, shape: torch.randn(shape, generator=generator, dtype=torch.float64).square())
    made = {one.param_name: draw(one.param_name, one.weight_shape).to(dtype) for one in weights}
    return diagonal.FisherDiagonal(
        task=task,
        values=made,
        grad_mean={name: torch.zeros_like(value) for name, value in made.items()},
        weights=weights,
        config=config,
        num_samples=5,
        attributes={"contribution_normalisation": "tokens", "labels": "data"},
    )


def head_of(config, name, row, column):
    """Look up, one parameter at a time, ``(layer, block, unit)`` that owns it, or None: the slow route."""
    for held in config.layers:
        for projection in held.projections:
            if projection.param_name != name:
                continue
            at = (row, column)[projection.head_axis]
            for unit, start in enumerate(projection.starts):
                if start <= at < start + projection.width:
                    return held.layer, projection.block, unit
    return None
