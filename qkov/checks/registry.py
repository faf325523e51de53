"""The list of checks, and running one of them on a case."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .measurement import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable

    from .case import Case
    from .measurement import NotRun

    Law: TypeAlias = Callable[[Case], Measurement | NotRun]


CHECKS: dict[str, Law] = {}  # name without "check_" -> function; filled by the modules of laws, in their order


def check(function: Law) -> Law:
    """Register ``check_<law>(case) -> Measurement or NotRun``."""
    CHECKS[function.__name__.removeprefix("check_")] = function
    return function


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check on one case.

    Attributes:
        check: Name of the law.
        case: Name of the case.
        status: "passed", "failed" or "not run".
        error: Measured, or None.
        bound: What it must keep, or None.
        compared: Numbers compared.
        seconds: Wall time.
        reason: Why it failed or did not run; empty when it passed.
    """

    check: str
    case: str
    status: str
    error: float | None
    bound: float | None
    compared: int
    seconds: float
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the law was tried and held."""
        return self.status == "passed"

    def __str__(self) -> str:
        numbers = (
            "" if self.error is None else f" error {self.error:.1e} bound {self.bound:.0e} ({self.compared} compared)"
        )
        return f"{self.status:8s}{self.check}{numbers}{': ' + self.reason if self.reason else ''}"


def run_check(name: str, case: Case) -> CheckResult:
    """Run one check; an exception inside is a failure of the law, reported with its message.

    Args:
        name: From ``CHECKS``.
        case: The :class:`Case` to run it on.

    Returns:
        A :class:`CheckResult`.
    """
    start = time.perf_counter()
    try:
        outcome = CHECKS[name](case)
    except Exception as error:  # noqa: BLE001  # told as failed with its message, whatever broke; nothing is hidden
        seconds = time.perf_counter() - start
        return CheckResult(name, case.name, "failed", None, None, 0, seconds, f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - start
    if not isinstance(outcome, Measurement):
        return CheckResult(name, case.name, "not run", None, None, 0, seconds, outcome.reason)
    reason = (
        "" if outcome.passed else ("nothing was compared" if not outcome.compared else "the error exceeds the bound")
    )
    status = "passed" if outcome.passed else "failed"
    return CheckResult(name, case.name, status, outcome.error, outcome.bound, outcome.compared, seconds, reason)
