"""Count where the host asks a device for values: on an accelerator each such question waits for all work before it.

What asks is an operation of torch, whatever the device of its tensors, so that it can be counted on a CPU.
"""

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode

ASKING = frozenset((
    "item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__", "equal", "allclose",
    "nonzero", "argwhere", "unique", "masked_select", "is_nonzero",
))  # fmt: skip
INDEXING = ("__getitem__", "__setitem__")


class HostCopies(TorchFunctionMode):
    """Count questions by name while active; ``total`` is their number. `.to(device)` is not counted."""

    def __init__(self):
        super().__init__()
        self.by_name = Counter()

    @property
    def total(self):
        return sum(self.by_name.values())

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", str(function))
        by_mask = name in INDEXING and any(
            _is_mask(one) for one in (args[1] if isinstance(args[1], tuple) else args[1:2])
        )
        if name in ASKING or by_mask or (name == "where" and len(args) == 1):
            self.by_name[f"{name} by a mask" if by_mask else name] += 1
        return function(*args, **(kwargs or {}))


def _is_mask(index):
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.ndim > 0
