r"""Is an average of two fine-tuned models better when it is weighted by this package's Fisher diagonals?

Declared before any merged model was measured; the learning rate and the number of steps come from experts of another seed:

- From the trained Llama-style model one expert is fine-tuned for each task with Adam, all weights of attention and
  feed-forward parts: :data:`STEPS` steps of :data:`BATCH` texts.
- Pairs: arithmetic and code in capitals, both new to the model, and arithmetic and prose, which it knows.
- Each expert's Fisher diagonal is collected at that expert, on other texts of its own task.
- :data:`METHODS`: the plain average :math:`(1 - w) \theta_A + w\, \theta_B`; Fisher-weighted with each task's F divided by
  its mean, so that w means the same as in the plain average; and Fisher-weighted with F as collected. All get the same
  weights w, :data:`GRID`.
- What is judged is the mean of both tasks' held-out losses. The best w is chosen on one half of the clusters and judged on
  the other, and the other way round; the value at w = 1/2, where nothing is chosen, stands beside it, and the whole curve.
- A seed draws all texts. Intervals are Student's t over seeds; differences from the plain average are within a seed.

No method has a bound. Bounds are on what makes merging right: a model merged with itself does not change, and equal Fisher
diagonals give the plain average, bit for bit.
"""

import copy
import functools
from dataclasses import dataclass

import numpy as np
import torch

import qkov
from qkov import linear_weights, merging

from . import fine_tuning, freezing, trained, trained_gradients

BATCH, STEPS, RATE = 8, 60, 1e-3
PAIRS = (("arithmetic", "capitals"), ("arithmetic", "prose"))
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Weights of the second task's model."""
PLAIN = "plain average"
METHODS = {
    PLAIN: None,
    "Fisher-weighted": "mean",
    "Fisher-weighted, F as collected": "none",
}
"""How each task's F is scaled; None: no F."""


@dataclass(frozen=True)
class Length:
    """How much is run: seeds, pairs of tasks, weights, training steps, texts of each Fisher and of each held-out loss."""

    seeds: tuple[int, ...]
    pairs: tuple
    grid: tuple[float, ...]
    steps: int
    samples: int
    held_out: int


LONG = Length((1, 2, 3, 4, 5), PAIRS, GRID, STEPS, 120, 64)
SHORT = Length((1,), PAIRS[:1], (0.25, 0.5, 0.75), 8, 16, 16)


@dataclass(frozen=True)
class Losses:
    """Held-out losses of one model on two tasks, each on two halves of the clusters.

    Attributes:
        halves: float64 ``[task, half]``, nats per byte.
    """

    halves: np.ndarray

    @property
    def by_task(self):
        """Mean over the halves, ``[task]``."""
        return self.halves.mean(1)

    @property
    def by_half(self):
        """Mean over the tasks, ``[half]``."""
        return self.halves.mean(0)


def work(length):
    """Name the parts that can run side by side: seeds."""
    return list(length.seeds)


def measure_seed(seed, length):
    """Make experts with the texts of one seed, merge them, measure; ``{pair: found}`` and what must hold exactly."""
    return measure_model(trained.load_model("llama"), seed, length)


def measure_model(model, seed, length):
    """The same from a given start.

    Returns:
        ``{pair: {"base": Losses, "expert a": ..., "expert b": ..., "merged": {method: {w: Losses}}}}`` with key "exact":
        ``{what: largest change}`` beside the pairs.
    """
    found = {"exact": {}}
    made = {task: expert(model, task, seed, length) for pair in length.pairs for task in pair}
    for pair in length.pairs:
        measured = functools.partial(measure, texts=[held_out(task, seed, length) for task in pair])
        tuned = {task: made[task] for task in pair}
        states = {task: one.state_dict() for task, (one, _) in tuned.items()}
        fishers = {task: fisher for task, (_, fisher) in tuned.items()}
        found[pair] = {
            "base": measured(model),
            "expert a": measured(tuned[pair[0]][0]),
            "expert b": measured(tuned[pair[1]][0]),
            "merged": {
                method: {
                    weight: measured(with_weights(model, merge(states, fishers, pair, weight, scale)))
                    for weight in length.grid
                }
                for method, scale in METHODS.items()
            },
        }
        for what, change in exactness(states, fishers, pair).items():
            found["exact"][what] = max(change, found["exact"].get(what, 0.0))
    return found


def expert(model, task, seed, length):
    """Fine-tune a copy on a task; the copy and the task's Fisher diagonal at it."""
    config = qkov.QKOVConfig.from_model(model)
    names = [one.param_name for one in linear_weights.find_linear_weights(model, config)]
    drawn = fine_tuning.draw(task, BATCH * length.steps, split="train", seed=100 * seed + 11)
    order = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(seed))
    batches = fine_tuning.as_ids(drawn)[order].split(BATCH)
    tuned, _ = fine_tuning.fine_tune(model, names, batches, optimiser="Adam", rate=RATE)
    seen = fine_tuning.as_ids(fine_tuning.draw(task, length.samples, split="train", seed=100 * seed + 12))
    return tuned, qkov.collect_fisher_diagonal(tuned, {"input_ids": seen}, task, progress=False)


def merge(states, fishers, pair, weight, scale):
    """Merge the two models of a pair with weight ``weight`` for the second one."""
    weights = dict(zip(pair, (1 - weight, weight), strict=True))
    if scale is None:
        return merging.merge_weights(states, weights=weights)
    return merging.merge_weights(states, fisher=fishers, weights=weights, fisher_scale=scale)


