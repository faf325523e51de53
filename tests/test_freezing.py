"""Freezing slices: it is exact, scores point the way they say, and arms are compared at equal progress."""

import functools

import numpy as np
import pytest
import torch

import qkov
from qkov import losses
from tests import builders
from validation import fine_tuning, freezing, freezing_scores, tasks, trained_gradients
from validation.fine_tuning import Curve

SCORES = freezing_scores.SCORES


@functools.cache
def model_of(family):
    return builders.build_model(family, dtype=torch.float32)


def token_ids(count, seed, width=9):
    return builders.build_batch([width] * count, seed=seed)["input_ids"]


def other_slices(config, frozen):
    return [one for one in fine_tuning.slices_of(config) if one not in frozen]


@pytest.mark.parametrize("optimiser", fine_tuning.OPTIMISERS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_frozen_slices_keep_their_bits_and_all_others_move(family, optimiser):
    model = model_of(family)
    config = qkov.QKOVConfig.from_model(model)
    frozen = fine_tuning.slices_of(config)[::3]
    names = fine_tuning.attention_weights(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = token_ids(6, seed=1).split(2)
    tuned, curve = fine_tuning.fine_tune(
        model, names, batches, optimiser=optimiser, rate=0.01, frozen=frozen, watched={"a": token_ids(2, 2)}, at=(0, 3)
    )
    after = tuned.state_dict()
    for one in frozen:
        assert torch.equal(after[one.param_name][one.index], before[one.param_name][one.index]), one
    for one in other_slices(config, frozen):
        assert not torch.equal(after[one.param_name][one.index], before[one.param_name][one.index]), one
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the given model changed"
        assert name in names or torch.equal(after[name], before[name]), name
    assert curve.steps == (0, 3)
    assert curve.losses["a"][0] == pytest.approx(mean_loss(model, token_ids(2, 2)), rel=1e-6)
    assert curve.losses["a"][1] != curve.losses["a"][0]


def mean_loss(model, ids):
    """Nats per token, by the model's own loss."""
    with torch.no_grad():
        return model(input_ids=ids, labels=ids).loss.item()


def runs_of(frozen, monkeypatch=None):
    """Fine-tune a small model with some slices frozen, as an arm does."""
    model = model_of("llama")
    config = qkov.QKOVConfig.from_model(model)
    watched = {"a": token_ids(2, 2), "b": token_ids(2, 3)}
    return freezing.train_arm(
        model, fine_tuning.attention_weights(config), fine_tuning.slices_of(config), {"a": 3.0, "b": 3.0}, watched,
        "SGD", "predicted", frozen, token_ids(4, 1).split(2), at=(2,),
    )  # fmt: skip


def test_an_inverted_mask_is_seen(monkeypatch):
    run = runs_of((0, 5, 6))
    assert (run.moved_frozen, run.still, run.curve.steps, run.curve.losses["a"][0]) == (0.0, 0, (0, 2), 3.0)
    whole = freezing.Run(freezing.EVERYTHING, (0,), Curve((0, 2), {"a": (1.0, 1.0)}), 0.0, 0)
    assert [row["status"] for row in freezing.exactness_rows([run, whole])] == ["passed"] * 3
    right = fine_tuning.frozen_masks
    monkeypatch.setattr(
        fine_tuning, "frozen_masks", lambda *given: {name: ~mask for name, mask in right(*given).items()}
    )
    wrong = runs_of((0, 5, 6))
    moved = freezing.Run(freezing.EVERYTHING, (0,), Curve((0, 2), {"a": (1.0, 1.1)}), 0.0, 0)
    assert wrong.moved_frozen > 0
    assert wrong.still == 32 - 3
    assert [row["status"] for row in freezing.exactness_rows([wrong, moved])] == ["failed"] * 3


@functools.cache
def gradients(sign_b=None):
    """Two tasks on a small model in float64; with a sign, B's loss is A's times it, on A's samples."""
    model = builders.build_model("llama")
    collector = qkov.FisherCollector()
    batch = builders.build_batch([6, 8, 5, 7], seed=1)
    collector.collect_fisher(model, batch, "a", progress=False)
    if sign_b is None:
        collector.collect_fisher(model, builders.build_batch([7, 4, 9], seed=2), "b", progress=False)
    else:
        collector.collect_fisher(model, batch, "b", loss_fn=SIGNED[sign_b], progress=False)
    return trained_gradients.Gradients("small", collector, {})


def same_loss(model, batch):
    return losses.causal_lm_loss(model, batch)


def negated_loss(model, batch):
    found, tokens = losses.causal_lm_loss(model, batch)
    return -found, tokens


SIGNED = {1: same_loss, -1: negated_loss}


def harms_of(sign_b, optimiser="SGD"):
    return freezing_scores.harms(gradients(sign_b), "a", "b", optimiser=optimiser, progress=1e-6)


@pytest.mark.parametrize("optimiser", ["SGD", "Adam"])
def test_scores_with_a_sign_freeze_conflict_first(optimiser, monkeypatch):
    conflict, help_ = harms_of(-1, optimiser), harms_of(1, optimiser)
    for name in ("predicted", "predicted per progress", "dot", "signed"):
        assert (conflict[name] > 0).all(), name
        assert (help_[name] < 0).all(), name
    assert torch.equal(conflict["helpful by prediction"], -conflict["predicted"])
    monkeypatch.setattr(freezing_scores, "CONFLICT_IS_NEGATIVE", ())
    assert (harms_of(-1)["dot"] < 0).all(), "the flipped sign was not seen"


def test_averages_are_those_of_the_heatmaps():
    found = gradients()
    harms = freezing_scores.harms(found, "a", "b", optimiser="SGD", progress=0.01)
    for name, (variant, pool) in freezing_scores.HEATMAPS.items():
        metric = qkov.QKOVInterferenceMetric(
            found.collector.config, found.collector, variant=variant, fisher_pool=pool, min_samples_for_fisher=1
        )
        heatmap = metric.compute_heatmap("a", "b", progress=False)
        expected = [
            heatmap.arrays[projection.block][:, :, layout.layer, unit].mean()
            for layout in found.collector.config.layers
            for projection in layout.projections
            for unit in range(projection.num_units)
        ]
        sign = -1 if name in freezing_scores.CONFLICT_IS_NEGATIVE else 1
        assert np.allclose(harms[name].numpy(), sign * np.array(expected), rtol=1e-9, atol=0), name


@pytest.mark.parametrize("optimiser", ["SGD", "Adam"])
def test_predictions_and_baselines_equal_loops(optimiser):
    found = gradients()
    progress = 0.02
    harms = freezing_scores.harms(found, "a", "b", optimiser=optimiser, progress=progress)
    tokens = np.mean([one.num_tokens for one in found.collector.samples("b")])
    slopes, curvatures, gains = [], [], []
    for place, (grads_a, grads_b) in enumerate(found.by_slice("a", "b")):
        slope = curvature = gain = norm = fisher = 0.0
        for k in range(grads_a.shape[1]):
            mean_a, mean_b = (sum(grad[:, k].tolist()) / len(grad) for grad in (grads_a, grads_b))
            fisher_a, fisher_b = (sum(x * x for x in grad[:, k].tolist()) / len(grad) for grad in (grads_a, grads_b))
            step = mean_b if optimiser == "SGD" else mean_b / fisher_b**0.5
            slope, curvature, gain = slope + mean_a * step, curvature + fisher_a * step * step, gain + mean_b * step
            norm, fisher = norm + mean_b * mean_b, fisher + fisher_a
        slopes.append(slope)
        curvatures.append(curvature)
        gains.append(gain)
        assert harms["gradient of B"][place].item() == pytest.approx(norm**0.5, rel=1e-9)
        assert harms["Fisher of A"][place].item() == pytest.approx(fisher, rel=1e-9)
    eta = progress * tokens / sum(gains)
    expected = [-eta * one + eta**2 * two / 2 for one, two in zip(slopes, curvatures, strict=True)]
    # Adam's division is damped, by 1e-8 of the block's mean.
    assert harms["predicted"].tolist() == pytest.approx(expected, rel=1e-5)
    ratios = [one / gain for one, gain in zip(expected, gains, strict=True)]
    assert harms["predicted per progress"].tolist() == pytest.approx(ratios, rel=1e-5)
    assert tuple(harms) == SCORES


def test_arms_freeze_the_largest_harm():
    harm = torch.tensor([1.0, 5.0, -2.0, 5.0, 3.0])
    assert freezing.most_harmful(harm, 2) == (1, 3)
    assert freezing.most_harmful(harm, 3) == (1, 3, 4)
    harms = {name: torch.arange(80.0) * (-1) ** place for place, name in enumerate(SCORES)}
    arms = freezing.choose(harms, freezing.LONG, seed=1)
    assert list(arms) == [freezing.NONE, *SCORES, "random slices 1", "random slices 2", "random slices 3"]
    assert arms[SCORES[0]] == tuple(range(60, 80))
    assert arms[SCORES[1]] == tuple(range(20))
    assert {len(set(frozen)) for frozen in arms.values()} == {0, 20}
    assert len({arms[f"random slices {draw}"] for draw in (1, 2, 3)}) == 3
    assert arms == freezing.choose(harms, freezing.LONG, seed=1)
    assert arms["random slices 1"] != freezing.choose(harms, freezing.LONG, seed=2)["random slices 1"]


def test_equal_progress_is_interpolated_where_b_first_gets_there():
    curve = Curve((0, 2, 4, 8), {"a": (1.0, 1.2, 1.1, 2.0), "b": (3.0, 2.8, 2.4, 2.9)})
    assert freezing.at_progress(curve, 0.4) == pytest.approx((0.15, 3.0))
    assert freezing.at_progress(curve, 0.1) == pytest.approx((0.1, 1.0))
    assert freezing.at_progress(curve, 0.6) == pytest.approx((0.1, 4.0))
    assert freezing.at_progress(curve, 0.7) is None


def a_run(arm, speed, frozen=()):
    """A run on one path of (loss of A, loss of B), at some speed along it."""
    steps = (0, 1, 2, 3)
    along = [min(1.0, speed * step / 3) for step in steps]
    path = {"a": tuple(2.0 + 0.9 * x for x in along), "b": tuple(3.0 - 0.012 * x for x in along)}
    return freezing.Run(arm, frozen, Curve(steps, path), 0.0, 0)


def test_an_arm_that_only_learns_more_slowly_forgets_no_less(monkeypatch):
    def rows():
        runs = [[a_run(freezing.NONE, 1.0), a_run("dot", 0.5, (1, 2)), a_run("predicted", 1.0, (2, 3)),
                 a_run("random slices 1", 0.9, (4, 5)), a_run("random slices 2", 0.7, (5, 6))]] * 2  # fmt: skip
        return {row["procedure"]: row for row in freezing.arm_rows("freezing", ("arithmetic", "code"), "SGD", runs)}

    fair = rows()
    assert list(fair) == [freezing.NONE, "dot", "predicted", freezing.RANDOM]
    assert fair["dot"]["value"] == pytest.approx(0.3)
    assert fair["dot"]["against_none"] == pytest.approx([0, 0, 0], abs=1e-9)
    assert fair["dot"]["steps"] == pytest.approx([2, 2, 2])
    assert (fair["dot"]["shared"], fair["predicted"]["shared"]) == (0.5, 1.0)
    assert (fair[freezing.NONE]["against_random"], fair[freezing.RANDOM]["against_random"]) == ([0, 0, 0], None)
    assert fair["dot"]["data"] == "arithmetic kept, code learned, SGD"
    # At equal steps the slow arm would look as if it kept A.
    monkeypatch.setattr(
        freezing, "at_progress", lambda curve, progress: (curve.losses["a"][1] - curve.losses["a"][0], 1.0)
    )
    assert rows()["dot"]["against_none"][0] == pytest.approx(-0.15)


def test_an_arm_that_does_not_get_there_is_named():
    there = [a_run(freezing.NONE, 1.0), a_run("dot", 1.0), a_run("random slices 1", 1.0)]
    late = [a_run(freezing.NONE, 1.0), a_run("dot", 0.2), a_run("random slices 1", 0.2)]
    first = {
        row["procedure"]: row for row in freezing.arm_rows("freezing", ("arithmetic", "code"), "SGD", [there, late])
    }
    assert (first["dot"]["sets"], first["dot"]["not_reached"]) == (1, 1)
    assert first["dot"]["against_random"] is None, "one seed has no interval"
    none, dot, _ = freezing.arm_rows("freezing", ("arithmetic", "code"), "SGD", [late, late])
    assert none["against_random"] is None
    assert (dot["study"], dot["sets"], dot["not_reached"]) == ("freezing, not made", 2, 2)
    assert dot["value"] == pytest.approx(0.012 * 0.2)
    half = freezing.arm_rows("freezing, half the progress", ("arithmetic", "code"), "SGD", [late, late])[1]
    assert (half["study"], half["sets"]) == ("freezing, half the progress", 2)
    assert half["value"] == pytest.approx(0.15)


def test_intervals_are_of_student():
    mean, low, high = freezing.mean_interval([1.0, 2.0, 4.0])
    half = 4.302652729911275 * np.std([1, 2, 4], ddof=1) / 3**0.5
    assert (mean, low, high) == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half))
    assert freezing.mean_interval([2.0]) == (2.0, 2.0, 2.0)


