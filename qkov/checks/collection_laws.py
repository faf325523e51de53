"""Laws of collection: a sample's gradient is its own, whatever shares its batch and however it is padded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from .. import losses
from .case import num_samples, take
from .measurement import Comparison, NotRun
from .registry import check

if TYPE_CHECKING:
    from ..collector import FisherCollector
    from ..option_types import SampleId
    from .case import Case
    from .measurement import Measurement


@check
def check_reference_gradients(case: Case) -> Measurement | NotRun:
    """Gradients equal those of one sample at a time, float64, without padding."""
    comparison = Comparison()
    held = case.collect()
    for task in ("a", "b"):
        grads, tokens = case.reference(task)
        for expected, count, one in zip(grads, tokens, held.samples(task), strict=True):
            found = held.get_sample_gradients(task, one.sample_id)
            for name in found:
                comparison.near(found[name], expected[name], magnitude(grads, name))
            comparison.true(one.num_tokens == count)
    return comparison.measurement(case.bound("gradient"))


@check
def check_contributions(case: Case) -> Measurement | NotRun:
    """A contribution is the square of the gradient, over the number of predicted tokens."""
    comparison = Comparison()
    held = case.collect()
    grads, tokens = case.reference("a")
    for expected, count, one in zip(grads, tokens, held.samples("a"), strict=True):
        found = held.contribution_cache["a"][f"a_{one.sample_id}"]
        for name in found:
            comparison.near(found[name], expected[name] ** 2 / count, magnitude(grads, name) ** 2 / count)
    return comparison.measurement(case.bound("contribution"))


@check
def check_batch_invariance(case: Case) -> Measurement | NotRun:
    """The number of samples per pass does not matter."""
    comparison = Comparison()
    whole = case.collect(micro_batch=num_samples(case.batch_a))
    for size in (1, 2):
        _same_gradients(comparison, case.collect(micro_batch=size), whole, "a")
    return comparison.measurement(case.bound("gradient"))


@check
def check_order_invariance(case: Case) -> Measurement | NotRun:
    """The order of collection does not matter."""
    comparison = Comparison()
    order = list(range(num_samples(case.batch_a)))[::-1]
    forward = case.collect()
    backward = case.collect(batch_a=take(case.batch_a, order))
    scales = _scales(forward, "a")
    for new, old in enumerate(order):
        _same_sample(comparison, backward, forward, "a", new, old, scales)
    return comparison.measurement(case.bound("gradient"))


@check
def check_isolation(case: Case) -> Measurement | NotRun:
    """A sample's gradient does not know the other samples: alone, or beside copies of another sample, it is the same."""
    comparison = Comparison()
    count = num_samples(case.batch_a)
    if count < 2:
        return NotRun("one sample has no company to be isolated from")
    whole = case.collect(micro_batch=count)
    scales = _scales(whole, "a")
    for row in (0, count - 1):
        _same_sample(comparison, case.collect(batch_a=take(case.batch_a, [row])), whole, "a", 0, row, scales)
    company = case.collect(batch_a=take(case.batch_a, [0] * (count - 1) + [count - 1]), micro_batch=count)
    _same_sample(comparison, company, whole, "a", count - 1, count - 1, scales)
    for copy in range(count - 1):
        _same_sample(comparison, company, whole, "a", copy, 0, scales)
    return comparison.measurement(case.bound("gradient"))


@check
def check_padding(case: Case) -> Measurement | NotRun:
    """More padding on the right, or padding moved to the left, changes nothing; padding may look like a real token."""
    if case.loss_fn is not None or "input_ids" not in case.batch_a:
        return NotRun("the loss is the user's own, or the batch holds embeddings: how to pad it is not known")
    if "position_ids" in case.batch_a:
        return NotRun("the batch brings its own position_ids")
    comparison = Comparison()
    plain = case.collect()
    sides = ("right",) if case.precision == "mixed" else ("right", "left")
    for side in sides:
        # In float64 with eager attention some families turn rows without a visible token into NaN; see check_reference.
        _same_gradients(comparison, case.collect(batch_a=repadded(case.batch_a, side)), plain, "a")
    return comparison.measurement(case.bound("gradient"))


