"""Which heads are real: nulls, multiplicity, intervals and effect sizes on arrays of gradients.

Every function takes gradients as ``[samples, slices, parameters]``, or as a list of ``[samples, parameters]`` arrays, one
per slice, and independent units as ``clusters``: one label per sample, or the word "iid". See :mod:`qkov.inference` for the
one call that runs them on a collector.
"""

from .exchange import test_exchange
from .head_result import HeadTest
from .layer_result import LayerTest, test_layers
from .multiplicity import adjust
from .source import test_source

__all__ = [
    "HeadTest",
    "LayerTest",
    "adjust",
    "test_exchange",
    "test_layers",
    "test_source",
]
