r"""Does freezing the slices that a score names keep task A while task B is learned?

Declared before any arm was compared; the learning rates, the number of steps and the progress come from one run without
freezing on texts of another seed:

- The trained Llama-style model (4 layers, 8 heads on 2 kv heads: 80 slices of 2,048 parameters) is fine-tuned on B. Only
  the weights of Q, K, V and O are trained. :data:`NUM_FROZEN` slices are frozen.
- Pairs: arithmetic (never seen by the model) kept while code is learned further, and prose kept while code in capitals is
  learned.
- Plain SGD and Adam, one learning rate each, :data:`BATCH` texts a step.
- Scores and fine-tuning see texts of the training modules, drawn apart (a text can be in both); losses are of held-out
  modules.
- Arms are compared at equal progress: A's loss, interpolated linearly between measured points, where B's held-out loss has
  fallen by the declared amount for the first time. Freezing also slows B; at equal steps whatever learns least forgets least.
- Added after the first full run, which left more than half of the arms without that progress on code with SGD: the same at
  half the progress, from the same runs. Nothing else was changed.
- A seed draws all texts: those of scores, of fine-tuning in their order, and the held-out ones. Arms of one seed share them,
  and random slices are drawn anew for each seed, :attr:`Length.draws` times. Intervals are Student's t over seeds.

There is no bound on any arm: whatever comes out is shown. Bounds are on what makes the comparison right: frozen slices keep
their bits, all others move, and with everything frozen no loss changes.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from . import fine_tuning, freezing_scores, trained, trained_gradients

NUM_FROZEN = 20
"""A quarter of the slices."""
BATCH = 8
PAIRS = (("arithmetic", "code"), ("prose", "capitals"))
PROGRESS = {"code": 0.004, "capitals": 0.12}
"""Nats per byte by which B's held-out loss falls where arms are compared."""
RATES = {"SGD": 0.1, "Adam": 3e-4}
STUDIES = {"freezing": 1.0, "freezing, half the progress": 0.5}
"""Names of the rows, and at which part of the progress they compare."""
NOT_MADE = ", not made"
NONE, RANDOM, EVERYTHING = "nothing frozen", "random slices", "everything frozen"


@dataclass(frozen=True)
class Length:
    """How much is run.

    Attributes:
        seeds: Repetitions. pairs, optimisers, scores: What is compared.
        draws: Random choices for each seed. samples: Texts of each task that scores see. held_out: Texts of each loss.
        at: Steps after which losses are taken; the last is the number of steps.
    """

    seeds: tuple[int, ...]
    pairs: tuple
    optimisers: tuple[str, ...]
    scores: tuple[str, ...]
    draws: int
    samples: int
    held_out: int
    at: tuple[int, ...]


LONG = Length((1, 2, 3, 4, 5), PAIRS, tuple(RATES), freezing_scores.SCORES, 3, 200, 40, (2, 4, 6, 9, 13, 18))
SHORT = Length((1,), PAIRS[1:], ("SGD",), ("predicted", "averaged heatmap"), 1, 40, 16, (2, 4, 6, 9))


@dataclass(frozen=True)
class Run:
    """One fine-tuning.

    Attributes:
        arm: What chose the slices. frozen: Their numbers.
        curve: Losses of "a" and "b", step 0 included.
        moved_frozen: Largest change of a frozen parameter. still: Slices that were not frozen and did not move.
    """

    arm: str
    frozen: tuple[int, ...]
    curve: fine_tuning.Curve
    moved_frozen: float
    still: int


def work(length):
    """Name the parts that can run side by side: pairs and seeds."""
    return [(pair, seed) for seed in length.seeds for pair in length.pairs]


def measure_pair(pair, seed, length):
    """Fine-tune with every arm and optimiser on the texts of one seed; ``{optimiser: [Run]}``."""
    return measure_model(trained.load_model("llama"), pair, seed, length)


