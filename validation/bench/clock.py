"""Process time of several variants, taken in turn, so that a machine that slows down slows all of them down.

A ratio is formed inside each round and the median is taken over rounds: what changes between rounds cancels.
"""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timed:
    """Something to time: ``run()``, or ``run(prepare())`` where ``prepare`` is called before the clock starts."""

    run: Callable
    prepare: Callable | None = None

    def seconds(self, results=None, name=None):
        """Process time of one call; ``results[name]`` takes what it returned."""
        prepared = () if self.prepare is None else (self.prepare(),)
        start = time.process_time()
        result = self.run(*prepared)
        took = time.process_time() - start
        if results is not None:
            results[name] = result
        return max(took, 1e-9)


@dataclass(frozen=True)
class Square:
    """The product of two square float32 matrices: what the machine can do."""

    size: int
    calls: int = 2

    @property
    def operations(self):
        """Operations of all calls."""
        return 2.0 * self.calls * self.size**3

    def timed(self):
        """The products, ready to be timed."""
        one, other = torch.ones(2, self.size, self.size)
        out = torch.empty(self.size, self.size)

        def run():
            for _ in range(self.calls):
                torch.mm(one, other, out=out)

        return Timed(run)


def interleaved(variants, *, repeats, say=None):
    """Time every variant once a round.

    Args:
        variants: ``{name: Timed}``.
        repeats: Rounds. say: Called with a line of progress.

    Returns:
        ``(seconds, results)``: ``{name: [seconds, a round each]}``, and what each variant returned last.
    """
    seconds, results = {name: [] for name in variants}, {}
    for round_number in range(repeats):
        gc.collect()
        for name, timed in variants.items():
            seconds[name].append(timed.seconds(results, name))
            if say is not None:
                say(f"round {round_number + 1} of {repeats}: {name} {seconds[name][-1]:.2f} s")
    return seconds, results


def relative_rates(cells, square, *, repeats, say=None):
    """Rate of operations over that of the square product, which is timed before and after every cell.

    Args:
        cells: ``{name: (operations, Timed)}``. square: A :class:`Square`.

    Returns:
        ``{name: {"rate": median, "rates": [...], "seconds": [...], "operations": number}}``, and the operations per second of
        the square products, ``{"median": ..., "all": [...]}``.
    """
    timed = square.timed()
    timed.seconds()
    found = {name: {"rates": [], "seconds": [], "operations": float(count)} for name, (count, _) in cells.items()}
    squares = []
    for round_number in range(repeats):
        gc.collect()
        before = timed.seconds()
        for name, (operations, cell) in cells.items():
            took, after = cell.seconds(), timed.seconds()
            best = square.operations / ((before + after) / 2)
            squares.append(best)
            found[name]["seconds"].append(took)
            found[name]["rates"].append(operations / took / best)
            before = after
            if say is not None:
                say(f"round {round_number + 1} of {repeats}: {name} {took:.2f} s, {found[name]['rates'][-1]:.2f}")
    for row in found.values():
        row["rate"] = statistics.median(row["rates"])
    return found, {"median": statistics.median(squares), "all": squares}


def ratio(seconds, name, other):
    """Median over rounds of the seconds of one variant over those of another."""
    return statistics.median(one / two for one, two in zip(seconds[name], seconds[other], strict=True))
