"""A mapping whose values are built when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


class LazyMapping(Mapping):
    """A mapping whose values are built each time they are asked for, so that nothing large is kept.

    Args:
        keys: Its keys, in order. build: Function of a key. error: What to raise for another key, a ``KeyError``.
    """

    def __init__(self, keys: Iterable[Any], build: Callable[[Any], Any], error: type[Exception]) -> None:
        self._keys, self._build, self._error = dict.fromkeys(keys), build, error

    def __getitem__(self, key: Any) -> Any:
        if key not in self._keys:
            shown = ", ".join(map(repr, list(self._keys)[:8])) + (", ..." if len(self._keys) > 8 else "")
            raise self._error(f"no entry {key!r}; known: {shown or 'none'}.")
        return self._build(key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._keys)})"
