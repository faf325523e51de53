"""Wrong implementations of distinct mechanism, each planted into the running package, each caught by a named check.

A check that has never failed proves little. Every fault here yields results of the right shape and finite values, as the
public bugs of this kind do (O sliced by rows, ``h % H_kv``, reduce-then-square); nothing gives it away but a law.

Example:
    >>> from validation import faults
    >>> result = faults.run_fault("kv_head_by_remainder", ["relabelling"])
    >>> result.status, result.caught_by
    ('caught', ['relabelling'])
"""

from . import (
    collecting,
    curvature,
    cutting,
    fishers,
    formulas,
    loss,
    predicting,
    pruned,
    redundancy,
    results,
    statistics_checks,
    statistics_faults,
    stored,
)
from .planting import FAULTS, STATISTICS_FAULTS, Fault, planted
from .run import MARGIN, FaultResult, run_fault, run_faults, run_unfaulted, unexercised
from .statistics_run import run_statistics, run_statistics_fault

__all__ = [
    "FAULTS",
    "MARGIN",
    "STATISTICS_FAULTS",
    "Fault",
    "FaultResult",
    "collecting",
    "curvature",
    "cutting",
    "fishers",
    "formulas",
    "loss",
    "planted",
    "predicting",
    "pruned",
    "redundancy",
    "results",
    "run_fault",
    "run_faults",
    "run_statistics",
    "run_statistics_fault",
    "run_unfaulted",
    "statistics_checks",
    "statistics_faults",
    "stored",
    "unexercised",
]
