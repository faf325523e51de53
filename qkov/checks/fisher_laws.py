"""Laws of the Fisher diagonal: square before reducing, merge exactly, weigh as said, damp as said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import collector, diagonal, fisher, formula, reference
from ..errors import ModuleReuseError
from .case import some, take
from .edits import parts, restored, scale
from .measurement import Comparison, NotRun
from .registry import check

if TYPE_CHECKING:
    from ..diagonal import FisherDiagonal
    from .case import Case
    from .measurement import Measurement


@check
def check_square_then_reduce(case: Case) -> Measurement | NotRun:
    """Squares are taken per sample and parameter; ``mean g^2 - (mean g)^2`` is the variance, and g = [1, -1] gives 2."""
    comparison = Comparison()
    closed = fisher.reduce_heads(formula.contribution(torch.tensor([[1.0, -1.0]], dtype=torch.float64)))
    comparison.near(closed, [2.0])
    held = case.collect()
    found = held.get_group_fisher("a", mode="welford")
    diagonal = held.contribution_cache["a"]
    grads, tokens = case.reference("a")
    roots = np.sqrt(np.array(tokens, dtype=np.float64))
    for layout in case.layouts():
        for projection in layout.projections:
            expected, slices = [], []
            for unit in range(projection.num_units):
                h = np.stack([reference.cut(g, layout, projection.block, unit) for g in grads]) / roots[:, None]
                expected.append((h**2).sum(1).mean())
                slices.append(h)
            comparison.near(found[layout.layer, projection.block], expected)
            h = slices[0]
            second = torch.stack(
                [entry[projection.param_name][projection.slice_of(0).index] for entry in diagonal.values()]
            )
            second = second.reshape(len(h), -1).double().mean(0).cpu().numpy()
            comparison.near(second - h.mean(0) ** 2, h.var(0), (h**2).max())
    return comparison.measurement(case.bound("fisher"))


@check
def check_fisher_diagonal(case: Case) -> Measurement | NotRun:
    """The diagonal of heads and feed-forward parts is the mean of single squares, and the same bits by both ways."""
    comparison = Comparison()
    options: dict[str, Any] = {"loss_fn": case.loss_fn, "progress": False}
    held = collector.FisherCollector(weights=("attention", "mlp"), attention=case.attention)
    try:
        held.collect_fisher(case.model, case.batch_a, "a", **options)
    except ModuleReuseError:  # experts that no token reaches, or a feed-forward part that runs twice: heads alone
        held = collector.FisherCollector(attention=case.attention)
        held.collect_fisher(case.model, case.batch_a, "a", **options)
    asked = [one.module_name for one in held.weights]
    at_once = diagonal.collect_fisher_diagonal(
        case.model,
        case.batch_a,
        "a",
        weights=asked,
        attention=case.attention,
        **options,
    )
    comparison.true(_same_bits(at_once, diagonal.FisherDiagonal.of(held, "a")))
    grads, tokens = case.reference("a")
    counts = np.array(tokens, dtype=np.float64)[:, None, None]
    for name, found in at_once.values.items():
        g = np.stack([grad[name] for grad in grads])
        comparison.near(found, (g**2 / counts).mean(0), (g**2 / counts).max())
        comparison.near(at_once.grad_mean[name], g.mean(0), np.abs(g).max())
    return comparison.measurement(case.bound("contribution"))


def _same_bits(one: FisherDiagonal, other: FisherDiagonal) -> bool:
    return list(one.values) == list(other.values) and all(
        torch.equal(one.values[name], other.values[name]) and torch.equal(one.grad_mean[name], other.grad_mean[name])
        for name in one.values
    )


@check
def check_welford(case: Case) -> Measurement | NotRun:
    """Mean, variance and standard error of merged parts equal those of the whole, in any grouping."""
    comparison = Comparison()
    held = case.collect()
    statistics = held.group_statistics("a")
    grads, tokens = case.reference("a")
    for layout in case.layouts():
        for projection in layout.projections:
            values = np.array([
                [(reference.cut(g, layout, projection.block, unit) ** 2).sum() / t for unit in range(projection.num_units)]
                for g, t in zip(grads, tokens, strict=True)
            ])  # fmt: skip
            whole = statistics[layout.layer, projection.block]
            merged = fisher.Welford.of(torch.tensor(values[:0]))
            for part in (values[:1], values[2:], values[1:2]):
                merged = merged.merge(fisher.Welford.of(torch.tensor(part)))
            for state in (whole, merged):
                comparison.true(state.count == len(values))
                comparison.near(state.mean, values.mean(0))
                if len(values) > 1:
                    size = values.max() ** 2
                    comparison.near(state.variance, values.var(0, ddof=1), size)
                    comparison.near(state.standard_error, values.std(0, ddof=1) / np.sqrt(len(values)), values.max())
    return comparison.measurement(case.bound("fisher"))


@check
def check_ema(case: Case) -> Measurement | NotRun:
    """The bias-corrected exponential mean is the exponentially weighted mean, in the submitted order."""
    comparison = Comparison()
    held = case.collect()
    reversed_order = case.collect(batch_a=take(case.batch_a, list(range(len(held.samples("a"))))[::-1]))
    grads, tokens = case.reference("a")
    decay = held.ema_decay
    for collected, order in ((held, range(len(grads))), (reversed_order, range(len(grads))[::-1])):
        weights = np.array([decay ** (len(grads) - 1 - age) for age in range(len(grads))])
        weights /= weights.sum()
        found = collected.get_group_fisher("a", mode="ema")
        for layout in case.layouts():
            for projection in layout.projections:
                expected = [
                    sum(
                        weight * (reference.cut(grads[row], layout, projection.block, unit) ** 2).sum() / tokens[row]
                        for weight, row in zip(weights, order, strict=True)
                    )
                    for unit in range(projection.num_units)
                ]
                comparison.near(found[layout.layer, projection.block], expected)
    return comparison.measurement(case.bound("fisher"))


@check
def check_damping(case: Case) -> Measurement | NotRun:
    """A dead slice scores 0, rounding noise is not normalised up, and the seeds' constants act as they say."""
    if outside := case.coupled():
        return outside
    comparison = Comparison()
    values = torch.tensor([0.0, 1e-20, 1e-12, 3.0], dtype=torch.float64)
    comparison.near(formula.damp(values, 2.0)[1:], values[1:] + 2e-8)
    comparison.near(formula.damp(values, 2.0, epsilon=1e-10), [1e-10 + 1e-8, 1e-10 + 1e-8, 1e-10 + 1e-8, 3.0 + 1e-8])
    comparison.near(formula.damp(values, 2.0, epsilon=1e-3, ridge_lambda=0.5), [0.501, 0.501, 0.501, 3.5])
    noise = torch.full((3, 4), 1e-16, dtype=torch.float64)
    level = formula.contribution(noise).mean(0)
    comparison.zero(formula.contribution(noise) / formula.damp(level, 1.0), 1.0)
    # On the model: with a dead group of heads everything of it scores exactly 0, and no number is NaN.
    layout = case.layouts()[0]
    with restored(case.model) as parameters:
        for head in (one for one in range(layout.num_heads) if layout.kv_head(one) == 0):
            for view in (
                parameters[layout.projection("O").param_name].data[layout.projection("O").slice_of(head).index],
            ):
                view.zero_()
        dead = case.heatmap(case.collect(), layers=[layout.layer])
    comparison.zero(dead.arrays["V"][:, :, 0, 0], abs(dead.arrays["O"]).max())
    return comparison.measurement(case.bound("ablated"))


