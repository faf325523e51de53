"""The most memory that a run with a ``memory_budget`` took, over that budget.

Not measured here: ``python -m validation.memory_peaks`` runs every case in a process of its own and commits what it found.
"""

import importlib

from .goals import Measured, NotRunError

MODULE = "validation.memory_peaks"


def measure(sizes, say=None):
    """Take over the worst case of those results.

    Raises:
        NotRunError: If there are none.
    """
    try:
        peaks = importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        if error.name != MODULE:
            raise
        raise NotRunError(f"{MODULE}, which measures it, does not exist") from error
    rows = peaks.budget_rows()
    if not rows:
        raise NotRunError(f"{MODULE} has no committed results of the present sources")
    worst = max(rows, key=lambda row: row["peak"] / row["budget"])
    said = f"worst of {len(rows)} cases: {worst['case']}"
    return Measured(
        values={"budget": worst["peak"] / worst["budget"]}, conditions={"budget": said}, details={"cases": rows}
    )
