"""What the appendix prints: its tables, made by the functions that make those of the book, and its numbers."""

import importlib
from dataclasses import dataclass

import numpy as np

from validation import decisions, reference_models

from .. import (
    determinism_tables,
    evidence,
    fault_tables,
    independent_tables,
    prediction_tables,
    statistics_tables,
    tables,
)


@dataclass(frozen=True)
class Table:
    """One table, or several with headings.

    Attributes:
        made_by: Dotted name of the function below `reports`, or of the value it shows.
        make: From evidence and manifest to the text of the book.
        caption: LaTeX; the heading of one of several follows it.
    """

    made_by: str
    make: object
    caption: str


def of_evidence(function, caption):
    """A table that a function makes of the evidence alone."""
    return Table(f"{function.__module__}.{function.__name__}", lambda found, _manifest: function(found), caption)


def of_rates(name, caption):
    """A table of the calibration."""
    studies = statistics_tables.TABLES[name]
    return Table(
        "reports.statistics_tables.rates_table",
        lambda found, _manifest: statistics_tables.rates_table(found, studies), caption,
    )  # fmt: skip


def provenance_table(_found, manifest):
    """Commit, versions and machine of the validation; lists of models and seconds are in the manifest itself."""
    names = ("commit", "constraints_sha256", "data_fingerprint", "environment")
    shown = {name: manifest[name] for name in names if name in manifest}
    return tables.table(["property", "value"], tables.flatten(shown))


def reference_models_table(_found, _manifest):
    """Class and sizes of the models whose weights follow from integers."""
    ids = {"vocab_size": reference_models.VOCAB_SIZE}
    rows = [
        [name, model_class, ", ".join(f"{key} = {value}" for key, value in (ids | sizes).items() if "drop" not in key)]
        for name, (model_class, sizes) in reference_models._SIZES.items()
    ]
    return tables.table(["model", "class", "sizes"], rows)


def reference_clusters_table(_found, _manifest):
    """The cluster of each sample in the committed file of gradients."""
    rows = [[task, ", ".join(map(str, codes))] for task, codes in decisions.LABELS.items()]
    return tables.table(["task", "cluster of each sample"], rows)


TABLES = {
    "reference_models": Table("validation.reference_models", reference_models_table, "The reference models"),
    "reference_clusters": Table("validation.decisions.LABELS", reference_clusters_table,
                                "Clusters of the samples in \\texttt{gradients.safetensors}"),
    "independent": of_evidence(independent_tables.independent_table,
                               "Reproduced by a program that was written from this text and uses nothing of the package"),
    "misreadings": of_evidence(independent_tables.misreadings_table,
                               "Wrong readings of the text, planted in that program, and the comparisons that noticed them"),
    "laws": of_evidence(tables.laws_table, "The laws, and of each the error that is the largest share of its bound"),
    "models": of_evidence(tables.models_table, "The models"),
    "statistics_rates": of_rates("statistics_rates", r"Error rates under the null, at a nominal level of \N{alpha}"),
    "statistics_power": of_rates("statistics_power", "Power, false discoveries and decoys"),
    "statistics_coverage": of_rates("statistics_coverage", "Coverage of intervals"),
    "statistics_real": of_rates("statistics_real", "Null data made of real gradients"),
    "statistics_invalid": of_evidence(statistics_tables.invalid_table, "Procedures that must be seen failing"),
    "statistics_why": of_evidence(statistics_tables.why_table, "Why they fail"),
    "prediction_bounds": of_evidence(prediction_tables.bounds_table, "Predictions against real steps: what was promised"),
    "prediction_ranks": of_evidence(prediction_tables.ranks_table, "How each score ranks what real steps do (Spearman)"),
    "prediction_limits": of_evidence(prediction_tables.limits_table, "Step sizes at which the first order fails"),
    "determinism_tiers": of_evidence(determinism_tables.tiers_table, "Tiers of determinism"),
    "determinism_reference": of_evidence(determinism_tables.reference_table, "Committed values beside those of this run"),
    "faults": of_evidence(fault_tables.faults_table, "Planted faults"),
    "not_run": of_evidence(tables.not_run_table, "What did not run"),
    "provenance": Table("reports.appendix.contents.provenance_table", provenance_table, "Commit, versions and machine"),
}  # fmt: skip

