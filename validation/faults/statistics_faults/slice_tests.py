"""Faults of tests of slices and of layers."""

import dataclasses

import numpy as np

from .registering import statistics


@statistics("source.welch", expected="Welch's t")
def variances_pooled(_original):
    """Student's t: one variance for both sides."""

    def welch(values, first):
        found = []
        for row in first.astype(bool):
            one, other = values[row], values[~row]
            spread = one.var(0, ddof=1) * (len(one) - 1) + other.var(0, ddof=1) * (len(other) - 1)
            error = spread / (len(values) - 2) * (1 / len(one) + 1 / len(other))
            found.append((one.mean(0) - other.mean(0)) / np.sqrt(np.maximum(error, 1e-12)))
        return np.array(found)

    return welch


@statistics("source.welch", expected="Welch's t")
def variances_of_the_population(_original):
    """Variances divide by n instead of n - 1, and t is too large."""

    def welch(values, first):
        first = first.astype(bool)
        error = [values[row].var(0) / row.sum() + values[~row].var(0) / (~row).sum() for row in first]
        gap = [values[row].mean(0) - values[~row].mean(0) for row in first]
        return np.array(gap) / np.sqrt(np.maximum(error, 1e-12))

    return welch


@statistics("pair_forms._rounded", expected="sums over pairs")
def sums_in_float32(_original):
    """Scores are added up as they are, in float32: sums depend on their order."""
    return lambda values: (np.float64(np.float32(values)), 1.0)


@statistics("pair_forms._rounded", expected="sums over pairs")
def grid_of_eight_bits(_original):
    """Scores are rounded to eight bits."""

    def rounded(values):
        step = np.abs(values).max() / 256
        return (np.rint(values / step), float(step)) if step else (np.zeros_like(values), 0.0)

    return rounded


@statistics("pair_forms.Labellings.of", expected="sums over pairs")
def pairs_within_clusters_counted(original):
    """Pairs of samples of one cluster are counted, though their scores are left out."""

    def of(cls, first, sizes):
        found, in_a = original.__func__(cls, first, sizes), first @ np.asarray(sizes, dtype=float)
        return dataclasses.replace(found, pairs_aa=in_a**2, pairs_bb=(np.sum(sizes) - in_a) ** 2)

    return classmethod(of)


@statistics("exchange.effect", expected="exchange test")
def likeness_in_one_direction(original):
    """The effect averages A against B only, not B against A."""

    def effect(pairs, codes, num_a, statistic):
        one_way = pairs.copy()
        one_way[num_a:, :num_a] = pairs[:num_a, num_a:].T
        return original(one_way if statistic == "sym" else pairs, codes, num_a, statistic)

    return effect


@statistics("test_layers", expected="tests of layers")
def signs_cancel_in_a_layer(original):
    """Heads of a layer that lean either way cancel in a two-sided test."""

    def test_layers(head_test, layer_of_slice):
        greater = head_test.alternative == "two-sided"
        return original(dataclasses.replace(head_test, alternative="greater") if greater else head_test, layer_of_slice)

    return test_layers


@statistics("cluster_mass.components", expected="stretches of layers")
def layers_apart_are_joined(original):
    """Layers above the threshold are joined though others lie between them."""
    return lambda values, of_slice, threshold: original(
        values, np.unique(of_slice, return_inverse=True)[1].reshape(of_slice.shape), threshold
    )


@statistics("cluster_mass.components", expected="stretches of layers")
def mass_is_a_count(original):
    """The mass of a stretch is how many slices it holds."""
    return lambda values, of_slice, threshold: original(
        np.where(values > threshold, threshold + 1.0, 0.0), of_slice, threshold
    )
