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
    "FisherDiagonal": "diagonal",
    "collect_fisher_diagonal": "diagonal",
    "load_fisher_diagonal": "diagonal",
    # metric and result
    "QKOVInterferenceMetric": "interference",
    "Heatmap": "heatmap",
    "load_heatmap": "heatmap",
    "PairSummary": "pair_summary",
    "load_pair_summary": "pair_summary",
    # what heads attend to
    "score_head_types": "head_scoring",
    "HeadTypes": "head_types",
    "load_head_types": "head_types",
    # directions of steps
    "scale_by_fisher": "natural_gradient",
    "ScaledGradients": "natural_gradient",
    # tests
    "QKOVStatistics": "inference",
    "HeadStatistics": "head_statistics",
    "load_statistics": "head_statistics",
    # the strongest pairs
    "describe_top_pairs": "top_pairs",
    "load_top_pairs": "top_pairs",
    "split_labels": "top_pairs",
    "TopPairs": "top_pairs",
    # what a step on B does to A
    "predict_change": "prediction",
    "predict_pairs": "pair_prediction",
    "Prediction": "prediction_result",
    "load_prediction": "prediction_result",
    # importance, masks and merging
    "FisherImportance": "importance",
    "compute_fisher_importance": "importance",
    "load_fisher_importance": "importance",
    "head_table": "head_tables",
    "export_head_table": "head_tables",
    "load_head_table": "head_tables",
    "PruningMasks": "pruning",
    "apply_masks": "pruning",
    "get_fisher_pruning_masks": "pruning",
    "load_pruning_masks": "pruning",
    "MaskOverlap": "overlap",
    "compute_fisher_overlap": "overlap",
    "load_mask_overlap": "overlap",
    "merge_weights": "merging",
    # conflicts between samples of two tasks
    "detect_conflicts": "conflicts",
    "load_conflicts": "sample_conflicts",
    "SampleConflicts": "sample_conflicts",
    # runs
    "compare_runs": "comparison",
    "Comparison": "comparison",
    # what it will take
    "plan": "planning",
    "Plan": "planning",
    # whole runs, from files to a folder
    "RunConfig": "run_config",
    "read_config": "run_config",
    "run_measurement": "running",
    "RunFolder": "run_folder",
    "open_run": "run_folder",
    # the laws, on your own model
    "check_model": "checks",
    "prove_layout": "checks",
}
_MODULES = (
    "checks", "distributed", "errors", "fisher", "formula", "full_fisher", "geometry", "gradients", "kfac", "layout", "locate",
    "losses", "pattern_scores", "reference", "reproducibility", "statistics",
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
