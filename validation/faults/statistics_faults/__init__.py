"""Faults of the statistics: what is permuted, what counts, how errors are made, what is fitted again."""

from . import estimates, foundations, slice_tests

__all__ = ["estimates", "foundations", "slice_tests"]
