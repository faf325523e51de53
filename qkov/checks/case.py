"""What a check is run on: a model, two batches, its loss, and the few operations that every check needs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import collector, gradients, interference, latent_attention, layout, losses, reference, reproducibility, samples
from .measurement import ROUNDED, NotRun, bound

if TYPE_CHECKING:
    from torch import nn

    from ..collector import FisherCollector
    from ..geometry import AttentionLayout
    from ..heatmap import Heatmap
    from ..interference import QKOVInterferenceMetric
    from ..layout import QKOVConfig
    from ..option_types import Batch, LossFunction


@dataclass(frozen=True, eq=False)
class Case:
    """A model with two small batches.

    Attributes:
        name: For reports.
        model: The model under test; every check leaves it as it was.
        batch_a, batch_b: Mappings of tensors with leading axis N.
        loss_fn: As for ``FisherCollector.collect_fisher``; None is causal language modelling.
        attention: Which kind of attention, in a model with several.
        twin: ``twin(model)`` builds the same function with one K and V per query head, where somebody wrote it.
    """

    name: str
    model: torch.nn.Module
    batch_a: Mapping
    batch_b: Mapping
    loss_fn: Callable | None = None
    twin: Callable | None = None
    attention: str | None = None
    _references: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", layout.uncompiled(self.model))

    @property
    def config(self) -> QKOVConfig:
        """The model's layout, read anew."""
        return layout.QKOVConfig.from_model(self.model, attention=self.attention)

    def coupled(self) -> NotRun | None:
        """Say which norm makes the heads of a layer depend on each other, whatever the map; else None."""
        for one, name, norm in self._norms():
            if one.num_heads > 1 and norm.weight.numel() > max(one.head_dim, one.v_head_dim):
                return NotRun(f"the norm {name} spans several heads, which so depend on each other")
        return None

    def shifted(self) -> NotRun | None:
        """Say which norm gives an absent query or key a direction by its bias; else None."""
        for _, name, norm in self._norms():
            if getattr(norm, "bias", None) is not None:
                return NotRun(f"the norm {name} has a bias, which gives an absent query or key a direction")
        return None

    def _norms(self) -> Iterator[tuple[AttentionLayout, Any, Any]]:
        """Norms beside the query projection of each attention module: those that see queries, keys or outputs."""
        modules = dict(self.model.named_modules())
        for one in self.config.layers:
            around = one.projection("Q").module_name.removesuffix(".base_layer").rpartition(".")[0]
            if one.packing == latent_attention.PACKING:
                continue  # its norms see latents, the key that all heads share, or what an indexer reads: no head's own
            for name, module in modules[around].named_modules(prefix=around):
                if "norm" in type(module).__name__.lower() and getattr(module, "weight", None) is not None:
                    yield one, name, module

    def gated(self) -> NotRun | None:
        """Say that the query projection holds rows of no block, a gate of each head; else None."""
        for one in self.config.layers:
            query = one.projection("Q")
            if (
                one.packing in ("split", latent_attention.PACKING)
                and query.weight_shape[query.head_axis] > query.num_units * query.width
            ):
                return NotRun("the query projection also holds rows of a gate, which belong to no block")
        return None

    def adapters(self) -> NotRun | None:
        """Say why weights cannot be changed by themselves, where adapters add to them; else None."""
        names = {projection.module_name for one in self.config.layers for projection in one.projections}
        if any(name.endswith(".base_layer") for name in names):
            return NotRun("projections carry adapters, which the change of weights would have to move too")
        return None

    @functools.cached_property
    def precision(self) -> str:
        """In which precision the model computes: "exact", "mixed" or "single"; see ``measurement.BOUNDS``."""
        if next(self.model.parameters()).dtype != torch.float64:
            return "single"
        attention = getattr(getattr(self.model, "config", None), "_attn_implementation", None)
        return "mixed" if attention == "eager" else "exact"

    @functools.cached_property
    def conditioning(self) -> float:
        """By how much this model loosens float32 bounds: 1, or more where plain autograd in float32 is itself far off.

        Twice the error of one-by-one autograd in the model's own dtype against float64, over the bound of gradients.
        Deep and trained models amplify rounding; no way of collecting gradients can undo that.
        """
        if self.precision != "single":
            return 1.0
        worst = 0.0
        for batch, task in ((self.batch_a, "a"), (self.batch_b, "b")):
            exact, _ = self.reference(task)
            rounded, _ = reference.sample_gradients(self.model, batch, self.loss_fn, dtype=None)
            for name in self._projection_weights():
                largest = max(np.abs(grad[name]).max() for grad in exact)
                for one, other in zip(rounded, exact, strict=True):
                    worst = max(worst, np.abs(one[name] - other[name]).max() / largest if largest else 0.0)
        return max(1.0, 2 * worst / bound("gradient", "single"))

    def bound(self, name: str) -> float:
        """Return the bound of a kind of comparison on this case, by its ``name`` in ``measurement.BOUNDS``."""
        return bound(name, self.precision) * (self.conditioning if name in ROUNDED else 1.0)

    def _projection_weights(self) -> set[str]:
        return {projection.param_name for one in self.config.layers for projection in one.projections}

    def collect(
        self,
        *,
        model: nn.Module | None = None,
        batch_a: Batch | None = None,
        batch_b: Batch | None = None,
        loss_a: LossFunction | None = None,
        loss_b: LossFunction | None = None,
        **options: Any,
    ) -> FisherCollector:
        """Collect both tasks, "a" and "b", into a fresh collector.

        Args:
            model, batch_a, batch_b, loss_a, loss_b: In place of the case's own.
            options: As for ``collect_fisher``.

        Returns:
            The collector.
        """
        model = self.model if model is None else model
        held = collector.FisherCollector(attention=self.attention)
        for task, batch, loss in (
            ("a", self.batch_a if batch_a is None else batch_a, loss_a or self.loss_fn),
            ("b", self.batch_b if batch_b is None else batch_b, loss_b or self.loss_fn),
        ):
            held.collect_fisher(model, batch, task, loss_fn=loss, progress=False, **options)
        return held

    def metric(self, held: FisherCollector, **options: Any) -> QKOVInterferenceMetric:
        """Build a metric on a collector, summing over slices unless told otherwise.

        Args:
            held: The collector.
            options: As for ``QKOVInterferenceMetric``.

        Returns:
            The metric.
        """
        options = {"aggregate": "sum", "min_samples_for_fisher": 1, **options}
        return interference.QKOVInterferenceMetric(held.config, held, **options)

    def heatmap(
        self,
        held: FisherCollector,
        *,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        **options: Any,
    ) -> Heatmap:
        """Compute all scores on a collector, or those of some layers and heads.

        Args:
            held: The collector.
            layers, heads: Which; default all.
            options: As for ``QKOVInterferenceMetric``.

        Returns:
            A ``Heatmap`` of tasks "a" and "b".
        """
        return self.metric(held, **options).compute_heatmap("a", "b", layers=layers, heads=heads, progress=False)

    def reference(self, task: str) -> tuple[list[dict[str, np.ndarray]], list[int]]:
        """Compute per-sample gradients of ``task`` by the slow reference, ``(grads, tokens)``, once per state of the
        weights.
        """
        key = (task, reproducibility.model_fingerprint(self.model))
        if key not in self._references:
            batch = self.batch_a if task == "a" else self.batch_b
            self._references[key] = reference.sample_gradients(self.model, batch, self.loss_fn)
        return self._references[key]

    def layouts(self) -> tuple[AttentionLayout, ...]:
        """Choose the layers on which per-head experiments are made: the first and the last."""
        every = self.config.layers
        return every if len(every) < 3 else (every[0], every[-1])

    def on_device(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return a ``batch`` where the model is, for calling the model itself."""
        return samples.select_rows(batch, slice(None), next(self.model.parameters()).device)

    def behaviour(self, batch: Mapping[str, Any]) -> list[torch.Tensor]:
        """Compute what the model does with a ``batch``: losses and the output of every output projection, for comparing
        functions.
        """
        outputs = []
        modules = dict(self.model.named_modules())
        handles = [
            modules[one.projection("O").module_name].register_forward_hook(lambda _m, _a, out: outputs.append(out))
            for one in self.config.layers
        ]
        try:
            with torch.no_grad(), gradients.evaluation(self.model):
                result = (self.loss_fn or losses.causal_lm_loss)(self.model, self.on_device(batch))
        finally:
            for handle in handles:
                handle.remove()
        return [result[0] if isinstance(result, tuple) else result, *outputs]


def some(units: int, most: int = 4) -> list[int]:
    """Choose at most ``most`` of ``range(units)``: the first, the last and those next to them."""
    chosen = [0, units - 1, 1, units - 2]
    return sorted({one for one in chosen[:most] if 0 <= one < units})


def take(batch: Mapping[str, Any], rows: Sequence[int] | slice) -> dict[str, torch.Tensor]:
    """Return some samples of a batch."""
    return {
        name: value[rows] if isinstance(value, torch.Tensor) and value.ndim else value for name, value in batch.items()
    }


def num_samples(batch: Mapping[str, Any]) -> int:
    """Return the number of samples of a batch."""
    return next(len(value) for value in batch.values() if isinstance(value, torch.Tensor) and value.ndim)


def scaled_loss(loss_fn: LossFunction | None, factor: float) -> LossFunction:
    """Return the loss function times a constant."""

    def scaled(model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        result = (loss_fn or losses.causal_lm_loss)(model, batch)
        if isinstance(result, tuple):
            return result[0] * factor, result[1]
        return result * factor

    return scaled
