"""Do what each case says to a fresh collector, and write down what really happened."""

import itertools
import re
import tempfile
import time
import warnings
from pathlib import Path

import torch

import qkov

from . import stored
from .ground import Ground, contents, unchanged
from .registry import CASES

LONGEST = 600  # characters of a message that are kept


def run_case(case, make_collector=qkov.FisherCollector, reopen=None):
    """Run one case.

    Args:
        case: A ``Case`` or its name.
        make_collector: ``make_collector() -> collector`` without samples, which the case fills and then spoils.
        reopen: ``reopen(collector) -> collector`` to look at afterwards: what a new process finds on disk. Default: itself.

    Returns:
        A dictionary that can be written as JSON: case, group, situation, behaviour, expected, error and warning (class
        names or "none"), exit_status, message (as a person would read it), unchanged, status ("passed",
        "failed", "not run"), reason, seconds.
    """
    case = CASES[case] if isinstance(case, str) else case
    if reason := case.missing():
        return _row(case, status="not run", reason=reason)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not touched
        return _run(case, make_collector, reopen or (lambda collector: collector))


def run_cases(names=None):
    """Run cases one after another, default all, in memory and with samples on disk.

    Returns:
        Rows as of :func:`run_case`, those of memory, in the order of the registry; where disk fails, its failure.
    """
    return [run_both(name) for name in (CASES if names is None else names)]


def run_both(name):
    """Run a case in memory and with a store, after which a new reader must find what was there before."""
    row = run_case(name)
    if row["status"] != "passed" or CASES[name].group == stored.GROUP:  # those make stores of their own
        return row
    with tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        numbers = itertools.count()
        on_disk = run_case(
            name,
            lambda: qkov.FisherCollector(store=Path(folder) / str(next(numbers)), allow_unsealed=True),
            lambda collector: qkov.FisherCollector.open(collector.store, allow_unsealed=True),
        )
    row["seconds"] = round(row["seconds"] + on_disk["seconds"], 3)
    if on_disk["status"] == "passed":
        return row
    return {**row, "status": "failed", "reason": f"with samples on disk: {on_disk['reason']}"}


def _run(case, make_collector, reopen):
    start = time.perf_counter()
    ground = Ground(make_collector)
    before = contents(ground.collector)
    raised, warned = _act(case, ground)
    same = unchanged(before, contents(reopen(ground.collector)), adds=case.adds)
    if raised is not None and any(one.samples(task) for one in ground.made for task in one.tasks) and not case.adds:
        same = False
    told = raised if case.error or raised is not None else _first(warned, case.warning)
    message = "" if told is None else _placeless(str(told))
    reason = _objection(case, raised, told, message) or ("" if same else "what was collected before has changed")
    return _row(
        case,
        error="none" if raised is None else type(raised).__name__,
        warning=type(told).__name__ if isinstance(told, Warning) else "none",
        exit_status=getattr(raised, "exit_status", None),
        message=message if len(message) <= LONGEST else message[:LONGEST] + " ...",
        unchanged=same,
        status="failed" if reason else "passed",
        reason=reason,
        seconds=round(time.perf_counter() - start, 3),
    )


def _act(case, ground):
    """Run the action; what it raised, or None, and the warnings it gave."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            case.act(ground)
        except BaseException as error:  # whatever it is, the row tells it: a wrong class is a failure
            if isinstance(error, KeyboardInterrupt | SystemExit) and type(error) is not case.error:
                raise
            return error, warned
    return None, warned


def _placeless(message):
    """Leave out where temporary folders are, which differs from run to run."""
    return re.sub(re.escape(tempfile.gettempdir()) + r"/[^/'\s]+", "FOLDER", message)


def _first(warned, wanted):
    return next((one.message for one in warned if type(one.message) is wanted), None) if wanted else None


def _objection(case, raised, told, message):
    """Why what happened is not what the case says, or an empty string."""
    if type(raised) is not (case.error or type(None)):
        wanted = case.error.__name__ if case.error else "no error"
        return f"expected {wanted}, found {'no error' if raised is None else f'{type(raised).__name__}: {raised}'}"
    if raised is not None and raised.exit_status != case.status:
        return f"expected exit status {case.status}, found {raised.exit_status}"
    if case.warning and told is None:
        return f"expected a {case.warning.__name__}, found none"
    missing = [part for part in case.says if part not in message]
    if missing:
        return f"the message lacks {', '.join(map(repr, missing))}: {message!r}"
    if not message.replace("\n", " ").isprintable():
        return f"the message holds characters that a terminal would obey: {message!r}"
    return ""


def _row(
    case, *, status, reason, error="none", warning="none", exit_status=None, message="", unchanged=None, seconds=0.0
):
    return {
        "case": case.name,
        "group": case.group,
        "situation": case.situation,
        "behaviour": case.behaviour,
        "expected": case.error.__name__ if case.error else "none",
        "error": error,
        "warning": warning,
        "exit_status": exit_status,
        "message": message,
        "unchanged": unchanged,
        "status": status,
        "reason": reason,
        "seconds": seconds,
    }
