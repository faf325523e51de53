"""How a fault of the statistics is registered."""

import dataclasses
import functools

from ..planting import STATISTICS_FAULTS, fault


def statistics(target, *, expected):
    """Register a fault of the statistics; ``expected`` without the "statistics: " of its check."""
    return fault(
        f"statistics.{target}", area="statistics", expected=f"statistics: {expected}", case="statistics",
        registry=STATISTICS_FAULTS,
    )  # fmt: skip


def replacing(**changes):
    """Return a wrong function that changes fields of a right result, each by ``change(result)``."""

    def wrong(original):
        @functools.wraps(original)
        def function(*arguments, **options):
            found = original(*arguments, **options)
            return dataclasses.replace(found, **{name: change(found) for name, change in changes.items()})

        return function

    return wrong
