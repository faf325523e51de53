"""The words of option types are those that functions check against."""

import typing

import pytest

from qkov import (
    conflict_advice,
    fisher,
    formula,
    geometry,
    importance,
    merging,
    natural_gradient,
    natural_gram,
    non_finite,
    option_types,
    planning,
    prediction,
    pruning,
    score_options,
    shards,
    step,
)
from qkov.statistics import head_result, multiplicity

WORDS = {
    "Block": geometry.BLOCKS,
    "Variant": formula.VARIANTS + formula.MATRIX_VARIANTS,
    "FisherPool": formula.FISHER_POOLS,
    "FisherSource": fisher.FISHER_SOURCES,
    "Aggregate": formula.AGGREGATES,
    "ContributionNormalisation": formula.NORMALISATIONS,
    "GradNormalisation": formula.GRAD_NORMALISATIONS,
    "Tiling": score_options.TILINGS,
    "NonFinite": non_finite.CHOICES,
    "StoreForm": shards.FORMS,
    "StoreDtype": tuple(shards.STORED_DTYPES),
    "GroupFisherMode": ("ema", "welford"),
    "Alternative": head_result.ALTERNATIVES,
    "Adjustment": multiplicity.METHODS,
    "Optimiser": step.OPTIMISERS,
    "Curvature": step.CURVATURES,
    "PredictionEstimand": prediction.ESTIMANDS,
    "ScalingMethod": tuple(natural_gradient.METHODS),
    "ScalingAverage": natural_gradient.AVERAGES,
    "ConflictGroups": natural_gram.LEVELS,
    "ConflictMetric": natural_gram.METRICS,
    "AdviceMethod": conflict_advice.METHODS,
    "ImportanceNormalisation": importance.NORMALISATIONS,
    "Saliency": importance.SALIENCIES,
    "ImportanceLevel": importance.LEVELS,
    "RankBy": ("sum", "mean"),
    "Structure": pruning.STRUCTURES,
    "Scope": pruning.SCOPES,
    "Rule": pruning.RULES,
    "Keep": pruning.KEEP,
    "FisherScale": merging.FISHER_SCALES,
    "PlanKeep": planning.KEPT,
    "PlanTiming": planning.TIMINGS,
}


@pytest.mark.parametrize("name", WORDS)
def test_words_are_those_that_are_checked(name):
    assert typing.get_args(getattr(option_types, name)) == WORDS[name]


def test_every_type_of_words_is_compared():
    literals = {name for name, value in vars(option_types).items() if typing.get_origin(value) is typing.Literal}
    assert literals == set(WORDS)
