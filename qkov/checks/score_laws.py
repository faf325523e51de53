"""Laws of the scores: their definition, what averages say, bounds, additivity, degrees in the losses, symmetry, lift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import formula, reference
from .case import num_samples, scaled_loss, some
from .measurement import Comparison, bound
from .registry import check

if TYPE_CHECKING:
    from .case import Case
    from .measurement import Measurement, NotRun


# Every variant, pool, source, normalisation, aggregate and damping rule occurs, and every interaction of two that matters.
OPTION_SETS: tuple[dict[str, Any], ...] = (
    {},
    {"fisher_pool": "pooled", "normalize_gj": "per_token"},
    {"include_bias": True, "aggregate": "mean"},
    {"fisher_source": "ema", "fisher_pool": "pooled"},
    {"fisher_source": "head"},
    {"contribution_normalisation": "none"},
    {"epsilon": 1e-10, "ridge_lambda": 1e-8},
    {"variant": "natural"},
    {"variant": "natural", "fisher_source": "head", "fisher_pool": "B"},
    {"variant": "signed"},
    {"variant": "signed", "fisher_pool": "pooled", "contribution_normalisation": "none"},
    {"variant": "symmetric", "fisher_source": "ema"},
    {"variant": "dot", "aggregate": "mean"},
)

FOREIGN_OPTION_SETS = (
    {"fisher_pool": "B", "aggregate": "mean"},
    {"fisher_pool": "B", "fisher_source": "ema", "variant": "signed"},
    {"fisher_pool": "B", "variant": "symmetric"},
)

# Degree of each variant in A's loss and in B's, Fisher from A, from B, pooled (only both together act as a power).
DEGREES: dict[str, dict[str, Any]] = {
    "A": {"unsigned": (0, 1), "natural": (0, 0), "signed": (-1, 1), "symmetric": (-1, 1), "dot": (1, 1)},
    "B": {"unsigned": (2, -1), "natural": (0, 0), "signed": (1, -1), "symmetric": (1, -1), "dot": (1, 1)},
    "pooled": {"unsigned": 1, "natural": 0, "signed": 0, "symmetric": 0, "dot": 2},
}


@check
def check_reference_scores(case: Case) -> Measurement | NotRun:
    """Scores equal the definitions written out, for every variant, source, normalisation and damping rule."""
    return _as_written_out(case, OPTION_SETS, "score")


@check
def check_foreign_fisher(case: Case) -> Measurement | NotRun:
    """Scores normalised by B's Fisher equal the definitions written out."""
    return _as_written_out(case, FOREIGN_OPTION_SETS, "foreign fisher")


def _as_written_out(case: Case, option_sets: Sequence[Mapping[str, Any]], kind: str) -> Measurement:
    comparison = Comparison()
    held = case.collect()
    (grads_a, tokens_a), (grads_b, tokens_b) = case.reference("a"), case.reference("b")
    layers = [layout.layer for layout in case.layouts()]
    for options in option_sets:
        found = case.heatmap(held, layers=layers, **options)
        for place, layout in enumerate(case.layouts()):
            for projection in layout.projections:
                scores = found.arrays[projection.block][:, :, place]
                for unit in some(projection.num_units, 3):
                    expected = reference.scores(
                        grads_a,
                        tokens_a,
                        grads_b,
                        tokens_b,
                        layout,
                        projection.block,
                        unit,
                        **{"aggregate": "sum", **options},
                    )
                    comparison.near(scores[..., unit], expected, max(np.abs(expected).max(), np.abs(scores).max()))
    return comparison.measurement(case.bound(kind))


@check
def check_marginal_identity(case: Case) -> Measurement | NotRun:
    """Averaged over A with A's own Fisher, an unsigned score is the L1 norm of B's gradient: nothing of A is left."""
    comparison = Comparison()
    held = case.collect()
    found = case.heatmap(held, ridge_lambda_rel=0.0)
    norms = case.metric(held).compute_gradient_norms("b")
    (grads_a, _), (grads_b, _) = case.reference("a"), case.reference("b")
    for layout in case.layouts():
        place = found.layers.index(layout.layer)
        for projection in layout.projections:
            for unit in some(projection.num_units):
                reached = np.any([reference.cut(g, layout, projection.block, unit) != 0 for g in grads_a], axis=0)
                slices = [reference.cut(g, layout, projection.block, unit) for g in grads_b]
                average = found.arrays[projection.block][:, :, place, unit].mean(0)
                comparison.near(average, [np.abs(g[reached]).sum() for g in slices])
                row = [one.layer for one in case.config.layers].index(layout.layer)
                comparison.near(norms[projection.block][:, row, unit], [np.abs(g).sum() for g in slices])
    return comparison.measurement(case.bound("score"))


