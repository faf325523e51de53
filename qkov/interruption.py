"""Signals that end a collection between two passes, so that no work is lost and the way to go on is said."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from .errors import CollectionInterrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether a signal asked to stop."""

    def __init__(self) -> None:
        self.name = ""

    def check(self, kept: str) -> None:
        """Stop here if a signal asked for it; ``kept`` says what is safe and how to go on.

        Raises:
            CollectionInterrupted: If so.
        """
        if self.name:
            raise CollectionInterrupted(f"interrupted by {self.name}: {kept}")


@contextlib.contextmanager
def deferred() -> Iterator[Interruption]:
    """Let SIGINT and SIGTERM wait for :meth:`Interruption.check`; a second one acts at once.

    Only the main thread receives signals; elsewhere nothing changes.
    """
    found = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, _frame: object) -> None:
        found.name = signal.Signals(number).name
        for one, handler in before.items():
            signal.signal(one, handler if handler is not None else signal.SIG_DFL)

    for number, handler in before.items():
        if handler is not None and handler != signal.SIG_IGN:  # None: set outside Python; ignored stays ignored
            signal.signal(number, note)
    try:
        yield found
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