def measure_model(model, pair, seed, length):
    """The same on a given model."""
    task_a, task_b = pair
    texts = {task: fine_tuning.draw(task, length.samples, split="train", seed=100 * seed) for task in pair}
    gradients = trained_gradients.collect_texts("llama", model, texts)
    slices = fine_tuning.slices_of(gradients.collector.config)
    names = fine_tuning.attention_weights(gradients.collector.config)
    steps = max(length.at)
    drawn = fine_tuning.draw(task_b, BATCH * steps, split="train", seed=100 * seed + 1)
    order = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(seed))
    batches = fine_tuning.as_ids(drawn)[order].split(BATCH)
    watched = {
        side: fine_tuning.as_ids(fine_tuning.draw(task, length.held_out, split="held_out", seed=100 * seed + 2))
        for side, task in zip("ab", pair, strict=True)
    }
    start = {side: fine_tuning.held_out_loss(model, ids) for side, ids in watched.items()}
    found = {}
    for optimiser in length.optimisers:
        harms = freezing_scores.harms(gradients, task_a, task_b, optimiser=optimiser, progress=PROGRESS[task_b])
        train = functools.partial(train_arm, model, names, slices, start, watched, optimiser)
        done = {}  # scores that agree on the slices share a run
        found[optimiser] = []
        for arm, frozen in choose(harms, length, seed).items():
            if frozen not in done:
                done[frozen] = train(arm, frozen, batches, at=length.at)
            one = done[frozen]
            found[optimiser].append(Run(arm, frozen, one.curve, one.moved_frozen, one.still))
        everything = tuple(range(len(slices)))
        found[optimiser].append(train(EVERYTHING, everything, batches[:2], at=(2,)))
    return found


def choose(harms, length, seed):
    """Which slices each arm freezes, ``{arm: numbers, ascending}``."""
    arms = {NONE: ()}
    arms |= {name: most_harmful(harms[name], NUM_FROZEN) for name in length.scores}
    random = np.random.default_rng([seed, 7])
    count = len(next(iter(harms.values())))
    for draw in range(length.draws):
        arms[f"{RANDOM} {draw + 1}"] = tuple(sorted(random.permutation(count)[:NUM_FROZEN].tolist()))
    return arms


def most_harmful(harm, count):
    """Numbers of the slices of the largest harm, ascending; of equal ones those that come first."""
    return tuple(sorted(torch.argsort(harm, descending=True, stable=True)[:count].tolist()))


def train_arm(model, names, slices, start, watched, optimiser, arm, frozen, batches, *, at):
    """Fine-tune with some slices frozen and look at what moved."""
    held = [slices[number] for number in frozen]
    tuned, curve = fine_tuning.fine_tune(
        model, names, batches, optimiser=optimiser, rate=RATES[optimiser], frozen=held, watched=watched, at=at
    )
    curve = fine_tuning.Curve(
        (0, *curve.steps), {side: (start[side], *losses) for side, losses in curve.losses.items()}
    )
    before, after = (dict(one.named_parameters()) for one in (model, tuned))
    moves = [
        (after[one.param_name][one.index] - before[one.param_name][one.index]).abs().max().item() for one in slices
    ]
    chosen = set(frozen)
    still = sum(move == 0 for number, move in enumerate(moves) if number not in chosen)
    return Run(arm, tuple(frozen), curve, max([moves[number] for number in frozen], default=0.0), still)


def at_progress(curve, progress):
    """Where B's loss has fallen by ``progress`` for the first time.

    Returns:
        (change of A's loss since step 0, number of steps), both interpolated linearly between the points of the curve;
        None if B never gets there.
    """
    steps, loss_a, loss_b = curve.steps, curve.losses["a"], curve.losses["b"]
    goal = loss_b[0] - progress
    for place in range(1, len(steps)):
        if loss_b[place] <= goal:
            share = (loss_b[place - 1] - goal) / (loss_b[place - 1] - loss_b[place])
            before, after = loss_a[place - 1], loss_a[place]
            return (
                before + share * (after - before) - loss_a[0],
                steps[place - 1] + share * (steps[place] - steps[place - 1]),
            )
    return None


