"""Samples in a store on a file system that several processes share: each collects some passes, rank 0 writes them down.

The grid in which batches are cut into passes is the same for any number of ranks. Ranks take its passes in turns, in rounds::

    rank       0     1     2        each collects its pass, and tells how many samples it has
    round 0    p0    p1    p2       each stages its shards, synced; then rank 0 alone, in this order, gives them
    round 1    p3    p4    p5       their names and appends the lines of the journal

The journal, and so the order of samples, on which F, exponential means and rounding depend, is that of one process, byte by
byte; nothing is merged afterwards. What a crash leaves is what it leaves of one process, and staged files besides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import agreement, durable, interruption, journal, passes, rounds, store_contents, store_identity
from .errors import RanksDifferError
from .keeping import OnDisk
from .non_finite import told_of_skipped
from .store import Store
from .store_contents import JOURNAL, LOCK, Contents

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .agreement import Agreement
    from .layout import QKOVConfig
    from .linear_weights import LinearWeight
    from .option_types import Batches, LossFunction, SampleId
    from .passes import Cell, Numbers, Supply
    from .sample_rows import FirstAxis
    from .samples import Sample


SAME_CALL = (
    "Give every rank the same model, and the same batches in the same order, ids, clusters, loss and micro_batch."
)


@dataclass(frozen=True)
class SharedStore:
    """Where several ranks collect together: given to ``FisherCollector(store=...)`` in place of a path."""

    ranks: agreement.Agreement
    path: str | Path

    def keeping(self, settings: Mapping[str, Any]) -> SharedOnDisk:
        """Open the store on all ranks; rank 0 holds the lock."""
        return SharedOnDisk(self.ranks, Path(self.path), settings)


class SharedOnDisk:
    """Samples in a store that rank 0 writes and all ranks fill; the methods are those of ``keeping.OnDisk``.

    Args:
        ranks: The :class:`qkov.agreement.Agreement` of the processes.
        folder: The store, on a file system that they share.
        settings: As for ``OnDisk``, the same on every rank.

    Attributes:
        disk: The ``OnDisk`` of this rank; on other ranks than 0 it knows what was committed and cannot be written to.

    Raises:
        RanksDifferError: If ranks have other settings, or do not see the folder that rank 0 sees.
        StoreBusyError, ...: On all ranks, what rank 0 has met when it opened the store.
    """

    def __init__(self, ranks: Agreement, folder: Path, settings: Mapping[str, Any]) -> None:
        self._ranks = ranks
        self._heard, self._stop = interruption.Interruption(), interruption.Interruption()
        ranks.require_same(
            "compare settings", settings, "a setting of the collector", "Give all ranks the same options."
        )
        self.disk = ranks.together(
            "open the store",
            lambda: OnDisk(Store.writing(folder) if ranks.first else Store(folder, Contents()), settings),
        )
        try:
            lock = ranks.share("show the lock", _lock_text(folder) if ranks.first else None)
            ranks.together("find the store", lambda: _require_here(folder, lock))
            self._follow()
            ranks.together("compare with the store", lambda: OnDisk(self.store, settings))
        except BaseException:
            self.close()
            raise

    def _follow(self) -> None:
        """Learn from rank 0 what the store holds."""
        records = self._ranks.together("read the journal", lambda: self._records() if self._ranks.first else ())
        found = self._ranks.share("hear of the store", {"records": records, "sealed": self.sealed})
        if not self._ranks.first:
            self.disk = OnDisk(Store(self.folder, _contents(**found)), self.disk.settings)

    def _records(self) -> Sequence[dict[str, Any]]:
        if self.store.header is None:
            return []
        with durable.refusals(self.folder / JOURNAL, "read"):
            return journal.parse((self.folder / JOURNAL).read_bytes()).records

    @property
    def dtype(self) -> torch.dtype | None:
        """Precision of stored factors, or None for that of the model."""
        return self.disk.dtype

    @property
    def store(self) -> Store:
        """The store."""
        return self.disk.store

    @property
    def folder(self) -> Path:
        """Folder of the store."""
        return self.disk.folder

    @property
    def sealed(self) -> bool:
        """Whether collection has ended."""
        return self.disk.sealed

    @property
    def fingerprint(self) -> str | None:
        """That of the model, or None before collection has begun."""
        return self.disk.fingerprint

    def layout(self) -> Any:
        """Return ``(weights, config, left_out)`` of the store, or None before collection has begun."""
        return self.disk.layout()

    def samples(self) -> Any:
        """Return ``(samples, skipped)`` by task and id."""
        return self.disk.samples()

    def plan(
        self, model: nn.Module, config: QKOVConfig, weights: Sequence[LinearWeight], task: str
    ) -> Callable[[int, int], None] | None:
        """Return what refuses, on rank 0, samples that the disk cannot hold or the store not take."""
        return self.disk.plan(model, config, weights, task) if self._ranks.first else None

    def keep(self, task: str, loss: str, samples: list[Sample], config: QKOVConfig) -> list[Sample]:
        """Return samples as they are: their round has committed them."""
        return samples

    def add_skipped(self, task: str, skipped: dict[SampleId, str]) -> None:
        """Nothing to write down: the round has done so."""

    def close(self) -> None:
        """Give the store back to other writers without ending its collection."""
        self.disk.close()

    @contextlib.contextmanager
    def interruption(self) -> Any:
        """Let a signal to any rank wait for the end of a round, and then end the collection on all of them."""
        with interruption.deferred() as self._heard:
            self._stop = interruption.Interruption()
            yield self._stop

    def require_same(self, model: nn.Module, config: QKOVConfig) -> None:
        """Refuse another model than that of the samples, on any rank; warn of another environment."""
        self._ranks.together("compare the model with the store", lambda: self.disk.require_same(model, config))

    def begin(
        self, model: nn.Module, config: QKOVConfig, weights: Sequence[LinearWeight], left_out: Mapping[str, str]
    ) -> None:
        """Take note of what is collected; refuse ranks that hold different models, warn of other environments."""
        self._ranks.together("describe the model", lambda: self.disk.begin(model, config, weights, left_out))
        own = self.disk.header
        hard = {name: value for name, value in own.items() if name != "environment"}
        self._ranks.require_same("compare models", hard, "the model", SAME_CALL)
        common = self._ranks.share("hear of the header", own)
        if not self._ranks.first:
            self.disk.header = common
        store_identity.warn_of_environment(common["environment"], own["environment"], self.folder)

    def add_task(self, task: str) -> None:
        """Write down a task without samples."""
        self._ranks.together("add a task", lambda: self.disk.add_task(task) if self._ranks.first else None)
        self._follow()

    def seal(self) -> None:
        """End the collection."""
        self._ranks.together("seal the store", lambda: self.disk.seal() if self._ranks.first else None)
        self.store.contents.sealed = self._ranks.share("hear of the seal", self.sealed)

    def unseal(self) -> None:
        """Take the seal off, so that more samples can be added."""
        self._ranks.together("unseal the store", lambda: self.disk.unseal() if self._ranks.first else None)
        self._follow()

    def passes(
        self,
        model: nn.Module,
        batch: Batches,
        task: str,
        known: dict[SampleId, str],
        config: QKOVConfig,
        weights: Sequence[LinearWeight],
        loss_fn: LossFunction,
        first_axis: FirstAxis,
        sample_ids: Supply | Numbers,
        clusters: Supply,
        *,
        micro_batch: int | Callable[[Mapping[str, Any], Sequence[int]], int] | None,
        progress: bool,
        plan: Callable[[int, int], None] | None,
        skipped: dict[SampleId, str],
        skip: bool,
    ) -> Iterator[list[Sample]]:
        """Collect as ``passes.collect_passes`` does, together with the other ranks; what is yielded is committed."""

        def collect(cell: Cell, left_out: dict[SampleId, str]) -> Any:
            return passes.collect_cells(
                model, [cell], config, weights, loss_fn, first_axis, skipped=left_out, skip=skip
            )

        cutting = passes.cut(
            model,
            batch,
            task,
            known,
            loss_fn,
            sample_ids,
            clusters,
            micro_batch=micro_batch,
            plan=plan,
            skipped=skipped,
        )
        turns = rounds.Rounds(
            self._ranks,
            self.disk,
            task,
            passes.full_name(loss_fn),
            config,
            collect,
            lambda: self._heard.name,
            self._stop,
        )
        number = 1
        with (
            passes.shown(task, batch, progress and self._ranks.first) as bar,
            told_of_skipped(task, skipped),
            agreement.said_more(lambda: self._committed(task, number)),
        ):
            while (found := self._next_cells(task, cutting)) is not None:
                cells, num_known = found
                bar.update(num_known)
                for first in range(0, len(cells), self._ranks.size):
                    done = turns.run(cells[first : first + self._ranks.size])
                    known.update((one.sample_id, one.digest) for one in done.samples)
                    skipped.update(done.skipped)
                    for one in done.samples:
                        skipped.pop(one.sample_id, None)
                    yield done.samples
                    self._ranks.raise_first(done.reports, done.error)
                    bar.update(sum(map(len, cells[first : first + self._ranks.size])))
                    number += 1

    def _next_cells(self, task: str, cutting: Iterator[Any]) -> Any:
        """Cut the next batch; all ranks have the same cells, or none goes on. None after the last one."""
        found = self._ranks.together(f"take a batch of task {task!r}", lambda: next(cutting, None))
        cells, num_known = found or ((), None)
        shown = [num_known, *([cell.names, cell.digests, repr(cell.labels)] for cell in cells)]
        self._ranks.require_same(f"compare a batch of task {task!r}", shown, f"a batch of task {task!r}", SAME_CALL)
        return found

    def _committed(self, task: str, number: int) -> Any:
        count = len(self.store.contents.tasks.get(task, ()))
        return (
            f"This was in round {number} of {self._ranks.size} ranks. {count} samples of task {task!r}, at least, are "
            f"committed in {str(self.folder)!r}, and stay. To go on, run the same command again, with any number of ranks."
        )


def _contents(records: Sequence[dict[str, Any]], sealed: bool) -> Contents:
    """Make what a store holds from the lines of its journal."""
    found = Contents(header=records[0]["header"] if records else None, num_lines=len(records), sealed=sealed)
    for record in records:
        store_contents.take(record, found)
    return found


def _lock_text(folder: Path) -> str:
    with durable.refusals(folder / LOCK, "read"):
        return (folder / LOCK).read_text()


def _require_here(folder: Path, text: str) -> None:
    """Refuse a folder that is not the one in which rank 0 has just taken the lock."""
    if not (folder / LOCK).exists() or _lock_text(folder) != text:
        raise RanksDifferError(
            f"the folder {str(folder.absolute())!r} is not the one in which rank 0 has opened the store. Give all ranks one "
            "path, on a file system that their machines share."
        )
