"""Made-up results for the tests of heatmap.py, tables.py and plots.py."""

import numpy as np

from qkov.geometry import BLOCKS
from qkov.heatmap import Heatmap
from qkov.meaning import describe_scores

STATS = ("damping_share", "fisher_median")


def make_heatmap(
    *, num_a=3, num_b=2, layers=(0, 1), heads=(0, 1, 2, 3), kv_heads=(0, 1), variant="unsigned", pool="A", **fields
):
    """Build a result with distinct scores; ``fields`` replace those of the constructor."""
    random = np.random.default_rng(7)
    units = {block: len(kv_heads if block in "KV" else heads) for block in BLOCKS}
    arrays = {block: random.normal(size=(num_a, num_b, len(layers), units[block])) for block in BLOCKS}
    if variant not in ("signed", "dot"):
        arrays = {block: np.abs(scores) for block, scores in arrays.items()}
    sharing = np.arange(len(heads)) // (len(heads) // len(kv_heads))
    health = {block: {stat: random.random((len(layers), units[block])) for stat in STATS} for block in BLOCKS}
    values = {
        "arrays": arrays,
        "task_a": "code",
        "task_b": "prose",
        "sample_a": tuple(f"heapq:{10 * i}" for i in range(num_a)),
        "sample_b": tuple(100 + j for j in range(num_b)),
        "layers": tuple(layers),
        "heads": tuple(heads),
        "kv_heads": tuple(kv_heads),
        "kv_index": np.tile(sharing, (len(layers), 1)),
        "health": health,
        "attributes": describe_scores(variant, pool) | {"variant": variant, "fisher_pool": pool},
    }
    return Heatmap(**(values | fields))


def without_layer_one(heatmap):
    """Return the fields of ``heatmap`` after its second layer lost its own K and V, and its last head altogether."""
    arrays = {block: scores.copy() for block, scores in heatmap.arrays.items()}
    kv_index, present = heatmap.kv_index.copy(), heatmap.present.copy()
    kv_index[1], present[1, -1] = -1, False
    for block in "KV":
        arrays[block][:, :, 1] = np.nan
    for block in "QO":
        arrays[block][:, :, 1, -1] = np.nan
    return {"arrays": arrays, "kv_index": kv_index, "present": present}
