"""Bad input, faults and odd situations, each done to a small collector: what comes of it, and that nothing else changes.

Every error is asserted by its exact class, its exit status, and what its message says: where it happened and what to do.
Where no error is right, the result is compared with an independent one.

Example:
    >>> from validation import bad_input
    >>> row = bad_input.run_case("nan_gradient")
    >>> row["status"], row["error"], row["exit_status"], row["unchanged"]
    ('passed', 'NonFiniteError', 3, True)
"""

from . import attention, requests, results, running, runs, samples, stored, values
from .ground import Ground, contents
from .registry import CASES, Case, case
from .run import run_both, run_case, run_cases

__all__ = [
    "CASES",
    "Case",
    "Ground",
    "attention",
    "case",
    "contents",
    "requests",
    "results",
    "run_both",
    "run_case",
    "run_cases",
    "running",
    "runs",
    "samples",
    "stored",
    "values",
]
