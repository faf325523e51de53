r"""Which stretches of layers hold an effect together: cluster mass, an option that does not localise.

Slices of one layer have no order, and a head has no counterpart in the next layer. So the only graph that can be defended
joins layers: two slices are neighbours if their layers are the same or follow each other. Among slices whose statistic is
above a threshold, every connected component c has a mass, and the largest of a relabeling is what all are compared with:

.. math:: m_c = \sum_{s \in c} T_s, \quad p_c = \frac{1 + \#\{\max_{c'} m^*_{c'} \ge m_c\}}{1 + P}

A small p speaks against "no effect in any slice", not against "no effect in this layer": in simulations 27 to 32 % of the
layers of significant clusters had none. :func:`~qkov.statistics.test_layers` asks layer by layer.
Source: Bullmore et al. 1999; Maris and Oostenveld 2007.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ShapeError, StatisticsError
from . import head_result, multiplicity

if TYPE_CHECKING:
    from .head_result import HeadTest


NOTE = (
    "a cluster says that there is an effect somewhere, not where: 27 to 32 % of the layers in significant clusters had none "
    "in simulations. Heads have no order and no counterpart in the next layer; only layers that follow each other are joined."
)


@dataclass(frozen=True)
class ClusterMass:
    """Clusters of slices over consecutive layers.

    Attributes:
        layers: Of every cluster, from the first to the last, largest mass first.
        slices: Indices of its slices above the threshold.
        mass: ``[clusters]``.
        p: ``[clusters]``, family-wise over all clusters.
        null: Largest mass of every relabeling, ``[relabelings]``; 0 where no slice is above the threshold.
        threshold: As given.
        null_statement: What a small p speaks against.
        note: What may not be concluded.
    """

    __test__ = False

    layers: tuple
    slices: tuple
    mass: np.ndarray
    p: np.ndarray
    null: np.ndarray = field(repr=False)
    threshold: float
    null_statement: str
    note: str = NOTE


def test_cluster_mass(head_test: HeadTest, layer_of_slice: np.ndarray, *, threshold: float) -> ClusterMass:
    """Test stretches of layers with the statistics and relabelings of a test of slices.

    Args:
        head_test: A :class:`~qkov.statistics.head_result.HeadTest`. Slices without a statistic belong to no cluster.
        layer_of_slice: The layer of every slice, ints ``[slices]``; layer and layer + 1 are neighbours.
        threshold: A slice belongs to a cluster if its statistic is larger ("two-sided": its absolute value, "less": its
            negative). Positive, and chosen before the data are seen: it decides which effects can be found.

    Returns:
        :class:`ClusterMass`, without clusters if no slice is above the threshold.

    Raises:
        ShapeError: If there is not one int per slice.
        StatisticsError: If the threshold is not positive.
    """
    of_slice = np.asarray(layer_of_slice)
    if of_slice.shape != head_test.statistic.shape or not np.issubdtype(of_slice.dtype, np.integer):
        raise ShapeError(
            f"layer_of_slice has shape {of_slice.shape} and type {of_slice.dtype}; expected the number of a layer, an int, "
            f"for each of the {len(head_test.statistic)} slices."
        )
    if isinstance(threshold, bool) or not 0 < threshold < math.inf:
        raise StatisticsError(f"threshold={threshold!r}; expected a positive number, such as 2 for a t statistic.")
    turned, turned_null = (
        head_result.directed(values, head_test.alternative) for values in (head_test.statistic, head_test.null)
    )
    layers = np.unique(of_slice)
    (component,), masses = components(turned[None], of_slice, threshold)
    largest = _largest(*components(turned_null, of_slice, threshold))
    found = sorted((one for one in set(component.tolist()) if masses[one] > 0), key=lambda one: (-masses[one], one))
    members = [layers[component == one] for one in found]
    mass = masses[found]
    return ClusterMass(
        layers=tuple((int(one[0]), int(one[-1])) for one in members),
        slices=tuple(np.flatnonzero(np.isin(of_slice, one) & (turned > threshold)) for one in members),
        mass=mass,
        p=np.array([(1 + multiplicity.exceedances(largest, one)) / (1 + len(largest)) for one in mass]),
        null=largest,
        threshold=float(threshold),
        null_statement=f"in no slice at all: {head_test.null_statement}",
    )


test_cluster_mass.__test__ = False  # type: ignore[attr-defined]  # pytest collects functions by name


def components(statistics: np.ndarray, of_slice: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the connected components of every row, all rows as one graph without edges between them.

    Slices of one layer are joined, so that a layer is one node: the sum of its slices above the threshold.

    Args:
        statistics: ``[rows, slices]``; NaN is not above any threshold.
        of_slice: Layer of every slice, ``[slices]``.
        threshold: What a member is larger than.

    Returns:
        The component of every layer in every row, ``[rows, layers]``, and the masses of components, 0 for a layer without
        a member, which is its own component.
    """
    from scipy import sparse
    from scipy.sparse import csgraph

    layers, column = np.unique(of_slice, return_inverse=True)
    in_layer = (column[:, None] == np.arange(len(layers))).astype(np.float64)
    above = statistics > threshold
    mass = np.where(above, statistics, 0.0) @ in_layer
    joined = (mass[:, :-1] > 0) & (mass[:, 1:] > 0) & (np.diff(layers) == 1)
    node = np.arange(mass.size).reshape(mass.shape)
    ends = node[:, :-1][joined], node[:, 1:][joined]
    graph = sparse.coo_array((np.ones(len(ends[0])), ends), shape=(mass.size, mass.size))
    _, component = csgraph.connected_components(graph, directed=False)
    return component.reshape(mass.shape), np.bincount(component, weights=mass.ravel())


def _largest(component: np.ndarray, masses: np.ndarray) -> np.ndarray:
    return masses[component].max(1)