@check
def check_noise_floor(case: Case) -> Measurement | NotRun:
    """Where all values are equal, attention cannot act: Q and K hold rounding noise only, and it scores 0."""
    if outside := case.adapters():
        return outside
    layout = case.layouts()[-1]
    values = layout.projection("V")
    if values.bias_name is None:
        return NotRun("values have no bias, which alone would make them equal and not zero")
    if case.precision == "mixed":
        return NotRun("the library takes the softmax in float32, so the noise is not that of the gradients' precision")
    if next(case.model.parameters()).dtype == torch.bfloat16:
        return NotRun("the model rounds to bfloat16, so the noise is not that of the gradients' precision, float32")
    comparison = Comparison()
    with restored(case.model) as parameters:
        for unit in range(values.num_units):
            parts(parameters, values, unit)[0].zero_()
        held = case.collect()
    for variant in ("natural", "signed", "symmetric"):
        found = case.heatmap(held, layers=[layout.layer], variant=variant).arrays
        for block in "QK":
            comparison.zero(found[block], np.abs(found["V"]).max())
        comparison.true(bool(found["V"].any() and found["O"].any()))
    return comparison.measurement(case.bound("ablated"))


@check
def check_damping_scale(case: Case) -> Measurement | NotRun:
    """Relative damping is relative: with gradients 1,000 times smaller, F / D is the same; absolute damping is not."""
    if outside := case.adapters():
        return outside
    comparison = Comparison()
    layout = case.layouts()[-1]
    plain = case.heatmap(case.collect(), layers=[layout.layer])
    with restored(case.model) as parameters:
        for unit in range(layout.num_kv_heads):
            scale(parameters, layout.projection("V"), unit, 1024.0)
        for head in range(layout.num_heads):
            scale(parameters, layout.projection("O"), head, 1 / 1024.0)
        small = case.heatmap(case.collect(), layers=[layout.layer])
    for block in "VO":
        comparison.near(small.health[block]["fisher_over_damped"], plain.health[block]["fisher_over_damped"])
    factor = {"V": 1024.0**-2, "O": 1024.0**2}
    for block in "VO":
        comparison.near(small.health[block]["damping"], plain.health[block]["damping"] * factor[block])
    return comparison.measurement(case.bound("score"))


@check
def check_health(case: Case) -> Measurement | NotRun:
    """The health of a slice is that of its Fisher diagonal as the reference computes it."""
    comparison = Comparison()
    held = case.collect()
    found = case.heatmap(held)
    grads, tokens = case.reference("a")
    for layout in case.layouts():
        place = found.layers.index(layout.layer)
        for projection in layout.projections:
            block = projection.block
            diagonal = [
                np.mean(
                    [reference.cut(g, layout, block, unit) ** 2 / t for g, t in zip(grads, tokens, strict=True)], axis=0
                )
                for unit in range(projection.num_units)
            ]
            damping = 1e-8 * np.mean(np.concatenate(diagonal))
            for unit in some(projection.num_units):
                f, size = diagonal[unit], diagonal[unit].max()
                health = {name: values[place, unit] for name, values in found.health[block].items()}
                middle = np.sort(f)[(len(f) - 1) // 2]
                comparison.near(health["fisher_min"], f.min(), size)
                comparison.near(health["fisher_max"], f.max(), size)
                comparison.near(health["fisher_median"], middle, size)
                comparison.near(
                    health["share_below_epsilon"], (f < 1e-10).mean(), 1e3 if case.precision == "single" else 1
                )
                # D - F is good to the rounding of F in float64: eight digits of a damping 1e-8 times as large.
                comparison.near(health["damping"], damping, max(damping, 1e-5 * size))
                ratio = np.sort(f / (f + damping))[(len(f) - 1) // 2]
                comparison.near(health["fisher_over_damped"], ratio, 1.0)
    return comparison.measurement(case.bound("fisher"))
