r"""What a collection will take, and whether the disk holds it, asked before it begins.

A sample of T tokens takes, for every group of modules that read one tensor, ``T (d_in + sum of d_out)`` numbers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from .errors import DiskError
from .layout import QKOVConfig
from .linear_weights import LinearWeight

SHARE = 0.9
"""Of what is free, as much as a plan may take."""


def sample_bytes(weights: Iterable[LinearWeight], config: QKOVConfig, num_tokens: int, itemsize: int) -> int:
    """Estimate the bytes of a sample's factors; Q, K and V of a layer are taken to read one tensor."""
    reads = {
        projection.module_name: (layout.layer, projection.side)
        for layout in config.layers
        for projection in layout.projections
    }
    inputs: dict[object, int] = {}
    outputs: dict[str, int] = {}
    for one in weights:
        d_out, d_in = one.weight_shape[one.out_axis], one.weight_shape[1 - one.out_axis]
        key = reads.get(one.module_name) or (
            one.layer,
            one.kind,
            one.role,
            d_in if one.layer is not None else one.module_name,
        )
        inputs[key] = max(d_in, inputs.get(key, 0))
        outputs[one.module_name] = d_out
    return num_tokens * itemsize * (sum(inputs.values()) + sum(outputs.values()))


COLLECT_LESS = (
    "collect fewer samples, or store in bfloat16 (store_dtype='bfloat16'). What was committed before is kept."
)


def require_disk(folder: Path, needed: int, what: str, *, remedy: str = COLLECT_LESS) -> None:
    """Refuse a plan that takes more than 90 % of the free disk.

    Args:
        folder: On that disk. needed: Bytes. what: Names the plan. remedy: What else to do than to free space.

    Raises:
        DiskError: With what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    if needed > SHARE * free:
        raise DiskError(
            f"{what} needs about {readable(needed)} on disk and {readable(free)} are free at {str(folder)!r}; expected at "
            f"most {SHARE:.0%} of that. Free some space, use another disk, {remedy}"
        )


def readable(size: float) -> str:
    """Write a number of bytes for people.

    Example:
        >>> readable(3_500_000)
        '3.5 MB'
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
