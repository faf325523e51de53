r"""Gradients whose truth is known: what the tests of :mod:`qkov.statistics` are calibrated on.

The gradient of sample i in slice s is a small matrix of rank three, as the gradient of a linear layer is a sum of outer
products over a few effective tokens:

.. math:: G_{is} = e^{\sigma z_i} \sum_{t=1}^{3} (r_s \odot a_{ist}) (c_s \odot b_{ist})^\top

``a`` and ``b`` are noise, ``z`` is one standard normal number per sample, the same in all slices (one loud sample is loud
everywhere), and the task's profile (r, c) says which rows and columns of a slice are large: log-normal scales, two columns
of each slice five times as large, as transformers have them. What two tasks have in common is their profile.

============  =====================================================================================
light         normal a and b, :math:`\sigma = 0.3`, 32 samples per task
heavy         a and b from Student's t with 2.5 degrees of freedom, :math:`\sigma = 1`
unbalanced    light, with 16 samples of A, 64 of the reference and 32 of B
clustered     light, 12 clusters of four samples; each cluster multiplies r and c by factors of its own, log-sd 0.7
============  =====================================================================================

A data set is drawn from (:data:`SEED`, a stream, its number) and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

SEED = 20261120
ROWS, COLUMNS, RANK = 6, 16, 3
CLUSTER = 4
KINDS = ("light", "heavy", "unbalanced", "clustered")
SIZES = {"light": (32, 32, 32), "heavy": (32, 32, 32), "unbalanced": (16, 64, 32), "clustered": (48, 48, 48)}
"""Samples of A, of the reference and of B where every null hypothesis is true."""
PARTIAL_SIZES = SIZES | {"heavy": (64, 64, 64)}
"""The same where some are false, unless given."""
NULL_LAYERS, NULL_HEADS = 4, 6
LAYERS, HEADS = 6, 8
KAPPA = 2.0
"""How many times larger the contributions of A are in a planted slice, in the columns that B changes most."""


@dataclass(frozen=True)
class Profile:
    """Which rows and columns of every slice a task makes large.

    Attributes:
        rows: ``[slices, rows]``.
        columns: ``[slices, columns]``.
    """

    rows: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class DataSet:
    """Three tasks, and in which slices A differs from the reference.

    Attributes:
        g_a, g_r, g_b: Gradients of A, of the reference and of B, ``[samples, slices, parameters]``.
        clusters_a, clusters_r, clusters_b: One label per sample, or "iid".
        layers: Layer of each slice.
        planted: Slices in which A leans on what B changes more than the reference does.
        decoys_b: Slices in which only B is unlike the others: no effect of A.
        decoys_a: Slices in which A is unlike the reference, and B changes all columns alike: no lean on B.
    """

    g_a: np.ndarray
    g_r: np.ndarray
    g_b: np.ndarray
    clusters_a: list | str
    clusters_r: list | str
    clusters_b: list | str
    layers: np.ndarray
    planted: np.ndarray
    decoys_b: np.ndarray
    decoys_a: np.ndarray

    @property
    def decoys(self):
        """Decoys of both sorts."""
        return self.decoys_a | self.decoys_b


def generator(stream, number):
    """Return the random generator of one data set of a stream of them."""
    return np.random.default_rng([SEED, stream, number])


def draw_profile(rng, num_slices):
    """Draw a task's profile: log-normal scales, and two columns of each slice five times as large."""
    columns = np.exp(0.5 * rng.standard_normal((num_slices, COLUMNS)))
    for one in columns:
        one[rng.choice(COLUMNS, 2, replace=False)] *= 5
    return Profile(np.exp(0.5 * rng.standard_normal((num_slices, ROWS))), columns)


def draw_task(rng, profile, kind, num_samples):
    """Draw the gradients of one task, ``[samples, slices, rows * columns]``.

    Args:
        rng: A NumPy generator.
        profile: The task's :class:`Profile`.
        kind: One of :data:`KINDS`; "unbalanced" is "light" here.
        num_samples: A multiple of four for "clustered": neighbours share a cluster.
    """
    rows, columns = profile.rows[None], profile.columns[None]
    if kind == "clustered":
        of_cluster = np.arange(num_samples) // CLUSTER
        count = of_cluster[-1] + 1
        rows = rows * np.exp(0.7 * rng.standard_normal((count, *profile.rows.shape)))[of_cluster]
        columns = columns * np.exp(0.7 * rng.standard_normal((count, *profile.columns.shape)))[of_cluster]
    heavy = kind == "heavy"
    loudness = np.exp((1.0 if heavy else 0.3) * rng.standard_normal(num_samples))
    shape = (num_samples, len(profile.rows))
    left, right = (
        rng.standard_t(2.5, (*shape, size, RANK)) if heavy else rng.standard_normal((*shape, size, RANK))
        for size in (ROWS, COLUMNS)
    )
    grads = np.matmul(left * rows[..., None], (right * columns[..., None]).swapaxes(2, 3))
    return grads.reshape(*shape, ROWS * COLUMNS) * loudness[:, None, None]


