r"""Lines of a journal: JSON with a checksum and a number, so that damage is told from an interrupted write.

One line is ``crc32 json\n``: eight hexadecimal digits of the CRC-32 of the JSON, which is canonical, and an object whose
``"n"`` is the number of the line. A journal only grows, one line for each commit, and a line counts once it is synced.

After a crash the end may hold part of a line, zeros, or nothing: a *tail* that was never acknowledged. A bad line with
good ones behind it, or a number that is missing, is *damage*.
"""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import dataclass
from typing import Any

from .canonical import canonical_json


@dataclass(frozen=True)
class Journal:
    """What the bytes of a journal say.

    Attributes:
        records: The records of all good lines, in their order.
        size: Bytes up to the end of the last good line.
        tail: Bytes behind it.
        damaged: Why lines between good ones are not what was written, by place; empty for a sound journal.
    """

    records: tuple[dict[str, Any], ...]
    size: int
    tail: int
    damaged: tuple[str, ...]


def line(record: dict[str, Any]) -> bytes:
    """Return the line of a record.

    Example:
        >>> line({"n": 0})
        b'cd500a3f {"n":0}\\n'
    """
    text = canonical_json(record).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def parse(data: bytes) -> Journal:
    """Read a journal; see :class:`Journal`."""
    records: list[dict[str, Any]] = []
    damaged: list[str] = []
    bad: list[str] = []  # since the last good line: a tail, unless another good line follows
    size = end = 0
    for place, raw in enumerate(io.BytesIO(data)):
        end += len(raw)
        record = _record(raw)
        if record is None:
            bad.append(f"line {place + 1} does not match its checksum")
            continue
        if record["n"] != (records[-1]["n"] + 1 if records else 0):
            bad.append(f"line {place + 1} has number {record['n']}, behind {records[-1]['n'] if records else 'none'}")
        damaged += bad
        bad = []
        records.append(record)
        size = end
    return Journal(tuple(records), size, len(data) - size, tuple(damaged))


def _record(raw: bytes) -> dict[str, Any] | None:
    text = raw[9:-1]
    if raw[-1:] != b"\n" or raw[8:9] != b" " or raw[:8] != b"%08x" % zlib.crc32(text):
        return None
    try:
        record = json.loads(text)
    except ValueError:  # a checksum of something else that happens to fit
        return None
    return record if isinstance(record, dict) and type(record.get("n")) is int else None