@check
def check_bounds(case: Case) -> Measurement | NotRun:
    """``0 <= C_ik / F_k <= n_A``, so a score is at most n_A times the L1 norm of B's gradient; 2 n_A when pooled."""
    comparison = Comparison()
    held = case.collect()
    norms = case.metric(held).compute_gradient_norms("b")
    for pool, factor in (("A", 1), ("pooled", 2)):
        found = case.heatmap(held, fisher_pool=pool)
        for block, scores in found.arrays.items():
            limit = factor * scores.shape[0] * norms[block][None]
            comparison.within(scores, 0.0, limit, max(limit.max(), np.finfo(float).tiny))
    weights = [held.ema_decay ** (num_samples(case.batch_a) - 1 - i) for i in range(num_samples(case.batch_a))]
    largest = np.array([sum(weights) / weight for weight in weights])[:, None, None, None]
    found = case.heatmap(held, fisher_source="ema")
    for block, scores in found.arrays.items():
        limit = largest * norms[block][None]
        comparison.within(scores, 0.0, limit, max(limit.max(), np.finfo(float).tiny))
    return comparison.measurement(case.bound("identity"))


@check
def check_head_additivity(case: Case) -> Measurement | NotRun:
    """Heads add up to the weights that hold them, uncut: kv heads once, and query heads to H / H_kv times K and V."""
    if outside := case.gated():
        return outside
    comparison = Comparison()
    held = case.collect()
    (grads_a, tokens_a), (grads_b, tokens_b) = case.reference("a"), case.reference("b")
    for variant in formula.VARIANTS:
        found = case.heatmap(held, variant=variant, ridge_lambda_rel=0.0)
        for layout in case.layouts():
            place = found.layers.index(layout.layer)
            sums: dict[str, Any]
            sums, repeats = {}, layout.num_heads // layout.num_kv_heads
            for projection in layout.projections:
                # A layer with fewer kv heads than another has no slices at the end of the axis.
                part = found.arrays[projection.block][:, :, place, : projection.num_units].sum(-1)
                sums[projection.param_name] = sums.get(projection.param_name, 0) + part
                view = found[projection.block]["scores"][:, :, place, : layout.num_heads].sum(-1)
                comparison.near(view, part * (repeats if projection.block in "KV" else 1))
            for name, found_sum in sums.items():
                expected = _uncut(variant, name, grads_a, tokens_a, grads_b, tokens_b)
                comparison.near(found_sum, expected, _uncut("symmetric", name, grads_a, tokens_a, grads_b, tokens_b).max()
                                if variant == "signed" else None)  # fmt: skip
    return comparison.measurement(case.bound("score"))


def _uncut(
    variant: str,
    name: str,
    grads_a: Sequence[dict[str, np.ndarray]],
    tokens_a: Sequence[int],
    grads_b: Sequence[dict[str, np.ndarray]],
    tokens_b: Sequence[int],
) -> np.ndarray:
    """Scores over a whole stored weight, written out in float64, Fisher from A without damping."""
    g_a, g_b = (np.stack([g[name].ravel() for g in grads]) for grads in (grads_a, grads_b))
    h_a, h_b = (g / np.sqrt(t)[:, None] for g, t in ((g_a, np.array(tokens_a)), (g_b, np.array(tokens_b))))
    f_a, f_b = ((h**2).mean(0) + np.finfo(float).tiny for h in (h_a, h_b))
    left, right = {
        "unsigned": (h_a**2 / f_a, abs(g_b)),
        "natural": (h_a**2 / f_a, abs(h_b) / np.sqrt(f_b)),
        "signed": (h_a / f_a, h_b),
        "symmetric": (abs(h_a) / f_a, abs(h_b)),
        "dot": (g_a, g_b),
    }[variant]
    return left @ right.T


