"""How fast the permutation engine is, beside the machine's own matrix product and beside a loop."""

import warnings

import numpy as np

from qkov.errors import StatisticsWarning
from qkov.statistics import exchange, pair_forms, relabelings
from qkov.statistics.clusters import read_clusters

from . import clock
from .goals import Measured, require_agreement

NUM_SAMPLES = 200
LOOPED = 200  # permutations of the loop, whose time is taken times all of them
BOUND = 1e-12


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


def measure(sizes, say=None):
    """Measure the engine on all permutations and slices, and the loop on a few of them.

    The details hold besides the seconds of a whole test with its p-values.
    """
    half = NUM_SAMPLES // 2
    side = read_clusters("iid", half, "a task")
    few = pair_scores(min(8, sizes.slices))
    drawn = relabelings.draw(half, half, sizes.permutations, 1)
    labellings = pair_forms.Labellings.of(drawn.first, np.ones(NUM_SAMPLES))
    forms = [pair_forms.PairForm.of(scores, np.arange(NUM_SAMPLES)) for scores in few]
    some = drawn.first[: min(LOOPED, sizes.permutations)]

    def engine():
        for one in range(sizes.slices):
            forms[one % len(forms)].sym(labellings)

    def whole():
        test = exchange.Exchange(sizes.slices, side, side, n_permutations=sizes.permutations, seed=1)
        for one in range(sizes.slices):
            test.add(few[one % len(few)])
        with warnings.catch_warnings():
            # That more permutations would be needed for one rejection.
            warnings.simplefilter("ignore", StatisticsWarning)
            test.result()

    by_engine = forms[0].sym(labellings)[: len(some)]
    difference = require_agreement(by_engine, looped(forms[0], some), BOUND, "engine and loop")
    operations = 2.0 * sizes.slices * sizes.permutations * NUM_SAMPLES**2
    cells = {
        "engine": (operations, clock.Timed(engine)),
        "loop": (1.0, clock.Timed(lambda: looped(forms[0], some))),
    }
    engine()
    rows, square = clock.relative_rates(cells, clock.Square(sizes.square), repeats=sizes.repeats, say=say)
    seconds = {name: row["seconds"] for name, row in rows.items()}
    said = f"{sizes.permutations:,} permutations, {sizes.slices} slices, N = {NUM_SAMPLES}"
    times = sizes.permutations * sizes.slices / len(some)
    return Measured(
        values={
            "permutations": rows["engine"]["rate"],
            "permutation-loop": clock.ratio(seconds, "loop", "engine") * times,
        },
        conditions={
            "permutations": said,
            "permutation-loop": f"{said}; {len(some)} permutations of one slice were looped and multiplied",
        },
        details={
            "seconds": seconds,
            "rates": rows["engine"]["rates"],
            "square product, operations per second": square["median"],
            "largest difference": difference,
            "whole test with p values, seconds": clock.Timed(whole).seconds(),
        },
    )
