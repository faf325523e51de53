r"""What a measurement will take, said before anything runs: memory, disk, operations, passes, time.

Everything but the time follows from the shapes of the model, which may be on the meta device: its configuration is enough.
::

    a sample, factors         T (d_in + sum of d_out) numbers for every group of modules that read one tensor
    a sample, full gradients  K numbers of float32
    scores                    n_a n_b slices float64

The time is found out by doing a little of it on this machine (:mod:`qkov.pace`), or from a given rate of operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from . import (
    formula,
    linear_weights,
    losses,
    memory,
    operations,
    pace,
    passes,
    peaks,
    position_tables,
    scoring,
    stored_sizes,
)  # fmt: skip
from .errors import BatchError, OptionError
from .layout import QKOVConfig, uncompiled
from .resources import readable

if TYPE_CHECKING:
    from .peaks import Setting


KEPT = ("memory", "disk")
TIMINGS = ("measure", "skip")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Seconds:
    """How long the parts take, and how that was found: "probes", "products" or "given rate"."""

    collection: float
    materialising: float
    scoring: float
    method: str

    @property
    def total(self) -> float:
        """All of it."""
        return self.collection + self.materialising + self.scoring


@dataclass(frozen=True)
class Plan:
    """What a measurement takes. ``str(plan)`` is text for people, ``plan.to_dict()`` fits JSON.

    Attributes:
        model: Class of the model. dtype: Of its weights, activations and factors. device: Where it runs. threads: In use.
        num_parameters, model_bytes: Of the model. num_layers, num_slices: What is scored.
        samples_a, samples_b, num_tokens: What is collected. keep: "memory" or "disk".
        factor_bytes: Of one sample in memory. gradient_bytes: Of its full gradients, float32, for comparison.
        stored_bytes: Of one sample's file. held_bytes: Of all samples in memory. disk_bytes: Of the whole store.
        samples_per_pass, num_passes: Of the collection.
        collection_operations, materialising_operations, scoring_operations: Multiplications and additions.
        score_bytes: Of all scores, float64.
        collection_peak, scoring_peak: Most memory of the process (on CUDA: of the device) meanwhile, the model included.
        host_bytes: What scoring takes beside the device, where that is a GPU; else part of its peak.
        memory_budget: Given, or None.
        fits: Whether both peaks are within the budget; None without one.
        advice: What to do where they are not, in sentences.
        seconds: Or None, where they were not asked for or cannot be found out here.
    """

    model: str
    dtype: str
    device: str
    threads: int
    num_parameters: int
    model_bytes: int
    num_layers: int
    num_slices: int
    samples_a: int
    samples_b: int
    num_tokens: int
    keep: str
    factor_bytes: int
    gradient_bytes: int
    stored_bytes: int
    held_bytes: int
    disk_bytes: int
    samples_per_pass: int
    num_passes: int
    collection_operations: float
    materialising_operations: float
    scoring_operations: float
    score_bytes: int
    collection_peak: int
    scoring_peak: int
    host_bytes: int
    memory_budget: int | None
    fits: bool | None
    advice: tuple[str, ...]
    seconds: Seconds | None

    def to_dict(self) -> dict[str, Any]:
        """Return numbers and words alone."""
        return {**asdict(self), "advice": list(self.advice)}

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def plan(
    model: nn.Module,
    *,
    samples_a: int,
    samples_b: int,
    tokens: int,
    keep: str = "memory",
    memory_budget: int | str | None = None,
    dtype: str | None = None,
    store_dtype: str | None = None,
    device: str = "cpu",
    layers: list[int] | None = None,
    attention: str | None = None,
    weights: Any = "attention",
    timing: str = "measure",
    rate: float | None = None,
) -> Plan:
    """Say what collecting two tasks and scoring all pairs of their samples takes.

    Args:
        model: Of transformers, reading token ids; on any device, the meta device included, where it takes no memory.
        samples_a, samples_b: Number of samples of each task. tokens: Of a sample, with none padded.
        keep: Where samples are kept, "memory" or "disk".
        memory_budget: As for ``FisherCollector``: "8GB", bytes, or None.
        dtype: "float32", "bfloat16" or "float64"; default: the model's own.
        store_dtype: As for ``FisherCollector``.
        device: Where the model will run: "cpu" or "cuda".
        layers: Score only these. attention, weights: As for ``FisherCollector``.
        timing: "measure": do a little of the work here, some seconds long; "skip".
        rate: Operations per second that another machine's matrix products sustain; the time then follows from operations.

    Returns:
        A :class:`Plan`: numbers, and as text what the command line prints.

    Raises:
        OptionError: If a number or word has no meaning, or samples are longer than the model's table of positions.
        LayoutError: If heads cannot be located, or the model cannot be planned from its shapes.
        MemoryLimitError: If the budget cannot hold a pass of one sample.

    Example:
        >>> import torch, transformers
        >>> with torch.device("meta"):
        ...     model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2))
        >>> found = plan(model, samples_a=100, samples_b=100, tokens=128, timing="skip")
        >>> found.num_slices, found.num_passes, found.score_bytes
        (96, 50, 7680000)
    """
    _check(samples_a, samples_b, tokens, rate)
    for name, value, known in (
        ("keep", keep, KEPT), ("timing", timing, TIMINGS), ("dtype", dtype, (None, *DTYPES)),
        ("store_dtype", store_dtype, (None, *DTYPES)), ("device", device, tuple(passes.TOKENS_PER_PASS)),
    ):  # fmt: skip
        formula.require_choice(name, value, known)
    budget, base = memory.budget_bytes(memory_budget), peaks.base_bytes(uncompiled(model), device)
    model = operations.hollow(uncompiled(model), DTYPES[dtype] if dtype else None)
    _check_positions(model, tokens)
    config = QKOVConfig.from_model(model, attention=attention)
    held = linear_weights.find_linear_weights(model, config, weights)
    setting = peaks.Setting(
        model=model, config=config, scored=_chosen(config, layers), weights=held,
        shape=operations.trace_pass(model, config, [one.module_name for one in held], tokens),
        samples_a=samples_a, samples_b=samples_b, tokens=tokens, keep=keep,
        stored_dtype=DTYPES[store_dtype] if store_dtype else next(model.parameters()).dtype,
        device=device, base=base, budget=budget,
    )  # fmt: skip
    samples_per_pass, collecting = peaks.largest_pass(setting)
    work: dict[str, Any] = _work(setting)
    return Plan(
        **_sizes(setting, samples_per_pass), **work, collection_peak=collecting,
        **_verdict(setting, collecting, peaks.scoring_peak(setting)),
        seconds=_seconds(setting, samples_per_pass, tuple(work.values()), timing, rate),
    )  # fmt: skip


def _check(samples_a: int, samples_b: int, tokens: int, rate: float | None) -> None:
    for name, value in (("samples_a", samples_a), ("samples_b", samples_b), ("tokens", tokens)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{name} is {value!r}; expected a whole number of at least 1.")
    if rate is not None and not 0 < rate < math.inf:
        raise OptionError(f"rate is {rate!r}; expected operations per second, for example 50e12.")


def _check_positions(model: nn.Module, tokens: int) -> None:
    try:
        batch = {"input_ids": torch.zeros(1, tokens, dtype=torch.long)}
        position_tables.check_positions(model, batch, ["of the plan"], losses.causal_lm_loss)
    except BatchError as error:
        raise OptionError(f"tokens is {tokens}: {error}") from error


def _chosen(config: QKOVConfig, layers: Sequence[int] | None) -> QKOVConfig:
    return config if layers is None else QKOVConfig(tuple(config.layer(one) for one in sorted(set(layers))))


def _work(setting: Setting) -> dict[str, float]:
    numbers = peaks.num_parameters(setting.scored)
    return {
        "collection_operations": float(setting.shape.operations * setting.num_samples),
        "materialising_operations": 2.0 * setting.shape.num_tokens * numbers * setting.num_samples,
        "scoring_operations": 2.0 * numbers * setting.samples_a * setting.samples_b,
    }


def _sizes(setting: Setting, samples_per_pass: int) -> dict[str, Any]:
    counts = {"a": setting.samples_a, "b": setting.samples_b}
    return {
        "model": type(setting.model).__name__,
        "dtype": str(setting.dtype).removeprefix("torch."),
        "device": setting.device,
        "threads": torch.get_num_threads(),
        "num_parameters": sum(one.numel() for one in setting.model.parameters()),
        "model_bytes": setting.model_bytes,
        "num_layers": len(setting.scored.layers),
        "num_slices": peaks.num_slices(setting.scored),
        "samples_a": setting.samples_a,
        "samples_b": setting.samples_b,
        "num_tokens": setting.tokens,
        "keep": setting.keep,
        "factor_bytes": setting.factor_bytes,
        "gradient_bytes": 4 * sum(math.prod(one.weight_shape) for one in setting.weights),
        "stored_bytes": setting.stored_bytes,
        "held_bytes": setting.num_samples * setting.factor_bytes,
        "disk_bytes": stored_sizes.store_bytes(
            setting.shape, setting.weights, setting.config, counts, samples_per_pass, dtype=setting.stored_dtype
        ),
        "samples_per_pass": samples_per_pass,
        "num_passes": sum(math.ceil(count / samples_per_pass) for count in counts.values()),
        "score_bytes": 8 * setting.samples_a * setting.samples_b * peaks.num_slices(setting.scored),
    }


def _verdict(setting: Setting, collecting: int, scored: int) -> dict[str, Any]:
    budget = setting.budget
    return {
        "scoring_peak": scored,
        "host_bytes": peaks.host_bytes(setting),
        "memory_budget": budget,
        "fits": None if budget is None else max(collecting, scored) <= budget,
        "advice": peaks.advice(setting, collecting, scored),
    }


def _seconds(
    setting: Setting, samples_per_pass: int, work: Sequence[float], timing: str, rate: float | None
) -> Seconds | None:
    if timing == "skip":
        return None
    if rate is not None:
        return Seconds(*(one / rate for one in work), "given rate")  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds
    if setting.device != "cpu":
        return None
    found = pace.collection_pace(setting.model, setting.shape, setting.tokens, samples_per_pass, setting.dtype)
    scored = pace.scoring_pace(
        setting.scored, setting.shape.num_tokens, setting.dtype, setting.samples_a, setting.samples_b,
        scoring.ScoreOptions(),
    )  # fmt: skip
    collection = found.seconds_per_pass * setting.num_samples / samples_per_pass + 2 * found.seconds_per_task
    return Seconds(collection, scored.materialising, scored.scoring, found.method)


def _lines(plan: Plan) -> Iterator[str]:
    yield f"{plan.model}: {_short(plan.num_parameters)} parameters, {readable(plan.model_bytes)} in {plan.dtype}"
    yield (
        f"{plan.samples_a} + {plan.samples_b} samples of {plan.num_tokens} tokens; {plan.num_layers} layers, "
        f"{plan.num_slices} slices"
    )
    yield f"collected in {plan.num_passes} passes of {plan.samples_per_pass}, kept {_KEPT_IN[plan.keep]}"
    yield ""
    both = f"{readable(plan.held_bytes)} in memory, {readable(plan.disk_bytes)} on disk"
    yield (
        f"  a sample     {readable(plan.factor_bytes)} in memory, {readable(plan.stored_bytes)} on disk; its gradients "
        + (f"would be {readable(plan.gradient_bytes)}")
    )
    yield f"  all samples  {both}"
    yield f"  scores       {readable(plan.score_bytes)}"
    yield ""
    seconds = plan.seconds
    rows = [("", "operations", "peak memory", "time")]
    for name, work, peak in (
        ("collection", plan.collection_operations, readable(plan.collection_peak)),
        ("materialising", plan.materialising_operations, ""),
        ("scoring", plan.scoring_operations, readable(plan.scoring_peak)),
    ):
        rows.append((name, _short(work), peak, "" if seconds is None else duration(getattr(seconds, name))))
    for row in rows:
        yield "  " + "  ".join(cell.ljust(13) for cell in row).rstrip()
    if seconds is not None:
        yield f"  in all {duration(seconds.total)}, {_FOUND_BY[seconds.method].format(threads=plan.threads)}"
    if plan.device != "cpu":
        yield f"  scoring takes {readable(plan.host_bytes)} of memory beside the {plan.device} device"
    if plan.memory_budget is not None:
        yield f"\nmemory budget {readable(plan.memory_budget)}: " + ("enough" if plan.fits else "too little")
        yield from (f"  - {one}" for one in plan.advice)


_KEPT_IN = {"memory": "in memory", "disk": "on disk"}
_FOUND_BY = {
    "probes": "measured on models cut to a few layers, threads: {threads}",
    "products": "measured on matrix products of the model's shapes, threads: {threads}; not less than that",
    "given rate": "at the given rate",
}


def duration(seconds: float) -> str:
    """Write a time for people.

    Example:
        >>> duration(4.24), duration(132), duration(7200)
        ('4.2 s', '2.2 min', '2 h')
    """
    for unit, size in (("s", 60), ("min", 60), ("h", 48)):
        if seconds < size:
            return f"{seconds:.2g} {unit}"
        seconds /= size if unit != "h" else 24
    return f"{seconds:,.2g} days"


def _short(count: float) -> str:
    for unit in ("", " k", " M", " G", " T", " P"):
        if count < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:,.3g} E"
