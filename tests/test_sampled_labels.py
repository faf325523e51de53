"""Labels drawn from the model: where, how often, and that they make its true Fisher; closed forms enumerate the classes."""

import functools

import numpy as np
import pytest
import torch

import qkov
from qkov import errors, losses
from tests.builders import VOCABULARY, build_batch, build_model, collect

LENGTHS = (2, 3)  # one predicted token, and two


def test_labels_are_drawn_where_the_batch_has_labels_that_count():
    model, batch = build_model("llama"), build_batch((4, 6))
    labels = batch["input_ids"].clone()
    labels[1, 2:4] = losses.IGNORED
    batch["labels"] = labels
    drawn = losses.sample_labels(model, batch, seed=0, num_draws=3)
    counted = (losses.target_labels(batch) != losses.IGNORED).repeat_interleave(3, 0)
    assert torch.equal(drawn["labels"] != losses.IGNORED, counted)
    assert torch.equal(losses.target_labels(drawn), drawn["labels"])
    assert torch.equal(drawn["input_ids"], batch["input_ids"].repeat_interleave(3, 0))
    assert torch.equal(drawn["attention_mask"], batch["attention_mask"].repeat_interleave(3, 0))
    assert 0 <= int(drawn["labels"][counted].min()) <= int(drawn["labels"][counted].max()) < VOCABULARY
    assert "labels" in batch
    assert torch.equal(batch["labels"], labels)


def test_draws_depend_on_the_seed_and_not_on_padding_passes_or_torch():
    model = build_model("llama")
    right, left = (build_batch((4, 6, 5), padding=side, width=8, seed=1) for side in ("right", "left"))
    first = losses.sample_labels(model, right, seed=5, num_draws=2)["labels"]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    for batch, options in ((right, {"micro_batch": 1}), (left, {})):
        again = losses.sample_labels(model, batch, seed=5, num_draws=2, **options)["labels"]
        assert torch.equal(again[again >= 0], first[first >= 0])
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(losses.sample_labels(model, right, seed=6, num_draws=2)["labels"], first)


def test_model_is_left_in_its_mode():
    model = build_model("gpt2").train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    losses.sample_labels(model, build_batch((4,)), seed=0)
    assert [module.training for module in model.modules()] == before


@functools.cache
def drawn_many(num_draws=2000):
    model, batch = build_model("llama"), build_batch(LENGTHS)
    return model, batch, losses.sample_labels(model, batch, seed=3, num_draws=num_draws)


def test_classes_are_drawn_as_often_as_the_model_says():
    model, batch, drawn = drawn_many()
    chances = model(**batch).logits.softmax(-1).detach()
    for row, place in ((0, 1), (1, 1), (1, 2)):
        labels = drawn["labels"][row * 2000 : (row + 1) * 2000, place]
        counts = torch.bincount(labels, minlength=VOCABULARY).numpy()
        expected = 2000 * chances[row, place - 1].numpy()
        usual = expected >= 5
        chi = ((counts - expected)[usual] ** 2 / expected[usual]).sum()
        assert chi < usual.sum() + 4 * np.sqrt(2 * usual.sum())  # mean and 4 standard deviations of chi squared


def enumerated_fisher(model, batch):
    """``sum_t sum_c p_tc (grad log p_tc)^2`` of every sample, ``{name: [samples, *shape]}``, and the gradients' mean."""
    fisher, mean = {}, {}
    chances = model(**batch).logits.softmax(-1).detach()
    for row in range(len(batch["input_ids"])):
        length = int(batch["attention_mask"][row].sum())
        for place in range(1, length):
            labels = torch.full((VOCABULARY, batch["input_ids"].shape[1]), losses.IGNORED)
            labels[:, place] = torch.arange(VOCABULARY)
            every = {name: value[[row] * VOCABULARY] for name, value in batch.items()} | {"labels": labels}
            held = collect(model, every)
            for label in range(VOCABULARY):
                chance = float(chances[row, place - 1, label])
                for name, grad in held.get_sample_gradients("a", label).items():
                    fisher.setdefault(name, [0.0] * len(LENGTHS))[row] += chance * grad.square()
                    mean.setdefault(name, [0.0] * len(LENGTHS))[row] += chance * grad
    return fisher, mean


def test_sampled_fisher_is_the_true_one_within_its_error():
    """Also with two tokens: their labels are drawn independently, so cross terms vanish in the mean."""
    model, batch, _ = drawn_many()
    drawn = losses.sample_labels(model, batch, seed=4, num_draws=250)
    held = collect(model, drawn, micro_batch=250)
    exact, mean = enumerated_fisher(model, batch)
    scores, compared = [], 0
    for name, rows in exact.items():
        squares = torch.stack([held.get_sample_gradients("a", k)[name] for k in range(500)]).square()
        for row, expected in enumerate(rows):
            found = squares[row * 250 : (row + 1) * 250].flatten(1)
            total = found.sum(1)
            if not total.any():
                continue
            scores.append(float((total.mean() - expected.sum()) / (total.std() / 250**0.5)))
            entries = (found.mean(0) - expected.flatten()) / (found.std(0) / 250**0.5).clamp_min(1e-300)
            assert float((entries.abs() > 4).double().mean()) < 0.02  # of heavy-tailed squares, some exceed 4
            # E g = 0, to the float32 of the library's norms inside a float64 model.
            assert mean[name][row].abs().max() <= 1e-6 * expected.max().sqrt()
            compared += 1
    assert compared >= 8
    assert max(abs(score) for score in scores) < 4.5
    # The empirical Fisher, of the data's labels, is another quantity.
    data = collect(model, batch)
    name = "model.layers.0.self_attn.o_proj.weight"
    empirical = sum(data.get_sample_gradients("a", row)[name].square() for row in range(2))
    true = sum(exact[name])
    assert (empirical - true).norm() > 0.3 * true.norm()


