"""Files of samples: JSON lines, one sample each, read with the number of every line that cannot be used.
::

    {"id": "m1", "text": "2 + 3 = 5", "cluster": "sums", "prompt": "Add. "}
    {"id": "m2", "input_ids": [5, 8, 2], "labels": [-100, 8, 2]}

``id`` is an int or a string, one type in a file, each once. ``text`` is what the loss is taken of; ``prompt`` stands before it
and is masked from the loss. Instead of both, ``input_ids``, and optionally ``labels`` of the same length (-100: not in the
loss). ``cluster`` names the independent unit (document, template) that a sample belongs to: in every line, or in none.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import TaskFileError

FIELDS = ("id", "text", "prompt", "cluster", "input_ids", "labels")
NOT_IN_LOSS = -100
EXAMPLE = '{"id": "m1", "text": "2 + 3 = 5"}'


@dataclass(frozen=True)
class TaskLine:
    """One sample as it stands in a file.

    Attributes:
        number: Of its line, from 1. sample_id: Its id. text, prompt: As given; None where there are token ids.
        cluster: Its unit, or None. input_ids, labels: As given, or None.
    """

    number: int
    sample_id: int | str
    text: str | None
    prompt: str | None
    cluster: int | str | None
    input_ids: tuple[int, ...] | None
    labels: tuple[int, ...] | None


@dataclass(frozen=True)
class TaskFile:
    """The samples of a task. ``sha256``: of the bytes of the file."""

    path: Path
    sha256: str
    lines: tuple[TaskLine, ...]

    @property
    def sample_ids(self) -> tuple[int | str, ...]:
        """Ids in the order of the file."""
        return tuple(one.sample_id for one in self.lines)

    @property
    def clusters(self) -> tuple[int | str, ...] | None:
        """A label for each sample, or None where the file has none."""
        found = tuple(one.cluster for one in self.lines)
        return None if found[0] is None else found


def read_task(path: Path | str, *, sha256: str | None = None) -> TaskFile:
    """Read a file of samples.

    Args:
        path: The file. sha256: What its bytes must be, or None.

    Raises:
        TaskFileError: If it is missing, has changed, or a line cannot be used; the message names file, line and id.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaskFileError(
            f"cannot read the task file {str(path)!r}: {error.strerror or error}. Expected JSON lines such as {EXAMPLE}"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise TaskFileError(
            f"{str(path)!r} has changed: its sha256 is {found}, expected {sha256}. Restore the file; or, to measure the new "
            "one, use a configuration without sha256 and another folder."
        )
    lines = tuple(_lines(path, data))
    if not lines:
        raise TaskFileError(f"{str(path)!r} holds no samples. Expected a line for each, such as {EXAMPLE}")
    _check_together(path, lines)
    return TaskFile(path, found, lines)


def _lines(path, data):
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TaskFileError(
                f"{str(path)!r}, line {number}: byte {error.start + 1} of the line is not UTF-8. Save the file as UTF-8."
            ) from error
        yield _line(f"{str(path)!r}, line {number}", number, text)


def _line(where, number, text):
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: _each_once(where, pairs), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, TaskFileError):
            raise
        raise TaskFileError(
            f"{where} is not JSON: {error}. Expected one sample on one line, such as {EXAMPLE}"
        ) from error
    if not isinstance(content, dict):
        raise TaskFileError(f"{where} is {content!r:.80}; expected one sample on one line, such as {EXAMPLE}")
    if unknown := [name for name in content if name not in FIELDS]:
        raise TaskFileError(f"{where} has the field {unknown[0]!r:.80}; expected some of {', '.join(FIELDS)}.")
    if "id" not in content:
        raise TaskFileError(f"{where} has no 'id'; give each sample a string or a whole number of its own.")
    sample_id = _label(where, "id", content["id"])
    where = f"{where} (id {_shown(sample_id)})"
    cluster = content.get("cluster")
    return TaskLine(
        number,
        sample_id,
        cluster=None if cluster is None else _label(where, "cluster", cluster),
        **_content(where, content),
    )


