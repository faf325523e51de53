"""A clock that only moves when it is told to, for tests of what is made of times."""

import types

from validation.bench import clock


class SlowClock:
    """Process time that the tests decide. ``spend`` moves it; the square product takes a second for 1e9 operations."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(clock, "time", types.SimpleNamespace(process_time=lambda: self.now))
        monkeypatch.setattr(
            clock.Square, "timed", lambda square: clock.Timed(lambda: self.spend(square.operations / 1e9))
        )

    def spend(self, seconds):
        """Let time pass."""
        self.now += seconds
