"""Processes of their own with other threads and other instruction sets, and whether a setting does anything at all.

An environment variable that a library does not read changes nothing, and a repetition under it would prove nothing. So each
process says what a few operations give there (:func:`probe`): where they are the same bits as without the setting, and torch
reports the same kernels, the setting did not act, and what was asked of it counts as not run.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent


def numpy_kernels():
    """Names of the instruction sets that this NumPy uses beyond its baseline, as NPY_DISABLE_CPU_FEATURES wants them."""
    from numpy._core import _multiarray_umath as core

    return " ".join(name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name))


ENVIRONMENTS = {
    "kernels of torch without AVX": {"ATEN_CPU_CAPABILITY": "default"},
    "MKL in its compatible mode": {"MKL_CBWR": "COMPATIBLE"},
    "OpenBLAS of another core": {"OPENBLAS_CORETYPE": "Nehalem"},
    "kernels of NumPy without AVX": {"NPY_DISABLE_CPU_FEATURES": numpy_kernels()},
}
"""Other arithmetic on the same machine, where the libraries are built for it."""


def words(seed, *shape):
    """Numbers from -1 to 1 out of the raw words of a published generator: the same bits with every version of NumPy."""
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0).reshape(shape)


def probe():
    """What decides on bits here: hashes of a few operations of torch and NumPy, and what torch says of its kernels."""
    x, y = words(1, 200, 300), words(2, 300, 100)
    single = torch.from_numpy(x).float()
    results = {
        "torch product": single @ torch.from_numpy(y).float(),
        "torch softmax": torch.softmax(single, 1),
        "torch sum": single.sum(),
        "numpy product": x @ y,
        "numpy exp": np.exp(x),
        "numpy log": np.log(np.abs(x)),
    }
    hashes = {name: hashlib.sha256(np.asarray(value).tobytes()).hexdigest()[:16] for name, value in results.items()}
    return hashes | {"kernels": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


def acted(found, plain):
    """Name what differs between two probes; empty if a setting does nothing here."""
    return [name for name in plain if found.get(name) != plain[name]]


def run_module(module, *arguments, threads=1, environment=None):
    """Run ``python -m module`` in a process of its own.

    Returns:
        What it printed.

    Raises:
        ChildError: If it ends with another status than 0; the message holds its last lines.
    """
    number = str(threads)
    fixed = {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number}
    fixed["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that spin while they wait take the cores from other processes
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, **fixed, "PYTHONPATH": path, **(environment or {})},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise ChildError(f"python -m {module} ended with status {done.returncode}: {last}")
    return done.stdout


class ChildError(RuntimeError):
    """A process of its own that ended badly."""
