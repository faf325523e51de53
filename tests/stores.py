"""Small stores of collected samples, and ways to look at and damage them."""

import hashlib
from pathlib import Path

import torch

import qkov
from tests.builders import build_batch, build_model

LENGTHS_A, LENGTHS_B = (5, 8, 20, 3, 7), (6, 4, 9)


def fill(collector, model=None, *, micro_batch=2, **options):
    """Collect two tasks of a tiny model; returns the collector."""
    model = build_model("llama", dtype=torch.float32) if model is None else model
    settings = {"micro_batch": micro_batch, "progress": False, **options}
    collector.collect_fisher(model, build_batch(LENGTHS_A), "a", **settings)
    names = {"sample_ids": ["x", "../y", "z\x1b[2J"], "clusters": [1, "one", None]}
    collector.collect_fisher(model, build_batch(LENGTHS_B, seed=1), "b", **names, **settings)
    return collector


def make_store(path, **options):
    """Collect two tasks into a new store and seal it; returns its folder."""
    with qkov.FisherCollector(store=path, **options) as collector:
        fill(collector)
    return Path(path)


def digest(folder):
    """``{relative path: SHA-256}`` of all files of a store but the lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def flip(path, place, bit=0):
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def shard_of(folder, task, sample_id):
    """Path of the shard of a sample."""
    from qkov import store_contents

    return folder / "shards" / store_contents.read(folder).tasks[task][sample_id].file


def same_samples(left, right):
    """Whether two collectors hold the same tasks, ids, clusters, token counts and factors, bit for bit, in one order."""
    if left.tasks != right.tasks:
        return False
    for task in left.tasks:
        for one, two in zip(left.samples(task), right.samples(task), strict=True):
            described = [(s.sample_id, type(s.sample_id), s.cluster, s.num_tokens, s.digest) for s in (one, two)]
            if described[0] != described[1] or list(one.factors) != list(two.factors):
                return False
            for name in one.factors:
                pairs = zip(vars(one.factors[name]).values(), vars(two.factors[name]).values(), strict=True)
                if not all(equal(first, second) for first, second in pairs):
                    return False
    return True


def equal(first, second):
    """Whether two tensors, or Nones, are the same bits."""
    if first is None or second is None:
        return first is second
    return first.dtype == second.dtype and torch.equal(first, second)
