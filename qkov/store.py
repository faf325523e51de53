r"""Collected samples on disk: a store that loses nothing it has acknowledged, and notices what was changed.

A pass is committed in this order, each step synced before the next: its shards, one file a sample, under other names;
their final names; one line of the journal that lists them all with their SHA-256. Only then is it acknowledged. So a
crash at any point leaves whole passes, and what lies about of an unfinished one is removed, or finished, by the next
writer. A pass is never split, so that a resumed collection cuts its batches as an uninterrupted one does and gives the
same bytes.

Shards can be judged without the journal (:mod:`qkov.shards`). Where the journal's last line was lost after its shards
were synced, the next writer lists a complete pass again instead of throwing it away.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import durable, journal, shards, store_contents, store_lock, store_staging
from .errors import DiskError, OptionError, SampleIdError, SealedStoreError, StoreWarning, UnsealedStoreError
from .layout import QKOVConfig
from .samples import Sample
from .shards import Entry, Place
from .store_contents import DAMAGED, HEADER, JOURNAL, SEAL, SHARDS, Contents
from .store_staging import Staged

if TYPE_CHECKING:
    from .option_types import PathLike


_logger = logging.getLogger(__name__)


class Store:
    """A folder of collected samples, opened for reading, or for writing by one process at a time.

    Use :meth:`reading` and :meth:`writing`.

    Attributes:
        folder: Where it is.
        contents: What it holds; see :class:`qkov.store_contents.Contents`.
    """

    def __init__(self, folder: Path, contents: Contents, lock: int | None = None) -> None:
        self.folder, self.contents, self._lock = folder, contents, lock

    @classmethod
    def reading(cls, path: PathLike, *, allow_unsealed: bool = False) -> Store:
        """Open a store for reading; needs no lock.

        Raises:
            StoreNotFoundError, StoreVersionError, StoreDamagedError: If there is none that can be read.
            UnsealedStoreError: If collection has not ended and that is not allowed.
        """
        folder = Path(path)
        found = store_contents.read(folder)
        store_contents.require_sound(folder, found)
        if found.header is None:
            raise UnsealedStoreError(f"the store {str(folder)!r} holds no samples yet. Collect into it first.")
        if not found.sealed and not allow_unsealed:
            raise UnsealedStoreError(
                f"collection into the store {str(folder)!r} has not ended: it holds {len(found.entries)} samples and is "
                "being written to, or was interrupted. Run the collection again, it goes on where it stopped, or read "
                "what is there with allow_unsealed=True."
            )
        if found.unlisted or found.tail:
            warnings.warn(
                f"the store {str(folder)!r} has {len(found.unlisted)} shards that its journal does not list, and "
                f"{found.tail} bytes of an unfinished line, of a pass that is being written or was interrupted; they are left "
                "out. Resuming the collection takes care of them.",
                StoreWarning,
                stacklevel=3,
            )
        return cls(folder, found)

    @classmethod
    def writing(cls, path: PathLike) -> Store:
        """Open a store for writing, or make one; what an interruption left is finished or removed.

        Raises:
            StoreBusyError: If another process writes to it.
            OptionError: If the folder holds something else.
            StoreVersionError, StoreDamagedError: If it cannot be continued.
            DiskError: If the system refuses.
        """
        folder = Path(path)
        _require_ours(folder)
        durable.make_folder(folder / SHARDS)
        lock = store_lock.acquire(folder)
        try:
            return cls(folder, _recovered(folder), lock)
        except BaseException:
            store_lock.release(lock)
            raise

    @property
    def writable(self) -> bool:
        """Whether this process holds the lock."""
        return self._lock is not None

    @property
    def header(self) -> dict[str, Any] | Any:
        """Settings, model, layout and environment; None where collection has not begun."""
        return self.contents.header

    @property
    def sealed(self) -> bool:
        """Whether collection has ended."""
        return self.contents.sealed

    def create(self, header: dict[str, Any]) -> None:
        """Write down what is collected, before the first sample."""
        self._require_writable()
        data = journal.line({"n": 0, "kind": "store", "header": header})
        durable.write_file(self.folder / JOURNAL, [data])
        durable.write_file(self.folder / HEADER, [store_contents.header_bytes(header)])
        self.contents = Contents(header=header, num_lines=1, size=len(data))

    def samples(self) -> dict[str, dict[int | str, Sample]]:
        """Return all samples by task and id; their factors are read from disk on demand."""
        return {
            task: {entry.sample_id: shards.stored_sample(self.folder, entry, task) for entry in entries.values()}
            for task, entries in self.contents.tasks.items()
        }

    def commit(
        self,
        task: str,
        loss: str,
        samples: Iterable[Sample],
        config: QKOVConfig,
        *,
        dtype: torch.dtype | None,
        form: str,
    ) -> list[Sample]:
        """Write the samples of a pass; once this returns they survive a crash.

        Args:
            task: Name of their task. loss: Name of the loss. samples: With their factors.
            config, dtype, form: As for ``shards.encode``.

        Returns:
            The samples as they are stored, to be read on demand.

        Raises:
            DiskError: If the system refuses; the store is as it was.
            PrecisionError, SampleIdError: If a sample cannot be stored as asked, or its task holds one of that id; the store
                is as it was.
        """
        self.require_open()
        samples, first = list(samples), self.contents.next_number
        self._require_new(task, samples)
        entries: list[Entry] = []
        written: list[Path] = []
        try:
            for number, one in enumerate(samples):
                name = shards.file_name(first + number, task, one.sample_id)
                place = Place(task, loss, self.contents.num_lines, number, len(samples), name)
                entry, data = shards.encode(one, place, config, dtype, form)
                written.append(self.folder / SHARDS / name)
                durable.write_file(written[-1], [data], sync_name=False)
                entries.append(entry)
            durable.sync_folder(self.folder / SHARDS)
        except BaseException:
            # Left there, they are taken care of when the store is opened for writing again.
            with contextlib.suppress(DiskError):
                durable.remove(written)
            raise
        self._append(pass_record(task, loss, entries), shards_of_it=written)
        of_task = self.contents.tasks.setdefault(task, {})
        of_task.update({entry.sample_id: entry for entry in entries})
        return [shards.stored_sample(self.folder, entry, task) for entry in entries]

    def adopt(self, task: str, loss: str, staged: Iterable[Staged]) -> list[Sample]:
        """Commit a pass whose shards this process or another has staged; see :mod:`qkov.store_staging`.

        The store goes through the states that :meth:`commit` leads it through, and no others.

        Args:
            task: Name of their task. loss: Name of the loss. staged: The samples, in order.

        Returns:
            The samples as they are stored, to be read on demand.

        Raises:
            DiskError: If the system refuses, or a staged file is not to be seen; the store is as it was.
            SampleIdError: As for :meth:`commit`.
        """
        staged = list(staged)
        entries, written = [one.entry for one in staged], []
        try:
            self.require_open()
            self._require_new(task, entries)
            for one in staged:
                store_staging.require_whole(self.folder, one)
                written.append(self.folder / SHARDS / one.entry.file)
                durable.rename(self.folder / SHARDS / one.part, written[-1])
            durable.sync_folder(self.folder / SHARDS)
        except BaseException:
            with contextlib.suppress(DiskError):
                durable.remove(written)
            store_staging.discard(self.folder, staged)
            raise
        self._append(pass_record(task, loss, entries), shards_of_it=written)
        self.contents.tasks.setdefault(task, {}).update({entry.sample_id: entry for entry in entries})
        return [shards.stored_sample(self.folder, entry, task) for entry in entries]

    def add_task(self, task: str) -> None:
        """Write down a task without samples."""
        self._append({"kind": "task", "task": task})
        self.contents.tasks.setdefault(task, {})

    def add_skipped(self, task: str, sample_id: int | str, reason: str) -> None:
        """Write down that a sample was left out, and why."""
        self._append({"kind": "skipped", "task": task, "id": sample_id, "reason": reason})
        self.contents.skipped.setdefault(task, {})[sample_id] = reason

    def seal(self) -> None:
        """End the collection: write down how many lines the journal has and their SHA-256, and give the lock back."""
        if self._lock is None:
            return
        if self.header is not None and not self.sealed:
            with durable.refusals(self.folder / JOURNAL, "read"):
                data = (self.folder / JOURNAL).read_bytes()
            try:
                durable.write_file(self.folder / SEAL, [store_contents.seal_bytes(self.contents, data)])
            except BaseException:
                with contextlib.suppress(DiskError):
                    durable.remove([self.folder / SEAL])
                raise
            self.contents.sealed = True
        self.close()

    def unseal(self) -> None:
        """Take the seal off, so that more samples can be added."""
        if self._lock is None:
            lock = store_lock.acquire(self.folder)
            try:
                self.contents = _recovered(self.folder)
            except BaseException:
                store_lock.release(lock)
                raise
            self._lock = lock
        if self.sealed:
            durable.remove([self.folder / SEAL])
            self.contents.sealed = False

    def close(self) -> None:
        """Give the lock back without ending the collection."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            store_lock.release(lock)

    def require_open(self) -> None:
        """Refuse new samples where collection has ended, or this process only reads.

        Raises:
            SealedStoreError, OptionError: If so.
        """
        if self.sealed:
            raise SealedStoreError(
                f"the store {str(self.folder)!r} is sealed: its collection has ended, with {len(self.contents.entries)} "
                "samples. Call unseal() on the collector to add more, or collect into another store."
            )
        self._require_writable()

    def _append(self, record: dict[str, Any], shards_of_it: Iterable[Path] = ()) -> None:
        self.require_open()
        with durable.refusals(self.folder, "read"):
            left = (self.folder / SEAL).exists()
        if left:  # of an ending that was refused and could not be undone
            durable.remove([self.folder / SEAL])
        data = journal.line({"n": self.contents.num_lines, **record})
        try:
            durable.append(self.folder / JOURNAL, data, size=self.contents.size)
        except DiskError:
            # The line may be on the disk, whole or in part: shards go only once it is known not to be. After any other
            # exception, an interrupt, they stay, and the next opening judges them.
            with contextlib.suppress(DiskError):
                durable.cut(self.folder / JOURNAL, self.contents.size)
                durable.remove(shards_of_it)
            raise
        self.contents.size += len(data)
        self.contents.num_lines += 1

    def _require_new(self, task: str, samples: list[Sample] | list[Entry]) -> None:
        known = set(self.contents.tasks.get(task, {}))
        repeated = []
        for one in samples:
            repeated += [one.sample_id] if one.sample_id in known else []
            known.add(one.sample_id)
        if repeated:
            raise SampleIdError(
                f"the store {str(self.folder)!r} holds samples {repeated[:5]} of task {task!r} already, or they occur twice "
                "in one pass. Each id names one sample of a task: leave out those that are held, or use other ids."
            )

    def _require_writable(self) -> None:
        if self._lock is None:
            raise OptionError(
                f"the store {str(self.folder)!r} was opened for reading, or closed. To collect into it: "
                "FisherCollector(store=path)."
            )


