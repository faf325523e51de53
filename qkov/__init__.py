"""Measure where in a transformer's attention heads two tasks meet: the QK-OV interference metric.

Names are imported when first used, so that ``import qkov`` stays light.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    # layout
    "QKOVConfig": "layout",
    "QKOVIndexer": "layout",
    "BlockHeadSlice": "geometry",
    "register_layout": "locate",
    # collection
    "FisherCollector": "collector",
    # metric and result
    "QKOVInterferenceMetric": "interference",
    "Heatmap": "heatmap",
    "load_heatmap": "heatmap",
    # what heads attend to
    "score_head_types": "head_scoring",
    "HeadTypes": "head_types",
    "load_head_types": "head_types",
    # tests
    "QKOVStatistics": "inference",
    "HeadStatistics": "head_statistics",
    "load_statistics": "head_statistics",
    # the strongest pairs
    "describe_top_pairs": "top_pairs",
    "load_top_pairs": "top_pairs",
    "split_labels": "top_pairs",
    "TopPairs": "top_pairs",
    # the laws, on your own model
    "check_model": "checks",
    "prove_layout": "checks",
}
_MODULES = (
    "checks", "errors", "fisher", "formula", "geometry", "gradients", "layout", "locate", "losses",
    "pattern_scores", "reference", "reproducibility", "statistics",
)  # fmt: skip

__all__ = ["__version__", *_HOME]


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOME, *_MODULES])
