"""Laws of scores that weigh by a matrix ("full", "kfac"), of scaled gradients, and of whose samples make F."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import formula, losses, natural_gradient, reference
from .case import num_samples, scaled_loss, some, take
from .edits import group_of, parts, restored, rotate
from .measurement import Comparison, NotRun
from .registry import check

if TYPE_CHECKING:
    from ..geometry import AttentionLayout, Projection
    from .case import Case
    from .measurement import Measurement


LARGEST_DENSE = 1500  # parameters of a slice whose matrix, p x p, is still formed and solved in a blink
MATRIX_OPTION_SETS: tuple[dict[str, Any], ...] = (
    {},
    {"fisher_pool": "B", "include_bias": True},
    {"fisher_pool": "pooled", "fisher_source": "ema", "aggregate": "mean"},
    {"contribution_normalisation": "none", "ridge_lambda_rel": 0.01},
)
DEGREES: dict[str, Any] = {"A": (-1, 1), "B": (1, -1), "pooled": 0}  # by A's loss and B's; pooled by both together


@check
def check_full_fisher(case: Case) -> Measurement | NotRun:
    """Variant "full" equals the p x p Fisher matrix of a slice, summed up from outer products and solved."""
    return _as_dense(case, "full", reference.full_scores, lambda batch, task: case.reference(task))


@check
def check_kronecker_factors(case: Case) -> Measurement | NotRun:
    """Variant "kfac" equals the Kronecker product of both factors, formed from single tokens and solved."""

    def token_factors(batch: Mapping[str, Any], task: str) -> Any:
        return reference.token_factors(case.model, batch, case.config, case.loss_fn), case.reference(task)[1]

    return _as_dense(case, "kfac", reference.kfac_scores, token_factors)


def _as_dense(case: Case, variant: str, dense: Callable[..., Any], of_task: Callable[..., Any]) -> Measurement | NotRun:
    comparison, layout = Comparison(), case.layouts()[-1]
    small = [one for one in layout.projections if _num_parameters(one) <= LARGEST_DENSE]
    if not small:
        return NotRun(f"every slice has more than {LARGEST_DENSE} parameters: its matrix is too large to be formed")
    sides = (*of_task(case.batch_a, "a"), *of_task(case.batch_b, "b"))
    held, heads = case.collect(), some(layout.num_heads, 2)
    for options in MATRIX_OPTION_SETS:
        found = case.heatmap(held, layers=[layout.layer], heads=heads, variant=variant, **options)
        for projection in small:
            unit = layout.unit(projection.block, heads[-1])
            scores = found[projection.block]["scores"][:, :, 0, -1]
            if not scores.any() and _is_noise(case, layout, projection, unit):
                continue
            expected = dense(*sides, layout, projection.block, unit, **{"aggregate": "sum", **options})
            comparison.near(scores, expected)
    return comparison.measurement(case.bound("matrix"))


def _num_parameters(projection: Projection) -> int:
    return projection.width * (projection.weight_shape[1 - projection.head_axis] + 1)


def _is_noise(case: Case, layout: AttentionLayout, projection: Projection, unit: int) -> bool:
    """Tell from the reference whether a slice is below the noise floor in either task, or close to it."""
    eps = torch.finfo(next(case.model.parameters()).dtype).eps
    for task in "ab":
        grads, _ = case.reference(task)
        means = {
            part.block: np.mean([
                np.mean([reference.cut(g, layout, part.block, one) ** 2 for one in range(part.num_units)]) for g in grads
            ])
            for part in layout.projections
        }  # fmt: skip
        own = np.mean([reference.cut(g, layout, projection.block, unit) ** 2 for g in grads])
        if own <= 100 * (16 * eps) ** 2 * max(means.values()):
            return True
    return False


@check
def check_matrix_rotation(case: Case) -> Measurement | NotRun:
    """Rotating Q with K, or V with O, is the same function and keeps "full" and "kfac"; "signed", a diagonal, moves."""
    if outside := case.adapters() or case.gated():
        return outside
    one = case.layouts()[-1]
    before, behaviour, comparison = case.collect(), case.behaviour(case.batch_a), Comparison()
    heads = group_of(one, 0)
    variants = (*formula.MATRIX_VARIANTS, "signed")
    intact = {
        variant: case.heatmap(before, layers=[one.layer], heads=heads[:2], variant=variant) for variant in variants
    }
    for blocks in ("VO", "QK"):
        with restored(case.model) as parameters:
            for rotation in _rotations(case, one, blocks):
                for block in blocks:
                    for unit in sorted({one.unit(block, head) for head in heads}):
                        rotate(parameters, one.projection(block), unit, rotation)
                now, same = case.behaviour(case.batch_a), Comparison()
                for found, expected in zip(now, behaviour, strict=True):
                    same.near(found, expected)
                if same.error <= case.bound("function"):
                    break
                for block in blocks:  # this one is no symmetry here: rotary positions, or norms of queries and keys
                    for unit in sorted({one.unit(block, head) for head in heads}):
                        rotate(parameters, one.projection(block), unit, rotation.T)
            else:
                continue
            after = case.collect()
        for variant in variants:
            found = case.heatmap(after, layers=[one.layer], heads=heads[:2], variant=variant)
            moved = 0.0
            for block in blocks:
                new, old = found.arrays[block], intact[variant].arrays[block]
                if variant != "signed":
                    comparison.near(new, old)
                elif np.abs(old).max() > 0:
                    moved = max(moved, np.abs(new - old).max() / np.abs(old).max())
            if variant == "signed":
                comparison.true(moved > 1e-4 or not any(intact[variant].arrays[block].any() for block in blocks))
    if not comparison.compared:
        return NotRun(
            "no rotation of queries with keys, or of values with outputs, leaves this model's function as it was"
        )
    return comparison.measurement(case.bound("matrix"))


def _rotations(case: Case, layout: AttentionLayout, blocks: Sequence[str]) -> list[Any]:
    """Rotations to try, the widest first: of the whole head, and inside the pairs of two ways of rotary positions."""
    width = layout.v_head_dim if blocks == "VO" else layout.head_dim
    if width < 2 or (blocks == "QK" and layout.k_head_dim < layout.head_dim):
        return []
    parameter = next(case.model.parameters())
    mixed = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [torch.linalg.qr(mixed).Q]
    if blocks == "QK" and width % 2 == 0:
        halves = [(i, i + width // 2) for i in range(width // 2)]
        neighbours = [(i, i + 1) for i in range(0, width, 2)]
        for pairs in (halves, neighbours):
            turn = torch.eye(width, dtype=torch.float64)
            for place, (i, j) in enumerate(pairs):
                angle = torch.tensor(0.7 + place, dtype=torch.float64)
                turn[i, i] = turn[j, j] = angle.cos()
                turn[i, j], turn[j, i] = -angle.sin(), angle.sin()
            found.append(turn)
    return [rotation.to(parameter) for rotation in found]


@check
def check_matrix_scale(case: Case) -> Measurement | NotRun:
    """Doubling a task's loss multiplies "full" and "kfac" by 2 to the variant's degree, damping being relative."""
    comparison, doubled, one = Comparison(), scaled_loss(case.loss_fn, 2.0), case.layouts()[-1]
    plain, more_a, more_b, both = (
        case.collect(loss_a=loss_a, loss_b=loss_b)
        for loss_a, loss_b in ((None, None), (doubled, None), (None, doubled), (doubled, doubled))
    )
    for variant in formula.MATRIX_VARIANTS:
        for pool, degree in DEGREES.items():
            options: dict[str, Any] = {
                "variant": variant,
                "fisher_pool": pool,
                "layers": [one.layer],
                "heads": some(one.num_heads, 1),
            }
            base = case.heatmap(plain, **options)
            said = base.attributes["loss_scale_degrees"]
            comparison.true((said["both"] if pool == "pooled" else (said["a"], said["b"])) == degree)
            for held, power in [(both, degree)] if pool == "pooled" else [(more_a, degree[0]), (more_b, degree[1])]:
                scaled = case.heatmap(held, **options)
                for block in base.arrays:
                    comparison.near(scaled.arrays[block], base.arrays[block] * 2.0**power)
    return comparison.measurement(case.bound("scaled"))


@check
def check_leverage(case: Case) -> Measurement | NotRun:
    """Within A, ``0 <= M_ii <= n_A``, their mean at most the rank, and M symmetric; pooled, the same read from B to A."""
    comparison, held, one = Comparison(), case.collect(), case.layouts()[-1]
    where: dict[str, Any]
    where, count = (
        {"layers": [one.layer], "heads": some(one.num_heads, 2), "progress": False},
        num_samples(case.batch_a),
    )
    for variant in formula.MATRIX_VARIANTS:
        inside = case.metric(held, variant=variant).compute_heatmap("a", "a", **where)
        for block, scores in inside.arrays.items():
            comparison.near(scores.swapaxes(0, 1), scores)
            own = np.einsum("iilh->ilh", scores)
            rank = min(count, _num_parameters(one.projection(block)))
            comparison.within(own, 0.0, count if variant == "full" else np.inf, max(own.max(), 1.0))
            comparison.within(own.mean(0), 0.0, rank if variant == "full" else np.inf, max(own.max(), 1.0))
            product = np.sqrt(np.maximum(own[:, None] * own[None], 0))
            comparison.within(np.abs(scores), 0.0, product, max(own.max(), 1.0))
        metric = case.metric(held, variant=variant, fisher_pool="pooled")
        there, back = (metric.compute_heatmap(*tasks, **where) for tasks in ("ab", "ba"))
        for block, scores in there.arrays.items():
            comparison.near(back.arrays[block].swapaxes(0, 1), scores)
    return comparison.measurement(case.bound("matrix"))


@check
def check_matrix_noise_floor(case: Case) -> Measurement | NotRun:
    """Where nothing, or next to nothing, reaches O from a group, its Q, K and V score 0 though damping is their own."""
    if outside := case.coupled():
        return outside
    comparison, one = Comparison(), case.layouts()[0]
    output, heads = one.projection("O"), group_of(one, 0)
    for factor in (0.0, 2.0**-60):
        with restored(case.model) as parameters:
            for head in heads:
                parts(parameters, output, head, bias=False)[0].mul_(factor)
            held = case.collect()
        for variant in formula.MATRIX_VARIANTS:
            found = case.heatmap(held, layers=[one.layer], heads=heads[:1], variant=variant).arrays
            comparison.true(bool(found["O"].any()))
            for block in "QKV":
                comparison.zero(found[block], np.abs(found["O"]).max())
    return comparison.measurement(case.bound("same"))


@check
def check_fisher_task(case: Case) -> Measurement | NotRun:
    """With ``fisher_tasks={"a": "b"}``, A's F is made by B's samples: the scores are those of pool "B"."""
    comparison, held, one = Comparison(), case.collect(), case.layouts()[-1]
    where = {"layers": [one.layer], "heads": some(one.num_heads, 2)}
    for variant in ("unsigned", "signed", *formula.MATRIX_VARIANTS):
        found = case.heatmap(held, variant=variant, fisher_tasks={"a": "b"}, **where)
        expected = case.heatmap(held, variant=variant, fisher_pool="B", **where)
        comparison.true(found.attributes["fisher_tasks"] == {"a": "b"})
        for block in expected.arrays:
            comparison.near(found.arrays[block], expected.arrays[block])
    return comparison.measurement(case.bound("matrix"))


@check
def check_sampled_labels(case: Case) -> Measurement | NotRun:
    """Labels of the model are drawn where the data's count, each class as often as predicted, and again by seed."""
    if case.loss_fn is not None:
        return NotRun("the loss is the user's own: what its model predicts is not known here")
    if "input_ids" not in case.batch_a:
        return NotRun("the batch holds no token ids")
    comparison, draws = Comparison(), 8192
    batch = case.on_device(take(case.batch_a, slice(0, 1)))
    drawn, again = (losses.sample_labels(case.model, batch, seed=1, num_draws=draws)["labels"] for _ in range(2))
    counted = (losses.target_labels(batch) != losses.IGNORED)[0]
    comparison.true(torch.equal(drawn, again))
    comparison.true(bool(((drawn != losses.IGNORED) == counted).all()), int(counted.sum()))
    chances = reference.predictions(case.model, batch, 0)  # [places that count, classes]
    logs = torch.log(chances.clamp_min(1e-300))
    mean = (chances * logs).sum(-1)
    spread = ((chances * logs.square()).sum(-1) - mean.square()).clamp_min(0).sqrt()
    seen = logs.gather(1, drawn[:, counted].T.to(logs.device)).mean(1)
    shaped = spread > 1e-6  # else all classes are equally likely, and the mean of log p is the same whatever is drawn
    comparison.near(seen[shaped] / spread[shaped], mean[shaped] / spread[shaped], 1.0)
    return comparison.measurement(case.bound("drawn"))


