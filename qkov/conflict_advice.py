r"""What to leave out of task B, or to weigh less, so that its mean gradient no longer opposes task A's: a heuristic.

With inner products :math:`G` in natural-gradient space, sample j of B moves against A by

.. math:: c_j = \frac1{n_A} \sum_{i \in A} G_{ij}, \qquad \bar h_A \cdot \bar h_B = \frac1{n_B} \sum_j c_j .

============  =======================================================================================================
"leave_out"   drop samples from the most negative c up, until the sum is no longer negative: the fewest that do it
"reweight"    weights in [0, 1] with :math:`\sum_j w_j c_j \ge 0`, nearest to 1 in least squares:
              :math:`w_j = \min(1, \max(0, 1 + \lambda c_j))`
"project"     take off B's mean what opposes A's: add :math:`-\min(0, \bar h_A \cdot \bar h_B) / \|\bar h_A\|^2` times
              :math:`\bar h_A` (one step of PCGrad, Yu et al. 2020)
============  =======================================================================================================

Chosen and judged on the same samples of A, each of these looks as if it removed every conflict, in pure noise too. So half
of A's clusters choose, the other half judges, and both figures are shown. First order in the step: no loss is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from . import cosine_summary, errors, escaping, formula
from .statistics import relabelings, splits

if TYPE_CHECKING:
    import pandas as pd

    from .option_types import SampleId


METHODS = ("leave_out", "reweight", "project")
STREAM = 10
NOTE = (
    "A heuristic, to first order in the step. Chosen and judged on the same samples of A it always looks good; believe the "
    "row that was judged on held-out clusters, and then a training run."
)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ConflictAdvice:
    """What to do with task B.

    Attributes:
        method: One of ``METHODS``. groups: Labels of the groups it looks at, None for all weights.
        sample_b: Ids. weights: float64 ``[n_b]`` from 0 (leave out) to 1 (as it is), chosen on all of A.
        against: c of each sample, ``[n_b]``.
        coefficient_a: How much of A's mean natural gradient to add to B's; 0 but for "project".
        resolved: Whether the two means no longer oppose each other within ``most``.
        effects: Three dicts: what is ``judged_on`` all of A, on the half that chose, and on the held-out half, each with
            ``dot_before``, ``dot_after``, ``cosine_before``, ``cosine_after`` between A's mean and B's; halves averaged over
            splits.
        seed: Of the splits.
    """

    method: str
    groups: list | None
    sample_b: tuple
    weights: np.ndarray
    against: np.ndarray
    coefficient_a: float
    resolved: bool
    effects: tuple
    seed: int

    @property
    def left_out(self) -> tuple[SampleId, ...]:
        """Ids of samples of weight 0, those most against A first."""
        order = np.argsort(self.against, kind="stable")
        return tuple(self.sample_b[one] for one in order if self.weights[one] == 0)

    @cached_property
    def held_out_change(self) -> dict[str, float]:
        """Change of the cosine between the two means, judged on clusters of A that had no part in choosing."""
        return self.effects[-1]["cosine_after"] - self.effects[-1]["cosine_before"]

    def to_dataframe(self, level: Literal["sample", "effect"] = "sample") -> pd.DataFrame:
        """Return a pandas table: "sample" (a row per sample of B) or "effect" (a row per judgement)."""
        import pandas as pd

        formula.require_choice("level", level, ("sample", "effect"))
        if level == "effect":
            return pd.DataFrame(list(self.effects))
        ids = np.array(self.sample_b, dtype=object)
        return pd.DataFrame({"sample_b": ids, "weight": self.weights, "against": self.against})

    def __repr__(self) -> str:
        last = self.effects[-1]
        lost = len(self.weights) - self.weights.sum()
        done = {
            "leave_out": f"leave out {len(self.left_out)} of {len(self.weights)} samples of B",
            "reweight": f"take off {lost:.3g} of a weight of {len(self.weights)}",
            "project": f"add {self.coefficient_a:.3g} times A's mean gradient",
        }[self.method]
        said = "" if self.resolved else " The conflict is not resolved within these limits."
        return (
            f"<ConflictAdvice {done}.{said} On held-out clusters of A the cosine of the means goes from "
            f"{last['cosine_before']:.3g} to {last['cosine_after']:.3g}; where it was chosen, to "
            f"{self.effects[1]['cosine_after']:.3g}.\n  {NOTE}>"
        )

    def _repr_html_(self) -> str:
        said = f"<p>{escaping.for_html(repr(self))}</p>"
        return escaping.html_block(said, escaping.html_table(self.to_dataframe("effect"), float_format=None))


def advise(
    inner: np.ndarray,
    codes_a: np.ndarray,
    sample_b: Sequence[SampleId],
    *,
    method: str = "leave_out",
    most: float = 0.5,
    n_splits: int = 50,
    seed: int,
    groups: list[str] | None = None,
) -> ConflictAdvice:
    """Choose what to do with B's samples, and judge the choice on held-out clusters of A.

    Args:
        inner: Inner products of A's samples and then B's, ``[n_a + n_b, n_a + n_b]``.
        codes_a: Number of the cluster of each sample of A.
        sample_b: Ids of B's samples.
        method: "leave_out", "reweight" or "project".
        most: Largest share of B that may be lost.
        n_splits: Random splits of A's clusters into halves, each used both ways.
        seed: Of the splits.
        groups: What to record as the groups.

    Returns:
        :class:`ConflictAdvice`.

    Raises:
        OptionError, StatisticsError: For options without meaning, or fewer than two clusters of A.
    """
    formula.require_choice("method", method, METHODS)
    seed = relabelings.checked_seed(seed)
    if not 0 < most < 1:
        raise errors.OptionError(f"most={most!r}; expected a share of B between 0 and 1, such as 0.5.")
    codes_a = np.asarray(codes_a)
    if codes_a.max(initial=-1) < 1:
        raise errors.StatisticsError("task A has one cluster; advice is judged on held-out clusters, so it needs two.")
    n_a = len(codes_a)
    means = _Means(inner[:n_a, :n_a], inner[:n_a, n_a:], inner[n_a:, n_a:])
    everyone = np.full(n_a, 1 / n_a)
    chosen = choose(means, everyone, method, most)
    first = splits.draw_halves(int(codes_a.max()) + 1, n_splits, seed, STREAM)[:, codes_a]
    halves = [cosine_summary.averaging(half) for half in (first, ~first)]
    same, held_out = [], []
    for pair in zip(*halves, strict=True):
        for chooser, judge in (pair, pair[::-1]):
            made = choose(means, chooser, method, most)
            same.append(means.effect(made, chooser))
            held_out.append(means.effect(made, judge))
    effects = (
        {"judged_on": "all of A, which chose", **means.effect(chosen, everyone)},
        {"judged_on": "the half of A that chose", **_averaged(same)},
        {"judged_on": "the other half of A", **_averaged(held_out)},
    )
    scale = np.abs(chosen.against).sum() / len(chosen.against)
    return ConflictAdvice(
        method=method,
        groups=groups,
        sample_b=tuple(sample_b),
        weights=chosen.weights,
        against=chosen.against,
        coefficient_a=chosen.coefficient_a,
        resolved=bool(effects[0]["dot_after"] >= -1e-9 * scale),
        effects=effects,
        seed=seed,
    )


@dataclass(frozen=True)
class Choice:
    """Weights of B's samples, and how much of the mean of A's ``chooser`` samples to add to B's mean."""

    weights: np.ndarray
    coefficient_a: float
    chooser: np.ndarray
    against: np.ndarray


