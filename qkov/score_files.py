"""Pair scores in files instead of memory: one ``.npy`` file per block, slice after slice, shown through a memory map.

A file is a plain numpy array, float64 ``[layers, units, n_a, n_b]``, so that a slice is one contiguous piece of it; it is
shown as ``[n_a, n_b, layers, units]``, as everywhere. Everything that goes through all scores reads and writes the file
piece by piece and leaves the map alone, whose pages count as memory of the process once they were touched. Zeros have no
sign and there is one NaN of the many bit patterns, as in every result.
"""

from __future__ import annotations

import io
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import durable, errors, resources

if TYPE_CHECKING:
    from .option_types import PathLike


__all__ = ["MappedScores", "ScoreFiles", "require_disk"]

STORED = np.dtype("<f8")
PIECE = 2**19
"""Numbers that are copied at a time, 4 MiB."""


@dataclass(frozen=True, eq=False)
class MappedScores:
    """The scores of one block in a file.

    Attributes:
        path: The file; changing it changes the scores.
        shape: ``(n_a, n_b, layers, units)``.
        finite, missing: Whether a slice holds finite numbers only, and whether it holds NaN only, bool ``[layers, units]``.
    """

    path: Path
    shape: tuple
    finite: np.ndarray
    missing: np.ndarray

    @cached_property
    def view(self) -> np.ndarray:
        """Read-only array ``[n_a, n_b, layers, units]`` on a map of the file; nothing is copied."""
        with open(self.path, "rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        stored = _stored_shape(self.shape)
        return np.ndarray(stored, STORED, buffer=mapped, offset=len(_header(stored))).transpose(2, 3, 0, 1)

    def slice(self, layer: int, unit: int) -> np.ndarray:
        """Copy the scores of a slice, ``[n_a, n_b]``."""
        found = np.empty(self.shape[:2], STORED)
        with open(self.path, "rb", buffering=0) as stream:
            self._read(stream, layer, unit, 0, found)
        return found

    def parts(self) -> Iterator[np.ndarray]:
        """Copy all scores in the order of ``[n_a, n_b, layers, units]``, some samples of A at a time."""
        num_a, *others = self.shape
        step = max(1, PIECE // max(1, _count(others)))
        with open(self.path, "rb", buffering=0) as stream:
            for start in range(0, num_a, step):
                part = np.empty(_stored_shape((min(step, num_a - start), *others)), STORED)
                for layer, unit in np.ndindex(part.shape[:2]):
                    self._read(stream, layer, unit, start, part[layer, unit])
                yield np.ascontiguousarray(part.transpose(2, 3, 0, 1))

    def _read(self, stream: Any, layer: int, unit: int, start: int, found: np.ndarray) -> None:
        """Fill ``found`` with the rows of a slice from ``start`` on."""
        if not found.size:
            return
        stream.seek(_place(self.shape, layer, unit, start))
        left = memoryview(found).cast("B")  # type: ignore[arg-type]  # numpy arrays have the buffer protocol
        while left:
            if not (count := stream.readinto(left)):
                raise errors.ResultFileError(f"{self.path} ends before its scores do; it was cut. Score again.")
            left = left[count:]


class ScoreFiles:
    """Writes the files of a folder of its own, see the module; :meth:`finish` gives them their names.

    Args:
        folder: New or empty. shapes: Block to ``(n_a, n_b, layers, units)``.

    Raises:
        OptionError: If there is something in the folder.
        DiskError: If the system refuses, here and in every method.
    """

    def __init__(self, folder: PathLike, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.folder, self.shapes = new_folder(folder), shapes
        self._finite = {block: np.ones(shape[2:], bool) for block, shape in shapes.items()}
        self._missing = {block: np.ones(shape[2:], bool) for block, shape in shapes.items()}
        self._written = {block: np.zeros(shape[2:], bool) for block, shape in shapes.items()}
        self._parts = {}
        try:
            for block, shape in shapes.items():
                header = _header(_stored_shape(shape))
                size = len(header) + STORED.itemsize * _count(shape)
                self._parts[block] = durable.PartFile(self.folder / f"{block}.npy", size)
                self._parts[block].write_at(0, header)
        except BaseException:
            self.discard()
            raise

    def put(self, block: str, layer: int, unit: int, scores: np.ndarray) -> None:
        """Write the scores ``[n_a, n_b]`` of a slice."""
        step = max(1, PIECE // max(1, self.shapes[block][1]))
        for start in range(0, len(scores), step):
            self._write(block, layer, unit, start, scores[start : start + step])
        self._written[block][layer, unit] = True

    def put_rows(self, block: str, start: int, rows: np.ndarray) -> None:
        """Write the scores ``[some of n_a, n_b, layers, units]`` of samples of A from a place on, in all slices."""
        for layer, unit in np.ndindex(self.shapes[block][2:]):
            self._write(block, layer, unit, start, rows[:, :, layer, unit])
        self._written[block][:] = True

    def _write(self, block: str, layer: int, unit: int, start: int, scores: np.ndarray) -> None:
        scores = np.add(scores, 0.0, dtype=np.float64, order="C")  # -0.0 becomes 0.0
        absent = np.isnan(scores)
        scores[absent] = np.nan
        self._finite[block][layer, unit] &= bool(np.isfinite(scores).all())
        self._missing[block][layer, unit] &= bool(absent.all())
        if scores.size:
            place = _place(self.shapes[block], layer, unit, start)
            self._parts[block].write_at(place, memoryview(scores.astype(STORED, copy=False)).cast("B"))

    def finish(self) -> dict[str, MappedScores]:
        """Write NaN where nothing was put, and name the files; returns ``{block: MappedScores}``."""
        found = {}
        for block, shape in self.shapes.items():
            step = max(1, PIECE // max(1, shape[1]))
            for layer, unit in np.argwhere(~self._written[block]).tolist():
                for start in range(0, shape[0], step):
                    rows = min(step, shape[0] - start)
                    self._write(block, layer, unit, start, np.full((rows, shape[1]), np.nan))
            self._parts[block].finish()
            found[block] = MappedScores(self.folder / f"{block}.npy", shape, self._finite[block], self._missing[block])
        return found

    def discard(self) -> None:
        """Remove what was written."""
        for part in self._parts.values():
            part.discard()
        durable.remove(part.path for part in self._parts.values())


def require_disk(folder: Path, count: int) -> None:
    """Refuse scores that the disk cannot hold.

    Args:
        folder: Exists, on that disk. count: How many scores, an int of any size.

    Raises:
        DiskError: With what is needed and what is free.
    """
    resources.require_disk(
        folder,
        STORED.itemsize * count,
        f"a heatmap of {count:,} scores",
        remedy="score fewer samples with max_samples_per_task, fewer layers or heads, or reduce the scores while they are "
        "made (compute_summary).",
    )


def new_folder(folder: PathLike) -> Path:
    """Make a folder, or take an empty one.

    Raises:
        OptionError: If there is something in it: a result of another run may still be read from its files.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise errors.OptionError(
            f"{str(folder)!r} is no folder, or there is something in it; scores are kept in a new or empty folder, because a "
            "result may still be read from the files of another. Choose another name, or remove it."
        )
    durable.make_folder(folder.resolve())
    return folder.resolve()


def _header(stored: Sequence[int]) -> bytes:
    """How a ``.npy`` file of this shape begins; plain numbers, nothing that is ever executed."""
    stream = io.BytesIO()
    described = {"descr": STORED.str, "fortran_order": False, "shape": tuple(map(int, stored))}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


def _place(shape: Sequence[int], layer: int, unit: int, row: int) -> int:
    """Where a row of a slice begins in its file."""
    num_a, num_b, _, units = map(int, shape)
    return len(_header(_stored_shape(shape))) + STORED.itemsize * num_b * (num_a * (layer * units + unit) + row)


def _stored_shape(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[2:], *shape[:2])


def _count(shape: Sequence[int]) -> int:
    return math.prod(map(int, shape))  # in Python's own integers
