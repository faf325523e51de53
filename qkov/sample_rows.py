r"""Which sample every row of activations belongs to, found out from gradients alone.

A row is one position of the flattened leading axes of a projection's activations. Most models keep samples along the
first axis; some have tokens first, join all samples into one sequence, or cut them into windows. The losses
:math:`\ell_i` are separate, so that with weights :math:`w_i` the gradient at a row :math:`y_r` of sample i alone is

.. math:: \partial \sum_j w_j \ell_j / \partial y_r = w_i \, \partial \ell_i / \partial y_r .

*Identification* takes a few more backward passes with weights 0 and 1. Sample i has weight 1 in a set of passes of its
own; all these sets are equally large, and so none contains another. A row is non-zero exactly in the passes of its
sample. One that several samples share is non-zero in the union of their sets, which is larger than any set and is
refused. ``m`` passes tell ``binomial(m, m // 2)`` samples apart: 3 for 3, 4 for 6, 6 for 20, 8 for 70. What is compared
is zero with not zero, so nothing depends on precision, and a trace of another sample is seen however small it is.

*Verification* that the first axis is that of the samples takes one backward pass: weights are powers of two, by which
rows scale without rounding, so each row must be its sample's power times what it was, bit for bit. Where it is not,
which includes kernels that do not repeat their bits, identification decides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from .errors import BatchError, NonFiniteError

if TYPE_CHECKING:
    from torch.autograd.graph import GradientEdge

    from .option_types import SampleId


# Weights of the verification repeat after so many samples; 2^31 leaves room for gradients up to 1e28 in float32.
POWERS = 32
# By how much of its largest entry a row may differ between passes that sum the same terms in another order.
REPEATABLE = 0.125


@dataclass
class FirstAxis:
    """What is known of the first axis of a model's activations; kept between the passes of one collection.

    Attributes:
        is_sample: None until a pass of several samples was seen; False from the first pass on that shows another axis:
            a size that equals the number of samples is an accident afterwards.
    """

    is_sample: bool | None = None

    @cached_property
    def beside(self) -> FirstAxis:
        """The same of modules beside attention, where tokens may lie in another way."""
        return FirstAxis()

    def suspect(self, outputs: Mapping[str, torch.Tensor], num_samples: int) -> bool:
        """Whether more backward passes are needed; ``outputs`` maps a projection to its activations."""
        fits = all(output.ndim > 1 and len(output) == num_samples for output in outputs.values())
        if not fits:
            self.is_sample = False
        return not self.is_sample and (num_samples > 1 or not fits)


def find_owners(
    axis: FirstAxis,
    losses: torch.Tensor,
    edges: Mapping[str, GradientEdge],
    deltas: Mapping[str, torch.Tensor],
    tokens: Mapping[str, tuple[int, int, torch.Size, tuple[int, ...]]],
    sample_names: Sequence[SampleId],
) -> dict[str, torch.Tensor] | None:
    """Return the sample of every row, or None where the first axis is that of the samples.

    Call it where ``axis.suspect``, with the graph of the losses retained.

    Args:
        axis: A :class:`FirstAxis`, which learns from this pass.
        losses: ``[N]``, with their graph.
        edges: ``{module_name: place of its output in the graph}``, what to differentiate with respect to.
        deltas: ``{module_name: gradient of the summed losses}``, any leading axes.
        tokens: ``{module_name: key}``; projections with one key read the same rows.
        sample_names: N names for error messages.

    Returns:
        None, or ``{module_name: long [rows]}``: numbers of samples; -1 where no projection of these rows has a gradient.

    Raises:
        BatchError: If rows belong to several samples; names the projection.
        NonFiniteError: If a gradient is NaN or infinite, which hides to whom it belongs.
    """
    if axis.is_sample is None:
        finite = bool(torch.stack([torch.isfinite(delta).all() for delta in deltas.values()]).all())
        # Without finite gradients nothing can be compared; the caller refuses them, naming the sample.
        if not finite or _scales_by_sample(losses, edges, deltas):
            axis.is_sample = True if finite else None
            return None
    for name, delta in deltas.items():
        if not torch.isfinite(delta).all():
            raise NonFiniteError(
                f"a sample among {_some(sample_names)} has a NaN or infinite gradient at {name!r}. Check the weights, "
                "and the losses of these samples with micro_batch=1; nothing of their batch was kept."
            )
    owners = _merged(identify(losses, edges, deltas), tokens)
    if axis.is_sample is None:
        axis.is_sample = all(_in_order(owner, len(sample_names)) for owner in owners.values())
    return owners


def codes(num_samples: int) -> list[tuple[int, ...]]:
    """Choose the passes in which each sample has weight 1.

    Example:
        >>> codes(3)
        [(0,), (1,), (2,)]
        >>> codes(5)
        [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    """
    passes = next(m for m in itertools.count() if math.comb(m, m // 2) >= num_samples)
    return list(itertools.islice(itertools.combinations(range(passes), passes // 2), num_samples))


def identify(
    losses: torch.Tensor, edges: Mapping[str, GradientEdge], deltas: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return ``{module_name: long [rows]}``: the sample of every row, -1 where it has no gradient; see the module."""
    chosen = codes(len(losses))
    if len(losses) == 1:
        return {name: _reached(delta).long() - 1 for name, delta in deltas.items()}
    found = {name: torch.zeros_like(_reached(delta), dtype=torch.long) for name, delta in deltas.items()}
    for number in range(max(map(max, chosen)) + 1):
        weights = losses.new_tensor([float(number in code) for code in chosen])
        for name, part in zip(edges, _gradients(losses, edges, weights, deltas), strict=True):
            reached = _reached(part)
            _require(name, ~reached | _repeats(part, deltas[name]))
            found[name] |= reached.long() << number
    owners = {}
    for name, pattern in found.items():
        owner = torch.full_like(pattern, -1)
        for row, code in enumerate(chosen):
            owner[pattern == sum(1 << number for number in code)] = row
        # Gradients of several samples may cancel in a pass, or in the sum of all.
        _require(name, ((owner >= 0) == _reached(deltas[name])) & ((owner >= 0) == (pattern > 0)))
        owners[name] = owner
    return owners


def _scales_by_sample(
    losses: torch.Tensor, edges: Mapping[str, GradientEdge], deltas: Mapping[str, torch.Tensor]
) -> bool:
    """Whether every row is that of its place along the first axis: scaled as its loss is, bit for bit."""
    weights = torch.exp2(torch.arange(len(losses), device=losses.device) % POWERS).to(losses)
    scaled = _gradients(losses, edges, weights, deltas)
    same = [
        (part == delta * weights.to(delta).reshape(-1, *[1] * (delta.ndim - 1))).all()
        for part, delta in zip(scaled, deltas.values(), strict=True)
    ]
    return bool(torch.stack(same).all())  # one question to the device, not one for each module


def _gradients(
    losses: torch.Tensor, edges: Mapping[str, GradientEdge], weights: torch.Tensor, deltas: Mapping[str, torch.Tensor]
) -> list[torch.Tensor]:
    """Gradients of the weighted sum of losses, the graph kept for another pass."""
    found = torch.autograd.grad(
        losses, list(edges.values()), grad_outputs=weights, retain_graph=True, allow_unused=True
    )
    return [torch.zeros_like(one) if part is None else part for one, part in zip(deltas.values(), found, strict=True)]


def _reached(delta: torch.Tensor) -> torch.Tensor:
    return (delta != 0).reshape(-1, delta.shape[-1]).any(-1)


def _repeats(part: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Which rows are what they were in the sum of all losses: else others took part in that sum, or cancelled in it."""
    part, delta = (one.reshape(-1, one.shape[-1]) for one in (part, delta))
    return (part - delta).abs().amax(-1) <= REPEATABLE * delta.abs().amax(-1)


def _require(name: str, right: torch.Tensor) -> None:
    if not right.all():
        wrong = torch.where(~right)[0]
        raise BatchError(
            f"{len(wrong)} of {len(right)} rows of activations of projection {name!r} (the first is row {int(wrong[0])} "
            "of its flattened leading axes) have gradients of several samples. The model or the loss mixes samples: "
            "tokens that samples share, attention or a norm over the batch, a loss that compares samples. Gradients of "
            "single samples exist there only with one sample per pass: micro_batch=1."
        )


def _merged(
    owners: Mapping[str, torch.Tensor], tokens: Mapping[str, tuple[int, int, torch.Size, tuple[int, ...]]]
) -> dict[str, torch.Tensor]:
    """Let a row that one projection knows be known to all that read it; they keep one copy of it."""
    groups: dict[Any, Any] = {}
    for name, owner in owners.items():
        groups.setdefault(tokens[name], []).append(owner)
    merged = {key: torch.stack(group).amax(0) for key, group in groups.items()}
    for name, owner in owners.items():
        _require(name, (owner < 0) | (owner == merged[tokens[name]]))
    return {name: merged[tokens[name]] for name in owners}


def _in_order(owner: torch.Tensor, num_samples: int) -> bool:
    """Whether rows lie sample by sample, as many for each."""
    if len(owner) % num_samples:
        return False
    by_sample = owner.reshape(num_samples, -1)
    own = torch.arange(num_samples, device=owner.device)[:, None]
    return bool(((by_sample == own) | (by_sample < 0)).all())


def _some(names: Any) -> Any:
    shown = ", ".join(map(repr, names[:8]))
    return shown + (", ..." if len(names) > 8 else "")