@check
def check_scaled_gradients(case: Case) -> Measurement | NotRun:
    """``h_i`` times ``x_j = (F_A + lambda)^-1 h_j`` is the score of "signed", "full" and "kfac"; and "full" solves for x."""
    comparison, held, one, head = Comparison(), case.collect(), case.layouts()[-1], 0
    sides = [case.reference(task) for task in "ab"]
    for method, variant in natural_gradient.METHODS.items():
        scaled = natural_gradient.scale_by_fisher(held, "b", fisher_task="a", method=method)
        scores = case.heatmap(held, layers=[one.layer], heads=[head], variant=variant)
        for projection in one.projections:
            unit = one.unit(projection.block, head)
            rows = scaled.slices[one.layer, projection.block, unit].cpu().numpy()
            rows = (rows if projection.head_axis == 0 else rows.swapaxes(1, 2)).reshape(len(rows), -1)
            h_a, h_b = (
                np.array([reference.cut(g, one, projection.block, unit) / t**0.5 for g, t in zip(*side, strict=True)])
                for side in sides
            )
            comparison.near(h_a @ rows.T, scores[projection.block]["scores"][:, :, 0, 0])
            if method == "full" and rows.any():
                ridge = 0.1 * (h_a**2).sum() / len(h_a) / min(h_a.shape)
                comparison.near(rows @ h_a.T @ h_a / len(h_a) + ridge * rows, h_b)  # F x + lambda x = h, for any size
    return comparison.measurement(case.bound("matrix"))
