"""Batches taken apart into samples: sizes, rows, ids, and a digest that knows a sample again on any padding side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .errors import BatchError, SampleIdError
from .reproducibility import tensor_digest

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Sample:
    """What is kept of one sample: its id, cluster, token count, the digest of its input, and its factors by module.

    ``squared_norms`` caches the squared gradient norm of whole blocks, keyed ``(layer, block)``.
    """

    sample_id: int | str
    cluster: object
    num_tokens: int
    digest: str
    factors: dict
    squared_norms: dict = field(default_factory=dict, compare=False)


def batch_size(batch: Mapping[str, Any]) -> int:
    """Return N, the leading axis of a batch; every tensor with at least one axis must share it."""
    if not isinstance(batch, Mapping):
        raise BatchError(f"a batch is a {type(batch).__name__}; expected a mapping such as {{'input_ids': ..., ...}}.")
    sizes = {name: len(value) for name, value in batch.items() if isinstance(value, torch.Tensor) and value.ndim}
    if not sizes:
        raise BatchError(f"a batch with entries {sorted(batch)} holds no tensor with a sample axis.")
    if len(set(sizes.values())) != 1:
        raise BatchError(f"tensors of one batch disagree on the number of samples: {sizes}. The first axis is N.")
    return next(iter(sizes.values()))


def select_rows(batch: Mapping[str, Any], rows: slice | Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
    """Return some samples of a batch on a device; entries without a sample axis are passed along."""

    def part(value: torch.Tensor) -> torch.Tensor:
        if not isinstance(value, torch.Tensor):
            return value
        # A tensor made under inference_mode cannot enter a graph; its clone made outside can.
        value = value.clone() if value.is_inference() else value
        return (value[rows] if value.ndim else value).to(device)

    with torch.inference_mode(False):
        return {name: part(value) for name, value in batch.items()}


def on_host(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return a batch with its tensors on the CPU."""
    return {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def row_digest(batch: Mapping[str, Any], row: int, loss_name: str) -> str:
    """Hash one sample's tensors and the loss's name; real tokens only where there is a mask, so that padding is free."""
    mask = batch.get("attention_mask")
    real = mask[row] != 0 if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None
    tensors = []
    for name in sorted(batch):
        value = batch[name]
        if not isinstance(value, torch.Tensor) or not value.ndim or (name == "attention_mask" and real is not None):
            continue
        value = value[row]
        tensors.append(value[real] if real is not None and value.ndim and len(value) == len(real) else value)
    return hashlib.sha256(f"{loss_name} {tensor_digest(*tensors)}".encode()).hexdigest()


def check_tokens(model: nn.Module, batch: Mapping[str, Any], names: Sequence[int | str] | None = None) -> None:
    """Refuse token ids that the embedding does not have, before an accelerator turns them into an opaque failure.

    ``names`` are the N samples' ids, for the message; without them it counts samples from 0.
    """
    ids = batch.get("input_ids")
    if not isinstance(ids, torch.Tensor) or not hasattr(model, "get_input_embeddings"):
        return
    names = range(len(ids)) if names is None else names
    if ids.ndim == 2 and len(ids) and not ids.shape[1]:
        raise BatchError(f"sample {names[0]!r} has no token, nor has its batch: an empty text. Remove it.")
    if not ids.numel():
        return
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise BatchError(
            f"input_ids are of {ids.dtype}; expected integers, the numbers of tokens, such as torch.int64."
        )
    try:
        embedding = model.get_input_embeddings()  # type: ignore[operator]  # what a module names, which torch types as a tensor or module
    except NotImplementedError:
        # transformers, of a model without one embedding of tokens: towers side by side, or CANINE's tables of hashes.
        return
    size = getattr(embedding, "num_embeddings", None)
    if size is not None and (int(ids.min()) < 0 or int(ids.max()) >= size):
        row = int(((ids < 0) | (ids >= size)).flatten(1).any(1).nonzero()[0]) if ids.ndim > 1 else 0
        raise BatchError(
            f"sample {names[row]!r} has a token that the model does not have: input_ids range from {int(ids.min())} to "
            f"{int(ids.max())}; the model embeds 0 to {size - 1}. Was the text tokenised for another model? Use this "
            "model's own tokenizer."
        )


def assign_ids(
    task: str, known: Mapping[int | str, str], num_samples: int, sample_ids: Sequence[int | str] | None
) -> list[int | str]:
    """Return N ids for new samples, checked: given ones, or the next integers.

    Raises:
        SampleIdError: If ids are too many or too few, neither ints nor strings, of two types, or repeated in the call.
    """
    if sample_ids is None:
        if any(isinstance(one, str) for one in known):
            raise SampleIdError(f"task {task!r} has string ids; pass sample_ids for the new samples too.")
        start = max(known, default=-1) + 1  # type: ignore[operator]  # all are int
        return list(range(start, start + num_samples))
    ids = [one.item() if hasattr(one, "item") else one for one in sample_ids]
    if len(ids) != num_samples:
        raise SampleIdError(f"task {task!r}: {len(ids)} sample_ids for {num_samples} samples; expected one each.")
    kinds = {type(one) for one in ids} | {type(one) for one in known}
    if not kinds <= {int, str} or len(kinds) > 1:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise SampleIdError(f"task {task!r}: ids of type {found}; expected all int or all str within one task.")
    repeated = sorted({one for one in ids if ids.count(one) > 1}) if len(set(ids)) < len(ids) else []
    if repeated:
        raise SampleIdError(
            f"task {task!r}: sample ids {repeated[:5]} occur more than once in one call. Give every "
            "sample an id of its own."
        )
    return ids
