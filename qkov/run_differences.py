"""What was different in the making of two runs, field by field, and which tier of :mod:`qkov.tiers` is to be expected then.

Every field has an effect: a tier; "none", for what no number depends on; or "another question", after which numbers are of
different things and no tier says how far apart they may be. Some fields touch only one kind of result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import tiers

__all__ = ["ANOTHER", "Difference", "config_differences", "expected_tier", "heatmap_differences", "record_differences"]

ANOTHER = "another question"
EVERY, SCORES, TESTS, PREDICTION = "all results", "scores", "tests", "prediction"

# The first entry whose name is the field, or an end of it that a dot precedes by "*", decides.
CONFIG = {
    "format": ("none", EVERY),
    "model.name": ("none", EVERY),  # what it is, its fingerprint says
    "model.revision": ("none", EVERY),
    "model.weights": ("none", EVERY),
    "model.trust_remote_code": ("none", EVERY),
    "model.dtype": ("D4", EVERY),
    "tokens.micro_batch": ("D2", EVERY),
    "tokens.max_length": ("none", EVERY),  # longer samples are refused; see ``_cut``
    "reference": (ANOTHER, TESTS),
    "scores.variants": ("none", EVERY),  # those that both have are compared
    "statistics.run": ("none", EVERY),
    "statistics.alpha": ("none", EVERY),
    "statistics.n_permutations": ("D3", TESTS),
    "prediction.run": ("none", EVERY),
    "statistics.*": (ANOTHER, TESTS),
    "prediction.*": (ANOTHER, PREDICTION),
    "scores.layers": (ANOTHER, EVERY),
    "scores.*": (ANOTHER, SCORES),
    "tasks.*": ("none", EVERY),  # what they hold, the record says
    "device": ("D3", EVERY),
    "memory_budget": ("D2", EVERY),
    "seed": ("D3", TESTS),
    "keep_store": ("none", EVERY),
    "report.*": ("none", EVERY),
}
"""Fields of ``config.yaml``; any other is another question."""
RECORD = {
    "model.dtype": ("D4", EVERY),
    "model.fingerprint": (ANOTHER, EVERY),
    "model.class": (ANOTHER, EVERY),
    "model.attn_implementation": ("D3", EVERY),
    "versions.omp_num_threads": ("none", EVERY),  # what came of it, the number of threads says
    "versions.tqdm": ("none", EVERY),
    "versions.PyYAML": ("none", EVERY),
    "versions.torch": ("D3", EVERY),
    "versions.transformers": ("D3", EVERY),
    "versions.qkov": ("D3", EVERY),
    "versions.*": ("D2", EVERY),
    "commit.qkov": ("D3", EVERY),
    "threads": ("D2", EVERY),
    "device": ("D3", EVERY),
}
"""Fields of ``run.json``, by the end of their name; any other depends on what was run and decides nothing."""
UNSAID = (
    "results", "not_run", "config_sha256", "format", "status", "started", "finished", "command", "seconds", "resumed", "notes",
)  # fmt: skip
"""Of a record: what came of the run, or when it was."""
OF_TASK = ("sha256", "samples", "tokens", "clusters")
ATTRIBUTES = {
    "model_fingerprint": (ANOTHER, SCORES),
    "tile_elements": ("D2", SCORES),
    "tiling": ("D2", SCORES),
    "computation_device": ("D3", SCORES),
    "versions.torch": ("D3", SCORES),
    "versions.qkov": ("D3", SCORES),
    "average_caveat": ("none", SCORES),
    "meaning": ("none", SCORES),
    "range": ("none", SCORES),
    "sign": ("none", SCORES),
    "unit": ("none", SCORES),
}
"""Attributes of a heatmap; any other is another question."""


@dataclass(frozen=True)
class Difference:
    """One field in which two runs differ.

    Attributes:
        name: Of the field. one, two: Its values; None where a run lacks it.
        effect: A tier, "none", or "another question". touches: Which results.
    """

    name: str
    one: Any
    two: Any
    effect: str
    touches: str

    def __str__(self) -> str:
        effect = (
            "" if self.effect == "none" else f" ({self.effect}{'' if self.touches == EVERY else ': ' + self.touches})"
        )
        return f"{self.name}: {_shown(self.one)} | {_shown(self.two)}{effect}"


def config_differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Compare two configurations, as plain values."""
    found = _differences(one, two, CONFIG, (ANOTHER, EVERY))
    return tuple(_cut(difference, one, two) for difference in found)


