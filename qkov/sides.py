"""The samples of one task as scores need them: what makes their Fisher, its mean over a block, sizes and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from . import fisher, gradients, shards

if TYPE_CHECKING:
    from .collector import FisherCollector
    from .geometry import AttentionLayout, Projection
    from .samples import Sample
    from .score_options import ScoreOptions


class Side:
    """One task's samples with what every slice needs of them: token counts, and the samples and weights of its Fisher.

    ``fisher_members`` make F; they are the task's own samples unless others are given. ``kept`` and ``stacks`` hold
    what the slices of one projection share, ``buffers`` memory that one slice leaves to the next.
    """

    if TYPE_CHECKING:
        rows: Sequence[int] | Any  # None where only the Fisher is wanted
        kept: dict[Any, Any]
        stacks: dict[Any, Any]
        buffers: dict[Any, Any]
        _means: dict[Any, Any]
        _wide: dict[Any, Any]

    def __init__(
        self,
        members: Sequence[Sample],
        rows: Sequence[int] | None,
        options: ScoreOptions,
        fisher_members: Sequence[Sample] | None = None,
    ) -> None:
        self.members, self.rows = members, rows
        self.fisher_members = members if fisher_members is None else fisher_members
        self.tokens, self.fisher_tokens = (
            torch.tensor([one.num_tokens for one in some], device=options.device)
            for some in (self.members, self.fisher_members)
        )
        self.weights = fisher.sample_weights(len(self.fisher_members), options.fisher_source, options.ema_decay)
        self.kept, self.stacks, self.buffers, self._means, self._wide = {}, {}, {}, {}, {}

    @classmethod
    def of_task(
        cls,
        collector: FisherCollector,
        task: str,
        rows: Sequence[int] | None,
        options: ScoreOptions,
        fisher_tasks: Mapping[str, str] | None = None,
    ) -> Side:
        """The side of a collected task; ``fisher_tasks`` names the task whose samples make its F, where not its own."""
        other = (fisher_tasks or {}).get(task)
        return cls(collector.samples(task), rows, options, None if other is None else collector.samples(other))

    @property
    def owns_fisher(self) -> bool:
        """Whether F is made by the task's own samples."""
        return self.fisher_members is self.members

    @property
    def all_members(self) -> Sequence[Sample]:
        """Its samples, and those that make its F."""
        return self.members if self.owns_fisher else [*self.members, *self.fisher_members]

    def is_wide(self, projection: Projection) -> bool:
        """Whether any sample was collected in float64 at a projection."""
        name = projection.module_name
        if name not in self._wide:
            self._wide = {name: gradient_dtype(self.all_members, projection) == torch.float64}
        return self._wide[name]

    def block_mean(self, layout: AttentionLayout, projection: Projection, options: ScoreOptions) -> float:
        """Mean of F over all heads of a layer and block, a float: what relative damping is relative to."""
        key = layout.layer, projection.block, options.include_bias, options.contribution_normalisation
        if key not in self._means:
            self._means[key] = self._block_mean(layout, projection, options)
        return self._means[key]

    def _block_mean(self, layout: AttentionLayout, projection: Projection, options: ScoreOptions) -> float:
        total = 0.0
        for one, weight in zip(self.fisher_members, self.weights.tolist(), strict=True):
            key = (layout.layer, projection.block)
            if key not in one.squared_norms:
                norms = gradients.squared_norms(one.factors, layout)
                one.squared_norms.update({(layout.layer, block): norm for block, norm in norms.items()})
            norm = one.squared_norms[key]
            if options.include_bias and projection.bias_name:
                norm += gradients.squared_bias_norm(one.factors, projection)
            done_with(one, options)
            tokens = one.num_tokens if options.contribution_normalisation == "tokens" else 1
            total += weight * norm / tokens
        return total / (projection.num_units * num_parameters(projection, options))


def num_parameters(projection: Projection, options: ScoreOptions) -> int:
    """Number of parameters of one slice of a projection."""
    rows, columns = projection.weight_shape
    other = columns if projection.head_axis == 0 else rows
    return projection.width * (other + (1 if options.include_bias and projection.bias_name else 0))


def factors_about(one: Sample, module_name: str) -> tuple[int, torch.dtype]:
    """Return ``(tokens, dtype)`` of a sample's factors at a module; where they are on disk, they are not read."""
    if isinstance(one.factors, shards.Shard):
        return one.factors.about(module_name)
    pair = one.factors[module_name]
    return len(pair.deltas), pair.deltas.dtype


def done_with(one: Sample, options: ScoreOptions) -> None:
    """Let go of what was read of a stored sample, where memory is short."""
    if options.reads == "again" and isinstance(one.factors, shards.Shard):
        one.factors.forget()


def gradient_dtype(members: Sequence[Sample], projection: Projection) -> torch.dtype:
    """Return the precision in which slices of these samples are built: float64 if any was collected so, else float32."""
    wide = any(factors_about(one, projection.module_name)[1] == torch.float64 for one in members)
    return torch.float64 if wide else torch.float32
