"""Where a collector keeps its samples: in memory, or in a store on disk. Classes with the same methods.

In memory, samples stay as collection made them, and most methods have nothing to do. On disk, each pass is committed before
the next begins, the model must be the one of the store, and what is handed back is read from the disk on demand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import interruption, memory, parts, passes, reproducibility, resources, shards, store_identity
from .errors import ModelChangedError
from .store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from .layout import QKOVConfig
    from .linear_weights import LinearWeight
    from .option_types import SampleId
    from .samples import Sample


class InMemory:
    """Samples as collection made them."""

    if TYPE_CHECKING:
        fingerprint: str | None  # None before the first collection

    folder = sealed = dtype = None
    passes = staticmethod(passes.collect_passes)
    interruption = staticmethod(contextlib.nullcontext)

    def __init__(self) -> None:
        self.fingerprint = None

    def require_same(self, model: nn.Module, config: QKOVConfig) -> None:
        """Refuse another model than that of the samples.

        Raises:
            ModelChangedError: If its weights differ.
        """
        if reproducibility.model_fingerprint(model) != self.fingerprint:
            raise ModelChangedError(
                "this collector holds gradients of other weights than the model's current ones; scores across the two "
                "would mean nothing. Use a new FisherCollector for the changed model."
            )

    def begin(
        self, model: nn.Module, config: QKOVConfig, weights: Sequence[LinearWeight], left_out: Mapping[str, str]
    ) -> None:
        """Take note of the model that samples are collected from."""
        self.fingerprint = reproducibility.model_fingerprint(model)

    def plan(
        self, model: nn.Module, config: QKOVConfig, weights: Sequence[LinearWeight], task: str
    ) -> Callable[[int, int], None]:
        """Return what refuses, before the first pass of a batch, samples that the memory cannot hold."""
        one = next(model.parameters())

        def plan(num_samples: int, num_tokens: int) -> None:
            if one.device.type == "cpu":  # an accelerator says by itself when it is full, and the pass is halved
                memory.require(
                    resources.sample_bytes(weights, config, num_tokens, one.dtype.itemsize),
                    f"collecting {num_samples} samples of task {task!r}",
                    "Keep the samples on disk, FisherCollector(store=path), or collect fewer.",
                )

        return plan

    def keep(self, task: str, loss: str, samples: list[Sample], config: QKOVConfig) -> list[Sample]:
        """Return the samples of a pass as they are held."""
        return samples

    def add_task(self, task: str) -> None:
        """Nothing to write down."""

    def add_skipped(self, task: str, skipped: dict[SampleId, str]) -> None:
        """Nothing to write down."""

    def seal(self) -> None:
        """There is nothing to end."""

    def close(self) -> None:
        """There is nothing to give back."""


class OnDisk:
    """Samples in a store.

    Args:
        store: A :class:`qkov.store.Store`.
        settings: How samples are collected and stored, JSON-able; those of the store must be the same.

    Attributes:
        header: What the store says, or will say, of settings, model and environment; None before collection has begun.

    Raises:
        StoreMismatchError: If they are not; the store is then closed.
    """

    passes = staticmethod(passes.collect_passes)
    interruption = staticmethod(interruption.deferred)

    def __init__(self, store: Store, settings: Mapping[str, Any]) -> None:
        self.store, self.settings = store, settings
        self.header = store.header
        if self.header is not None:
            try:
                store_identity.require_same_settings(self.header["settings"], settings, store.folder)
            except BaseException:
                store.close()
                raise

    @property
    def folder(self) -> Path:
        """Folder of the store."""
        return self.store.folder

    @property
    def sealed(self) -> bool:
        """Whether collection has ended."""
        return self.store.sealed

    @property
    def fingerprint(self) -> str | None:
        """That of the model, or None before collection has begun."""
        return None if self.header is None else self.header["model"]["fingerprint"]

    def layout(self) -> tuple[tuple[LinearWeight, ...], QKOVConfig | Any, dict[str, str]] | None:
        """Return ``(weights, config, left_out)`` of the store, or None before collection has begun."""
        if self.store.header is None:
            return None
        return *parts.read_layout(self.store.header["layout"]), self.store.header["left_out"]

    def samples(self) -> tuple[dict[str, dict[SampleId, Sample]], dict[str, dict[SampleId, str]]]:
        """Return ``(samples, skipped)`` by task and id."""
        skipped = {task: dict(found) for task, found in self.store.contents.skipped.items()}
        return self.store.samples(), skipped

    def require_same(self, model: nn.Module, config: QKOVConfig) -> None:
        """Refuse another model than that of the samples; warn of another environment.

        Raises:
            ModelChangedError: If a hard field differs; see :mod:`qkov.store_identity`.
        """
        found = store_identity.describe_model(model, config)
        store_identity.require_same_model(self.header["model"], found, self.folder)
        store_identity.warn_of_environment(
            self.header["environment"],
            store_identity.describe_environment(model),
            self.folder,
        )

    def begin(
        self, model: nn.Module, config: QKOVConfig, weights: Sequence[LinearWeight], left_out: Mapping[str, str]
    ) -> None:
        """Take note of what is collected; it is written down with the first samples."""
        self.header = store_identity.header(model, self.settings, config, weights, left_out)

    def plan(
        self, model: nn.Module, config: QKOVConfig, weights: Sequence[LinearWeight], task: str
    ) -> Callable[[int, int], None]:
        """Return what refuses, before the first pass of a batch, samples that the disk cannot hold or the store not take."""
        itemsize = (self.dtype or next(model.parameters()).dtype).itemsize

        def plan(num_samples: int, num_tokens: int) -> None:
            self.store.require_open()
            needed = resources.sample_bytes(weights, config, num_tokens, itemsize)
            resources.require_disk(self.folder, needed, f"collecting {num_samples} samples of task {task!r}")

        return plan

    def keep(self, task: str, loss: str, samples: list[Sample], config: QKOVConfig) -> list[Sample]:
        """Commit the samples of a pass; return them as they are read from now on."""
        form = self.settings["store_form"]
        return self.started().commit(task, loss, samples, config, dtype=self.dtype, form=form)

    def add_task(self, task: str) -> None:
        """Write down a task without samples."""
        self.started().add_task(task)

    def add_skipped(self, task: str, skipped: dict[SampleId, str]) -> None:
        """Write down which samples were left out."""
        stored = self.store.contents.skipped.get(task, {})
        for sample_id, reason in skipped.items():
            if sample_id not in stored:
                self.started().add_skipped(task, sample_id, reason)

    def seal(self) -> None:
        """End the collection."""
        self.store.seal()

    def close(self) -> None:
        """Give the store back to other writers without ending its collection."""
        self.store.close()

    def unseal(self) -> None:
        """Take the seal off, so that more samples can be added."""
        self.store.unseal()

    @property
    def dtype(self) -> torch.dtype | None:
        """Precision of stored factors, or None for that of the model."""
        return shards.STORED_DTYPES.get(self.settings["store_dtype"])

    def started(self) -> Store:
        """Return the store, with its header written down."""
        if self.store.header is None:
            self.store.create(self.header)
        return self.store
