"""Predicted changes of A's loss against written-out sums, against real steps, and against the bias of few samples."""

import functools

import numpy as np
import pytest
import torch

import qkov
from qkov import errors, losses, prediction, prediction_result
from tests import builders

BLOCKS = "QKVO"
UNITS = {"Q": 6, "K": 2, "V": 2, "O": 6}
LENGTHS = {"a": (5, 8, 6, 7), "b": (8, 4, 7, 6, 5), "c": (6, 7, 5)}


@functools.cache
def model(family="llama"):
    return builders.build_model(family)


@functools.cache
def collected(family="llama", labelled=True):
    collector = qkov.FisherCollector()
    for seed, (task, lengths) in enumerate(LENGTHS.items()):
        batch = builders.build_batch(lengths, seed=seed)
        clusters = [f"{task}{number // 2}" for number in range(len(lengths))] if labelled else None
        collector.collect_fisher(model(family), batch, task, clusters=clusters, progress=False)
    return collector


def predict(collector, a="a", b="b", **options):
    return qkov.predict_change(collector, a, b, progress=False, **options)


def written_out(collector, task, block, layer, unit):
    """Gradients of a slice, cut out of whole parameters."""
    indexer = qkov.QKOVIndexer(collector.config)
    layout = collector.config.layer(layer)
    head = unit * (layout.num_heads // layout.num_kv_heads) if block in "KV" else unit
    piece = indexer.get_slice(layer=layer, head=head, block=block)
    grads = [collector.get_sample_gradients(task, one)[piece.param_name] for one in collector.sample_ids(task)]
    return np.stack([grad[piece.index].double().numpy().ravel() for grad in grads])


def slow_direction(grads, optimiser, fisher=None):
    mean = grads.mean(0)
    if optimiser == "sgd":
        return mean
    if optimiser == "sign":
        return np.sign(mean)
    return mean / np.sqrt(np.mean(grads**2, 0) if fisher is None else fisher)


# The same numbers by another route


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "sign"])
def test_changes_are_the_written_out_sums(family, optimiser):
    collector = collected(family)
    found = predict(collector, optimiser=optimiser, step_size=0.01)
    table = found.to_dataframe()
    assert len(table) == (32 if family == "llama" else 48)
    for number, (block, layer, unit) in enumerate(zip(found.blocks, found.layers, found.units, strict=True)):
        grads_a, grads_b = (written_out(collector, task, block, layer, unit) for task in "ab")
        d = -0.01 * slow_direction(grads_b, optimiser)
        first = sum(float(g @ d) for g in grads_a) / len(grads_a)
        curvature = sum(float((g**2) @ (d**2)) for g in grads_a) / len(grads_a) / 2
        row = table.iloc[number]
        assert row["first_order"] == pytest.approx(first, rel=1e-6, abs=1e-12)
        assert row["curvature"] == pytest.approx(curvature, rel=1e-6)
        assert row["change"] == pytest.approx(first + curvature, rel=1e-6, abs=1e-12)
        assert row["decrease_of_b"] == pytest.approx(-float(grads_b.mean(0) @ d), rel=1e-6)


def test_tiles_do_not_matter():
    whole, tiled = predict(collected()), predict(collected(), tile_elements=40)
    np.testing.assert_allclose(tiled.to_dataframe()["change"], whole.to_dataframe()["change"], rtol=1e-9, atol=1e-15)


def test_groups_add_up_and_joint_curvature_does_not():
    collector = collected()
    found = predict(collector, step_size=0.1)
    by_slice = found.to_dataframe()
    for level, keys in (("layer", ["layer"]), ("block", ["block", "layer"]), ("kv_head", ["layer", "kv_head"])):
        sums = by_slice.groupby(keys)["change"].sum()
        table = found.to_dataframe(level).set_index(keys)["change"]
        np.testing.assert_allclose(table, sums.loc[table.index], rtol=1e-12)
    np.testing.assert_allclose(found.to_dataframe("all")["change"], by_slice["change"].sum(), rtol=1e-12)
    joint = predict(collector, step_size=0.1, curvature="gradient")
    first = joint.to_dataframe()["first_order"].to_numpy()
    whole = joint.to_dataframe("all").iloc[0]
    per_sample = 0.1 * joint.first.sum(1)
    assert whole["curvature"] == pytest.approx((per_sample**2).mean() / 2, rel=1e-12)
    assert whole["curvature"] != pytest.approx(joint.to_dataframe()["curvature"].sum(), rel=0.1)
    assert whole["first_order"] == pytest.approx(first.sum(), rel=1e-9)


