"""The result of all tests: labels, order of evidence, files, words and the picture with its dots."""

import re

import numpy as np
import pandas as pd
import pytest

import qkov
from qkov import errors, head_statistics
from tests.statistics_models import three_tasks, uneven_tasks

pytestmark = pytest.mark.filterwarnings("ignore::qkov.errors.StatisticsWarning")


def run(collector, *tasks, **options):
    test = qkov.QKOVStatistics(n_permutations=199, n_splits=5, **options)
    return test.test_heatmap(collector, *tasks, seed=5, progress=False)


@pytest.fixture(scope="module")
def found():
    return run(three_tasks(), "a", "b", "r")


@pytest.fixture(scope="module")
def uneven():
    """Layer 0 has 6 query heads on 2 kv heads, layer 1 has 3 on 3."""
    return run(uneven_tasks(), "a", "b", "r")


def made(found, **changes):
    """The same result with some fields or columns replaced."""
    names = ("blocks", "layers", "units", "columns", "by_layer", "attributes")
    fields = {name: getattr(found, name) for name in names} | changes
    return qkov.HeadStatistics(**fields)


def with_p(found, values):
    """The same result with other p values, of all three kinds."""
    columns = {f"source_{name}": np.asarray(values, np.float64) for name in ("p", "q", "p_maxt")}
    return made(found, columns=found.columns | columns)


def panels(figure):
    return {axes.get_title(loc="left")[0]: axes for axes in figure.axes if axes.get_title(loc="left")}


def dots(axes):
    (points,) = [one for one in axes.collections if len(getattr(one, "get_sizes", list)())]
    return [tuple(place) for place in np.asarray(points.get_offsets()).tolist()]


# Labels and tables


def test_table_names_what_heads_attend_to(uneven):
    table = uneven.table(head_types=types_of_uneven(uneven))
    named = {
        (row.block, row.layer, row.head if row.block in "QO" else row.kv_head): row.head_type
        for row in table.itertuples()
    }
    assert [named["Q", 0, head] for head in range(6)] == ["induction"] * 4 + ["none"] * 2
    assert [named["K", 0, head] for head in range(2)] == ["induction", "mixed"]
    assert named["V", 1, 2] == "none"
    assert "head_type" not in uneven.table()
    with pytest.raises(errors.ModelChangedError, match="another model"):
        uneven.table(head_types=types_of_uneven(uneven, model_fingerprint="another"))


def types_of_uneven(uneven, **attributes):
    """Induction heads 0 to 3 of layer 0; layer 1 has no heads 3 to 5."""
    names = qkov.pattern_scores.MEASURES
    scores = np.full((len(names), 2, 6), 0.1)
    scores[names.index("induction"), 0, :4] = 0.9
    scores[:, 1, 3:] = np.nan
    facts = {"model_fingerprint": uneven.attributes["model_fingerprint"]} | attributes
    return qkov.HeadTypes(
        types=names, scores=scores, chance=np.full((len(names), 2), 0.1), offset=np.zeros((2, 6)),
        layers=(0, 1), heads=range(6), attributes=facts,
    )  # fmt: skip


