"""Shards that wait beside those of a store: whole and synced, under names that no reader takes for theirs.

Any process may stage a pass; the one that holds the lock of the store then gives the shards their names and lists them
(:meth:`qkov.store.Store.adopt`). So nobody but the writer ever makes or replaces what counts, and a process of a job that
was thought dead can do no harm: what it stages, nobody adopts. The next writer removes what was left staged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from . import durable, shards
from .errors import DiskError
from .layout import QKOVConfig
from .samples import Sample
from .shards import Entry, Place
from .store_contents import SHARDS


@dataclass(frozen=True)
class Staged:
    """A staged shard: what the journal will say of it, and its name in the folder of shards until then."""

    entry: Entry
    part: str


def stage(
    folder: Path, task: str, loss: str, samples: Iterable[Sample], config: QKOVConfig, *, commit: int, first: int,
    dtype: torch.dtype | None, form: str,
) -> list[Staged]:  # fmt: skip
    """Write the shards of a pass, synced, each under a name of its own.

    Args:
        folder: The store. task: Name of their task. loss: Name of the loss. samples: With their factors.
        config, dtype, form: As for ``shards.encode``.
        commit: Number that the line of the pass will have. first: Number that its first shard will have.

    Raises:
        DiskError, PrecisionError, SampleIdError: As for ``Store.commit``; nothing is left.
    """
    samples, staged = list(samples), []
    try:
        for number, one in enumerate(samples):
            name = shards.file_name(first + number, task, one.sample_id)
            place = Place(task, loss, commit, number, len(samples), name)
            entry, data = shards.encode(one, place, config, dtype, form)
            staged.append(Staged(entry, f".{name}.{uuid.uuid4().hex}.staged{durable.PART}"))
            durable.write_file(folder / SHARDS / staged[-1].part, [data], sync_name=False)
    except BaseException:
        discard(folder, staged)
        raise
    return staged


def require_whole(folder: Path, staged: Staged) -> None:
    """Refuse a staged shard that is not to be seen from here.

    Raises:
        DiskError: If so.
    """
    path = folder / SHARDS / staged.part
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        size = None
    if size != staged.entry.size:
        seen = "is not there" if size is None else f"has {size} bytes"
        told = DiskError(
            f"the shard of sample {staged.entry.sample_id!r}, {staged.entry.size} bytes, that another process says it has "
            f"synced as {str(path)!r} {seen} for the one that commits it. A store of many machines must be a folder that all "
            "of them share."
        )
        told.errno = errno.EIO
        raise told


def discard(folder: Path, staged: Iterable[Staged]) -> None:
    """Remove staged shards, as far as the system lets us; the next writer removes the rest."""
    with contextlib.suppress(DiskError):
        durable.remove(folder / SHARDS / one.part for one in staged)