def choose(means: _Means, chooser: np.ndarray, method: str, most: float) -> Choice:
    """Choose on some samples of A.

    Args:
        means: Inner products. chooser: Weights of A's samples that average over those that choose, ``[n_a]``.
        method, most: As for :func:`advise`.
    """
    against = chooser @ means.across
    weights, coefficient = np.ones(len(against)), 0.0
    if against.sum() < 0:
        if method == "leave_out":
            weights = leave_out(against, most)
        elif method == "reweight":
            weights = reweight(against, most)
        else:
            norm = chooser @ means.inside_a @ chooser
            coefficient = -float(against.mean() / norm) if norm > 0 else 0.0
    return Choice(weights, coefficient, chooser, against)


def leave_out(against: np.ndarray, most: float) -> np.ndarray:
    """Drop samples, the most negative first, until what is left does not sum to less than 0; float64 ``[n_b]``."""
    order = np.argsort(against, kind="stable")
    left = against.sum() - np.cumsum(against[order])
    enough = int(np.argmax(left >= 0)) + 1 if (left >= 0).any() else len(against)
    weights = np.ones(len(against))
    weights[order[: min(enough, int(most * len(against)))]] = 0.0
    return weights


def reweight(against: np.ndarray, most: float) -> np.ndarray:
    r"""Weigh samples by ``min(1, max(0, 1 + lambda c))``, the smallest lambda for which the weighted sum is 0.

    Where that loses more than ``most`` of the weight, all losses are scaled down to it.
    """
    negative = np.maximum(-against, 0.0)
    gain = np.maximum(against, 0.0).sum()
    active = negative > 0
    strength = 0.0
    # On the active samples: gain = sum of |c| (1 - lambda |c|). One whose weight falls below 0 is left out, and lambda rises.
    while active.any():
        strength = max(0.0, (negative[active].sum() - gain) / np.square(negative[active]).sum())
        below = active & (strength * negative >= 1)
        if not below.any():
            break
        active &= ~below
    loss = np.where(active, strength * negative, (negative > 0).astype(np.float64))
    return 1.0 - loss * min(1.0, most * len(against) / max(loss.sum(), 1e-300))


@dataclass(frozen=True)
class _Means:
    """Inner products inside A, across, and inside B."""

    inside_a: np.ndarray
    across: np.ndarray
    inside_b: np.ndarray

    def effect(self, choice: Choice, judge: np.ndarray) -> dict[str, float]:
        """Compare B's mean before and after with the mean of A's ``judge`` samples."""
        n_b = len(choice.weights)
        before, after = np.full(n_b, 1 / n_b), choice.weights / choice.weights.sum()
        return {
            f"{name}_{when}": value
            for when, weights, added in (("before", before, 0.0), ("after", after, choice.coefficient_a))
            for name, value in self._compared(judge, weights, added, choice.chooser).items()
        }

    def _compared(self, judge: np.ndarray, weights: np.ndarray, added: float, chooser: np.ndarray) -> dict[str, float]:
        dot = judge @ self.across @ weights + added * (judge @ self.inside_a @ chooser)
        norm = weights @ self.inside_b @ weights + 2 * added * (chooser @ self.across @ weights)
        norm += added**2 * (chooser @ self.inside_a @ chooser)
        product = norm * (judge @ self.inside_a @ judge)
        return {"dot": float(dot), "cosine": float(dot / np.sqrt(product)) if product > 0 else 0.0}


def _averaged(effects: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in effects])) for name in effects[0]}
