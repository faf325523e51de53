"""Committed evidence outlives a comment, a docstring and an annotation, and nothing that could change a number."""

import pytest

from validation.source_hash import code_hash, source_hash

CODE = '''"""Sums."""

import math


class Share:
    """Part of a whole."""

    part: float = 0.5


def total(values, scale=2):
    """Add them up."""
    factor = math.sqrt(scale)
    return factor * sum(values)
'''

SAME = {
    "comment": CODE.replace("    factor", "    # the side of a square\n    factor"),
    "docstring": CODE.replace("Add them up.", "Add the values up."),
    "no docstring": CODE.replace('    """Add them up."""\n', ""),
    "line break": CODE.replace("values, scale=2", "\n    values,\n    scale=2,\n"),
    "annotations": CODE.replace("(values, scale=2):", "(values: list[float], scale: int = 2) -> float:"),
    "annotated variable": CODE.replace("factor = ", "factor: float = "),
    "imports of types": CODE.replace(
        "import math", "from __future__ import annotations\nfrom typing import Any\nimport math"
    ),
    "types alone": CODE.replace(
        "import math\n", "import math\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    ),
    "quotes": CODE.replace('"""Part of a whole."""', "'Part of a whole.'"),
}

OTHER = {
    "number": CODE.replace("scale=2", "scale=3"),
    "function": CODE.replace("math.sqrt", "math.log"),
    "order": CODE.replace("factor * sum(values)", "sum(values) * factor"),
    "field of a class": CODE.replace("part: float", "part: int"),
    "field without a default": CODE.replace("    part: float = 0.5", "    part: float"),
    "name": CODE.replace("total", "summed"),
    "none": CODE.replace("scale=2", "scale=None"),
    "statement": CODE.replace("    return", "    factor += 1\n    return"),
    "text in a call": CODE.replace("math.sqrt(scale)", "float('1')"),
    "import": CODE.replace("import math", "import cmath as math"),
    "not only types": CODE.replace("import math\n", "import math\nif math:\n    total = 1\n"),
}


@pytest.mark.parametrize("change", SAME)
def test_wording_leaves_the_hash(change):
    assert SAME[change] != CODE
    assert code_hash(SAME[change]) == code_hash(CODE)


@pytest.mark.parametrize("change", OTHER)
def test_what_computes_changes_the_hash(change):
    assert OTHER[change] != CODE
    assert code_hash(OTHER[change]) != code_hash(CODE)


def test_the_hash_does_not_depend_on_the_python_that_computes_it():
    """Written down under 3.11; a newer `ast` has more fields, which are empty here."""
    assert code_hash(CODE) == "936f7861c9b4235970823f598af867606efeb57ca323c0b01b4f1d144d41a053"


def test_a_file_that_is_no_python_is_hashed_byte_by_byte(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("{}")
    first = source_hash(path)
    path.write_text("{} ")
    assert source_hash(path) != first
