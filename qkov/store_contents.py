"""What a store on disk says: its header, its samples by task, its seal, and what is wrong with any of them.

::

    store.json      header: settings, model, layout, environment; with its own SHA-256
    journal         line 0 is the header again; then one line for each pass that was committed
    shards/         one file a sample, written before its line
    seal.json       number of lines and SHA-256 of the journal, once collection has ended
    lock            who is writing
    damaged/        what a repair has set aside
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import durable, journal, shards
from .canonical import canonical_json
from .errors import StoreDamagedError, StoreNotFoundError, StoreVersionError
from .shards import Entry

FORMAT, VERSION = "qkov-store", 1
HEADER, JOURNAL, SEAL, SHARDS, DAMAGED, LOCK = "store.json", "journal", "seal.json", "shards", "damaged", "lock"
OURS = {HEADER, JOURNAL, SEAL, SHARDS, DAMAGED, LOCK}


@dataclass
class Contents:
    """What the files of a store say.

    Attributes:
        header: Settings, model, layout and environment; None where collection has not begun.
        tasks: ``{task: {sample id: Entry}}`` in the order of collection.
        skipped: ``{task: {sample id: reason}}``.
        num_lines: Lines of the journal. size: Their bytes. tail: Bytes behind them, of an interrupted write.
        sealed: Whether collection has ended.
        unlisted: Shards that no line of the journal names.
        problems: What is wrong, in sentences; empty for a sound store.
    """

    header: dict[str, Any] | None = None
    tasks: dict[str, dict[int | str, Entry]] = field(default_factory=dict)
    skipped: dict[str, dict[int | str, str]] = field(default_factory=dict)
    num_lines: int = 0
    size: int = 0
    tail: int = 0
    sealed: bool = False
    unlisted: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)

    @property
    def entries(self) -> list[tuple[str, Entry]]:
        """All samples with their tasks, in the order of collection within a task."""
        return [(task, entry) for task, found in self.tasks.items() for entry in found.values()]

    @property
    def next_number(self) -> int:
        """Number of the next shard."""
        return 1 + max((int(entry.file[:8]) for _, entry in self.entries), default=-1)


def read(folder: Path) -> Contents:
    """Read everything but the shards themselves, of which only the sizes are compared.

    Raises:
        StoreNotFoundError: If there is no store.
        StoreVersionError: If another version wrote it.
    """
    require_store(folder)
    found = Contents()
    header, seal, data = _small_files(folder)
    found.header = _read_header(folder, header, found.problems)
    parsed = journal.parse(data)
    found.num_lines, found.size, found.tail = len(parsed.records), parsed.size, parsed.tail
    found.problems += [f"journal: {reason}" for reason in parsed.damaged]
    if found.header is None and len(parsed.records) > 1:
        found.problems.append(f"{HEADER} is missing")
    for record in parsed.records:
        take(record, found)
    _compare_headers(found, parsed.records)
    _check_seal(found, seal, data)
    with durable.refusals(folder, "read"):
        _check_files(folder, found)
    return found


def require_store(folder: Path) -> None:
    """Refuse a path that holds no store.

    Raises:
        StoreNotFoundError: If so.
    """
    with durable.refusals(folder, "read"):
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not {HEADER, JOURNAL, SHARDS} & names:
        raise StoreNotFoundError(
            f"{str(folder)!r} holds no store of collected gradients. Check the path, or make one: "
            "FisherCollector(store=path)."
        )


def require_sound(folder: Path, found: Contents) -> None:
    """Refuse a store in which something is wrong.

    Raises:
        StoreDamagedError: If so, with what is wrong.
    """
    if found.problems:
        shown = "; ".join(found.problems[:4]) + ("; ..." if len(found.problems) > 4 else "")
        raise StoreDamagedError(
            f"the store {str(folder)!r} is damaged: {shown}. " + shards.PROBLEM.format(folder=folder)
        )


def header_bytes(header: dict[str, Any]) -> bytes:
    """Return the file of a header."""
    return _signed("header", header)


def seal_bytes(found: Contents, data: bytes) -> bytes:
    """Return the file of a seal over the bytes of a journal."""
    return _signed("seal", {"lines": found.num_lines, "journal": _sha(data), "contents": contents_digest(found)})


def contents_digest(found: Contents) -> str:
    """Hash what was collected: tasks, ids and the SHA-256 of shards, in order; not how the journal lists them."""
    return _sha(canonical_json([[task, one.sample_id, one.sha256] for task, one in found.entries]).encode())


def read_seal(folder: Path) -> dict[str, Any] | None:
    """Return what a seal says, ``{}`` for a damaged one and None without any."""
    return _seal_of(_bytes(folder / SEAL))


def _small_files(folder: Path) -> tuple[bytes | None, bytes | None, bytes]:
    """Read header, seal and journal as they were at one time, although a writer may be at work."""
    while True:
        before = _bytes(folder / HEADER), _bytes(folder / SEAL)
        data = _bytes(folder / JOURNAL) or b""
        if (_bytes(folder / HEADER), _bytes(folder / SEAL)) == before:
            return *before, data


def _seal_of(data: bytes | None) -> dict[str, Any] | None:
    return None if data is None else _unsigned("seal", data) or {}


def _signed(name: str, value: dict[str, Any]) -> bytes:
    content = {"format": FORMAT, "version": VERSION, name: value}
    return (canonical_json({**content, "sha256": _sha(canonical_json(content).encode())}) + "\n").encode()


def _unsigned(name: str, data: bytes) -> dict[str, Any] | None:
    """Return the value of a signed file; None where it is not what was written."""
    try:
        content = json.loads(data)
        stated = content.pop("sha256")
        value = content[name]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    sound = _sha(canonical_json(content).encode()) == stated and isinstance(value, dict)
    return value if sound and _signed(name, value) == data else None


def _read_header(folder: Path, data: bytes | None, problems: list[str]) -> dict[str, Any] | None:
    if data is None:
        return None
    value = _unsigned("header", data)
    if value is not None:
        return value
    try:
        content = json.loads(data)
        sound = content.pop("sha256") == _sha(canonical_json(content).encode())
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if sound and (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise StoreVersionError(
            f"{str(folder)!r} has format {content.get('format')!r}, version {content.get('version')!r}; this version of qkov "
            f"reads {FORMAT!r}, version {VERSION}. Use the version of qkov that wrote it, or collect again elsewhere."
        )
    problems.append(f"{HEADER} is not what was written")
    return None


def take(record: Any, found: Contents) -> None:
    """Add what a line of the journal, a record with its number "n", says."""
    kind, task = record.get("kind"), record.get("task")
    try:
        if kind == "task":
            found.tasks.setdefault(task, {})
        elif kind == "skipped":
            found.skipped.setdefault(task, {})[record["id"]] = record["reason"]
        elif kind == "pass":
            entries = [Entry(**one) for one in record["samples"]]
            of_task = found.tasks.setdefault(task, {})
            for entry in entries:
                if entry.sample_id in of_task:
                    found.problems.append(f"journal: sample {entry.sample_id!r} of task {task!r} is listed twice")
                of_task[entry.sample_id] = entry
                found.skipped.get(task, {}).pop(entry.sample_id, None)
        elif kind != "store":
            found.problems.append(f"journal: line {record['n'] + 1} is of an unknown kind {kind!r}")
    except (KeyError, TypeError) as error:
        found.problems.append(f"journal: line {record['n'] + 1} cannot be read ({error!r})")


def _compare_headers(found: Contents, records: tuple[dict[str, Any], ...]) -> None:
    first = records[0].get("header") if records and records[0].get("kind") == "store" else None
    if first is None and (records or found.header is not None):
        found.problems.append("journal: its first line, the header, is missing")
    elif found.header is not None and first != found.header:
        found.problems.append("the journal's first line is not the header")


def _check_seal(found: Contents, signed: bytes | None, data: bytes) -> None:
    seal = _seal_of(signed)
    if seal is None:
        return
    if not seal:
        found.problems.append(f"{SEAL} is not what was written")
    elif seal["journal"] != _sha(data) or seal["lines"] != found.num_lines:
        found.problems.append(f"the journal is not the one that was sealed, of {seal['lines']} lines")
    else:
        found.sealed = True


def _check_files(folder: Path, found: Contents) -> None:
    there = {}
    for path in (folder / SHARDS).iterdir() if (folder / SHARDS).is_dir() else ():
        if not path.name.endswith(durable.PART):
            with contextlib.suppress(FileNotFoundError):  # a writer took it away since
                there[path.name] = path.stat().st_size
    for task, entry in found.entries:
        size = there.pop(entry.file, None)
        if size != entry.size:
            what = "is missing" if size is None else f"has {size} bytes instead of {entry.size}"
            found.problems.append(f"shard {entry.file!r} of sample {entry.sample_id!r} of task {task!r} {what}")
    found.unlisted = tuple(sorted(there))


def _bytes(path: Path) -> bytes | None:
    with durable.refusals(path, "read"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