CODE = {
    "ema_decay": "qkov.fisher.EMA_DECAY",
    "ridge_relative": "qkov.formula.RELATIVE_RIDGE",
    "ridge_matrix": "qkov.formula.MATRIX_RIDGE",
    "seed_epsilon": "qkov.formula.SEED_EPSILON",
    "seed_ridge": "qkov.formula.SEED_RIDGE_LAMBDA",
    "min_ridge": "qkov.full_fisher.MIN_RIDGE",
    "min_ridge_singular": "qkov.full_fisher.MIN_RIDGE_SINGULAR",
    "ridge_statistics": "qkov.statistics.slices.RELATIVE_RIDGE",
    "permutations": "qkov.statistics.relabelings.DEFAULT",
    "alpha": "qkov.statistics.relabelings.ALPHA",
    "ties": "qkov.statistics.multiplicity.TIES",
    "welch_floor": "qkov.statistics.source.FLOOR",
    "scale_draws": "qkov.statistics.exchange.SCALE_DRAWS",
    "bound_exact": "validation.reference_values.EXACT",
    "bound_single": "validation.reference_values.SINGLE",
    "decisions_seed": "validation.decisions.SEED",
    "decisions_permutations": "validation.decisions.PERMUTATIONS",
    "decisions_unplanted": "validation.decisions.UNPLANTED",
    "fault_margin": "reports.evidence.MARGIN",
    "infinite": "validation.suite.INFINITE",
}
"""Constants of the definitions, by where they are defined."""
EXPONENTS = {
    "tiny_exponent_double": ("numpy.finfo(numpy.float64).minexp", lambda: int(np.finfo(np.float64).minexp)),
    "grid_exponent": ("log2 of qkov.statistics.pair_forms.EXACT",
                      lambda: constant("qkov.statistics.pair_forms.EXACT").bit_length() - 1),
}  # fmt: skip
"""Constants of which the text gives the exponent of 2: where they are defined, and how it is found."""


def constant(path):
    """The value at a dotted name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def of_run(found, manifest):
    """Commit and versions, and two errors that the prose names."""
    marginal = [row for row in found["results"] if row["check"] == "marginal_identity" and row["error"] is not None]
    worst = max(marginal, key=tables.share_of_bound, default=None)
    predicted = [
        row for row in prediction_tables.rows_of(found, "rank", prediction_tables.FAMILY)
        if (row["procedure"], row["pair"], row["where"]) == ("predicted", "conflict", f"sgd, {prediction_tables.SMALL}")
    ]  # fmt: skip
    return {
        "marginal_error": tables.number(worst["error"]) if worst else "(not measured)",
        "marginal_bound": tables.number(worst["bound"]) if worst else "(not measured)",
        "pred_predicted_conflict": f"{predicted[0]['value']:.2f}" if predicted else "(not measured)",
        "commit_short": str(manifest.get("commit", "unknown"))[:12],
    }


def count_checks(found):
    """What `reports.evidence.count` says of checks and faults, from what it needs for these alone."""
    return evidence.count({name: found[name] for name in ("results", "faults", "not_run")})


MEASURED = {
    "reports.tables.substitutions": lambda found, _manifest: tables.substitutions(found, count_checks(found), ()),
    "reports.prediction_tables.prediction_numbers": lambda found, _manifest: prediction_tables.prediction_numbers(
        found
    ),
    "reports.independent_tables.independent_numbers": lambda found, _manifest: independent_tables.independent_numbers(
        found
    ),
    "reports.appendix.contents.of_run": of_run,
}
"""Numbers of the evidence by name, as the book has them in its prose: what makes them, by its dotted name."""
