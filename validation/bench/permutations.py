"""How fast the permutation engine is, beside the machine's own matrix product and beside a loop: ``nox -s bench``.

One thread, process time, medians, all in one run and as ratios, because machines and their load differ. The numbers go to
``_build/bench.json``.
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from qkov import reproducibility
from qkov.errors import StatisticsWarning
from qkov.statistics import exchange, pair_forms, relabelings
from qkov.statistics.clusters import read_clusters

ROOT = Path(__file__).resolve().parent.parent
SQUARE = 2048
NUM_SAMPLES, NUM_SLICES, NUM_PERMUTATIONS = 200, 576, 10_000
GOALS = {"rate over square product": ("at least", 0.65), "times faster than a loop": ("at least", 25.0)}


def median_seconds(run, *, repeats=3):
    """Return the median process time of a call, after one call that is not counted."""
    run()
    return statistics.median(_seconds(run) for _ in range(repeats))


def _seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def square_rate():
    """Operations per second of a square float32 product."""
    one, other = torch.randn(2, SQUARE, SQUARE)
    return 2 * SQUARE**3 / median_seconds(lambda: torch.mm(one, other), repeats=7)


def pair_scores(num_slices, seed=0):
    """Random scores of all pairs, float64 ``[slices, samples, samples]``: positive, with loud samples."""
    generator = np.random.default_rng(seed)
    loud = np.exp(generator.standard_normal((num_slices, NUM_SAMPLES, 1)))
    return generator.gamma(2.0, size=(num_slices, NUM_SAMPLES, NUM_SAMPLES)) * loud


def looped(form, first):
    """Compute the statistic of every labelling by itself, from its definition.

    Args:
        form: A :class:`~qkov.statistics.pair_forms.PairForm`. first: bool ``[labellings, samples]``.
    """
    scores = form.grid.astype(np.float64) * form.step
    found = np.empty(len(first))
    for row, is_a in enumerate(first):
        a, b = np.flatnonzero(is_a), np.flatnonzero(~is_a)
        within_a, within_b = scores[np.ix_(a, a)].sum(), scores[np.ix_(b, b)].sum()
        across = scores[np.ix_(a, b)].sum() + scores[np.ix_(b, a)].sum()
        found[row] = (
            within_a / (len(a) * (len(a) - 1)) + within_b / (len(b) * (len(b) - 1)) - across / (len(a) * len(b))
        )
    return found


def measure(*, num_slices=NUM_SLICES, num_permutations=NUM_PERMUTATIONS, loop_permutations=200):
    """Measure the engine.

    Returns:
        A dict of plain numbers: ``rate over square product``, ``times faster than a loop``, ``largest difference`` between
        engine and loop over the size of the statistic, and what was measured.
    """
    half = NUM_SAMPLES // 2
    side = read_clusters("iid", half, "a task")
    few = pair_scores(min(8, num_slices))
    drawn = relabelings.draw(half, half, num_permutations, 1)
    labellings = pair_forms.Labellings.of(drawn.first, np.ones(NUM_SAMPLES))
    forms = [pair_forms.PairForm.of(scores, np.arange(NUM_SAMPLES)) for scores in few]

    def engine():
        for one in range(num_slices):
            forms[one % len(forms)].sym(labellings)

    rate = square_rate()
    seconds = median_seconds(engine)
    operations = 2.0 * num_slices * num_permutations * NUM_SAMPLES**2
    some = drawn.first[:loop_permutations]
    of_loop = median_seconds(lambda: looped(forms[0], some)) / loop_permutations
    by_loop, by_engine = looped(forms[0], some), forms[0].sym(labellings)[:loop_permutations]

    def whole():
        test = exchange.Exchange(num_slices, side, side, n_permutations=num_permutations, seed=1)
        for one in range(num_slices):
            test.add(few[one % len(few)])
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", StatisticsWarning
            )  # that more permutations would be needed for one rejection
            test.result()

    return {
        "slices": num_slices,
        "permutations": num_permutations,
        "samples": NUM_SAMPLES,
        "square product, operations per second": rate,
        "engine, seconds": seconds,
        "rate over square product": operations / seconds / rate,
        "times faster than a loop": of_loop * num_permutations * num_slices / seconds,
        "largest difference": float(np.abs(by_loop - by_engine).max() / np.abs(by_loop).max()),
        "whole test with p values, seconds": _seconds(whole),
    }


def main(arguments=None):
    """Measure, write the JSON, print the numbers beside the goals; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m validation.bench", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "bench.json", help="where the JSON goes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = measure()
    missed = [name for name, (_, goal) in GOALS.items() if found[name] < goal]
    for name, value in found.items():
        goal = f"   goal: at least {GOALS[name][1]:g}" if name in GOALS else ""
        print(f"{name:40} {value:12.4g}{goal}", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"environment": reproducibility.environment_record(), "statistics": found, "missed": missed}
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if missed or found["largest difference"] > 1e-12 else 0


if __name__ == "__main__":
    raise SystemExit(main())