@check
def check_loss_scale(case: Case) -> Measurement | NotRun:
    """Doubling a task's loss multiplies scores by 2 to the variant's degree: exactly, as 2 is exact in floating point."""
    comparison = Comparison()
    doubled = scaled_loss(case.loss_fn, 2.0)
    plain, more_a, more_b, both = (
        case.collect(loss_a=loss_a, loss_b=loss_b)
        for loss_a, loss_b in ((None, None), (doubled, None), (None, doubled), (doubled, doubled))
    )
    one = case.layouts()[-1]
    where: dict[str, Any] = {"layers": [one.layer], "heads": some(one.num_heads, 2)}
    for pool, degrees in DEGREES.items():
        for variant, degree in degrees.items():
            options = {"variant": variant, "fisher_pool": pool, **where}
            base = case.heatmap(plain, **options)
            pairs = [(both, degree)] if pool == "pooled" else [(more_a, degree[0]), (more_b, degree[1])]
            said = base.attributes["loss_scale_degrees"]
            comparison.true((said["both"] == degree) if pool == "pooled" else ((said["a"], said["b"]) == degree))
            for held, power in pairs:
                scaled = case.heatmap(held, **options)
                for block in base.arrays:
                    comparison.near(scaled.arrays[block], base.arrays[block] * 2.0**power)
    return comparison.measurement(case.bound("scaled"))


@check
def check_symmetry(case: Case) -> Measurement | NotRun:
    """|signed| <= symmetric; both, and dot, are the same read from B to A when the Fisher is pooled; unsigned is not."""
    comparison = Comparison()
    held = case.collect()
    there = {variant: case.heatmap(held, variant=variant, fisher_pool="pooled") for variant in formula.VARIANTS}
    metric = {variant: case.metric(held, variant=variant, fisher_pool="pooled") for variant in formula.VARIANTS}
    back = {variant: one.compute_heatmap("b", "a", progress=False) for variant, one in metric.items()}
    for block in there["signed"].arrays:
        signed, symmetric = there["signed"].arrays[block], there["symmetric"].arrays[block]
        comparison.within(np.abs(signed), 0.0, symmetric, symmetric.max())
        for variant in ("signed", "symmetric", "dot"):
            comparison.near(back[variant].arrays[block].swapaxes(0, 1), there[variant].arrays[block])
        unsigned = there["unsigned"].arrays[block]
        differs = np.abs(back["unsigned"].arrays[block].swapaxes(0, 1) - unsigned).max() > 1e-3 * unsigned.max()
        comparison.true(differs or not unsigned.any())
    return comparison.measurement(case.bound("identity"))


@check
def check_lift(case: Case) -> Measurement | NotRun:
    """Lift is the ratio written out, 1 for even gradients, and does not move when a sample is rescaled."""
    comparison = Comparison()
    (grads_a, _), (grads_b, _) = case.reference("a"), case.reference("b")
    even = torch.ones(2, 8, dtype=torch.float64)
    comparison.near(formula.lift(even, even, even[0]), [1.0, 1.0])
    for layout in case.layouts():
        for projection in layout.projections:
            g_a, g_b = (
                np.stack([reference.cut(g, layout, projection.block, 0) for g in grads]) for grads in (grads_a, grads_b)
            )
            damped = (g_a**2).mean(0) + 1e-8 * (g_a**2).mean()
            found = formula.lift(torch.tensor(g_a), torch.tensor(g_b), torch.tensor(damped))
            unit_a, unit_b = (g / np.linalg.norm(g, axis=1, keepdims=True) for g in (g_a, g_b))
            u, v = unit_a**2 / damped, np.abs(unit_b).mean(0)
            comparison.near(found, g_a.shape[1] * (u @ v) / (u.sum(1) * v.sum()))
            factors = np.array([2.0**power for power in range(-3, len(g_a) - 3)])[:, None]
            rescaled = formula.lift(torch.tensor(g_a * factors), torch.tensor(g_b * 4.0), torch.tensor(damped))
            comparison.near(rescaled, found)
    return comparison.measurement(bound("identity", "exact"))


@check
def check_tiles(case: Case) -> Measurement | NotRun:
    """How a slice is cut into tiles does not matter."""
    comparison = Comparison()
    held = case.collect()
    one = case.layouts()[-1]
    where = {"layers": [one.layer], "heads": some(one.num_heads, 2)}
    for options in ({"variant": "unsigned"}, {"variant": "signed", "fisher_source": "head"}, {"include_bias": True}):
        whole = case.heatmap(held, **where, **options)
        for tile in (1, 257):
            tiled = case.heatmap(held, **where, tile_elements=tile, **options)
            for block in whole.arrays:
                comparison.near(tiled.arrays[block], whole.arrays[block])
    return comparison.measurement(case.bound("identity"))
