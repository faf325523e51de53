r"""The seeds' claims about signal and noise, measured on trained models beside what pure noise would give.

They say: a single sample's gradient has a signal-to-noise ratio below 0.1; sums over a head gain a factor of 32
(:math:`\sqrt{1000}`), division by the Fisher another 27, and 6.4 is left in the end. Defined here for a quantity
:math:`q_i` of sample i as

.. math:: SNR(q) = \frac{\lvert \bar q \rvert}{s_q}, \quad
          \bar q = \tfrac1n \sum_i q_i, \quad s_q^2 = \tfrac1{n-1} \sum_i (q_i - \bar q)^2

for one sample (the mean of n has :math:`\sqrt n` times as much), averaged over all slices, and over all parameters where
there is one q for each:

=============================  ================================================================
parameter                      :math:`q_i = g_{ik}`
parameter / sqrt(F)            :math:`q_i = g_{ik} / \sqrt{D_k}`: the same number, as the scale of q cancels
slice sum                      :math:`q_i = \sum_k g_{ik}`
slice sum / sqrt(F)            :math:`q_i = \sum_k g_{ik} / \sqrt{D_k}`, what should be left in the end
slice sum of contributions     :math:`q_i = \sum_k g_{ik}^2 / D_k`, the scores' own quantity
=============================  ================================================================

with :math:`D = F + 10^{-8} \bar F`, :math:`F_k = \tfrac1n \sum_i g_{ik}^2` over the samples. F is not fitted again below.

An average of n numbers is never 0, so neither is the SNR of noise: about :math:`\sqrt{2 / \pi n}` for independent samples.
The *floor* is the same average with the sign of every cluster's gradients drawn at random, which leaves all magnitudes and
the dependence within clusters in place but no mean. It is the mean over draws, between the 2.5 % and the 97.5 % quantile.
*Above the floor* is :math:`\sqrt{\max(0, SNR^2 - floor^2)}`: what is left of the SNR once noise has had its part.
Intervals of all else are 95 %, by a jackknife over clusters (Student's t), factors on the log scale.

A sum of squares does not depend on signs, so its floor is itself: that its mean exceeds its spread says nothing of signal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qkov.statistics import clusters as units
from qkov.statistics import relabelings, slices

from . import trained, trained_gradients

SEED = 2026
CLAIMS = {"single sample": 0.1, "by heads": 32.0, "by Fisher": 27.0, "at the end": 6.4}


@dataclass(frozen=True)
class Estimate:
    """An SNR averaged over quantities.

    Attributes:
        full: With all clusters.
        without: Without each of them, ``[clusters]``.
        floor: With random signs, ``[draws]``.
    """

    full: float
    without: np.ndarray
    floor: np.ndarray

    def interval(self):
        """Return ``(value, low, high)``."""
        half = _half_width(self.without)
        return self.full, max(0.0, self.full - half), self.full + half

    def floor_interval(self):
        """Return the mean and two quantiles of the floor."""
        low, high = np.quantile(self.floor, [0.025, 0.975])
        # Clipped, because the mean of equal numbers is rounded.
        return tuple(float(end) for end in (np.clip(self.floor.mean(), low, high), low, high))

    def above_floor(self):
        r"""Return :math:`\sqrt{\max(0, SNR^2 - floor^2)}` of the value and of the ends of its interval."""
        return tuple(float(np.sqrt(max(0.0, one**2 - self.floor.mean() ** 2))) for one in self.interval())

    def factor_over(self, other):
        """Return how many times the other one this is, ``(value, low, high)``."""
        logs = np.log(self.without) - np.log(other.without)
        value, half = self.full / other.full, _half_width(logs)
        return value, value * np.exp(-half), value * np.exp(half)


def quantities(grads):
    """Compute what is averaged of one slice's gradients ``[samples, parameters]``; ``{name: [samples, quantities]}``."""
    scale = np.abs(grads).max()
    grads = grads / (scale if scale > 0 else 1.0)  # one factor for all, so that squares do not underflow
    fisher = slices.damped(np.square(grads).mean(0))
    whitened = grads / np.sqrt(fisher)
    return {
        "parameter": grads,
        "parameter / sqrt(F)": whitened,
        "slice sum": grads.sum(1, keepdims=True),
        "slice sum / sqrt(F)": whitened.sum(1, keepdims=True),
        "slice sum of contributions": np.square(whitened).sum(1, keepdims=True),
    }


UNSIGNED = {"slice sum of contributions"}


