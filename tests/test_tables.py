"""Datasets and tables: true labels, each kv head once in the truth, absent slices left out."""

import numpy as np
import pytest

from qkov import errors
from qkov.geometry import BLOCKS
from tests.heatmaps import make_heatmap, without_layer_one


def test_dataset_is_selected_by_true_numbers_and_ids():
    heatmap = make_heatmap(layers=(4, 9))
    data = heatmap.data
    assert data is heatmap.data
    assert data["scores"].dims == ("block", "layer", "head", "sample_a", "sample_b")
    found = data["scores"].sel(block="K", layer=9, head=3, sample_a="heapq:20", sample_b=101)
    assert float(found) == heatmap.arrays["K"][2, 1, 1, 1]
    assert int(data["kv_head"].sel(layer=9, head=3)) == 1
    for block in BLOCKS:
        np.testing.assert_array_equal(data["layer_head_avg"].sel(block=block), heatmap[block]["layer_head_avg"])
        np.testing.assert_array_equal(data["fisher_median"].sel(block=block), heatmap[block]["health"]["fisher_median"])
    assert data.attrs["task_b"] == "prose"
    assert "no information on task A" in data.attrs["average_caveat"]


def test_truth_dataset_has_kv_heads_for_k_and_v():
    heatmap = make_heatmap(kv_heads=(5, 6))
    assert heatmap.by_slice["Q"].dims == ("layer", "head", "sample_a", "sample_b")
    assert heatmap.by_slice["V"].dims == ("layer", "kv_head", "sample_a", "sample_b")
    found = heatmap.by_slice["V"].sel(layer=1, kv_head=6, sample_a="heapq:10", sample_b=100)
    assert float(found) == heatmap.arrays["V"][1, 0, 1, 1]
    total = float(heatmap.by_slice["V"].sum())
    assert total == pytest.approx(heatmap.arrays["V"].sum(), rel=1e-14)


def test_awkward_ids_are_coordinates_as_they_are():
    heatmap = make_heatmap(sample_a=(2**80, -1, 0), sample_b=("a\0", "a"))
    assert heatmap.data["sample_a"].values.tolist() == [2**80, -1, 0]
    assert heatmap.data["sample_b"].values.tolist() == ["a\0", "a"]


def test_pair_table_holds_each_truth_once():
    heatmap = make_heatmap(layers=(4, 9))
    table = heatmap.to_dataframe()
    assert list(table) == ["block", "layer", "head", "kv_head", "sample_a", "sample_b", "score"]
    assert len(table) == sum(scores.size for scores in heatmap.arrays.values())
    assert table["head"].isna().equals(table["block"].isin(["K", "V"]))
    for row in table.itertuples():
        unit = row.kv_head if row.block in ("K", "V") else row.head
        place = heatmap.sample_a.index(row.sample_a), heatmap.sample_b.index(row.sample_b)
        assert heatmap.arrays[row.block][(*place, heatmap.layers.index(row.layer), unit)] == row.score
        assert row.block in ("K", "V") or row.kv_head == row.head // 2
    assert table.attrs["variant"] == "unsigned"


def test_slice_table_has_statistics_of_each_slice():
    heatmap = make_heatmap(variant="signed", pool="pooled")
    table = heatmap.to_dataframe("slice")
    assert list(table)[4:] == ["mean", "sd", "sd_over_a", "max", "rank", "damping_share", "fisher_median"]
    assert len(table) == 2 * (4 + 2 + 2 + 4)
    row = table[(table["block"] == "K") & (table["layer"] == 1) & (table["kv_head"] == 0)].iloc[0]
    scores = heatmap.arrays["K"][:, :, 1, 0]
    assert row["mean"] == pytest.approx(scores.mean(), rel=1e-13)
    assert row["sd"] == pytest.approx(np.sqrt((scores**2).mean() - scores.mean() ** 2), rel=1e-12)
    assert row["sd_over_a"] == pytest.approx(np.std([one.mean() for one in scores]), rel=1e-13)
    assert row["max"] == scores.max()
    assert row["fisher_median"] == heatmap.health["K"]["fisher_median"][1, 0]
    queries = table[table["block"] == "Q"].sort_values("rank")
    assert list(queries["mean"]) == sorted(heatmap.mean_map("Q").ravel())
    assert list(queries["rank"]) == list(range(1, 9))


def test_rank_one_is_the_largest_of_an_unsigned_score():
    table = make_heatmap().to_dataframe("slice")
    queries = table[table["block"] == "Q"]
    assert queries["mean"].idxmax() == queries["rank"].idxmin()


def test_absent_slices_have_no_rows():
    heatmap = make_heatmap(**without_layer_one(make_heatmap()))
    slices = heatmap.to_dataframe("slice")
    assert slices["block"].value_counts().to_dict() == {"Q": 7, "K": 2, "V": 2, "O": 7}
    assert slices["mean"].notna().all()
    assert slices[(slices["block"] == "Q") & (slices["layer"] == 1)]["kv_head"].isna().all()
    assert heatmap.to_dataframe()["score"].notna().all()
    assert (heatmap.data["kv_head"].values[1] == -1).all()
    assert np.isnan(heatmap.data["scores"].sel(block="K", layer=1)).all()


def test_empty_task_b_gives_an_empty_pair_table_and_slices_without_spread():
    heatmap = make_heatmap(num_b=0)
    assert len(heatmap.to_dataframe()) == 0
    assert "score" in heatmap.to_dataframe()
    slices = heatmap.to_dataframe("slice")
    assert (slices["mean"] == 0).all()
    assert slices[["sd", "sd_over_a", "max"]].isna().all(axis=None)
    assert heatmap.data.sizes["sample_b"] == 0


def test_unknown_level_is_refused():
    with pytest.raises(errors.OptionError, match=r"'head'.*\['pair', 'slice'\]"):
        make_heatmap().to_dataframe("head")