def test_another_task_can_make_the_curvature():
    collector = collected()
    found = predict(collector, curvature_task="c", step_size=0.1).to_dataframe()
    own = predict(collector, step_size=0.1).to_dataframe()
    np.testing.assert_array_equal(found["first_order"], own["first_order"])
    grads_b, grads_c = (written_out(collector, task, "V", 1, 0) for task in "bc")
    expected = np.mean([(g**2) @ (0.1 * grads_b.mean(0)) ** 2 for g in grads_c]) / 2
    row = found[(found["block"] == "V") & (found["layer"] == 1) & (found["kv_head"] == 0)].iloc[0]
    assert row["curvature"] == pytest.approx(expected, rel=1e-6)
    joint = predict(collector, curvature_task="c", curvature="gradient", step_size=0.1).to_dataframe()
    row = joint[(joint["block"] == "V") & (joint["layer"] == 1) & (joint["kv_head"] == 0)].iloc[0]
    assert row["curvature"] == pytest.approx(np.mean([(0.1 * g @ grads_b.mean(0)) ** 2 for g in grads_c]) / 2, rel=1e-6)


# Real steps


def real_change(network, batch, piece, d):
    weight = dict(network.named_parameters())[piece.param_name]
    with torch.no_grad():
        kept = weight.clone()
        before = losses.causal_lm_loss(network, batch)[0]
        weight[piece.index] += d.reshape(weight[piece.index].shape)
        after = losses.causal_lm_loss(network, batch)[0]
        weight.copy_(kept)
    return (after - before).mean().item()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_first_order_is_the_slope_of_the_real_change(family):
    collector, network = collected(family), model(family)
    batch = builders.build_batch(LENGTHS["a"], seed=0)
    found = predict(collector, step_size=1.0, curvature="none")
    indexer = qkov.QKOVIndexer(collector.config)
    for number in range(0, len(found.blocks), 7):
        block, layer, unit = found.blocks[number], found.layers[number], found.units[number]
        layout = collector.config.layer(layer)
        head = unit * (layout.num_heads // layout.num_kv_heads) if block in "KV" else unit
        piece = indexer.get_slice(layer=layer, head=head, block=block)
        u = torch.from_numpy(written_out(collector, "b", block, layer, unit).mean(0))
        plus, minus = (real_change(network, batch, piece, sign * -2e-3 * u) for sign in (1, -1))
        # Norms and rotary angles are float32 inside the library, which bounds how small a difference can be.
        assert found.change[number] == pytest.approx((plus - minus) / 4e-3, rel=1e-3, abs=1e-6)


# Few samples


def test_a_sample_has_no_part_in_the_step_it_is_judged_by():
    collector = collected(labelled=False)
    found = predict(collector, "a", "a", step_size=1.0)
    assert found.attributes["num_cross_fitted"] == 4
    grads = written_out(collector, "a", "O", 1, 3)
    others = [np.delete(grads, row, 0).mean(0) for row in range(4)]
    table = found.to_dataframe()
    row = table[(table["block"] == "O") & (table["layer"] == 1) & (table["head"] == 3)].iloc[0]
    expected = [-(g @ other) for g, other in zip(grads, others, strict=True)]
    assert row["first_order"] == pytest.approx(np.mean(expected), rel=1e-6)
    naive = -(grads.mean(0) @ grads.mean(0))
    assert naive < row["first_order"]  # it counts |g_i|^2 / n as help


def test_samples_of_a_shared_cluster_have_no_part_either():
    collector = qkov.FisherCollector()
    for seed, task in enumerate("ab"):
        batch = builders.build_batch((5, 8, 6, 7), seed=seed)
        collector.collect_fisher(model(), batch, task, clusters=["x", "x", task, task], progress=False)
    found = predict(collector, step_size=1.0, curvature="none")
    assert found.attributes["num_cross_fitted"] == 2
    assert "2 samples of A share a cluster or their input with B" in repr(found)
    grads_a, grads_b = (written_out(collector, task, "Q", 0, 0) for task in "ab")
    expected = [
        -(g @ grads_b[rows].mean(0))
        for g, rows in zip(grads_a, ([2, 3], [2, 3], slice(None), slice(None)), strict=True)
    ]
    assert found.change[0] == pytest.approx(np.mean(expected), rel=1e-6)


def test_the_population_step_loses_the_curvature_of_noise():
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(4000, 3, generator=generator, dtype=torch.float64) + 0.1
    sets = rows.reshape(400, 10, 3)
    squared = sets.mean(1) ** 2
    debiased = torch.stack([one.mean(0) ** 2 - prediction._variance_of_mean(one, None) for one in sets])
    assert debiased.mean().item() == pytest.approx(0.01, abs=0.012)
    assert squared.mean().item() > 0.08  # 0.01 + 1 / 10


def test_the_variance_of_a_mean_counts_clusters():
    from qkov.statistics.clusters import read_clusters

    rows = torch.tensor([[1.0], [1.0], [5.0], [5.0]], dtype=torch.float64)
    found = prediction._variance_of_mean(rows, read_clusters(["x", "x", "y", "y"], 4, "b"))
    assert found.item() == pytest.approx(np.var([1, 5], ddof=1) / 2)
    assert prediction._variance_of_mean(rows, None).item() == pytest.approx(np.var([1, 1, 5, 5], ddof=1) / 4)


def test_population_and_step_agree_to_first_order():
    collector = collected()
    step, population = (
        predict(collector, estimand=one, step_size=0.1, clusters="iid").to_dataframe() for one in ("step", "population")
    )
    np.testing.assert_array_equal(step["first_order"], population["first_order"])
    assert (population["curvature"] < step["curvature"]).all()


def test_the_populations_interval_takes_in_bs_error():
    generator = np.random.default_rng(6)
    covered = {"step": 0, "population": 0}
    for _ in range(300):
        a, b = generator.normal(1.0, 1.0, 30), generator.normal(1.0, 1.0, 30)
        arrays = {"codes_a": np.arange(30), "codes_b": np.arange(30), "influence": -a.mean() * b[:, None]}
        for estimand in covered:
            found = result(-a[:, None] * b.mean(), **arrays, estimand=estimand).to_dataframe().iloc[0]
            covered[estimand] += found["low"] <= -1 <= found["high"]
    assert 0.90 <= covered["population"] / 300 <= 0.99
    assert covered["step"] / 300 < 0.88  # the interval of the step is none of the population's


def test_intervals_cover_and_count_clusters():
    generator = np.random.default_rng(5)
    covered, ignored = 0, 0
    codes = np.repeat(np.arange(12), 4)
    for _ in range(300):
        values = generator.normal(size=12)[codes] + 0.3 * generator.normal(size=48)
        covered += _covers(values, codes)
        ignored += _covers(values, np.arange(48))
    assert 0.92 < covered / 300 <= 0.99
    assert ignored / 300 < 0.75  # the wrong unit is seen to be wrong


def _covers(values, codes):
    found = result(first=values[:, None], codes_a=codes).to_dataframe().iloc[0]
    return found["low"] <= 0 <= found["high"]


def result(first, codes_a=None, estimand="step", **changes):
    samples, slices = first.shape
    facts = {"curvature": "none", "curvature_task": None, "estimand": estimand, "level": 0.95, "task_a": "a", "task_b": "b",
             "optimiser": "sgd", "num_heads": {"0": slices}, "num_kv_heads": {"0": slices}}  # fmt: skip
    given = {
        "blocks": ("Q",) * slices, "layers": (0,) * slices, "units": tuple(range(slices)), "sample_a": tuple(range(samples)),
        "first": first, "second": np.zeros((samples, slices)), "influence": np.zeros((1, slices)),
        "descent": np.ones(slices), "tokens_a": np.full(samples, 2), "codes_a": codes_a, "codes_b": None,
        "step_size": 1.0, "attributes": facts,
    }  # fmt: skip
    return prediction_result.Prediction(**given | changes)


# The step size


def test_the_default_step_lowers_bs_loss_by_what_was_asked():
    found = predict(collected(), decrease=0.02)
    tokens = np.mean([length - 1 for length in LENGTHS["b"]])
    assert found.to_dataframe("all")["decrease_of_b"].iloc[0] == pytest.approx(0.02 * tokens)


def test_first_order_grows_with_the_step_and_curvature_with_its_square():
    found = predict(collected())
    once, twice = found.to_dataframe(), found.at(2 * found.step_size).to_dataframe()
    np.testing.assert_allclose(twice["first_order"], 2 * once["first_order"], rtol=1e-12)
    np.testing.assert_allclose(twice["curvature"], 4 * once["curvature"], rtol=1e-12)
    until = once["first_order_until"].iloc[5]
    there = found.at(until).to_dataframe().iloc[5]
    assert there["curvature"] == pytest.approx(0.1 * abs(there["first_order"]))


# What is refused, and what is said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimiser": "lion"}, "optimiser='lion'"),
        ({"curvature": "hessian"}, "curvature='hessian'"),
        ({"estimand": "all"}, "estimand='all'"),
        ({"estimand": "population", "optimiser": "sign"}, "noise can be taken off"),
        ({"estimand": "population", "curvature": "gradient"}, "noise can be taken off"),
        ({"curvature": "none", "curvature_task": "c"}, "uses no curvature"),
        ({"step_size": -1.0}, "step_size is -1.0"),
        ({"decrease": 0.0}, "decrease is 0.0"),
        ({"layers": [0, 0]}, "different layer numbers"),
    ],
)
def test_requests_without_meaning_are_refused(options, words):
    with pytest.raises(errors.OptionError, match=words):
        predict(collected(), **options)


