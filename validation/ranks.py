"""`python -m validation.ranks`: what many processes give, against one; killed ranks and power failures, and what is left.

Prints a table and writes ``_build/ranks.json``. Exit status 0 if every run ended with the bits of one process.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import qkov
from validation import rank_failures, rank_program
from validation.rank_processes import ROOT, launch
from validation.store import workload

KILLS, POWER = 200, 100
# Ranks, and who ends how: while it collects, while it stages, while rank 0 gives names, while it appends.
ENDS = ((3, "1 loss 2 SIGKILL"), (2, "1 replace 2 SIGKILL"), (3, "0 replace 9 SIGKILL"), (2, "0 fsync 12 SIGKILL"))


def one_process(folder):
    """Collect and score without ranks; return the fingerprints of the heatmaps."""
    found = {}
    with qkov.reproducibility.deterministic(threads=1):
        for family in rank_program.FAMILIES:
            with qkov.FisherCollector(store=folder / family) as collector:
                rank_program.fill(collector, rank_program.build(family))
            scored = rank_program.heatmaps(collector, lambda metric: metric.compute_heatmap("a", "b"))
            found |= {f"{family}-{name}": heatmap.fingerprint for name, heatmap in scored.items()}
    return found


def compared(folder, size, expected, prints):
    """What differs between a completed run and one process, in words."""
    wrong = [
        f"store of {family!r}"
        for family in rank_program.FAMILIES
        if workload.tree(folder / family) != workload.tree(expected / family)
    ]
    for name, fingerprint in prints.items():
        for rank in range(size):
            path = folder / f"{name}-{rank}.safetensors"
            if not path.exists() or qkov.load_heatmap(path).fingerprint != fingerprint:
                wrong.append(f"heatmap {name!r} of rank {rank}")
    return wrong


def runs(root):
    """Yield rows ``{what, status, said, seconds}``: undisturbed runs, then runs that end early and are gone on with."""
    prints = one_process(root / "one")
    for size in (1, 2, 3):
        yield _row(f"{size} processes", root / str(size), size, root / "one", prints)
    for number, (size, end) in enumerate(ENDS):
        folder, then = root / f"killed {number}", (number + 1) % 3 + 1
        folder.mkdir()
        done = launch(size, "-m", "validation.rank_program", folder, end=end)
        what = f"{size} processes, rank {end.replace(' SIGKILL', ' killed')}; then {then}"
        if done.returncode == 0:
            yield {"what": what, "status": "failed", "said": "no process was killed", "seconds": 0.0}
            continue
        yield _row(what, folder, then, root / "one", prints)
    what = "2 processes, rank 1 killed, all started again by torchrun"
    yield _row(what, root / "restarted", 2, root / "one", prints, end="1 loss 2 SIGKILL", restarts=1)


def _row(what, folder, size, expected, prints, **options):
    started = time.perf_counter()
    folder.mkdir(exist_ok=True)
    done = launch(size, "-m", "validation.rank_program", folder, **options)
    wrong = [done.stderr[-500:]] if done.returncode else compared(folder, size, expected, prints)
    status, said = ("failed", "; ".join(wrong)) if wrong else ("passed", "stores and heatmaps are those of one process")
    return {"what": what, "status": status, "said": said, "seconds": round(time.perf_counter() - started, 1)}


def harness_row(outcome):
    """The row of a harness."""
    status = "passed" if outcome.passed else "failed"
    what = f"{outcome.points} {'ranks killed' if 'killed' in outcome.harness else 'power failures'}, in threads"
    return {"what": what, "status": status, "said": str(outcome), "seconds": round(outcome.seconds, 1)}


def main(arguments=None):
    """Run everything; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m validation.ranks", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "ranks.json")
    parser.add_argument("--brief", action="store_true", help="threads only, no processes")
    options = parser.parse_args(arguments)
    rows = [harness_row(rank_failures.kills(KILLS)), harness_row(rank_failures.power(POWER))]
    if not options.brief:
        with tempfile.TemporaryDirectory() as root:
            rows += runs(Path(root))
    for row in rows:
        print(f"{row['status']:7} {row['seconds']:6.1f} s  {row['what']}: {' '.join(row['said'].split())}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"format": "qkov-ranks-1", "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["status"] == "passed" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