def test_table_has_a_row_per_slice_with_true_labels(uneven):
    table = uneven.table()
    assert len(table) == (6 + 2 + 2 + 6) + 4 * 3
    rows = set(zip(table["block"], table["layer"], table["head"].fillna(-1), table["kv_head"], strict=True))
    expected = {(block, 0, head, head // 3) for block in "QO" for head in range(6)}
    expected |= {(block, 0, -1, unit) for block in "KV" for unit in range(2)}
    expected |= {(block, 1, head, head) for block in "QO" for head in range(3)}
    expected |= {(block, 1, -1, unit) for block in "KV" for unit in range(3)}
    assert rows == expected
    assert table["layer"].dtype == np.int64
    assert str(table["head"].dtype) == str(table["kv_head"].dtype) == "Int64"
    for row in table.itertuples():
        unit = row.kv_head if row.block in "KV" else row.head
        at = list(zip(uneven.blocks, uneven.layers, uneven.units, strict=True)).index((row.block, row.layer, unit))
        assert row.source_statistic == uneven.columns["source_statistic"][at]


@pytest.mark.parametrize(
    ("alternative", "order"), [("greater", [4, 1, 0, 2, 3]), ("less", [2, 0, 1, 4, 3]), ("two-sided", [2, 4, 1, 0, 3])]
)
def test_table_is_sorted_by_evidence(found, alternative, order):
    statistic = np.array([1.0, 2.0, -5.0, np.nan, 4.0])
    p = np.where(np.isnan(statistic), np.nan, 0.01)
    columns = {f"source_{name}": p for name in head_statistics.SHOWN} | {"source_statistic": statistic}
    tests = {**found.attributes["tests"], "source": found.attributes["tests"]["source"] | {"alternative": alternative}}
    small = qkov.HeadStatistics(
        blocks=("Q",) * 5, layers=(1,) * 5, units=tuple(range(5)), columns=columns, by_layer={},
        attributes=found.attributes | {"tests": tests},
    )  # fmt: skip
    assert small.table()["head"].tolist() == order
    stronger = with_p(small, [0.2, 0.2, 0.2, np.nan, 0.3])
    assert stronger.table()["head"].tolist()[-2:] == [4, 3]


def test_layer_table_has_integer_layers(found):
    table = found.layer_table()
    assert table["layer"].tolist() == [0, 1]
    assert table["layer"].dtype == np.int64
    assert list(table.columns) == ["layer", "statistic", "p", "q", "p_maxt"]


def test_reliability_stands_beside_validity_and_the_seeds_average(found):
    table = found.reliability_table().set_index("map")
    assert set(table.columns) >= {"reliability", "norm_correlation", "swap_change", "num_slices"}
    average = table.loc[head_statistics.MAPS["marginal"]]
    assert average["norm_correlation"] == pytest.approx(1.0)
    assert average["swap_change"] == pytest.approx(0.0, abs=1e-12)
    assert table.loc[head_statistics.MAPS["lift"], "swap_change"] > 0.01
    assert made(found, attributes=found.attributes | {"reliability": {}}).reliability_table().empty


def test_dataset_has_the_columns_on_labelled_slices(found):
    data = found.data
    assert data.sizes == {"slice": 32}
    assert data["layer"].dtype == data["unit"].dtype == np.int64
    np.testing.assert_array_equal(data["source_p"], found.columns["source_p"])
    assert data.attrs["task_a"] == "a"


def test_maps_stand_on_query_heads_even_where_layers_group_them_differently(uneven):
    assert uneven.kv_index.tolist() == [[0, 0, 0, 1, 1, 1], [0, 1, 2, -1, -1, -1]]
    maps = uneven.maps(np.arange(len(uneven.blocks)))
    assert maps["Q"].tolist()[0] == [0, 1, 2, 3, 4, 5]
    assert maps["K"].tolist()[0] == [6, 6, 6, 7, 7, 7]
    np.testing.assert_array_equal(maps["K"][1], [19, 20, 21, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(maps["O"][1], [25, 26, 27, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(uneven.maps("lift")["Q"][0], uneven.columns["lift"][:6])


# What survives, in words and in the picture


@pytest.mark.parametrize("criterion", ["p_maxt", "q", "p"])
def test_survivors_are_those_at_or_below_the_level(found, criterion):
    values = np.full(32, 0.5)
    values[[3, 7]], values[9], values[11] = 0.05, 0.050001, np.nan
    kept = with_p(found, values).survives(0.05, criterion)
    assert np.flatnonzero(kept).tolist() == [3, 7]
    assert with_p(found, values).survives(0.06, criterion).sum() == 3


def test_unknown_criterion_is_refused(found):
    with pytest.raises(errors.OptionError, match="'bonferroni' is not known; expected one of p_maxt, q, p"):
        found.survives(criterion="bonferroni")


def test_conclusion_counts_and_limits(found):
    values = np.full(32, 0.5)
    values[[3, 7]], values[9] = 0.01, np.nan
    text = with_p(found, values).conclusion()
    assert text.startswith(
        "A is 'a', B is 'b', R is 'r'. In 2 of 31 tested slices (family-wise p <= 0.05): A's sensitive"
    )
    assert text.endswith("not that B does A harm: to coincide has no sign.")
    assert text in repr(with_p(found, values))


def test_html_shows_the_strongest_and_escapes_names(found):
    values = np.linspace(0.9, 0.001, 32)
    text = made(with_p(found, values), attributes=found.attributes | {"task_a": "<b>"})._repr_html_()
    assert "&lt;b&gt;" in text
    assert "<b>'" not in text
    assert len(re.findall("<tr", text)) == 11
    assert "The first 10 of 32 slices, by evidence" in text
    assert "NA" not in text


def test_a_surviving_kv_head_has_one_dot(uneven):
    labels = list(zip(uneven.blocks, uneven.layers, uneven.units, strict=True))
    survive = [("Q", 0, 4), ("K", 0, 1), ("K", 1, 2), ("V", 0, 0), ("V", 0, 1), ("O", 1, 0)]
    result = with_p(uneven, [0.01 if one in survive else 0.9 for one in labels])
    drawn = panels(result.plot())
    assert dots(drawn["Q"]) == [(4, 0)]
    assert dots(drawn["K"]) == [(4, 0), (2, 1)]
    assert dots(drawn["V"]) == [(1, 0), (4, 0)]
    assert dots(drawn["O"]) == [(0, 1)]


def test_the_picture_shows_the_effect_and_says_what_a_dot_means(found):
    figure = found.plot(alpha=0.1, criterion="q")
    shown = " ".join(" ".join(text.get_text().split()) for text in figure.texts)
    assert "a (A) into b (B), against r (R)" in shown
    assert f"{found.survives(0.1, 'q').sum()} of 32 slices with a dot: false discovery rate q <= 0.1" in shown
    assert "A dot says: A's sensitive parameters coincide with what B changes more than those of R do." in shown
    for block, axes in panels(figure).items():
        (image,) = axes.images
        np.testing.assert_array_equal(
            np.ma.filled(image.get_array(), np.nan), found.maps(np.log(found.columns["source_effect"]))[block]
        )
        assert image.norm.vmin == -image.norm.vmax


def test_without_a_reference_the_picture_says_so():
    result = run(three_tasks(), "a", "b")
    shown = " ".join(" ".join(text.get_text().split()) for text in result.plot().texts)
    assert "a (A) and b (B)" in shown
    assert "the tasks differ here; not that one interferes with the other" in shown
    for block, axes in panels(result.plot()).items():
        np.testing.assert_array_equal(axes.images[0].get_array(), result.maps("exchange_effect")[block])


def test_pictures_of_equal_results_are_equal(found):
    assert found.plot().to_svg() == made(found).plot().to_svg()


# Files


def test_saved_results_come_back(found, uneven, tmp_path):
    for result in (found, uneven, run(three_tasks(), "a", "b")):
        loaded = qkov.load_statistics(result.save(tmp_path / "x"))
        assert loaded == result
        assert loaded.identical(result)
        pd.testing.assert_frame_equal(loaded.table(), result.table())
        assert repr(loaded) == repr(result)
        assert loaded.plot().to_svg() == result.plot().to_svg()


def test_equal_results_have_equal_bytes(found, tmp_path):
    first = found.save(tmp_path / "x").read_bytes()
    flipped = {name: -1 * (-1 * values) for name, values in found.columns.items()}  # other bits of NaN, perhaps of 0
    again = made(found, columns=flipped, attributes=dict(reversed(found.attributes.items())))
    assert again.save(tmp_path / "y").read_bytes() == first
    assert run(three_tasks(), "a", "b", "r").save(tmp_path / "z").read_bytes() == first


def test_any_flipped_bit_is_refused(found, tmp_path):
    mine = [0, 7, 13]
    small = qkov.HeadStatistics(
        blocks=tuple(found.blocks[at] for at in mine), layers=(0,) * 3, units=(0, 1, 2),
        columns={f"source_{name}": found.columns[f"source_{name}"][mine] for name in head_statistics.SHOWN},
        by_layer={"p": [0.5]},
        attributes={name: found.attributes[name] for name in ("main_test", "task_a", "notes")},
    )  # fmt: skip
    path = small.save(tmp_path / "x")
    whole = path.read_bytes()
    assert qkov.load_statistics(path) == small
    for place in range(len(whole)):  # of every byte one bit; all bits in tests/test_result_file.py
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(errors.ResultFileError):
            qkov.load_statistics(path)


def test_a_heatmap_is_no_such_result(tmp_path):
    collector = three_tasks()
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=0)
    path = metric.compute_heatmap("a", "b", progress=False).save(tmp_path / "x")
    with pytest.raises(errors.ResultFileError, match="format 'qkov-heatmap'"):
        qkov.load_statistics(path)


def test_a_file_that_contradicts_itself_is_refused(found, tmp_path, monkeypatch):
    real = qkov.HeadStatistics._parts

    def shorter(self):
        content, arrays = real(self)
        return content | {"blocks": content["blocks"][1:]}, arrays

    monkeypatch.setattr(qkov.HeadStatistics, "_parts", shorter)
    path = found.save(tmp_path / "x")
    with pytest.raises(errors.ResultFileError, match="not a consistent result of tests"):
        qkov.load_statistics(path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"blocks": ("X",) * 32}, errors.OptionError, "not blocks"),
        ({"layers": (0.5,) * 32}, errors.OptionError, "integer layers"),
        ({"units": (0,) * 32}, errors.OptionError, "labelled twice"),
        ({"columns": {"lift": np.zeros(31)}}, errors.ShapeError, r"'lift' has shape \(31,\); expected \(32,\)"),
        ({"by_layer": {"p": np.zeros(3)}}, errors.ShapeError, r"expected \(2,\)"),
        ({"columns": {"lift": np.zeros(32)}}, errors.OptionError, "the main test lacks its effect"),
    ],
)
def test_fields_that_do_not_belong_together_are_refused(found, changes, error, message):
    with pytest.raises(error, match=message):
        made(found, **changes)


def test_results_cannot_be_changed(found):
    with pytest.raises(ValueError, match="read-only"):
        found.columns["source_p"][0] = 0.0
    given = {name: values.copy() for name, values in found.columns.items()}
    result = made(found, columns=given)
    given["source_p"][:] = 0.0
    assert result == found


def test_results_of_other_kinds_are_not_equal(found):
    assert found != "found"
    assert not found.identical(None)
    assert found != with_p(found, np.full(32, 0.5))
