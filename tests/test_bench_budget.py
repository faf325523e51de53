"""The goal of memory budgets is the worst case of results that are kept elsewhere, and not run without them."""

import sys
from types import SimpleNamespace

import pytest

from validation.bench import budget, goals


@pytest.fixture
def peaks(monkeypatch):
    """Stand in for the module that measures."""

    def put(rows, complaints=()):
        evidence = SimpleNamespace(read=lambda: {"rows": rows, "complaints": list(complaints)})
        monkeypatch.setitem(sys.modules, budget.MODULE, SimpleNamespace(EVIDENCE=evidence))
        return budget.measure(None)

    return put


def test_worst_case_counts(peaks):
    found = peaks([{"data": "one", "value": 0.9}, {"data": "two", "value": 1.2}, {"data": "three", "value": 1.0}])
    assert found.values == {"budget": 1.2}
    assert found.conditions["budget"].endswith("two")
    assert [row["status"] for row in goals.rows_of("budget", found)] == ["missed"]


@pytest.mark.parametrize(
    ("rows", "complaints"), [([], ["no file."]), ([{"data": "one", "value": 0.9}], ["made by other sources; changed."])]
)
def test_without_results_of_the_present_sources_it_is_not_run(peaks, rows, complaints):
    with pytest.raises(goals.NotRunError, match="no results of the present sources"):
        peaks(rows, complaints)


def test_without_the_module_it_is_not_run(monkeypatch):
    monkeypatch.setattr(budget, "MODULE", "validation.no_such_module")
    with pytest.raises(goals.NotRunError, match="does not exist"):
        budget.measure(None)