def _require_ours(folder: Path) -> None:
    with durable.refusals(folder, "read"):
        if folder.exists() and not folder.is_dir():
            raise OptionError(f"{str(folder)!r} is a file; a store is a folder. Choose another path.")
        foreign = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    foreign = sorted(name for name in foreign if name not in store_contents.OURS and not name.endswith(durable.PART))
    if foreign:
        raise OptionError(
            f"{str(folder)!r} holds {foreign[:3]} and is no store. Choose a new or an empty folder; nothing was written."
        )


def _recovered(folder: Path) -> Contents:
    """Read a store for writing; finish or remove what an interruption left."""
    found = store_contents.read(folder)
    with durable.refusals(folder, "read"):
        never_begun = found.header is None and not (folder / HEADER).exists() and not (folder / SEAL).exists()
    if never_begun and found.num_lines <= 1 and not found.unlisted and not found.entries:
        durable.remove([*_parts(folder), folder / JOURNAL])  # interrupted before anything was collected
        return Contents()
    store_contents.require_sound(folder, found)
    # What a process that was killed has written is seen, and need not be safe: names of shards before a line lists them
    # again, the last line and the header before samples are skipped as known, a seal's removal before the journal grows.
    durable.sync_folder(folder / SHARDS)
    durable.sync_file(folder / JOURNAL)
    durable.sync_folder(folder)
    durable.remove(_parts(folder))
    if found.tail:
        _logger.warning("removing %d bytes of an interrupted write from %s", found.tail, folder / JOURNAL)
        durable.cut(folder / JOURNAL, found.size)
    for left in left_over(folder, found):
        if left.record is not None and not found.sealed:
            _logger.warning(
                "listing again %d samples of task %r whose line was lost", len(left.files), left.record["task"]
            )
            data = journal.line({"n": found.num_lines, **left.record})
            durable.append(folder / JOURNAL, data, size=found.size)
            found = store_contents.read(folder)
        elif left.unfinished:
            durable.remove(folder / SHARDS / name for name in left.files)
        else:
            _logger.warning("setting aside %s, which no pass explains", ", ".join(left.files))
            set_aside(folder, left.files)
    return found


