"""Cosines between samples of two tasks: equal to a loop over whole gradients, additive, tested only against a reference."""

import dataclasses
import functools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import qkov
from qkov import conflicts, cosine_summary, errors, formula, labels, natural_gram
from qkov.checks import edits
from qkov.statistics import clusters, source
from tests import arranged, builders
from tests.statistics_models import CLUSTERS, LENGTHS, gradients_of, three_tasks, uneven_tasks
from validation import simulated_gradients

pytestmark = pytest.mark.filterwarnings("ignore::qkov.errors.StatisticsWarning")


@functools.cache
def described(family="llama", **options):
    return qkov.detect_conflicts(three_tasks(family), "a", "b", progress=False, **options)


@functools.cache
def against_reference(**options):
    return qkov.detect_conflicts(
        three_tasks(), "a", "b", reference="r", clusters="iid", seed=3, n_permutations=99, progress=False, **options
    )


# The same numbers by a loop over whole gradients, samples found by their ids


def loop_cosines(collector, found, metric="natural", reference=False):
    """Cosines ``[n_a, n_b]`` by slice and over all of them, from ``get_sample_gradients``."""
    (g_a, names), (g_b, _) = gradients_of(collector, "a"), gradients_of(collector, "b")
    g_r = gradients_of(collector, "r")[0] if reference else [one[:0] for one in g_a]
    parts = []
    for a, b, r in zip(g_a, g_b, g_r, strict=True):
        parts.append([
            one / np.sqrt([[member.num_tokens] for member in collector.samples(task)]) if len(one) else one
            for task, one in (("a", a), ("b", b), ("r", r))
        ])  # fmt: skip
    fishers = [(np.concatenate([h[0], h[2]]) ** 2).mean(0) / 2 + (h[1] ** 2).mean(0) / 2 for h in parts]
    order = [collector.sample_ids("a").index(one) for one in found.sample_a]
    order_b = [collector.sample_ids("b").index(one) for one in found.sample_b]
    sums, cosines = [0.0, 0.0, 0.0], {}
    for place, (h, fisher) in enumerate(zip(parts, fishers, strict=True)):
        beside = [one for one, name in zip(fishers, names, strict=True) if name[:2] == names[place][:2]]
        damped = fisher + 1e-8 * np.concatenate(beside).mean() if metric == "natural" else np.ones_like(fisher)
        a, b = h[0][order], h[1][order_b]
        dots = np.array([[np.sum(x * y / damped) for y in b] for x in a])
        norms_a, norms_b = (np.array([[np.sum(x * x / damped)] for x in side]) for side in (a, b))
        sums = [one + more for one, more in zip(sums, (dots, norms_a, norms_b), strict=True)]
        cosines[names[place]] = dots / np.sqrt(norms_a) / np.sqrt(norms_b).T
    cosines["all"] = sums[0] / np.sqrt(sums[1]) / np.sqrt(sums[2]).T
    return cosines


