"""What a harness found, as numbers that add up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

KINDS = ("lost", "wrong", "silent", "untold")
"""Acknowledged samples that were lost; other data or files than there should be; damage that reading did not notice; errors
other than ours, or of the wrong kind."""

SHOWN = 5


@dataclass
class Outcome:
    """What a harness found.

    Attributes:
        harness: Its name. points: How often it tried.
        lost, wrong, silent, untold: See :data:`KINDS`.
        examples: The first few in words.
        not_run: Why it could not run, or an empty string.
        seconds: Wall time.
        stop: End at the first finding: enough to know that a fault is noticed.
    """

    harness: str
    points: int = 0
    lost: int = 0
    wrong: int = 0
    silent: int = 0
    untold: int = 0
    examples: list[str] = field(default_factory=list)
    not_run: str = ""
    seconds: float = 0.0
    stop: bool = False
    started: float = field(default_factory=time.perf_counter, repr=False)

    def add(self, point: str, findings: list[tuple[str, str]]) -> bool:
        """Count one trial; True where the harness should end."""
        self.points += 1
        self.seconds = time.perf_counter() - self.started
        for kind, what in findings:
            setattr(self, kind, getattr(self, kind) + 1)
            if len(self.examples) < SHOWN:
                self.examples.append(f"{kind}: {point}: {what}")
        return self.stop and not self.passed

    @property
    def found(self) -> int:
        """How many findings of any kind."""
        return sum(getattr(self, kind) for kind in KINDS)

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return self.found == 0

    def __str__(self) -> str:
        counts = ", ".join(f"{getattr(self, kind)} {kind}" for kind in KINDS)
        said = f"{self.harness}: {self.points:,} points, {counts}, {self.seconds:.1f} s"
        return "\n  ".join([said + (f"; not run: {self.not_run}" if self.not_run else ""), *self.examples])
