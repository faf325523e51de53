"""How processes that compute one thing together talk: bytes that all of them get, and arrays that one of them gives.

A link has ``rank``, ``size``, ``gather(data) -> [data of rank 0, ...]``, ``broadcast(array, source)``, which fills the
array in place, and ``close()``. Only bytes and plain numbers travel; nothing is unpickled.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import distributed

from .errors import RankFailedError

PIECE = 2**24  # numbers that one message carries at most


class Alone:
    """The link of a process that has no others."""

    rank, size = 0, 1

    def gather(self, data: bytes) -> list[bytes]:
        """Return what everybody said."""
        return [data]

    def broadcast(self, array: np.ndarray, source: int) -> None:
        """Leave the array as it is."""

    def close(self) -> None:
        """There is nothing to close."""


class Gloo:
    """A link over a gloo group of ``torch.distributed``, whatever backend the program uses besides.

    Args:
        group: The group; it has to be of gloo, as messages are in the memory of the CPU.
    """

    def __init__(self, group: distributed.ProcessGroup | None) -> None:
        self._group = group
        self.rank, self.size = distributed.get_rank(group), distributed.get_world_size(group)

    def gather(self, data: bytes) -> list[bytes]:
        """Return what everybody said, in the order of ranks."""
        sizes = self._gathered(torch.tensor([len(data)]))
        most = max(int(one) for one in sizes)
        padded = torch.zeros(max(1, most), dtype=torch.uint8)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else padded[:0]
        parts = self._gathered(padded)
        return [part[: int(size)].numpy().tobytes() for part, size in zip(parts, sizes, strict=True)]

    def broadcast(self, array: np.ndarray, source: int) -> None:
        """Fill an array of every rank with that of one."""
        whole = np.ascontiguousarray(array)
        flat = torch.from_numpy(whole.reshape(-1))
        for first in range(0, len(flat), PIECE):
            self._calling(distributed.broadcast, flat[first : first + PIECE], group=self._group, group_src=source)
        if whole is not array and self.rank != source:
            array[...] = whole

    def close(self) -> None:
        """End the group here, so that ranks that wait for this one hear of it."""
        if self._group is not None:
            group, self._group = self._group, None
            distributed.destroy_process_group(group)

    def _gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        self._calling(distributed.all_gather, found, tensor, group=self._group)
        return found

    def _calling(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        if self._group is None:
            raise RankFailedError("the group of ranks has ended, after an earlier failure. Start the program again.")
        try:
            call(*arguments, **options)
        except RuntimeError as error:  # what torch raises when a peer is gone or silent
            self.close()
            raise RankFailedError(
                f"another rank has ended, or was not heard of in time ({_first_line(error)})."
            ) from error


class Threads:
    """Links between threads of one process, to try out what ranks do; see :meth:`make`."""

    def __init__(self, rank: int, board: _Board) -> None:
        self.rank, self.size, self._board, self._number = rank, board.size, board, 0

    @classmethod
    def make(cls, size: int, timeout: float = 60) -> list[Threads]:
        """Return a link for each of ``size`` threads."""
        board = _Board(size, timeout)
        return [cls(rank, board) for rank in range(size)]

    def gather(self, data: Any) -> list[Any]:
        """Return what everybody said, in the order of ranks."""
        self._number += 1
        return self._board.swap(self._number, self.rank, data)

    def broadcast(self, array: np.ndarray, source: int) -> None:
        """Fill an array of every rank with that of one."""
        array[...] = self.gather(np.array(array))[source]

    def close(self) -> None:
        """Let the others know that this one is gone."""
        self._board.leave(self.rank)


class _Board:
    """What threads have said, message by message; those of the last two are kept."""

    _said: dict[int, dict[int, Any]]
    _gone: set[int]

    def __init__(self, size: int, timeout: float) -> None:
        self.size, self._timeout = size, timeout
        self._said, self._gone, self._change = {}, set(), threading.Condition()

    def swap(self, number: int, rank: int, value: Any) -> list[Any]:
        with self._change:
            said = self._said.setdefault(number, {})
            said[rank] = value
            self._said.pop(number - 2, None)
            self._change.notify_all()
            self._change.wait_for(lambda: len(said) == self.size or self._gone - said.keys(), self._timeout)
            if len(said) < self.size:
                raise RankFailedError("another rank has ended, or was not heard of in time.")
            return [said[one] for one in range(self.size)]

    def leave(self, rank: int) -> None:
        with self._change:
            self._gone.add(rank)
            self._change.notify_all()


def _first_line(error: RuntimeError) -> str:
    """What happened, without the place in the source and the advice of gloo."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^]]*\.cc:\d+\] ", "", line).split(". This is typically")[0]