def test_an_empty_task_is_refused():
    collector = qkov.FisherCollector()
    collector.collect_fisher(model(), builders.build_batch((5, 6)), "a", progress=False)
    collector.collect_fisher(model(), builders.build_batch((), width=4), "b", progress=False)
    with pytest.raises(errors.EmptyTaskError, match="'b' has no samples"):
        predict(collector)


def test_a_single_sample_cannot_judge_its_own_step():
    collector = qkov.FisherCollector()
    collector.collect_fisher(model(), builders.build_batch((5,)), "a", progress=False)
    with pytest.raises(errors.StatisticsError, match="no step is left"):
        predict(collector, "a", "a")


def test_without_clusters_there_are_no_intervals():
    table = predict(collected(labelled=False)).to_dataframe()
    assert table[["low", "high"]].isna().all(axis=None)
    assert predict(collected(labelled=False), clusters="iid").to_dataframe()["low"].notna().all()


def test_the_result_survives_a_file_and_shows_itself(tmp_path):
    found = predict(collected())
    path = found.save(tmp_path / "found.safetensors")
    loaded = qkov.load_prediction(path)
    assert loaded == found
    assert loaded.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    damaged = bytearray(path.read_bytes())
    damaged[-20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(errors.ResultFileError, match="damaged"):
        qkov.load_prediction(path)
    assert "the loss of 'a' by" in repr(found)
    assert "The slices that hurt most" in found._repr_html_()
    assert len(found.plot().axes) == 8
    assert predict(collected(labelled=False)).plot().axes


def test_layers_are_chosen_by_their_number():
    found = predict(collected(), layers=[1], step_size=0.1)
    whole = predict(collected(), step_size=0.1)
    assert set(found.layers) == {1}
    np.testing.assert_array_equal(found.change, whole.change[np.array(whole.layers) == 1])


def test_noise_is_no_step():
    # All tokens alike: Q and K have no exact gradient, and an optimiser that divides by their size would step on noise.
    collector = qkov.FisherCollector()
    for task, token in (("a", 3), ("b", 5)):
        ids = torch.full((4, 6), token) + torch.arange(4)[:, None]
        collector.collect_fisher(model(), {"input_ids": ids}, task, progress=False)
    for optimiser in ("adam", "sign"):
        table = predict(collector, optimiser=optimiser, step_size=1.0).to_dataframe()
        dead = table["block"].isin(["Q", "K"])
        assert (table.loc[dead, "change"] == 0).all()
        assert (table.loc[~dead, "change"] != 0).all()
