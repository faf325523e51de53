"""The study of predictions: what it draws, moves, compares and calls kept."""

import json

import numpy as np
import pytest
import torch

import qkov
from tests import builders
from validation import (
    interventions,
    planted_conflicts,
    prediction_evidence,
    prediction_scores,
    prediction_study,
    prediction_tasks,
)

# Tasks


@pytest.mark.parametrize("name", ["arithmetic", "code", "prose in capitals", "random bytes"])
def test_collected_and_held_out_samples_share_nothing(name):
    (texts, clusters), (held, held_clusters) = prediction_tasks.draw(name, 12, seed=3)
    assert len(texts) == len(held) == 12
    assert not set(texts) & set(held)
    if clusters is not None:
        assert not set(clusters) & set(held_clusters)
    if name.endswith("capitals"):
        assert all(text == text.upper() for text in texts)
    assert prediction_tasks.draw(name, 12, seed=3)[0][0] == texts
    assert prediction_tasks.draw(name, 12, seed=4)[0][0] != texts


def test_to_unlearn_turns_the_gradient_round(tiny):
    plain, unlearned = qkov.FisherCollector(), qkov.FisherCollector()
    plain.collect_fisher(tiny.model, tiny.batches["b"], "a", progress=False)
    unlearned.collect_fisher(tiny.model, tiny.batches["b"], "a", loss_fn=prediction_tasks.negated_loss, progress=False)
    for _, one, other in _walk(plain, unlearned):
        np.testing.assert_array_equal(one, -other)


# A cell, on a tiny random model


@pytest.fixture(scope="module")
def tiny():
    model = builders.build_model("llama", dtype=torch.float32)
    batches = {
        name: builders.build_batch((6, 8, 7, 5, 8, 6), seed=seed) for seed, name in enumerate(("a", "b", "held"))
    }
    collector = qkov.FisherCollector(contribution_normalisation="none")
    for name in "ab":
        clusters = [f"{name}{row}" for row in range(6)]
        collector.collect_fisher(model, batches[name], name, clusters=clusters, progress=False)
    drawn = qkov.losses.sample_labels(model, batches["a"], seed=0)
    collector.collect_fisher(model, drawn, prediction_tasks.LABELS, progress=False)
    loss_b = prediction_tasks.mean_loss(model, batches["b"])
    return prediction_tasks.PairData(model, collector, batches["held"], None, loss_b, batches)


@pytest.fixture(scope="module")
def facts(tiny):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction_tasks, "collect", lambda *_args, **_options: tiny)
        cell = prediction_study.Cell("conflict", "llama", 0, 6, {"sgd": (0.001, 0.03)}, num_steps=2, points=True)
        return prediction_study.measure(cell)


def test_every_score_is_compared(facts):
    ranked = {fact["procedure"] for fact in facts if fact["study"] == "rank"}
    assert ranked == {*prediction_scores.STATIC, *prediction_scores.PREDICTED}
    assert {*prediction_scores.VARIANTS, "predicted"} < {
        fact["procedure"] for fact in facts if fact["study"] == "pairs"
    }
    json.dumps(facts, allow_nan=False)


def test_the_seeds_average_ranks_as_bs_norm_does(facts):
    found = {fact["procedure"]: fact["value"] for fact in facts if fact["study"] == "rank" and "0.001" in fact["where"]}
    assert found["seeds' average (unsigned, pool A)"] == pytest.approx(found["norm of B's gradient"])


def test_small_steps_of_single_samples_do_what_was_predicted(facts):
    found = {
        fact["procedure"]: fact["value"] for fact in facts if fact["study"] == "pairs" and "together" in fact["where"]
    }
    assert found["predicted"] > 0.95
    assert found["predicted"] > found["seeds' average (unsigned, pool A)"] + 0.2


def test_predicted_scores_are_the_products(tiny):
    whole = {"optimiser": "adam", "step_size": 0.05, "progress": False}
    diagonal, drawn = (
        qkov.predict_change(tiny.collector, "a", "b", optimiser="adam", step_size=1.0, progress=False, **options)
        for options in ({}, {"curvature": "gradient", "curvature_task": prediction_tasks.LABELS})
    )
    found = prediction_study.predicted_scores(diagonal, drawn, 0.05)
    for name, options in zip(
        prediction_scores.PREDICTED,
        (
            {},
            {"curvature": "none"},
            {"curvature": "gradient"},
            {"curvature": "gradient", "curvature_task": prediction_tasks.LABELS},
        ),
        strict=True,
    ):
        expected = qkov.predict_change(tiny.collector, "a", "b", **whole, **options).change
        np.testing.assert_allclose(found[name].mean(0), expected, rtol=1e-9, atol=1e-12)


def test_real_changes_are_of_the_step_that_was_predicted(tiny):
    watched = interventions.watch(tiny.model, tiny.batches["a"])
    for optimiser in ("sgd", "adam", "sign"):
        found = qkov.predict_change(
            tiny.collector, "a", "b", optimiser=optimiser, step_size=1e-4, curvature="none", progress=False
        )
        real = prediction_study.real_changes(watched, tiny.collector, optimiser, 1e-4).mean(0)
        # float32 losses of some 20 nats: rounding is about 1e-6 beside changes of 1e-4.
        np.testing.assert_allclose(real, found.change, rtol=0.1, atol=2e-5)
        assert np.abs(real).max() > 1e-4


