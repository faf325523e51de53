r"""The most memory that collection and scoring take, of a setting of which only shapes are known, and what to do about it.

::

    collection    process + model + all factors (unless on disk) + the largest moment of a pass
    scoring       process + model and all factors (on disk: tensors of one layer, read) + tiles + scores, twice at the end

On a GPU the process does not count.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from . import linear_weights, memory, operations, pass_memory, passes, score_memory, scoring, stored_sizes
from .errors import MemoryLimitError
from .gradients import Factors
from .layout import QKOVConfig
from .resources import readable
from .samples import Sample

if TYPE_CHECKING:
    from .geometry import Projection


@dataclass(frozen=True)
class Setting:
    """What is to be measured.

    Attributes:
        model: Hollow. config: Where its heads are. scored: The layers that are scored.
        weights: What is collected. shape: A pass of one sample.
        samples_a, samples_b, tokens: Of the two tasks.
        keep: "memory" or "disk". stored_dtype: Precision of factors on disk.
        device: "cpu" or "cuda". base: Bytes of the process without model and samples. budget: Bytes, or None.
        traced: Bytes of passes by their number of samples, once they are known.
    """

    model: nn.Module
    config: QKOVConfig
    scored: QKOVConfig
    weights: tuple[linear_weights.LinearWeight, ...]
    shape: operations.PassShape
    samples_a: int
    samples_b: int
    tokens: int
    keep: str
    stored_dtype: torch.dtype
    device: str
    base: int
    budget: int | None
    traced: dict[int, int] = field(default_factory=dict, compare=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def num_samples(self) -> int:
        """Of both tasks."""
        return self.samples_a + self.samples_b

    @cached_property
    def model_bytes(self) -> int:
        """Parameters, tied ones once, and buffers."""
        return sum(one.numel() * one.dtype.itemsize for one in [*self.model.parameters(), *self.model.buffers()])

    @cached_property
    def factor_bytes(self) -> int:
        """Factors of one sample in memory."""
        return stored_sizes.factor_bytes(self.shape, self.dtype.itemsize)

    @cached_property
    def stored_bytes(self) -> int:
        """File of one sample."""
        return stored_sizes.shard_bytes(self.shape, self.config, dtype=self.stored_dtype)

    @property
    def held_bytes(self) -> int:
        """Factors of all samples in memory, 0 where they are on disk."""
        return self.num_samples * self.factor_bytes if self.keep == "memory" else 0


def base_bytes(model: nn.Module, device: str) -> int:
    """Bytes of this process without the model: Python, torch, transformers. 0 for a device of its own."""
    if device != "cpu":
        return 0
    resident = memory.resident_bytes() or 0
    loaded = sum(one.nbytes for one in model.parameters() if one.device.type == "cpu")
    return max(0, resident - loaded)


def collection_peak(setting: Setting, samples_per_pass: int) -> int:
    """Most memory while passes of so many samples are made. A pass of more than two grows with their number."""
    traced = _traced(setting, min(samples_per_pass, 2)) * max(2, samples_per_pass) // 2
    if samples_per_pass == 1:
        traced = _traced(setting, 1)
    made = pass_memory.with_slack(traced)
    if setting.keep == "disk":
        made = max(made, samples_per_pass * setting.factor_bytes + 3 * setting.stored_bytes)  # tensors, file, its bytes
    elif setting.keep == "memory":
        made -= samples_per_pass * setting.factor_bytes  # counted among all that are held
    return setting.base + setting.model_bytes + setting.held_bytes + made


def _traced(setting: Setting, samples_per_pass: int) -> int:
    if samples_per_pass not in setting.traced:
        batch = {"input_ids": torch.zeros(1, setting.tokens, dtype=torch.long)}
        setting.traced[samples_per_pass] = pass_memory.pass_bytes(
            setting.model, batch, samples_per_pass, config=setting.config, weights=setting.weights
        )
    return setting.traced[samples_per_pass]


def scoring_peak(setting: Setting) -> int:
    """Most memory while all pairs are scored: tiles as wide as without a budget, narrower where one asks for it.

    With a budget that even the narrowest tiles exceed, what the widest take.
    """
    options, demand = scoring.ScoreOptions(), scoring_demand(setting)
    held = setting.base + setting.held_bytes + (setting.model_bytes if setting.keep == "memory" else 0)
    held += host_bytes(setting) if setting.device == "cpu" else 0
    peak = held + working_bytes(options, demand)
    if setting.budget is None or peak <= setting.budget:
        return peak
    available = int(setting.budget * (1 - score_memory.MARGIN)) - held
    try:
        score_memory.fitted(options, demand, available)
    except MemoryLimitError:
        return peak
    return setting.budget


def scoring_demand(setting: Setting) -> score_memory.Demand:
    """What scoring needs, from samples that are shapes alone."""
    factors = {
        name: Factors(
            torch.empty(setting.shape.num_tokens, one.d_in, dtype=setting.dtype, device="meta"),
            torch.empty(setting.shape.num_tokens, one.d_out, dtype=setting.dtype, device="meta"),
        )
        for name, one in setting.shape.readings.items()
    }
    options = scoring.ScoreOptions()
    sides = [
        scoring.Side([Sample(row, None, 1, "", factors) for row in range(count)], list(range(count)), options)
        for count in (setting.samples_a, setting.samples_b)
    ]
    return score_memory.demand_of(sides, setting.scored.layers, options)


def working_bytes(options: scoring.ScoreOptions, demand: score_memory.Demand) -> int:
    """Bytes of stacked factors, of one tile and of what else a slice takes."""
    stacked = demand.stacked if demand.stacked <= options.stacked_bytes else 2 * demand.one_sample
    return demand.fixed + stacked + max(options.tile_elements * demand.itemsize * demand.factor, demand.column)


def host_bytes(setting: Setting) -> int:
    """What scoring takes of the memory beside a GPU: scores, twice at the end, and what is read of stored samples."""
    scores = 16 * setting.samples_a * setting.samples_b * num_slices(setting.scored)
    read = stored_sizes.read_bytes(setting.shape, setting.config, dtype=setting.stored_dtype)
    return scores + (setting.num_samples * read if setting.keep == "disk" else 0)


def slice_size(projection: Projection) -> int:
    """Parameters of one slice."""
    return projection.width * projection.weight_shape[1 - projection.head_axis]


def num_slices(config: QKOVConfig) -> int:
    """Slices of all layers, K and V once per kv head."""
    return sum(projection.num_units for layout in config.layers for projection in layout.projections)


def num_parameters(config: QKOVConfig) -> int:
    """Parameters in all slices."""
    return sum(one.num_units * slice_size(one) for layout in config.layers for one in layout.projections)


def largest_pass(setting: Setting) -> tuple[int, int]:
    """Return how many samples a pass has, as collection chooses, and the peak with them.

    Raises:
        MemoryLimitError: If the budget does not hold a pass of a single sample, wherever samples are kept.
    """
    fitting = max(1, passes.TOKENS_PER_PASS.get(setting.device, 512) // setting.tokens)
    fitting = min(fitting, max(setting.samples_a, setting.samples_b))
    peak = collection_peak(setting, fitting)
    limit = sys.maxsize if setting.budget is None else setting.budget
    while peak > limit and fitting > 1:
        fitting //= 2  # as qkov.collection_budget does
        peak = collection_peak(setting, fitting)
    if peak - setting.held_bytes > limit:
        raise MemoryLimitError(
            f"memory_budget is {readable(limit)}; a pass of a single sample of {setting.tokens} tokens takes "
            f"{readable(peak - setting.held_bytes)}, of which the weights are {readable(setting.model_bytes)} and the process "
            f"{readable(setting.base)}. Shorten the samples, load the model in bfloat16, or give it more memory."
        )
    return fitting, peak


def advice(setting: Setting, collecting: int, scoring_: int) -> tuple[str, ...]:
    """Say what to do where the peaks exceed the budget."""
    if setting.budget is None:
        return ()
    said = []
    in_memory = setting.keep == "memory"
    if collecting > setting.budget:
        said.append(
            f"factors of all samples take {readable(setting.held_bytes)}: keep them on disk, FisherCollector(store=PATH)"
        )
    if scoring_ > setting.budget:
        said.append(_advice_on_scores(setting, scoring_, in_memory))
    return tuple(said)


def _advice_on_scores(setting: Setting, peak: int, in_memory: bool) -> str:
    scores = 16 * setting.samples_a * setting.samples_b * num_slices(setting.scored)
    left = setting.budget - (peak - scores)  # type: ignore[operator]  # asked only with a budget
    num_layers = len(setting.scored.layers)
    at_once = max(0, left) * num_layers // scores
    if at_once:
        return f"score at most {min(at_once, num_layers)} of {num_layers} layers at a time, compute_heatmap(layers=...)"
    if in_memory and left + setting.held_bytes + setting.model_bytes > 0:
        return "factors leave no room for scores: keep them on disk, FisherCollector(store=PATH), and score without the model"
    if left > 0:
        return "scores of one layer do not fit: score fewer samples, max_samples_per_task, or keep summaries in place of pairs"
    return "what is read of all samples leaves no room for scores: fewer samples, or store_dtype='bfloat16'"