def assert_equals_loop(family="llama", **options):
    collector = three_tasks(family)
    found = qkov.detect_conflicts(collector, "a", "b", progress=False, **options)
    expected = loop_cosines(collector, found, options.get("metric", "natural"), "reference" in options)
    assert len(found.labels) == len(expected)
    for place, group in enumerate(found.groups):
        wanted = expected[group.block, group.layer, group.unit]
        np.testing.assert_allclose(found.cosines[..., place], wanted, rtol=0, atol=1e-9, err_msg=group.label)
    np.testing.assert_allclose(found.cosines[..., -1], expected["all"], rtol=0, atol=1e-9)
    # A row is found by its ids, whatever its position.
    table = found.to_dataframe("pair").set_index(["sample_a", "sample_b", "group"])["cosine"]
    first, last = collector.sample_ids("a")[0], collector.sample_ids("b")[-1]
    group = found.groups[3]
    wanted = expected[group.block, group.layer, group.unit][0, -1]
    assert table[first, last, group.label] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("metric", natural_gram.METRICS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_cosines_equal_a_loop_over_whole_gradients(family, metric):
    assert_equals_loop(family, metric=metric)


@pytest.mark.parametrize(
    "options",
    [
        {"tile_elements": 300},
        {"reference": "r", "seed": 1, "n_permutations": 19, "clusters": "iid"},
    ],
    ids=["tiles", "reference"],
)
def test_the_loop_agrees_in_tiles_and_with_a_reference(options):
    assert_equals_loop(**options)


def test_layers_with_different_heads_are_compared_slice_by_slice():
    collector = uneven_tasks()
    found = qkov.detect_conflicts(collector, "a", "b", progress=False)
    expected = loop_cosines(collector, found)
    assert [(one.block, one.layer, one.unit) for one in found.groups] == [one for one in expected if one != "all"]
    for place, group in enumerate(found.groups):
        wanted = expected[group.block, group.layer, group.unit]
        np.testing.assert_allclose(found.cosines[..., place], wanted, rtol=0, atol=1e-9)


# Wrong implementations that the loop catches


def only_a(counts):
    n_a, n_b, n_r = counts
    return torch.cat([torch.full((n_a,), 1 / n_a), torch.zeros(n_b), torch.zeros(n_r)]).double()


def mean_of_cosines(parts):
    if parts.shape[-1] != parts.shape[-2]:
        return np.concatenate([parts, parts.sum(0, keepdims=True)])
    norms = np.sqrt(np.einsum("gii->gi", parts))
    return np.concatenate([parts, (parts / norms[:, :, None] / norms[:, None]).mean(0, keepdims=True)])


@pytest.mark.parametrize(
    ("module", "name", "wrong"),
    [
        (natural_gram, "sample_weights", only_a),
        (natural_gram, "natural", lambda h, damped: h / damped),
        (natural_gram, "with_total", mean_of_cosines),
        (labels, "checked_ids", lambda ids, name: tuple(range(len(ids)))),
        (formula, "normalise", lambda grad, tokens, normalisation: grad * tokens[:, None]),
    ],
    ids=["fisher of A only", "root forgotten", "mean of cosines over heads", "positions for ids", "tokens multiplied"],
)
def test_wrong_implementations_are_caught(monkeypatch, module, name, wrong):
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises((AssertionError, ValueError)):
        assert_equals_loop()


# Laws


@pytest.mark.parametrize("metric", natural_gram.METRICS)
def test_cosines_lie_between_minus_1_and_1_and_a_sample_agrees_with_itself(metric):
    found = described(metric=metric)
    assert np.abs(found.cosines).max() <= 1
    for side, count in (("a", 8), ("b", 6)):
        inside = found.within_cosines(side)
        assert np.abs(inside).max() <= 1
        np.testing.assert_allclose(inside[np.arange(count), np.arange(count)], 1, rtol=1e-12)
        np.testing.assert_array_equal(inside, inside.swapaxes(0, 1))


def test_swapping_tasks_transposes():
    found, swapped = described(), qkov.detect_conflicts(three_tasks(), "b", "a", progress=False)
    np.testing.assert_allclose(swapped.cosines, found.cosines.swapaxes(0, 1), rtol=0, atol=1e-12)
    for one, other in (("mean_cosine", "mean_cosine"), ("within_a_low", "within_b_low")):
        np.testing.assert_allclose(swapped.columns[one], found.columns[other], rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", natural_gram.METRICS)
def test_groups_add_up_to_larger_groups(metric):
    by_head = described(metric=metric)
    for level, key in (
        ("block", lambda one: (one.layer, one.block)), ("layer", lambda one: one.layer), ("all", lambda one: None),
    ):  # fmt: skip
        larger = described(groups=level, metric=metric)
        assert len(larger.groups) == len({key(one) for one in by_head.groups})
        for group, inner in zip(larger.groups, larger.inner, strict=True):
            members = [place for place, one in enumerate(by_head.groups) if key(one) == key(group)]
            parts = by_head.inner[members].sum(0)
            np.testing.assert_allclose(inner, parts, rtol=0, atol=1e-12 * np.abs(parts).max())
    assert larger.labels == ("all",)
    np.testing.assert_allclose(larger.cosines[..., 0], by_head.cosines[..., -1], rtol=0, atol=1e-12)


def loud(factor, rows):
    """Multiply the losses of some samples of a batch."""

    def loss_fn(model, batch):
        losses, tokens = qkov.losses.causal_lm_loss(model, batch)
        return losses * torch.where(batch["row"] < rows, factor, 1.0), tokens

    return loss_fn


def scaled_collector(factor, rows=99):
    collector, model = qkov.FisherCollector(), builders.build_model("llama", layers=1)
    for seed, task in enumerate("ab"):
        batch = builders.build_batch(LENGTHS[task], seed=seed)
        batch |= {"row": torch.arange(len(LENGTHS[task]))}
        collector.collect_fisher(model, batch, task, loss_fn=loud(factor, rows), progress=False)
    return collector


def test_cosines_do_not_depend_on_the_unit_of_the_loss():
    found = [qkov.detect_conflicts(scaled_collector(factor), "a", "b", progress=False) for factor in (1.0, 2.0)]
    np.testing.assert_allclose(found[0].cosines, found[1].cosines, rtol=0, atol=1e-12)


def test_a_louder_sample_has_the_same_cosines_with_the_fisher_held(monkeypatch):
    kept, held = [], []
    damp = formula.damp

    def keep(*args, **options):
        kept.append(damp(*args, **options))
        return kept[-1]

    def hold(*args, **options):
        held.append(kept[len(held)])
        return held[-1]

    monkeypatch.setattr(formula, "damp", keep)
    plain = qkov.detect_conflicts(scaled_collector(1.0, rows=1), "a", "b", progress=False)
    monkeypatch.setattr(formula, "damp", hold)
    louder = qkov.detect_conflicts(scaled_collector(2.0, rows=1), "a", "b", progress=False)
    np.testing.assert_array_equal(louder.cosines, plain.cosines)  # a factor of 2 is exact
    assert (np.diag(louder.inner[0])[0], np.diag(louder.inner[0])[1]) == (
        4 * np.diag(plain.inner[0])[0],
        np.diag(plain.inner[0])[1],
    )
    euclidean = [
        qkov.detect_conflicts(scaled_collector(factor, rows=1), "a", "b", metric="euclidean", progress=False)
        for factor in (1.0, 2.0)
    ]
    np.testing.assert_array_equal(euclidean[0].cosines, euclidean[1].cosines)


def test_relabelling_heads_permutes_groups():
    model, batches = builders.build_model("llama"), [builders.build_batch(LENGTHS[one], seed=7) for one in "ab"]

    def found():
        collector = qkov.FisherCollector()
        for task, batch in zip("ab", batches, strict=True):
            collector.collect_fisher(model, batch, task, progress=False)
        return collector.config, qkov.detect_conflicts(collector, "a", "b", progress=False)

    config, before = found()
    order, kv_order = [5, 4, 3, 0, 1, 2], [1, 0]
    with edits.restored(model) as parameters:
        for projection in config.layers[1].projections:
            edits.permute(parameters, projection, kv_order if projection.block in "KV" else order)
        _, after = found()
    for place, group in enumerate(after.groups):
        moved = kv_order if group.block in "KV" else order
        old = group.unit if group.layer == 0 else moved[group.unit]
        was = before.groups.index(natural_gram.Group(group.layer, group.block, old, group.parameter))
        np.testing.assert_allclose(after.cosines[..., place], before.cosines[..., was], rtol=0, atol=1e-9)
    np.testing.assert_allclose(after.cosines[..., -1], before.cosines[..., -1], rtol=0, atol=1e-9)


def test_a_dead_group_has_no_cosine_and_adds_nothing():
    model = builders.build_model("llama", layers=1)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[:, 12:] = 0  # what the second kv head and its queries reach
    collector = qkov.FisherCollector()
    for task, lengths in (("a", (5, 6, 7)), ("b", (6, 5)), ("r", (7, 5, 6))):
        batch = builders.build_batch(lengths, seed=len(lengths) + ord(task))
        collector.collect_fisher(model, batch, task, progress=False)
    found = qkov.detect_conflicts(
        collector, "a", "b", reference="r", clusters="iid", seed=1, n_permutations=19, progress=False
    )
    dead = [place for place, one in enumerate(found.groups) if one.block == "V" and one.unit == 1]
    assert np.isnan(found.cosines[..., dead]).all()
    assert np.isnan([values[dead] for values in found.columns.values()]).all()
    assert np.isnan(found.sample_tests["p"][:, dead]).all()
    assert not np.isnan(found.cosines[..., -1]).any()
    alive = found.inner[[place for place in range(len(found.groups)) if place not in dead]].sum(0)
    np.testing.assert_array_equal(found.inner.sum(0), alive)


def test_rounding_noise_of_one_sample_is_no_direction():
    norms = np.array([[1.0, 1e-40, 0.0]])
    found = natural_gram.cosines(np.ones((1, 3, 3)), norms, norms, floor=1e-30)
    np.testing.assert_array_equal(np.isnan(found[0]), [[False, True, True], [True] * 3, [True] * 3])


def test_a_block_of_rounding_noise_has_no_cosines_and_is_named():
    model = builders.build_model("llama", layers=1)
    collector = qkov.FisherCollector()
    for task, token in (("a", 3), ("b", 9)):  # where all tokens are equal, no query and no key matters
        batch = {"input_ids": torch.full((4, 6), token) + torch.arange(4)[:, None]}
        collector.collect_fisher(model, batch, task, progress=False)
    found = qkov.detect_conflicts(collector, "a", "b", progress=False)
    silent = np.array([one.block in "QK" for one in found.groups] + [False])
    assert np.isnan(found.cosines[..., silent]).all()
    assert not np.isnan(found.cosines[..., ~silent]).any()
    assert "Rounding noise and nothing else, without cosines: layer 0 Q, layer 0 K." in found.attributes["notes"]


@given(st.integers(1, 6), st.integers(1, 4), st.floats(-150, 150), st.integers(0, 2**20))
def test_cosines_of_any_gradients_are_those_of_numpy(size, count, exponent, seed):
    values = np.random.default_rng(seed).standard_normal((count, size)) * 10.0**exponent
    inner = values @ values.T
    norms = np.diag(inner)
    found = natural_gram.cosines(inner, norms, norms)
    assert np.abs(found).max() <= 1
    directions = values / np.abs(values).max()
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(found, np.clip(directions @ directions.T, -1, 1), rtol=0, atol=1e-9)


# Other weights


def test_feed_forward_weights_are_groups_and_change_no_other():
    model = builders.build_model("gpt2", layers=1)
    collectors = [qkov.FisherCollector(weights=weights) for weights in ("attention", ("attention", "mlp"))]
    for collector in collectors:
        for seed, task in enumerate("ab"):
            collector.collect_fisher(model, builders.build_batch(LENGTHS[task], seed=seed), task, progress=False)
    plain, both = (qkov.detect_conflicts(one, "a", "b", progress=False) for one in collectors)
    others = [one for one in both.groups if one.block is None]
    assert [one.label for one in others] == [f"transformer.h.0.mlp.{name}.weight" for name in ("c_fc", "c_proj")]
    np.testing.assert_array_equal(both.inner[: len(plain.groups)], plain.inner)
    for group in others:
        h = [
            np.stack([
                collectors[1].get_sample_gradients(task, one.sample_id)[group.parameter].numpy().ravel()
                / np.sqrt(one.num_tokens)
                for one in collectors[1].samples(task)
            ])
            for task in "ab"
        ]  # fmt: skip
        fisher = (np.square(h[0]).mean(0) + np.square(h[1]).mean(0)) / 2
        x, y = (part / np.sqrt(fisher + 1e-8 * fisher.mean()) for part in h)
        wanted = x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
        np.testing.assert_allclose(both.cosines[..., both.groups.index(group)], wanted, rtol=0, atol=1e-9)
    ticks = [one.get_text() for one in both.plot().axes[1].get_xticklabels()]
    assert ticks[-3:] == ["layer 0 mlp.c_fc", "layer 0 mlp.c_proj", "all"]
    by_layer = qkov.detect_conflicts(collectors[1], "a", "b", groups="layer", progress=False)
    np.testing.assert_allclose(by_layer.inner[0], both.inner.sum(0), rtol=1e-12, atol=1e-12)


# Beside what is usual inside a task


def test_pairs_inside_a_task_are_of_different_clusters():
    found = described()
    codes = np.array([CLUSTERS["a"].index(one) for one in CLUSTERS["a"]])
    inside = found.within_cosines("a")[..., -1]
    pairs = [inside[i, j] for i in range(8) for j in range(i) if codes[i] != codes[j]]
    assert found.columns["within_a_mean_cosine"][-1] == pytest.approx(np.mean(pairs), rel=1e-12)
    assert found.columns["within_a_share_below"][-1] == np.mean(np.array(pairs) < 0)
    assert found.columns["within_a_low"][-1] == pytest.approx(np.percentile(pairs, 5))
    shares = (found.cosines < 0).mean((0, 1))
    np.testing.assert_allclose(found.columns["share_below"], shares)
    np.testing.assert_allclose(found.sample_means("b"), found.cosines.mean(0))


def test_halves_agree_with_cosines_of_mean_gradients():
    collector = three_tasks()
    found = qkov.detect_conflicts(collector, "a", "b", metric="euclidean", progress=False)
    (g_a, slices), (g_b, _) = gradients_of(collector, "a"), gradients_of(collector, "b")
    halves = cosine_summary.Halves.draw(found.clusters_a, found.clusters_b, 100, 0)
    at = slices.index(("V", 1, 0))
    place = next(place for place, one in enumerate(found.groups) if (one.block, one.layer, one.unit) == ("V", 1, 0))
    tokens = [np.sqrt([[one.num_tokens] for one in collector.samples(task)]) for task in "ab"]
    a, b = g_a[at] / tokens[0], g_b[at] / tokens[1]

    def mean_cosine(x, y):
        return np.mean((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1))

    assert found.columns["half_cosine"][place] == pytest.approx(mean_cosine(halves.first_a @ a, halves.first_b @ b))
    within = mean_cosine(halves.first_a @ a, halves.second_a @ a)
    assert found.columns["half_cosine_a"][place] == pytest.approx(within)
    for first, second in ((halves.first_a, halves.second_a), (halves.first_b, halves.second_b)):
        assert not ((first > 0) & (second > 0)).any()
        np.testing.assert_allclose([first.sum(1), second.sum(1)], 1)


# Tests against a reference


def test_tests_are_those_of_the_statistics_on_mean_cosines():
    found = against_reference()
    cosines_r = np.concatenate([found.sample_means("a"), found.mean_cosine_r])
    swapped = qkov.detect_conflicts(
        three_tasks(), "r", "b", reference="a", clusters="iid", seed=3, n_permutations=99, progress=False
    )
    np.testing.assert_allclose(swapped.sample_means("a"), found.mean_cosine_r, rtol=0, atol=1e-12)
    a, r = (clusters.read_clusters("iid", count, "a task") for count in (8, 7))
    groups = len(found.groups)
    test = source.from_lifts(cosines_r[:, :groups], a, r, n_permutations=99, seed=3, alternative="less")
    np.testing.assert_array_equal(found.group_tests["p"][:-1], test.p)
    np.testing.assert_array_equal(found.group_tests["p_maxt"][:-1], test.p_maxt)
    difference = found.sample_means("a").mean(0) - found.mean_cosine_r.mean(0)
    np.testing.assert_allclose(found.group_tests["effect"], difference, rtol=0, atol=1e-12)
    lower = (found.mean_cosine_r[None] <= found.sample_means("a")[:, None]).sum(1)
    np.testing.assert_allclose(found.sample_tests["p"], (1 + lower) / 8)
    assert (found.sample_tests["q"] >= found.sample_tests["p"] - 1e-12).all()


def test_without_a_reference_nothing_is_against_reference():
    found = described()
    assert found.sample_tests == found.group_tests == {}
    assert found.to_dataframe("sample")["p"].isna().all()
    assert "so this is a description" in repr(found)
    with pytest.raises(errors.StatisticsError, match="no sample was tested"):
        found.in_conflict()
    assert not {"p", "q"} & set(found.to_dataframe("pair"))


def test_dependent_samples_are_not_tested_but_groups_are():
    with pytest.warns(errors.StatisticsWarning):
        found = qkov.detect_conflicts(three_tasks(), "a", "b", reference="r", seed=1, n_permutations=99, progress=False)
    assert found.sample_tests == {}
    assert found.attributes["test"]["unit"] == "clusters"
    assert not np.isnan(found.group_tests["p"]).any()
    assert "'a' has 8 samples in 6 clusters" in repr(found)


# Planted conflicts


ROWS, COLUMNS = simulated_gradients.ROWS, simulated_gradients.COLUMNS


def noise(rng, count, slices=4):
    profile = simulated_gradients.draw_profile(rng, slices)
    return simulated_gradients.draw_task(rng, profile, "light", count)


def test_planted_pairs_are_found_first():
    rng = np.random.default_rng(5)
    a, b = noise(rng, 20), noise(rng, 16)
    planted = [(3, 5), (11, 0), (7, 9), (15, 12), (0, 3), (18, 15)]
    for i, j in planted:
        b[j] = -a[i] + noise(rng, 1)[0]
    collector = arranged.collector_of(rows=ROWS, columns=COLUMNS, a=a, b=b)
    found = qkov.detect_conflicts(collector, "a", "b", progress=False)
    table = found.to_dataframe("pair").query("group == 'all'").sort_values("cosine")
    first = {(one.sample_a, one.sample_b) for one in table.head(len(planted)).itertuples()}
    wanted = {(f"a-{100 - i}", f"b-{100 - j}") for i, j in planted}
    assert first == wanted  # precision and recall 1 at as many as were planted
    inside_one = found.cosines[..., 2]
    lowest = {divmod(int(one), 16) for one in np.argsort(inside_one, axis=None)[: len(planted)]}
    assert len(lowest & set(planted)) >= 5  # of 6 in a single slice


def test_planted_samples_are_flagged_against_the_reference():
    rng = np.random.default_rng(6)
    profile = simulated_gradients.draw_profile(rng, 4)
    a, r, b = (simulated_gradients.draw_task(rng, profile, "light", count) for count in (20, 60, 24))
    direction = simulated_gradients.draw_task(rng, profile, "light", 1)[0]
    b += 0.6 * direction
    planted = [1, 4, 8, 13, 17]
    a[planted] -= 1.5 * direction
    collector = arranged.collector_of(rows=ROWS, columns=COLUMNS, a=a, b=b, r=r)
    found = qkov.detect_conflicts(
        collector, "a", "b", reference="r", clusters="iid", seed=1, n_permutations=199, progress=False
    )
    flagged = set(found.in_conflict())
    wanted = {f"a-{100 - one}" for one in planted}
    assert wanted <= flagged, "recall 1"
    assert len(wanted) / len(flagged) >= 0.8, "precision"
    assert found.group_tests["p"][-1] <= 0.05
    rows = found.to_dataframe("sample").query("task == 'a' and group == 'all'")
    assert set(rows.nsmallest(5, "mean_cosine")["sample"]) == wanted


# The null


def null_set(number):
    data = simulated_gradients.draw_null("heavy", number, stream=77)
    return {"a": data.g_a[:16, :4], "r": data.g_r[:32, :4], "b": data.g_b[:16, :4]}


def rates(sets):
    """Share of sets with any flagged sample, and of samples with p at most 0.1."""
    flagged, small = [], []
    for number in range(sets):
        collector = arranged.collector_of(rows=ROWS, columns=COLUMNS, **null_set(number))
        found = qkov.detect_conflicts(
            collector, "a", "b", reference="r", groups="all", clusters="iid", seed=1, n_permutations=1, progress=False
        )
        flagged.append(len(found.in_conflict()) > 0)
        small.append((found.sample_tests["p"][:, -1] <= 0.1).mean())
    return np.mean(flagged), np.mean(small)


def test_no_more_is_flagged_in_noise_than_promised():
    sets = 40
    any_flagged, small = rates(sets)
    # Every flagged sample is false here, so the false discovery rate is the chance of any. Three standard errors.
    assert any_flagged <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / sets)
    assert 0.03 <= small <= 0.1 + 3 * 0.3 / np.sqrt(sets * 6)


def test_samples_that_stand_out_of_their_own_task_would_break_the_promise(monkeypatch):
    monkeypatch.setattr(conflicts.conformal, "conformal_samples", outliers)
    any_flagged, _ = rates(20)
    assert any_flagged > 0.5


def outliers(scores_a, scores_r, *, q):
    """An invalid procedure: samples beyond one and a half standard deviations of A itself are called significant."""
    p = np.where(scores_a > scores_a.mean() + 1.5 * scores_a.std(), 0.001, 1.0)
    return conflicts.conformal.ConformalSamples(p, p, p <= q, q)


# Results, files, refusals


def test_a_saved_result_comes_back_and_equal_results_have_equal_bytes(tmp_path):
    found = against_reference()
    path = found.save(tmp_path / "x")
    loaded = qkov.load_conflicts(path)
    assert loaded == found
    for level in ("group", "sample", "pair"):
        assert loaded.to_dataframe(level).equals(found.to_dataframe(level))
    assert loaded != described()
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(errors.ResultFileError):
        qkov.load_conflicts(path)


def test_tables_carry_heads_and_ids():
    found = against_reference()
    table = found.to_dataframe()
    assert table["group"].tolist() == list(found.labels)
    for row in table.itertuples():
        if row.group != "all":
            assert f"head {row.kv_head if row.block in 'KV' else row.head}" in row.group
    samples = found.to_dataframe("sample")
    assert set(samples["sample"]) == {*found.sample_a, *found.sample_b}
    assert samples.query("task == 'b'")["p"].isna().all()
    with pytest.raises(errors.OptionError, match="level="):
        found.to_dataframe("heads")


def test_a_picture_is_reproducible_and_says_that_it_is_no_test():
    svg = against_reference().plot().to_svg()
    assert svg == against_reference().plot().to_svg()
    assert "that is not a test" in " ".join(part.split("<")[0] for part in svg.split("-- "))
    assert described(groups="layer").plot().axes[1].get_xticklabels()[-1].get_text() == "all"


def test_words_say_what_cosines_do_not_mean():
    for text in (repr(described()), described()._repr_html_(), repr(against_reference())):
        assert "A pair has no p value" in text
        assert "inside A" in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groups": "heads"}, errors.OptionError, "groups="),
        ({"metric": "kfac"}, errors.OptionError, "metric="),
        ({"q": 0}, errors.OptionError, "q=0"),
        ({"threshold": -2}, errors.OptionError, "threshold=-2"),
        ({"reference": "b", "seed": 1}, errors.OptionError, "not all different"),
        ({"reference": "r"}, errors.StatisticsError, "seed=None"),
        ({"clusters": {"c": "iid"}}, errors.StatisticsError, "given for 'c'"),
        ({"reference": "nothing", "seed": 1}, errors.UnknownTaskError, "no task 'nothing'"),
    ],
)
def test_requests_without_meaning_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        qkov.detect_conflicts(three_tasks(), "a", "b", progress=False, **options)


