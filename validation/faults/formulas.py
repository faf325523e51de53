"""Faults of the formula, of its damping, and of how tiles of it are added."""

import dataclasses
import functools

import torch

from .planting import fault

formula = functools.partial(fault, area="formula")
damping = functools.partial(fault, area="damping")


@formula("formula.contribution", expected="contributions")
def squared_twice(_original):
    """The contribution, already a square, is squared again: C = g^4."""
    return lambda h: h.square().square()


@formula("formula.contribution", expected="contributions")
def squared_in_half_precision(_original):
    """Gradients are squared in float16, where small squares become 0."""
    return lambda h: h.half().square().to(h.dtype)


@formula("formula.contribution", expected="reference_scores")
def averaged_before_squaring(_original):
    """Gradients are averaged over samples and then squared, as a batch gradient would be."""
    return lambda h: h.mean(0, keepdim=True).square().expand_as(h)


@formula("formula.normalise", expected="contributions")
def divided_by_tokens(_original):
    """Gradients are divided by the number of tokens instead of its square root."""
    return lambda grad, num_tokens, _normalisation="tokens": grad / num_tokens.to(grad.dtype)[:, None]


@formula("formula.normalise", expected="reference_scores")
def normalisation_ignored(original):
    """contribution_normalisation="none" is ignored: contributions are divided by tokens all the same."""
    return lambda grad, num_tokens, _normalisation="tokens": original(grad, num_tokens, "tokens")


@formula("formula.right_factor", expected="bounds")
def absolute_value_missing(original):
    """B's gradient enters the unsigned score with its sign, so that parameters cancel."""

    def right_factor(variant, grad_b, *rest):
        return grad_b if variant == "unsigned" else original(variant, grad_b, *rest)

    return right_factor


@formula("formula.right_factor", expected="gauge")
def natural_without_root(original):
    """The natural variant divides by B's Fisher instead of its square root."""

    def right_factor(variant, grad_b, h_b, damped_b, *rest):
        return h_b.abs() / damped_b if variant == "natural" else original(variant, grad_b, h_b, damped_b, *rest)

    return right_factor


@formula("formula.right_factor", expected="reference_scores")
def per_token_by_root(original):
    """normalize_gj="per_token" divides by the square root of B's tokens."""

    def right_factor(variant, grad_b, h_b, damped_b, num_tokens_b, normalize_gj="none"):
        if normalize_gj == "per_token":
            return grad_b.abs() / num_tokens_b.to(grad_b.dtype).sqrt()[:, None]
        return original(variant, grad_b, h_b, damped_b, num_tokens_b, normalize_gj)

    return right_factor


@formula("formula.left_factor", expected="symmetry")
def signed_loses_a_sign(original):
    """The signed variant takes the magnitude of A's gradient, so that only B's sign is left."""

    def left_factor(variant, *rest):
        left = original(variant, *rest)
        return left.abs() if variant == "signed" else left

    return left_factor


@formula("formula.left_factor", expected="reference_scores")
def dot_by_tokens(original):
    """The dot variant takes A's gradient divided by the root of its tokens: not the change of a loss."""

    def left_factor(variant, grad_a, h_a, damped_a):
        return h_a if variant == "dot" else original(variant, grad_a, h_a, damped_a)

    return left_factor


@formula("formula.aggregate_scores", expected="head_additivity")
def mean_where_sum(_original):
    """aggregate="sum" and "mean" are exchanged."""
    return lambda total, num_parameters, aggregate="mean": total / num_parameters if aggregate == "sum" else total


@formula("formula.pair_scores", expected="reference_scores")
def summed_in_bfloat16(_original):
    """Products are summed in bfloat16."""
    return lambda left, right: (left.bfloat16() @ right.bfloat16().T).to(left.dtype)


@formula("formula.pair_scores", expected="determinism")
def random_last_digits(original):
    """Scores carry noise of 1e-9, as sums in no fixed order have."""

    def pair_scores(left, right):
        total = original(left, right)
        return total * (1 + 1e-9 * torch.randn_like(total))

    return pair_scores


@formula("formula._direction", expected="lift")
def lift_of_raw_gradients(_original):
    """Lift averages B's samples without bringing each to length 1, so that the longest decides."""
    return lambda grad: grad


@formula("tiles.columns_of", expected="tiles")
def tile_border_dropped(original):
    """The last column of every tile but the last is lost."""

    def columns_of(*arguments):
        found = [columns for columns in original(*arguments) if columns]
        borders = [(start, max(start + 1, stop - 1)) for start, stop in found[:-1]]
        return borders + original(*arguments)[len(found) - 1 :]

    return columns_of


@formula("tiles.columns_of", expected="tiles")
def last_tile_overwrites(original):
    """Each tile's sum overwrites that of the tiles before."""
    return lambda *arguments: original(*arguments)[-1:]


@damping("formula.damp", expected="damping_scale")
def absolute_ridge_by_default(original):
    """The default ridge is an absolute 1e-8, whatever the scale of the gradients."""

    def damp(fisher, block_mean, **options):
        if options.get("epsilon") is None and options.get("ridge_lambda") is None:
            return fisher + 1e-8
        return original(fisher, block_mean, **options)

    return damp


@damping("formula.damp", expected="damping")
def relative_to_the_slice(original):
    """The ridge is relative to the slice's own mean, so that rounding noise of a dead head is normalised up."""
    return lambda fisher, _block_mean, **options: original(fisher, fisher.mean(), **options)


@damping("formula.damp", expected="damping")
def floor_added(original):
    """epsilon is added to every F instead of being the least it can be."""

    def damp(fisher, block_mean, *, epsilon=None, ridge_lambda=None, **rest):
        if epsilon is None and ridge_lambda is None:
            return original(fisher, block_mean, **rest)
        return fisher + (1e-10 if epsilon is None else epsilon) + (1e-8 if ridge_lambda is None else ridge_lambda)

    return damp


@damping("formula.is_noise", expected="noise_floor")
def noise_normalised_up(_original):
    """A block whose gradients are rounding noise is normalised by its own Fisher, to scores as large as any."""
    return lambda block_mean, _largest_mean, _dtype: block_mean == 0


@damping("scoring.Side.block_mean", expected="reference_scores", case="deep")
def norms_of_another_layer(original):
    """The mean of F that damping is relative to is cached without the layer, and taken from the first one seen."""

    def block_mean(self, layout, projection, options):
        return original(self, dataclasses.replace(layout, layer=0), projection, options)

    return block_mean


@damping("scoring._denominators", expected="loss_scale")
def natural_by_the_other_task(original):
    """The natural variant divides A's contribution by B's Fisher, and B's gradient by the root of A's."""

    def denominators(fishers, means, options):
        if options.variant == "natural":
            fishers, means = fishers[::-1], means[::-1]
        return original(fishers, means, options)

    return denominators
