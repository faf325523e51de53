"""Decisions that never change: from a given file of scores, on any machine and with any version, the same integers.

A published table of heads rests on exceedance counts, their order and what is rejected. They follow from the scores, the
seed and the definitions alone: relabelings come from the raw words of a published generator and a stable sort, the sums of
the exchange test are exact, and ties are counted within a tolerance far above rounding. So a change of a hash below means
that results with a recorded seed can no longer be had again. Whoever means that must say so in CHANGELOG.md.
"""

import hashlib
import json

import numpy as np
import pytest

from qkov.statistics import exchange, multiplicity, source
from tests.statistics_cases import of_sizes, quietly, whole_scores

GOLDEN = {
    "source, greater, even": "c695d17e282ce7dfa37aefcc1ee449119cfa40fc81dc57eb577de90d76b45c3f",
    "source, greater, uneven": "cf4450d4330f51351986334e154ac976771e5832a1667e5d74f17481fbf39d92",
    "source, two-sided, even": "7e5c16c914a7a54b0e0c62845581ebd676d3f5bed1ebeef63a817b88eba712e7",
    "exchange, sym, even": "8b2cf27e205494943e6fef4ce835db21e898ca8c1103bbe88ea53010adeba2cb",
    "exchange, sym, uneven": "5951ef4baab2b8bf3b381e383743958959bdb6a3ccbf82a1424e8d55b4ff96d5",
    "exchange, asym, uneven": "67500b2f9c8aca60017440c7706b90e62e8d3f9b5f9f5b8e41ed5e0a8282604c",
    "step-down": "1d969c7656624c91f707c3fcc5f353bc220f7c588326ed0f31716426c363d669",
}


def digest(*arrays):
    whole = [np.asarray(array).astype(np.int64).tolist() for array in arrays]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def decisions(found):
    """Exceedance counts, also of the family, the order of slices, and which are rejected."""
    counts, family = (np.rint(p * (1 + found.n_permutations)) for p in (found.p, found.p_maxt))
    order = np.argsort(found.p, kind="stable")
    return digest(counts, family, order, found.p <= 0.05, found.q_bh <= 0.05, found.p_maxt <= 0.05)


def source_decisions(alternative, sizes):
    """From whole numbers, in which some clusters tie."""
    a, r = (of_sizes(one) for one in sizes)
    lifts = whole_scores(5, len(a.codes) + len(r.codes), 9, 12).astype(float)
    lifts[: len(a.codes), :3] += 8 if alternative == "greater" else 9
    return decisions(
        quietly(source.from_lifts, lifts, a, r, n_permutations=999, seed=20250101, alternative=alternative)
    )


def exchange_decisions(statistic, sizes):
    a, b = (of_sizes(one) for one in sizes)
    total, count = len(a.codes) + len(b.codes), len(a.codes)
    test = exchange.Exchange(9, a, b, statistic=statistic, n_permutations=999, seed=20250101)
    for one in range(9):
        pairs = np.abs(whole_scores(one, total, total, 50)).astype(float)
        if one < 3:
            pairs[:count, slice(count) if statistic == "sym" else slice(count, None)] += 20
        test.add(pairs)
    return decisions(quietly(test.result))


def step_down_decisions():
    null = whole_scores(6, 999, 12, 20).astype(float)
    observed = whole_scores(7, 1, 12, 20)[0] + 6.0
    p = multiplicity.permutation_p(observed, null)
    return digest(
        np.rint(p * 1000), np.rint(multiplicity.step_down(observed, null) * 1000), multiplicity.adjust(p) <= 0.1
    )


EVEN, UNEVEN = ((1,) * 10, (1,) * 10), ((3, 1, 2, 1, 4, 1, 2), (2, 2, 1, 3, 1, 1, 1, 2))
CASES = {
    "source, greater, even": lambda: source_decisions("greater", EVEN),
    "source, greater, uneven": lambda: source_decisions("greater", UNEVEN),
    "source, two-sided, even": lambda: source_decisions("two-sided", EVEN),
    "exchange, sym, even": lambda: exchange_decisions("sym", EVEN),
    "exchange, sym, uneven": lambda: exchange_decisions("sym", UNEVEN),
    "exchange, asym, uneven": lambda: exchange_decisions("asym", UNEVEN),
    "step-down": step_down_decisions,
}


@pytest.mark.parametrize("name", CASES)
def test_decisions_never_change(name):
    assert CASES[name]() == GOLDEN[name], f"{name}: results with a recorded seed can no longer be had again"


def test_cases_have_something_to_decide(monkeypatch):
    seen = []
    monkeypatch.setitem(globals(), "decisions", seen.append)
    for make in list(CASES.values())[:-1]:
        make()
    for found in seen:
        assert (found.p_maxt <= 0.05).any(), found
        assert (found.p_maxt > 0.05).any(), found
        assert len(np.unique(found.p)) >= 5, found
    assert len(seen) == len(CASES) - 1


def test_any_change_of_a_count_changes_the_hash():
    assert digest([1, 2, 3]) != digest([1, 2, 4])
    assert digest([1, 2], [3]) != digest([1], [2, 3])
