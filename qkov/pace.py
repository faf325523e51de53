"""How fast this machine is at what a plan consists of, found out by doing a little of it.

Collection is timed on *probes*: copies of the model cut to one layer or a few, with random weights. Two with a small
vocabulary tell what a layer takes, one with the whole vocabulary what comes on top once; the rest is counted in operations.
A model too large for probes is timed by matrix products of its own shapes. Scoring is timed by scoring random samples of
the model's own slices. Process time on one thread, so that other load hardly matters, else wall time; medians.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from . import collector, reproducibility, scoring
from .errors import LayoutError
from .gradients import Factors
from .layout import QKOVConfig
from .operations import PassShape
from .samples import Sample

if TYPE_CHECKING:
    from .geometry import AttentionLayout, Projection
    from .score_options import ScoreOptions
    from .sides import Side


PROBE_OPERATIONS = 2e11  # of the largest probe's pass: a few seconds on one slow thread
PROBE_BYTES = 2**30
PROBE_TOKENS = 256  # of a timed pass, or one sample
SLICE_OPERATIONS = 2e10
SMALL_VOCABULARY = 256
REPEATS = 3


@dataclass(frozen=True)
class CollectionPace:
    """Seconds of a pass, and once a task of knowing the model again; by what they were found: "probes" or "products"."""

    seconds_per_pass: float
    seconds_per_task: float
    method: str


@dataclass(frozen=True)
class ScoringPace:
    """Seconds of all slices: building gradients, and the rest."""

    materialising: float
    scoring: float


def collection_pace(
    model: nn.Module, shape: PassShape, num_tokens: int, samples_per_pass: int, dtype: torch.dtype
) -> CollectionPace:
    """Time passes of a model that is there as shapes.

    Args:
        model: Any copy of it, hollow for example. shape: Of a pass of one sample. num_tokens: T.
        samples_per_pass: In a pass. dtype: Of the weights.
    """
    num_layers = _num_layers(model)
    per_task = _fingerprint_seconds(sum(one.numel() for one in model.parameters()), dtype)
    depth = min(num_layers, 4)
    fits = num_layers and _fits(model, shape, num_layers, samples_per_pass, depth)
    if fits:
        whole = _probe(model, 1, None, dtype)
        small = [_probe(model, layers, SMALL_VOCABULARY, dtype) for layers in (1, depth)]
        if whole is not None and None not in small:
            tried = min(samples_per_pass, max(1, PROBE_TOKENS // num_tokens))
            share = samples_per_pass / tried
            # Whole passes with the vocabulary: logits of more than 32 MB are memory that the system clears each time.
            first = _pass_seconds(whole, num_tokens, samples_per_pass)
            timed = [share * _pass_seconds(one, num_tokens, tried) for one in small]
            layer = (timed[1] - timed[0]) / max(1, depth - 1)
            return CollectionPace(first + max(0.0, layer) * (num_layers - 1), per_task, "probes")
    rate = product_rate(model, num_tokens * samples_per_pass, dtype)
    return CollectionPace(shape.operations * samples_per_pass / rate, per_task, "products")


def product_rate(model: nn.Module, num_tokens: int, dtype: torch.dtype) -> float:
    """Operations per second of products in the shapes of the model's linear modules, at most 256 tokens at a time."""
    rows = min(num_tokens, 256)
    counts: dict[tuple[int, int], int] = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding):
            counts[weight.shape[0], weight.shape[1]] = counts.get((weight.shape[0], weight.shape[1]), 0) + 1
    operations = seconds = 0.0
    for (first, second), count in counts.items():
        first, second = min(first, 2**14), min(second, 2**14)
        weight = torch.randn(first, second).to(dtype)
        states, deltas = torch.randn(rows, second).to(dtype), torch.randn(rows, first).to(dtype)
        for left, right in ((states, weight.T), (deltas, weight)):
            seconds += count * _median(lambda left=left, right=right: left @ right)  # type: ignore[misc]  # measured, not looked at
            operations += count * 2.0 * rows * first * second
    return operations / seconds


