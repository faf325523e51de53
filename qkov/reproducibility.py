"""What a number depends on: fingerprints of inputs and models, and the record of the environment.

A fingerprint answers "is this the same?", not "is this authentic?": tensors are hashed by value, models by their
parameters' names, shapes, dtypes, float64 sums and strided samples of values, which is quick for billions of weights.
"""

import contextlib
import functools
import hashlib
import os
import platform
import sys
from importlib import metadata

import torch

PROBES_PER_TENSOR = 1024
RECORDED_PACKAGES = ("qkov", "torch", "transformers", "numpy", "scipy", "statsmodels", "xarray", "safetensors")


def tensor_digest(*tensors):
    """Hash tensors by dtype, shape and value, sha256 hex; independent of strides and device."""
    digest = hashlib.sha256()
    for tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def model_fingerprint(model):
    """Hash a model's class and its parameters: names, dtypes, shapes, sums and strided values."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            flat = parameter.detach().reshape(-1)
            step = max(1, flat.numel() // PROBES_PER_TENSOR)
            digest.update(f"{name}{parameter.dtype}{tuple(parameter.shape)}".encode())
            digest.update(flat[::step].double().cpu().numpy().tobytes())
            digest.update(flat.sum(dtype=torch.float64).cpu().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def deterministic(threads=None):
    """Ask torch for deterministic algorithms, and for a number of threads, until the block ends."""
    was, threads_were = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=only_warned)
        torch.set_num_threads(threads_were)


def environment_record():
    """Record versions, platform, instruction set and threads: what numbers may depend on. JSON-able."""
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in RECORDED_PACKAGES},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


@functools.cache  # reading metadata takes longer than a small heatmap
def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
