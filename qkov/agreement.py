"""What several processes do together: each tells the others what it did, and an error of one is an error of all."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from . import errors
from .canonical import canonical_json
from .errors import QKOVError, RankFailedError, RanksDifferError

if TYPE_CHECKING:
    from types import TracebackType

    Result = TypeVar("Result")
    from .option_types import Link


class Agreement:
    """The others, seen from one of the processes.

    Every rank must make the same calls in the same order; each call says what it is for, and another one is refused.

    Args:
        link: How they talk; see :mod:`qkov.links`.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self.rank, self.size = link.rank, link.size

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes down and tells people."""
        return self.rank == 0

    def exchange(self, doing: str, value: Any) -> list[Any]:
        """Tell all ranks a JSON-able value; return those of all, in the order of ranks.

        Raises:
            RanksDifferError: If another rank does something else.
            RankFailedError: If another rank has ended.
        """
        if self.size == 1:
            return [value]
        said = [json.loads(one) for one in self._link.gather(canonical_json([doing, value]).encode())]
        if len({one for one, _ in said}) > 1:
            told = "; ".join(f"rank {rank}: {one}" for rank, (one, _) in enumerate(said))
            raise RanksDifferError(
                f"ranks do different things ({told}). Make the same calls in the same order on every rank."
            )
        return [one for _, one in said]

    def together(self, doing: str, call: Callable[[], Result]) -> Result:
        """Make a call on every rank and return what it returns here, once it has succeeded everywhere.

        Raises:
            QKOVError: The first rank's error among those that failed; where it was another rank's, with its number.
        """
        value = None
        with Held() as held:
            value = call()
        try:
            reports = self.exchange(doing, told(held.error))
        except QKOVError:
            if held.error is None:
                raise
            raise held.error from None
        self.raise_first(reports, held.error)
        return value  # type: ignore[return-value]  # the call succeeded here, so it is a Result

    def raise_first(self, reports: Sequence[dict[str, str] | None], error: BaseException | None) -> None:
        """Raise the first error of those that ranks have told; ``error`` is the one of this rank, or None.

        Of several, each failing rank raises its own, so that none goes unheard.
        """
        if any(reports):
            with contextlib.suppress(QKOVError):  # none leaves before all have heard of the error
                self.exchange("end with an error", None)
        if error is not None:
            raise error
        for rank, report in enumerate(reports):
            if report is not None:
                raise retold(rank, report)

    def require_same(self, doing: str, value: Any, what: str, remedy: str) -> None:
        """Refuse to go on where a JSON-able value is not the same on all ranks.

        Raises:
            RanksDifferError: If so; ``what`` names the value, ``remedy`` says what to do.
        """
        mine = hashlib.sha256(canonical_json(value).encode()).hexdigest()
        said = self.exchange(doing, mine)
        other = [rank for rank, one in enumerate(said) if one != said[0]]
        if other:
            raise RanksDifferError(f"{what} of rank {other[0]} is not that of rank 0. {remedy}")

    def share(self, doing: str, value: Any) -> Any:
        """Return rank 0's JSON-able value on every rank."""
        data = canonical_json(value).encode() if self.first else b""
        size = self.exchange(doing, len(data))[0]
        found = np.frombuffer(data, np.uint8).copy() if self.first else np.zeros(size, np.uint8)
        self.broadcast(found, 0)
        return json.loads(found.tobytes())

    def broadcast(self, array: np.ndarray, source: int) -> None:
        """Fill an array of every rank with that of one."""
        if self.size > 1:
            self._link.broadcast(array, source)

    def close(self) -> None:
        """Leave the others."""
        self._link.close()


@contextlib.contextmanager
def said_more(*sentences: Callable[[], str]) -> Iterator[None]:
    """Add to the message of a lost rank what is kept and how to go on; sentences are made when they are needed."""
    try:
        yield
    except RankFailedError as error:
        raise RankFailedError(" ".join([str(error), *(one() for one in sentences)])) from error


class Held:
    """Hold an error of the block back, so that other ranks can be told before it is raised again.

    What leaves a process at once, a second signal or an exit, is not held back: the others see the process end.
    """

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        leaving = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit) and not isinstance(error, QKOVError)
        if error is None or leaving:
            return False
        self.error = error
        return True


def told(error: BaseException | None) -> dict[str, str] | None:
    """Describe an error to other ranks, or None."""
    return None if error is None else {"kind": type(error).__name__, "said": str(error)}


def retold(rank: int, report: Mapping[str, str]) -> QKOVError:
    """Make the error of another rank again, of its class where that is one of ours."""
    kind = getattr(errors, report["kind"], None)
    if isinstance(kind, type) and issubclass(kind, QKOVError):
        return kind(f"rank {rank}: {report['said']}")
    what = ": ".join(filter(None, (report["kind"], report["said"].rstrip("."))))
    return RankFailedError(f"rank {rank} failed: {what}.")
