"""Wrong readings of the text, one for each place where it must not be misread. The comparison must notice every one."""

import contextlib
import math

import numpy as np

from . import metric, permutations, slices


def squared_sum(rows):
    """Reduce, then square: the square of the mean gradient for every sample."""
    return np.broadcast_to(rows.mean(0) ** 2, rows.shape)


def without_correction(count, source="contributions"):
    """An exponential mean that is not divided by what it has of its start."""
    place = np.arange(1, count + 1)
    if source != "ema":
        return np.full(count, 1 / count)
    return (1 - metric.BETA) * metric.BETA ** (count - place)


def o_by_rows(part):
    """Heads of O taken as blocks of rows."""
    return part, None


def interleaved(number, head, heads, width):
    """The fused weight of GPT-2 read as interleaved by head."""
    start = (head * 3 + number) * width
    return start, start + width


def by_tokens(grads, tokens, normalisation="tokens"):
    """Divided by the tokens, not by their root: the gradient of a mean loss."""
    return grads / tokens[:, None] if normalisation == "tokens" else grads


def over_the_slice(one, mean, epsilon=None, ridge_lambda=None):
    """The absolute rule by default."""
    del mean
    return np.maximum(one, metric.EPSILON) + metric.RIDGE


def pooled_by_samples(of_a, of_b, pool):
    """A pool of three parts to one, as if tasks were weighed by their size."""
    return {"A": of_a, "B": of_b, "pooled": 0.75 * of_a + 0.25 * of_b}[pool]


def unrooted(variant, side_a, side_b, denominators, per_token=False):
    """B's part of "natural" divided by D, not by its root."""
    if variant == "natural":
        return side_a[1] ** 2 / denominators[1] @ (np.abs(side_b[1]) / denominators[2]).T
    return _SUM_SCORES(variant, side_a, side_b, denominators, per_token)


def both_signed(variant, side_a, side_b, denominators, per_token=False):
    """B's gradient with its sign in "unsigned"."""
    if variant == "unsigned":
        return side_a[1] ** 2 / denominators[0] @ side_b[0].T
    return _SUM_SCORES(variant, side_a, side_b, denominators, per_token)


def both_normalised(variant, side_a, side_b, denominators, per_token=False):
    """h_j in the place of g_j in "unsigned"."""
    if variant == "unsigned":
        return side_a[1] ** 2 / denominators[0] @ np.abs(side_b[1]).T
    return _SUM_SCORES(variant, side_a, side_b, denominators, per_token)


def over_parameters(h_a, h_b, omega):
    """The damping of "full" relative to the trace over all parameters."""
    h = np.concatenate([h_a, h_b])
    matrix = (h.T * omega) @ h
    return metric.quadratic(h_a, h_b, matrix, metric.MATRIX_RIDGE * np.trace(matrix) / len(matrix))


def unaveraged(pairs_a, pairs_b, tokens_a, tokens_b, omega):
    """The second factor of "kfac" divided by the tokens of the loss, not by those that are reached."""
    pairs, counts = [*pairs_a, *pairs_b], np.concatenate([tokens_a, tokens_b])
    share = omega / counts
    own = sum(w * u.T @ u for w, (u, _) in zip(share, pairs, strict=True))
    other = sum(w * v.T @ v for w, (_, v) in zip(share, pairs, strict=True))
    matrix = np.kron(own, other)
    h = np.array([(u.T @ v).ravel() / np.sqrt(count) for (u, v), count in zip(pairs, counts, strict=True)])
    damping = metric.MATRIX_RIDGE * np.trace(matrix)  # not divided by the number of parameters either
    return metric.quadratic(h[: len(pairs_a)], h[len(pairs_a) :], matrix, damping), np.trace(matrix) / len(matrix)


def weighed_all_the_same(mean, largest, machine_epsilon=metric.MACHINE_EPSILON):
    """Rounding noise brought to size."""
    return False


def by_remainder(head, heads, kv_heads):
    """h mod H_kv: query heads far apart share a kv head, in the place of neighbours."""
    del heads
    return head % kv_heads


def strictly(values, observed, least=1.0):
    """Only what exceeds the observed statistic is counted."""
    del least
    return values > observed + permutations.TIES


def other_words(count_1, count_2, number, seed, stream=0):
    """Relabelings from another generator with the same seed."""
    words = np.random.PCG64([seed, stream]).random_raw(number * (count_1 + count_2)).reshape(number, -1)
    first = np.zeros(words.shape, dtype=bool)
    np.put_along_axis(first, np.argsort(words, axis=1)[:, :count_1], True, axis=1)
    return first


def pooled_variance(one, two, variance):
    """Student's t with a common variance in the place of Welch's."""
    del variance
    common = (one.var() * len(one) + two.var() * len(two)) / (len(one) + len(two) - 2)
    return (one.mean() - two.mean()) / math.sqrt(common * (1 / len(one) + 1 / len(two)))


def unrounded(matrix):
    """Pair sums that are not brought to whole multiples of a step."""
    return matrix, 1.0


_SUM_SCORES = metric.sum_scores

MISREADINGS = {
    "reduced, then squared": (metric, "contributions", squared_sum, "M3"),
    "exponential mean without its correction": (metric, "weights", without_correction, "M4"),
    "divided by tokens, not their root": (metric, "normalised", by_tokens, "M2"),
    "absolute damping by default": (metric, "damped", over_the_slice, "M6"),
    "rounding noise weighed": (metric, "is_noise", weighed_all_the_same, "M8"),
    "pool weighed by size": (metric, "pooled", pooled_by_samples, "M5"),
    "B's gradient with its sign": (metric, "sum_scores", both_signed, "M9"),
    "B's gradient normalised": (metric, "sum_scores", both_normalised, "M9"),
    "natural without the root": (metric, "sum_scores", unrooted, "M10"),
    "full damped by all parameters": (metric, "full_scores", over_parameters, "M14"),
    "kfac without the mean": (metric, "kfac_scores", unaveraged, "M16"),
    "O by rows": (slices, "o_intervals", o_by_rows, "L2"),
    "kv heads by remainder": (slices, "kv_head", by_remainder, "L3"),
    "fused weight interleaved": (slices, "fused_interval", interleaved, "L4"),
    "ties not counted": (permutations, "reaches", strictly, "S3"),
    "relabelings of another generator": (permutations, "draw", other_words, "S2"),
    "Student's t": (permutations, "welch", pooled_variance, "S5"),
    "sums not rounded": (permutations, "rounded", unrounded, "S8"),
}
"""Name: where it is planted, and the equation that it misreads."""


@contextlib.contextmanager
def planted(name):
    """Replace one function by its misreading."""
    module, attribute, wrong, _ = MISREADINGS[name]
    right = getattr(module, attribute)
    setattr(module, attribute, wrong)
    try:
        yield
    finally:
        setattr(module, attribute, right)
