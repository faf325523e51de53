r"""One sample as one file: the factors of its gradients, or the gradients themselves where those are smaller.

A shard is a safetensors file that any program can open. Its metadata describe the sample and hold a CRC-32 of every
tensor; a tensor is checked each time it is read. That the metadata are those which were written is known from their own
SHA-256, so a shard can be judged without the journal that lists it.

A module is held in one of two forms::

    factors            inputs [tokens, d_in], deltas [tokens, d_out]      modules that read one tensor share its inputs
    whole gradient     gradient [d_out, d_in], bias [d_out]               float32 at least

Whole gradients take fewer bytes once a sample has more tokens than about 2/3 of the width of the model. They are read
back as factors of as many rows as the module has inputs, of which one is the identity; each slice is the very one that
scoring makes from tokens when it takes the slice at once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import durable, gradients
from .canonical import canonical_json
from .errors import PrecisionError, SampleIdError, StoreDamagedError
from .gradients import Factors
from .layout import QKOVConfig
from .samples import Sample

METADATA_KEY = "qkov"
DTYPES = {"F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16}
STORED_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
FORMS = ("smaller", "factors")
CACHED_TENSORS = 8  # what one layer of attention takes: three inputs and four deltas at most
PROBLEM = 'Run "python -m qkov store verify {folder}" to see what is damaged, and "store repair" to keep the rest.'


@dataclass(frozen=True)
class Entry:
    """What the journal says of a shard.

    Attributes:
        file: Its name in the folder of shards.
        size: Its bytes. sha256: Of all of them. head: CRC-32 of what lies before the tensors.
        sample_id, cluster, num_tokens, digest: As in ``samples.Sample``.
    """

    file: str
    size: int
    sha256: str
    head: int
    sample_id: int | str
    cluster: Any
    num_tokens: int
    digest: str


@dataclass(frozen=True)
class Place:
    """Where in a collection a sample was committed: its task, its pass, its place among ``of`` samples of the pass."""

    task: str
    loss: str
    commit: int
    place: int
    of: int
    file: str


def encode(
    sample: Sample, place: Place, config: QKOVConfig, dtype: torch.dtype | None, form: str
) -> tuple[Entry, bytes]:
    """Return the entry and the bytes of a shard; equal samples give equal bytes.

    Args:
        sample: With its factors. place: Where it belongs.
        config: Where the heads are, for whole gradients.
        dtype: Precision of stored factors, or None for the one in which they were collected.
        form: One of :data:`FORMS`.

    Raises:
        PrecisionError: If a value leaves the range of ``dtype``.
        SampleIdError: If the cluster label cannot be written as JSON and read back as it was.
    """
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    modules: dict[str, dict[str, str]] = {}
    norms: list[list[Any]] = []
    for group in _sharing_inputs(sample.factors):
        if form == "smaller" and _whole_is_smaller(sample.factors, group, dtype):
            norms += _whole(sample, group, config, tensors, modules)
        else:
            shared = f"{group[0]}:inputs"
            tensors[shared] = sample.factors[group[0]].inputs
            for name in group:
                tensors[f"{name}:deltas"] = sample.factors[name].deltas
                modules[name] = {"inputs": shared, "deltas": f"{name}:deltas"}
    tensors = {name: _stored(tensor, dtype, name, sample.sample_id) for name, tensor in tensors.items()}
    description = {
        "sample": _described(sample),
        "place": {**vars(place)},
        "modules": [[name, modules[name]] for name in sample.factors],  # a list, because JSON here sorts its keys
        "squared_norms": norms,
        "crc32": {name: zlib.crc32(_raw(tensor)) for name, tensor in tensors.items()},
        "shapes": {name: [str(tensor.dtype), *tensor.shape] for name, tensor in tensors.items()},
    }
    description["sha256"] = hashlib.sha256(canonical_json(description).encode()).hexdigest()
    data = save(tensors, metadata={METADATA_KEY: canonical_json(description)})
    return _entry(data, place.file, sample), data


def _described(sample: Sample) -> dict[str, Any]:
    if not isinstance(sample.cluster, str | int | float | bool | None) or sample.cluster != sample.cluster:
        raise SampleIdError(
            f"sample {sample.sample_id!r} has a cluster label of type {type(sample.cluster).__name__}; a store keeps str, "
            "int, float, bool or None. Give each cluster a name or a number."
        )
    return {
        "id": sample.sample_id,
        "cluster": sample.cluster,
        "tokens": sample.num_tokens,
        "digest": sample.digest,
    }


def _entry(data: bytes, file: str, sample: Sample) -> Entry:
    head = zlib.crc32(data[: 8 + int.from_bytes(data[:8], "little")])
    return Entry(
        file, len(data), hashlib.sha256(data).hexdigest(), head, sample.sample_id, sample.cluster, sample.num_tokens,
        sample.digest,
    )  # fmt: skip


def file_name(number: int, task: str, sample_id: int | str) -> str:
    """Name a shard by a counter and a hash: nothing that a user wrote becomes part of a path.

    Example:
        >>> file_name(7, "../../etc", "passwd")
        '00000007-79d98145a174.safetensors'
    """
    digest = hashlib.sha256(canonical_json([task, sample_id]).encode()).hexdigest()
    return f"{number:08d}-{digest[:12]}.safetensors"


def _sharing_inputs(factors: Mapping[str, Factors]) -> list[list[str]]:
    """Group modules whose inputs are one tensor in memory: Q, K and V of split projections."""
    groups: dict[Any, list[str]] = {}
    for name, pair in factors.items():
        key = (pair.inputs.data_ptr(), pair.inputs.shape, pair.inputs.stride()) if pair.inputs.numel() else name
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _whole_is_smaller(factors: Mapping[str, Factors], group: list[str], dtype: torch.dtype | None) -> bool:
    pairs = [factors[name] for name in group]
    itemsize = (dtype or pairs[0].deltas.dtype).itemsize
    tokens = itemsize * (pairs[0].inputs.numel() + sum(pair.deltas.numel() for pair in pairs))
    wide = max(4, itemsize)
    return wide * sum(pair.deltas.shape[1] * (pair.inputs.shape[1] + 1) for pair in pairs) < tokens


def _whole(
    sample: Sample,
    group: list[str],
    config: QKOVConfig,
    tensors: dict[str, torch.Tensor],
    modules: dict[str, dict[str, str]],
) -> list[list[Any]]:
    """Add the gradients of some modules; return ``[layer, block, squared norm]`` of the blocks in them."""
    norms = []
    for name in group:
        pair = sample.factors[name]
        deltas, inputs = gradients.widened(pair.deltas), gradients.widened(pair.inputs)
        whole, bias = deltas.T @ inputs, deltas.sum(0)
        for layout in config.layers:
            for projection in layout.projections:
                if projection.module_name != name:
                    continue
                other = whole.shape[1 if projection.side == "output" else 0]
                for unit in range(projection.num_units):
                    where = slice(*projection.interval(unit))
                    out = torch.empty(projection.width, other, dtype=whole.dtype, device=whole.device)
                    gradients.slice_gradient(sample.factors, projection, unit, out)
                    if projection.side == "output":
                        whole[where] = out
                        gradients.bias_gradient(sample.factors, projection, unit, bias[where])
                    else:
                        whole[:, where] = out.T
                norms.append([layout.layer, projection.block, gradients.squared_norm(sample.factors, projection)])
        tensors[f"{name}:gradient"], tensors[f"{name}:bias"] = whole, bias
        modules[name] = {"gradient": f"{name}:gradient", "bias": f"{name}:bias"}
    return norms


def _stored(tensor: torch.Tensor, dtype: torch.dtype | None, name: str, sample_id: int | str) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    if name.endswith((":gradient", ":bias")) or dtype is None:
        return tensor.clone(memory_format=torch.contiguous_format)  # contiguous() keeps odd strides of a single entry
    rounded = tensor.to(dtype).clone(memory_format=torch.contiguous_format)
    lost = not torch.isfinite(rounded).all() or bool(((rounded == 0) & (tensor != 0)).all() and tensor.any())
    if lost:
        raise PrecisionError(
            f"sample {sample_id!r}: {name!r} leaves the range of {dtype}. Store it as it was collected (store_dtype=None), or "
            "scale the loss."
        )
    return rounded


def _raw(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy arrays have the buffer protocol


class Shard(Mapping):
    """The modules of a stored sample, read when they are asked for and checked each time.

    A few tensors are kept, as many as one layer has: scoring asks for the slices of a layer one after another. Who has
    little memory calls :meth:`forget`.

    Args:
        folder: Folder of the store. entry: What the journal says of it. task: Name of its task, for messages.
    """

    def __init__(self, folder: Path, entry: Entry, task: str) -> None:
        self.folder, self.entry, self.task = folder, entry, task
        self._kept: dict[str, torch.Tensor] = {}

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / "shards" / self.entry.file

    @functools.cached_property
    def _head(self) -> tuple[dict[str, Any], dict[str, Any], int]:  # type: ignore[return]  # the block above returns or raises
        """``(description, tensors as safetensors describes them, where the tensors begin)``."""
        start, raw = read_head(self.path, self.damaged)
        if zlib.crc32(raw) != self.entry.head:
            self.damaged("its header does not match its checksum")
        try:
            header = json.loads(raw[8:])
            description = json.loads(header.pop("__metadata__")[METADATA_KEY])
            description["modules"] = dict(description["modules"])
            return description, header, start
        except (ValueError, KeyError, TypeError) as error:
            self.damaged(f"its header cannot be read ({error!r})", error)

    def damaged(self, reason: str, cause: BaseException | None = None) -> None:
        """Raise the error that says which sample is damaged and what to do."""
        raise StoreDamagedError(
            f"shard {self.entry.file!r} of sample {self.entry.sample_id!r} of task {self.task!r} is damaged: {reason}. "
            + PROBLEM.format(folder=self.folder)
        ) from cause

    @property
    def squared_norms(self) -> dict[tuple[int, str], float]:
        """Squared gradient norms of the blocks that are held as whole gradients."""
        return {(layer, block): value for layer, block, value in self._head[0]["squared_norms"]}

    def __getitem__(self, module_name: str) -> Factors:
        parts = self._head[0]["modules"][module_name]
        if "inputs" in parts:
            return Factors(self.tensor(parts["inputs"]), self.tensor(parts["deltas"]))
        whole = self.tensor(parts["gradient"])
        return Factors(_identity(whole.shape[1], whole.dtype), whole.T, self.tensor(parts["bias"]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._head[0]["modules"])

    def __len__(self) -> int:
        return len(self._head[0]["modules"])

    def about(self, module_name: str) -> tuple[int, torch.dtype]:
        """Return ``(tokens, dtype)`` of a module's factors, from the header alone."""
        parts = self._head[0]["modules"][module_name]
        tensor = self._head[1][parts.get("deltas") or parts["gradient"]]
        return tensor["shape"][0 if "deltas" in parts else 1], DTYPES[tensor["dtype"]]

    def forget(self) -> None:
        """Let go of the tensors that were read."""
        self._kept.clear()

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor and check it.

        Raises:
            StoreDamagedError: If it is not what was written.
        """
        if name in self._kept:
            return self._kept[name]
        description, header, start = self._head
        about = header[name]
        first, last = about["data_offsets"]
        data = _read(self.path, start + first, last - first, self.damaged)
        if len(data) != last - first or zlib.crc32(data) != description["crc32"][name]:
            self.damaged(f"tensor {name!r} does not match its checksum")
        shape, dtype = about["shape"], DTYPES[about["dtype"]]
        found = torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)
        while len(self._kept) >= CACHED_TENSORS:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = found
        return found


def stored_sample(folder: Path, entry: Entry, task: str) -> Sample:
    """Return a sample whose factors are read from its shard on demand."""
    shard = Shard(folder, entry, task)
    return Sample(entry.sample_id, entry.cluster, entry.num_tokens, entry.digest, shard, _LazyNorms(shard))  # type: ignore[arg-type]  # a mapping is enough


class _LazyNorms(dict):
    """Squared norms of blocks: those that the shard holds are read when first asked for."""

    def __init__(self, shard: Shard) -> None:
        super().__init__()
        self._shard: Shard | None = shard

    def __contains__(self, key: object) -> bool:
        if self._shard is not None:
            shard, self._shard = self._shard, None
            self.update(shard.squared_norms)
        return super().__contains__(key)


@functools.lru_cache(maxsize=4)
def _identity(size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.eye(size, dtype=dtype)


def read_head(path: Path, fail: Any) -> tuple[int, bytes]:
    """Return where the tensors begin and the bytes before them; ``fail(reason, cause)`` raises."""
    raw = bytes(_read(path, 0, 8, fail))
    size = int.from_bytes(raw, "little")
    with durable.refusals(path, "read"):
        if len(raw) < 8 or size > path.stat().st_size:
            fail("it is cut short or its first bytes are wrong")
    return 8 + size, raw + bytes(_read(path, 8, size, fail))


def _read(path: Path, start: int, size: int, fail: Any) -> bytearray:
    """Read part of a shard; one that is not there is damage, what the system refuses is not."""
    with durable.refusals(path, "read"):
        try:
            return durable.read_range(path, start, size)
        except FileNotFoundError as error:
            fail("it is missing", error)
            raise


def inspect(path: Path) -> tuple[Place, Entry] | None:
    """Judge a shard by itself, every byte of it; None where it is not whole, or not ours.

    Raises:
        DiskError: If the system does not let it be read, which says nothing of the shard.
    """
    with durable.refusals(path, "read"):
        data = path.read_bytes()
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        text = header.pop("__metadata__")[METADATA_KEY]
        description = json.loads(text)
        stated = description.pop("sha256")
        if hashlib.sha256(canonical_json(description).encode()).hexdigest() != stated:
            return None
        if not _matches(header, description, data[8 + size :]):
            return None
        place, one = Place(**description["place"]), description["sample"]
        sample = Sample(one["id"], one["cluster"], one["tokens"], one["digest"], {})
        return (place, _entry(data, path.name, sample)) if place.file == path.name else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _matches(header: dict[str, Any], description: dict[str, Any], data: bytes) -> bool:
    """Whether tensors are those of the description, and lie side by side and fill the file."""
    if header.keys() != description["crc32"].keys():
        return False
    end = 0
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = about["data_offsets"]
        dtype, *shape = description["shapes"][name]
        size = math.prod(shape) * DTYPES[about["dtype"]].itemsize
        if (first, last - first, str(DTYPES[about["dtype"]]), about["shape"]) != (end, size, dtype, shape):
            return False
        if zlib.crc32(data[first:last]) != description["crc32"][name]:
            return False
        end = last
    return end == len(data)
