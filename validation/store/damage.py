"""What can happen to the bytes of a store afterwards: flipped bits, lost ends, zeros, lost files.

Each case knows which samples are untouched by it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from . import workload
from .workload import Acknowledged

Change = Callable[[bytes], bytes | None]


@dataclass(frozen=True)
class Damage:
    """One change of one file.

    Attributes:
        name: In words. state: Key of :func:`states`. file: Which file. change: Its bytes afterwards; None removes it.
    """

    name: str
    state: str
    file: str
    change: Change

    def files(self) -> dict[str, bytes]:
        """All files of the store with the damage done."""
        files = dict(states()[self.state])
        changed = self.change(files[self.file])
        del files[self.file]
        return files if changed is None else files | {self.file: changed}

    @property
    def sound(self) -> Acknowledged:
        """Samples that the damage does not touch."""
        return {sample for sample, file in places().items() if file != self.file}


@functools.cache
def states() -> dict[str, dict[str, bytes]]:
    """Files of a store whose collection has ended, and of one whose has not."""
    sealed = workload.reference()[0]
    return {"sealed": sealed, "unsealed": {name: data for name, data in sealed.items() if name != "seal.json"}}


@functools.cache
def places() -> dict[tuple[str, Any], str]:
    """The file of each sample."""
    with workload.scratch() as folder:
        workload.restore(folder / "store", states()["sealed"])
        found = workload.store_contents.read(folder / "store")
    return {(task, entry.sample_id): f"shards/{entry.file}" for task, entry in found.entries}


def flip(bit: int) -> Change:
    """Flip one bit."""
    return lambda data: data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def truncate(size: int) -> Change:
    """Keep the first bytes."""
    return lambda data: data[:size]


def zero(start: int, stop: int) -> Change:
    """Put zeros in place of a range."""
    return lambda data: data[:start] + bytes(min(stop, len(data)) - start) + data[stop:]


def remove(data: bytes) -> None:
    """Remove the file."""


def flips(count: int, seed: int = 0) -> Iterator[Damage]:
    """Random bits, every file of both states in turn."""
    draw = random.Random(seed)
    for state, file, data in _rounds(count):
        bit = draw.randrange(8 * len(data))
        yield Damage(f"{state} {file}, bit {bit}", state, file, flip(bit))


def truncations(count: int, seed: int = 1) -> Iterator[Damage]:
    """Files cut short: at ends of lines, at nothing, at random."""
    draw = random.Random(seed)
    for number, (state, file, data) in enumerate(_rounds(count)):
        ends = [place + 1 for place, byte in enumerate(data[:-1]) if byte == 10] if file == "journal" else [0]
        size = draw.choice(ends) if number % 2 else draw.randrange(len(data))
        yield Damage(f"{state} {file}, cut to {size} bytes", state, file, truncate(size))


def zeroings(count: int, seed: int = 2) -> Iterator[Damage]:
    """Ends and ranges of files replaced by zeros."""
    draw = random.Random(seed)
    for number, (state, file, data) in enumerate(_rounds(count)):
        start = draw.randrange(len(data))
        stop = len(data) if number % 2 else draw.randrange(start, len(data)) + 1
        yield Damage(f"{state} {file}, zeros from {start} to {stop}", state, file, zero(start, stop))


def removals() -> Iterator[Damage]:
    """Each file of both states gone."""
    for state, files in states().items():
        for file in files:
            yield Damage(f"{state} {file}, removed", state, file, remove)


def _rounds(count: int) -> Iterator[tuple[str, str, bytes]]:
    every = [(state, file, data) for state, files in states().items() for file, data in files.items()]
    for number in range(count):
        yield every[number % len(every)]


def _middle(file: str, state: str = "sealed") -> Damage:
    return Damage(f"{state} {file}, flipped", state, file, lambda data: flip(4 * len(data))(data))


@functools.cache
def cases() -> tuple[Damage, ...]:
    """What repairs are interrupted in: each file flipped in the middle, of shards the second and the last."""
    shards = sorted(places().values())
    chosen = (("journal", "sealed"), (shards[1], "sealed"), ("store.json", "sealed"), ("seal.json", "sealed"),
              ("journal", "unsealed"), (shards[-1], "unsealed"))  # fmt: skip
    return tuple(_middle(file, state) for file, state in chosen)
