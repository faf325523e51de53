r"""Are two tasks alike in a slice? All relabelings of all slices, as matrix products.

With two tasks alone, this is all that can be asked. On real gradients nearly every slice answers no: tasks differ. That
is not interference, for which :func:`qkov.statistics.source.test_source` needs a reference task.

The statistics of all relabelings of a slice are one matrix product, see :mod:`qkov.statistics.pair_forms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formula import require_choice
from . import head_result, pair_forms, relabelings, slices
from .clusters import read_clusters, require_disjoint

if TYPE_CHECKING:
    from ..option_types import Slices
    from .clusters import Clusters
    from .head_result import HeadTest


STATISTICS = ("sym", "asym")
SCALE_DRAWS = 512


def test_exchange(
    g_a: Slices,
    g_b: Slices,
    *,
    clusters_a: Sequence[Any] | str | None,
    clusters_b: Sequence[Any] | str | None,
    statistic: str = "sym",
    n_permutations: int | None = None,
    seed: int,
) -> HeadTest:
    r"""Test for every slice whether two tasks are identically distributed.

    .. math:: sym = \overline{AA} + \overline{BB} - \overline{AB} - \overline{BA}, \quad
              asym = \overline{AB} - \overline{BA}

    of the scores :math:`S_{ij}` of :func:`qkov.statistics.slices.pair_scores`, averaged over pairs of samples of
    different clusters. Each slice is divided by the standard deviation of its statistic over relabelings drawn apart (for
    sym, their mean is taken off first), so that max-T compares like with like.

    Args:
        g_a, g_b: Gradients, ``[samples, slices, parameters]``, or a list of ``[samples, parameters]``.
        clusters_a, clusters_b: One label per sample, or "iid" if samples are independent.
        statistic: "sym": do they differ (one-sided, large values). "asym": which is the source of the other
            (two-sided).
        n_permutations: Relabelings; by default as for :func:`~qkov.statistics.source.test_source`.
        seed: Of the relabelings, a non-negative int.

    Returns:
        :class:`~qkov.statistics.head_result.HeadTest`; ``effect`` is
        :math:`\log(\overline{AB} / \sqrt{\overline{AA}\,\overline{BB}})` for "sym" (AB averaged over both directions),
        :math:`\log(\overline{AB} / \overline{BA})` for "asym".

    Raises:
        StatisticsError: Without clusters, with fewer than two per task, with a cluster in both tasks, or without a seed.
        ShapeError, NonFiniteError: For gradients that do not belong together or are not numbers.
    """
    require_choice("statistic", statistic, STATISTICS)
    seed = relabelings.checked_seed(seed)
    a = read_clusters(clusters_a, slices.num_samples("g_a", g_a), "task A")
    b = read_clusters(clusters_b, slices.num_samples("g_b", g_b), "task B")
    require_disjoint(a, b, "task A", "task B")
    test = Exchange(slices.num_slices("g_a", g_a), a, b, statistic=statistic, n_permutations=n_permutations, seed=seed)
    for pair in slices.by_slice(g_a=g_a, g_b=g_b):
        test.add(slices.pair_scores(np.concatenate(pair)))
    return test.result()


test_exchange.__test__ = False  # type: ignore[attr-defined]  # pytest collects functions by name


class Exchange:
    """The test for slices that come one at a time, so that no more than one need be held.

    Args:
        num_slices: How many will come.
        a, b: The tasks' :class:`~qkov.statistics.clusters.Clusters`.
        statistic, n_permutations, seed: As for :func:`test_exchange`.
    """

    def __init__(
        self,
        num_slices: int,
        a: Clusters,
        b: Clusters,
        *,
        statistic: str = "sym",
        n_permutations: int | None = None,
        seed: int,
    ) -> None:
        number = relabelings.default_number(num_slices) if n_permutations is None else n_permutations
        drawn = relabelings.draw(a.number, b.number, number, seed)
        sizes = np.concatenate([a.sizes, b.sizes])
        is_a = np.arange(len(sizes)) < a.number
        # The scale does not depend on which labelling is the given one: it takes all of them, or others drawn apart.
        apart = (
            np.concatenate([is_a[None], drawn.first])
            if drawn.exhaustive
            else relabelings.draw_apart(a.number, b.number, SCALE_DRAWS, seed)
        )
        self._drawn, self._statistic, self._seed = drawn, statistic, seed
        self._codes, self._tasks = np.concatenate([a.codes, a.number + b.codes]), (a, b)
        self._all, self._given, self._apart = (
            pair_forms.Labellings.of(first, sizes) for first in (drawn.first, is_a[None], apart)
        )
        self._observed, self._effects = np.full((2, num_slices), np.nan)
        self._null = np.full((len(drawn.first), num_slices), np.nan)
        self._next = 0

    def add(self, pairs: np.ndarray) -> None:
        """Take the next slice's scores of all pairs, ``[samples of A and then of B, the same]``."""
        one, self._next = self._next, self._next + 1
        if np.isnan(pairs).any():
            return
        form = pair_forms.PairForm.of(pairs, self._codes)
        value = form.sym if self._statistic == "sym" else form.asym
        spread = value(self._apart)
        # "asym" is centred already: swapping both tasks negates it, and its sign is the direction.
        centre = spread.mean() if self._statistic == "sym" else 0.0
        scale = np.sqrt(np.square(spread - centre).mean())
        if not scale > 1e-12 * np.abs(spread).max():
            return
        self._observed[one] = (value(self._given)[0] - centre) / scale
        self._null[:, one] = (value(self._all) - centre) / scale
        self._effects[one] = effect(pairs, self._codes, self._tasks[0].number, self._statistic)

    def result(self) -> HeadTest:
        """Return the :class:`~qkov.statistics.head_result.HeadTest` of the slices taken so far."""
        a, b = self._tasks
        return head_result.assemble(
            self._observed,
            self._effects,
            self._null,
            self._drawn,
            alternative="greater" if self._statistic == "sym" else "two-sided",
            symmetric=a.number == b.number,
            seed=self._seed,
            unit="clusters" if a.labels or b.labels else "samples, taken as independent",
            **_WORDS[self._statistic],
        )


_SHARED = {"null_statement": "A and B are identically distributed in the slice"}
_WORDS = {
    "sym": _SHARED
    | {
        "claim": "the tasks differ here; not that one interferes with the other, which needs a reference task",
        "effect_name": "log(AB / sqrt(AA BB)), AB averaged over both directions",
    },
    "asym": _SHARED
    | {
        "claim": "the tasks differ in which is sensitive where the other changes; not that one interferes with the other",
        "effect_name": "log(AB / BA)",
    },
}


def effect(pairs: np.ndarray, codes: np.ndarray, num_a: int, statistic: str) -> float:
    """Return a log ratio of mean scores over pairs of samples of different clusters."""
    is_a = codes < num_a
    apart = codes[:, None] != codes[None]
    means = {
        name: pairs[np.ix_(rows, columns)][apart[np.ix_(rows, columns)]].mean()
        for name, rows, columns in (("AA", is_a, is_a), ("BB", ~is_a, ~is_a), ("AB", is_a, ~is_a), ("BA", ~is_a, is_a))
    }
    logs = {name: slices.log(mean) for name, mean in means.items()}
    if statistic == "asym":
        return logs["AB"] - logs["BA"]
    return slices.log((means["AB"] + means["BA"]) / 2) - (logs["AA"] + logs["BB"]) / 2