def test_capitals_are_the_same_texts_of_code_in_capitals():
    small, large = (fine_tuning.draw(task, 3, split="held_out", seed=5) for task in ("code", "capitals"))
    assert large.texts == tuple(text.upper() for text in small.texts) != small.texts
    assert (large.clusters, large.task) == (small.clusters, "capitals")
    assert fine_tuning.as_ids(large).shape == (3, fine_tuning.LENGTH)


def test_a_small_study_makes_rows_of_every_arm():
    length = freezing.Length(
        (1,), (("arithmetic", "capitals"),), ("SGD", "Adam"), ("predicted", "dot"), 2, 3, 2, (1, 2)
    )
    model = builders.build_model(
        "llama", dtype=torch.float32, vocab_size=tasks.VOCAB_SIZE, max_position_embeddings=fine_tuning.LENGTH
    )
    results = {part: freezing.measure_model(model, *part, length) for part in freezing.work(length)}
    rows = freezing.rows(results, length)
    assert [row["status"] for row in rows] == ["passed"] * len(rows)
    assert [row["value"] for row in rows[:3]] == [0.0] * 3
    assert len(rows) == 3 + 2 * 2 * 4
    assert all(row["at"] == [0, 1, 2] and len(row["curve_a"]) == 3 for row in rows[3:])
    assert rows[3]["curve_b"][0] == pytest.approx(np.log(tasks.VOCAB_SIZE), rel=0.5)
