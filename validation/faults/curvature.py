"""Faults of scores that weigh by a matrix, of scaled gradients, of drawn labels, and of whose samples make F."""

import dataclasses
import functools

import torch

from .planting import fault

matrix = functools.partial(fault, area="matrix")


@matrix("full_fisher.rank_bound", expected="full_fisher")
def ridge_over_all_parameters(_original):
    """Damping of the full Fisher is relative to its trace over parameters, not over the rank that it can have."""
    return lambda _weights, num_parameters: num_parameters


@matrix("kfac.token_mean_moment", expected="kronecker_factors")
def inputs_summed_over_tokens(original):
    """The Kronecker factor of the inputs is a sum over tokens instead of a mean."""
    return lambda rows, token_weights: original(rows, token_weights) * sum(len(tokens) for tokens in rows)


@matrix("kfac.token_moment", expected="matrix_rotation")
def factors_keep_their_diagonal(original):
    """Kronecker factors are reduced to their diagonals."""
    return lambda rows, token_weights: torch.diag(original(rows, token_weights).diagonal())


@matrix("full_fisher.checked_ridge", expected="matrix_scale")
def ridge_of_a_tenth(original):
    """The default damping of a matrix is 0.1, not 0.1 of its mean eigenvalue."""

    def checked_ridge(mean, *, relative, absolute=None, **options):
        return original(mean, relative=relative, absolute=relative if absolute is None else absolute, **options)

    return checked_ridge


@matrix("curvature.stack_samples", expected="leverage")
def pooled_from_one_task(original):
    """With a pooled Fisher the samples of A alone make the matrix."""

    def stack_samples(side_a, side_b, options):
        pool = "A" if options.fisher_pool == "pooled" else options.fisher_pool
        return original(side_a, side_b, dataclasses.replace(options, fisher_pool=pool))

    return stack_samples


@matrix("curvature.is_dead", expected="matrix_noise_floor")
def small_slice_brought_to_size(_original):
    """A slice whose gradients are next to nothing is damped relative to itself and scored like any other."""
    return lambda mean, *_arguments: mean == 0


@matrix("scoring.Side.of_task", expected="fisher_task")
def fisher_tasks_ignored(original):
    """fisher_tasks is taken and ignored: every task makes its own F."""

    def of_task(cls, collector, task, rows, options, _fisher_tasks=None):
        return original.__func__(cls, collector, task, rows, options)

    return classmethod(of_task)


@matrix("losses._draw", expected="sampled_labels")
def likeliest_label_taken(_original):
    """The label of the model is always its likeliest one."""
    return lambda chances, num_draws, _generator: chances.argmax(-1).expand(num_draws, -1)


@matrix("full_fisher.inverse_power", expected="scaled_gradients")
def root_where_inverse(original):
    """Gradients are scaled by the root of the inverse matrix where the inverse is asked for."""
    return lambda rows, weights, damping, grads, _power=1: original(rows, weights, damping, grads, 0.5)
