"""What a number depends on: fingerprints of inputs and models, and the record of the environment.

A fingerprint answers "is this the same?", not "is this authentic?": tensors are hashed by value, models by their
configuration and their parameters' names, shapes, dtypes, float64 sums and strided samples of values, which is quick
for billions of weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn


PROBES_PER_TENSOR = 1024
SUMMED_AT_ONCE = 2**22  # numbers
# Entries of a configuration that do not change what the model computes: names, versions, what a call returns.
NOT_COMPUTED = frozenset([
    "_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "output_attentions",
    "output_hidden_states", "return_dict", "gradient_checkpointing", "_attn_implementation",
])  # fmt: skip
RECORDED_PACKAGES = ("qkov", "torch", "transformers", "numpy", "scipy", "statsmodels", "xarray", "safetensors")


def tensor_digest(*tensors: torch.Tensor) -> str:
    """Hash ``tensors`` by dtype, shape and value, sha256 hex; independent of strides and device."""
    digest = hashlib.sha256()
    for tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        # A single entry counts as contiguous whatever its strides; as_strided gives it the one that view asks for.
        flat = tensor.as_strided((tensor.numel(),), (1,))
        digest.update(flat.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def model_fingerprint(model: nn.Module) -> str:
    """Hash the class of a ``model``, its configuration, and its parameters: names, dtypes, shapes, sums and strided
    values.
    """
    digest = hashlib.sha256(f"{type(model).__qualname__} {_configuration(model)}".encode())
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            flat = parameter.detach().reshape(-1)
            step = max(1, flat.numel() // PROBES_PER_TENSOR)
            digest.update(f"{name}{parameter.dtype}{tuple(parameter.shape)}".encode())
            digest.update(flat[::step].double().cpu().numpy().tobytes())
            # A sum in float64 makes a copy in float64, which is not to be of the whole of a large embedding.
            total = sum(part.sum(dtype=torch.float64) for part in flat.split(SUMMED_AT_ONCE))
            digest.update(torch.as_tensor(total, dtype=torch.float64).cpu().numpy().tobytes())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash what a ``tokenizer`` makes of text: its vocabulary, its special tokens, and the ids of a sample text."""
    probe = "qkov  Probe 0123456789\n\ttab, naïve café — ΑΒΓ 你好 🙂 'quoted' x_y-z."
    content = (
        sorted(tokenizer.get_vocab().items()),
        sorted(tokenizer.all_special_ids),
        list(tokenizer(probe)["input_ids"]),
    )
    return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()


def _configuration(model: nn.Module) -> str:
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        values = config.to_dict()
    else:
        values = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else {}  # type: ignore[arg-type]  # an instance
    return repr(sorted((name, value) for name, value in values.items() if name not in NOT_COMPUTED))


@contextlib.contextmanager
def deterministic(threads: int | None = None) -> Iterator[None]:
    """Ask torch for deterministic algorithms, and for a number of ``threads``, until the block ends."""
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


def environment_record() -> dict[str, Any]:
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
def _version(package: str) -> str:
    if package == "qkov":  # this very code, installed or run from a checkout
        return sys.modules[__package__].__version__
    if package == "torch":  # which says the build too, such as "+cu130"; metadata of PyPI's do not
        return str(torch.__version__)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
