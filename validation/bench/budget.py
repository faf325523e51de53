"""The most memory that a run with a ``memory_budget`` took, over that budget.

Not measured here: ``python -m validation.memory_peaks --evidence`` runs every case in a process of its own and keeps what it
found. Its worst case counts, whether the budget was kept or the work was refused.
"""

import importlib

from .goals import Measured, NotRunError

MODULE = "validation.memory_peaks"


def measure(sizes, say=None):
    """Take over the worst case of those results.

    Raises:
        NotRunError: If there are none of the present sources.
    """
    try:
        peaks = importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        if error.name != MODULE:
            raise
        raise NotRunError(f"{MODULE}, which measures it, does not exist") from error
    found = peaks.EVIDENCE.read()
    rows = found["rows"]
    if not rows or any("other sources" in complaint for complaint in found["complaints"]):
        raise NotRunError(f"{MODULE} has no results of the present sources: {' '.join(found['complaints'])}")
    worst = max(rows, key=lambda row: row["value"])
    said = f"worst of {len(rows)} cases, each a process: {worst['data']}"
    cases = {row["data"]: row["value"] for row in rows}
    return Measured(values={"budget": worst["value"]}, conditions={"budget": said}, details={"cases": cases})
