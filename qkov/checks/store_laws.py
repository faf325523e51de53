"""Laws of the store: what is read is what was collected, bit for bit, and an interruption changes nothing."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import collector, gradients, losses
from .measurement import Comparison
from .registry import check

if TYPE_CHECKING:
    from torch import nn

    from ..geometry import Projection
    from ..samples import Sample
    from .case import Case
    from .measurement import Measurement, NotRun


@check
def check_store_keeps(case: Case) -> Measurement | NotRun:
    """A store gives back the ids, counts and slices of memory, bit for bit; whole float32 gradients but for rounding."""
    comparison, single = Comparison(), case.precision == "single"
    held = case.collect(micro_batch=1)
    with tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        _collect(case, folder)
        stored = collector.FisherCollector.open(folder)
        comparison.true(stored.config == held.config)
        for task in ("a", "b"):
            for one, two in zip(held.samples(task), stored.samples(task), strict=True):
                comparison.true((one.sample_id, one.num_tokens) == (two.sample_id, two.num_tokens))
                for layout in case.layouts():
                    for projection in layout.projections:
                        first, second = (_slices(sample, projection) for sample in (one, two))
                        if single and two.factors[projection.module_name].bias is not None:
                            # The last bit of a float32 product depends on where in memory it lies.
                            comparison.near(first, second)
                        else:
                            comparison.true(torch.equal(first, second), first.numel())
    return comparison.measurement(case.bound("gradient") if single else 0.0)


@check
def check_store_resumes(case: Case) -> Measurement | NotRun:
    """A collection that stops in any pass and is run again leaves the same files, byte for byte, as one that does not."""
    comparison = Comparison()
    with tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        whole = Path(folder) / "whole"
        passes = _collect(case, whole)
        expected = _digests(whole)
        for stop in {1, passes - 1}:
            path = Path(folder) / str(stop)
            try:
                _collect(case, path, stop=stop)
            except _Stopped:
                comparison.true(not (path / "seal.json").exists())
            _collect(case, path)
            comparison.true(_digests(path) == expected, len(expected))
    return comparison.measurement(0.0)


class _Stopped(Exception):
    """Stands for whatever ends a process."""


def _collect(case: Case, folder: str | Path, *, stop: int | None = None) -> int:
    """Collect both tasks into a store, one sample a pass; fail in pass ``stop``; return the number of passes."""
    loss_fn, count = case.loss_fn or losses.causal_lm_loss, [0]

    def counted(model: nn.Module, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        if count[0] == stop:
            raise _Stopped
        count[0] += 1
        return loss_fn(model, batch)

    with collector.FisherCollector(store=folder, attention=case.attention) as held:
        for task, batch in (("a", case.batch_a), ("b", case.batch_b)):
            held.collect_fisher(case.model, batch, task, loss_fn=counted, micro_batch=1, progress=False)
    return count[0]


def _slices(sample: Sample, projection: Projection) -> torch.Tensor:
    """All slices of a projection, as scoring makes them, ``[units, width, other]``."""
    dtype = gradients.widened(sample.factors[projection.module_name].deltas[:0]).dtype
    other = projection.weight_shape[1 - projection.head_axis]
    found = torch.empty(projection.num_units, projection.width, other, dtype=dtype)
    for unit in range(projection.num_units):
        gradients.slice_gradient(sample.factors, projection, unit, found[unit])
    return found


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
