"""Stores that are wrong on purpose, each named after what it does, with the harness that must notice.

As in :mod:`validation.faults.planting`, a fault is data: which attribute of ``qkov`` is replaced, and by what. The first
group are faults that the harnesses found in the store itself when they were first run.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from qkov import durable, errors, journal, shards, store, store_lock

from ..faults.planting import planted

FAULTS: dict[str, StoreFault] = {}


@dataclass(frozen=True)
class StoreFault:
    """One way to lose samples, or to hand out wrong ones.

    Attributes:
        name: Key in ``FAULTS``. description: What it does, in one sentence. expected: The harness that must notice.
        target: The attribute that is replaced, below ``qkov``. wrong: ``wrong(original) -> replacement``.
    """

    name: str
    description: str
    expected: str
    target: str
    wrong: Callable = field(repr=False)

    def plant(self) -> contextlib.AbstractContextManager:
        """Replace the attribute until the block ends."""
        return planted(self.target, self.wrong)


def fault(target: str, expected: str) -> Callable:
    """Register ``wrong(original) -> replacement``; its name and docstring become the fault's."""

    def register(wrong: Callable) -> Callable:
        FAULTS[wrong.__name__] = StoreFault(wrong.__name__, " ".join(wrong.__doc__.split()), expected, target, wrong)
        return wrong

    return register


@fault("store.Store._append", "refusals")
def removes_shards_of_an_uncertain_line(original):
    """Removes the shards of a pass whose line was refused, although the line may be on the disk."""

    def wrong(self, record, shards_of_it=()):
        try:
            original(self, record)
        except errors.DiskError:
            with contextlib.suppress(errors.DiskError):
                durable.remove(shards_of_it)
            raise

    return wrong


@fault("durable.append", "refusals")
def appends_behind_half_a_line(original):
    """Appends without looking whether a refused line is still there."""

    def wrong(path, data, *, size):
        with durable.refusals(path, "append to"):
            handle = durable.os.open(path, os.O_WRONLY | os.O_APPEND)
            try:
                durable._write_all(handle, data)
                durable.os.fsync(handle)
            finally:
                durable.os.close(handle)

    return wrong


@fault("durable.sync_file", "power")
def trusts_lines_of_the_killed(original):
    """Goes on after a line that a killed process wrote and did not sync."""
    return lambda path: None


@fault("store._recovered", "power")
def trusts_names_of_the_killed(original):
    """Goes on with names of files that a killed process gave and did not sync."""

    def wrong(folder):
        with planted("durable.sync_folder", lambda _: lambda path: None):
            return original(folder)

    return wrong


@fault("store.Store._require_new", "machine")
def takes_ids_twice(original):
    """Commits a sample under an id that its task holds already."""
    return lambda self, task, samples: None


@fault("store_repair._fault", "refusals")
def takes_unreadable_for_damaged(original):
    """Repairs away a shard that the system did not let it read."""

    def wrong(folder, entry):
        try:
            return original(folder, entry)
        except errors.DiskError:
            return "cannot be read"

    return wrong


@fault("durable.write_file", "power")
def files_not_synced(original):
    """Never syncs the bytes of a whole file."""

    def wrong(path, parts, *, sync_name=True):
        _put(path, parts)
        if sync_name:
            durable.sync_folder(path.parent)

    return wrong


@fault("durable.write_file", "power")
def renamed_before_synced(original):
    """Gives a file its name first and syncs its bytes, and the folder, afterwards."""

    def wrong(path, parts, *, sync_name=True):
        _put(path, parts)
        durable.sync_folder(path.parent)
        durable.sync_file(path)

    return wrong


@fault("durable.sync_folder", "power")
def folders_not_synced(original):
    """Never syncs the names in a folder."""
    return lambda folder: None


@fault("durable.append", "power")
def lines_not_synced(original):
    """Appends to the journal without syncing it."""

    def wrong(path, data, *, size):
        handle = durable.os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            durable._write_all(handle, data)
        finally:
            durable.os.close(handle)

    return wrong


@fault("durable.write_file", "kills")
def written_in_place(original):
    """Writes a file under its final name."""

    def wrong(path, parts, *, sync_name=True):
        handle = durable.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for part in parts:
                durable._write_all(handle, part)
            durable.os.fsync(handle)
        finally:
            durable.os.close(handle)
        durable.sync_folder(path.parent)

    return wrong


@fault("store.Store.commit", "kills")
def line_before_shards(original):
    """Lists a pass before its shards are written."""

    def wrong(self, task, loss, samples, config, *, dtype, form):
        self.require_open()
        samples, first = list(samples), self.contents.next_number
        self._require_new(task, samples)
        made = []
        for number, one in enumerate(samples):
            name = shards.file_name(first + number, task, one.sample_id)
            place = shards.Place(task, loss, self.contents.num_lines, number, len(samples), name)
            made.append(shards.encode(one, place, config, dtype, form))
        entries = [entry for entry, _ in made]
        self._append(store.pass_record(task, loss, entries))
        for entry, data in made:
            durable.write_file(self.folder / "shards" / entry.file, [data])
        self.contents.tasks.setdefault(task, {}).update({entry.sample_id: entry for entry in entries})

    return wrong


@fault("store.Store.commit", "kills")
def acknowledges_early(original):
    """Returns before a pass is written, and writes it before whatever is done next."""

    def wrong(self, *arguments, **options):
        _flush(self, original)
        self._late = (arguments, options)
        for name in ("_append", "seal", "close"):
            setattr(self, name, functools.partial(_after_flushing, self, original, name))
        return list(arguments[2])

    return wrong


