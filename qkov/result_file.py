"""A result on disk: named arrays and a JSON description in one safetensors file, checksummed and written atomically.

Equal results give equal bytes: one metadata key (several would be written in random order) that holds canonical JSON,
and contiguous arrays. The format itself notices no flipped bit, so the description carries a SHA-256 of all else.
Nothing in such a file is executed.
"""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np

from . import durable, errors
from .canonical import canonical_json

METADATA_KEY = "qkov"


def digest(content, arrays):
    """Return the SHA-256, in hex, of a JSON-able ``content`` and of named arrays with their shapes and dtypes."""
    sha = hashlib.sha256(canonical_json(content).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")  # ascontiguousarray makes a row of a single number
        sha.update(canonical_json([name, array.dtype.str, array.shape]).encode())
        sha.update(array.reshape(-1).view(np.uint8))
    return sha.hexdigest()


def write(path, content, arrays, *, format_name, format_version):
    """Write content and arrays to ``path``, atomically: a reader, or a crash, sees the old file or the whole new one.

    Args:
        path: Where to; an existing file is replaced.
        content: JSON-able description.
        arrays: Name to numpy array.
        format_name: What kind of result this is; ``read`` asks for it.
        format_version: Version of that kind.

    Returns:
        The path.

    Raises:
        DiskError: If the system refuses; nothing has changed.
    """
    from safetensors.numpy import save

    description = {"format": format_name, "version": format_version, "content": content}
    description["sha256"] = digest(description, arrays)
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    path = Path(path)
    durable.write_file(path, [save(arrays, metadata={METADATA_KEY: canonical_json(description)})])
    return path


def read(path, *, format_name, format_version):
    """Read what ``write`` wrote.

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
            arrays = {name: file.get_tensor(name) for name in names}
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


@contextlib.contextmanager
def consistent(path, what):
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


def _description(path, text):
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
