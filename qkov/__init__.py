"""Measure where in a transformer's attention heads two tasks meet: the QK-OV interference metric.

Names are imported when first used, so that ``import qkov`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# isort: off
if TYPE_CHECKING:  # the same names for type checkers, which do not run __getattr__; a test keeps the two in step
    from . import (
        checks as checks,
        distributed as distributed,
        errors as errors,
        fisher as fisher,
        formula as formula,
        full_fisher as full_fisher,
        geometry as geometry,
        gradients as gradients,
        kfac as kfac,
        layout as layout,
        locate as locate,
        losses as losses,
        pattern_scores as pattern_scores,
        reference as reference,
        reproducibility as reproducibility,
        statistics as statistics,
    )
    from .checks import check_model as check_model, prove_layout as prove_layout
    from .collector import FisherCollector as FisherCollector
    from .conflicts import detect_conflicts as detect_conflicts
    from .diagonal import (
        FisherDiagonal as FisherDiagonal,
        collect_fisher_diagonal as collect_fisher_diagonal,
        load_fisher_diagonal as load_fisher_diagonal,
    )
    from .geometry import BlockHeadSlice as BlockHeadSlice
    from .head_scoring import score_head_types as score_head_types
    from .head_statistics import HeadStatistics as HeadStatistics, load_statistics as load_statistics
    from .head_tables import (
        export_head_table as export_head_table,
        head_table as head_table,
        load_head_table as load_head_table,
    )
    from .head_types import HeadTypes as HeadTypes, load_head_types as load_head_types
    from .heatmap import Heatmap as Heatmap, load_heatmap as load_heatmap
    from .importance import (
        FisherImportance as FisherImportance,
        compute_fisher_importance as compute_fisher_importance,
        load_fisher_importance as load_fisher_importance,
    )
    from .inference import QKOVStatistics as QKOVStatistics
    from .interference import QKOVInterferenceMetric as QKOVInterferenceMetric
    from .layout import QKOVConfig as QKOVConfig, QKOVIndexer as QKOVIndexer
    from .locate import register_layout as register_layout
    from .merging import merge_weights as merge_weights
    from .natural_gradient import ScaledGradients as ScaledGradients, scale_by_fisher as scale_by_fisher
    from .overlap import (
        MaskOverlap as MaskOverlap,
        compute_fisher_overlap as compute_fisher_overlap,
        load_mask_overlap as load_mask_overlap,
    )
    from .pair_prediction import predict_pairs as predict_pairs
    from .pair_summary import PairSummary as PairSummary, load_pair_summary as load_pair_summary
    from .planning import Plan as Plan, plan as plan
    from .prediction import predict_change as predict_change
    from .prediction_result import Prediction as Prediction, load_prediction as load_prediction
    from .pruning import (
        PruningMasks as PruningMasks,
        apply_masks as apply_masks,
        get_fisher_pruning_masks as get_fisher_pruning_masks,
        load_pruning_masks as load_pruning_masks,
    )
    from .store_merging import merge_stores as merge_stores
    from .comparison import compare_runs as compare_runs, Comparison as Comparison
    from .run_config import RunConfig as RunConfig, read_config as read_config
    from .running import run_measurement as run_measurement
    from .run_folder import RunFolder as RunFolder, open_run as open_run
    from .report import make_report as make_report, write_report as write_report
    from .sample_conflicts import SampleConflicts as SampleConflicts, load_conflicts as load_conflicts
    from .top_pairs import (
        TopPairs as TopPairs,
        describe_top_pairs as describe_top_pairs,
        load_top_pairs as load_top_pairs,
        split_labels as split_labels,
    )
# isort: on

__version__ = "0.1.0"

_HOME = {
    # layout
    "QKOVConfig": "layout",
    "QKOVIndexer": "layout",
    "BlockHeadSlice": "geometry",
    "register_layout": "locate",
    # collection
    "FisherCollector": "collector",
    "merge_stores": "store_merging",
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
    # results as one page
    "make_report": "report",
    "write_report": "report",
    # the laws, on your own model
    "check_model": "checks",
    "prove_layout": "checks",
}
_MODULES = (
    "checks", "distributed", "errors", "fisher", "formula", "full_fisher", "geometry", "gradients", "kfac", "layout", "locate",
    "losses", "pattern_scores", "reference", "reproducibility", "statistics",
)  # fmt: skip

__all__ = ["__version__", *_HOME]


if not TYPE_CHECKING:  # so that type checkers refuse names that do not exist

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(import_module(f".{_HOME[name]}", __name__), name)
        if name in _MODULES:
            return import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
