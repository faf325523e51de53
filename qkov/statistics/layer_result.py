"""Which layers hold an effect: means over the heads of a layer, against the relabelings that the heads were tested with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ShapeError
from . import head_result, multiplicity

if TYPE_CHECKING:
    from .head_result import HeadTest


@dataclass(frozen=True)
class LayerTest:
    """What the mean statistic of each layer says.

    Attributes:
        layers: Their labels, sorted.
        statistic: Mean over the slices of the layer, ``[layers]``, turned so that large values speak against the null
            (absolute values for "two-sided", the sign changed for "less"); NaN where none was tested.
        p, q_bh, p_maxt: As in :class:`~qkov.statistics.head_result.HeadTest`, over layers.
        null_statement: What a small p speaks against.
    """

    __test__ = False

    layers: tuple
    statistic: np.ndarray
    p: np.ndarray
    q_bh: np.ndarray
    p_maxt: np.ndarray
    null_statement: str


def test_layers(head_test: HeadTest, layer_of_slice: Sequence[int | str]) -> LayerTest:
    """Test layers with the statistics and relabelings of a test of slices.

    Args:
        head_test: A :class:`~qkov.statistics.head_result.HeadTest`.
        layer_of_slice: The layer of every slice, ``[slices]``.

    Returns:
        :class:`LayerTest`. A layer is one hypothesis, "none of its slices"; that it is rejected does not say which slice.

    Raises:
        ShapeError: If there is not one layer per slice.
    """
    of_slice = np.asarray(layer_of_slice)
    if of_slice.shape != head_test.statistic.shape:
        raise ShapeError(
            f"layer_of_slice has shape {of_slice.shape}; expected one layer for each of the "
            f"{len(head_test.statistic)} slices."
        )
    tested = ~np.isnan(head_test.statistic)
    layers = np.unique(of_slice)
    weights = np.array([(of_slice == layer) & tested for layer in layers], dtype=np.float64)
    counts = weights.sum(1)
    weights /= np.maximum(counts, 1)[:, None]
    known = np.where(tested, head_test.statistic, 0.0)
    null = np.where(tested, head_test.null, 0.0)
    # Absolute values first, where both signs speak against the null: those of one layer must not cancel.
    observed = weights @ head_result.directed(known, head_test.alternative)
    observed = np.where(counts > 0, observed, np.nan)
    nulls = head_result.directed(null, head_test.alternative) @ weights.T
    p = multiplicity.permutation_p(observed, nulls)
    return LayerTest(
        layers=tuple(layers.tolist()),
        statistic=observed,
        p=p,
        q_bh=multiplicity.adjust(p),
        p_maxt=multiplicity.step_down(observed, nulls),
        null_statement=f"in no slice of the layer: {head_test.null_statement}",
    )


test_layers.__test__ = False  # type: ignore[attr-defined]  # pytest collects functions by name
