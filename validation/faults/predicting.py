"""Faults of predictions: the step, its direction, its curvature, and what is added up."""

import functools

import torch

from .planting import fault

predicting = functools.partial(fault, area="predictions")


@predicting("step.first_order", expected="predicted_change")
def step_uphill(original):
    """The step goes up B's loss, so that harm is called help."""
    return lambda grads, step: original(grads, -step)


@predicting("step.direction", expected="predicted_change")
def adam_divides_by_the_squared_mean(original):
    """Adam's step divides by the root of the squared mean, not of the mean of squares: every entry becomes a sign."""

    def direction(grad, fisher, block_mean, optimiser):
        if optimiser == "adam":
            return grad / (grad.square() + 1e-8 * block_mean + torch.finfo(grad.dtype).tiny).sqrt()
        return original(grad, fisher, block_mean, optimiser)

    return direction


@predicting("step.diagonal_curvature", expected="predicted_change")
def curvature_without_half(original):
    """The curvature enters whole, not by half."""
    return lambda grads, squared_step: 2 * original(grads, squared_step)


@predicting("step.diagonal_curvature", expected="predicted_change")
def curvature_of_the_mean_gradient(_original):
    """The mean over A is squared, not each sample's gradient."""
    return lambda grads, squared_step: (grads.mean(0, keepdim=True).square() @ squared_step / 2).expand(len(grads))


@predicting("prediction_result.Prediction._curvature", expected="predicted_groups")
def curvature_grows_with_the_step(_original):
    """The curvature grows with the step and not with its square."""
    return lambda self, members: self.step_size * self.second[:, members].sum(1)


@predicting("prediction_result.Prediction._groups", expected="predicted_groups")
def kv_heads_by_remainder(original):
    """A query head is counted with kv head h % num_kv_heads."""

    def groups(self, level):
        if level != "kv_head":
            return original(self, level)
        found = {}
        for number, (block, layer, unit) in enumerate(zip(self.blocks, self.layers, self.units, strict=True)):
            kv_head = unit if block in "KV" else unit % self.attributes["num_kv_heads"][str(layer)]
            found.setdefault((("layer", layer), ("kv_head", kv_head)), []).append(number)
        return [(dict(names), members) for names, members in found.items()]

    return groups
