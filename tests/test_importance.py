"""Importance: slow loops over every parameter give the same sums; what normalisation keeps; files; planted mistakes."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qkov
from qkov import errors, parts, reproducibility
from qkov.importance import compute_fisher_importance, load_fisher_importance
from tests.diagonals import head_of, make_diagonal, tiny_model

LAYOUTS = ("llama", "gpt2", "gpt_neox", "phi3", "opt", "bert")


def sums_by_loop(importance):
    """Sums over heads, a parameter at a time."""
    sums = {}
    for name, values in importance.values.items():
        for row, line in enumerate(values.tolist()):
            for column, value in enumerate(line):
                key = head_of(importance.config, name, row, column)
                sums[key] = sums.get(key, 0.0) + value
    return sums


def flat(heads):
    return {(*key, unit): value for key, values in heads.items() for unit, value in enumerate(values)}


def largest_error(found, expected):
    assert set(found) == set(expected)
    return max(abs(found[key] - expected[key]) / abs(expected[key]) for key in found)


@pytest.mark.parametrize("family", LAYOUTS)
def test_heads_are_the_sums_of_their_parameters(family):
    importance = compute_fisher_importance(make_diagonal(family, include="attention"))
    expected = sums_by_loop(importance)
    assert expected.pop(None, 0.0) == 0.0
    assert largest_error(flat(importance.heads()), expected) < 1e-13


@pytest.mark.parametrize("family", LAYOUTS)
def test_heads_add_up_to_blocks_and_to_layers(family):
    importance = compute_fisher_importance(make_diagonal(family, include="attention"))
    heads = importance.heads()
    for layout in importance.config.layers:
        by_parameter = {}
        for projection in layout.projections:
            total = heads[layout.layer, projection.block].sum()
            by_parameter[projection.param_name] = by_parameter.get(projection.param_name, 0.0) + total
        for name, total in by_parameter.items():
            assert total == pytest.approx(float(importance.values[name].sum()), rel=1e-13)
        assert sum(by_parameter.values()) == pytest.approx(importance.layers()[layout.layer], rel=1e-13)
        assert importance.query_heads()[layout.layer].sum() == pytest.approx(sum(by_parameter.values()), rel=1e-13)
        assert len(heads[layout.layer, "K"]) == layout.num_kv_heads


def test_query_head_has_an_equal_share_of_its_kv_head():
    importance = compute_fisher_importance(make_diagonal("llama"))  # 6 heads on 2 kv heads
    heads = importance.heads()
    for head, value in enumerate(importance.query_heads()[1]):
        shared = (heads[1, "K"][head // 3] + heads[1, "V"][head // 3]) / 3
        assert value == pytest.approx(heads[1, "Q"][head] + heads[1, "O"][head] + shared, rel=1e-14)


@pytest.mark.parametrize(("family", "reads"), [("llama", 2), ("gpt2", 1), ("opt", 1), ("bert", 1), ("phi3", 0)])
def test_channels_are_hidden_features_of_feed_forward_layers(family, reads):
    importance = compute_fisher_importance(make_diagonal(family))
    groups = parts.channel_groups(importance.weights)
    assert [group.layer for group in groups] == [0, 1]
    for group in groups:
        assert len(group.weights) == 1 + reads
        for channel, value in enumerate(importance.channels()[group.module_name]):
            total = 0.0
            for one in group.weights:
                matrix = importance.values[one.param_name].tolist()
                stored_out_in = family != "gpt2"
                writes = one.module_name == group.module_name
                total += sum(row[channel] for row in matrix) if writes == stored_out_in else sum(matrix[channel])
            assert value == pytest.approx(total, rel=1e-13)
    assert len(importance.to_dataframe("channel")) == sum(group.num_channels for group in groups)


def test_layer_normalisation_makes_every_layer_one_on_average_and_keeps_the_order_within():
    plain = compute_fisher_importance(make_diagonal())
    found = compute_fisher_importance(make_diagonal(), normalisation="layer")
    assert found.to_dataframe("layer")["mean"].to_numpy() == pytest.approx(1.0, rel=1e-13)
    divisors = dict(found.attributes["divisors"])
    for one in found.weights:
        torch.testing.assert_close(
            found.values[one.param_name] * divisors[one.layer], plain.values[one.param_name], rtol=1e-14, atol=0
        )
    assert divisors[0] == pytest.approx(plain.to_dataframe("layer")["mean"][0], rel=1e-14)
    assert divisors[0] != divisors[1]


def test_global_normalisation_keeps_ratios_between_layers():
    plain = compute_fisher_importance(make_diagonal())
    found = compute_fisher_importance(make_diagonal(), normalisation="global")
    count = sum(value.numel() for value in found.values.values())
    assert sum(float(value.sum()) for value in found.values.values()) == pytest.approx(count, rel=1e-13)
    assert found.layers()[0] / found.layers()[1] == pytest.approx(plain.layers()[0] / plain.layers()[1], rel=1e-13)


@settings(max_examples=25)
@given(st.integers(-40, 40), st.sampled_from(("layer", "global")))
def test_normalised_importance_does_not_depend_on_the_unit_of_the_loss(power, normalisation):
    base = make_diagonal("gpt2")
    scaled = dataclasses.replace(base, values={name: value * 2.0**power for name, value in base.values.items()})
    one, other = (compute_fisher_importance(diagonal, normalisation=normalisation) for diagonal in (base, scaled))
    assert all(torch.equal(one.values[name], other.values[name]) for name in one.values)


def test_a_layer_without_any_fisher_stays_zero():
    dead = make_diagonal(values=lambda name, shape: torch.full(shape, 0.0 if ".0." in name else 1.0))
    found = compute_fisher_importance(dead, normalisation="layer")
    assert found.layers() == {0: 0.0, 1: sum(one.weight_shape[0] * one.weight_shape[1] for one in found.weights) / 2}


def test_fisher_weight_is_half_the_fisher_times_the_squared_weight():
    diagonal, model = make_diagonal("gpt2"), tiny_model("gpt2")
    found = compute_fisher_importance(diagonal, saliency="fisher_weight", model=model)
    name = "transformer.h.1.attn.c_attn.weight"
    value, weight = diagonal.values[name].tolist(), dict(model.named_parameters())[name].tolist()
    expected = [[0.5 * f * w * w for f, w in zip(*rows, strict=True)] for rows in zip(value, weight, strict=True)]
    np.testing.assert_allclose(found.values[name].numpy(), expected, rtol=1e-14)
    assert found.attributes["unit"] == "expected rise of the loss, per token"
    by_state = compute_fisher_importance(diagonal, saliency="fisher_weight", model=model.state_dict())
    assert by_state == found


def test_weights_of_a_changed_model_are_refused():
    model = tiny_model("llama")
    base = make_diagonal("llama")
    known = dataclasses.replace(
        base, attributes=base.attributes | {"model_fingerprint": reproducibility.model_fingerprint(model)}
    )
    compute_fisher_importance(known, saliency="fisher_weight", model=model)
    other = dataclasses.replace(base, attributes=base.attributes | {"model_fingerprint": "other"})
    with pytest.raises(errors.ModelChangedError, match="collected"):
        compute_fisher_importance(other, saliency="fisher_weight", model=model)


def test_ties_are_ranked_in_the_order_of_the_model():
    flat_values = make_diagonal("llama", values=lambda name, shape: torch.ones(shape))
    table = compute_fisher_importance(flat_values).to_dataframe("head")
    for block in "QKVO":
        rows = table[table["block"] == block]
        assert rows["rank"].tolist() == list(range(1, len(rows) + 1))
        assert list(zip(rows["layer"], rows["kv_head"], strict=True)) == sorted(
            zip(rows["layer"], rows["kv_head"], strict=True)
        )


def test_ranking_has_the_highest_first_with_true_labels():
    importance = compute_fisher_importance(make_diagonal("gpt_neox"))
    ranking = importance.ranking(top_k=3)
    assert ranking["block"].tolist() == [block for block in "QKVO" for _ in range(3)]
    for block in "QKVO":
        expected = sorted(
            ((-value, layer, head) for (layer, one, head), value in flat(importance.heads()).items() if one == block)
        )[:3]
        rows = ranking[ranking["block"] == block]
        heads = rows["kv_head"] if block in "KV" else rows["head"]
        assert list(zip(rows["layer"], heads, strict=True)) == [(layer, head) for _, layer, head in expected]
        assert rows["head"].isna().all() == (block in "KV")
    by_mean = importance.ranking("weight", top_k=2, rank_by="mean")
    assert by_mean["rank"].tolist() == [1, 2]
    assert by_mean["mean"].is_monotonic_decreasing


def test_table_of_heads_says_where_they_lie():
    importance = compute_fisher_importance(make_diagonal("gpt2"))
    for row in importance.to_dataframe("head").itertuples():
        part = importance.values[row.parameter][row.row_start : row.row_stop, row.column_start : row.column_stop]
        assert part.numel() == row.num_parameters
        assert float(part.sum()) == pytest.approx(row.sum, rel=1e-13)
        assert row.mean == row.sum / row.num_parameters


def test_weights_outside_layers_are_a_row_of_their_own():
    importance = compute_fisher_importance(make_diagonal("llama", include="all"), normalisation="layer")
    table = importance.to_dataframe("layer")
    assert table["layer"].isna().tolist() == [False, False, True]
    assert importance.to_dataframe("weight")["kind"].iloc[-1] == "other"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_importance_comes_back_in_every_bit(tmp_path, dtype):
    importance = compute_fisher_importance(make_diagonal("gpt2", dtype=dtype), normalisation="global")
    path = importance.save(tmp_path / "importance.safetensors")
    loaded = load_fisher_importance(path)
    assert loaded == importance
    assert (loaded.weights, loaded.config) == (importance.weights, importance.config)
    assert loaded.to_dataframe("head").equals(importance.to_dataframe("head"))
    again = loaded.save(tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()


def test_foreign_files_are_refused(tmp_path):
    path = compute_fisher_importance(make_diagonal()).save(tmp_path / "x")
    with pytest.raises(errors.ResultFileError, match="qkov-pruning-masks"):
        qkov.load_pruning_masks(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(errors.ResultFileError, match="checksum"):
        load_fisher_importance(path)


def test_result_says_what_it_does_not_mean():
    importance = compute_fisher_importance(make_diagonal(task="a<b"))
    assert "not what removing" in repr(importance)
    assert "a&lt;b" in importance._repr_html_()


def test_importance_without_a_layout_knows_weights_but_no_heads():
    importance = compute_fisher_importance(dataclasses.replace(make_diagonal(), config=None))
    assert len(importance.to_dataframe("weight")) == len(importance.weights)
    assert "FisherImportance" in importance._repr_html_()
    with pytest.raises(errors.LayoutError, match=r"QKOVConfig\.from_model"):
        importance.heads()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"normalisation": "row"}, errors.OptionError, "normalisation"),
        ({"saliency": "magnitude"}, errors.OptionError, "saliency"),
        ({"saliency": "fisher_weight"}, errors.OptionError, "model="),
        ({"saliency": "fisher_weight", "model": {}}, errors.UnknownParameterError, "q_proj"),
        ({"saliency": "fisher_weight", "model": "short"}, errors.ShapeError, r"\(1, 1\)"),
    ],
)
def test_requests_without_meaning_are_refused(options, error, words):
    diagonal = make_diagonal()
    if options.get("model") == "short":
        options = options | {"model": {name: torch.zeros(1, 1) for name in diagonal.values}}
    with pytest.raises(error, match=words):
        compute_fisher_importance(diagonal, **options)


def test_what_is_no_diagonal_and_unknown_levels_are_refused():
    with pytest.raises(errors.OptionError, match="dict"):
        compute_fisher_importance({})
    with pytest.raises(errors.OptionError, match="level"):
        compute_fisher_importance(make_diagonal()).to_dataframe("block")


@pytest.mark.parametrize("mistake", ["rows of O", "one head further", "squared sum"])
def test_a_wrong_sum_is_caught(monkeypatch, mistake):
    """Mistakes planted in the sums are seen by the loop over parameters."""
    right = parts.axis_sums
    if mistake == "rows of O":  # hidden == heads * width here, so a wrong axis raises no error
        importance = compute_fisher_importance(make_diagonal("opt", include="attention"))
        monkeypatch.setattr(parts, "axis_sums", lambda tensor, axis: right(tensor, 0))
    elif mistake == "one head further":
        importance = compute_fisher_importance(make_diagonal("gpt2", include="attention"))
        monkeypatch.setattr(parts, "axis_sums", lambda tensor, axis: np.roll(right(tensor, axis), 4))
    else:
        importance = compute_fisher_importance(make_diagonal("phi3", include="attention"))
        monkeypatch.setattr(parts, "axis_sums", lambda tensor, axis: tensor.sqrt().sum(1 - axis).numpy() ** 2)
    assert largest_error(flat(importance.heads()), sums_by_loop(importance)) > 0.01