@check
def check_token_sum(case: Case) -> Measurement | NotRun:
    """The loss is a sum over tokens: gradients with half of the labels masked, and with the other half, add up."""
    if case.loss_fn is not None or "input_ids" not in case.batch_a:
        return NotRun("the loss is the user's own; how its terms add up is not known")
    comparison = Comparison()
    labels = losses.target_labels(case.batch_a)
    even = torch.arange(labels.shape[1], device=labels.device) % 2 == 0
    whole = case.collect()
    scale = [held_grads(whole, one.sample_id) for one in whole.samples("a")]
    parts = []
    for kept in (even, ~even):
        masked = labels.masked_fill(~kept, losses.IGNORED)
        if not (masked != losses.IGNORED).any(1).all():
            return NotRun("a sample has too few labels to be divided")
        parts.append(case.collect(batch_a={**case.batch_a, "labels": masked}))
    for row, one in enumerate(whole.samples("a")):
        first, second = (held_grads(part, one.sample_id) for part in parts)
        for name in first:
            comparison.near(first[name] + second[name], scale[row][name], magnitude([scale[row]], name))
        tokens = [part.samples("a")[row].num_tokens for part in parts]
        comparison.true(sum(tokens) == one.num_tokens)
    return comparison.measurement(case.bound("token sum"))


@check
def check_state_restored(case: Case) -> Measurement | NotRun:
    """Collecting from a model in training mode, half frozen, under no_grad, gives the same and leaves it as it was."""
    comparison = Comparison()
    expected = case.collect()
    model = case.model
    before = [(module, module.training) for module in model.modules()]
    parameters = list(model.parameters())
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        model.train()
        for index, parameter in enumerate(parameters):
            parameter.requires_grad_(index % 2 == 0)
        training = [module.training for module in model.modules()]
        grads = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
        with torch.no_grad():
            found = case.collect()
            comparison.true(not torch.is_grad_enabled())
        comparison.true(training == [module.training for module in model.modules()])
        comparison.true(all(parameter.requires_grad == (index % 2 == 0) for index, parameter in enumerate(parameters)))
        for parameter, grad in zip(parameters, grads, strict=True):
            comparison.true((parameter.grad is None) == (grad is None))
            comparison.true(grad is None or torch.equal(parameter.grad, grad))  # type: ignore[arg-type]  # there in this variant
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)
        for module, flag in before:
            module.training = flag
    _same_gradients(comparison, found, expected, "a")
    return comparison.measurement(case.bound("gradient"))


def held_grads(held: FisherCollector, sample_id: SampleId, task: str = "a") -> dict[str, torch.Tensor]:
    """Return a sample's gradients as a plain dict."""
    return dict(held.get_sample_gradients(task, sample_id))


def repadded(batch: Mapping[str, Any], side: str) -> dict[str, torch.Tensor]:
    """Return a batch with three more positions of padding, all of it on one side, filled with a token of the text."""
    ids = batch["input_ids"]
    mask = batch.get("attention_mask", torch.ones_like(ids)) != 0
    labels = batch.get("labels", ids)
    count, length = ids.shape
    new = {
        "input_ids": ids[:, :1].repeat(1, length + 3),
        "attention_mask": torch.zeros(count, length + 3, dtype=torch.long, device=ids.device),
        "labels": torch.full((count, length + 3), losses.IGNORED, device=ids.device),
    }
    for row in range(count):
        real = torch.where(mask[row])[0]
        new["input_ids"][row] = ids[row, real[0]]
        places = torch.arange(len(real), device=ids.device) + (0 if side == "right" else length + 3 - len(real))
        new["input_ids"][row, places] = ids[row, real]
        new["attention_mask"][row, places] = 1
        new["labels"][row, places] = labels[row, real]
    rest = {name: value for name, value in batch.items() if name not in new}
    return {**rest, **new}


def magnitude(grads: Iterable[Mapping[str, Any]], name: str) -> float:
    """Largest gradient of a module, weight and bias: a K bias alone is rounding noise without rotary positions."""
    module = name.rpartition(".")[0]
    return max(float(abs(grad[one]).max()) for grad in grads for one in grad if one.rpartition(".")[0] == module)


def _same_gradients(comparison: Comparison, found: FisherCollector, expected: FisherCollector, task: str) -> None:
    scales = _scales(expected, task)
    for one in expected.samples(task):
        _same_sample(comparison, found, expected, task, one.sample_id, one.sample_id, scales)


def _same_sample(
    comparison: Comparison,
    found: FisherCollector,
    expected: FisherCollector,
    task: str,
    found_id: SampleId,
    expected_id: SampleId,
    scales: Mapping[str, float],
) -> None:
    want = expected.get_sample_gradients(task, expected_id)
    have = found.get_sample_gradients(task, found_id)
    for name in want:
        comparison.near(have[name], want[name], scales[name])


def _scales(held: FisherCollector, task: str) -> dict[str, float]:
    """Largest gradient of each module over all samples: one whose attention is saturated has only rounding noise."""
    every = [held_grads(held, one, task) for one in held.sample_ids(task)]
    return {name: magnitude(every, name) for name in every[0]}
