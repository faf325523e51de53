"""Requests for what is not there, or for what would not be valid."""

import functools

import qkov
from qkov import errors

from . import registry
from .ground import build_batch
from .registry import require

case = functools.partial(registry.case, group="Requests")
_NO_SLICE = {"error": errors.SliceIndexError, "status": 2}


@case("a layer that the model does not have", says=("layer 7", "valid layers are 0-1"), **_NO_SLICE)
def no_such_layer(ground):
    """Refused with the layers that there are."""
    ground.metric().compute_heatmap("math", "code", layers=[0, 7], progress=False)


@case("a head that the layer does not have", says=("head of layer 1 with index 6", "0 to 5"), **_NO_SLICE)
def no_such_head(ground):
    """Refused with the heads that there are; negative numbers do not count from the end."""
    for head in (-1, 6):
        try:
            ground.metric().compute_sample_pair("math", "s0", "code", "s1", layer=1, head=head)
        except errors.SliceIndexError:
            if head == 6:
                raise
        else:
            require(False, f"head {head} was taken")


@case("a block that does not exist", says=("Block 'X'", "valid blocks are Q, K, V, O"), **_NO_SLICE)
def no_such_block(ground):
    """Refused with the blocks that there are."""
    qkov.QKOVIndexer(ground.collector.config).get_slice(layer=0, head=0, block="X")


@case(
    "a variant that does not exist",
    error=errors.OptionError,
    status=2,
    says=("variant='harm'", "expected one of 'unsigned', 'natural', 'signed'"),
)
def no_such_variant(ground):
    """Refused with those that there are."""
    ground.metric(variant="harm")


@case(
    "a task that was never collected",
    error=errors.UnknownTaskError,
    status=3,
    says=("no task 'maths'", "known tasks: 'math', 'code'"),
)
def no_such_task(ground):
    """Refused with those that there are."""
    ground.metric().compute_heatmap("maths", "code", progress=False)


@case(
    "a sample that the task does not hold; a position instead of an id",
    error=errors.UnknownSampleError,
    status=3,
    says=("task 'code' has no sample 1", "from 's0' to 's2'"),
)
def no_such_sample(ground):
    """Refused: samples are named by id, never by position."""
    ground.metric().compute_sample_pair("math", "s0", "code", 1, layer=0, head=0)


def _test(ground, *tasks, **options):
    options = {"clusters": "iid", "seed": 0, "progress": False} | options
    return qkov.QKOVStatistics(n_permutations=19).test_heatmap(ground.collector, *tasks, **options)


@case(
    "too few permutations for the number of tests",
    warning=errors.StatisticsWarning,
    says=("a single slice out of 32", "the smallest possible p is 0.05", "ask for more permutations"),
    adds=True,
)
def too_few_permutations(ground):
    """A warning says that no single slice could be found, and no p-value is smaller than it can be."""
    for seed, task in enumerate(("more", "others")):
        ground.collect(build_batch((4,) * 6, seed=seed), task)
    found = _test(ground, "more", "others")
    require(found.columns[f"{found.main_test}_p"].min() >= 0.05, "a p-value is smaller than the smallest possible one")


@case(
    "no permutations at all",
    error=errors.StatisticsError,
    status=3,
    says=("n_permutations=0", "expected a positive int"),
)
def no_permutations(ground):
    """Refused."""
    qkov.QKOVStatistics(n_permutations=0)


@case(
    "a test of samples whose clusters nobody has stated",
    error=errors.StatisticsError,
    status=3,
    says=("task 'math' was collected without clusters", "Give them to collect_fisher", "'iid'"),
)
def no_clusters(ground):
    """Refused: independence is a statement that somebody has to make."""
    _test(ground, "math", "code", clusters=None)
