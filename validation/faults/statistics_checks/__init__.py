"""What every function of :mod:`qkov.statistics` must return, by routes that share no code with it.

Each check takes a moment: loops in float64, closed forms, SciPy, and whole numbers that were written down once. They stand
beside the studies (:mod:`validation.statistics_evidence`), which ask whether the tests keep their level; these ask whether
the code is the formula. Each is named "statistics: ..." in the evidence.
"""

from . import estimates, foundations, slice_tests
from .registry import BOUND, CHECKS, run_check

__all__ = ["BOUND", "CHECKS", "estimates", "foundations", "run_check", "slice_tests"]
