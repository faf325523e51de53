"""Plant the faults of the statistics one after another, and write down which of their checks noticed."""

import time

from tqdm.auto import tqdm

from .. import suite
from . import statistics_checks
from .planting import STATISTICS_FAULTS
from .run import result_of


def run_statistics_fault(fault):
    """Plant one fault, given or by its name, and run every check of the statistics; a ``FaultResult``."""
    fault = STATISTICS_FAULTS[fault] if isinstance(fault, str) else fault
    started = time.perf_counter()
    with fault.plant():
        outcomes = {name: statistics_checks.run_check(name) for name in statistics_checks.CHECKS}
    return result_of(fault, outcomes, started)


def run_statistics(faults=None, *, processes=2, progress=True):
    """Run every check of the statistics as they are, then under every fault, in fresh processes of one thread.

    Args:
        faults: Names; default all. processes: How many at a time. progress: Show a bar.

    Returns:
        Rows for ``results`` and rows for ``faults`` of ``evidence.json``.
    """
    names = list(STATISTICS_FAULTS) if faults is None else list(faults)
    results = [statistics_checks.run_check(name) for name in statistics_checks.CHECKS]
    with suite.process_pool(processes) as pool:
        rows = pool.map(run_statistics_fault, names)
        rows = list(tqdm(rows, total=len(names), desc="faults of the statistics", disable=not progress))
    return [suite.result_row(result) for result in results], [row.row() for row in rows]
