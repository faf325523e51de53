"""Labels that a result is stored under: sample ids, layer and head numbers, attributes; validated, in one form."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import errors, result_file


def checked_ids(ids: Sequence[int | str], name: str) -> tuple[int | str, ...]:
    ids = tuple(ids)
    if all(isinstance(sample_id, str) for sample_id in ids):
        checked = ids
    elif all(isinstance(sample_id, int | np.integer) and not isinstance(sample_id, bool) for sample_id in ids):
        checked = tuple(int(sample_id) for sample_id in ids)
    else:
        kinds = sorted({type(sample_id).__name__ for sample_id in ids})
        raise errors.SampleIdError(f"{name} holds ids of type {', '.join(kinds)}; expected all int or all str.")
    if len(set(checked)) != len(checked):
        repeated = next(sample_id for sample_id in checked if checked.count(sample_id) > 1)
        raise errors.SampleIdError(f"{name} holds {repeated!r} more than once; expected unique ids.")
    return checked


def whole_array(values: Any, name: str) -> np.ndarray:
    """Return an array as int64; a fraction, NaN or what does not fit would become another number without a word."""
    values = np.asarray(values)
    whole = values.dtype.kind in "iuf" and bool((np.abs(values) < 2.0**62).all() and (values == np.rint(values)).all())
    if not whole:
        raise errors.ShapeError(
            f"{name}, of type {values.dtype}, holds what is no whole number; expected whole numbers."
        )
    return values.astype(np.int64)


def checked_numbers(numbers: Sequence[int], name: str) -> tuple[int, ...]:
    checked = tuple(operator.index(number) for number in numbers)
    if len(set(checked)) != len(checked) or min(checked, default=0) < 0:
        raise errors.ShapeError(f"{name} is {checked}; expected different numbers from 0 up.")
    return checked


def plain_json(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of attributes as JSON gives it back: tuples become lists now, not on loading."""
    try:
        return json.loads(result_file.canonical_json(dict(attributes)))
    except (TypeError, ValueError) as error:
        raise errors.OptionError(
            f"attributes cannot be written as JSON: {error}. Use str, int, finite float, list."
        ) from error


def checked_attributes(attributes: Mapping[str, Any], *, pairs: int) -> dict[str, Any]:
    checked = plain_json(attributes)
    checked.setdefault("conflict_order", "descending")
    if checked["conflict_order"] not in ("descending", "ascending"):
        raise errors.OptionError(
            f"conflict_order is {checked['conflict_order']!r}; expected 'descending' or 'ascending'."
        )
    checked["valid"] = bool(checked.get("valid", True)) and pairs > 0
    return checked