def with_weights(model, state):
    """A copy of a model with other weights."""
    merged = copy.deepcopy(model)
    merged.load_state_dict(state)
    return merged


def held_out(task, seed, length):
    """Held-out texts of a task as ids, and to which half of the clusters each belongs."""
    text = fine_tuning.draw(task, length.held_out, split="held_out", seed=100 * seed + 13)
    return fine_tuning.as_ids(text), halves_of(text.clusters, seed)


def halves_of(clusters, seed):
    """Deal clusters to two halves at random, the number of texts as even as whole clusters allow; bool ``[texts]``."""
    names = sorted(set(clusters))
    order = np.random.default_rng([seed, 13]).permutation(len(names))
    sizes, second = [0, 0], set()
    for place in order:
        count = clusters.count(names[place])
        side = int(sizes[1] < sizes[0])
        sizes[side] += count
        if side:
            second.add(names[place])
    return np.array([one in second for one in clusters])


def measure(model, texts):
    """Losses of a model on both tasks and halves."""
    halves = np.empty((len(texts), 2))
    for place, (ids, second) in enumerate(texts):
        losses = fine_tuning.held_out_losses(model, ids).numpy()
        halves[place] = losses[~second].mean(), losses[second].mean()
    return Losses(halves)


def exactness(states, fishers, pair):
    """Largest change of a weight where nothing may change."""
    first = states[pair[0]]
    alone = merging.merge_weights(dict.fromkeys(pair, first), fisher=fishers)
    same = merging.merge_weights(states, fisher=dict.fromkeys(pair, fishers[pair[0]]))
    plain = merging.merge_weights(states)
    return {
        "a model merged with itself, with two Fisher diagonals": largest_difference(alone, first),
        "two models with one Fisher diagonal, against the plain average": largest_difference(same, plain),
    }


def largest_difference(one, other):
    """Largest absolute difference of two state dicts."""
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def choose_and_judge(merged):
    """Choose the weight on one half of the clusters, judge on the other, and the other way round.

    Args:
        merged: ``{w: Losses}``.

    Returns:
        The judged loss, mean of both ways, and the mean of the two chosen weights.
    """
    judged, chosen = [], []
    for half in (0, 1):
        best = min(merged, key=lambda weight: merged[weight].by_half[half])
        chosen.append(best)
        judged.append(merged[best].by_half[1 - half])
    return float(np.mean(judged)), float(np.mean(chosen))


def rows(results, length):
    """Turn ``{seed: what measure_seed found}`` into rows of evidence.

    A method's row holds the judged mean loss of both tasks, and under further keys the ``weight`` chosen, the difference
    ``against_plain``, ``at_half`` and ``half_against_plain`` (the same for w = 1/2), each (mean, low, high) over seeds, and
    the mean ``curve_a``, ``curve_b`` over ``grid``.
    """
    found = []
    exact = [results[seed]["exact"] for seed in length.seeds]
    for what in exact[0]:
        value = max(one[what] for one in exact)
        found.append(
            trained_gradients.row(
                "merging is exact", what, "all pairs", len(exact), value, value, value, 0.0, "at most"
            )
        )
    for pair in length.pairs:
        found += pair_rows(pair, [results[seed][pair] for seed in length.seeds], length)
    return found


def pair_rows(pair, seeds, length):
    """Rows of one pair of tasks: the start, the experts, the methods."""
    data = f"{pair[0]} and {pair[1]}"
    found = []
    for name, procedure in (
        ("base", "the start"),
        ("expert a", f"expert of {pair[0]}"),
        ("expert b", f"expert of {pair[1]}"),
    ):
        losses = np.array([one[name].by_task for one in seeds])
        row = freezing.shown("merging, references", procedure, data, len(seeds), freezing.mean_interval(losses.mean(1)))
        found.append(row | by_task(losses))
    own = np.array([[one["expert a"].by_task[0], one["expert b"].by_task[1]] for one in seeds])
    row = freezing.shown(
        "merging, references", "each task by its expert", data, len(seeds), freezing.mean_interval(own.mean(1))
    )
    found.append(row | by_task(own))
    judged = {method: [choose_and_judge(one["merged"][method]) for one in seeds] for method in METHODS}
    halves = {method: [one["merged"][method][0.5].by_task.mean() for one in seeds] for method in METHODS}
    for method in METHODS:
        curves = np.mean([[one["merged"][method][weight].by_task for weight in length.grid] for one in seeds], axis=0)
        values = [value for value, _ in judged[method]]
        against = np.subtract(values, [value for value, _ in judged[PLAIN]])
        at_half = np.subtract(halves[method], halves[PLAIN])
        found.append(
            freezing.shown("merging", method, data, len(seeds), freezing.mean_interval(values))
            | {
                "weight": freezing.rounded(freezing.mean_interval([weight for _, weight in judged[method]])),
                "against_plain": None if method == PLAIN else freezing.rounded(freezing.mean_interval(against)),
                "at_half": freezing.rounded(freezing.mean_interval(halves[method])),
                "half_against_plain": None if method == PLAIN else freezing.rounded(freezing.mean_interval(at_half)),
                "grid": list(length.grid),
                "curve_a": freezing.rounded(curves[:, 0]),
                "curve_b": freezing.rounded(curves[:, 1]),
            }
        )
    return found


def by_task(losses):
    """Mean losses of both tasks as further keys of a row."""
    first, second = losses.mean(0)
    return {"loss_a": round(float(first), 6), "loss_b": round(float(second), 6)}
