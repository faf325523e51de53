"""YAML of plain values: no anchors, no tags that make objects, no key twice, nothing endless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError

MOST_BYTES = 2**20
DEEPEST = 20
EXAMPLE = "model: gpt2\ntasks: {math: math.jsonl, code: code.jsonl}\nsource: math\ntarget: code"


def read(path: Path) -> Any:
    """Read a file of plain values.

    Raises:
        ConfigError: If it cannot be read, or is anything else; the message says where.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {str(path)!r}: {error.strerror or error}. Expected a YAML file such as\n{EXAMPLE}"
        ) from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{str(path)!r} has {len(data)} bytes; a configuration has at most {MOST_BYTES}.")
    try:
        return parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{str(path)!r} is not UTF-8 at byte {error.start}; save it as UTF-8 text.") from error
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r}: {error}") from error


def parse(text: str) -> Any:
    """Return the plain values of a YAML text.

    Raises:
        ConfigError: If it is not YAML, or has an anchor, a key twice, or more than one document.

    Example:
        >>> parse("a: {b: [1, x]}")
        {'a': {'b': [1, 'x']}}
    """
    try:
        _check_events(text)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        if tree is not None:
            _check_keys(tree)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a date that is none is a ValueError
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"this is not plain YAML: {' '.join(str(error).split())}. Expected lines such as\n{EXAMPLE}"
        ) from error


def _check_events(text):
    """Refuse before anything is built: an anchor can stand for more than any memory holds."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(
                f"line {event.start_mark.line + 1} uses the anchor {event.anchor!r}; write the value out."
            )
        if depth > DEEPEST:
            raise ConfigError(f"line {event.start_mark.line + 1} is nested more than {DEEPEST} deep.")


def _check_keys(node):
    """Refuse a key that stands twice: YAML would silently take the last."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"line {key.start_mark.line + 1} has a key that is no text.")
            if key.value in seen:
                raise ConfigError(
                    f"line {key.start_mark.line + 1} gives the key {key.value!r} a second time; keep one."
                )
            seen.add(key.value)
            _check_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            _check_keys(one)
