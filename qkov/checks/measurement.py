"""What a check returns, how far apart two arrays are, and the table of bounds with their reasons.

A check measures an error against a bound and counts the numbers it compared. It passes when the error is at most the
bound and something was compared; a NaN is an infinite error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Measurement:
    """State the error that a check found, the bound that it must keep, and how many numbers were compared.

    Attributes:
        error: The largest error, in the unit of the bound.
        bound: What it may be at most.
        compared: How many numbers.
    """

    error: float
    bound: float
    compared: int

    @property
    def passed(self) -> bool:
        """Whether the law held and was really tried."""
        return self.compared > 0 and not math.isnan(self.error) and self.error <= self.bound


@dataclass(frozen=True)
class NotRun:
    """State why a check cannot be tried on a case; it counts as not run, never as passed.

    Attributes:
        reason: Why.
    """

    reason: str


# Bounds by the precision in which the model computes:
#   exact   float64 throughout
#   mixed   float64 weights, but the library's eager attention takes its softmax in float32 (relative rounding 6e-8)
#   single  float32; sums over tokens and layers amplify its rounding of 6e-8
BOUNDS = {
    # name: (exact, mixed, single), reason
    "gradient": ((1e-11, 1e-6, 1e-5), "rounding of one backward pass, relative to the largest entry of the parameter"),
    "token sum": ((1e-6, 1e-6, 1e-5), "norms and rotary angles of the library are float32 even in a float64 model"),
    "normed twin": (
        (1e-6, 1e-6, 1e-4),
        "as score, but a group is summed behind norms of keys that the library computes in float32, not before",
    ),
    "contribution": ((2e-11, 2e-6, 2e-5), "squares double the relative error of gradients"),
    "score": (
        (1e-10, 1e-5, 1e-4),
        "ratios of squares of gradients, summed over a slice; relative to the block's largest",
    ),
    "foreign fisher": (
        (1e-10, 1e-5, 2e-3),
        "as score, but B's own Fisher is known to few digits where A's gradient is large",
    ),
    "matrix": (
        (1e-9, 1e-4, 1e-3),
        "as score, through the inverse of a matrix whose eigenvalues span some hundred times its damping",
    ),
    "drawn": (
        (0.06, 0.06, 0.06),
        "five standard errors of a mean of 8,192 draws, and a little more, in standard deviations of one draw",
    ),
    "fisher": ((1e-10, 1e-5, 1e-4), "means of squares of gradients"),
    "function": ((1e-10, 1e-4, 1e-4), "the same function of the input, summed in another order"),
    "ablated": ((1e-12, 1e-6, 1e-6), "exactly zero, or rounding noise far below the intact gradient"),
    "scaled": ((1e-12, 1e-5, 1e-5), "a factor of 2 is exact in floating point; only smallest normal numbers differ"),
    "identity": ((1e-12, 1e-12, 1e-5), "an identity in exact arithmetic, evaluated in the precision of the gradients"),
    "same": ((0.0, 0.0, 0.0), "the same bits"),
}

# Kinds whose float32 bound grows with the rounding of the model itself; see ``Case.conditioning``.
ROUNDED = (
    "gradient", "token sum", "normed twin", "contribution", "score", "foreign fisher", "matrix", "fisher", "function",
)  # fmt: skip


def bound(name: str, precision: str) -> float:
    """Return the bound of a kind of comparison for a case's precision, "exact", "mixed" or "single"."""
    return BOUNDS[name][0][("exact", "mixed", "single").index(precision)]


class Comparison:
    """Collect the largest error of many comparisons and the number of values compared."""

    def __init__(self) -> None:
        self.error, self.compared = 0.0, 0

    def near(self, found: Any, expected: Any, scale: Any = None) -> None:
        """Compare what was ``found`` with what was ``expected``: the largest deviation, relative to ``scale`` (default:
        the largest expected magnitude).
        """
        found, expected = as_array(found), as_array(expected)
        if found.shape != expected.shape:
            return self._take(math.inf, max(found.size, 1))
        if not expected.size:
            return None
        scale = float(np.max(np.abs(expected))) if scale is None else float(scale)
        deviation = float(np.max(np.abs(found - expected)))
        return self._take(deviation / scale if scale > 0 else (math.inf if deviation > 0 else 0.0), expected.size)

    def zero(self, found: Any, scale: Any) -> None:
        """Compare what was ``found`` with zero, relative to a ``scale``: what it was before something was removed."""
        found = as_array(found)
        return self.near(found, np.zeros_like(found), scale)

    def true(self, condition: bool, count: int = 1) -> None:
        """Require a ``condition``, found from ``count`` numbers; a false one is an infinite error."""
        return self._take(0.0 if condition else math.inf, count)

    def within(self, found: Any, low: Any, high: Any, slack: Any) -> None:
        """Require ``low <= found <= high``; the error is how far outside, relative to ``slack`` as the scale."""
        found = as_array(found)
        outside = np.maximum(np.maximum(low - found, found - high), 0)
        return self.near(outside, np.zeros_like(outside), slack)

    def measurement(self, limit: float) -> Measurement:
        """Close the comparison with the bound ``limit``."""
        return Measurement(self.error, limit, self.compared)

    def _take(self, error: float, count: int) -> None:
        self.error = math.inf if math.isnan(error) else max(self.error, error)
        self.compared += count


def as_array(values: Any) -> np.ndarray:
    """Return a float64 array of a tensor, array or number."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
