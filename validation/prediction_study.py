"""Does any score predict what a step on B really does to A? Every slice is moved alone, and held-out losses are measured.

Sizes of steps are declared by what they do to B: at size r, to first order, B's loss would fall by the share r if all slices
moved. Rank correlation compares slices, over all four blocks unless a block is named. The bounds hold for "predicted" at
sizes up to :data:`SMALL` on the pairs of :data:`prediction_tasks.BOUNDED`.
"""

from dataclasses import dataclass

import numpy as np
import torch

import qkov
from qkov import scoring, step

from . import interventions, prediction_scores, prediction_tasks, rank_agreement
from .prediction_tasks import LABELS

SMALL = 0.03
RANK, SLOPE, R_SQUARED, PAIR_RANK = 0.95, (0.9, 1.1), 0.95, 0.85
PAIR_SIZE = 0.03


@dataclass(frozen=True)
class Cell:
    """One pair on one model.

    Attributes:
        pair: Key of :data:`prediction_tasks.PAIRS`. family, seed: Which trained model; the seed also draws the samples.
        num_samples: Samples of A, of B, and held out.
        sizes: ``{optimiser: step sizes}``.
        every_score: All scores, or the predicted ones alone.
        num_steps: Samples of B whose single steps are compared pair by pair; 0 for none.
        points: Keep predicted and real changes for a picture.
    """

    pair: str
    family: str
    seed: int
    num_samples: int
    sizes: dict
    every_score: bool = True
    num_steps: int = 0
    points: bool = False


def measure(cell):
    """Collect, predict, move every slice, compare; a list of facts ``{study, procedure, data, value, error, ...}``."""
    torch.set_num_threads(1)
    data = prediction_tasks.collect(cell.pair, cell.seed, cell.num_samples, family=cell.family)
    facts = list(_task_facts(cell, data))
    watched = interventions.watch(data.model, data.held_out)
    codes_a = rank_agreement.codes_of(list(data.collector.clusters("a").values()), cell.num_samples)
    codes_held = rank_agreement.codes_of(data.clusters, cell.num_samples)
    pairs = prediction_scores.pair_scores(data) if cell.every_score else {}
    static = prediction_scores.static_scores(data, pairs) if pairs else {}
    for optimiser, sizes in cell.sizes.items():
        held = []
        diagonal, drawn = (
            qkov.predict_change(data.collector, "a", "b", optimiser=optimiser, step_size=1.0, progress=False, **options)
            for options in ({}, {"curvature": "gradient", "curvature_task": LABELS})
        )
        whole = data.loss_b / diagonal.descent.sum()
        facts.append(_foretold_limit(cell, optimiser, drawn, whole))
        for size in sizes:
            real = real_changes(watched, data.collector, optimiser, size * whole)
            scores = static | predicted_scores(diagonal, drawn, size * whole)
            given = codes_a, real, codes_held
            facts += _agreements(cell, optimiser, size, scores, given, diagonal.blocks)
            held += [(size, _holds(scores["predicted, first order"], real))]
            if cell.points:
                points = np.column_stack([scores["predicted"].mean(0), real.mean(0)])
                facts.append(fact(cell, "points", "predicted", f"{optimiser}, size {size:g}", len(points),
                                   points=[[float(f"{x:.4g}") for x in point] for point in points],
                                   blocks="".join(diagonal.blocks)))  # fmt: skip
        facts.append(_found_limit(cell, optimiser, held))
    if cell.num_steps:
        facts += pair_facts(cell, data, pairs)
    return facts


def predicted_scores(diagonal, drawn, step_size):
    """Predicted change of each of A's samples by every curvature, ``{name: [n_a, slices]}``; means are the predictions.

    Args:
        diagonal: The prediction with the diagonal curvature. drawn: That with gradients of labels drawn from the model, one
            draw a sample, as the whole curvature.
    """
    first = step_size * diagonal.first
    found = [first + step_size**2 * diagonal.second, first, first + first**2 / 2]
    found.append(first + (step_size * drawn.second) ** 2 / 2)
    return dict(zip(prediction_scores.PREDICTED, found, strict=True))


def real_changes(watched, collector, optimiser, step_size):
    """Move every slice along the optimiser's step on B, alone; changes ``[held out, slices]``, nats."""
    columns = []
    for (layout, projection, unit), grads_b in _steps(collector):
        d = -step_size * step.direction(grads_b.mean(0), grads_b.square().mean(0),
                                             float(grads_b.square().mean()), optimiser)  # fmt: skip
        columns.append(interventions.change(watched, layout, projection, unit, d).numpy())
    return np.column_stack(columns)


def _steps(collector):
    """Walk over the slices: label, and gradients of B, float64 ``[samples, parameters]``."""
    options = scoring.ScoreOptions(tile_elements=2**62)
    for label in prediction_scores.slice_labels(collector.config):
        yield label, next(scoring.slice_tiles(collector.samples("b"), label[1], label[2], options)).double()


def fact(cell, study, procedure, where, value, error=0.0, **more):
    names = {"study": study, "procedure": procedure, "pair": cell.pair, "family": cell.family, "where": where}
    return names | {"value": float(value), "error": float(error), **more}