def test_scores_are_higher_where_b_hurts(tiny):
    # B's own loss on A's place: a step on B helps B, so every signed score of B against itself must be negative.
    collector = qkov.FisherCollector(contribution_normalisation="none")
    for name in "ab":
        clusters = [f"{name}{row}" for row in range(6)]
        collector.collect_fisher(tiny.model, tiny.batches["b"], name, clusters=clusters, progress=False)
    data = prediction_tasks.PairData(tiny.model, collector, {}, None, 0.0, {})
    scores = prediction_scores.static_scores(data, prediction_scores.pair_scores(data))
    for name in ("signed, pooled", "dot", "full, pooled", "kfac, pooled", "cosine"):
        assert (scores[name].mean(0) < 0).all(), name


# Planted conflicts


def test_only_planted_heads_are_asked_to_unlearn(tiny):
    config = qkov.QKOVConfig.from_model(tiny.model)
    chosen = {0: [1], 1: []}
    collector = qkov.FisherCollector()
    loss = planted_conflicts.unlearning_loss(config, chosen)
    collector.collect_fisher(tiny.model, tiny.batches["a"], "a", loss_fn=loss, progress=False)
    plain = qkov.FisherCollector()
    plain.collect_fisher(tiny.model, tiny.batches["a"], "a", progress=False)
    for label, cut, whole in _walk(collector, plain):
        if label[1].block == "O":
            continue
        if planted_conflicts.is_planted(chosen, *label):
            # What is left of the gradient is the way through layer 1's residual stream, turned round.
            assert ((cut * whole).sum(1) < 0).mean() > 0.5
            assert cut.any()
        else:
            assert not cut.any()


def _walk(first, second):
    for (label, one, _), (_, other, _) in zip(
        prediction_scores.gradients(first, task_b="a"), prediction_scores.gradients(second, task_b="a"), strict=True
    ):
        yield label, one, other


def test_precision_counts_what_was_planted():
    planted = np.array([True, False, True, False, False])
    assert planted_conflicts.found_among(np.array([5.0, 4, 3, 2, 1]), planted) == (0.5, pytest.approx((1 + 2 / 3) / 2))
    assert planted_conflicts.found_among(np.array([5.0, 1, 4, 2, 1]), planted) == (1.0, 1.0)
    # The wrong way round finds the others.
    assert planted_conflicts.found_among(-np.array([5.0, 1, 4, 2, 1]), planted)[0] == 0.0


def test_planting_takes_a_quarter_of_the_kv_heads(tiny):
    chosen = planted_conflicts.plant(qkov.QKOVConfig.from_model(tiny.model), 0)
    assert sum(map(len, chosen.values())) == 1  # of 2 layers x 2 kv heads
    assert chosen == planted_conflicts.plant(qkov.QKOVConfig.from_model(tiny.model), 0)


# Rows


def fact(value, error=0.0, **changes):
    given = {
        "study": "rank",
        "procedure": "predicted",
        "pair": "conflict",
        "family": "llama",
        "where": "sgd, size 0.03",
    }
    return given | {"value": value, "error": error} | changes


def test_rows_average_seeds_and_hold_bounds():
    (row,) = prediction_evidence.rows_of([fact(0.96, 0.01), fact(0.98, 0.03)])
    assert (row["value"], row["sets"], row["status"], row["bound"]) == (pytest.approx(0.97), 2, "passed", 0.95)
    half = 1.96 * ((0.0005 + 0.0002) / 2) ** 0.5
    assert row["low"] == pytest.approx(0.97 - half)
    assert row["high"] == 1.0  # no rank correlation is higher
    (row,) = prediction_evidence.rows_of([fact(0.90)])
    assert row["status"] == "failed"


def test_a_slope_has_a_bound_on_either_side():
    found = prediction_evidence.rows_of([fact(1.2, study="slope")])
    assert [(row["direction"], row["status"]) for row in found] == [("at least", "passed"), ("at most", "failed")]


@pytest.mark.parametrize(
    "changes",
    [{"procedure": "dot"}, {"pair": "unrelated"}, {"where": "sgd, size 0.1"}, {"study": "rank in a block"}],
)
def test_nothing_else_has_a_bound(changes):
    (row,) = prediction_evidence.rows_of([fact(0.1, **changes)])
    assert (row["bound"], row["status"]) == (None, "passed")


def test_pairs_are_bounded_too():
    (row,) = prediction_evidence.rows_of([fact(0.8, study="pairs", where="sgd, size 0.03, mean over slices")])
    assert (row["bound"], row["status"]) == (0.85, "failed")


def test_every_bounded_question_is_asked_by_some_cell():
    found = prediction_evidence.cells()
    bounded = [cell for cell in found if cell.pair in prediction_tasks.BOUNDED and cell.family == "llama"]
    assert {cell.seed for cell in bounded} == set(range(5))
    assert all(cell.num_samples == 200 for cell in bounded)
    assert {cell.pair for cell in bounded if cell.num_steps} == {"conflict", "help"}
    assert {cell.pair for cell in found} == set(prediction_tasks.PAIRS)
