"""Put the samples of several stores into one, as if one collection had made them, one store after the other.

Tensors are copied as they are. What is new is the place that every shard says it has in its collection, and with it the
shard's checksum. So the merged store is the one, byte for byte, that a single process makes which collects the same passes
in the same order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import durable, journal, resources, shards, store_identity, store_staging
from .canonical import canonical_json
from .errors import ModelChangedError, OptionError, SampleIdError, StoreMismatchError
from .shards import METADATA_KEY, Entry, Place, Shard
from .store import Store
from .store_contents import JOURNAL, SHARDS
from .store_staging import Staged

Record = dict[str, Any]


def merge_stores(stores: Iterable[str | Path], out: str | Path) -> Path:
    """Merge stores of one model and one kind of settings into a new one; those that are merged stay as they are.

    Samples lie in the order of the stores, and within one in that of its collection, on which exponential means and rounding
    depend. After an interruption the same call goes on, and ends with the same bytes.

    Args:
        stores: Folders of sealed stores. No sample id of a task is in two of them: give ``collect_fisher`` ids.
        out: Folder of the new store.

    Returns:
        ``out``, for ``FisherCollector.open``.

    Raises:
        ModelChangedError, StoreMismatchError: If they were collected from other weights or with other settings.
        SampleIdError: If two hold, or have left out, a sample of one id, or ids of a task are numbers here and words there.
        OptionError: If there is nothing to merge, or ``out`` holds something else.
        SealedStoreError: If ``out`` holds the beginning of this merge and was ended there.
        UnsealedStoreError, StoreDamagedError, DiskError: If one cannot be read, or ``out`` not be written.

    Example:
        >>> import tempfile, torch, transformers, qkov
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4)
        >>> model, folder = transformers.LlamaForCausalLM(config), tempfile.mkdtemp()
        >>> for place in (0, 3):
        ...     with qkov.FisherCollector(store=f"{folder}/{place}") as collector:
        ...         batch = {"input_ids": torch.arange(12).reshape(3, 4) + place}
        ...         collector.collect_fisher(model, batch, "math", sample_ids=range(place, place + 3))
        >>> qkov.FisherCollector.open(qkov.merge_stores([f"{folder}/0", f"{folder}/3"], f"{folder}/all")).sample_ids("math")
        (0, 1, 2, 3, 4, 5)
    """
    sources = [Store.reading(path) for path in stores]
    if not sources:
        raise OptionError("there is no store to merge. Give the folders of one or more.")
    header = _common_header(sources, out)
    _require_disjoint(sources)
    planned = list(_records(sources))
    target = Store.writing(out)
    try:
        if target.header is None:
            needed = sum(entry.size for source in sources for _, entry in source.contents.entries)
            resources.require_disk(target.folder, needed, f"merging {len(sources)} stores")
            target.create(header)
        for source, record in planned[_num_done(target, header, planned) :]:
            _add(target, source, record)
        target.seal()
    finally:
        target.close()
    return target.folder


def _common_header(sources: list[Store], out: str | Path) -> dict[str, Any]:
    """Return the header of the first store; refuse others of another model or other settings."""
    first, *others = sources
    header = first.header
    assert header is not None  # Store.reading refuses a store without
    for other in others:
        assert other.header is not None
        where = f"the stores {str(first.folder)!r} and {str(other.folder)!r}"
        models = [name for name, value in header["model"].items() if other.header["model"].get(name) != value]
        if models:
            raise ModelChangedError(
                f"{where} hold gradients of different models (they differ in {', '.join(models)}); scores across the two "
                "would mean nothing. Merge stores that were collected from the same weights."
            )
        found = [(name, value, other.header["settings"].get(name)) for name, value in header["settings"].items()]
        unequal = [one for one in found if one[1] != one[2] and not (one[0] == "tokenizer" and None in one)]
        if unequal:
            shown = ", ".join(f"{name} {one!r} and {two!r}" for name, one, two in unequal)
            raise StoreMismatchError(
                f"{where} were collected with different settings: {shown}. Collect one of them again."
            )
        store_identity.warn_of_environment(header["environment"], other.header["environment"], out)
    return header


def _require_disjoint(sources: list[Store]) -> None:
    """Refuse stores that share an id, and tasks whose ids are of two types."""
    owners: dict[str, dict[int | str, int]] = {}
    for number, source in enumerate(sources):
        for held in (source.contents.tasks, source.contents.skipped):
            for task, samples in held.items():
                known = owners.setdefault(task, {})
                repeated = [one for one in samples if known.get(one, number) != number]
                if repeated:
                    first = sources[known[repeated[0]]].folder
                    raise SampleIdError(
                        f"samples {repeated[:5]} of task {task!r} are in {str(first)!r} and in {str(source.folder)!r}. Each "
                        "id names one sample of a task: collect one of them again, with sample_ids that differ."
                    )
                known.update(dict.fromkeys(samples, number))
                if len({type(one) for one in known}) > 1:
                    raise SampleIdError(
                        f"ids of task {task!r} in {str(source.folder)!r} are of another type than those before; expected all "
                        "int or all str within one task."
                    )


def _records(sources: list[Store]) -> Iterable[tuple[Store, Record]]:
    """Yield what the journals say after their headers, without tasks that are begun a second time."""
    begun: set[str] = set()
    for source in sources:
        for record in _lines(source):
            if record["kind"] != "task" or record["task"] not in begun:
                yield source, record
            begun.add(record["task"])


def _lines(store: Store) -> tuple[Record, ...]:
    with durable.refusals(store.folder / JOURNAL, "read"):
        return journal.parse((store.folder / JOURNAL).read_bytes()).records[1:]


def _num_done(target: Store, header: dict[str, Any], planned: list[tuple[Store, Record]]) -> int:
    """Return how many records an earlier call has added."""
    held = [_content(record) for record in _lines(target)]
    if target.header != header or held != [_content(record) for _, record in planned[: len(held)]]:
        raise OptionError(
            f"{str(target.folder)!r} holds something else than the beginning of this merge. Choose a new or an empty folder, "
            "or give the same stores in the same order; nothing was written."
        )
    return len(held)


def _content(record: Record) -> Record:
    """Return a record without what depends on where it stands."""
    apart = ("file", "size", "sha256", "head")
    members = [{name: one[name] for name in one if name not in apart} for one in record.get("samples", ())]
    return {name: value for name, value in record.items() if name != "n"} | {"samples": members}


def _add(target: Store, source: Store, record: Record) -> None:
    task = record["task"]
    if record["kind"] == "task":
        target.add_task(task)
    elif record["kind"] == "skipped":
        target.add_skipped(task, record["id"], record["reason"])
    else:
        entries = [Entry(**one) for one in record["samples"]]
        target.adopt(task, record["loss"], _staged(target, source, task, record["loss"], entries))


def _staged(target: Store, source: Store, task: str, loss: str, entries: list[Entry]) -> list[Staged]:
    """Write the shards of a pass beside those of the target, synced, one at a time in memory."""
    first, staged = target.contents.next_number, []
    try:
        for number, entry in enumerate(entries):
            name = shards.file_name(first + number, task, entry.sample_id)
            place = Place(task, loss, target.contents.num_lines, number, len(entries), name)
            moved, data = _moved(Shard(source.folder, entry, task), place)
            staged.append(Staged(moved, f".{name}.{uuid.uuid4().hex}.staged{durable.PART}"))
            durable.write_file(target.folder / SHARDS / staged[-1].part, [data], sync_name=False)
    except BaseException:
        with contextlib.suppress(OSError):
            store_staging.discard(target.folder, staged)
        raise
    return staged


def _moved(shard: Shard, place: Place) -> tuple[Entry, bytes]:
    """Return a shard at another place: the same tensors and the same sample."""
    from safetensors.torch import load, save

    with durable.refusals(shard.path, "read"):
        data = shard.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != shard.entry.sha256:
        shard.damaged("it does not match its checksum")
    size = int.from_bytes(data[:8], "little")
    description = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][METADATA_KEY])
    del description["sha256"]
    description["place"] = {**vars(place)}
    description["sha256"] = hashlib.sha256(canonical_json(description).encode()).hexdigest()
    data = save(load(data), metadata={METADATA_KEY: canonical_json(description)})
    head = zlib.crc32(data[: 8 + int.from_bytes(data[:8], "little")])
    entry = replace(shard.entry, file=place.file, size=len(data), sha256=hashlib.sha256(data).hexdigest(), head=head)
    return entry, data
