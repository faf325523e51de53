"""What is warned of where scores are made, when, in which words, and at which line."""

import linecache
import types
import warnings

import numpy as np
import pytest
import torch

import qkov
from qkov import errors, gradients, losses, samples, score_warnings
from qkov.errors import DampingWarning, EmptyTaskWarning, FewSamplesWarning
from tests.builders import build_batch, build_model
from tests.scored_tasks import LENGTHS_A, LENGTHS_B, metric_of, score, two_tasks


def before_mutants():
    """Make what tests share, and warnings have no part in, before mutants are judged one by one."""
    two_tasks("llama")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, {"a"}),
        ({"fisher_pool": "B"}, {"b"}),
        ({"fisher_pool": "pooled"}, {"a", "b"}),
        ({"variant": "natural"}, {"a", "b"}),
        ({"variant": "dot"}, set()),
    ],
)
def test_fisher_of_few_samples_warns_of_the_tasks_that_it_comes_from(options, named):
    collector, _ = two_tasks("llama")
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, **options)
    for call in (
        lambda: metric.compute_heatmap("a", "b", progress=False),
        lambda: metric.compute_sample_pair("a", "p", "b", 10, 0, 0),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert {one.category for one in caught} <= {FewSamplesWarning}
        assert {task for one in caught for task in "ab" if f"task {task!r}" in str(one.message)} == named
        assert len(caught) == len(named)
        assert all(one.filename == __file__ for one in caught)  # points at the caller's line


def test_enough_samples_do_not_warn():
    collector, _ = two_tasks("llama")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        score(collector, min_samples_for_fisher=3)  # as many as task A has
    assert caught == []
    with pytest.warns(FewSamplesWarning):
        score(collector, min_samples_for_fisher=4)


def caught_by(call):
    """Warnings of a call as (class, text, whether they point at a line of this file that computes)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    lines = [linecache.getline(one.filename, one.lineno) if one.filename == __file__ else "" for one in caught]
    return [(one.category, str(one.message), ".compute_" in line) for one, line in zip(caught, lines, strict=True)]


def test_warnings_say_what_to_do_and_point_at_the_line_that_asked():
    collector, _ = two_tasks("llama")
    few = qkov.QKOVInterferenceMetric(collector.config, collector, variant="signed", min_samples_for_fisher=4)
    assert caught_by(lambda: few.compute_heatmap("a", "b", progress=False)) == [
        (
            FewSamplesWarning,
            "the Fisher of task 'a' rests on 3 samples; min_samples_for_fisher is 4. Scores of few samples are noisy: collect "
            "more, or lower the limit.",
            True,
        )
    ]
    assert caught_by(lambda: metric_of(collector).compute_heatmap("a", "c", progress=False)) == [
        (
            EmptyTaskWarning,
            "task B, 'c', has no samples; averages are 0 and the result is not valid. Collect it, or "
            "correct its name; known tasks: 'a', 'b'.",
            True,
        )
    ]
    damped = metric_of(collector, ridge_lambda=1e6)
    assert caught_by(lambda: damped.compute_heatmap("a", "b", progress=False)) == [
        (
            DampingWarning,
            "damping outweighs the median Fisher value in 100% of the slices, so scores there are hardly normalised. Leave "
            "epsilon and ridge_lambda unset for relative damping, or rescale the loss.",
            True,
        )
    ]
    ridge = metric_of(collector, variant="full", ridge_lambda=1e9)
    assert caught_by(lambda: ridge.compute_heatmap("a", "b", progress=False)) == [
        (
            DampingWarning,
            "damping outweighs the largest eigenvalue of the Fisher matrix in 100% of the slices, so scores there are inner "
            "products over a constant. Leave ridge_lambda unset for relative damping, or lower it.",
            True,
        )
    ]


def test_warnings_point_to_the_line_that_asked():
    metric = metric_of(two_tasks("llama")[0], min_samples_for_fisher=100, epsilon=1e9)
    for ask in (
        lambda: metric.compute_heatmap("a", "b", progress=False),
        lambda: metric.compute_heatmap("a", "none", progress=False),
        lambda: metric.compute_heatmaps("a", "b", variants=["signed"], progress=False),
        lambda: metric.compute_summary("a", "b", progress=False),
        lambda: metric.compute_summary("a", "none", progress=False),
        lambda: metric.compute_sample_pair("a", "p", "b", 10, 0, 0),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ask()
        assert caught
        assert {one.filename for one in caught} == {__file__}


def judged(variant, **health):
    """Whether a result warns of its damping, from health that is the same in every block."""
    arrays = {name: np.array(values, float) for name, values in health.items()}
    result = types.SimpleNamespace(attributes={"variant": variant}, health=dict.fromkeys("QKVO", arrays))
    return len(caught_by(lambda: score_warnings.warn_if_damped(result)))


def test_damping_is_told_of_where_it_outweighs_most_live_slices():
    assert judged("unsigned", fisher_over_damped=[0.4, 0.4, 0.6], fisher_max=[1, 1, 1]) == 1
    assert judged("unsigned", fisher_over_damped=[0.4, 0.6], fisher_max=[1, 1]) == 0  # half are not most
    assert judged("unsigned", fisher_over_damped=[0.5, 0.5], fisher_max=[1, 1]) == 0  # as much is not more
    assert (
        judged("unsigned", fisher_over_damped=[0.0, 0.0, 0.6], fisher_max=[0, 0, 1e-9]) == 0
    )  # dead ones do not count
    assert judged("unsigned", fisher_over_damped=[0.1], fisher_max=[0]) == 0
    assert judged("dot", fisher_over_damped=[0.4, 0.4, 0.6], fisher_max=[1, 1, 1]) == 0


@pytest.mark.parametrize("variant", ["full", "kfac"])
def test_a_ridge_is_told_of_where_it_outweighs_most_live_matrices(variant):
    assert judged(variant, damping=[2, 2, 0.5], fisher_max=[1, 1, 1]) == 1
    assert judged(variant, damping=[2, 0.5], fisher_max=[1, 1]) == 0
    assert judged(variant, damping=[1, 1], fisher_max=[1, 1]) == 0
    assert judged(variant, damping=[2, 2, 0.5], fisher_max=[0, 0, 1]) == 0
    assert judged(variant, damping=[2, 2, 2e-9], fisher_max=[0, 0, 1e-9]) == 1
    assert judged(variant, damping=[2, 2], fisher_max=[0, 0]) == 0


def test_damping_that_dominates_warns():
    with pytest.warns(DampingWarning, match="damping outweighs the median Fisher value in 100% of the slices"):
        score(two_tasks("llama")[0], ridge_lambda=1e6)


def test_dot_has_no_fisher_to_be_damped():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        damped = score(two_tasks("llama")[0], variant="dot", ridge_lambda=1e6)
    assert caught == []
    plain = score(two_tasks("llama")[0], variant="dot")
    assert all(np.array_equal(damped.arrays[block], plain.arrays[block]) for block in plain.arrays)


def rescaled(factor, dtype):
    """Two tasks whose loss is scaled by a factor."""

    def scaled(model, batch):
        found, tokens = losses.causal_lm_loss(model, batch)
        return found * factor, tokens

    collector, model = qkov.FisherCollector(), build_model("llama", dtype=dtype)
    for task, lengths in (("a", LENGTHS_A), ("b", LENGTHS_B)):
        collector.collect_fisher(model, build_batch(lengths), task, loss_fn=scaled, progress=False)
    return collector


def test_squares_that_underflow_are_told():
    with pytest.warns(errors.UnderflowWarning, match=r"underflow to 0 in layers 0, 1.*Scale the loss up"):
        found = score(rescaled(2.0**-90, torch.float32))
    assert not any(found.arrays[block].any() for block in "QKVO")
    metric = metric_of(rescaled(2.0**-90, torch.float32))
    assert [(one, at) for one, _, at in caught_by(lambda: metric.compute_heatmap("a", "b", progress=False))] == [
        (errors.UnderflowWarning, True)
    ]


def test_a_gradient_needs_inputs_and_deltas_in_one_place():
    layout = two_tasks("llama")[0].config.layers[0]
    nothing, something = torch.zeros(2, 3), torch.ones(2, 3)
    for inputs, deltas, expected in (
        (something, something, True), (something, nothing, False), (nothing, something, False), (nothing, nothing, False),
    ):  # fmt: skip
        pair = gradients.Factors(inputs, deltas)
        member = samples.Sample(0, None, 1, "", {one.module_name: pair for one in layout.projections})
        assert score_warnings._has_gradient(layout, [member]) is expected


@pytest.mark.parametrize(
    ("factor", "dtype", "variant"),
    [
        (2.0**-90, torch.float64, "unsigned"), (2.0**-90, torch.float32, "dot"), (1.0, torch.float32, "unsigned"),
        (0.0, torch.float32, "unsigned"),
    ],
)  # fmt: skip
def test_nothing_is_told_where_nothing_underflows(factor, dtype, variant):
    metric, found = metric_of(rescaled(factor, dtype), variant=variant), []
    assert caught_by(lambda: found.append(metric.compute_heatmap("a", "b", progress=False))) == []
    # Plain products of such gradients do underflow, and say nothing: no F is formed.
    assert any(found[0].arrays[block].any() for block in "QKVO") == (factor != 0 and variant != "dot")


def test_seeds_constants_switch_the_normalisation_off_at_small_gradients():
    """With ridge 1e-8 gradients of 1e-4 lose half of it; relative damping does not notice the scale."""
    small = rescaled(2.0**-20, 2.0**-20)
    with pytest.warns(DampingWarning):
        score(small, epsilon=1e-10, ridge_lambda=1e-8)
    score(small)
