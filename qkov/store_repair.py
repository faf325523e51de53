"""Judge every byte of a store, and keep what is sound of a damaged one."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import durable, journal, shards, store, store_contents, store_lock
from .errors import DiskError, StoreDamagedError
from .shards import Entry
from .store_contents import HEADER, JOURNAL, SEAL, SHARDS, Contents


@dataclass(frozen=True)
class StoreReport:
    """What a store holds and what is wrong with it.

    Attributes:
        folder: The store. sealed: Whether its collection has ended.
        num_samples: ``{task: samples}``. num_bytes: Of all shards.
        settings, model, environment: What it was collected with.
        problems: What is damaged, in sentences. notes: What is unusual and no damage.
        damaged: ``(task, sample id)`` of samples whose gradients are lost.
    """

    folder: Path
    sealed: bool
    num_samples: dict[str, int]
    num_bytes: int
    settings: dict[str, Any] = field(repr=False)
    model: dict[str, Any] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    damaged: tuple[tuple[str, int | str], ...] = ()

    def __str__(self) -> str:
        samples = ", ".join(f"{count} of task {task!r}" for task, count in self.num_samples.items()) or "none"
        lines = [
            f"{self.folder}: {'sealed' if self.sealed else 'not sealed: collection has not ended'}",
            f"samples: {samples}; {self.num_bytes:,} bytes",
            *(f"model: {self.model['class']}, {', '.join(self.model['dtypes'])}" for _ in [0] if self.model),
            *(f"{name}: {value}" for name, value in self.settings.items()),
            *(f"note: {note}" for note in self.notes),
            *(f"damaged: {problem}" for problem in self.problems),
        ]
        return "\n".join(lines)


def store_info(path: str | Path) -> StoreReport:
    """Describe a store from its header and journal, without reading the shards.

    Raises:
        StoreNotFoundError, StoreVersionError: If there is none that this version reads.
    """
    folder = Path(path)
    return _report(folder, store_contents.read(folder), [], [])


def verify_store(path: str | Path) -> StoreReport:
    """Read every byte of a store and compare it with what was written.

    Raises:
        StoreNotFoundError, StoreVersionError: If there is none that this version reads.
    """
    folder = Path(path)
    found = store_contents.read(folder)
    problems, damaged = [], []
    for task, entry in found.entries:
        reason = _fault(folder, entry)
        if reason:
            damaged.append((task, entry.sample_id))
            problems.append(f"shard {entry.file!r} of sample {entry.sample_id!r} of task {task!r} {reason}")
    return _report(folder, found, problems, damaged)


def repair_store(path: str | Path) -> StoreReport:
    """Keep every sample of a store that is sound, and set aside what is not.

    Damaged shards go to the folder ``damaged``; sound ones that the journal does not list are listed; the journal is
    written anew. The store stays sealed only if it then holds all that was sealed. Calling ``collect_fisher`` again with
    the same inputs collects what was lost.

    Returns:
        The state after the repair; ``damaged`` names what was lost.

    Raises:
        StoreDamagedError: If both copies of the header are lost: then nothing says what the numbers are.
        StoreBusyError, DiskError, StoreNotFoundError, StoreVersionError: As for writing.
    """
    folder = Path(path)
    store_contents.require_store(folder)
    lock = store_lock.acquire(folder)
    try:
        return _repair(folder)
    finally:
        store_lock.release(lock)


def _repair(folder: Path) -> StoreReport:
    found = store_contents.read(folder)
    records = list(journal.parse(_bytes(folder / JOURNAL)).records)
    seal = store_contents.read_seal(folder)
    header = found.header or next((one.get("header") for one in records if one.get("kind") == "store"), None)
    if header is None:
        raise StoreDamagedError(
            f"both copies of the header of {str(folder)!r} are lost ({HEADER} and the first line of the journal), so nothing "
            "says which model and settings the shards belong to. Collect again into another folder."
        )
    lost = [(task, entry) for task, entry in found.entries if _fault(folder, entry)]
    names = {entry.file for _, entry in lost}
    passes = [(record["n"], _without(record, names)) for record in records if record.get("kind") in PASSED_ON]
    passes += [(commit, record) for commit, record in _unlisted(folder, found)]
    store.set_aside(folder, sorted(name for name in names if (folder / SHARDS / name).exists()))
    store.set_aside(folder, sorted(name for name in found.unlisted if _inspected(folder, name) is None))
    lines = [
        {"kind": "store", "header": header},
        *(record for _, record in sorted(passes, key=lambda one: one[0]) if record),
    ]
    data = b"".join(journal.line({"n": number, **record}) for number, record in enumerate(map(_unnumbered, lines)))
    durable.remove([folder / SEAL])
    durable.write_file(folder / JOURNAL, [data])
    durable.write_file(folder / HEADER, [store_contents.header_bytes(header)])
    after = store_contents.read(folder)
    if seal and seal.get("contents") == store_contents.contents_digest(after):
        durable.write_file(folder / SEAL, [store_contents.seal_bytes(after, data)])
        after = store_contents.read(folder)
    kept = {(task, entry.sample_id) for task, entry in after.entries}
    damaged = [(task, entry.sample_id) for task, entry in lost if (task, entry.sample_id) not in kept]
    return _report(folder, after, [], damaged)


PASSED_ON = ("pass", "task", "skipped")


def _without(record: dict[str, Any], names: set[str]) -> dict[str, Any] | None:
    """Return a line without lost samples; None where nothing is left of it."""
    if record["kind"] != "pass":
        return record
    kept = [one for one in record["samples"] if one["file"] not in names]
    return {**record, "samples": kept} if kept else {"kind": "task", "task": record["task"]}


def _unlisted(folder: Path, found: Contents) -> list[tuple[int, dict[str, Any]]]:
    """Lines for sound shards that none lists, each with the number of its pass."""
    by_pass: dict[tuple[int, str, str], list[tuple[int, Entry]]] = {}
    for name in found.unlisted:
        judged = _inspected(folder, name)
        if judged and judged[1].sample_id not in found.tasks.get(judged[0].task, {}):
            place, entry = judged
            by_pass.setdefault((place.commit, place.task, place.loss), []).append((place.place, entry))
    return [
        (commit, store.pass_record(task, loss, [entry for _, entry in sorted(members, key=lambda one: one[0])]))
        for (commit, task, loss), members in by_pass.items()
    ]


def _inspected(folder: Path, name: str) -> tuple[shards.Place, Entry] | None:
    """Judge a shard; one that the disk has lost is not whole."""
    try:
        return shards.inspect(folder / SHARDS / name)
    except DiskError as error:
        if error.errno == errno.EIO:
            return None
        raise


def _unnumbered(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "n"}


def _fault(folder: Path, entry: Entry) -> str:
    """Why a shard is not the one that was committed, or an empty string.

    Raises:
        DiskError: If the system does not let it be read: a repair must not take that for damage.
    """
    path = folder / SHARDS / entry.file
    try:
        with durable.refusals(path, "read"), open(path, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except DiskError as error:
        if error.errno == errno.ENOENT:
            return "is missing"
        if error.errno == errno.EIO:  # the disk has lost it
            return f"cannot be read ({os.strerror(errno.EIO)})"
        raise
    return "" if found == entry.sha256 else "is not what was written"


def _report(folder: Path, found: Contents, problems: list[str], damaged: list[tuple[str, int | str]]) -> StoreReport:
    notes = [f"{len(found.unlisted)} shards are in no line of the journal"] if found.unlisted else []
    notes += [f"the journal ends with {found.tail} bytes of an interrupted write"] if found.tail else []
    notes += [
        f"sample {sample_id!r} of task {task!r} was skipped: {reason}"
        for task, skipped in found.skipped.items()
        for sample_id, reason in skipped.items()
    ]
    known = {problem.split(" of sample ")[0] for problem in problems}
    sizes = [problem for problem in found.problems if problem.split(" of sample ")[0] not in known]
    header = found.header or {}
    return StoreReport(
        folder, found.sealed, {task: len(entries) for task, entries in found.tasks.items()},
        sum(entry.size for _, entry in found.entries), header.get("settings", {}), header.get("model", {}),
        header.get("environment", {}), tuple(sizes + problems), tuple(notes), tuple(damaged),
    )  # fmt: skip


def _bytes(path: Path) -> bytes:
    with durable.refusals(path, "read"):
        return path.read_bytes() if path.exists() else b""
