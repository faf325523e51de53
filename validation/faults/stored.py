"""Faults of the store that a model shows; those of crashes and damage are beside the harnesses that find them."""

import functools
import itertools

from .planting import fault

store = functools.partial(fault, area="store")


@store("shards._stored", expected="store_keeps")
def stored_as_bfloat16(original):
    """Factors are written to disk in bfloat16, whatever was asked for."""

    def stored(tensor, *arguments):
        return original(tensor, *arguments).bfloat16().to(tensor.dtype)

    return stored


@store("shards.Shard.tensor", expected="store_keeps")
def tensors_kept_by_name_alone(original):
    """The tensors last read are kept for all samples together, under the name of their module."""
    kept = {}

    def tensor(self, name):
        if name not in kept:
            kept[name] = original(self, name)
        return kept[name]

    return tensor


@store("store_contents.Contents.next_number", expected="store_resumes")
def numbered_anew_by_each_process(_original):
    """Shards are counted from 0 in each process, so that a resumed collection names them otherwise."""
    counts = {}

    def next_number(self):
        return next(counts.setdefault(id(self), itertools.count()))

    return property(next_number)


@store("samples.assign_ids", expected="store_resumes")
def resumed_at_the_next_number(original):
    """A resumed collection goes on with new ids instead of skipping what it holds, and so collects it twice."""

    def assign_ids(task, known, num_samples, sample_ids):
        return original(task, known, num_samples, None)

    return assign_ids