def scoring_pace(
    config: QKOVConfig, num_tokens: int, dtype: torch.dtype, num_a: int, num_b: int, options: scoring.ScoreOptions
) -> ScoringPace:
    """Time :func:`qkov.scoring.score_slice` on random samples, one slice of each kind, and add up all slices.

    Args:
        config: Where the slices are. num_tokens: Tokens of a sample with a gradient. dtype: Of the factors.
        num_a, num_b: Samples. More than can be tried are extrapolated: gradients grow with their number, scores with the
            number of pairs.
    """
    kinds: dict[Any, list] = {}
    for layout in config.layers:
        kinds.setdefault(_kind(layout), []).append(layout)
    materialising = scored = 0.0
    for layouts in kinds.values():
        parts = _layer_seconds(layouts[0], num_tokens, dtype, num_a, num_b, options)
        materialising += len(layouts) * parts[0]
        scored += len(layouts) * parts[1]
    return ScoringPace(materialising, scored)


def _layer_seconds(
    layout: AttentionLayout, num_tokens: int, dtype: torch.dtype, num_a: int, num_b: int, options: ScoreOptions
) -> tuple[float, float]:
    pool = _factor_pool(layout, num_tokens, dtype)
    known: dict[Any, tuple[float, float]] = {}
    materialising = scored = 0.0
    for projection in layout.projections:
        key = projection.side, projection.width, projection.weight_shape
        if key not in known:
            known[key] = _slice_seconds(pool, layout, projection, num_tokens, num_a, num_b, options)
        materialising += projection.num_units * known[key][0]
        scored += projection.num_units * known[key][1]
    return materialising, scored + _once_per_layer(pool, layout, num_a + num_b, options)