def _task_facts(cell, data):
    """What kind of pair this is: the cosine of both mean gradients, and how well half of A ranks slices as the other does."""
    products, norms_a, norms_b, halves = [], [], [], []
    for _, grads_a, grads_b in prediction_scores.gradients(data.collector):
        mean_a, mean_b = grads_a.mean(0), grads_b.mean(0)
        products.append(mean_a @ mean_b)
        norms_a.append(mean_a @ mean_a)
        norms_b.append(mean_b @ mean_b)
        halves.append([grads_a[::2].mean(0) @ mean_b, grads_a[1::2].mean(0) @ mean_b])
    cosine = sum(products) / (sum(norms_a) * sum(norms_b)) ** 0.5
    halves = np.array(halves)
    yield fact(cell, "tasks", "cosine", "all slices", cosine)
    yield fact(cell, "tasks", "conflicting slices", "all slices", np.mean(np.array(products) < 0))
    yield fact(
        cell, "tasks", "reliability", "all slices", rank_agreement.rank_correlation(halves[:, 0], halves[:, 1])[0]
    )


def _foretold_limit(cell, optimiser, found, whole):
    """The size at which the curvature would be a tenth of the first order, slices taken together; known before any step."""
    first, second = np.abs(found.first.mean(0)).sum(), (found.second**2).mean(0).sum() / 2
    return fact(cell, "limit", "foretold", optimiser, 0.1 * first / second / whole)


def _holds(scores, real):
    """Whether the line through real against predicted has a slope near 1 and explains what it must."""
    means = scores.mean(0), real.mean(0)
    slope = rank_agreement.slope(*means)[0]
    return SLOPE[0] <= slope <= SLOPE[1] and rank_agreement.r_squared(*means)[0] >= R_SQUARED


def _found_limit(cell, optimiser, held):
    """The smallest size tried at which the first order failed; infinite sizes are written as ten times the largest."""
    failed = [size for size, holds in sorted(held) if not holds]
    return fact(cell, "limit", "found", optimiser, failed[0] if failed else 10 * max(cell.sizes[optimiser]))


def _agreements(cell, optimiser, size, scores, given, blocks):
    codes_a, real, codes_held = given
    where = f"{optimiser}, size {size:g}"
    for name, rows in scores.items():
        found = rank_agreement.agree(rank_agreement.rank_correlation, rows, codes_a, real, codes_held)
        yield fact(cell, "rank", name, where, found.value, found.error)
        if size == SMALL:
            for block in "QKVO":
                chosen = np.array([one == block for one in blocks])
                found = rank_agreement.agree(rank_agreement.rank_correlation, rows, codes_a, real, codes_held, chosen)
                yield fact(cell, "rank in a block", name, f"{where}, block {block}", found.value, found.error)
    for name in prediction_scores.PREDICTED:
        for study, figure in (
            ("slope", rank_agreement.slope),
            ("R2", rank_agreement.r_squared),
            ("R2 of real = predicted", rank_agreement.identity_r_squared),
        ):
            found = rank_agreement.agree(figure, scores[name], codes_a, real, codes_held)
            yield fact(cell, study, name, where, found.value, found.error)
    yield fact(cell, "size of the change", "median slice", where, np.median(np.abs(real.mean(0))))


def pair_facts(cell, data, pairs):
    """Compare pair scores with what the step of one sample of B alone does to each sample of A."""
    collector = data.collector
    rows = min(cell.num_samples, 100)
    watched = interventions.watch(data.model, {name: value[:rows] for name, value in data.batches["a"].items()})
    chosen = np.linspace(0, cell.num_samples - 1, cell.num_steps).astype(int)
    every = [(label, grads_b[chosen]) for label, grads_b in _steps(collector)]
    descent = np.mean([sum(grads[j].square().sum().item() for _, grads in every) for j in range(len(chosen))])
    step_size = PAIR_SIZE * data.loss_b / descent
    real = np.stack(
        [
            np.stack([interventions.change(watched, *label, -step_size * grad).numpy() for grad in grads], 1)
            for label, grads in every
        ],
        2,
    )  # [n_a, steps, slices]
    for name, scores in chosen_pairs(data, pairs, rows, chosen, step_size).items():
        for study, truth in (("pairs", real), ("pairs, size of the change", np.abs(real))):
            value = rank_agreement.rank_correlation(scores.ravel(), truth.ravel())[0]
            by_slice = rank_agreement.rank_correlation(*(one.reshape(-1, one.shape[2]).T for one in (scores, truth)))
            yield fact(cell, study, name, f"sgd, size {PAIR_SIZE:g}, all slices together", value)
            yield fact(cell, study, name, f"sgd, size {PAIR_SIZE:g}, mean over slices", np.nanmean(by_slice))


def chosen_pairs(data, pairs, rows, chosen, step_size):
    """Scores of the pairs that are compared, ``{name: [n_a, steps, slices]}``, higher meaning more harm."""
    found = {name: scores[:rows][:, chosen] for name, scores in pairs.items()}
    parts = {"predicted": [], "norm of A's gradient": [], "cosine": []}
    for _, grads_a, grads_b in prediction_scores.gradients(data.collector):
        steps = -step_size * grads_b[chosen]
        first, norms = grads_a[:rows] @ steps.T, np.linalg.norm(grads_a[:rows], axis=1)
        parts["predicted"].append(first + (grads_a**2).mean(0) @ (steps**2).T / 2)
        parts["norm of A's gradient"].append(np.repeat(norms[:, None], len(chosen), 1))
        parts["cosine"].append(first / np.maximum(norms[:, None] * np.linalg.norm(steps, axis=1), 1e-300))
    return found | {name: np.stack(values, 2) for name, values in parts.items()}
