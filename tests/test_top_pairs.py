"""The strongest pairs come with what their scores are made of, what survives on held-out tokens, and no p value."""

import numpy as np
import pytest
import torch

import qkov
from qkov import errors, losses, top_pairs
from qkov.statistics import slices
from tests import builders
from tests.statistics_models import gradients_of, three_tasks

PARTS = ["slice_mean", "a_part", "b_part", "interaction"]
BATCHES = {
    task: builders.build_batch(lengths, seed=seed)
    for seed, (task, lengths) in enumerate({"a": (7, 6, 8), "b": (8, 5)}.items())
}


def scored(collector, *tasks, **options):
    options = {"min_samples_for_fisher": 0, "fisher_pool": "pooled"} | options
    return qkov.QKOVInterferenceMetric(collector.config, collector, **options).compute_heatmap(*tasks, progress=False)


def collected(batches, family="llama", **options):
    collector = qkov.FisherCollector()
    for task, batch in batches.items():
        collector.collect_fisher(builders.build_model(family), batch, task, progress=False, **options)
    return collector


@pytest.fixture(scope="module")
def halves():
    parts = {task: qkov.split_labels(batch, seed=3) for task, batch in BATCHES.items()}
    return [collected({task: pair[which] for task, pair in parts.items()}) for which in (0, 1)]


@pytest.fixture(scope="module")
def described(halves):
    first, second = halves
    return qkov.describe_top_pairs(scored(first, "a", "b"), first, held_out=second, top_k=3)


# Parts of a score