@dataclass(frozen=True)
class LeftOver:
    """Shards that no line lists: those of one pass, or those that are not whole.

    Attributes:
        files: Their names.
        record: The line that the pass should have, if all its shards are here.
        unfinished: Whether they can be what an interrupted pass leaves: some shards of the pass after the last line.
    """

    files: tuple[str, ...]
    record: dict[str, Any] | None
    unfinished: bool


def left_over(folder: Path, found: Contents) -> list[LeftOver]:
    """Group shards that no line lists by pass, in the order of their passes."""
    by_commit: dict[int, list[tuple[Place, Entry]]] = {}
    result = []
    for name in found.unlisted:
        judged = shards.inspect(folder / SHARDS / name)
        if judged is None:
            result.append(LeftOver((name,), None, False))
        else:
            by_commit.setdefault(judged[0].commit, []).append(judged)
    for commit, members in sorted(by_commit.items()):
        members.sort(key=lambda one: one[0].place)
        first = members[0][0]
        known = found.tasks.get(first.task, {})
        whole = [place.place for place, _ in members] == list(range(first.of)) and commit >= found.num_lines
        # A line is begun when all shards of its pass are safe. Part of one beside part of a pass is no interruption: the
        # line of a pass that a repair had cut down was damaged, and what is left of the pass had been acknowledged.
        whole = whole or bool(found.tail and commit == found.num_lines)
        whole = whole and len({(place.task, place.loss, place.of) for place, _ in members}) == 1
        whole = whole and not any(entry.sample_id in known for _, entry in members)
        record = pass_record(first.task, first.loss, [entry for _, entry in members]) if whole else None
        result.append(LeftOver(tuple(place.file for place, _ in members), record, commit == found.num_lines))
    return result


def set_aside(folder: Path, files: Iterable[str]) -> None:
    """Move shards out of the collection, where a person can look at them."""
    durable.make_folder(folder / DAMAGED)
    for name in files:
        durable.move(folder / SHARDS / name, folder / DAMAGED / name)


def pass_record(task: str, loss: str, entries: list[Entry]) -> dict[str, Any]:
    return {"kind": "pass", "task": task, "loss": loss, "samples": [asdict(entry) for entry in entries]}


def _parts(folder: Path) -> list[Path]:
    with durable.refusals(folder, "read"):
        every = [path for one in (folder, folder / SHARDS) for path in one.iterdir()]
    return [path for path in every if path.name.startswith(".") and path.name.endswith(durable.PART)]
