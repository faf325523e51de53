r"""The empirical Fisher diagonal of one task, weight by weight, keyed like the checkpoint.

.. math:: F_k = \frac1n \sum_i C_{ik}, \qquad C_{ik} = h_{ik}^2, \qquad h_i = g_i / \sqrt{tokens_i}

with ``g_i`` the gradient of sample i's summed token loss. Each sample is squared before anything is added: the square of
the mean gradient is another quantity, and usually hundreds of times smaller.
"""

from dataclasses import dataclass

import torch

from . import errors, labels

__all__ = ["FisherDiagonal"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FisherDiagonal:
    """Hold the Fisher diagonal of a task.

    Attributes:
        task: Its name.
        values: ``{param_name: F}`` in the stored shape of the weight, float32 or float64, on the CPU: the mean over
            samples of the contributions, in units of squared gradient. Biases and norms are not held.
        grad_mean: ``{param_name: mean over samples of the raw g_i}``, same shapes; empty where it was not loaded.
        weights: A :class:`qkov.linear_weights.LinearWeight` for each entry, in the same order.
        config: Where the heads are, or None.
        num_samples: Number of samples n.
        attributes: JSON-able facts: ``contribution_normalisation``, ``labels`` ("data" or "sampled"),
            ``model_fingerprint``, ``sample_ids``, ``left_out`` and more.

    Raises:
        EmptyTaskError: If there is no sample.
        ShapeError: If an entry does not fit its weight.
        NonFiniteError: If an entry of F is NaN, infinite or negative.
    """

    task: str
    values: dict
    grad_mean: dict
    weights: tuple
    config: object
    num_samples: int
    attributes: dict

    def __post_init__(self):
        if self.num_samples < 1:
            raise errors.EmptyTaskError(f"task {self.task!r} has no samples; a Fisher diagonal needs at least one.")
        shapes = {one.param_name: tuple(one.weight_shape) for one in self.weights}
        for what, tensors in (("values", self.values), ("grad_mean", self.grad_mean or self.values)):
            found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            if found != shapes:
                wrong = sorted(name for name in found.keys() | shapes.keys() if found.get(name) != shapes.get(name))
                raise errors.ShapeError(
                    f"{what} of task {self.task!r} do not fit the weights at {wrong[:4]}: found "
                    f"{[found.get(name) for name in wrong[:4]]}, expected {[shapes.get(name) for name in wrong[:4]]}."
                )
            for name, tensor in tensors.items():
                if tensor.dtype not in (torch.float32, torch.float64) or not torch.isfinite(tensor).all():
                    raise errors.NonFiniteError(f"{what}[{name!r}] is not finite, or not float32 or float64.")
        for name, tensor in self.values.items():
            if (tensor < 0).any():
                raise errors.NonFiniteError(f"values[{name!r}] holds negative entries; a mean of squares has none.")
        object.__setattr__(self, "attributes", labels.plain_json(self.attributes))

    def __repr__(self):
        size = sum(tensor.numel() for tensor in self.values.values())
        return (
            f"<FisherDiagonal of {self.task!r}: {len(self.values)} weights, {size} parameters, {self.num_samples} "
            "samples. Mean of squared per-sample gradients: how sensitive the loss is to each parameter alone, in its "
            "present coordinates and with the labels of the data; no statement about parameters together.>"
        )
