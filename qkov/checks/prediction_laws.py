"""Laws of predictions: their definition written out, what groups and pairs have to do with slices, and step sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import pair_prediction, prediction, reference
from .case import some
from .measurement import Comparison, NotRun
from .registry import check

if TYPE_CHECKING:
    from ..geometry import AttentionLayout, Projection
    from .case import Case
    from .measurement import Measurement


STEP_SIZE = 0.01


@check
def check_predicted_change(case: Case) -> Measurement | NotRun:
    """The predicted change of A's loss is gradient times step plus half the curvature, written out from the reference."""
    comparison = Comparison()
    held = case.collect()
    grads_a, grads_b = case.reference("a")[0], case.reference("b")[0]
    digests = [[one.digest for one in held.samples(task)] for task in "ab"]
    # A sample of A that is in B too is judged by the step of the others; sets of rows of B are few.
    steps_of = [tuple(j for j, other in enumerate(digests[1]) if other != one) for one in digests[0]]
    if not all(steps_of):
        return NotRun("a sample of A is all that B has, so that no step is left to judge it by")
    # In float32 a mean gradient near 0 has the sign of its rounding.
    for optimiser in ("sgd", "adam", "sign") if case.precision == "exact" else ("sgd", "adam"):
        found = prediction.predict_change(
            held, "a", "b", optimiser=optimiser, step_size=STEP_SIZE, clusters="iid", progress=False
        )
        table = found.to_dataframe("slice")
        places = {label: row for row, label in enumerate(zip(found.blocks, found.layers, found.units, strict=True))}
        for layout in case.layouts():
            for projection in layout.projections:
                for unit in some(projection.num_units, 3):
                    cut = [
                        np.stack([reference.cut(g, layout, projection.block, unit).ravel() for g in grads])
                        for grads in (grads_a, grads_b)
                    ]
                    block = np.stack([_block(g, layout, projection) for g in grads_b])
                    first, second, size = written_out(*cut, steps_of, float(np.square(block).mean()), optimiser)  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds
                    row = table.iloc[places[projection.block, layout.layer, unit]]
                    comparison.near(row["first_order"], STEP_SIZE * first, STEP_SIZE * size)
                    comparison.near(row["curvature"], STEP_SIZE**2 * second, STEP_SIZE**2 * max(second, size**2))
    return comparison.measurement(case.bound("score"))


def _block(grad: Mapping[str, np.ndarray], layout: AttentionLayout, projection: Projection) -> np.ndarray:
    return np.concatenate(
        [reference.cut(grad, layout, projection.block, unit).ravel() for unit in range(projection.num_units)]
    )


def written_out(
    grads_a: np.ndarray, grads_b: np.ndarray, steps_of: Any, block_mean: float, optimiser: str
) -> tuple[float, ...]:
    """Mean first-order change, mean half curvature, and the size of the first without cancellation, at step size 1.

    Args:
        grads_a, grads_b: ``[samples, parameters]``. steps_of: Rows of B that make the step of each sample of A.
        block_mean: Mean squared gradient of B over the block. optimiser: As for ``predict_change``.
    """
    first, second, size = [], [], []
    for grad, rows in zip(grads_a, steps_of, strict=True):
        mean, fisher = grads_b[list(rows)].mean(0), np.square(grads_b[list(rows)]).mean(0)
        step = -{
            "sgd": lambda mean, _: mean,
            "adam": lambda mean, fisher: mean / np.sqrt(fisher + 1e-8 * block_mean + np.finfo(float).tiny),
            "sign": lambda mean, _: np.sign(mean) * (np.abs(mean) > 16 * np.finfo(float).eps * block_mean**0.5),
        }[optimiser](mean, fisher)
        first.append(grad @ step)
        second.append(np.square(grad) @ np.square(step) / 2)
        size.append(np.abs(grad) @ np.abs(step))
    return np.mean(first), np.mean(second), np.mean(size)


@check
def check_predicted_groups(case: Case) -> Measurement | NotRun:
    """Predictions of slices add up to those of kv heads, layers and the model; pairs average to slices; sizes scale them."""
    comparison = Comparison()
    held = case.collect()
    found = prediction.predict_change(held, "a", "b", step_size=STEP_SIZE, clusters="iid", progress=False)
    slices, size = found.to_dataframe("slice"), np.abs(found.first).mean(0).sum() * STEP_SIZE
    for level, keys in (("kv_head", ["layer", "kv_head"]), ("layer", ["layer"]), ("block", ["block", "layer"])):
        table = found.to_dataframe(level)  # type: ignore[arg-type]  # a word that was checked, or is read from a table of them
        for name in ("first_order", "curvature"):
            sums = slices.groupby(keys, sort=False)[name].sum()
            comparison.near(table.set_index(keys)[name].to_numpy(), sums.to_numpy(), size)
    comparison.near(found.to_dataframe("all")["change"].iloc[0], slices["change"].sum(), size)
    twice = found.at(2 * STEP_SIZE).to_dataframe("slice")
    comparison.near(twice["first_order"].to_numpy(), 2 * slices["first_order"].to_numpy(), size)
    comparison.near(twice["curvature"].to_numpy(), 4 * slices["curvature"].to_numpy(), size)
    if found.attributes["num_cross_fitted"]:  # a mean over pairs is then no sample's own step
        return comparison.measurement(case.bound("score"))
    pairs = pair_prediction.predict_pairs(
        held,
        "a",
        "b",
        step_size=STEP_SIZE,
        curvature="none",
        layers=[one.layer for one in case.layouts()],
        progress=False,
    )
    places = {label: row for row, label in enumerate(zip(found.blocks, found.layers, found.units, strict=True))}
    for place, layout in enumerate(case.layouts()):
        for projection in layout.projections:
            for unit in range(projection.num_units):
                mean = pairs.arrays[projection.block][:, :, place, unit].mean()
                row = slices.iloc[places[projection.block, layout.layer, unit]]
                comparison.near(mean, row["first_order"], size)
    return comparison.measurement(case.bound("score"))
