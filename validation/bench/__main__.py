"""Measure speed and memory on one thread and hold them against their goals: ``nox -s bench``.

Every time is process time; variants are run in turn, medians are over three rounds, and rates are fractions of that of a
square float32 product between them. Exit status 1 if a goal is missed, if two routes disagree, or, with ``--require-gpu``,
without a CUDA device.
"""

import os

# Read by numerical libraries when they are loaded; times of several threads would be sums.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import importlib
import sys
import time
from pathlib import Path

import torch

from qkov import escaping

from . import goals, machine, record, shapes

ROOT = Path(__file__).resolve().parents[2]
OWN = ("qkov", "validation")


def parse_arguments(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m validation.bench", description=__doc__.split("\n\n")[0])
    names = [*(goal.name for goal in goals.GOALS), *goals.GROUPS]
    parser.add_argument("--only", action="append", default=[], metavar="ROW", choices=names,
                        help=f"one of {', '.join(names)}, may be repeated; a group is measured whole")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that all runs; no goal applies")
    parser.add_argument(
        "--device",
        default="cpu",
        choices=("cpu", "cuda"),
        help="cuda measures the rows of a GPU, and others if --only asks",
    )
    parser.add_argument("--require-gpu", action="store_true", help="end with 1 if no row of a GPU could be measured")
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "bench.json", help="where the JSON goes")
    parser.add_argument("--commit-evidence", action="store_true",
                        help="write what was measured into the record that is committed and shown in the book")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.quick and options.commit_evidence:
        parser.error("--quick measures tiny sizes; they are no evidence")
    if options.require_gpu and options.device != "cuda":
        parser.error("--require-gpu needs --device cuda")
    return options


def say(text):
    """Print a line of progress at once."""
    print(escaping.for_terminal(text), file=sys.stderr, flush=True)


def chosen_groups(only, device="cpu"):
    """Groups that hold what was asked for; without a choice those of the device: a GPU's alone, or on a CPU all."""
    asked = set(only) or ({"gpu"} if device == "cuda" else set())
    return [
        group for group in goals.GROUPS
        if not asked or group in asked or any(goal.name in asked for goal in goals.goals_of(group))
    ]  # fmt: skip


def measure_group(group, sizes, device):
    """Measure one group; what it needs and does not have makes its goals "not run", never green.

    Returns:
        ``{"seconds": ..., "rows": [...], "details": {...}}``.
    """
    started = time.perf_counter()
    names = [goal.name for goal in goals.goals_of(group)]
    try:
        if group == "gpu" and device != "cuda":
            raise goals.NotRunError("--device cuda was not given")
        module = importlib.import_module(f"{__package__}.{group}")
        measured = module.measure(sizes, lambda text: say(f"  {text}"))
    except goals.NotRunError as error:
        measured = goals.Measured({}, {}, not_run=dict.fromkeys(names, str(error)))
    except goals.DisagreementError as error:
        measured = goals.Measured({}, {}, wrong=dict.fromkeys(names, str(error)))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in OWN:
            raise
        reason = f"{error.name} is not installed" if error.name else str(error)
        measured = goals.Measured({}, {}, not_run=dict.fromkeys(names, reason))
    rows = goals.rows_of(group, measured)
    return {"seconds": round(time.perf_counter() - started, 1), "rows": rows, "details": measured.details}


def table(rows, quick):
    """Lines of text: goal, bound, what was measured, verdict."""
    by_name = {goal.name: goal for goal in goals.GOALS}
    lines = []
    for row in rows:
        goal = by_name[row["name"]]
        bound = "" if goal.hold is None else f"{goal.direction} {goal.hold:g}"
        value = "" if row["value"] is None else f"{row['value']:.3g}"
        status = row["status"] if goal.hold is not None or row["status"] != goals.HELD else goals.SHOWN
        status = "tiny sizes" if quick and status in (goals.HELD, goals.MISSED) else status
        lines.append(
            f"{row['name']:<22}{bound:>16}{value:>11}  {status}{': ' + row['reason'] if row['reason'] else ''}"
        )
    return lines


def exit_status(rows, *, quick, require_gpu):
    """0 if nothing disagrees and, at the sizes of the goals, no goal is missed."""
    bad = {goals.WRONG} if quick else {goals.WRONG, goals.MISSED}
    without_gpu = require_gpu and not any(row["name"] == "gpu" and row["value"] is not None for row in rows)
    return 1 if without_gpu or any(row["status"] in bad for row in rows) else 0


def main(arguments=None):
    """Measure, write the JSON, print the table; return the exit status."""
    options = parse_arguments(arguments)
    if options.require_gpu and not torch.cuda.is_available():
        say("bench: --require-gpu, and torch finds no CUDA device")
        return 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = measure_all(options, machine.record())
    finally:
        torch.set_num_threads(threads)
    rows = [row for group in found.values() for row in group["rows"]]
    for one in table(rows, options.quick):
        print(escaping.for_terminal(one), flush=True)
    say(f"bench: {sum(group['seconds'] for group in found.values()):.0f} s, written to {options.output.name}")
    return exit_status(rows, quick=options.quick, require_gpu=options.require_gpu)


def measure_all(options, about):
    """Measure the groups that were asked for, one after another; each is written as soon as it is there.

    Args:
        options: Of the command line. about: The machine.

    Returns:
        ``{group: what it holds}``, as in the record.
    """
    found = {}
    sizes = shapes.QUICK if options.quick else shapes.FULL
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for group in chosen_groups(options.only, options.device):
        say(f"{group} ...")
        hashes = record.source_hashes(group)  # before it takes its time, in which somebody may edit
        one = {"sources": hashes, **measure_group(group, sizes, options.device)}
        say(f"{group}: {one['seconds']} s")
        found[group] = {"machine": about, **one}
        document = {"format": record.FORMAT, "quick": options.quick, "groups": found}
        options.output.write_text(record.written(document), encoding="utf-8")
        if options.commit_evidence:
            record.update({group: one}, about)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