def snr(total, squares, count):
    """Return the SNR of quantities with these sums and sums of squares over ``count`` samples; NaN for a constant 0."""
    mean = total / count
    variance = np.maximum(squares - count * np.square(mean), 0.0) / (count - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(mean) / np.sqrt(variance)


def of_quantities(values, clusters, signs, *, signed=True):
    """Return the SNR of ``[samples, quantities]``: all, without each cluster, with flipped signs, ``[..., quantities]``.

    Args:
        values: One row per sample.
        clusters: Their :class:`~qkov.statistics.clusters.Clusters`.
        signs: 1 or -1, ``[draws, clusters]``.
        signed: Whether the values change sign with the gradients.
    """
    sums, squares = clusters.sums(values), clusters.sums(np.square(values))
    total, total_squares, count = sums.sum(0), squares.sum(0), len(values)
    left = (count - clusters.sizes)[:, None]
    flipped = signs @ sums if signed else np.broadcast_to(total, (len(signs), len(total)))
    return (
        snr(total, total_squares, count),
        snr(total - sums, total_squares - squares, left),
        snr(flipped, total_squares, count),
    )


def measure(groups, clusters, *, draws, seed=SEED):
    """Average over slices; ``{name: Estimate}``.

    Args:
        groups: Gradients ``[samples, parameters]``, slice by slice.
        clusters: The samples' :class:`~qkov.statistics.clusters.Clusters`.
        draws: Random signs of all clusters to draw. seed: Of them.
    """
    signs = draw_signs(draws, clusters.number, seed)
    sums, counts = {}, {}
    for grads in groups:
        for name, values in quantities(grads).items():
            parts = of_quantities(values, clusters, signs, signed=name not in UNSIGNED)
            # A parameter that no sample uses has no SNR.
            used = np.isfinite(parts[0]) & np.isfinite(parts[1]).all(0)
            sums[name] = [
                old + part[..., used].sum(-1) for old, part in zip(sums.get(name, [0.0] * 3), parts, strict=True)
            ]
            counts[name] = counts.get(name, 0) + int(used.sum())
    return {name: Estimate(*(part / counts[name] for part in parts)) for name, parts in sums.items()}


def draw_signs(draws, number, seed):
    """Draw signs 1.0 and -1.0, ``[draws, number]``, from raw words, the same with every version of NumPy."""
    words = np.random.Philox(key=[relabelings.checked_seed(seed) % 2**64, 31]).random_raw(draws * number)
    return np.where(words.reshape(draws, number) >> np.uint64(63), 1.0, -1.0)


def rows(long):
    """Measure the trained models: code, and prose in the long version; rows whose ``sets`` count clusters."""
    families, names, draws = (tuple(trained.FAMILIES), ("code", "prose"), 400) if long else (("llama",), ("code",), 100)
    return [
        row
        for family in families
        for task in names
        for row in task_rows(trained_gradients.collect(family), task, draws=draws)
    ]


def task_rows(gradients, task, *, draws):
    """Rows of one model and task. Claims are upper bounds: a measured value at most as large does not reach them."""
    labels = gradients.clusters[task]
    clusters = units.read_clusters(list(labels), len(labels), task)
    found = measure((grads for (grads,) in gradients.by_slice(task)), clusters, draws=draws)
    data, made = f"{gradients.name}, {task}, {len(labels)} samples", []

    def add(procedure, values, bound=None, direction="shown"):
        made.append(
            trained_gradients.row("SNR", procedure, data, clusters.number, *map(float, values), bound, direction)
        )

    single, summed, final = (found[name] for name in ("parameter", "slice sum", "slice sum / sqrt(F)"))
    for name, one, claim in (
        ("parameter", single, CLAIMS["single sample"]),
        ("slice sum", summed, None),
        ("slice sum / sqrt(F)", final, CLAIMS["at the end"]),
    ):
        add(name, one.interval(), claim, "shown" if claim is None else "at most")
        add(f"{name}, floor", one.floor_interval())
        add(f"{name}, above the floor", one.above_floor())
    add("factor by slice sums", summed.factor_over(single), CLAIMS["by heads"], "at most")
    add("factor by Fisher, parameter", found["parameter / sqrt(F)"].factor_over(single), CLAIMS["by Fisher"], "at most")
    add("factor by Fisher, slice sum", final.factor_over(summed), CLAIMS["by Fisher"], "at most")
    squares = found["slice sum of contributions"]
    add("slice sum of contributions", squares.interval(), CLAIMS["at the end"], "at most")
    add("slice sum of contributions, floor", squares.floor_interval())
    return made


def _half_width(without):
    from scipy import stats

    count = len(without)
    variance = (count - 1) / count * np.square(without - without.mean()).sum()
    return float(stats.t.ppf(0.975, count - 1) * np.sqrt(variance))