@fault("store.left_over", "corruption")
def removes_complete_passes(original):
    """Takes a whole pass whose line was lost for an unfinished one, and removes it."""

    def wrong(folder, found):
        return [store.LeftOver(one.files, None, True) for one in original(folder, found)]

    return wrong


@fault("journal.parse", "kills")
def forgets_the_tail(original):
    """Goes on behind what an interrupted write has left at the end of the journal."""

    def wrong(data):
        found = original(data)
        return journal.Journal(found.records, len(data), 0, found.damaged)

    return wrong


@fault("shards.Shard.tensor", "corruption")
def tensors_unchecked(original):
    """Reads tensors without their checksums."""

    def wrong(self, name):
        with planted("shards.zlib", lambda zlib: _Agreeing(self, name)):
            return original(self, name)

    return wrong


@fault("journal._record", "corruption")
def lines_unchecked(original):
    """Reads lines of the journal without their checksums."""

    def wrong(raw):
        try:
            record = journal.json.loads(raw[9:])
        except ValueError:
            return None
        return record if isinstance(record, dict) and type(record.get("n")) is int else None

    return wrong


@fault("store_contents._check_seal", "corruption")
def seal_unchecked(original):
    """Takes a store for whole because a seal is there."""

    def wrong(found, signed, data):
        found.sealed = signed is not None

    return wrong


@fault("store_contents._check_files", "corruption")
def shards_uncounted(original):
    """Does not compare the shards with the journal."""
    return lambda folder, found: None


@fault("store_repair._fault", "corruption")
def verifies_sizes_only(original):
    """Calls a shard sound that has its size."""

    def wrong(folder, entry):
        path = folder / "shards" / entry.file
        return "" if path.exists() and path.stat().st_size == entry.size else "is not what was written"

    return wrong


@fault("store_repair._without", "corruption")
def repair_drops_whole_passes(original):
    """Drops all samples of a pass of which one is damaged."""

    def wrong(record, names):
        kept = original(record, names)
        return record if kept is None or kept == record else {"kind": "task", "task": record["task"]}

    return wrong


@fault("store_repair._unlisted", "corruption")
def repair_forgets_lost_lines(original):
    """Does not list sound shards again whose line was damaged."""
    return lambda folder, found: []


@fault("store_lock.acquire", "machine")
def lock_not_taken(original):
    """Opens the file of the lock and does not lock it."""
    return lambda folder: os.open(folder / store_lock.FILE, os.O_RDWR | os.O_CREAT, 0o666)


@fault("store.Store.require_open", "machine")
def adds_to_a_sealed_store(original):
    """Takes passes into a store whose collection has ended."""
    return lambda self: self._require_writable()


@fault("store.pass_record", "kills")
def ids_swapped(original):
    """Lists the samples of a pass under each other's ids."""

    def wrong(task, loss, entries):
        ids = [entry.sample_id for entry in entries]
        swapped = zip(entries, reversed(ids), strict=True)
        return original(task, loss, [store.Entry(**{**vars(entry), "sample_id": one}) for entry, one in swapped])

    return wrong


@fault("durable._write_all", "refusals")
def short_writes_ignored(original):
    """Takes a write that stored a part of its data for a whole one."""
    return lambda handle, data: durable.os.write(handle, data)


@fault("durable.refusals", "refusals")
def errors_swallowed(original):
    """Goes on as if nothing had happened when the system refuses."""

    @contextlib.contextmanager
    def wrong(path, action):
        with contextlib.suppress(OSError) if action in ("write", "append to") else original(path, action):
            yield

    return wrong


@fault("durable.refusals", "refusals")
def errno_forgotten(original):
    """Tells of a refusal without the number of its error."""

    @contextlib.contextmanager
    def wrong(path, action):
        try:
            yield
        except errors.QKOVError:
            raise
        except OSError as error:
            raise errors.DiskError(f"cannot {action} {path}") from error

    return wrong


@fault("store_contents._bytes", "refusals")
def unreadable_is_absent(original):
    """Takes a file that cannot be read for one that is not there."""

    def wrong(path):
        try:
            return path.read_bytes()
        except OSError:
            return None

    return wrong


@fault("store._parts", "strace")
def errors_of_listing_escape(original):
    """Lets an error of listing a folder through as it is."""
    return lambda folder: [path for one in (folder, folder / "shards") for path in one.glob(f".*{durable.PART}")]


class _Agreeing:
    """Stands in for ``zlib``: every checksum is the one that was written."""

    def __init__(self, shard, name):
        self._shard, self._name = shard, name
        shard._head  # noqa: B018 - is checked as ever, before checksums agree with everything

    def crc32(self, data):
        return self._shard._head[0]["crc32"][self._name]


def _put(path, parts):
    """Write a file under another name and rename it, without any sync."""
    temporary = path.with_name(f".{path.name}{durable.PART}")
    handle = durable.os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for part in parts:
            durable._write_all(handle, part)
    finally:
        durable.os.close(handle)
    durable.os.replace(temporary, path)


def _after_flushing(self, commit, name, *arguments, **options):
    _flush(self, commit)
    getattr(type(self), name)(self, *arguments, **options)


def _flush(self, commit):
    late, self._late = getattr(self, "_late", None), None
    if late is not None:
        commit(self, *late[0], **late[1])
