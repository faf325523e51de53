r"""How many samples share a pass so that collection keeps to a memory budget, decided before the pass.

On a CPU the process holds R bytes now. A batch of new samples, n of them in each pass, takes at most, beyond that,

.. math:: \text{in memory: } K - k_n + P_n, \qquad \text{into a store: } \max(P_n, k_n + 3 k_1)

with K what is kept of all its samples, :math:`k_n` of n of them, :math:`P_n` the peak of a pass
(:func:`qkov.pass_memory.pass_bytes`, which counts :math:`k_n` too), and 3 :math:`k_1` what writing one sample takes: its
tensors in the stored precision, and twice their bytes. n is the most samples that a pass has without a budget, halved
until that fits. R is measured, everything else follows from shapes: close to a limit two runs may choose differently.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from . import memory, pass_memory, passes, resources
from .errors import MemoryLimitError, OptionError

if TYPE_CHECKING:
    from .layout import QKOVConfig
    from .linear_weights import LinearWeight
    from .option_types import LossFunction


def chooser(
    limit: int | None,
    model: torch.nn.Module,
    *,
    config: QKOVConfig,
    weights: Sequence[LinearWeight],
    loss_fn: LossFunction,
    micro_batch: int | None,
    stored: bool,
    store_dtype: torch.dtype | None = None,
) -> int | Callable[[Mapping[str, Any], Sequence[int]], int] | None:
    """Return what ``passes.collect_passes`` takes as ``micro_batch``.

    Args:
        limit: Bytes, or None for no budget.
        model, config, weights, loss_fn: As for ``gradients.collect_factors``.
        micro_batch: Samples per pass that were asked for; then it is these or none.
        stored: Whether the samples of a pass are written before the next. store_dtype: In which precision.

    Returns:
        ``micro_batch`` where there is no budget, else ``choose(batch, rows)``: how many of the new samples ``rows`` of a
        batch share a pass. It raises MemoryLimitError where no number fits.
    """
    if limit is None:
        return micro_batch
    one = next(model.parameters())
    itemsize = max(one.dtype.itemsize, 0 if store_dtype is None else store_dtype.itemsize)
    traced: dict[Any, int] = {}

    def peak(batch: Mapping[str, Any], count: int) -> int:
        shapes = {name: (value.shape[1:], value.dtype) for name, value in batch.items() if _is_tensor(value)}
        key = count, tuple(sorted(shapes.items(), key=lambda item: item[0]))
        if key not in traced:
            found = pass_memory.pass_bytes(model, batch, count, config=config, weights=weights, loss_fn=loss_fn)
            traced[key] = pass_memory.with_slack(found)
        return traced[key]

    def choose(batch: Mapping[str, Any], rows: Sequence[int]) -> int:
        most = min(len(rows), micro_batch or passes.default_samples(batch, one.device))
        size = functools.partial(resources.sample_bytes, weights, config, itemsize=itemsize)
        length = passes.tokens_per_sample(batch)
        every = size(passes.num_tokens(batch, rows))
        for count in [most] if micro_batch else _halved(most):
            kept = min(every, size(count * length))
            need = max(peak(batch, count), kept + 3 * size(length)) if stored else every - kept + peak(batch, count)
            held = held_bytes(one.device)  # after the trace, which holds little but not nothing
            if held + need <= limit:
                return count
        raise MemoryLimitError(_refusal(limit, held, need, 0 if stored else every, count, len(rows), micro_batch))

    return choose


def held_bytes(device: torch.device) -> int:
    """Return what counts against a budget: of the process, or of what torch has allocated on an accelerator.

    Raises:
        OptionError: If the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    found = memory.resident_bytes()
    if found is None:
        raise OptionError("memory_budget needs a system that says how much memory a process holds. Give micro_batch=.")
    return found


def _halved(most: int) -> Iterator[int]:
    while most:
        yield most
        most //= 2


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


def _refusal(limit: int, held: int, need: int, kept: int, count: int, num_samples: int, micro_batch: int | None) -> str:
    remedies = ["raise memory_budget"]
    if micro_batch is not None and count > 1:
        remedies.append("give a smaller micro_batch, or none")
    if kept:
        remedies += ["keep samples on disk, FisherCollector(store=path)", "collect fewer"]
    remedies += ["shorten samples", "load the model in bfloat16"]
    each = f"{count} sample{'s' if count > 1 else ''}"
    beside = f", {resources.readable(kept)} of it for keeping {num_samples} samples" if kept else ""
    return (
        f"collecting with {each} in a pass takes {resources.readable(need)}{beside}, beside the {resources.readable(held)} "
        f"that are held now: {resources.readable(held + need)}; memory_budget is {resources.readable(limit)}. "
        f"{'; '.join(remedies)[:1].upper()}{'; '.join(remedies)[1:]}. Nothing of this batch was collected."
    )
