"""There are enough properties, each is tried on enough examples, and each is shown to fail."""

import importlib
from pathlib import Path

from hypothesis import is_hypothesis_test

from . import properties

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("test_properties_*.py"))
LEAST = 25
AREAS = ("geometry", "gradients", "formula", "fisher", "shards", "files", "samples")


def test_there_are_enough_properties_of_enough_examples():
    modules = {name: importlib.import_module(f"tests.{name}") for name in MODULES}
    counted = {}
    for name, module in modules.items():
        for test in vars(module).values():
            if is_hypothesis_test(test) and test.__module__ == module.__name__:
                examples = test._hypothesis_internal_use_settings.max_examples
                counted.setdefault(name, []).append((test.__name__, examples))
    found = [one for tests in counted.values() for one in tests]
    assert len(found) >= LEAST
    assert not [one for one in found if one[1] < 200]
    assert set(counted) == {f"test_properties_{area}" for area in AREAS}
    assert sorted(name for name, _ in found) == sorted(
        name for module, name, *_ in properties.PROPERTIES if module.removeprefix("tests.") in counted
    )


def test_every_property_has_a_wrong_implementation():
    assert [name for _, name, wrong, *_ in properties.PROPERTIES if not wrong] == []