def _slice_seconds(
    pool: Sequence[dict[str, Factors]],
    layout: AttentionLayout,
    projection: Projection,
    num_tokens: int,
    num_a: int,
    num_b: int,
    options: ScoreOptions,
) -> tuple[float, float]:
    """Seconds of building the gradients of one slice, and of the rest."""
    size = scoring.num_parameters(projection, options)
    tried = _affordable(size, num_tokens, num_a, num_b)
    build, rest = _timed_slice(pool, layout, projection, *tried, options)
    if tried == (num_a, num_b):
        return build, rest
    build *= (num_a + num_b) / sum(tried)
    half = tuple(max(1, one // 2) for one in tried)
    of_half = _timed_slice(pool, layout, projection, *half, options)[1]  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds
    # rest = each (a + b) + pair a b, through two points
    sums, pairs = (sum(tried), sum(half)), (tried[0] * tried[1], half[0] * half[1])
    pair = max(0.0, (rest * sums[1] - of_half * sums[0]) / (pairs[0] * sums[1] - pairs[1] * sums[0]))
    each = max(0.0, (rest - pair * pairs[0]) / sums[0])
    return build, each * (num_a + num_b) + pair * num_a * num_b


def _affordable(size: int, num_tokens: int, num_a: int, num_b: int) -> tuple[int, int]:
    share = 1.0
    while share > 1e-4:
        tried = max(2, round(num_a * share)), max(2, round(num_b * share))
        if 2.0 * size * (num_tokens * sum(tried) + tried[0] * tried[1]) <= SLICE_OPERATIONS:
            break
        share *= 0.8
    return (num_a, num_b) if share == 1.0 else tried


def _timed_slice(
    pool: Sequence[dict[str, Factors]],
    layout: AttentionLayout,
    projection: Projection,
    num_a: int,
    num_b: int,
    options: ScoreOptions,
) -> tuple[float, float]:
    sides = _sides(pool, num_a, num_b, options)
    members = [*sides[0].members, *sides[1].members]

    def build() -> None:
        for _ in scoring.slice_tiles(members, projection, 0, options):
            pass

    whole = _median(lambda: scoring.score_slice(*sides, layout, projection, 0, options))  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds
    built = min(_median(build), whole)
    return built, whole - built


def _once_per_layer(
    pool: Sequence[dict[str, Factors]], layout: AttentionLayout, num_samples: int, options: ScoreOptions
) -> float:
    """Seconds of what the first slice of a layer computes for all of them: norms of gradients by block."""
    few = min(num_samples, 2 * len(pool)) // 2 or 1
    projection = layout.projections[0]

    def fresh() -> Any:
        sides = _sides(pool, few, few, options)
        return lambda: scoring.score_slice(*sides, layout, projection, 0, options)  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds

    calls = [fresh() for _ in range(REPEATS)]
    first = statistics.median(_seconds(call) for call in calls)
    again = statistics.median(_seconds(call) for call in calls)
    return max(0.0, first - again) * num_samples / (2 * few)


def _sides(pool: Sequence[dict[str, Factors]], num_a: int, num_b: int, options: ScoreOptions) -> list[Side]:
    return [
        scoring.Side([Sample(place, None, 10, "", pool[(place + shift) % len(pool)]) for place in range(count)],
                     list(range(count)), options)
        for count, shift in ((num_a, 0), (num_b, num_a))
    ]  # fmt: skip


def _factor_pool(layout: AttentionLayout, num_tokens: int, dtype: torch.dtype) -> list[dict[str, Factors]]:
    """Random factors of a layer for some samples, as many as no cache holds."""
    widths: dict[str, tuple[int, int]] = {}
    for one in layout.projections:
        axis = 1 - one.head_axis if one.side == "input" else one.head_axis
        widths[one.module_name] = one.weight_shape[axis], one.weight_shape[1 - axis]
    each = num_tokens * sum(d_out + d_in for d_out, d_in in widths.values()) * dtype.itemsize
    generator = torch.Generator().manual_seed(0)
    pool = []
    for _ in range(max(2, min(64, 2**28 // each))):
        inputs = {d_in: torch.randn(num_tokens, d_in, generator=generator).to(dtype) for _, d_in in widths.values()}
        pool.append({
            name: Factors(inputs[d_in], torch.randn(num_tokens, d_out, generator=generator).to(dtype))
            for name, (d_out, d_in) in widths.items()
        })  # fmt: skip
    return pool


def _kind(layout: AttentionLayout) -> tuple[tuple[str, int, tuple[int, int], int], ...]:
    return tuple((one.side, one.width, one.weight_shape, one.num_units) for one in layout.projections)


def _num_layers(model: nn.Module) -> int:
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    return count if isinstance(count, int) else 0


def _fits(model: nn.Module, shape: PassShape, num_layers: int, samples_per_pass: int, depth: int) -> bool:
    numbers = sum(one.numel() for one in model.parameters())
    return (
        shape.operations * samples_per_pass * min(1, (depth + 1) / num_layers) <= PROBE_OPERATIONS
        and 4 * numbers * min(1, (depth + 1) / num_layers) <= PROBE_BYTES
    )


def _probe(model: nn.Module, layers: int, vocabulary: int | None, dtype: torch.dtype) -> nn.Module | None:
    """Build a cut copy with random weights; None for a model whose configuration does not cut it."""
    config: Any = copy.deepcopy(model.config)
    before = config.num_hidden_layers
    config.num_hidden_layers = layers
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == before:  # one entry a layer
            setattr(config, name, value[:layers])
        if vocabulary is not None and name.endswith("_token_id") and isinstance(value, int) and value >= vocabulary:
            setattr(config, name, None)
    if vocabulary is not None:
        config.vocab_size = min(vocabulary, config.vocab_size)
    built = type(model)(config).to(dtype).eval()
    try:
        found = len(QKOVConfig.from_model(built).layers)
    except LayoutError:
        return None
    return built if found == layers else None


def _pass_seconds(model: Any, num_tokens: int, samples_per_pass: int) -> float:
    vocabulary = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    held = collector.FisherCollector()

    def collect(task: str, count: int, length: int) -> float:
        ids = torch.randint(3, vocabulary, (count, length), generator=generator)
        return _seconds(lambda: held.collect_fisher(model, {"input_ids": ids}, task, micro_batch=count, progress=False))

    collect("first", 2, 8)  # finds out where samples lie, once for all
    once = _median(lambda: reproducibility.model_fingerprint(model))
    passes = [collect(str(number), samples_per_pass, num_tokens) for number in range(REPEATS)]
    return max(0.0, statistics.median(passes) - once)


def _fingerprint_seconds(numbers: int, dtype: torch.dtype) -> float:
    """Seconds in which the weights are summed, to see whether the model is the one of earlier samples."""
    tried = nn.Linear(2048, min(2048, -(-numbers // 2048)), bias=False).to(dtype)
    return _median(lambda: reproducibility.model_fingerprint(tried)) * numbers / tried.weight.numel()


def _median(call: Callable[[], Any]) -> float:
    call()
    return statistics.median(_seconds(call) for _ in range(REPEATS))


def _seconds(call: Callable[[], Any]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start