def _cut(difference, one, two):
    """Where samples are cut off, the length at which they are is part of what is measured."""
    cuts = any(found.get("tokens", {}).get("truncate") for found in (one, two))
    if difference.name == "tokens.max_length" and cuts:
        return Difference(difference.name, difference.one, difference.two, ANOTHER, EVERY)
    if difference.name == "tokens.truncate":  # what it did, the numbers of tokens say
        return Difference(difference.name, difference.one, difference.two, "none", EVERY)
    return difference


def record_differences(
    one: Mapping[str, Any], two: Mapping[str, Any], *, compared: tuple[str, str], reference: str | None
) -> tuple[Difference, ...]:
    """Compare two records.

    Args:
        one, two: Contents of ``run.json``. compared: Source and target. reference: Of the tests, or None.
    """
    first, second = ({key: value for key, value in found.items() if key not in UNSAID} for found in (one, two))
    on_cpu = {str(found.get("device")) for found in (one, two)} == {"cpu"}
    data = [{task: _facts(value) for task, value in found.pop("data", {}).items()} for found in (first, second)]
    rules = {"versions.cuda": ("none" if on_cpu else "D3", EVERY), **RECORD}
    found = [*_differences(first, second, rules, ("none", EVERY))]
    for difference in _differences(*data, {}, (ANOTHER, EVERY)):
        task = difference.name.rpartition(".")[0]
        if task in compared:
            found.append(_renamed(difference, EVERY))
        elif task == reference:
            found.append(_renamed(difference, TESTS))
    dtypes = {difference.name.rpartition(".")[2] for difference in found}
    if "dtype" in dtypes:  # the same weights in another precision have another fingerprint
        found = [one for one in found if not one.name.endswith("fingerprint")]
    return tuple(found)


def _facts(value):
    return {key: value[key] for key in OF_TASK if key in value} if isinstance(value, Mapping) else value


def _renamed(difference, touches):
    return Difference(f"data.{difference.name}", difference.one, difference.two, difference.effect, touches)


def heatmap_differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Compare the attributes of two heatmaps."""
    return _differences(one, two, ATTRIBUTES, (ANOTHER, SCORES))


def expected_tier(differences: tuple[Difference, ...], touches: str) -> str:
    """Return the tier to be expected of one kind of result, or "another question".

    Args:
        differences: All fields that differ. touches: "scores", "tests" or "prediction".

    Example:
        >>> threads = Difference("threads", 1, 2, "D2", EVERY)
        >>> expected_tier((threads,), "scores"), expected_tier((), "scores")
        ('D2', 'D1')
    """
    effects = [one.effect for one in differences if one.touches in (EVERY, touches) and one.effect != "none"]
    return ANOTHER if ANOTHER in effects else tiers.looser("D1", *effects)


def _differences(one, two, rules, otherwise):
    first, second = _flat(one), _flat(two)
    names = [*first, *(name for name in second if name not in first)]
    return tuple(
        Difference(name, first.get(name), second.get(name), *_rule(name, rules, otherwise))
        for name in names
        if first.get(name) != second.get(name)
    )


def _rule(name, rules, otherwise):
    for pattern, rule in rules.items():
        if pattern.endswith("*"):
            if name.startswith(pattern[:-1]) or f".{pattern[:-1]}" in name:
                return rule
        elif name == pattern or name.endswith(f".{pattern}"):
            return rule
    return otherwise


def _flat(value, prefix=""):
    """Leaves by dotted name; a list is a leaf."""
    found = {}
    for key, one in value.items():
        name = f"{prefix}{key}"
        found |= _flat(one, f"{name}.") if isinstance(one, Mapping) else {name: one}
    return found


def _shown(value):
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text[:60]
