r"""What every test is computed from: gradients of one slice, normalised sample by sample, against a label-free Fisher.

Symbols: a slice s has K parameters; :math:`g_i` is sample i's gradient in it.

.. math:: \hat g_i = g_i / \lVert g_i \rVert, \quad F_k = \tfrac1n \sum_i \hat g_{ik}^2, \quad
          u_{ik} = \hat g_{ik}^2 / D_k, \quad v_{jk} = \lvert \hat g_{jk} \rvert

F runs over ALL samples of a test, so it does not depend on which of them is called A: a permutation of labels needs that.
Norms are taken within the slice, so one loud sample, or one that is loud elsewhere, counts as much as any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NonFiniteError, ShapeError

if TYPE_CHECKING:
    from ..option_types import Slices


RELATIVE_RIDGE = 1e-8
"""Damping of F in units of its mean over the slice."""


def by_slice(**groups: Slices) -> Iterator[tuple[np.ndarray, ...]]:
    """Walk over slices, the gradients of every group in one at a time.

    Args:
        **groups: By name, ``[samples, slices, parameters]``, or a list of ``[samples, parameters]`` arrays where slices
            differ in size. Any float type.

    Yields:
        A tuple with one float64 array ``[samples, parameters]`` per group.

    Raises:
        ShapeError: If groups disagree on slices or parameters, slices of a group on samples, or one is empty.
        NonFiniteError: If a gradient is NaN or infinite.
    """
    for name, group in groups.items():
        num_samples(name, group)
    counts = {name: num_slices(name, group) for name, group in groups.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ShapeError(f"gradients have {found} slices; expected the same number in all groups.")
    for parts in zip(*(_slices(name, group) for name, group in groups.items()), strict=True):
        sizes = {part.shape[1] for part in parts}
        if len(sizes) > 1:
            found = ", ".join(f"{name} {part.shape[1]}" for name, part in zip(groups, parts, strict=True))
            raise ShapeError(f"gradients of one slice have {found} parameters; expected the same number in all groups.")
        yield tuple(_checked(name, part) for name, part in zip(groups, parts, strict=True))


def num_slices(name: str, group: Slices) -> int:
    """Return how many slices a group of gradients holds, at least one."""
    return len(_slices(name, group))


def num_samples(name: str, group: Slices) -> int:
    """Return how many samples a group holds; the same in all of its slices."""
    counts = {len(part) for part in _slices(name, group)}
    if len(counts) > 1:
        raise ShapeError(f"{name} has slices of {sorted(counts)} samples; expected the same number in all.")
    return counts.pop()


def unit(grads: np.ndarray) -> np.ndarray:
    r"""Divide each sample by its norm in the slice, :math:`\hat g_i`; a sample without a gradient stays 0."""
    scale = np.abs(grads).max(axis=1, keepdims=True)
    grads = grads / np.where(scale > 0, scale, 1.0)  # first by the largest, so that squares neither vanish nor overflow
    norm = np.sqrt(np.square(grads).sum(axis=1, keepdims=True))
    return grads / np.where(norm > 0, norm, 1.0)


def damped(fisher: np.ndarray) -> np.ndarray:
    """Return D: F plus a share of its own mean, so that a parameter nobody uses scores 0."""
    return fisher + RELATIVE_RIDGE * fisher.mean(-1, keepdims=True) + np.finfo(np.float64).tiny


def sensitivities(*groups: Slices) -> list[np.ndarray]:
    r"""Return :math:`u` of every group ``[samples, parameters]``, F over all samples of all groups."""
    squares = [np.square(unit(group)) for group in groups]  # type: ignore[arg-type]  # one matrix each
    denominator = damped(np.concatenate(squares).mean(0))
    return [square / denominator for square in squares]


def log_lifts(sources: np.ndarray, target: np.ndarray) -> np.ndarray:
    r"""Score every source sample against a task: how far its sensitive parameters are the task's.

    .. math:: lift_i = K \frac{\sum_k u_{ik} \bar v_k}{\sum_k u_{ik} \sum_k \bar v_k}

    1 means no more than average. F is pooled over all sources, so relabelling them changes nothing.

    Args:
        sources: ``[samples, parameters]``, all tasks whose labels will be permuted, one behind the other.
        target: ``[samples, parameters]``.

    Returns:
        :math:`\log lift_i`, ``[samples]``; NaN for a sample, or a target, without a gradient in this slice, and for a
        sample that shares no parameter with the target: a lift of 0 has no logarithm.
    """
    (u,) = sensitivities(sources)
    v = np.abs(unit(target)).mean(0)
    total = u.sum(1) * v.sum()
    return log(u.shape[1] * (u @ v) / np.where(total > 0, total, np.nan))


def log(scores: Any) -> Any:
    """Return logarithms; NaN where a score is 0 or below, so that the slice counts as one with nothing to test."""
    return np.log(np.where(scores > 0, scores, np.nan))


def pair_scores(grads: np.ndarray) -> np.ndarray:
    r"""Score all pairs of samples: :math:`S_{ij} = \tfrac1K \sum_k u_{ik} v_{jk}`, F over all of them.

    Args:
        grads: ``[samples, parameters]``, all tasks of the test one behind the other.

    Returns:
        ``[samples, samples]``: i as the source, j as what it is compared with; NaN where one has no gradient.
    """
    (u,) = sensitivities(grads)
    v = np.abs(unit(grads))
    scores = u @ v.T / grads.shape[1]
    dead = ~v.any(1)
    scores[dead, :] = scores[:, dead] = np.nan
    return scores


def _slices(name: str, group: Slices) -> list[np.ndarray]:
    """Return the slices of a group, ``[samples, parameters]`` each."""
    if isinstance(group, Sequence):
        parts = [np.asarray(part) for part in group]
        for part in parts:
            _require_matrix(name, part)
    else:
        array = np.asarray(group)
        if array.ndim != 3:
            raise ShapeError(
                f"{name} has shape {array.shape}; expected [samples, slices, parameters], or a list of "
                "[samples, parameters] where slices differ in size."
            )
        parts = [array[:, index] for index in range(array.shape[1])]
    if not parts:
        raise ShapeError(f"{name} holds no slice; expected at least one.")
    return parts


def _require_matrix(name: str, part: np.ndarray) -> None:
    if part.ndim != 2 or 0 in part.shape:
        raise ShapeError(
            f"a slice of {name} has shape {part.shape}; expected [samples, parameters], neither of them 0."
        )


def _checked(name: str, part: np.ndarray) -> np.ndarray:
    _require_matrix(name, part)
    part = np.asarray(part, dtype=np.float64)
    if not np.isfinite(part).all():
        row = int(np.argwhere(~np.isfinite(part).all(1))[0, 0])
        raise NonFiniteError(f"sample {row} of {name} (counted from 0) has a NaN or infinite gradient. Leave it out.")
    return part
