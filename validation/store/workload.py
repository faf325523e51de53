"""A small collection, what it must leave on disk, and the rules by which every harness judges a store.

Samples are made from random numbers, without a model, in both forms that a shard can have. The plan commits passes, ends
the collection, takes the seal off and goes on, so that every operation of a store has its place in it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from qkov import geometry, store_contents
from qkov.errors import QKOVError, StoreNotFoundError, UnsealedStoreError
from qkov.gradients import Factors
from qkov.layout import QKOVConfig
from qkov.samples import Sample
from qkov.store import Store

HEADER = {"settings": {"store_form": "smaller"}, "model": {"class": "None", "dtypes": ["float32"]}, "environment": {}}
WIDTH, HEADS = 4, 2

# (what, task, ids or reason); a pass is committed whole.
PLAN = (
    ("pass", "alpha", (0, 1)),
    ("pass", "alpha", (2,)),
    ("seal", "", ()),
    ("unseal", "", ()),
    ("skip", "beta", ("z",)),
    ("pass", "beta", ("x", "y")),
    ("task", "empty", ()),
    ("seal", "", ()),
)

Acknowledged = set[tuple[str, Any]]
Findings = list[tuple[str, str]]


@functools.cache
def config() -> QKOVConfig:
    """One attention layer with two heads."""
    blocks = {"Q": "output", "K": "output", "V": "output", "O": "input"}
    projections = tuple(
        geometry.Projection(
            block, f"{block.lower()}_proj", f"{block.lower()}_proj.weight", None, (WIDTH, WIDTH),
            0 if side == "output" else 1, side, tuple(range(0, WIDTH, WIDTH // HEADS)), WIDTH // HEADS,
        )
        for block, side in blocks.items()
    )  # fmt: skip
    layer = geometry.AttentionLayout(
        0, "attention", "split", HEADS, HEADS, WIDTH // HEADS, WIDTH // HEADS, WIDTH, projections
    )
    return QKOVConfig((layer,))


@functools.cache
def sample(task: str, sample_id: int | str) -> Sample:
    """A sample of random numbers; of two, one is short and kept as factors, the other as whole gradients."""
    seed = sum(map(ord, f"{task} {sample_id}"))
    tokens = 2 if seed % 2 else 6
    random = torch.Generator().manual_seed(seed)
    read, inner = (torch.randn(tokens, WIDTH, generator=random) for _ in range(2))
    factors = {
        f"{block}_proj": Factors(inner if block == "o" else read, torch.randn(tokens, WIDTH, generator=random))
        for block in "qkvo"
    }
    return Sample(sample_id, f"cluster {seed}", tokens, f"{seed:064x}", factors)


def commit(store: Store, task: str, ids: Iterable[Any]) -> None:
    """Commit a pass of samples."""
    store.commit(task, "loss", [sample(task, one) for one in ids], config(), dtype=None, form="smaller")


def perform(store: Store, step: tuple[str, str, tuple[Any, ...]]) -> None:
    """Do one step of a plan, as far as the store does not hold it already."""
    what, task, ids = step
    if what == "seal":
        store.seal()
    elif what == "unseal":
        store.unseal()
    elif what == "task":
        if task not in store.contents.tasks:
            store.add_task(task)
    elif what == "skip":
        if ids[0] not in store.contents.skipped.get(task, {}):
            store.add_skipped(task, ids[0], "asked for")
    elif missing := [one for one in ids if one not in store.contents.tasks.get(task, {})]:
        commit(store, task, missing)


def acknowledged(step: tuple[str, str, tuple[Any, ...]]) -> Acknowledged:
    """What a step promises to have kept once it has returned."""
    what, task, ids = step
    return {(task, one) for one in ids} if what == "pass" else {(what, task)} if what in ("task", "skip") else set()


def collect(
    folder: Path, plan=PLAN, *, ack: Callable = lambda step: None, opened: Callable = lambda store: None
) -> None:
    """Follow a plan from wherever the store stands.

    Args:
        folder: The store. plan: Steps.
        ack: Called with each step that has returned. opened: Called with the store once it is open for writing.
    """
    store = Store.writing(folder)
    try:
        opened(store)
        if store.header is None:
            store.create(HEADER)
        for step in plan:
            perform(store, step)
            ack(step)
    finally:
        store.close()


def held(contents: store_contents.Contents) -> Acknowledged:
    """What a store says it holds, in the form of :func:`acknowledged`."""
    found = {(task, entry.sample_id) for task, entry in contents.entries}
    found |= {("task", task) for task, entries in contents.tasks.items() if not entries}
    return found | {("skip", task) for task in contents.skipped}


def read_all(folder: Path) -> dict[str, dict[Any, Any]]:
    """Read every number of a store, sealed or not, as plain values that can be compared."""
    return {
        task: {one.sample_id: values(one) for one in samples.values()}
        for task, samples in Store.reading(folder, allow_unsealed=True).samples().items()
    }


def values(one: Sample) -> tuple[Any, ...]:
    """Everything of a stored sample; its numbers as bytes."""
    factors = {name: tuple(map(_bytes, (pair.inputs, pair.deltas, pair.bias))) for name, pair in one.factors.items()}
    blocks = [(0, block) for block in "QKVO"]
    norms = {block: one.squared_norms[block] for block in blocks if block in one.squared_norms}
    return one.sample_id, one.cluster, one.num_tokens, one.digest, factors, norms


def _bytes(tensor: torch.Tensor | None) -> bytes:
    return b"" if tensor is None else tensor.contiguous().numpy().tobytes()


def tree(folder: Path, *, left_out: frozenset[str] = frozenset({"lock"})) -> dict[str, bytes]:
    """Every file below a folder with its bytes, apart from the lock; nothing where there is no folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in left_out
    }


