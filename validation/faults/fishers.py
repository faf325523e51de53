"""Faults of the Fisher diagonal: which samples make it, with which weights, whose it is, and what is said of it."""

import dataclasses
import functools

import torch

from qkov import fisher as fisher_module
from qkov import gradients, scoring

from .planting import fault

fisher = functools.partial(fault, area="Fisher")
pooling = functools.partial(fault, area="pooling")


@fisher("fisher.weighted_fisher", expected="marginal_identity")
def frozen_at_the_first_sample(_original):
    """F is taken from the first sample alone and never updated."""
    return lambda contributions, _weights: contributions[0]


@fisher("fisher.weighted_fisher", expected="marginal_identity")
def summed_over_samples(_original):
    """F is the sum over samples instead of their mean."""
    return lambda contributions, _weights: contributions.sum(0)


@fisher("diagonal._averaged", expected="fisher_diagonal")
def diagonal_of_the_mean_gradient(original):
    """The diagonal for a checkpoint is the square of the mean gradient instead of the mean of the squares."""

    def averaged(*arguments):
        found = original(*arguments)
        return dataclasses.replace(found, values={name: mean.square() for name, mean in found.grad_mean.items()})

    return averaged


@fisher("diagonal.FisherDiagonal.of", expected="fisher_diagonal")
def diagonal_unbiased(original):
    """The diagonal of kept samples divides by one less than their number, as a variance would."""

    def of(cls, collector, task):
        found = original.__func__(cls, collector, task)
        factor = found.num_samples / (found.num_samples - 1)
        return dataclasses.replace(found, values={name: value * factor for name, value in found.values.items()})

    return classmethod(of)


@fisher("interference.QKOVInterferenceMetric._side", expected="selection")
def only_scored_samples(_original):
    """With max_samples_per_task, F comes from the scored samples instead of all collected ones."""

    def side(self, task, rows):
        members = self.collector.samples(task)
        rows = range(len(members)) if rows is None else rows
        return scoring.Side([members[row] for row in rows], list(range(len(rows))), self.options)

    return side


@fisher("fisher.sample_weights", expected="bounds")
def weights_start_biased(original):
    """Exponential weights are not divided by their sum, so that F of few samples is far too small."""

    def sample_weights(num_samples, source="contributions", decay=fisher_module.EMA_DECAY):
        weights = original(num_samples, source, decay)
        return weights * (1 - decay**num_samples) if source == "ema" else weights

    return sample_weights


@fisher("fisher.sample_weights", expected="reference_scores")
def oldest_weighs_most(original):
    """Exponential weights run the wrong way: the first sample weighs most."""
    return lambda *arguments: original(*arguments).flip(0)


@fisher("fisher.ExponentialMean.mean", expected="ema")
def average_starts_biased(_original):
    """The exponential mean keeps the bias of its start at zero."""
    return property(lambda self: self.biased)


@fisher("fisher.ExponentialMean.update", expected="ema")
def updated_in_reverse(_original):
    """Every update discounts the newest sample instead of the older ones."""

    def update(self, sample_contribution):
        weight = (1 - self.decay) * self.decay**self.count
        return dataclasses.replace(
            self, count=self.count + 1, biased=self.biased + weight * sample_contribution.double()
        )

    return update


@fisher("fisher.Welford.merge", expected="welford")
def merged_without_the_gap(_original):
    """Merging adds squared deviations and forgets the distance between the two means."""

    def merge(self, other):
        count = self.count + other.count
        if not count:
            return self
        mean = (self.count * self.mean + other.count * other.mean) / count
        return fisher_module.Welford(count, mean, self.m2 + other.m2)

    return merge


@fisher("fisher.Welford.merge", expected="welford")
def means_merged_unweighted(_original):
    """Merging averages the two means without regard to how many samples made each."""

    def merge(self, other):
        if not self.count or not other.count:
            return other if other.count else self
        count, delta = self.count + other.count, other.mean - self.mean
        spread = delta.square() * (self.count * other.count / count)
        return fisher_module.Welford(count, (self.mean + other.mean) / 2, self.m2 + other.m2 + spread)

    return merge


@fisher("fisher.Welford.variance", expected="welford")
def variance_biased(_original):
    """The variance divides by n instead of n - 1."""
    return property(lambda self: self.m2 / max(self.count, 1))


@fisher("handed_out._head_sums", expected="square_then_reduce")
def reduced_then_squared(_original):
    """A slice's gradient is summed first and squared second: [1, -1] gives 0 instead of 2."""

    def head_sums(members, projection, unit, _normalisation):
        pairs = [gradients.slice_factors(one.factors, projection, unit) for one in members]
        sums = torch.stack([(head.T @ other).sum().double() for head, other in pairs])
        return sums.square() / torch.tensor([one.num_tokens for one in members])

    return head_sums


@fisher("fisher.reduce_heads", expected="rotation")
def magnitudes_summed(_original):
    """A head's Fisher sums magnitudes of gradients, not squares, and squares the sum."""
    return lambda contributions: contributions.double().sqrt().sum(-1).square() / contributions.shape[-1]


@fisher("fisher.slice_health", expected="health")
def median_is_the_mean(original):
    """Health reports the mean of F as its median, which a few large values dominate."""

    def slice_health(values, damped, epsilon):
        return original(values, damped, epsilon) | {"fisher_median": float(values.double().mean())}

    return slice_health


@pooling("fisher.pool_fisher", expected="foreign_fisher")
def pool_b_is_a(original):
    """fisher_pool="B" still divides by A's Fisher."""
    return lambda fisher_a, fisher_b, pool="A": original(fisher_a, fisher_b, "A" if pool == "B" else pool)


@pooling("interference.QKOVInterferenceMetric.__init__", expected="marginal_identity")
def pool_a_is_b(original):
    """fisher_pool="A" divides by B's Fisher."""

    def init(self, config, collector, *, fisher_pool="A", **options):
        original(self, config, collector, fisher_pool="B" if fisher_pool == "A" else fisher_pool, **options)

    return init


@pooling("fisher.pool_fisher", expected="reference_scores")
def pooled_is_the_sum(original):
    """The pooled Fisher is the sum of both tasks' instead of their mean."""

    def pool_fisher(fisher_a, fisher_b, pool="A"):
        return fisher_a + fisher_b if pool == "pooled" else original(fisher_a, fisher_b, pool)

    return pool_fisher


@pooling("fisher.pool_fisher", expected="symmetry")
def pooled_counts_a_twice(original):
    """The pooled Fisher weighs A's twice as much as B's."""

    def pool_fisher(fisher_a, fisher_b, pool="A"):
        return (2 * fisher_a + fisher_b) / 3 if pool == "pooled" else original(fisher_a, fisher_b, pool)

    return pool_fisher
