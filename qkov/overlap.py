r"""How far the parts that matter to several tasks are the same: Jaccard index beside what chance gives, shared and own sets.

For the kept sets S of two tasks, of sizes a and b among n units (parameters, channels or query heads, as masked),

.. math:: J = \frac{|S_1 \cap S_2|}{|S_1 \cup S_2|}, \qquad
          J_0 = E\!\left[\frac{X}{a + b - X}\right], \; X \sim \text{Hypergeometric}(n, a, b), \qquad
          J_{adj} = \frac{J - J_0}{1 - J_0} .

:math:`J_0` is the exact mean for two masks of these sizes drawn at random: two masks that keep nine tenths each share four
fifths without any reason, so a bare J says little. :math:`J_{adj}` is 0 at chance and 1 for equal masks. Of two empty sets J
is NaN: there is nothing that could agree, and a 1 would raise every average over layers.

Chance is that of single units which have nothing in common. Rows, channels and heads that are loud whatever the text is are
shared by unrelated tasks too, so the overlap with an unrelated third task is the better zero. All of it describes; nothing
here is a test.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import errors, escaping, importance, labels, parts, pruning, result_file

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from .diagonal import FisherDiagonal
    from .importance import FisherImportance
    from .option_types import PathLike
    from .pruning import PruningMasks


__all__ = ["MaskOverlap", "compute_fisher_overlap", "expected_jaccard", "load_mask_overlap"]

FORMAT_NAME = "qkov-mask-overlap"
FORMAT_VERSION = 1
ADVICE = {
    "apart": "the tasks lean on different parts: averaging is unlikely to take from either what it needs",
    "partly": "part is shared: weigh the average by what each task is sensitive to (merge_weights with fisher=)",
    "shared": "the tasks lean on the same parts: look at whether their gradients agree before merging anything",
}
ADVICE_NOTE = (
    "Merge advice is a rule of thumb on the adjusted index, with thresholds that you may choose. Overlap has no sign: tasks "
    "that share their parts may help or hurt each other. Merge, and measure both losses."
)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MaskOverlap:
    """Where the masks of several tasks agree.

    Attributes:
        masks: Task to :class:`qkov.PruningMasks`, of one structure.
        rows: A dict per pair of tasks and level: ``task_a, task_b, level`` ("all", "layer", "block"), ``layer``, ``block``,
            ``num_units, size_a, size_b, both, either, jaccard, expected, adjusted`` (None where both sets are empty;
            ``adjusted`` also where one set is empty or full) and ``advice``.
        attributes: JSON-able facts: ``structure``, ``merge_thresholds``, ``advice_note``.
    """

    masks: dict
    rows: tuple
    attributes: dict

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(labels.plain_json(row) for row in self.rows))
        object.__setattr__(self, "attributes", labels.plain_json(self.attributes))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order given."""
        return tuple(self.masks)

    def shared(self) -> dict[str, torch.Tensor]:
        """Return what all tasks keep, ``{param_name: bool tensor}``."""
        return self._combined(lambda kept: torch.stack(kept).all(0))

    def unique(self, task: str) -> dict[str, torch.Tensor]:
        """Return what this task keeps and no other does, ``{param_name: bool tensor}``.

        Args:
            task: One of the tasks.

        Returns:
            A dict.

        Raises:
            UnknownTaskError: If it was not compared.
        """
        if task not in self.masks:
            raise errors.UnknownTaskError(
                f"no task {task!r} was compared; the tasks are {', '.join(map(repr, self.tasks))}."
            )
        place = self.tasks.index(task)
        return self._combined(lambda kept: kept[place] & (torch.stack(kept).sum(0) == 1))

    def _combined(self, combine: Callable[..., Any]) -> dict[str, torch.Tensor]:
        first = self.masks[self.tasks[0]].masks
        return {name: combine([self.masks[task].masks[name] for task in self.tasks]) for name in first}

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas table of :attr:`rows`."""
        import pandas as pd

        table = pd.DataFrame(list(self.rows))
        table["layer"] = table["layer"].astype("Int64")
        numbers = ["jaccard", "expected", "adjusted"]
        table[numbers] = table[numbers].astype(np.float64)
        table.attrs = dict(self.attributes)
        return table

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the result, in hex."""
        return result_file.digest(*self._parts())

    def __eq__(self, other: object) -> bool:
        return self.fingerprint == other.fingerprint if isinstance(other, MaskOverlap) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and so without a hash

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        content: dict[str, Any] = {"rows": list(self.rows), "attributes": self.attributes, "tasks": []}
        arrays: dict[Any, Any] = {}
        for number, one in enumerate(self.masks.values()):
            described, masks = one._parts()
            content["tasks"].append(described)
            arrays |= {f"{number}.{name}": mask for name, mask in masks.items()}
        return content, arrays

    def save(self, path: PathLike) -> Path:
        """Write one file with the masks of all tasks to ``path``, atomically. Returns the path."""
        return result_file.write(path, *self._parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _summary(self) -> Iterator[str]:
        for row in self.rows:
            if row["level"] == "all":
                value, chance = (
                    "none" if row[name] is None else f"{row[name]:.3f}" for name in ("jaccard", "expected")
                )
                yield f"{row['task_a']} x {row['task_b']}: Jaccard {value}, by chance {chance}: {row['advice']}"

    def __repr__(self) -> str:
        lines = "".join(f"\n  {line}" for line in self._summary())
        head = f"{len(self.masks)} tasks, {self.attributes['structure']}"
        return escaping.for_terminal(f"<MaskOverlap of {head}{lines}\n  {ADVICE_NOTE}>")

    def _repr_html_(self) -> str:
        table = self.to_dataframe().astype(object)
        table = escaping.html_table(table[table["level"] != "block"])
        return escaping.html_block(table, f"<p>{escaping.for_html(ADVICE_NOTE)}</p>")


def compute_fisher_overlap(
    sources: Mapping[str, PruningMasks | FisherImportance | FisherDiagonal],
    *,
    merge_thresholds: tuple[float, float] = (0.1, 0.5),
    **options: Any,
) -> MaskOverlap:
    """Compare what two or more tasks keep.

    Args:
        sources: :class:`qkov.PruningMasks`, or importances or Fisher diagonals whose masks ``options`` make, in a list or as
            a mapping's values; of different tasks and the same weights.
        merge_thresholds: ``(low, high)`` of the adjusted Jaccard index: below low "apart", from high on "shared", between
            them "partly". A heuristic, see the result's ``advice_note``.
        **options: As for :func:`qkov.get_fisher_pruning_masks`: ``share`` or ``count`` and more; only without masks.

    Returns:
        :class:`MaskOverlap`: for every pair of tasks a row for all, for every layer, and for unstructured masks for every
        block (Q, K, V, O, mlp, other). Heads and channels span blocks and have none.

    Raises:
        EmptyTaskError: With fewer than two tasks.
        OptionError: If tasks repeat, thresholds are not 0 to 1 in order, or masks come with options for masks.
        ShapeError: If masks are of different weights or structure.
    """
    low, high = merge_thresholds
    if not -1 <= low <= high <= 1:
        raise errors.OptionError(f"merge_thresholds is {merge_thresholds!r}; expected low <= high, both from -1 to 1.")
    masks = {}
    for one in sources.values() if isinstance(sources, Mapping) else sources:
        if isinstance(one, pruning.PruningMasks):
            if options:
                raise errors.OptionError(f"options {sorted(options)} make masks, and masks were given; leave them out.")
        else:
            one = pruning.get_fisher_pruning_masks(importance.as_importance(one), **options)
        if one.task in masks:
            raise errors.OptionError(f"task {one.task!r} was given twice; expected masks of different tasks.")
        masks[one.task] = one
    if len(masks) < 2:
        raise errors.EmptyTaskError(f"there are {len(masks)} tasks to compare; expected two or more.")
    _check_alike(list(masks.values()))
    rows = []
    for one, other in itertools.combinations(masks.values(), 2):
        for label, counts in _levels(one, other):
            row = {"task_a": one.task, "task_b": other.task, **label, **_indices(*counts)}
            rows.append(row | {"advice": _advice(row["adjusted"], low, high)})
    structure = next(iter(masks.values())).structure
    attributes = {"structure": structure, "merge_thresholds": [low, high], "advice_note": ADVICE_NOTE, "advice": ADVICE}
    return MaskOverlap(masks=masks, rows=tuple(rows), attributes=attributes)


def expected_jaccard(num_units: int, size_a: int, size_b: int) -> float:
    r"""Mean Jaccard index of two random subsets of given sizes, exactly: :math:`\sum_x P(X = x)\, x / (a + b - x)`.

    NaN where both sets are empty. Terms further than 12 standard deviations from the mean are left out; they are below the
    rounding of the others.

    Example:
        >>> round(expected_jaccard(4, 2, 2), 6)  # 4 of 6 subsets share one of three, 1 both, 1 none
        0.388889
    """
    if not 0 <= min(size_a, size_b) <= max(size_a, size_b) <= num_units:
        raise errors.OptionError(f"sets of {size_a} and {size_b} among {num_units} units do not exist.")
    if not size_a + size_b:
        return float("nan")
    from scipy.stats import hypergeom

    mean = size_a * size_b / num_units
    spread = np.sqrt(mean * (1 - size_a / num_units) * (1 - size_b / num_units) * num_units / max(1, num_units - 1))
    low = max(0, size_a + size_b - num_units, int(mean - 12 * spread) - 40)
    high = min(size_a, size_b, int(mean + 12 * spread) + 40)
    shared = np.arange(low, high + 1)
    chance = hypergeom.pmf(shared, num_units, size_a, size_b)
    chance /= chance.sum()  # lgamma of large numbers costs digits, the same for all terms
    return float((chance * shared / (size_a + size_b - shared)).sum())


def load_mask_overlap(path: PathLike) -> MaskOverlap:
    """Load what :meth:`MaskOverlap.save` wrote, checked.

    Args:
        path: The file.

    Returns:
        The result, equal to the one that was saved.

    Raises:
        ResultFileError: If the file is not such a result, or is damaged.
        OSError: If it cannot be opened.
    """
    content, arrays = result_file.read(path, format_name=FORMAT_NAME, format_version=FORMAT_VERSION)
    with result_file.consistent(path, "does not hold a consistent overlap"):
        masks = {}
        for number, described in enumerate(content["tasks"]):
            weights, config = parts.read_layout(described)
            found = {one.param_name: torch.from_numpy(arrays[f"{number}.{one.param_name}"]) for one in weights}
            fields = {name: described[name] for name in ("task", "rows", "attributes")}
            masks[described["task"]] = pruning.PruningMasks(masks=found, weights=weights, config=config, **fields)
        return MaskOverlap(masks=masks, rows=tuple(content["rows"]), attributes=content["attributes"])


def _check_alike(masks: Sequence[PruningMasks]) -> None:
    first, *others = masks
    for one in others:
        if (one.structure, set(one.weights)) != (first.structure, set(first.weights)):
            raise errors.ShapeError(
                f"masks of {first.task!r} are of {len(first.weights)} weights, {first.structure}; those of {one.task!r} of "
                f"{len(one.weights)}, {one.structure}, or of other weights. Make them from the same model in the same way."
            )


def _levels(one: PruningMasks, other: PruningMasks) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield ``(labels, (units, size of one, size of other, both))`` for all, each layer and each block."""
    units_a, units_b = one.units(), other.units()
    by_layer: dict[Any, Any] = {}
    for key, flags in units_a.items():
        counts = np.array([flags.size, flags.sum(), units_b[key].sum(), (flags & units_b[key]).sum()], np.int64)
        by_layer[key[0]] = by_layer.get(key[0], 0) + counts
    yield {"level": "all", "layer": None, "block": None}, sum(by_layer.values())
    for layer, counts in by_layer.items():
        yield {"level": "layer", "layer": layer, "block": None}, counts
    if one.structure == "unstructured" and one.config is not None:
        by_block: dict[str, Any] = dict.fromkeys(parts.BLOCKS, 0)
        for weight in one.weights:
            axis, blocks = parts.blocks_along(weight, one.config)
            a, b = (masks.masks[weight.param_name] for masks in (one, other))
            along = [parts.axis_sums(mask, axis) for mask in (torch.ones_like(a), a, b, a & b)]
            for block in set(blocks):
                by_block[block] = by_block[block] + np.array([sums[blocks == block].sum() for sums in along])
        for block, counts in by_block.items():
            if np.any(counts):
                yield {"level": "block", "layer": None, "block": block}, counts


def _indices(num_units: int, size_a: int, size_b: int, both: int) -> dict[str, float | None]:
    num_units, size_a, size_b, both = (int(count) for count in (num_units, size_a, size_b, both))
    either = size_a + size_b - both
    found = {"num_units": num_units, "size_a": size_a, "size_b": size_b, "both": both, "either": either}
    if not either:
        return found | {"jaccard": None, "expected": None, "adjusted": None}
    jaccard, expected = both / either, expected_jaccard(num_units, size_a, size_b)
    certain = max(size_a, size_b) == num_units or not min(
        size_a, size_b
    )  # no choice of sets could have given another J
    return found | {
        "jaccard": jaccard,
        "expected": expected,
        "adjusted": None if certain else (jaccard - expected) / (1 - expected),
    }


def _advice(adjusted: float, low: float, high: float) -> str:
    if adjusted is None:
        return "none"
    return "apart" if adjusted < low else "shared" if adjusted >= high else "partly"