def test_a_metric_takes_the_fisher_of_drawn_labels():
    model, batch, _ = drawn_many()
    held = qkov.FisherCollector()
    some = losses.sample_labels(model, batch, seed=1, num_draws=5)
    for task, part in (("math", batch), ("code", build_batch((4, 5), seed=7)), ("math, labels of the model", some)):
        held.collect_fisher(model, part, task, progress=False)
    options = {"variant": "signed", "aggregate": "sum", "min_samples_for_fisher": 1}
    metric = qkov.QKOVInterferenceMetric(
        held.config, held, fisher_tasks={"math": "math, labels of the model"}, **options
    )
    found = metric.compute_heatmap("math", "code", progress=False)
    where = qkov.QKOVIndexer(held.config).get_slice(layer=1, head=2, block="V")

    def h(task, root=True):
        return torch.stack([
            held.get_sample_gradients(task, one.sample_id)[where.param_name][where.index].flatten() / one.num_tokens**0.5
            for one in held.samples(task)
        ])  # fmt: skip

    fisher = h("math, labels of the model").square().mean(0)
    expected = (h("math") / fisher) @ h("code").T
    np.testing.assert_allclose(found["V"]["scores"][:, :, 1, 2], expected, rtol=1e-4)  # up to damping
    assert found.attributes["num_fisher_samples_a"] == 10
    assert found.attributes["fisher_tasks"] == {"math": "math, labels of the model"}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": -1}, "seed=-1"), ({"seed": True}, "seed=True"), ({"seed": 0, "num_draws": 0}, "num_draws=0")],
)
def test_numbers_without_meaning_are_refused(options, message):
    with pytest.raises(errors.OptionError, match=message):
        losses.sample_labels(build_model("llama"), build_batch((3,)), **options)


def test_a_batch_without_labels_is_refused():
    with pytest.raises(errors.BatchError, match="has no labels"):
        losses.sample_labels(build_model("llama"), {"inputs_embeds": torch.zeros(1, 3, 24)}, seed=0)


@pytest.mark.parametrize("fisher_tasks", [{"a": "never"}, {"never": "a"}])
def test_unknown_fisher_task_is_refused(fisher_tasks):
    model, batch, _ = drawn_many()
    held = collect(model, batch)
    metric = qkov.QKOVInterferenceMetric(held.config, held, fisher_tasks=fisher_tasks, min_samples_for_fisher=1)
    with pytest.raises(errors.UnknownTaskError, match="'never'"):
        metric.compute_heatmap("a", "a", progress=False)


def test_few_samples_of_the_task_that_makes_the_fisher_warn():
    model, batch, _ = drawn_many()
    held = collect(model, build_batch([4] * 12))
    held.collect_fisher(model, batch, "few", progress=False)
    metric = qkov.QKOVInterferenceMetric(held.config, held, fisher_tasks={"a": "few"})
    with pytest.warns(errors.FewSamplesWarning, match="rests on 2 samples"):
        metric.compute_heatmap("a", "a", layers=[0], heads=[0], progress=False)


def test_files_and_top_pairs_know_whose_fisher_it_was(tmp_path):
    model, _, _ = drawn_many()
    held = collect(model, build_batch((5, 6, 4), seed=3))
    held.collect_fisher(model, build_batch((5, 6, 4), seed=4), "b", progress=False)
    held.collect_fisher(model, losses.sample_labels(model, build_batch((5, 6, 4), seed=3), seed=0), "c", progress=False)
    metric = qkov.QKOVInterferenceMetric(held.config, held, fisher_tasks={"a": "c"}, min_samples_for_fisher=1)
    found = metric.compute_heatmap("a", "b", progress=False)
    found.save(tmp_path / "one.safetensors")
    loaded = qkov.load_heatmap(tmp_path / "one.safetensors")
    assert loaded.attributes["fisher_tasks"] == {"a": "c"}
    top = qkov.describe_top_pairs(loaded, held, top_k=2)
    assert {row["fisher_share"] for row in top.rows} == {0.0}  # F holds none of A's samples
    again = qkov.describe_top_pairs(loaded, held, held_out=held_like(held, model), top_k=2)
    assert len(again.rows) == len(top.rows)


def held_like(held, model):
    """The same ids with other labels, and the same Fisher task."""
    other = qkov.FisherCollector()
    for task, seed in (("a", 3), ("b", 4)):
        batch = build_batch((5, 6, 4), seed=seed)
        other.collect_fisher(model, losses.sample_labels(model, batch, seed=9), task, progress=False)
    other.collect_fisher(
        model, losses.sample_labels(model, build_batch((5, 6, 4), seed=3), seed=0), "c", progress=False
    )
    return other
