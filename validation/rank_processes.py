"""Start programs with torchrun, on this machine alone."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def launch(size, *program, end=None, restarts=0, timeout=300, **options):
    """Run a program on so many ranks; return the finished process, with what it printed.

    Args:
        size: How many ranks. program: A file and its arguments, or "-m", a module and its.
        end: As ``QKOV_END_RANK`` of :mod:`validation.rank_program`. restarts: How often torchrun starts
            all ranks again where one has failed. timeout: In seconds.
        options: As for ``subprocess.run``.
    """
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT)]))
    environment = os.environ | {
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    environment.pop("QKOV_END_RANK", None)
    if end is not None:
        environment["QKOV_END_RANK"] = end
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={size}", f"--max-restarts={restarts}"]
    return subprocess.run(
        [*command, *map(str, program)], env=environment, capture_output=True, text=True, timeout=timeout, **options
    )
