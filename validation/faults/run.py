"""Plant faults one after another, run every check on each, and write down which checks noticed."""

import functools
import math
import time
import warnings
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass

import numpy as np
from tqdm.auto import tqdm

from qkov import checks
from qkov.geometry import BLOCKS

from .. import suite
from . import cases, statistics_checks
from .planting import FAULTS

MARGIN = 10  # a fault is caught by its check when the error is at least so many times the bound


@dataclass(frozen=True)
class FaultResult:
    """What became of one fault; the fields are those of a row of ``faults`` in ``evidence.json``.

    Attributes:
        fault, area, description, expected: As in ``Fault``; ``fault`` is its name.
        caught_by: Names of all checks that failed under it.
        ratio: Error of the expected check over its bound; ``suite.INFINITE`` for an infinite error or a bound of 0.
        status: "caught" when the expected check failed by the margin; "equivalent" when the fault has a proof that nothing
            can notice it and nothing did; else "missed", also where a proof is wrong.
        seconds: Wall time.
        proof: As in ``Fault``.
    """

    fault: str
    area: str
    description: str
    expected: str
    caught_by: list
    ratio: float | None
    status: str
    seconds: float
    proof: str = ""

    def row(self):
        """Return a dictionary that can be written as JSON."""
        return asdict(self)


def run_fault(fault, names=None):
    """Plant one fault in this process and run checks on its case.

    Args:
        fault: A ``Fault`` or its name. names: Checks to run; default all.

    Returns:
        A ``FaultResult``.

    Raises:
        ValueError: If the faulted code gives no heatmap of the right shape with finite scores: such a fault proves
            nothing about a check.
    """
    fault = FAULTS[fault] if isinstance(fault, str) else fault
    start = time.perf_counter()
    case, other, shapes = cases.build_case(fault.case), cases.build_case(fault.case), _intact_shapes(fault.case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a wrong Fisher may rightly warn; what counts is what the checks say
        with fault.plant():
            _require_plausible(fault, other, shapes)
            outcomes = {name: checks.run_check(name, case) for name in (checks.CHECKS if names is None else names)}
    return result_of(fault, outcomes, start)


def result_of(fault, outcomes, start):
    """Judge a fault by what checks said under it: ``{check: CheckResult}``."""
    caught_by = [name for name, outcome in outcomes.items() if outcome.status == "failed"]
    ratio = _ratio(outcomes[fault.expected])
    if fault.proof:
        status = "missed" if caught_by else "equivalent"
    else:
        status = "caught" if ratio is not None and ratio >= MARGIN else "missed"
    seconds = round(time.perf_counter() - start, 3)
    return FaultResult(
        fault.name, fault.area, fault.description, fault.expected, caught_by, ratio, status, seconds, fault.proof
    )  # fmt: skip


def run_unfaulted(name):
    """Run every check on a case without any fault; ``{check: CheckResult}``."""
    case = cases.build_case(name)
    return {check: checks.run_check(check, case) for check in checks.CHECKS}


def run_faults(faults=None, *, processes=2, progress=True):
    """Run all checks on every fault, in fresh processes of one thread each, and on each case without a fault.

    Args:
        faults: Names; default all. processes: How many at a time. progress: Show a bar.

    Returns:
        Rows as ``FaultResult.row()``, in the order of the names.

    Raises:
        RuntimeError: If a check fails on a case without any fault: then what it catches means nothing.
    """
    names = list(FAULTS) if faults is None else list(faults)
    used = list(dict.fromkeys(FAULTS[name].case for name in names))
    with suite.process_pool(processes) as pool:
        intact = {pool.submit(run_unfaulted, case): case for case in used}
        planted = {pool.submit(run_fault, name): name for name in names}
        every = as_completed([*intact, *planted])
        for _ in tqdm(every, total=len(intact) + len(planted), desc="faults", disable=not progress):
            pass
    for future, case in intact.items():
        failed = [str(result) for result in future.result().values() if result.status == "failed"]
        if failed:
            raise RuntimeError(f"without any fault, checks fail on the case {case!r}: {failed}")
    return [future.result().row() for future in planted]


def unexercised(rows):
    """Return the checks that no fault in these rows was caught by as expected, in the order of the registries."""
    proven = {row["expected"] for row in rows if row["status"] == "caught"}
    return [name for name in (*checks.CHECKS, *statistics_checks.CHECKS) if name not in proven]


def _ratio(outcome):
    """Error over bound; None where the check could not measure, which is no proof that it can."""
    if outcome.error is None:
        return None
    if not outcome.error:
        return 0.0
    ratio = outcome.error / outcome.bound if outcome.bound else math.inf
    return ratio if math.isfinite(ratio) else suite.INFINITE


@functools.cache
def _intact_shapes(name):
    """Shapes of a heatmap of a case, from the sizes of its model."""
    case = cases.build_case(name)
    layouts = case.config.layers
    pairs = tuple(len(batch["input_ids"]) for batch in (case.batch_a, case.batch_b))
    return {block: (*pairs, len(layouts), layouts[0].num_units(block)) for block in BLOCKS}


def _require_plausible(fault, case, shapes):
    """Refuse a fault whose result anybody would see is broken."""
    found = case.heatmap(case.collect())
    for block, shape in shapes.items():
        if found.arrays[block].shape != shape or not np.isfinite(found.arrays[block]).all():
            raise ValueError(
                f"fault {fault.name!r} gives scores of shape {found.arrays[block].shape} for block {block}, finite: "
                f"{bool(np.isfinite(found.arrays[block]).all())}; expected finite scores of shape {shape}."
            )
