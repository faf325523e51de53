"""Scores of all pairs on one slice: contribution, Fisher, damping, variants, prediction. Equations M2 to M17, P1 to P3."""

import numpy as np

BETA, RELATIVE, EPSILON, RIDGE, MATRIX_RIDGE = 0.99, 1e-8, 1e-10, 1e-8, 0.1
TINY = 2.0**-1022
MACHINE_EPSILON = 2.0**-52
SUMS = ("unsigned", "natural", "signed", "symmetric", "dot")


def normalised(grads, tokens, normalisation="tokens"):
    """Equation M2: ``h``, ``[samples, K]``."""
    return grads / np.sqrt(tokens)[:, None] if normalisation == "tokens" else grads


def contributions(h):
    """Equation M3: squared before anything is averaged."""
    return h**2


def weights(count, source="contributions"):
    """Equation M4: the weight of each sample, in the order of collection."""
    if source != "ema":
        return np.full(count, 1 / count)
    place = np.arange(1, count + 1)
    return (1 - BETA) * BETA ** (count - place) / (1 - BETA**count)


def fisher(squares, source="contributions"):
    """Equation M4, of contributions ``[samples, K]``."""
    found = weights(len(squares), source) @ squares
    return np.full_like(found, found.mean()) if source == "head" else found


def pooled(of_a, of_b, pool):
    """Equation M5, of Fisher diagonals and of their means alike."""
    return {"A": of_a, "B": of_b, "pooled": (of_a + of_b) / 2}[pool]


def block_mean(fishers):
    """The mean of F over all parameters of all slices of the layer and block."""
    return np.concatenate(fishers).mean()


def damped(one, mean, epsilon=None, ridge_lambda=None):
    """Equations M6 and M7."""
    if epsilon is None and ridge_lambda is None:
        return one + RELATIVE * mean + TINY
    return np.maximum(one, EPSILON if epsilon is None else epsilon) + (RIDGE if ridge_lambda is None else ridge_lambda)


def sum_scores(variant, side_a, side_b, denominators, per_token=False):
    """Equations M9 to M13.

    Args:
        variant: One of :data:`SUMS`.
        side_a, side_b: ``(g, h, tokens)`` of each task.
        denominators: D of the pool, of A and of B.
    """
    (g_a, h_a, _), (g_b, h_b, tokens_b) = side_a, side_b
    d, d_a, d_b = denominators
    if variant == "unsigned":
        return contributions(h_a) / d @ np.abs(g_b / tokens_b[:, None] if per_token else g_b).T  # M9
    if variant == "natural":
        return contributions(h_a) / d_a @ (np.abs(h_b) / np.sqrt(d_b)).T  # M10
    if variant == "signed":
        return h_a / d @ h_b.T  # M11
    if variant == "symmetric":
        return np.abs(h_a) / d @ np.abs(h_b).T  # M12
    return g_a @ g_b.T  # M13


def matrix_weights(count_a, count_b, pool, source="contributions"):
    """Weights of the samples of A and then of B in F, for the variants that weigh by a whole matrix."""
    of_a, of_b = weights(count_a, source), weights(count_b, source)
    return {
        "A": np.concatenate([of_a, 0 * of_b]),
        "B": np.concatenate([0 * of_a, of_b]),
        "pooled": np.concatenate([of_a, of_b]) / 2,
    }[pool]


def full_scores(h_a, h_b, omega):
    """Equation M14, by the matrix itself."""
    h = np.concatenate([h_a, h_b])
    matrix = (h.T * omega) @ h
    size = h.shape[1]
    damping = MATRIX_RIDGE * np.trace(matrix) / min((omega > 0).sum(), size)
    return quadratic(h_a, h_b, matrix, damping)


def full_scores_by_samples(h_a, h_b, omega):
    """Equation M15: the same without a matrix of the parameters; for pools that hold A."""
    h, inside = np.concatenate([h_a, h_b]), omega > 0
    root = np.sqrt(omega[inside])
    small = root[:, None] * (h[inside] @ h[inside].T) * root
    damping = MATRIX_RIDGE * np.trace(small) / min(inside.sum(), h.shape[1])
    solved = np.linalg.solve(small + damping * np.eye(len(small)), root[:, None] * (h[inside] @ h_b.T)) / root[:, None]
    return solved[: len(h_a)]


def kfac_scores(pairs_a, pairs_b, tokens_a, tokens_b, omega):
    """Equation M16; ``pairs`` are ``(u, v)`` of each sample, ``[tokens, features]``. Also the mean eigenvalue."""
    pairs, counts = [*pairs_a, *pairs_b], np.concatenate([tokens_a, tokens_b])
    share = omega / counts
    own = sum(w * u.T @ u for w, (u, _) in zip(share, pairs, strict=True))
    other = sum(w * v.T @ v for w, (_, v) in zip(share, pairs, strict=True))
    other = other / sum(w * len(v) for w, (_, v) in zip(share, pairs, strict=True))
    matrix = np.kron(own, other)
    damping = MATRIX_RIDGE * np.trace(matrix) / len(matrix)
    h = np.array([(u.T @ v).ravel() / np.sqrt(count) for (u, v), count in zip(pairs, counts, strict=True)])
    return quadratic(h[: len(pairs_a)], h[len(pairs_a) :], matrix, damping), np.trace(matrix) / len(matrix)


def quadratic(h_a, h_b, matrix, damping):
    """``h_i^T (matrix + damping I)^-1 h_j``; 0 for a slice without any gradient."""
    if not matrix.any():
        return np.zeros((len(h_a), len(h_b)))
    return h_a @ np.linalg.solve(matrix + damping * np.eye(len(matrix)), h_b.T)


def is_noise(mean, largest, machine_epsilon=MACHINE_EPSILON):
    """Equation M8."""
    return mean <= (16 * machine_epsilon) ** 2 * largest


def block_is_noise(variant, means, largest, pool):
    """Equation M8 of a block: by either task's own Fisher for "natural", else by the pool."""
    if variant == "natural":
        return any(is_noise(mean, most) for mean, most in zip(means, largest, strict=True))
    return is_noise(pooled(*means, pool), pooled(*largest, pool))


def direction(g_b, mean, optimiser):
    """Equation P1, of B's raw gradients; ``mean`` is that of their squares over the block."""
    average, squares = g_b.mean(0), (g_b**2).mean(0)
    if optimiser == "sgd":
        return average
    if optimiser == "adam":
        return average / np.sqrt(damped(squares, mean))
    return np.where(np.abs(average) > 16 * MACHINE_EPSILON * np.sqrt(mean), np.sign(average), 0.0)


def predicted(g_a, g_b, mean, optimiser, curvature, step_size):
    """Equations P2 and P3: the change of A's mean loss."""
    d = -step_size * direction(g_b, mean, optimiser)
    curved = {"none": np.zeros(len(g_a)), "diagonal": g_a**2 @ d**2, "gradient": (g_a @ d) ** 2}[curvature]
    return float((g_a @ d + curved / 2).mean())
