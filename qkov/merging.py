r"""Merge models fine-tuned from one start into one: the plain average, or one weighted by what each task is sensitive to.

For tasks :math:`t` with weights :math:`w_t`, their models :math:`\theta_t` and Fisher diagonals :math:`F_t`, per parameter k,

.. math:: \theta_k = \frac{\sum_t w_t F_{tk} \theta_{tk} + \lambda c_k}{\sum_t w_t F_{tk} + \lambda}, \qquad
          \lambda = \rho \cdot \text{mean}_k \sum_t w_t F_{tk} ,

which is where :math:`\sum_t w_t F_{tk} (\theta_k - \theta_{tk})^2 + \lambda (\theta_k - c_k)^2` is lowest: the loss of all
tasks together, if each is a parabola around its own model with the Fisher diagonal as its curvature. The mean is over
the parameters of one tensor; :math:`c` is the plain average, or the common start ``base`` where it is given. Source:
Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", arXiv 2111.09832; the damping is ours.

Where no model moved, nothing moves; where all F are equal, or all zero, or where there is none, this is the plain average
:math:`\sum_t w_t \theta_{tk} / \sum_t w_t`. All three hold exactly, not up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from . import errors, formula

if TYPE_CHECKING:
    from .diagonal import FisherDiagonal
    from .option_types import FisherScale


__all__ = ["merge_weights"]

FISHER_SCALES = ("none", "mean")


def merge_weights(
    models: Mapping[str, Mapping[str, torch.Tensor]],
    *,
    fisher: Mapping[str, FisherDiagonal | Mapping[str, torch.Tensor]] | None = None,
    base: Mapping[str, torch.Tensor] | None = None,
    weights: Mapping[str, float] | None = None,
    damping: float = 1e-8,
    fisher_scale: FisherScale = "none",
) -> dict[str, torch.Tensor]:
    r"""Average the weights of several models of one architecture, see the module's formula.

    Sums are taken in float64; every tensor keeps its dtype. Tensors that share memory in all models (tied embeddings)
    share their Fisher too. The estimate is second order, diagonal and local: models that are far apart, or were not
    fine-tuned from one start, have no reason to have a good average.

    Args:
        models: Task to state dict, as ``model.state_dict()`` gives it; two or more with the same keys and shapes.
        fisher: Task to :class:`qkov.FisherDiagonal`, or to ``{param_name: F}``; the same tasks as ``models``, each with
            F at that task's own model. Parameters that none of them has are averaged plainly. None: all are.
        base: State dict of the common start, which damping then pulls to; None: to the plain average.
        weights: Task to its weight, positive; default 1 each. They need not add up to 1.
        damping: :math:`\rho`, relative to the mean of the weighted sum of F over each tensor; 0 or more.
        fisher_scale: "none", or "mean": each task's F is first divided by its mean over all parameters, so that a task
            does not outweigh others because its loss is larger.

    Returns:
        A new state dict, the first model's keys in their order.

    Raises:
        EmptyTaskError: If there are fewer than two models.
        UnknownTaskError: If ``fisher`` or ``weights`` are of other tasks than ``models``.
        UnknownParameterError: If keys differ between models, or F is of parameters that models do not have.
        ShapeError: If shapes, dtypes, or integer buffers differ, or F has another shape than its parameter.
        NonFiniteError: If F is negative, NaN or infinite, or weights that differ are.
        OptionError: If an option has no meaning.

    Example:
        >>> one, two = {"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([1.0, 0.0])}
        >>> merge_weights({"math": one, "code": two})["w"]
        tensor([0.5000, 2.0000])
        >>> fisher = {"math": {"w": torch.tensor([3.0, 0.0])}, "code": {"w": torch.tensor([1.0, 0.0])}}
        >>> merge_weights({"math": one, "code": two}, fisher=fisher, damping=0)["w"]
        tensor([0.2500, 2.0000])
    """
    formula.require_choice("fisher_scale", fisher_scale, FISHER_SCALES)
    if isinstance(damping, bool) or not 0 <= damping < float("inf"):
        raise errors.OptionError(f"damping is {damping!r}; expected a number from 0 up, relative to the mean of F.")
    tasks = tuple(models)
    if len(tasks) < 2:
        raise errors.EmptyTaskError(f"there are {len(tasks)} models to merge; expected two or more, one per task.")
    _check_alike(models, base)
    factors = _task_weights(tasks, weights)
    fishers = _checked_fisher(models, fisher, fisher_scale)
    merged = {}
    with torch.no_grad():
        for name, first in models[tasks[0]].items():
            thetas = [models[task][name] for task in tasks]
            found = None if fishers is None else fishers.get(name)
            centre = None if base is None or found is None else base[name]
            if all(torch.equal(first, other) for other in (*thetas[1:], *([] if centre is None else [centre]))):
                merged[name] = first.detach().clone()
                continue
            if not first.is_floating_point():
                raise errors.ShapeError(
                    f"{name!r} holds {first.dtype} values that differ between the models; whole numbers and flags have no "
                    "average. Make them equal, or leave them out of the state dicts."
                )
            merged[name] = _merged(name, thetas, factors, found, centre, damping)
    return merged


def _merged(
    name: str,
    thetas: Sequence[torch.Tensor],
    factors: Sequence[float],
    fishers: Sequence[torch.Tensor] | None,
    centre: torch.Tensor | None,
    damping: float,
) -> torch.Tensor:
    """Average one tensor: differences from the first model are averaged, so that what is equal stays as it is."""
    first = thetas[0].double()
    shares = _shares(factors, fishers, damping, centre is not None, first)
    others = [*thetas, *([] if centre is None else [centre])]
    offset, total, same = torch.zeros_like(first), torch.zeros_like(first), torch.ones_like(first, dtype=torch.bool)
    for theta, share in zip(others, shares, strict=True):
        theta = theta.to(first)
        offset += share * (theta - first)
        total += share
        same &= theta == first
    result = torch.where(same, first, first + offset / total)  # where all are infinite, the difference is NaN
    if not torch.isfinite(result[~same]).all():
        raise errors.NonFiniteError(f"{name!r} holds NaN, or infinite values that differ between the models.")
    return result.to(thetas[0].dtype)


def _shares(
    factors: Sequence[float],
    fishers: Sequence[torch.Tensor] | None,
    damping: float,
    with_centre: bool,
    like: torch.Tensor,
) -> list[torch.Tensor]:
    """Weight of each model, and of the centre, at every parameter of a tensor; up to a common factor per parameter."""
    if fishers is None:
        return [torch.full_like(like, factor) for factor in factors]
    fishers = [one.to(like) for one in fishers]
    strength: Any = sum(factor * one for factor, one in zip(factors, fishers, strict=True))
    ridge = damping * float(strength.mean()) if like.numel() else 0.0
    if not with_centre:  # a pull to the plain average is the same amount of F added to every model
        fishers = [one + ridge / sum(factors) for one in fishers]
    largest = torch.stack(fishers).amax(0).clamp(min=ridge if with_centre else 0.0)
    # Divided by the largest, equal Fishers are exactly 1 and the plain average comes out to the last bit.
    known = largest > 0
    scale = torch.where(known, largest, 1.0)
    if with_centre:
        shares = [factor * (one / scale) for factor, one in zip(factors, fishers, strict=True)]
        return [*shares, torch.where(known, ridge / scale, 1.0)]
    return [factor * torch.where(known, one / scale, 1.0) for factor, one in zip(factors, fishers, strict=True)]


def _check_alike(models: Mapping[str, Mapping[str, torch.Tensor]], base: Mapping[str, torch.Tensor] | None) -> None:
    everyone = {f"task {task!r}": state for task, state in models.items()} | ({} if base is None else {"base": base})
    (first_name, first), *others = everyone.items()
    for label, state in everyone.items():
        if not isinstance(state, Mapping):
            raise errors.OptionError(
                f"{label} is a {type(state).__name__}; expected a mapping of names to tensors: model.state_dict()."
            )
    for label, state in others:
        if differing := sorted(set(first) ^ set(state)):
            where = first_name if differing[0] in first else label
            raise errors.UnknownParameterError(
                f"{len(differing)} keys are not in both {first_name} and {label}: {differing[0]!r}, for one, is only in "
                f"{where}. Expected models of one architecture."
            )
        for name, tensor in first.items():
            if not isinstance(tensor, torch.Tensor) or not isinstance(state[name], torch.Tensor):
                raise errors.OptionError(
                    f"{name!r} is no tensor in {first_name} or {label}; leave it out of the state dicts."
                )
            if (state[name].shape, state[name].dtype) != (tensor.shape, tensor.dtype):
                raise errors.ShapeError(
                    f"{name!r} is {tuple(state[name].shape)}, {state[name].dtype} in {label}; expected "
                    f"{tuple(tensor.shape)}, {tensor.dtype} as in {first_name}."
                )


def _task_weights(tasks: Sequence[str], weights: Mapping[str, float] | None) -> list[float]:
    weights = dict.fromkeys(tasks, 1.0) if weights is None else weights
    _require_tasks("weights", weights, tasks)
    for task in tasks:
        if isinstance(weights[task], bool) or not 0 < weights[task] < float("inf"):
            raise errors.OptionError(f"the weight of task {task!r} is {weights[task]!r}; expected a positive number.")
    return [float(weights[task]) for task in tasks]


def _require_tasks(name: str, given: Mapping[str, Any], tasks: Sequence[str]) -> None:
    if set(given) != set(tasks):
        raise errors.UnknownTaskError(
            f"{name} is of tasks {sorted(given)}; expected those of the models, {sorted(tasks)}."
        )


def _checked_fisher(
    models: Mapping[str, Mapping[str, torch.Tensor]],
    fisher: Mapping[str, FisherDiagonal | Mapping[str, torch.Tensor]] | None,
    fisher_scale: str,
) -> dict[str, list[torch.Tensor]] | None:
    """Return ``{param_name: [F of every task]}`` in float64, or None; tied names share what one of them has."""
    if fisher is None:
        return None
    tasks = tuple(models)
    _require_tasks("fisher", fisher, tasks)
    state = models[tasks[0]]
    values = {task: _values(fisher[task]) for task in tasks}
    names = list(values[tasks[0]])
    for task in tasks:
        if differing := sorted(set(names) ^ set(values[task])):
            raise errors.UnknownParameterError(
                f"F of {differing[0]!r} exists for one of the tasks {tasks[0]!r} and {task!r} only. Collect the same "
                "parameters for all."
            )
    for name in names:
        if name not in state:
            raise errors.UnknownParameterError(
                f"F has a parameter {name!r} that the models do not. Give state dicts of the models it was collected from."
            )
        for task in tasks:
            _check_one_fisher(name, task, values[task][name], state[name])
    scales = [_mean(values[task]) if fisher_scale == "mean" else 1.0 for task in tasks]
    found = {
        name: [values[task][name].double() / (scale or 1.0) for task, scale in zip(tasks, scales, strict=True)]
        for name in names
    }
    return found | {other: found[name] for name in names for other in _tied(models, name) if other not in found}


def _values(fisher: FisherDiagonal | Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return fisher if isinstance(fisher, Mapping) else fisher.values


def _check_one_fisher(name: str, task: str, fisher: torch.Tensor, parameter: torch.Tensor) -> None:
    if fisher.shape != parameter.shape:
        raise errors.ShapeError(
            f"F of {name!r} for task {task!r} has shape {tuple(fisher.shape)}; expected {tuple(parameter.shape)}, as stored."
        )
    if not torch.isfinite(fisher).all() or (fisher < 0).any():
        raise errors.NonFiniteError(
            f"F of {name!r} for task {task!r} holds a negative, NaN or infinite value; expected a mean of squares."
        )


def _mean(values: Mapping[str, torch.Tensor]) -> float:
    count = sum(one.numel() for one in values.values())
    return sum(float(one.sum(dtype=torch.float64)) for one in values.values()) / max(1, count)


def _tied(models: Mapping[str, Mapping[str, torch.Tensor]], name: str) -> list[str]:
    """Other names of the same memory in every model: tied embeddings are one parameter under two names."""
    place = [_place(state[name]) for state in models.values()]
    return [
        other
        for other in next(iter(models.values()))
        if other != name and [_place(state[other]) for state in models.values()] == place
    ]


def _place(tensor: torch.Tensor) -> tuple[int, torch.Size, tuple[int, ...], torch.device]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.device
