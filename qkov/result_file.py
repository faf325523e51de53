"""A result on disk: named arrays and a JSON description in one safetensors file, checksummed and written atomically.

Equal results give equal bytes: one metadata key (several would be written in random order) that holds canonical JSON,
and contiguous arrays. The format itself notices no flipped bit, so the description carries a SHA-256 of all else.
Nothing in such a file is executed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import durable, errors
from .canonical import canonical_json

if TYPE_CHECKING:
    from .option_types import PathLike


METADATA_KEY = "qkov"
TYPES = {
    "U64": "<u8", "I64": "<i8", "F64": "<f8", "F32": "<f4", "U32": "<u4", "I32": "<i4", "F16": "<f2", "U16": "<u2",
    "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
"""Types that numpy and the format share, in the order in which a file holds them."""
PIECE = 2**22
"""Bytes that are read of a file at a time, or one row of the first axis if that is more."""


@dataclass(frozen=True)
class InParts:
    """An array that need not fit the memory: its numbers in C order, one part after another.

    Attributes:
        shape: Of the whole. dtype: Its numpy type.
        parts: Function that yields contiguous arrays ``[some of the first axis, ...]``, anew with every call.
    """

    shape: tuple
    dtype: np.dtype
    parts: Callable

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole, in memory."""
        parts = [part.reshape(-1) for part in self.parts()]
        whole = np.concatenate(parts) if parts else np.empty(0, self.dtype)
        return whole.reshape(self.shape).astype(dtype or self.dtype)


def digest(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray | InParts]) -> str:
    """Return the SHA-256, in hex, of a JSON-able ``content`` and of named arrays with their shapes and dtypes."""
    sha = hashlib.sha256(canonical_json(content).encode())
    for name in sorted(arrays):
        array = _in_parts(arrays[name])
        sha.update(canonical_json([name, array.dtype.str, array.shape]).encode())
        for part in array.parts():
            sha.update(part.reshape(-1).view(np.uint8))
    return sha.hexdigest()


def _in_parts(array: np.ndarray | InParts) -> InParts:
    if isinstance(array, InParts):
        return array
    array = np.asarray(array, order="C")  # ascontiguousarray makes a row of a single number
    return InParts(array.shape, array.dtype, lambda: [array])


def write(
    path: PathLike,
    content: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray | InParts],
    *,
    format_name: str,
    format_version: int,
) -> Path:
    """Write content and arrays to ``path``, atomically: a reader, or a crash, sees the old file or the whole new one.

    Args:
        path: Where to; an existing file is replaced.
        content: JSON-able description.
        arrays: Name to numpy array, or to :class:`InParts`, which is never held in memory; the bytes are the same.
        format_name: What kind of result this is; ``read`` asks for it.
        format_version: Version of that kind.

    Returns:
        The path.

    Raises:
        DiskError: If the system refuses; nothing has changed.
    """
    description = {"format": format_name, "version": format_version, "content": content}
    description["sha256"] = digest(description, arrays)
    path, metadata = Path(path), {METADATA_KEY: canonical_json(description)}
    durable.write_file(path, _file_parts(arrays, metadata))
    return path