def test_arrays_that_do_not_fit_and_tasks_without_samples_are_refused():
    found = described()
    parts = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    for changed in ({"inner": found.inner[1:]}, {"clusters_a": (0, 1)}, {"mean_cosine_r": np.zeros((1, 33))}):
        with pytest.raises(errors.ShapeError):
            qkov.SampleConflicts(**parts | changed)
    collector = arranged.collector_of(rows=2, columns=3, a=np.ones((2, 4, 6)), b=np.ones((0, 4, 6)))
    with pytest.raises(errors.EmptyTaskError, match="'b' holds no samples"):
        qkov.detect_conflicts(collector, "a", "b", progress=False)
    collector = arranged.collector_of(rows=2, columns=3, a=np.full((2, 4, 6), 1e200), b=np.ones((2, 4, 6)))
    with pytest.raises(errors.NonFiniteError, match="Scale the loss down"):
        qkov.detect_conflicts(collector, "a", "b", metric="euclidean", progress=False)


def test_a_reference_needs_clusters_and_a_description_does_not():
    collector = three_tasks(clusters=False)
    with pytest.raises(errors.StatisticsError, match="without clusters"):
        qkov.detect_conflicts(collector, "a", "b", reference="r", seed=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = qkov.detect_conflicts(collector, "a", "b", progress=False)
    assert conflicts.INDEPENDENT in found.attributes["notes"]