def mean_interval(values):
    """Mean and 95 % interval of Student's t; without width for fewer than two values."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return mean, mean - half, mean + half


def rows(results, length):
    """Turn ``{(pair, seed): {optimiser: [Run]}}`` into rows of evidence, the checks of freezing first."""
    found = exactness_rows([run for one in results.values() for runs in one.values() for run in runs])
    for pair in length.pairs:
        for optimiser in length.optimisers:
            runs = [results[pair, seed][optimiser] for seed in length.seeds]
            for study in STUDIES:
                found += arm_rows(study, pair, optimiser, runs)
    return found


def exactness_rows(runs):
    """Rows on what must hold in every run, so that the comparison is one of freezing."""
    partly = [run for run in runs if run.arm != EVERYTHING]
    wholly = [run for run in runs if run.arm == EVERYTHING]
    changes = [abs(losses[-1] - losses[0]) for run in wholly for losses in run.curve.losses.values()]
    found = [
        ("largest change of a frozen parameter", len(runs), max(run.moved_frozen for run in runs)),
        ("slices not frozen that stayed", len(partly), float(sum(run.still for run in partly))),
        ("largest change of a loss with everything frozen", len(changes), max(changes)),
    ]
    return [
        trained_gradients.row("freezing is exact", what, "all runs", sets, value, value, value, 0.0, "at most")
        for what, sets, value in found
    ]


def arm_rows(study, pair, optimiser, runs):
    """One row for each arm: the change of A's loss at equal progress on B, in nats per byte.

    Args:
        study: One of :data:`STUDIES`. pair: Tasks A and B. optimiser: Its name. runs: A list of :class:`Run` for each seed.

    Returns:
        Rows with further keys: ``steps`` taken and the difference ``against_random`` slices and ``against_none`` of the
        same seed, each (mean, low, high), differences None for fewer than two seeds; ``not_reached``, seeds in which B never
        made the progress, which are left out of everything but the curves; ``at``, ``curve_a``, ``curve_b``: mean losses
        after these steps; ``shared``: of the slices frozen, how many "predicted" freezes too, on average. An arm that never
        makes the progress has a row of the study with :data:`NOT_MADE` behind its name, with the progress it made.
    """
    task_a, task_b = pair
    data = f"{task_a} kept, {task_b} learned, {optimiser}"
    progress = STUDIES[study] * PROGRESS[task_b]
    arms = list(dict.fromkeys(group_of(run.arm) for run in runs[0] if run.arm != EVERYTHING))
    points = {arm: [arm_point(seed_runs, arm, progress) for seed_runs in runs] for arm in arms}
    found = []
    for arm in arms:
        members = [run for seed_runs in runs for run in seed_runs if group_of(run.arm) == arm]
        curves = {side: np.mean([run.curve.losses[side] for run in members], axis=0) for side in "ab"}
        reached = [point for point in points[arm] if point is not None]
        more = {
            "not_reached": len(runs) - len(reached),
            "at": list(members[0].curve.steps),
            "curve_a": rounded(curves["a"]),
            "curve_b": rounded(curves["b"]),
            "shared": shared_with(runs, arm, "predicted"),
        }
        if not reached:
            made = mean_interval([run.curve.losses["b"][0] - run.curve.losses["b"][-1] for run in members])
            found.append(shown(study + NOT_MADE, arm, data, len(runs), made) | more)
            continue
        more["steps"] = rounded(mean_interval([steps for _, steps in reached]))
        for key, other in (("against_random", RANDOM), ("against_none", NONE)):
            pairs = zip(points[arm], points.get(other, []), strict=False)
            differences = [one[0] - two[0] for one, two in pairs if one is not None and two is not None]
            more[key] = rounded(mean_interval(differences)) if len(differences) > 1 and arm != other else None
        found.append(shown(study, arm, data, len(reached), mean_interval([change for change, _ in reached])) | more)
    return found


def arm_point(runs, arm, progress):
    """Where an arm stands at equal progress in one seed; of random slices the mean over the draws, None if one fails."""
    points = [at_progress(run.curve, progress) for run in runs if group_of(run.arm) == arm]
    return None if None in points else tuple(np.mean(points, axis=0).tolist())


def group_of(arm):
    """Arms of random slices are one."""
    return RANDOM if arm.startswith(RANDOM) else arm


def shared_with(runs, arm, reference):
    """Mean share of the slices frozen by an arm that another arm freezes too; None where there is nothing to compare."""
    shares = [
        len(set(run.frozen) & set(other.frozen)) / len(run.frozen)
        for seed_runs in runs
        for other in seed_runs
        if other.arm == reference
        for run in seed_runs
        if group_of(run.arm) == arm and run.frozen
    ]
    return round(float(np.mean(shares)), 3) if shares else None


def shown(study, procedure, data, sets, interval):
    """A row without a bound."""
    return trained_gradients.row(study, procedure, data, sets, *interval, None, "shown")


def rounded(values):
    """Six digits after the point, as a list."""
    return [round(float(value), 6) for value in values]
