"""The arrays that a heatmap is filled into, slice by slice, and where each slice goes."""

import numpy as np

from . import fisher, memory
from .geometry import BLOCKS

__all__ = ["Frame", "require_memory"]


class Frame:
    """The empty arrays of a heatmap, and where each slice goes."""

    def __init__(self, layouts, heads, num_a, num_b):
        self.layouts, self.heads = layouts, heads
        self.present = np.array([[head < layout.num_heads for head in heads] for layout in layouts], bool)
        self.present = self.present.reshape(len(layouts), len(heads))
        shown = [[layout.kv_head(head) if head < layout.num_heads else -1 for head in heads] for layout in layouts]
        self.kv_heads = sorted({one for row in shown for one in row if one >= 0})
        places = {one: place for place, one in enumerate(self.kv_heads)} | {-1: -1}
        self.kv_index = np.array([[places[one] for one in row] for row in shown], np.int64).reshape(self.present.shape)
        sizes = {block: len(self.kv_heads) if block in "KV" else len(heads) for block in BLOCKS}
        self.arrays = {block: np.full((num_a, num_b, len(layouts), size), np.nan) for block, size in sizes.items()}
        self.health = {
            block: {name: np.full((len(layouts), size), np.nan) for name in fisher.HEALTH_STATISTICS}
            for block, size in sizes.items()
        }

    @property
    def num_slices(self):
        return sum(len(self.units(layout, block)) for layout in self.layouts for block in BLOCKS)

    def units(self, layout, block):
        """Pairs of column and unit of a block's slices in one layer."""
        if block in "KV":
            own = {layout.kv_head(head) for head in self.heads if head < layout.num_heads}
            return [(column, unit) for column, unit in enumerate(self.kv_heads) if unit in own]
        return [(column, head) for column, head in enumerate(self.heads) if head < layout.num_heads]

    def put(self, block, place, column, result):
        """Place one slice's result."""
        self.arrays[block][:, :, place, column] = result.scores.numpy()
        for name, value in result.health.items():
            self.health[block][name][place, column] = value

    def fields(self):
        """The fields of a Heatmap that this frame fills."""
        return {
            "arrays": self.arrays,
            "health": self.health,
            "layers": tuple(layout.layer for layout in self.layouts),
            "heads": tuple(self.heads),
            "kv_heads": tuple(self.kv_heads),
            "kv_index": self.kv_index,
            "present": self.present,
        }


def require_memory(layouts, heads, num_a, num_b):
    """Refuse a heatmap that the machine cannot hold, before any of it is allocated; counted in Python's own integers."""
    kv_heads = max(layout.num_kv_heads for layout in layouts)
    units = 2 * len(heads) + 2 * min(kv_heads, len(heads))
    count = int(num_a) * int(num_b) * len(layouts) * units
    memory.require(
        2 * 8 * count,  # float64, and once more while the result is checked
        f"a heatmap of {num_a} x {num_b} samples on {len(layouts)} layers, {count:,} scores,",
        "Score fewer samples with max_samples_per_task, or fewer layers or heads at a time.",
    )