def labels(kind, num_samples, task):
    """Return the clusters of a task's samples: the word "iid", or a label for each four neighbours."""
    return [f"{task}{one // CLUSTER}" for one in range(num_samples)] if kind == "clustered" else "iid"


def draw_null(kind, number, *, stream=0):
    """Draw a data set in which the three tasks are identically distributed, and so are the heads of a layer.

    Args:
        kind: One of :data:`KINDS`.
        number: Of the data set.
        stream: Data sets of different streams have nothing in common.
    """
    rng = generator(100 + stream, number)
    layers = np.arange(NULL_LAYERS * NULL_HEADS) // NULL_HEADS
    of_layer = draw_profile(rng, NULL_LAYERS)
    profile = Profile(of_layer.rows[layers], of_layer.columns[layers])
    none = np.zeros(len(layers), dtype=bool)
    return _draw(rng, (profile,) * 3, kind, SIZES[kind], layers, none, none, none)


def draw_partial(kind, number, *, sizes=None, kappa=KAPPA, stream=0):
    r"""Draw a data set with 48 heads in six layers: 8 planted, 4 decoys, 36 in which A and the reference are alike.

    B has a profile of its own. Planted (half of the heads of layers 1 and 4): the contributions of A, :math:`g^2`, are
    multiplied by kappa in the eight columns that B changes most. Decoys: in two heads B alone has four columns three times
    as large; in two others the contributions of A are multiplied in eight columns, but B changes all columns alike.

    Args:
        kind: One of :data:`KINDS`.
        number: Of the data set.
        sizes: Samples of A, of the reference and of B; by default :data:`PARTIAL_SIZES`.
        kappa: Strength of the effect.
        stream: Data sets of different streams have nothing in common.
    """
    rng = generator(200 + stream, number)
    count = LAYERS * HEADS
    layers, heads = np.divmod(np.arange(count), HEADS)
    planted = np.isin(layers, (1, 4)) & (heads % 2 == 0)
    decoys_b, decoys_a = (np.isin(layers, (0, 3)) & (heads == head) for head in (2, 5))
    reference, of_b = draw_profile(rng, count), draw_profile(rng, count)
    columns_a, rows_b, columns_b = reference.columns.copy(), of_b.rows.copy(), of_b.columns.copy()
    for one in np.where(decoys_b)[0]:
        columns_b[one, rng.choice(COLUMNS, 4, replace=False)] *= 3
    rows_b[decoys_a], columns_b[decoys_a] = 1.0, 1.0
    for one in np.where(decoys_a)[0]:
        columns_a[one, rng.choice(COLUMNS, 8, replace=False)] *= np.sqrt(kappa)
    for one in np.where(planted)[0]:
        columns_a[one, np.argsort(-columns_b[one])[:8]] *= np.sqrt(kappa)
    profiles = replace(reference, columns=columns_a), reference, Profile(rows_b, columns_b)
    return _draw(rng, profiles, kind, sizes or PARTIAL_SIZES[kind], layers, planted, decoys_b, decoys_a)


def population_profiles():
    """Return the profiles of A and B of one fixed population, 24 slices, whose scores :func:`draw_population` samples."""
    rng = generator(300, 0)
    return tuple(draw_profile(rng, NULL_LAYERS * NULL_HEADS) for _ in "ab")


def draw_population(kind, number, sizes):
    """Draw samples of A and B from the fixed population; ``(g_a, g_b)``.

    Args:
        kind: One of :data:`KINDS`. number: Of the data set. sizes: Samples of A and of B.
    """
    rng = generator(301, number)
    return tuple(draw_task(rng, *one) for one in zip(population_profiles(), (kind, kind), sizes, strict=True))


def _draw(rng, profiles, kind, sizes, layers, planted, decoys_b, decoys_a):
    grads = [draw_task(rng, profile, kind, size) for profile, size in zip(profiles, sizes, strict=True)]
    clusters = [labels(kind, size, task) for size, task in zip(sizes, "arb", strict=True)]
    return DataSet(*grads, *clusters, layers, planted, decoys_b, decoys_a)