def restore(folder: Path, files: dict[str, bytes]) -> Path:
    """Make a folder hold these files and no others; without any there is no folder."""
    shutil.rmtree(folder, ignore_errors=True)
    if files:
        (folder / "shards").mkdir(parents=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@functools.cache
def reference(plan=PLAN) -> tuple[dict[str, bytes], dict[str, dict[Any, Any]]]:
    """Files and numbers of a collection that nothing befell; make it before a fault is planted."""
    with scratch() as folder:
        collect(folder / "store", plan)
        return tree(folder / "store"), read_all(folder / "store")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is removed again; in memory where the system has such a place, as nothing here needs a real disk."""
    memory, logger = Path("/dev/shm"), logging.getLogger("qkov")
    level = logger.level
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        logger.setLevel(logging.ERROR)  # what recovery has to say, thousands of times
        try:
            yield Path(folder)
        finally:
            logger.setLevel(level)


def judge_reading(folder: Path, acked: Acknowledged, plan=PLAN) -> Findings:
    """What a reader must find after an interruption: all that was acknowledged, and nothing that was not collected."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            contents = store_contents.read(folder)
            found = read_all(folder)
    except (StoreNotFoundError, UnsealedStoreError) as error:
        return [("lost", f"{type(error).__name__} although samples were acknowledged")] if acked else []
    except QKOVError as error:
        return [("wrong", f"{type(error).__name__} after an interruption: {error}")]
    findings = [("lost", f"{one} was acknowledged") for one in sorted(acked - held(contents), key=str)]
    return findings + differing(found, reference(plan)[1])


def differing(found: dict[str, dict[Any, Any]], expected: dict[str, dict[Any, Any]]) -> Findings:
    """Samples that are not what was collected."""
    return [
        ("wrong", f"sample {name!r} of task {task!r} is not what was collected")
        for task, samples in found.items()
        for name, value in samples.items()
        if expected.get(task, {}).get(name) != value
    ]


def judge_resuming(folder: Path, acked: Acknowledged, plan=PLAN) -> Findings:
    """What a writer must do after an interruption: keep what was acknowledged, and end with the files of the reference."""
    findings: Findings = []

    def opened(store: Store) -> None:
        lost = acked - held(store.contents)
        findings.extend(("lost", f"{one} was acknowledged and the writer dropped it") for one in sorted(lost, key=str))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            collect(folder, plan, opened=opened)
    except QKOVError as error:
        return [*findings, ("wrong", f"cannot go on, {type(error).__name__}: {error}")]
    found, expected = tree(folder), reference(plan)[0]
    names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return findings + ([("wrong", f"ends with other files: {', '.join(names)}")] if names else [])


def judge(folder: Path, acked: Acknowledged, plan=PLAN) -> Findings:
    """Read, then go on."""
    return judge_reading(folder, acked, plan) or judge_resuming(folder, acked, plan)
