"""How far two results of one kind are apart, and the tightest tier of :mod:`qkov.tiers` whose promise holds between them.

Scores are compared a slice at a time, so that they need not fit the memory. Labels must be the same: with other samples or
heads there is nothing to compare, whatever the numbers are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import tiers
from .geometry import BLOCKS
from .head_statistics import ALPHA, HeadStatistics
from .heatmap import Heatmap
from .prediction_result import Prediction

__all__ = ["Agreement", "compare_heatmaps", "compare_predictions", "compare_statistics", "head_ranks", "same_top"]

MONTE_CARLO = 3.0
"""Standard errors by which p values of different relabelings may differ."""


@dataclass(frozen=True)
class Agreement:
    """Two results of one kind beside each other.

    Attributes:
        what: Which result, such as "scores of unsigned".
        tightest: Tightest tier whose promise holds: "D1", "D0" (tests alone), "D2", "D3", or None if none does.
        facts: What was measured, by name.
        found: What keeps it from a tighter tier, in words; empty where every bit is the same.
    """

    what: str
    tightest: str | None
    facts: dict[str, Any] = field(default_factory=dict)
    found: tuple[str, ...] = ()


def compare_heatmaps(one: Heatmap, two: Heatmap, what: str = "scores") -> Agreement:
    """Compare scores block by block: bits, largest difference, ranks of heads, the strongest pairs."""
    if other := _other_labels(one, two, ("task_a", "task_b", "sample_a", "sample_b", "layers", "heads", "kv_heads")):
        return Agreement(what, None, {}, other)
    if not (np.array_equal(one.kv_index, two.kv_index) and np.array_equal(one.present, two.present)):
        return Agreement(what, None, {}, ("the heads that exist differ",))
    facts: dict[str, Any] = {"compared": 0, "bits": 0, "error": 0.0, "ranks": 1.0}
    found, worst, top = [], "", True
    for block in BLOCKS:
        error, bits, number = _block_distance(one, two, block)
        facts["compared"] += number
        facts["bits"] += bits
        if error > facts["error"]:
            facts["error"], worst = error, block
        ranks = head_ranks(one.mean_map(block), two.mean_map(block))
        facts["ranks"] = min(facts["ranks"], ranks)
        if bits and not same_top(one, two, block):
            top = False
            found.append(f"the {tiers.TOP_PAIRS} strongest pairs of block {block} differ by more than ties")
        if ranks < tiers.D2_RANKS:
            found.append(f"heads of block {block} rank otherwise (correlation {ranks:.6f})")
    if facts["bits"]:
        said = f"{facts['bits']} of {facts['compared']} scores have other bits, the largest difference {facts['error']:.1e} "
        found.insert(0, f"{said}of its block's largest score{f', in block {worst}' if worst else ''}")
    tight = facts["error"] <= tiers.D2_SCORES and facts["ranks"] >= tiers.D2_RANKS and top
    return Agreement(what, _tightest(facts["bits"] == 0, False, tight, facts["error"]), facts, tuple(found))


def _block_distance(one, two, block):
    """Largest difference relative to the largest score, numbers with other bits, numbers compared."""
    largest, distance, bits, number = 0.0, 0.0, 0, 0
    for (_, first), (_, second) in zip(one.each_slice(block), two.each_slice(block), strict=True):
        if first.size:
            largest = max(largest, float(np.abs(first).max()))
            distance = max(distance, float(np.abs(first - second).max()))
            bits += int((first.view(np.int64) != second.view(np.int64)).sum())
        number += first.size
    return relative(distance, largest), bits, number


def relative(distance: float, largest: float) -> float:
    """Relate a difference to a scale; where there is none, every difference is infinite."""
    if largest > 0:
        return distance / largest
    return float("inf") if distance else 0.0


def head_ranks(one: Any, two: Any) -> float:
    """Rank correlation of two maps of heads, of the slices that exist; 1 where all are equal in both.

    Args:
        one, two: Averages, any shape.
    """
    from scipy import stats

    kept = ~np.isnan(one)
    one, two = np.asarray(one)[kept], np.asarray(two)[kept]
    if len(one) < 2 or np.array_equal(one, two):
        return 1.0
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0
    return float(stats.spearmanr(one, two).statistic)


def same_top(one: Heatmap, two: Heatmap, block: str) -> bool:
    """Tell whether the strongest pairs of the first are among those of the second; pairs equal within D2 may trade places."""
    first, second = (found.top_conflicts(block, top_k=tiers.TOP_PAIRS) for found in (one, two))
    if not first:
        return True
    sign = -1.0 if one.attributes["conflict_order"] == "ascending" else 1.0
    slack = tiers.D2_SCORES * max(abs(row["score"]) for row in first)
    lowest = sign * second[-1]["score"] - slack
    return all(sign * _score_of(two, block, row) >= lowest for row in first)


def _score_of(heatmap, block, row):
    name, units = ("kv_head", heatmap.kv_heads) if block in "KV" else ("head", heatmap.heads)
    scores = heatmap.slice_scores(block, heatmap.layers.index(row["layer"]), units.index(row[name]))
    return float(scores[heatmap.sample_a.index(row["sample_i"]), heatmap.sample_b.index(row["sample_j"])])


def compare_statistics(one: HeadStatistics, two: HeadStatistics, *, alpha: float = ALPHA, what="tests") -> Agreement:
    """Compare tests: counts of relabelings that exceed, order of slices, what survives, and the floats.

    Args:
        one, two: Results. alpha: Level of what survives. what: For the report.
    """
    if other := _other_labels(one, two, ("blocks", "layers", "units", "main_test", "alternative")):
        return Agreement(what, None, {}, other)
    if set(one.columns) != set(two.columns):
        return Agreement(what, None, {}, ("other columns",))
    counts, exceeding = _other_counts(one, two)
    order = list(_order(one)) == list(_order(two))
    flipped = {name: one.survives(alpha, name) != two.survives(alpha, name) for name in ("p_maxt", "q")}
    floats = max(_column_error(one, two, name) for name in one.columns if not _is_p(name))
    p_error = max(_column_error(one, two, name) for name in one.columns if _is_p(name))
    bits = all(one.columns[name].tobytes() == two.columns[name].tobytes() for name in one.columns)
    found = []
    if exceeding:
        found.append(f"{exceeding} of {counts} exceedance counts differ")
    if not order:
        found.append("slices are in another order")
    for name, changed in flipped.items():
        if changed.any():
            shown = ", ".join(_slice_name(one, place) for place in np.flatnonzero(changed)[:4])
            found.append(f"{int(changed.sum())} slices are decided otherwise by {name} <= {alpha}: {shown}")
    if floats:
        found.append(f"statistics and effects differ by up to {floats:.1e} of the largest")
    chance = all(_by_chance(one, two, name, alpha, changed) for name, changed in flipped.items())
    facts = {"compared": sum(len(one.columns[name]) for name in one.columns), "counts": counts,
             "other_counts": exceeding, "same_order": order, "error": floats, "p_error": p_error,
             "decided_otherwise": {name: int(changed.sum()) for name, changed in flipped.items()}}  # fmt: skip
    exact = not exceeding and order and not any(changed.any() for changed in flipped.values())
    decided = exact and max(floats, p_error) <= tiers.D0_FLOATS
    # Another seed is another sample of relabelings, which moves p alone.
    tightest = _tightest(bits, decided, floats <= tiers.D2_SCORES and chance, floats if chance else np.inf)
    if not bits and not found:
        found.append(f"p values differ by up to {p_error:.1e}" if p_error else "the sign of a zero differs")
    return Agreement(what, tightest, facts, tuple(found))


def _is_p(name):
    return name.endswith(("_p", "_q", "_p_maxt", "p_adjusted"))


def _order(found):
    """The slices by evidence, as the table has them, and the evidence they are sorted by is not compared."""
    table = found.table()
    heads = table["head"].where(table["head"].notna(), table["kv_head"])
    return zip(table["block"], table["layer"], heads, strict=True)


def _other_counts(one, two):
    """How many relabelings exceed what was seen, of every test: how many there are and how many are different numbers."""
    total, other = 0, 0
    for test in one.attributes["tests"]:
        first, second = (_counts(found, test) for found in (one, two))
        total += first.size
        other += int((first != second).sum())
    return total, other


def _counts(found, test):
    number = found.attributes["tests"][test]["n_permutations"] + 1
    values = np.stack([found.columns[f"{test}_{name}"] for name in ("p", "p_maxt")])
    return np.where(np.isnan(values), -1, np.round(values * number)).astype(np.int64)


def _column_error(one, two, name):
    first, second = one.columns[name], two.columns[name]
    if not np.array_equal(np.isnan(first), np.isnan(second)):
        return float("inf")
    finite = np.isfinite(first) & np.isfinite(second)
    if not np.array_equal(first[~finite & ~np.isnan(first)], second[~finite & ~np.isnan(first)]):
        return float("inf")
    if not finite.any():
        return 0.0
    return relative(float(np.abs(first - second)[finite].max()), float(np.abs(first)[finite].max()))


def _by_chance(one, two, name, alpha, changed):
    """Whether every slice that is decided otherwise lies as near to the level as drawn relabelings may put it."""
    test = one.main_test
    for place in np.flatnonzero(changed):
        for found in (one, two):
            words = found.attributes["tests"][test]
            value, p = found.columns[f"{test}_{name}"][place], found.columns[f"{test}_p"][place]
            if np.isnan(value):
                return False
            number = words["n_permutations"] + 1
            shown = value if name == "p_maxt" else p
            spread = MONTE_CARLO * np.sqrt(shown * (1 - shown) / number) + 1 / number
            if abs(value - alpha) > spread * (1.0 if name == "p_maxt" else value / p) * np.sqrt(2):
                return False
    return True


def _slice_name(found, place):
    block = found.blocks[place]
    return f"{block} of layer {found.layers[place]}, {'kv head' if block in 'KV' else 'head'} {found.units[place]}"


def compare_predictions(one: Prediction, two: Prediction, what: str = "prediction") -> Agreement:
    """Compare predicted changes array by array."""
    if other := _other_labels(one, two, ("blocks", "layers", "units", "sample_a")):
        return Agreement(what, None, {}, other)
    names = ("first", "second", "influence", "descent")
    if any(getattr(one, name).shape != getattr(two, name).shape for name in names):
        return Agreement(what, None, {}, ("another number of samples",))
    codes = ("tokens_a", "codes_a", "codes_b")
    if not all(_same_or_none(getattr(one, name), getattr(two, name)) for name in codes):
        return Agreement(what, None, {}, ("other numbers of tokens or clusters",))
    arrays = [(getattr(one, name), getattr(two, name)) for name in names]
    arrays.append((np.array(one.step_size), np.array(two.step_size)))
    bits = all(first.tobytes() == second.tobytes() for first, second in arrays)
    errors = [
        relative(float(np.abs(first - second).max()), float(np.abs(first).max()))
        for first, second in arrays
        if first.size
    ]
    error = max(errors, default=0.0)
    found = () if bits else (f"predicted changes differ by up to {error:.1e} of the largest",)
    facts = {"compared": sum(first.size for first, _ in arrays), "error": error}
    return Agreement(what, _tightest(bits, False, error <= tiers.D2_SCORES, error), facts, found)


def _tightest(bits, decided, tight, error):
    if bits:
        return "D1"
    if decided:
        return "D0"
    if tight:
        return "D2"
    return "D3" if error <= tiers.D3_SINGLE else None


def _same_or_none(one, two):
    return (one is None) == (two is None) and (one is None or np.array_equal(one, two))


def _other_labels(one, two, names):
    """Say which labels differ, with the first that does."""
    found = []
    for name in names:
        first, second = getattr(one, name), getattr(two, name)
        if first == second:
            continue
        if isinstance(first, str):
            found.append(f"{name} is {first!r} and {second!r}")
        elif len(first) != len(second):
            found.append(f"{name} has {len(first)} and {len(second)} entries")
        else:
            changed = [place for place, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]]
            at = changed[0]
            found.append(f"{name} differs in {len(changed)} of {len(first)}: {first[at]!r} is {second[at]!r}")
    return tuple(found)
