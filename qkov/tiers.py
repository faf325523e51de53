"""Tiers of determinism: what is promised of a result that is computed again, by what was different the second time.

=====  ============================================================  ========================================================
tier   when                                                          promise
=====  ============================================================  ========================================================
D0     decisions from given scores, on any machine                   counts, ids, order and choices exactly; floats to 1e-12
D1     the same machine, versions, threads and passes                every bit
D2     other threads, passes, tiles or processor                     gradients 1e-5, scores 1e-4, head ranks 0.9999, the same
                                                                     strongest pairs up to ties
D3     another device, PyTorch or transformers                       1e-3; the same slices found, up to Monte-Carlo error
D4     half precision, other kernels of attention                    none; the spread is shown
=====  ============================================================  ========================================================

Errors of scores are relative to the largest of their block, those of a gradient to its norm.
"""

from __future__ import annotations

D0_FLOATS = 1e-12
D2_GRADIENTS = 1e-5
D2_SCORES = 1e-4
D2_RANKS = 0.9999
D3_SINGLE = 1e-3

TOP_PAIRS = 10
"""Strongest pairs of a block that must be the same up to ties."""

PROMISES = {
    "D1": "every bit the same",
    "D0": "counts, order and decisions the same, floats to 1e-12",
    "D2": "scores to 1e-4, ranks of heads 0.9999, the same strongest pairs up to ties",
    "D3": "1e-3 of the largest, the same slices found up to Monte-Carlo error",
    "D4": "no promise",
}
"""From the tightest on."""


def looser(*tiers: str) -> str:
    """Return the loosest of some tiers.

    Example:
        >>> looser("D2", "D1", "D3")
        'D3'
    """
    return max(tiers, key=list(PROMISES).index, default="D1")


def keeps(found: str | None, promised: str) -> bool:
    """Tell whether what was found, the tightest tier that holds or None, is at least what was promised.

    Example:
        >>> keeps("D2", "D3"), keeps("D2", "D1"), keeps(None, "D3"), keeps(None, "D4")
        (True, False, False, True)
    """
    if promised == "D4":
        return True
    order = list(PROMISES)
    return found is not None and order.index(found) <= order.index(promised)
