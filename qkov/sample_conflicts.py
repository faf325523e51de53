"""The labelled result of looking for conflicts between samples of two tasks: cosines of every pair in every group."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import (
    conflict_advice,
    conflict_clusters,
    cosine_summary,
    errors,
    escaping,
    formula,
    labels,
    natural_gram,
    result_file,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from .conflict_advice import ConflictAdvice
    from .conflict_clusters import SampleClusters
    from .option_types import AdviceMethod, PathLike, SampleId


__all__ = ["SampleConflicts", "load_conflicts"]

FORMAT_NAME = "qkov-sample-conflicts"
FORMAT_VERSION = 1
LEVELS = ("pair", "sample", "group")
NO_PAIR_P = (
    "A pair has no p value: one among n_A x n_B pairs could only be judged against a reference of at least 19 n_A samples. In "
    "noise, half of all cosines are negative: compare with the pairs inside one task."
)
DESCRIPTION = (
    "There is no reference task, so this is a description: no sample and no group is said to be in more conflict than chance "
    "makes it. Pass reference= with a task that could have been in conflict with B just as well."
)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SampleConflicts:
    r"""Cosines between samples of two tasks, group by group, beside those inside each task.

    Groups cut the weights into parts, so that their inner products add up; the last entry of :attr:`labels` and of every
    array by group is "all", the cosine of the sums (not a mean of cosines). A sample without a gradient in a group has no
    cosine there: NaN, left out of means and shares.

    Attributes:
        groups: :class:`qkov.natural_gram.Group` of each part, in the order of the model.
        sample_a, sample_b, sample_r: Sample ids; none of the reference where there is none.
        clusters_a, clusters_b: Number of each sample's cluster, in the order of the ids.
        inner: Inner products of A's samples and then B's, float64 ``[groups, n_a + n_b, n_a + n_b]``.
        mean_cosine_r: Mean cosine of each reference sample with B, ``[n_r, labels]``.
        sample_tests: "p", "q": float64 ``[n_a, labels]``; empty without a reference.
        group_tests: "statistic", "effect", "p", "q", "p_maxt": float64 ``[labels]``; empty without a reference.
        attributes: JSON-able facts: tasks, metric, threshold, claims, notes.

    Raises:
        ShapeError: If an array does not fit the labels.
        SampleIdError: If ids repeat or mix types.
    """

    groups: tuple
    sample_a: tuple
    sample_b: tuple
    sample_r: tuple
    clusters_a: tuple
    clusters_b: tuple
    inner: np.ndarray
    mean_cosine_r: np.ndarray
    sample_tests: dict
    group_tests: dict
    attributes: dict

    def __post_init__(self) -> None:
        for name in ("sample_a", "sample_b", "sample_r"):
            object.__setattr__(self, name, labels.checked_ids(getattr(self, name), name))
        object.__setattr__(self, "attributes", labels.plain_json(self.attributes))
        n_a, n_b, n_r, rows = len(self.sample_a), len(self.sample_b), len(self.sample_r), len(self.labels)
        self._keep("inner", (len(self.groups), n_a + n_b, n_a + n_b))
        self._keep("mean_cosine_r", (n_r, rows))
        for name, shape in (("sample_tests", (n_a, rows)), ("group_tests", (rows,))):
            found = {one: _frozen(one, values, shape) for one, values in sorted(getattr(self, name).items())}
            object.__setattr__(self, name, found)
        if (len(self.clusters_a), len(self.clusters_b)) != (n_a, n_b):
            raise errors.ShapeError(
                f"{len(self.clusters_a)} and {len(self.clusters_b)} cluster numbers for {n_a} and {n_b} samples."
            )

    def _keep(self, name: str, shape: tuple[int, ...]) -> None:
        object.__setattr__(self, name, _frozen(name, getattr(self, name), shape))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the groups, and "all" at the end."""
        names = tuple(group.label for group in self.groups)
        return names if names == (natural_gram.TOTAL,) else (*names, natural_gram.TOTAL)

    @cached_property
    def cosines(self) -> np.ndarray:
        """Cosine of every pair, float64 ``[n_a, n_b, labels]``, K and V once per kv head; NaN without a gradient."""
        n_a = len(self.sample_a)
        return np.ascontiguousarray(np.moveaxis(self._every_cosine[:, :n_a, n_a:], 0, -1))

    def within_cosines(self, side: Literal["a", "b"]) -> np.ndarray:
        """Return the cosine of every pair inside a task, 1 between a sample and itself.

        Args:
            side: "a" or "b".

        Returns:
            Float64 ``[n, n, labels]``.
        """
        mine = self._side(side)
        return np.ascontiguousarray(np.moveaxis(self._every_cosine[:, mine, mine], 0, -1))

    @cached_property
    def _every_cosine(self) -> np.ndarray:
        norms = np.einsum("gii->gi", self._with_total)
        return natural_gram.cosines(self._with_total, norms, norms, floor=self.attributes["noise_floor"])

    def _side(self, side: str) -> slice:
        formula.require_choice("side", side, ("a", "b"))
        n_a = len(self.sample_a)
        return slice(0, n_a) if side == "a" else slice(n_a, None)

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """What is known of every group, name to float64 ``[labels]``.

        ``mean_cosine`` over all pairs, its percentiles ``low``, ``high``, and ``share_below`` the threshold; the same over
        pairs of different clusters inside A (``within_a...``) and inside B (``within_b...``); ``half_cosine``: between the
        mean of half of A's clusters and of half of B's, averaged over random halves, and ``half_cosine_a``,
        ``half_cosine_b``: between the two halves of one task, the most that noise leaves of it; then the tests.
        """
        facts, n_a = self.attributes, len(self.sample_a)
        found = cosine_summary.of_pairs(self.cosines.reshape(-1, len(self.labels)), facts["threshold"])
        for name, codes in (("a", self.clusters_a), ("b", self.clusters_b)):
            pairs = cosine_summary.pairs_apart(self.within_cosines(name), codes)  # type: ignore[arg-type]  # a word that was checked, or is read from a table of them
            inside = cosine_summary.of_pairs(pairs, facts["threshold"])
            found |= {f"within_{name}_{one}": values for one, values in inside.items()}
        halves = cosine_summary.Halves.draw(self.clusters_a, self.clusters_b, facts["n_splits"], facts["split_seed"])
        return found | halves.cosines(self._with_total, n_a) | self.group_tests

    @cached_property
    def _with_total(self) -> np.ndarray:
        """Inner products by label, ``[labels, n_a + n_b, n_a + n_b]``."""
        return self.inner if len(self.labels) == len(self.groups) else natural_gram.with_total(self.inner)

    def sample_means(self, side: Literal["a", "b"]) -> np.ndarray:
        """Return the mean cosine of each sample of a ``side``, "a" or "b", with the other task, float64 ``[n,
        labels]``.
        """
        self._side(side)
        return cosine_summary.mean_known(self.cosines, 1 if side == "a" else 0)

    def inner_of(self, groups: Iterable[str] | str | None = None) -> np.ndarray:
        """Add up the inner products of some groups, ``[n_a + n_b, n_a + n_b]``.

        Args:
            groups: Labels, or None for all.

        Returns:
            Float64 ``[n_a + n_b, n_a + n_b]``, samples of A first.

        Raises:
            OptionError: If a label is not known, or given twice.
        """
        if groups is None:
            return self.inner.sum(0)
        chosen = [groups] if isinstance(groups, str) else list(groups)
        if natural_gram.TOTAL in chosen:
            return self.inner.sum(0)
        names = [group.label for group in self.groups]
        unknown = [name for name in chosen if name not in names]
        if unknown or not chosen or len(set(chosen)) < len(chosen):
            raise errors.OptionError(
                f"groups={groups!r}: expected labels of the result, each once, such as {', '.join(map(repr, names[:3]))}."
            )
        return self.inner[[names.index(name) for name in chosen]].sum(0)

    def in_conflict(self, group: str = natural_gram.TOTAL) -> tuple[SampleId, ...]:
        """List the samples of A that conflict with B more than the reference's do, at the result's q.

        Args:
            group: One group, by its label.

        Returns:
            Their ids.

        Raises:
            StatisticsError: If nothing was tested.
        """
        if not self.sample_tests:
            raise errors.StatisticsError("no sample was tested: " + " ".join(self.attributes["notes"]))
        selected = self.sample_tests["q"][:, self.labels.index(group)] <= self.attributes["q"]
        return tuple(itertools.compress(self.sample_a, selected))

    def advice(
        self,
        *,
        method: AdviceMethod = "leave_out",
        groups: Iterable[str] | None = None,
        most: float = 0.5,
        n_splits: int = 50,
        seed: int,
    ) -> ConflictAdvice:
        """Suggest what to do with B; see :func:`qkov.conflict_advice.advise`, a heuristic judged on held-out clusters of A.

        Args:
            method, groups, most, n_splits, seed: As for :func:`qkov.conflict_advice.advise`.

        Returns:
            A :class:`qkov.conflict_advice.ConflictAdvice`.
        """
        return conflict_advice.advise(
            self.inner_of(groups), np.array(self.clusters_a), self.sample_b,
            method=method, most=most, n_splits=n_splits, seed=seed,
            groups=None if groups is None else [groups] if isinstance(groups, str) else list(groups),
        )  # fmt: skip

    def cluster_samples(self, num_clusters: int = 4, *, groups: Iterable[str] | None = None) -> SampleClusters:
        """Group samples of both tasks by the direction of their gradients; see :mod:`qkov.conflict_clusters`: no p value.

        Args:
            num_clusters: How many groups of samples.
            groups: Labels of groups of weights, or None for all.

        Returns:
            A :class:`qkov.conflict_clusters.SampleClusters`.
        """
        inner = self.inner_of(groups)
        norms = np.diag(inner)
        facts = self.attributes
        return conflict_clusters.cluster_samples(
            natural_gram.cosines(inner, norms, norms, floor=facts["noise_floor"]),
            [*((facts["task_a"], one) for one in self.sample_a), *((facts["task_b"], one) for one in self.sample_b)],
            num_clusters,
        )

    def to_dataframe(self, level: Literal["pair", "sample", "group"] = "group") -> pd.DataFrame:
        """Return a pandas table with a row per group, per sample and group, or per pair and group.

        Args:
            level: "group", "sample" or "pair".

        Returns:
            A pandas ``DataFrame``.

        Raises:
            OptionError: If the level is not known.
        """
        import pandas as pd

        if level not in LEVELS:
            raise errors.OptionError(f"level={level!r} is not known; expected one of {', '.join(map(repr, LEVELS))}.")
        places = self._places()
        if level == "group":
            table = pd.DataFrame(places | self.columns)
        elif level == "sample":
            table = pd.concat([self._sample_table(side, places) for side in ("a", "b")], ignore_index=True)
        else:
            n_a, n_b, rows = self.cosines.shape
            table = pd.DataFrame({
                "sample_a": np.repeat(np.array(self.sample_a, dtype=object), n_b * rows),
                "sample_b": np.tile(np.repeat(np.array(self.sample_b, dtype=object), rows), n_a),
                **{name: np.tile(np.array(values, dtype=object), n_a * n_b) for name, values in places.items()},
                "cosine": self.cosines.ravel(),
            })  # fmt: skip
        table = table.astype({name: "Int64" for name in ("layer", "head", "kv_head")})
        table.attrs = dict(self.attributes)
        return table

    def _sample_table(self, side: Literal["a", "b"], places: Mapping[str, Any]) -> pd.DataFrame:
        import pandas as pd

        ids = self.sample_a if side == "a" else self.sample_b
        rows, cosines = len(self.labels), self.cosines if side == "a" else self.cosines.swapaxes(0, 1)
        tests = {name: values.ravel() for name, values in self.sample_tests.items()} if side == "a" else {}
        return pd.DataFrame({
            "task": self.attributes[f"task_{side}"],
            "sample": np.repeat(np.array(ids, dtype=object), rows),
            "cluster": np.repeat(self.clusters_a if side == "a" else self.clusters_b, rows),
            **{name: np.tile(np.array(values, dtype=object), len(ids)) for name, values in places.items()},
            "mean_cosine": self.sample_means(side).ravel(),
            "share_below": cosine_summary.share_below(cosines, self.attributes["threshold"], 1).ravel(),
            **{name: tests.get(name, np.nan) for name in ("p", "q")},
        })  # fmt: skip

    def _places(self) -> dict[str, list[Any]]:
        groups = [*self.groups, *([natural_gram.Group()] * (len(self.labels) - len(self.groups)))]
        own_kv = [group.block in ("K", "V") for group in groups]
        return {
            "group": list(self.labels),
            "layer": [group.layer for group in groups],
            "block": [group.block for group in groups],
            "head": [None if own else group.unit for own, group in zip(own_kv, groups, strict=True)],
            "kv_head": [group.unit if own else None for own, group in zip(own_kv, groups, strict=True)],
        }

    def plot(self) -> Figure:
        """Draw mean cosines by group beside what is usual inside each task; a matplotlib ``Figure``."""
        from . import conflict_plots

        return conflict_plots.plot_conflicts(self)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the result, in hex."""
        return result_file.digest(*self._parts())

    def __eq__(self, other: object) -> bool:
        return self.fingerprint == other.fingerprint if isinstance(other, SampleConflicts) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and so without a hash

    def save(self, path: PathLike) -> Path:
        """Write one safetensors file to ``path``, atomically; equal results give equal bytes. Returns the path."""
        return result_file.write(path, *self._parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        content: dict[str, Any] = {name: list(getattr(self, name)) for name in ("sample_a", "sample_b", "sample_r")}
        content |= {name: [int(one) for one in getattr(self, name)] for name in ("clusters_a", "clusters_b")}
        content |= {"groups": [vars(group) for group in self.groups], "attributes": self.attributes}
        arrays = {"inner": self.inner, "mean_cosine_r": self.mean_cosine_r}
        for name in ("sample_tests", "group_tests"):
            arrays |= {f"{name}.{one}": values for one, values in getattr(self, name).items()}
        return content, arrays

    def conclusion(self) -> str:
        """Say in words what was found, and what may not be concluded."""
        facts, found = self.attributes, {name: values[-1] for name, values in self.columns.items()}
        a, b = facts["task_a"], facts["task_b"]
        inside_a, inside_b = (
            f"inside {side.upper()} {found[f'within_{side}_mean_cosine']:.3g} ({found[f'within_{side}_share_below']:.0%})"
            for side in ("a", "b")
        )
        said = (
            f"{len(self.sample_a)} samples of {a!r} (A) x {len(self.sample_b)} of {b!r} (B), {len(self.groups)} groups. Over "
            f"all weights, the mean cosine across tasks is {found['mean_cosine']:.3g} ({found['share_below']:.0%} of pairs "
            f"below {facts['threshold']:g}); {inside_a}, {inside_b}. Means of halves: A with B {found['half_cosine']:.3g}, "
            f"A with A {found['half_cosine_a']:.3g}, B with B {found['half_cosine_b']:.3g}."
        )
        if self.sample_tests:
            count = len(self.in_conflict())
            said += (
                f" {count} of {len(self.sample_a)} samples of A are in more conflict with B than those of "
                f"{facts['reference_task']!r} are (q <= {facts['q']:g})."
            )
        return said

    def __repr__(self) -> str:
        said = "".join(f"\n  {sentence}" for sentence in self.attributes["notes"])
        return escaping.for_terminal(f"<SampleConflicts {self.conclusion()}{said}>")

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escaping.for_html(sentence)}</p>" for sentence in self.attributes["notes"])
        names = ["group", "mean_cosine", "share_below", "within_a_mean_cosine", "within_b_mean_cosine"]
        names += ["p", "q"] if self.group_tests else []
        lowest = self.to_dataframe()[names].sort_values("mean_cosine", kind="stable").head(10)
        said = f"<p><b>SampleConflicts</b> {escaping.for_html(self.conclusion())}</p>"
        return escaping.html_block(said, notes, escaping.html_table(lowest))


def load_conflicts(path: PathLike) -> SampleConflicts:
    """Load what :meth:`SampleConflicts.save` wrote, checked.

    Args:
        path: The file.

    Returns:
        The result, equal to the one that was saved.

    Raises:
        ResultFileError: If the file is not such a result, is damaged, or contradicts itself.
        OSError: If it cannot be opened.
    """
    content, arrays = result_file.read(path, format_name=FORMAT_NAME, format_version=FORMAT_VERSION)
    with result_file.consistent(path, "is not a consistent result of conflicts"):
        tests: dict[str, Any] = {
            name: {one.partition(".")[2]: values for one, values in arrays.items() if one.startswith(f"{name}.")}
            for name in ("sample_tests", "group_tests")
        }
        return SampleConflicts(
            groups=tuple(natural_gram.Group(**group) for group in content["groups"]),
            attributes=content["attributes"],
            inner=arrays["inner"],
            mean_cosine_r=arrays["mean_cosine_r"],
            **{name: tuple(content[name]) for name in ("sample_a", "sample_b", "sample_r", "clusters_a", "clusters_b")},  # type: ignore[arg-type]  # a mapping is enough
            **tests,
        )


def _frozen(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if np.shape(values) != shape:
        raise errors.ShapeError(f"{name} has shape {np.shape(values)}; expected {shape}.")
    values = np.add(values, 0.0, dtype=np.float64, order="C")  # a copy, and -0.0 becomes 0.0
    values[np.isnan(values)] = np.nan  # one NaN of the many bit patterns
    values.flags.writeable = False
    return values
