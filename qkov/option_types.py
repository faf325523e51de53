"""Names for the types of arguments: options that are words, losses, batches, samples' ids. Nothing here is needed at run time.

Where a function checks a word against a tuple of the package, the words here are those of the tuple; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import os

    import numpy as np
    import torch

Block: TypeAlias = Literal["Q", "K", "V", "O"]

# the metric
Variant: TypeAlias = Literal["unsigned", "natural", "signed", "symmetric", "dot", "full", "kfac"]
FisherPool: TypeAlias = Literal["A", "B", "pooled"]
FisherSource: TypeAlias = Literal["contributions", "ema", "head"]
Aggregate: TypeAlias = Literal["mean", "sum"]
ContributionNormalisation: TypeAlias = Literal["tokens", "none"]
GradNormalisation: TypeAlias = Literal["none", "per_token"]
Tiling: TypeAlias = Literal["fast", "fixed"]

# collection
NonFinite: TypeAlias = Literal["error", "skip"]
StoreForm: TypeAlias = Literal["smaller", "factors"]
StoreDtype: TypeAlias = Literal["float32", "float64", "bfloat16"]
GroupFisherMode: TypeAlias = Literal["ema", "welford"]

# tests, steps and conflicts
Alternative: TypeAlias = Literal["greater", "less", "two-sided"]
Adjustment: TypeAlias = Literal["fdr_bh", "fdr_by", "holm", "bonferroni"]
Optimiser: TypeAlias = Literal["sgd", "adam", "sign"]
Curvature: TypeAlias = Literal["none", "diagonal", "gradient"]
PredictionEstimand: TypeAlias = Literal["step", "population"]
ScalingMethod: TypeAlias = Literal["diagonal", "kfac", "full"]
ScalingAverage: TypeAlias = Literal["none", "mean"]
ConflictGroups: TypeAlias = Literal["head", "block", "layer", "all"]
ConflictMetric: TypeAlias = Literal["natural", "euclidean"]
AdviceMethod: TypeAlias = Literal["leave_out", "reweight", "project"]

# importance, masks and merging
ImportanceNormalisation: TypeAlias = Literal["none", "layer", "global"]
Saliency: TypeAlias = Literal["fisher", "fisher_weight"]
ImportanceLevel: TypeAlias = Literal["head", "channel", "weight", "layer"]
RankBy: TypeAlias = Literal["sum", "mean"]
Structure: TypeAlias = Literal["head", "channel", "unstructured"]
Scope: TypeAlias = Literal["layer", "global"]
Rule: TypeAlias = Literal["count", "quantile"]
Keep: TypeAlias = Literal["highest", "lowest"]
FisherScale: TypeAlias = Literal["none", "mean"]

# planning
PlanKeep: TypeAlias = Literal["memory", "disk"]
PlanTiming: TypeAlias = Literal["measure", "skip"]

SampleId: TypeAlias = int | str
Slices: TypeAlias = "np.ndarray | Sequence[np.ndarray]"  # [samples, parameters] of one slice, or of each
PathLike: TypeAlias = "str | os.PathLike[str]"
MemoryBudget: TypeAlias = int | str  # bytes, or a size such as "8GB"
Batch: TypeAlias = Mapping[str, Any]  # tensors whose first axis is the sample, and what is passed along
Batches: TypeAlias = Batch | Iterable[Batch]
LossFunction: TypeAlias = "Callable[[Any, Any], torch.Tensor | tuple[torch.Tensor, torch.Tensor]]"


class Link(Protocol):
    """How one of several processes talks to the others; see :mod:`qkov.links`."""

    rank: int
    size: int

    def gather(self, data: Any) -> list[Any]:
        """Return what everybody said, in the order of ranks."""

    def broadcast(self, array: np.ndarray, source: int) -> None:
        """Fill an array of every rank with that of one."""

    def close(self) -> None:
        """Leave the others."""