def _file_parts(arrays: Mapping[str, np.ndarray | InParts], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file."""
    if not any(isinstance(array, InParts) for array in arrays.values()):
        from safetensors.numpy import save

        yield save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata=metadata)
        return
    # What safetensors writes: types of more bytes first, then names; all positions are multiples of eight.
    kinds, order = {np.dtype(text): kind for kind, text in TYPES.items()}, list(TYPES)
    arrays = {name: _in_parts(array) for name, array in arrays.items()}
    header: dict[str, Any]
    header, start = {"__metadata__": metadata}, 0
    for name in sorted(arrays, key=lambda name: (order.index(kinds[arrays[name].dtype]), name)):
        array = arrays[name]
        stop = start + array.dtype.itemsize * math.prod(map(int, array.shape))
        kind, shape = kinds[array.dtype], list(map(int, array.shape))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in list(header)[1:]:
        for part in arrays[name].parts():  # type: ignore[union-attr]  # has parts
            if part.size:
                yield memoryview(part.reshape(-1)).cast("B")


def read(
    path: PathLike, *, format_name: str, format_version: int, in_parts: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what ``write`` wrote.

    Args:
        path: The file.
        format_name, format_version: What it must hold.
        in_parts: Arrays whose names begin so are given as :class:`InParts`, which reads them from the file when asked.

    Returns:
        ``(content, arrays)``.

    Raises:
        ResultFileError: If the file is of another kind or version, or damaged.
        OSError: If it cannot be opened.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    with open(path, "rb"):  # a missing file is the system's error to report, not a damaged result
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            later = [name for name in names if in_parts and name.startswith(in_parts)]
            arrays = {name: file.get_tensor(name) for name in names if name not in later}
        arrays |= _read_later(path, later)
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:  # the last two for types that numpy lacks
        raise errors.ResultFileError(
            f"{path} is not a whole safetensors file ({error}); save the result again."
        ) from error
    if set(metadata) != {METADATA_KEY}:
        raise errors.ResultFileError(
            f"{path} was not written by this package: its metadata keys are {sorted(metadata)}, expected"
            f" {[METADATA_KEY]}."
        )
    description = _description(path, metadata[METADATA_KEY])
    found = description.get("format"), description.get("version")
    if found != (format_name, format_version):
        raise errors.ResultFileError(
            f"{path} holds format {found[0]!r}, version {found[1]!r}; expected {format_name!r}, version"
            f" {format_version}. Load it with the version of qkov that wrote it."
        )
    if description.pop("sha256", None) != digest(description, arrays) or "content" not in description:
        raise errors.ResultFileError(f"{path} is damaged: its checksum does not match. Save the result again.")
    return description["content"], arrays


def _read_later(path: PathLike, names: Sequence[str]) -> dict[str, InParts]:
    """Arrays of a file that safetensors has found whole, not read yet."""
    if not names:
        return {}
    length = int.from_bytes(durable.read_range(path, 0, 8), "little")
    header, found = json.loads(durable.read_range(path, 8, length)), {}
    for name in names:
        if (kind := header[name]["dtype"]) not in TYPES:
            raise ValueError(f"{name} is of type {kind}; expected one of {', '.join(TYPES)}")
        start, stop = (8 + length + offset for offset in header[name]["data_offsets"])
        shape, dtype = tuple(header[name]["shape"]), np.dtype(TYPES[kind])
        found[name] = InParts(shape, dtype, functools.partial(_pieces, path, start, stop, shape, dtype))
    return found


def _pieces(path: PathLike, start: int, stop: int, shape: Sequence[int], dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
    row = max(1, dtype.itemsize * math.prod(shape[1:]))
    step = row * max(1, PIECE // row)
    for place in range(start, stop, step):
        piece = durable.read_range(path, place, min(step, stop - place))
        yield np.frombuffer(piece, dtype).reshape(-1, *shape[1:])


@contextlib.contextmanager
def consistent(path: PathLike, what: str) -> Iterator[None]:
    """Turn what goes wrong while a result is put together from a file that is whole into one error.

    A checksum says that a file is as it was written, not who wrote it: content may be missing, or of any type and size.

    Args:
        path: Of the file. what: For the message, as in "is not a consistent heatmap".

    Raises:
        ResultFileError: For every error of ours and of wrong types, keys and values inside the block.
    """
    try:
        yield
    except (errors.QKOVError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise errors.ResultFileError(f"{path} {what}: {error!r}") from error


def _description(path: PathLike, text: str) -> dict[str, Any]:
    try:
        description = json.loads(text)
        # Text that parses to the same value but is written otherwise is not ours either: a flipped bit can do that.
        canonical = isinstance(description, dict) and canonical_json(description) == text
    except (ValueError, RecursionError) as error:
        raise errors.ResultFileError(
            f"The description in {path} is not JSON ({error}); the file is damaged."
        ) from error
    if not canonical:
        raise errors.ResultFileError(f"The description in {path} is not written as this package writes it; damaged.")
    return description