@pytest.mark.parametrize("variant", ["unsigned", "natural", "signed", "dot"])
def test_parts_add_up_to_the_score_of_the_heatmap(variant):
    collector = three_tasks()
    heatmap = scored(collector, "a", "b", variant=variant)
    table = qkov.describe_top_pairs(heatmap, collector, top_k=4).to_dataframe()
    assert len(table) == 16
    np.testing.assert_allclose(table[PARTS].sum(axis=1), table["score"], rtol=1e-12)
    for row in table.itertuples():
        i, j = heatmap.sample_a.index(row.sample_a), heatmap.sample_b.index(row.sample_b)
        unit = row.kv_head if row.block in "KV" else row.head
        scores = heatmap.arrays[row.block][:, :, row.layer, unit]
        assert row.score == scores[i, j]
        additive = scores.mean(1, keepdims=True) + scores.mean(0, keepdims=True) - scores.mean()
        assert row.interaction == pytest.approx((scores - additive)[i, j], rel=1e-9)
        assert row.slice_mean == pytest.approx(scores.mean())
        assert row.kv_head == (row.head // 3 if row.block in "QO" else row.kv_head)
    assert table["head"].isna().tolist() == [block in "KV" for block in table["block"]]


def test_order_is_that_of_the_heatmap():
    collector = three_tasks()
    heatmap = scored(collector, "a", "b")
    rows = qkov.describe_top_pairs(heatmap, collector, top_k=4).rows
    expected = [row["score"] for block in "QKVO" for row in heatmap.top_conflicts(block, top_k=4)]
    assert [row["score"] for row in rows] == expected


# The largest parameter


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("tile", [5 * 4 * 14, 2**22])
def test_the_largest_parameter_is_found_in_full_gradients(family, tile):
    collector = three_tasks(family)
    heatmap = scored(collector, "a", "b", tile_elements=tile)
    indexer = qkov.QKOVIndexer(collector.config)
    grads = {task: [collector.get_sample_gradients(task, one) for one in collector.sample_ids(task)] for task in "ab"}
    tokens = {task: [one.num_tokens for one in collector.samples(task)] for task in "ab"}
    for row in qkov.describe_top_pairs(heatmap, collector, top_k=2).to_dataframe().itertuples():
        layout = collector.config.layer(row.layer)
        group = layout.num_heads // layout.num_kv_heads
        head = row.kv_head * group if row.block in "KV" else row.head
        place = indexer.get_slice(row.layer, head, row.block)
        squares = {}
        for task, found in grads.items():
            counts = torch.tensor(tokens[task], dtype=torch.float64)[:, None, None]
            squares[task] = torch.stack([grad[place.param_name] for grad in found]).square() / counts
        f = (squares["a"].mean(0) + squares["b"].mean(0)) / 2
        i, j = heatmap.sample_a.index(row.sample_a), heatmap.sample_b.index(row.sample_b)
        terms = squares["a"][i] / f * grads["b"][j][place.param_name].abs()
        mine = torch.zeros_like(terms)
        mine[place.index] = terms[place.index].nan_to_num()
        at = np.unravel_index(int(mine.argmax()), mine.shape)
        assert row.parameter == f"{place.param_name}[{at[0]}, {at[1]}]"
        assert row.largest_share == pytest.approx(float(mine.max() / mine.sum()), rel=1e-6)
        share = squares["a"][(i, *at)] / squares["a"][(slice(None), *at)].sum()
        assert row.fisher_share == pytest.approx(float(share), rel=1e-9)
        assert 0 <= row.fisher_share <= 1


def test_a_bias_can_be_the_largest_parameter():
    model = builders.build_model("llama", layers=1)
    collector = qkov.FisherCollector()
    for task, batch in BATCHES.items():
        collector.collect_fisher(model, batch, task, progress=False)
    heatmap = scored(collector, "a", "b", include_bias=True, variant="dot")
    names = {row["parameter"] for row in qkov.describe_top_pairs(heatmap, collector, top_k=40).rows}
    assert any(".bias[" in name for name in names)
    biases = {name for name in names if ".bias[" in name}
    assert all(name.count(",") == 0 for name in biases)


# The held-out half


def test_gradients_of_the_halves_add_up_to_the_whole(halves):
    whole = collected(BATCHES)
    for task in "ab":
        for sample_id in whole.sample_ids(task):
            grads = [one.get_sample_gradients(task, sample_id) for one in (whole, *halves)]
            for name in grads[0]:  # the softmax of the model is float32 even here: 1e-7, not 1e-15
                scale = grads[0][name].abs().max()
                torch.testing.assert_close(grads[1][name] + grads[2][name], grads[0][name], rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("padding", ["right", "left"])
def test_each_label_is_in_one_half(padding):
    batch = builders.build_batch((6, 9, 3), padding=padding)
    first, second = (half["labels"] for half in qkov.split_labels(batch, seed=1))
    targets = losses.target_labels(batch)
    kept = (first != losses.IGNORED).int() + (second != losses.IGNORED).int()
    assert torch.equal(kept == 1, targets != losses.IGNORED)
    assert kept.max() == 1
    for half in (first, second):
        assert torch.equal(half[half != losses.IGNORED], targets[half != losses.IGNORED])
    assert (second != losses.IGNORED).sum(1).tolist() == [3, 4, 1]
    again, _ = qkov.split_labels(batch, seed=1)
    other, _ = qkov.split_labels(batch, seed=2)
    assert torch.equal(again["labels"], first)
    assert not torch.equal(other["labels"], first)


def test_the_held_out_score_is_that_of_the_other_collector(halves, described):
    _, second = halves
    metric = qkov.QKOVInterferenceMetric(second.config, second, fisher_pool="pooled", min_samples_for_fisher=0)
    for row in described.rows:
        head = row["head"] if row["head"] is not None else row["kv_head"] * 3
        alone = metric.compute_sample_pair("a", row["sample_a"], "b", row["sample_b"], row["layer"], head)
        assert row["held_out_score"] == pytest.approx(alone[row["block"]], rel=1e-12)
        assert row["kept"] == pytest.approx(row["held_out_score"] / row["score"])
    assert top_pairs.NO_HELD_OUT not in described.attributes["notes"]


def test_the_same_labels_are_no_held_out_half(halves):
    first, _ = halves
    with pytest.raises(errors.StatisticsError, match="same labels in both collectors"):
        qkov.describe_top_pairs(scored(first, "a", "b"), first, held_out=first)


@pytest.mark.parametrize(
    ("lengths", "seed", "message"), [((4, 2), 1, "row 1 has 1 labels"), ((4, 4), None, "seed=None")]
)
def test_a_batch_that_cannot_be_split_is_refused(lengths, seed, message):
    with pytest.raises(errors.StatisticsError, match=message):
        qkov.split_labels(builders.build_batch(lengths), seed=seed)


# Samples against a reference


def test_p_values_are_those_of_samples_against_the_reference():
    collector = three_tasks()
    with pytest.warns(errors.StatisticsWarning, match="one sample among"):
        found = qkov.describe_top_pairs(
            scored(collector, "a", "b"), collector, reference_task="r", clusters="iid", top_k=2
        )
    (g_a, labels), (g_b, _), (g_r, _) = (gradients_of(collector, task) for task in "abr")
    assert top_pairs.SAMPLE_P in found.attributes["notes"]
    for row in found.rows:
        unit = row["kv_head"] if row["block"] in "KV" else row["head"]
        at = labels.index((row["block"], row["layer"], unit))
        lifts = slices.log_lifts(np.concatenate([g_a[at], g_r[at]]), g_b[at])
        i = collector.sample_ids("a").index(row["sample_a"])
        assert row["p"] == pytest.approx((1 + (lifts[8:] >= lifts[i]).sum()) / 8)
        assert row["p"] <= row["q"] <= 1


def test_dependent_samples_have_no_p_value():
    collector = three_tasks()
    with pytest.raises(errors.StatisticsError, match="8 samples in 6 clusters"):
        qkov.describe_top_pairs(scored(collector, "a", "b"), collector, reference_task="r")
    with pytest.raises(errors.OptionError, match="one of the two"):
        qkov.describe_top_pairs(scored(collector, "a", "b"), collector, reference_task="b", clusters="iid")


@pytest.mark.filterwarnings("ignore::qkov.errors.StatisticsWarning")
def test_a_slice_without_gradients_has_no_p_values():
    model = builders.build_model("llama", layers=1)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[:, 12:] = 0  # what the second kv head and its queries reach
    collector = qkov.FisherCollector()
    for task, lengths in (("a", (5, 6, 7)), ("b", (6, 5)), ("r", (7, 5, 6))):
        batch = builders.build_batch(lengths, seed=len(lengths) + ord(task))
        collector.collect_fisher(model, batch, task, progress=False)
    heatmap = scored(collector, "a", "b")
    found = qkov.describe_top_pairs(heatmap, collector, reference_task="r", clusters="iid", top_k=200)
    dead = [row for row in found.rows if row["block"] == "V" and row["kv_head"] == 1]
    assert len(dead) == 6
    for row in dead:
        assert (row["score"], row["largest_share"], row["fisher_share"], row["p"]) == (0.0, 0.0, 0.0, None)
    assert all(0 < row["p"] <= 1 for row in found.rows if row["kv_head"] == 0)
    assert any("a sample has no gradient; no sample is tested there" in note for note in found.attributes["notes"])


def test_no_pair_has_a_p_value(described):
    assert top_pairs.NO_PAIR_P in described.attributes["notes"]
    assert not {"p", "q"} & set(described.rows[0])
    for text in (repr(described), described._repr_html_()):
        assert "A pair has no p value" in text


# Files and refusals


def test_a_saved_list_comes_back_and_equal_lists_have_equal_bytes(described, halves, tmp_path):
    path = described.save(tmp_path / "x")
    loaded = qkov.load_top_pairs(path)
    assert loaded == described
    assert loaded.to_dataframe().equals(described.to_dataframe())
    first, second = halves
    again = qkov.describe_top_pairs(scored(first, "a", "b"), first, held_out=second, top_k=3)
    assert again.save(tmp_path / "y").read_bytes() == path.read_bytes()
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(errors.ResultFileError):
        qkov.load_top_pairs(path)


def test_another_heatmap_than_the_collectors_is_refused(halves):
    first, second = halves
    with pytest.raises(errors.OptionError, match="Pass the collector that the heatmap was made from"):
        qkov.describe_top_pairs(scored(first, "a", "b"), second)
    other = collected(BATCHES, "gpt2")
    with pytest.raises(errors.ModelChangedError):
        qkov.describe_top_pairs(scored(first, "a", "b"), other)


@pytest.mark.filterwarnings("ignore::qkov.errors.EmptyTaskWarning")
def test_a_heatmap_without_pairs_has_no_top(halves):
    found = qkov.describe_top_pairs(scored(halves[0], "a", "nothing"), halves[0])
    assert found.rows == ()
