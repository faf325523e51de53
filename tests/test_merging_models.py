"""Merging two experts: the weights mean what they say, and the best one is judged where it was not chosen."""

import functools

import numpy as np
import pytest
import torch

import qkov
from tests import builders
from validation import fine_tuning, merging_models, tasks
from validation.merging_models import PLAIN, Losses

PAIR = ("arithmetic", "capitals")
SMALL = merging_models.Length((1,), (PAIR,), (0.2, 0.5, 0.8), 2, 3, 6)


@functools.cache
def start():
    return builders.build_model(
        "llama", dtype=torch.float32, vocab_size=tasks.VOCAB_SIZE, max_position_embeddings=fine_tuning.LENGTH
    )


@functools.cache
def experts():
    made = {task: merging_models.expert(start(), task, 1, SMALL) for task in PAIR}
    states = {task: one.state_dict() for task, (one, _) in made.items()}
    return states, {task: fisher for task, (_, fisher) in made.items()}


def test_experts_move_attention_and_feed_forward_weights_only():
    states, fishers = experts()
    moved = {name for name, value in start().state_dict().items() if not torch.equal(value, states["capitals"][name])}
    assert moved == set(fishers["capitals"].values)
    assert {name.split(".")[3] for name in moved} == {"self_attn", "mlp"}
    assert fishers["capitals"].num_samples == 3
    assert not torch.equal(states["capitals"]["model.layers.0.mlp.up_proj.weight"],
                           states["arithmetic"]["model.layers.0.mlp.up_proj.weight"])  # fmt: skip


def test_the_fisher_is_the_experts_own():
    states, fishers = experts()
    again = merging_models.with_weights(start(), states["capitals"])
    seen = fine_tuning.as_ids(fine_tuning.draw("capitals", 3, split="train", seed=112))
    expected = qkov.collect_fisher_diagonal(again, {"input_ids": seen}, "capitals", progress=False)
    assert expected.identical(fishers["capitals"])


@pytest.mark.parametrize("weight", [0.25, 0.5, 0.9])
def test_the_weight_is_that_of_the_second_model(weight):
    states, fishers = experts()
    name = "model.layers.1.self_attn.k_proj.weight"
    first, second = (states[task][name].double() for task in PAIR)
    plain = merging_models.merge(states, fishers, PAIR, weight, None)[name].double()
    assert torch.allclose(plain, (1 - weight) * first + weight * second, rtol=1e-6, atol=1e-8)
    f_a, f_b = (fishers[task].values[name].double() for task in PAIR)
    strength = (1 - weight) * f_a + weight * f_b
    damping = 1e-8 * strength.mean()
    expected = ((1 - weight) * (f_a + damping) * first + weight * (f_b + damping) * second) / (strength + damping)
    found = merging_models.merge(states, fishers, PAIR, weight, "none")[name].double()
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)
    scaled = merging_models.merge(states, fishers, PAIR, weight, "mean")[name].double()
    assert not torch.allclose(scaled, found, rtol=1e-5, atol=1e-7)


def test_what_must_be_exact_is_measured(monkeypatch):
    states, fishers = experts()
    assert set(merging_models.exactness(states, fishers, PAIR).values()) == {0.0}

    def wrong(models, *, fisher=None, **options):
        first = next(iter(models.values()))
        return {name: value + (0.0 if fisher is None else 1e-3) for name, value in first.items()}

    monkeypatch.setattr(merging_models.merging, "merge_weights", wrong)
    assert min(merging_models.exactness(states, fishers, PAIR).values()) > 9e-4


def test_clusters_stay_whole_and_halves_even():
    clusters = ["a"] * 3 + ["b"] * 2 + ["c", "d", "e", "f", "g"]
    for seed in range(5):
        second = merging_models.halves_of(clusters, seed)
        assert all(len({second[i] for i, one in enumerate(clusters) if one == name}) == 1 for name in set(clusters))
        assert 3 <= second.sum() <= 7
    assert len({tuple(merging_models.halves_of(clusters, seed)) for seed in range(5)}) > 1
    assert (merging_models.halves_of(clusters, 1) == merging_models.halves_of(clusters, 1)).all()


def test_the_best_weight_is_judged_on_the_other_half():
    merged = {
        0.2: Losses(np.array([[1.0, 3.0], [1.0, 3.0]])),
        0.5: Losses(np.array([[2.0, 2.1], [2.0, 2.1]])),
        0.8: Losses(np.array([[4.0, 2.0], [4.0, 1.0]])),
    }
    # Chosen on the first half: 0.2, worth 3.0 on the second. On the second: 0.8, worth 4.0 on the first.
    assert merging_models.choose_and_judge(merged) == pytest.approx((3.5, 0.5))
    where_it_was_chosen = np.mean([min(one.by_half[half] for one in merged.values()) for half in (0, 1)])
    assert where_it_was_chosen == pytest.approx(1.25)


def test_losses_are_split_by_halves():
    ids = fine_tuning.as_ids(fine_tuning.draw("arithmetic", 4, split="held_out", seed=1))
    second = np.array([True, False, False, True])
    found = merging_models.measure(start(), [(ids, second), (ids[:2], second[:2])])
    each = [start()(input_ids=row[None], labels=row[None]).loss.item() for row in ids]
    assert found.halves[0] == pytest.approx([(each[1] + each[2]) / 2, (each[0] + each[3]) / 2], rel=1e-5)
    assert found.halves[1] == pytest.approx([each[1], each[0]], rel=1e-5)


def test_a_small_study_makes_rows_of_every_method(monkeypatch):
    monkeypatch.setattr(merging_models, "expert", lambda model, task, seed, length: made[task])
    states, fishers = experts()
    made = {task: (merging_models.with_weights(start(), states[task]), fishers[task]) for task in PAIR}
    rows = merging_models.rows({1: merging_models.measure_model(start(), 1, SMALL)}, SMALL)
    assert [row["status"] for row in rows] == ["passed"] * len(rows)
    found = {row["procedure"]: row for row in rows}
    assert set(merging_models.METHODS) < set(found)
    plain = found[PLAIN]
    assert (plain["grid"], len(plain["curve_a"]), plain["against_plain"]) == ([0.2, 0.5, 0.8], 3, None)
    own = found["each task by its expert"]
    assert own["loss_a"] == found["expert of arithmetic"]["loss_a"]
    assert own["loss_b"] == found["expert of capitals"]["loss_b"]
    assert found["the start"]["value"] == pytest.approx(
        np.mean([found["the start"][key] for key in ("loss_a", "loss_b")])
    )
    other = found["Fisher-weighted"]
    assert other["against_plain"][0] == pytest.approx(other["value"] - plain["value"], abs=2e-6)
    assert other["half_against_plain"][0] == pytest.approx(other["at_half"][0] - plain["at_half"][0], abs=2e-6)
