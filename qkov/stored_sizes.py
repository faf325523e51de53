r"""How many bytes samples take, in memory and in a store, to the header of a file, before there is any.

Of every group of modules that read one tensor (:func:`qkov.operations.trace_pass`) a sample of T tokens holds
``T (d_in + sum of d_out)`` numbers, or in a store ``sum of d_out (d_in + 1)`` where those are fewer bytes
(:mod:`qkov.shards`). Checksums and norms are not known; numbers of usual length stand for them.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import torch

from . import journal, parts, shards
from .canonical import canonical_json
from .layout import QKOVConfig
from .linear_weights import LinearWeight
from .operations import PassShape, Reading
from .shards import Entry, Place

_CRC = 3_000_000_000
_SHA = "0" * 64
_NORM = 0.012345678901234567
_LOSS = "qkov.losses.causal_lm_loss"
# Settings, model and environment in the header of a store, without its layout and the sentences of what is left out.
_HEADER = 780
_SEAL = 290
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16"}

Tensors = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def groups(shape: PassShape) -> list[list[str]]:
    """Lists of modules that read one tensor, in the order of collection."""
    found: dict[tuple, list[str]] = {}
    for name, reading in shape.readings.items():
        found.setdefault(reading.tensor, []).append(name)
    return list(found.values())


def factor_bytes(shape: PassShape, itemsize: int) -> int:
    """Bytes of a sample's factors in memory."""
    total = 0
    for group in groups(shape):
        members = [shape.readings[name] for name in group]
        total += _tokens(members[0], shape) * (members[0].d_in + sum(one.d_out for one in members))
    return total * itemsize


def store_bytes(
    shape: PassShape,
    weights: tuple[LinearWeight, ...],
    config: QKOVConfig,
    num_samples: dict[str, int],
    samples_per_pass: int,
    *,
    dtype: torch.dtype,
    store_form: str = "smaller",
) -> int:
    """Bytes of a sealed store: shards, journal, header and seal.

    Args:
        shape: Of a pass. weights: What is held. config: Where the heads are.
        num_samples: By task. samples_per_pass: Samples committed together.
        dtype: Precision of stored factors. store_form: As for ``FisherCollector``.
    """
    shard = shard_bytes(shape, config, dtype=dtype, store_form=store_form)
    header = _HEADER + len(canonical_json(parts.describe_layout(weights, config)))
    total = 2 * header + _SEAL
    for task, count in num_samples.items():
        for start in range(0, count, samples_per_pass):
            entries = [asdict(_entry(shard, shape)) for _ in range(min(samples_per_pass, count - start))]
            record = {"n": 10, "kind": "pass", "task": task, "loss": _LOSS, "samples": entries}
            total += len(journal.line(record))
        total += count * shard
    return total


def shard_bytes(shape: PassShape, config: QKOVConfig, *, dtype: torch.dtype, store_form: str = "smaller") -> int:
    """Bytes of one sample's file."""
    tensors, modules, norms = _contents(shape, config, dtype, store_form)
    entry = _entry(10**6, shape)
    description = {
        "sample": {"id": 10, "cluster": None, "tokens": entry.num_tokens, "digest": entry.digest},
        "place": vars(Place("a", _LOSS, 10, 1, 4, entry.file)),
        "modules": [[name, modules[name]] for name in shape.readings],
        "squared_norms": norms,
        "crc32": dict.fromkeys(tensors, _CRC),
        "shapes": {name: [str(kept), *sizes] for name, (kept, sizes) in tensors.items()},
        "sha256": _SHA,
    }
    header: dict[str, object] = {"__metadata__": {shards.METADATA_KEY: canonical_json(description)}}
    end = 0
    for name, (kept, sizes) in tensors.items():
        start, end = end, end + kept.itemsize * math.prod(sizes)
        header[name] = {"dtype": _DTYPES[kept], "shape": list(sizes), "data_offsets": [start, end]}
    head = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-head // 8) * 8 + end  # safetensors pads its header to eight bytes


def _contents(
    shape: PassShape, config: QKOVConfig, dtype: torch.dtype, store_form: str
) -> tuple[Tensors, dict[str, Any], list[Any]]:
    tensors: Tensors = {}
    modules: dict[str, dict[str, str]] = {}
    norms: list[list[object]] = []
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for group in groups(shape):
        members = [shape.readings[name] for name in group]
        tokens = _tokens(members[0], shape)
        in_tokens = dtype.itemsize * tokens * (members[0].d_in + sum(one.d_out for one in members))
        whole = wide.itemsize * sum(one.d_out * (one.d_in + 1) for one in members)
        if store_form == "smaller" and whole < in_tokens:
            for name, one in zip(group, members, strict=True):
                tensors[f"{name}:gradient"] = wide, (one.d_out, one.d_in)
                tensors[f"{name}:bias"] = wide, (one.d_out,)
                modules[name] = {"gradient": f"{name}:gradient", "bias": f"{name}:bias"}
                norms += _norms(config, name)
            continue
        shared = f"{group[0]}:inputs"
        tensors[shared] = dtype, (tokens, members[0].d_in)
        for name, one in zip(group, members, strict=True):
            tensors[f"{name}:deltas"] = dtype, (tokens, one.d_out)
            modules[name] = {"inputs": shared, "deltas": f"{name}:deltas"}
    return tensors, modules, norms


def _norms(config: QKOVConfig, name: str) -> Any:
    return [
        [layout.layer, projection.block, _NORM]
        for layout in config.layers
        for projection in layout.projections
        if projection.module_name == name
    ]


def _entry(size: int, shape: PassShape) -> Entry:
    file = shards.file_name(1, "a", 1)
    return Entry(file, size, _SHA, _CRC, 10, None, shape.num_tokens, _SHA)


def _tokens(reading: Reading, shape: PassShape) -> int:
    return min(reading.tokens, shape.num_tokens)


def read_bytes(shape: PassShape, config: QKOVConfig, *, dtype: torch.dtype) -> int:
    """Bytes of a stored sample's tensors that are kept once read: the last few, about a layer of attention."""
    tensors, _, _ = _contents(shape, config, dtype, "smaller")
    sizes = [kept.itemsize * math.prod(each) for name, (kept, each) in tensors.items() if not name.endswith(":bias")]
    window = shards.CACHED_TENSORS
    return max(sum(sizes[start : start + window]) for start in range(max(1, len(sizes) - window + 1)))