def _content(where, content):
    """What is measured: text, with a prompt or not, or token ids, with labels or not."""
    has_ids = content.get("input_ids") is not None
    if has_ids == (content.get("text") is not None):
        raise TaskFileError(
            f"{where} has {'both' if has_ids else 'neither'} of 'text' and 'input_ids'; give one of them."
        )
    wrong = "prompt" if has_ids else "labels"
    if content.get(wrong) is not None:
        remedy = (
            "Mask the prompt by labels of -100 instead."
            if has_ids
            else "Labels are of tokens, which a text does not show: give 'input_ids' instead of 'text', or a 'prompt'."
        )
        raise TaskFileError(f"{where} has {wrong!r} beside {'input_ids' if has_ids else 'text'!r}. {remedy}")
    if not has_ids:
        return {
            "text": _text(where, "text", content["text"]),
            "prompt": None if content.get("prompt") is None else _text(where, "prompt", content["prompt"], least=0),
            "input_ids": None,
            "labels": None,
        }
    ids = _tokens(where, "input_ids", content["input_ids"], 0)
    found = None if content.get("labels") is None else _tokens(where, "labels", content["labels"], NOT_IN_LOSS)
    if found is not None and (
        len(found) != len(ids) or any(one not in (NOT_IN_LOSS, token) for one, token in zip(found, ids, strict=False))
    ):
        raise TaskFileError(
            f"{where}: labels are not input_ids with some of them replaced by -100; expected one for each."
        )
    return {"text": None, "prompt": None, "input_ids": ids, "labels": found}


def _text(where, name, value, least=1):
    if not isinstance(value, str):
        raise TaskFileError(f"{where}: {name!r} is {value!r:.80}; expected text.")
    if len(value) < least:
        raise TaskFileError(f"{where}: {name!r} is empty, so there is nothing to measure; leave the sample out.")
    if value.encode("utf-8", "replace").decode() != value:
        raise TaskFileError(f"{where}: {name!r} holds half of a surrogate pair, which is no character; write it out.")
    return value


def _tokens(where, name, value, least):
    if not isinstance(value, list) or not value or not all(type(one) is int and one >= least for one in value):
        raise TaskFileError(f"{where}: {name!r} is {value!r:.80}; expected a list of whole numbers from {least} on.")
    return tuple(value)


def _label(where, name, value):
    if type(value) is int or (isinstance(value, str) and value.encode("utf-8", "replace").decode() == value):
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise TaskFileError(f"{where}: {name!r} is {value!r:.80}, more than 64 bits hold; write it in quotes.")
        return value
    raise TaskFileError(f"{where}: {name!r} is {value!r:.80}; expected a string or a whole number.")


def _check_together(path, lines):
    seen, kind = {}, type(lines[0].sample_id)
    for one in lines:
        where = f"{str(path)!r}, line {one.number}"
        if type(one.sample_id) is not kind:
            raise TaskFileError(
                f"{where}: id {_shown(one.sample_id)} is a {_WORDS[type(one.sample_id)]}, that of line {lines[0].number} a "
                f"{_WORDS[kind]}; expected one type in a file. Put all ids in quotes."
            )
        if one.sample_id in seen:
            raise TaskFileError(
                f"{where}: id {_shown(one.sample_id)} is that of line {seen[one.sample_id]} too; expected each id once."
            )
        seen[one.sample_id] = one.number
        if (one.cluster is None) != (lines[0].cluster is None):
            raise TaskFileError(
                f"{where} (id {_shown(one.sample_id)}) has {'no' if one.cluster is None else 'a'} 'cluster', unlike line "
                f"{lines[0].number}; expected one in every line, or in none."
            )


_WORDS = {int: "number", str: "string"}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _each_once(where, pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise TaskFileError(f"{where} gives {twice!r:.80} twice; keep one.")
    return found


def _refuse(word):
    raise ValueError(f"{word} is no number of JSON")
