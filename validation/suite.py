"""Run every check on every model, in a few processes of one thread each, and gather what was measured as rows.

A model is built in the process that measures it. Rows are plain dictionaries, as written to ``evidence.json``: a result
holds check, model, status, error, bound, compared, seconds and reason. JSON has no infinity, so an infinite error is
written as ``INFINITE``; it exceeds every bound all the same.
"""

import math
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch
from tqdm.auto import tqdm

from qkov import checks, reproducibility

from . import models, offline

INFINITE = 1e300


def run_suite(names, *, jobs=2, progress=True, extra=()):
    """Measure every law on the named models.

    Args:
        names: Keys of ``models.CASES``. jobs: Processes at a time. progress: Show a bar.
        extra: ``(name, device, hub_options)`` of causal language models to load with transformers, measured after the others.

    Returns:
        ``(results, model_rows, not_run)``, lists of dictionaries in the order of the names.
    """
    absent = {name: reason for name in names if (reason := models.CASES[name].missing())}
    not_run = [{"what": f"model {name}", "reason": reason} for name, reason in absent.items()]
    # The largest models first, so that no process is left alone with one of them at the end.
    work = [(name, None) for name in names if name not in absent][::-1]
    found = {}
    with process_pool(jobs) as pool:
        futures = {pool.submit(measure_case, name): name for name, _ in work}
        futures |= {pool.submit(measure_loaded, name, device, **given): name for name, device, given in extra}
        for future in tqdm(as_completed(futures), total=len(futures), desc="models", disable=not progress):
            found[futures[future]] = future.result()
    order = [name for name in (*names, *(name for name, *_ in extra)) if name in found]
    return [row for name in order for row in found[name][1]], [found[name][0] for name in order], not_run


def process_pool(jobs, **options):
    """A pool of fresh processes with one thread each, whose sockets are blocked if those of this process are."""
    return ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=start_worker, initargs=(offline.is_blocked(),), **options
    )


def start_worker(blocked):
    """Set up a process of the pool."""
    torch.set_num_threads(1)
    if blocked:
        offline.block_sockets()


def measure_case(name):
    """Build one model of ``models.CASES`` and measure every law on it; ``(model row, result rows)``."""
    one = models.CASES[name]
    model, batch_a, batch_b, loss_fn = one.build()
    case = checks.Case(name, model, batch_a, batch_b, loss_fn, one.twin)
    return model_row(case, one.kind, one.description), measure(case)


def measure_loaded(name, device, **hub_options):
    """Load a causal language model by name or folder and measure every law on it."""
    model, batch_a, batch_b = models.load_causal_lm(name, device, **hub_options)
    case = checks.Case(models.shown_name(name), model, batch_a, batch_b)
    revision = f", revision {hub_options['revision']}" if hub_options.get("revision") else ""
    return model_row(case, "given", f"{type(model).__name__} given by --model, on {device}{revision}"), measure(case)


def measure(case):
    """Run every check on a case; rows of results."""
    return [result_row(checks.run_check(name, case)) for name in checks.CHECKS]


def result_row(result):
    """Turn a ``CheckResult`` into a row of the evidence."""
    return {
        "check": result.check,
        "model": result.case,
        "status": result.status,
        "error": finite(result.error),
        "bound": result.bound,
        "compared": result.compared,
        "seconds": round(result.seconds, 3),
        "reason": result.reason,
    }


def finite(error):
    """Return an error as JSON can hold it."""
    return None if error is None else (error if math.isfinite(error) else INFINITE)


def model_row(case, kind, description):
    """Describe a model for the evidence."""
    return {
        "name": case.name,
        "kind": kind,
        "parameters": sum(parameter.numel() for parameter in case.model.parameters()),
        "description": description,
        "fingerprint": reproducibility.model_fingerprint(case.model),
        "notes": f"computes in {case.precision} precision",
    }
