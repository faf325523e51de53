"""`conftest.py` of the folder that mutants are judged in; the driver copies it there.

Every process that judges a mutant begins as a copy of one that has imported this file: what the sources import inside of
functions is here once, instead of seconds for every mutant.
"""

import gc
import importlib
import json
import os
import sys
import threading
import warnings
from pathlib import Path

import tqdm

for name in ("scipy.sparse.csgraph", "scipy.stats", "statsmodels.stats.multitest"):
    importlib.import_module(name)

BETWEEN = "trampoline.py"  # file of mutmut that stands between the caller of a function and the function
DURATIONS = Path("mutmut-stats.json")  # of a run without any mutant; written in the folder that pytest runs in
# pytest imports this file anew in every process that judges a mutant: what Python's own function is must not be lost.
_warn = getattr(warnings.warn, "original", warnings.warn)


def pytest_configure():
    """Put :func:`warn` in the place of Python's, and give bars a lock of their own, in the processes of mutants only.

    The lock of tqdm is shared by all processes: one that ended while it wrote would hold up every later one.
    """
    warn.original = _warn
    warnings.warn = warn
    tqdm.tqdm.set_lock(threading.RLock())


def pytest_collection_finish(session):
    """Make what test modules share, in the process that the others begin as; then leave all of that to itself.

    A module names what it shares in a function ``before_mutants``; none of that may come from the mutated source. pytest
    collects garbage at its end, a third of a second among torch's objects: they are frozen.
    """
    for module in {item.module for item in session.items}:
        getattr(module, "before_mutants", int)()
    gc.freeze()


def pytest_runtest_setup():
    """Reach the control before every test, so that its mutant meets all of them; see :mod:`validation.mutants`."""
    importlib.import_module(os.environ["QKOV_MUTATED_MODULE"])._control_of_mutants()


def pytest_collection_modifyitems(items):
    """Run the module's own tests first, the quick ones before the slow: the first that fails is the last that runs."""
    if DURATIONS.exists():
        seconds = json.loads(DURATIONS.read_text(encoding="utf-8"))["duration_by_test"]
        own = os.environ["QKOV_OWN_TESTS"]
        items.sort(key=lambda item: (not item.nodeid.startswith(own), seconds.get(item.nodeid, 0.0)))


def warn(message, category=None, stacklevel=1, source=None):
    """Warn as if nothing stood between caller and function: frames of mutmut do not count in ``stacklevel``."""
    level, left, frame = 1, stacklevel, sys._getframe(1)
    while frame is not None and left > 0:
        left -= not frame.f_code.co_filename.endswith(BETWEEN)
        level, frame = level + 1, frame.f_back
    _warn(message, category, stacklevel=level, source=source)
