"""Mutants are judged as if nothing stood between a function and its caller."""

import importlib.util
import json
import sys
import types
import warnings

import pytest
import tqdm

from validation import mutant_conftest

# A function of mutmut that stands between, by the name of its file.
_NAMES = {}
exec(compile("def between(function):\n    return function()\n", f"x/{mutant_conftest.BETWEEN}", "exec"), _NAMES)
BETWEEN = _NAMES["between"]


@pytest.fixture
def patched(monkeypatch):
    monkeypatch.setattr(warnings, "warn", warnings.warn)  # put back afterwards
    lock = tqdm.tqdm.get_lock()
    mutant_conftest.pytest_configure()
    assert tqdm.tqdm.get_lock() is not lock
    yield
    tqdm.tqdm.set_lock(lock)


def frames(stacklevel):
    """Lines that a warning points at: without anything between, and with mutmut's functions at both steps."""

    def inner():
        warnings.warn("so", UserWarning, stacklevel=stacklevel)

    def outer(step):
        return step(inner)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in (lambda function: function(), BETWEEN):
            outer(step)
    return [(one.filename, one.lineno) for one in caught]


def test_warnings_point_at_the_caller_past_what_stands_between(patched):
    assert len(set(frames(1))) == 1  # the line of the warning itself
    plain, past = frames(2)
    assert past[0] == plain[0] == __file__
    assert not past[0].endswith(mutant_conftest.BETWEEN)


def test_without_the_change_a_warning_points_at_what_stands_between():
    assert frames(2)[1][0].endswith(mutant_conftest.BETWEEN)


def test_own_and_quick_tests_run_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QKOV_OWN_TESTS", "own.py")
    items = [
        types.SimpleNamespace(nodeid=name) for name in ("other.py::a", "own.py::slow", "own.py::quick", "own.py::new")
    ]
    names = [one.nodeid for one in items]
    mutant_conftest.pytest_collection_modifyitems(items)
    assert [one.nodeid for one in items] == names
    durations = {"own.py::slow": 2.0, "own.py::quick": 0.1, "other.py::a": 0.01}
    (tmp_path / "mutmut-stats.json").write_text(json.dumps({"duration_by_test": durations}))
    mutant_conftest.pytest_collection_modifyitems(items)
    assert [one.nodeid for one in items] == ["own.py::new", "own.py::quick", "own.py::slow", "other.py::a"]


def test_the_file_may_be_imported_again(patched):
    # A second import finds the function of the first in the place of Python's.
    again = importlib.util.module_from_spec(importlib.util.find_spec("validation.mutant_conftest"))
    again.__spec__.loader.exec_module(again)
    again.pytest_configure()
    assert len(set(frames(1))) == 1
    assert frames(2)[0] == (__file__, frames(2)[0][1])
    assert again._warn is mutant_conftest._warn


def test_every_test_reaches_the_control(monkeypatch):
    reached = []
    module = types.SimpleNamespace(_control_of_mutants=lambda: reached.append(1))
    monkeypatch.setitem(sys.modules, "planted", module)
    monkeypatch.setenv("QKOV_MUTATED_MODULE", "planted")
    mutant_conftest.pytest_runtest_setup()
    assert reached == [1]


def test_what_test_modules_share_is_made_once(monkeypatch):
    made = []
    monkeypatch.setattr(mutant_conftest.gc, "freeze", lambda: made.append("frozen"))
    items = [types.SimpleNamespace(module=types.ModuleType(name)) for name in "aab"]
    items[0].module.before_mutants = lambda: made.append("shared")
    items[1].module = items[0].module
    mutant_conftest.pytest_collection_finish(types.SimpleNamespace(items=items))
    assert made == ["shared", "frozen"]
