"""Which heads are real: nulls, multiplicity, intervals and effect sizes on arrays of gradients.

Every function takes gradients as ``[samples, slices, parameters]``, or as a list of ``[samples, parameters]`` arrays, one
per slice, and independent units as ``clusters``: one label per sample, or the word "iid". See :mod:`qkov.inference` for the
one call that runs them on a collector.
"""

from .alignment import Alignment, alignment_exploratory
from .cluster_mass import ClusterMass, test_cluster_mass
from .conformal import ConformalSamples, conformal_samples
from .effects import CrossWithin, SourceEffect, cross_within, source_effect
from .exchange import test_exchange
from .head_result import HeadTest
from .intervals import Contrast, Interval, confidence_interval, head_contrast
from .layer_result import LayerTest, test_layers
from .map_reliability import Reliability, reliability
from .multiplicity import adjust
from .source import test_source

__all__ = [
    "Alignment",
    "ClusterMass",
    "ConformalSamples",
    "Contrast",
    "CrossWithin",
    "HeadTest",
    "Interval",
    "LayerTest",
    "Reliability",
    "SourceEffect",
    "adjust",
    "alignment_exploratory",
    "confidence_interval",
    "conformal_samples",
    "cross_within",
    "head_contrast",
    "reliability",
    "source_effect",
    "test_cluster_mass",
    "test_exchange",
    "test_layers",
    "test_source",
]
