"""Batches cut into passes: who is in which, what is known already, and how many samples share a forward and backward."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from . import escaping, gradients, position_tables, samples, strict
from .errors import MemoryLimitError, NonFiniteError, OptionError, SampleIdError
from .non_finite import told_of_skipped

if TYPE_CHECKING:
    from torch import nn

    from .gradients import Factors
    from .layout import QKOVConfig
    from .linear_weights import LinearWeight
    from .option_types import Batches, LossFunction, SampleId
    from .sample_rows import FirstAxis
    from .samples import Sample


_logger = logging.getLogger(__name__)

# Tokens per forward pass. On a CPU larger passes gain a few per cent and cost several times the memory.
TOKENS_PER_PASS = {"cpu": 512, "cuda": 16384}


def collect_samples(*arguments: Any, **options: Any) -> Iterator[Sample]:
    """Yield the samples of :func:`collect_passes` one by one. One that the caller drops is gone before the next."""
    for found in collect_passes(*arguments, **options):
        while found:
            yield found.pop(0)


def collect_passes(
    model: nn.Module,
    batch: Batches,
    task: str,
    known: dict[SampleId, str],
    config: QKOVConfig,
    weights: Sequence[LinearWeight],
    loss_fn: LossFunction,
    first_axis: FirstAxis,
    sample_ids: Supply | Numbers,
    clusters: Supply,
    *,
    micro_batch: int | Callable[[Mapping[str, Any], Sequence[int]], int] | None = None,
    progress: bool = True,
    plan: Callable[[int, int], None] | None = None,
    skipped: dict[SampleId, str] | None = None,
    skip: bool = False,
) -> Iterator[list[Sample]]:
    """Cut batches into passes and yield the samples of each, once the whole pass has succeeded.

    Args:
        model, batch, task, loss_fn, progress: As for ``FisherCollector.collect_fisher``.
        micro_batch: As there, or ``choose(batch, rows)``: how many of the new samples of a batch share a pass.
        known: ``{id: digest}`` of samples that are there; those of this call are added.
        config, weights, first_axis: As for ``gradients.collect_factors``.
        sample_ids, clusters: A :class:`Supply` each.
        plan: Called with the number of new samples of a batch and of their tokens, before its first pass; may refuse.
        skipped: ``{id: reason}`` of samples left out before, whose ids are not given to others.
        skip: Whether to leave out, and add to ``skipped``, samples with a loss or gradient that is not finite.

    Yields:
        Lists of ``samples.Sample``.
    """
    skipped = {} if skipped is None else skipped
    room = Room()
    with shown(task, batch, progress) as bar, told_of_skipped(task, skipped):
        for cells, num_known in cut(
            model,
            batch,
            task,
            known,
            loss_fn,
            sample_ids,
            clusters,
            micro_batch=micro_batch,
            plan=plan,
            skipped=skipped,
        ):
            bar.update(num_known)
            for found in collect_cells(
                model,
                cells,
                config,
                weights,
                loss_fn,
                first_axis,
                skipped=skipped,
                skip=skip,
                room=room,
                done=bar.update,
            ):
                known.update((one.sample_id, one.digest) for one in found)
                for name in [one.sample_id for one in found]:  # no variable that outlives the samples
                    skipped.pop(name, None)
                yield found


def shown(task: str, batch: Batches, progress: bool) -> tqdm[Any]:
    """Return the bar of a collection."""
    # Where disable is not given, TQDM_DISABLE in the environment still acts.
    hidden = {} if progress else {"disable": True}
    total = samples.batch_size(batch) if isinstance(batch, Mapping) else None
    return tqdm(desc=f"collect {escaping.for_terminal(task)}", unit=" samples", delay=2, total=total, **hidden)


@dataclass(frozen=True)
class Cell:
    """Samples of one batch that share a pass.

    Attributes:
        batch: The batch. rows: Theirs in it. names, labels, digests: One each, as in ``samples.Sample``.
    """

    batch: Mapping
    rows: tuple
    names: tuple
    labels: tuple
    digests: tuple

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, count: int) -> tuple[Cell, list[Cell]]:
        """Return the first samples as a cell, and a list of a cell of the others, if there are any."""
        fields = (self.rows, self.names, self.labels, self.digests)
        first, rest = (Cell(self.batch, *(one[part] for one in fields)) for part in (slice(count), slice(count, None)))
        return first, [rest] if len(rest) else []


def joined(cells: Sequence[Cell]) -> Cell:
    """Make one cell of all of a batch."""
    fields = ("rows", "names", "labels", "digests")
    return Cell(cells[0].batch, *(sum((getattr(one, name) for one in cells), ()) for name in fields))


@dataclass
class Room:
    """How many samples a pass may have at most; lowered when an accelerator says that it is full."""

    most: float = math.inf


def cut(
    model: nn.Module,
    batch: Batches,
    task: str,
    known: Mapping[SampleId, str],
    loss_fn: LossFunction,
    sample_ids: Supply | Numbers,
    clusters: Supply,
    *,
    micro_batch: int | Callable[[Mapping[str, Any], Sequence[int]], int] | None = None,
    plan: Callable[[int, int], None] | None = None,
    skipped: Mapping[SampleId, str] | tuple[()] = (),
) -> Iterator[tuple[list[Cell], int]]:
    """Check batches and cut each into cells, in a grid that does not depend on which of its samples are known already.

    So a collection that goes on, whatever it holds, makes the passes that an uninterrupted one makes.

    Args:
        model, batch, ...: As for :func:`collect_passes`.

    Yields:
        For each batch its cells, without the known samples and those that are then empty, and how many samples are known.
    """
    strict.check_attention(model)
    batches = [batch] if isinstance(batch, Mapping) else batch
    if not isinstance(batches, Iterable):
        samples.batch_size(batch)  # raises, naming the type
    device = next(model.parameters()).device
    for one in batches:
        num_samples = samples.batch_size(one)
        names = samples.assign_ids(task, {**dict(skipped), **known}, num_samples, sample_ids.take(num_samples))
        labels = _one_each(task, clusters.take(num_samples), num_samples)
        samples.check_tokens(model, one, names)
        position_tables.check_positions(model, one, names, loss_fn)
        on_host = samples.on_host(one)  # at once, not sample by sample
        digests = [samples.row_digest(on_host, row, full_name(loss_fn)) for row in range(num_samples)]
        new = [row for row in range(num_samples) if not _is_known(task, known, names[row], digests[row])]
        if new and plan is not None:
            plan(len(new), num_tokens(one, new))
        fitting = micro_batch or default_samples(one, device)
        if callable(micro_batch):
            fitting = micro_batch(one, new) if new else 1
        cells = [
            Cell(one, rows, *(tuple(values[row] for row in rows) for values in (names, labels, digests)))
            for rows in (tuple(group) for _, group in itertools.groupby(new, lambda row: row // fitting))  # type: ignore[operator]  # noqa: B023  # a number by now
        ]
        yield cells, num_samples - len(new)


def collect_cells(
    model: nn.Module,
    cells: Sequence[Cell],
    config: QKOVConfig,
    weights: Sequence[LinearWeight],
    loss_fn: LossFunction,
    first_axis: FirstAxis,
    *,
    skipped: dict[SampleId, str],
    skip: bool,
    room: Room | None = None,
    done: Callable[[int], Any] = lambda count: None,
) -> Iterator[list[Sample]]:
    """Yield the samples of each cell: of one pass, unless it takes too much memory or a sample of it is left out.

    Args:
        model, config, weights, loss_fn, first_axis: As for ``gradients.collect_factors``.
        cells: What to collect, of one batch.
        skipped, skip: As for :func:`collect_passes`.
        room: Lowered, and what is left of the batch cut accordingly, where memory is short; None: an error.
        done: Called with the number of samples that are through.

    Yields:
        Lists of ``samples.Sample``, of what succeeded together.
    """
    device = next(model.parameters()).device
    left, alone = list(cells), 0  # alone: samples of a failed pass that are still to be tried by themselves
    if left and room is not None and room.most < math.inf:
        left = [joined(left)]
    while left:
        most = len(left[0]) if room is None else min(room.most, len(left[0]))
        one, others = left[0].split(1 if alone else most)  # type: ignore[arg-type]  # finite by now
        strict.check_norms(model, len(one))
        part = samples.select_rows(one.batch, list(one.rows), device)
        try:
            results = _within_memory(model, part, config, loss_fn, list(one.names), first_axis, weights)
        except NonFiniteError as error:
            if not skip:
                raise
            if len(one) > 1:
                alone = len(one)
                continue
            skipped[one.names[0]] = str(error)
            results = ()
        if results is None:
            _make_room(room, len(one), device)  # type: ignore[arg-type]  # given where passes can be halved
            left = [joined(left)]
            continue
        if results:
            yield [
                samples.Sample(name, label, tokens, digest, factors)
                for name, label, digest, (factors, tokens) in zip(
                    one.names, one.labels, one.digests, results, strict=True
                )
            ]
        del results
        done(len(one))
        left, alone = others + left[1:], max(0, alone - len(one))


def _make_room(room: Room, num_samples: int, device: torch.device) -> None:
    if room is None:
        raise MemoryLimitError(
            f"a pass of {num_samples} samples does not fit the memory of {device}, and passes that are shared among ranks "
            f"are the same for any number of them. Give collect_fisher(micro_batch={max(1, num_samples // 2)}) on every rank."
        )
    room.most = num_samples // 2
    _logger.warning("out of memory with %d samples per pass; at most %d from here on", num_samples, room.most)


def _within_memory(
    model: nn.Module, batch: Mapping[str, Any], *rest: Any
) -> list[tuple[dict[str, Factors], int]] | None:
    """Collect a pass, or return None where it takes too much memory and could be smaller."""
    try:
        return gradients.collect_factors(model, batch, *rest)
    except torch.OutOfMemoryError as error:
        if samples.batch_size(batch) == 1:
            raise MemoryLimitError(
                f"a single sample, {rest[2][0]!r}, does not fit the memory of {next(model.parameters()).device}. Shorten it, "
                "load the model in bfloat16, or use a device with more memory; earlier samples are kept."
            ) from error
    return None  # outside the handler, which keeps the tensors of the failed pass alive


def check_call(task: str, micro_batch: int | None) -> None:
    """Refuse a task without a name and a pass without samples."""
    if not isinstance(task, str) or not task:
        raise OptionError(f"task is {task!r}; expected a non-empty string, its name.")
    if micro_batch is not None and micro_batch < 1:
        raise OptionError(f"micro_batch is {micro_batch}; expected at least 1 sample per pass.")


def _one_each(task: str, clusters: Sequence[Any] | None, num_samples: int) -> Sequence[Any]:
    clusters = [None] * num_samples if clusters is None else clusters
    if len(clusters) != num_samples:
        raise SampleIdError(f"task {task!r}: {len(clusters)} clusters left for {num_samples} samples.")
    return clusters


def _is_known(task: str, known: Mapping[SampleId, str], sample_id: SampleId, digest: str) -> bool:
    if known.get(sample_id, digest) != digest:
        raise SampleIdError(
            f"task {task!r} already holds sample {sample_id!r} with another input or loss. Give the new sample another "
            "id, or collect into a new FisherCollector."
        )
    return sample_id in known


class Supply:
    """Hand out the next few of an optional flat list, batch by batch."""

    def __init__(self, values: Iterable[Any] | None, name: str) -> None:
        self._values = None if values is None else list(values)
        self._name = name
        self._taken = 0

    def take(self, count: int) -> list[Any] | None:
        """Return the next few, or None where there is no list."""
        if self._values is None:
            return None
        part = self._values[self._taken : self._taken + count]
        self._taken += count
        return part

    def check_used(self, task: str) -> None:
        """Refuse entries that no sample has taken."""
        left = 0 if self._values is None else max(0, len(self._values) - self._taken)
        if left:
            raise SampleIdError(f"task {task!r}: {left} more {self._name} than samples; expected one each.")


class Numbers:
    """Hand out integers, for samples without ids, from a first one on."""

    def __init__(self, first: int) -> None:
        self.next = first

    def take(self, count: int) -> list[int]:
        """Return the next few."""
        self.next += count
        return list(range(self.next - count, self.next))

    def check_used(self, task: str) -> None:
        """There is no end to them."""


def default_samples(batch: Mapping[str, Any], device: torch.device) -> int:
    """Return how many samples of a batch share a pass unless something else is asked for."""
    return max(1, TOKENS_PER_PASS.get(device.type, 512) // tokens_per_sample(batch))


def tokens_per_sample(batch: Mapping[str, Any]) -> int:
    """Return the length of a batch, padding included."""
    return max([1, *(value.shape[1] for value in batch.values() if isinstance(value, torch.Tensor) and value.ndim > 1)])


def num_tokens(batch: Mapping[str, Any], rows: Sequence[int]) -> int:
    """Count the tokens of some samples, without padding where there is a mask."""
    mask = batch.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        return int((mask[rows] != 0).sum())
    return len(rows) * tokens_per_sample(batch)


def full_name(loss_fn: LossFunction) -> str:
    """Name a loss function, for the record; two of one name count as the same."""
    return f"{loss_fn.__module__}.{getattr(loss_fn, '__qualname__', type(loss_fn).__qualname__)}"
