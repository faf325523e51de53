"""A property that is tried on 200 drawn examples, and the wrong implementations that it must notice.

    @holds({"by_remainder": ("geometry.kv_head_of", lambda original: lambda head, all, kv: head % kv)}, config=...)
    def test_neighbours_share_a_kv_head(config): ...

    test_wrong_implementation_is_noticed = noticing(__name__)

The second test plants each of them in turn and fails where the property does not.
"""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from validation.faults import planted

EXAMPLES = 200
PROPERTIES = []  # (module, name, wrong implementations, test, the same test without looking for a smaller example)


def holds(wrong, **strategies):
    """Try a property on :data:`EXAMPLES` examples.

    Args:
        wrong: ``{name: (target, wrong)}`` as for ``validation.faults.planted``; at least one.
        **strategies: As for ``hypothesis.given``.
    """

    def decorate(function):
        quick = settings(
            max_examples=EXAMPLES, phases=(Phase.explicit, Phase.generate), report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(function))  # fmt: skip
        test = settings(max_examples=EXAMPLES)(given(**strategies)(function))
        PROPERTIES.append((function.__module__, function.__name__, wrong, test, quick))
        return test

    return decorate


def noticing(module):
    """Return the test that every wrong implementation beside the properties of a module is noticed."""
    cases = [
        pytest.param(quick, *wrongs[one], id=f"{name.removeprefix('test_')}-{one}")
        for of, name, wrongs, _, quick in PROPERTIES
        if of == module
        for one in wrongs
    ]

    @pytest.mark.parametrize(("quick", "target", "wrong"), cases)
    def test_wrong_implementation_is_noticed(quick, target, wrong):
        with planted(target, wrong), pytest.raises((AssertionError, pytest.fail.Exception)):
            quick()

    return test_wrong_implementation_is_noticed
