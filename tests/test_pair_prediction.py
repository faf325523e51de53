"""Predicted changes of pairs against written-out sums, real steps, and the metric's own inner product."""

import numpy as np
import pytest
import torch

import qkov
from qkov import errors, losses
from tests import builders
from tests.test_prediction import collected, model, slow_direction, written_out


def predict(a="a", b="b", family="llama", **options):
    return qkov.predict_pairs(collected(family), a, b, progress=False, **options)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "sign"])
def test_pairs_are_the_written_out_sums(family, optimiser):
    found = predict(family=family, optimiser=optimiser, step_size=0.02)
    for block, layer, unit in (("Q", 0, 5), ("K", 1, 1), ("V", 0, 0), ("O", 1, 2)):
        grads_a, grads_b = (written_out(collected(family), task, block, layer, unit) for task in "ab")
        fisher_a, fisher_b = (np.mean(grads**2, 0) for grads in (grads_a, grads_b))
        for i, g in enumerate(grads_a):
            for j, h in enumerate(grads_b):
                d = -0.02 * slow_direction(h[None], optimiser, fisher_b)
                expected = float(g @ d) + float(fisher_a @ d**2) / 2
                assert found.arrays[block][i, j, layer, unit] == pytest.approx(
                    expected, rel=1e-5, abs=1e-12
                )  # Adam is damped by 1e-8


def test_without_curvature_sgd_is_minus_the_dot_product():
    found = predict(curvature="none", step_size=0.5)
    collector = collected()
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, variant="dot", aggregate="sum")
    dot = metric.compute_heatmap("a", "b", progress=False)
    for block in "QKVO":
        np.testing.assert_allclose(found.arrays[block], -0.5 * dot.arrays[block], rtol=1e-9, atol=1e-15)


def test_a_real_step_of_one_sample_does_it():
    collector, network = collected(), model()
    batch = builders.build_batch((5, 8, 6, 7), seed=0)
    found = predict(step_size=2e-3, curvature="none")
    projection = collector.config.layer(1).projection("V")
    place = projection.slice_of(1).index
    grad = torch.from_numpy(written_out(collector, "b", "V", 1, 1)[3])
    weight = network.get_parameter(projection.param_name)
    after = []
    with torch.no_grad():
        kept = weight.clone()
        for sign in (-1, 1):
            weight[place] += sign * 2e-3 * grad.reshape(weight[place].shape)
            after.append(losses.causal_lm_loss(network, batch)[0])
            weight.copy_(kept)
    slope = ((after[0] - after[1]) / 2).numpy()
    np.testing.assert_allclose(found.arrays["V"][:, 3, 1, 1], slope, rtol=2e-3, atol=1e-7)


def test_the_curvature_of_another_task_and_of_the_pair_itself():
    grads_a, grads_b, grads_c = (written_out(collected(), task, "O", 0, 4) for task in "abc")
    first = predict(curvature="none", step_size=0.1).arrays["O"][1, 2, 0, 4]
    foreign = predict(curvature_task="c", step_size=0.1).arrays["O"][1, 2, 0, 4]
    assert foreign - first == pytest.approx(np.mean(grads_c**2, 0) @ (0.1 * grads_b[2]) ** 2 / 2, rel=1e-6)
    own = predict(curvature="gradient", step_size=0.1).arrays["O"][1, 2, 0, 4]
    assert own - first == pytest.approx((0.1 * grads_a[1] @ grads_b[2]) ** 2 / 2, rel=1e-6)


def test_the_default_step_lowers_the_samples_own_losses_by_what_was_asked():
    found = predict(decrease=0.03)
    total = 0.0
    for layer in (0, 1):
        for block, units in (("Q", 6), ("K", 2), ("V", 2), ("O", 6)):
            for unit in range(units):
                total += np.square(written_out(collected(), "b", block, layer, unit)).sum(1).mean()
    tokens = np.mean([length - 1 for length in (8, 4, 7, 6, 5)])
    assert found.attributes["step_size"] * total == pytest.approx(0.03 * tokens, rel=1e-6)


def test_the_result_is_a_heatmap_whose_conflict_is_positive(tmp_path):
    found = predict()
    assert found.attributes["conflict_order"] == "descending"
    assert found.top_conflicts("V")[0]["score"] == found.arrays["V"].max()
    assert qkov.load_heatmap(found.save(tmp_path / "found.safetensors")) == found
    picture = found.plot()
    (image,) = picture.axes[0].images
    assert image.get_cmap()(1.0)[0] > image.get_cmap()(1.0)[2]  # the high end is red
    assert len(predict(layers=[1]).layers) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [({"optimiser": "x"}, "optimiser='x'"), ({"step_size": 0.0}, "step_size is 0.0"), ({"decrease": -1}, "decrease is -1"),
     ({"curvature": "gradient", "curvature_task": "c"}, "leave curvature_task out")],
)  # fmt: skip
def test_requests_without_meaning_are_refused(options, words):
    with pytest.raises(errors.OptionError, match=words):
        predict(**options)


def test_the_metric_says_where_predictions_are_made():
    collector = collected()
    with pytest.raises(errors.OptionError, match=r"use qkov\.predict_change"):
        qkov.QKOVInterferenceMetric(collector.config, collector, variant="predicted")


def test_a_sample_on_both_sides_is_kept():
    found = predict("a", "a", curvature="none", step_size=1.0)
    assert (np.einsum("iilh->ilh", found.arrays["O"]) < 0).all()


def test_one_sample_a_task_is_enough():
    collector = qkov.FisherCollector()
    for seed, task in enumerate("ab"):
        collector.collect_fisher(model(), builders.build_batch((6,), seed=seed), task, progress=False)
    assert qkov.predict_pairs(collector, "a", "b", progress=False).arrays["Q"].shape == (1, 1, 2, 6)
