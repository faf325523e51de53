"""The labelled result: its mapping, its truth on kv heads, its labels, its checks."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qkov import errors
from qkov.geometry import BLOCKS
from qkov.heatmap import Heatmap, load_heatmap
from tests.heatmaps import make_heatmap, without_layer_one


def with_scores(heatmap, block, scores, **fields):
    """Replace one block's scores in a copy of a result made by ``make_heatmap``."""
    return make_heatmap(
        num_a=len(heatmap.sample_a),
        num_b=len(heatmap.sample_b),
        layers=heatmap.layers,
        arrays=dict(heatmap.arrays) | {block: scores},
        **fields,
    )


def test_mapping_has_the_four_blocks_and_the_public_keys():
    heatmap = make_heatmap()
    assert list(heatmap) == ["Q", "K", "V", "O"]
    assert len(heatmap) == 4
    assert "X" not in heatmap
    for block in heatmap:
        assert set(heatmap[block]) == {"scores", "layer_head_avg", "top_conflicts", "health"}
        assert heatmap[block]["scores"].shape == (3, 2, 2, 4)
        assert heatmap[block]["layer_head_avg"].shape == (2, 4)
        assert {values.shape for values in heatmap[block]["health"].values()} == {(2, 4)}


def test_changing_a_view_does_not_change_the_result():
    heatmap = make_heatmap()
    heatmap["Q"].clear()
    assert "scores" in heatmap["Q"]
    with pytest.raises(ValueError, match="read-only"):
        heatmap.arrays["Q"][0, 0, 0, 0] = 1.0


def test_query_head_view_repeats_the_kv_heads():
    heatmap = make_heatmap()
    for block in "KV":
        truth = heatmap.arrays[block]
        assert truth.shape == (3, 2, 2, 2)
        np.testing.assert_array_equal(heatmap[block]["scores"], truth.repeat(2, axis=3))
        np.testing.assert_array_equal(heatmap[block]["layer_head_avg"], truth.mean((0, 1)).repeat(2, axis=1))


def test_view_follows_kv_index_for_a_choice_of_heads():
    heatmap = make_heatmap(heads=(7, 2), kv_heads=(1, 3), kv_index=[[1, 0], [1, 0]])
    np.testing.assert_array_equal(heatmap["K"]["scores"], heatmap.arrays["K"][..., ::-1])
    assert {(row["head"], row["kv_head"]) for row in heatmap["K"]["top_conflicts"]} == {(7, 3), (2, 1)}


def test_block_average_counts_each_kv_head_once():
    # kv head 0 serves three query heads, kv head 1 one: an average over query heads would be 1.5.
    kv_index = np.array([[0, 0, 0, 1]])
    scores = np.broadcast_to([1.0, 3.0], (3, 2, 1, 2))
    heatmap = with_scores(make_heatmap(layers=(0,)), "K", scores, kv_index=kv_index)
    assert heatmap.block_average("K") == 2.0


def test_top_conflicts_are_ids_in_descending_order_and_list_a_kv_head_once():
    heatmap = make_heatmap()
    rows = heatmap.top_conflicts("K", top_k=100)
    assert len(rows) == heatmap.arrays["K"].size
    assert [row["score"] for row in rows] == sorted(heatmap.arrays["K"].ravel(), reverse=True)
    for row in rows:
        place = heatmap.sample_a.index(row["sample_i"]), heatmap.sample_b.index(row["sample_j"])
        assert heatmap.arrays["K"][(*place, row["layer"], row["kv_head"])] == row["score"]
        assert row["head"] == 2 * row["kv_head"]
    assert list(rows[0]) == ["sample_i", "sample_j", "layer", "head", "kv_head", "score"]
    assert "kv_head" not in heatmap["Q"]["top_conflicts"][0]
    assert len(heatmap["Q"]["top_conflicts"]) == 10
    json.dumps(rows)


def test_conflict_of_a_signed_score_is_its_most_negative_end():
    heatmap = make_heatmap(variant="signed", pool="pooled")
    found = [row["score"] for row in heatmap.top_conflicts("O", top_k=5)]
    assert found == sorted(heatmap.arrays["O"].ravel())[:5]
    assert found[0] < 0


def test_ties_come_by_layer_then_head_then_sample_order():
    heatmap = make_heatmap(layers=(5, 2))
    heatmap = with_scores(heatmap, "Q", np.ones((3, 2, 2, 4)))
    rows = heatmap.top_conflicts("Q", top_k=48)
    order = [
        (r["layer"], r["head"], heatmap.sample_a.index(r["sample_i"]), heatmap.sample_b.index(r["sample_j"]))
        for r in rows
    ]
    assert order == sorted(order)
    assert order[0][0] == 2
    assert rows[:10] == heatmap["Q"]["top_conflicts"]


@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5]), min_size=24, max_size=24),
    top_k=st.integers(0, 30),
    ascending=st.booleans(),
)
def test_top_list_is_a_stable_sort(values, top_k, ascending):
    scores = np.array(values).reshape(3, 2, 1, 4)
    order = {"conflict_order": "ascending" if ascending else "descending"}
    heatmap = with_scores(make_heatmap(layers=(0,)), "Q", scores, attributes=order)
    expected = sorted(scores.transpose(2, 3, 0, 1).ravel(), reverse=not ascending)[:top_k]
    rows = heatmap.top_conflicts("Q", top_k=top_k)
    assert [row["score"] for row in rows] == expected
    keys = [(row["score"], row["head"], row["sample_i"], row["sample_j"]) for row in rows]
    assert keys == sorted(keys, key=lambda key: (key[0] if ascending else -key[0], *key[1:]))


def test_absent_slices_stay_out_of_averages_and_top_lists():
    full = make_heatmap()
    heatmap = make_heatmap(**without_layer_one(full))
    for block in BLOCKS:
        exists = heatmap.exists(block)
        assert not exists.all()
        expected = full.arrays[block][:, :, exists]
        assert heatmap.block_average(block) == pytest.approx(expected.mean(), rel=1e-14)
        rows = heatmap.top_conflicts(block, top_k=1000)
        assert len(rows) == expected.size
        assert np.isfinite([row["score"] for row in rows]).all()
        np.testing.assert_array_equal(np.isnan(heatmap.mean_map(block)), ~exists)
    np.testing.assert_array_equal(np.isnan(heatmap["K"]["layer_head_avg"]), heatmap.kv_index < 0)


def test_a_block_absent_everywhere_has_no_average():
    full = make_heatmap()
    nothing = np.zeros((3, 2, 2, 0))
    health = {block: {} for block in BLOCKS}
    arrays = dict(full.arrays) | {"K": nothing, "V": nothing}
    heatmap = Heatmap(
        **_fields(full) | {"arrays": arrays, "kv_heads": (), "kv_index": -np.ones((2, 4)), "health": health}
    )
    assert np.isnan(heatmap.block_average("K"))
    assert heatmap["V"]["top_conflicts"] == []
    assert np.isnan(heatmap["V"]["scores"]).all()
    assert heatmap["V"]["scores"].shape == (3, 2, 2, 4)


def _fields(heatmap):
    return {name: getattr(heatmap, name) for name in Heatmap.__dataclass_fields__}


def test_empty_task_b_gives_zero_averages_and_an_invalid_result(tmp_path):
    heatmap = make_heatmap(num_b=0)
    assert heatmap.attributes["valid"] is False
    for block in heatmap:
        assert heatmap[block]["scores"].shape == (3, 0, 2, 4)
        np.testing.assert_array_equal(heatmap[block]["layer_head_avg"], np.zeros((2, 4)))
        assert heatmap[block]["top_conflicts"] == []
        assert heatmap.block_average(block) == 0.0
    assert load_heatmap(heatmap.save(tmp_path / "empty.safetensors")).identical(heatmap)
    assert "strongest conflict none" in repr(heatmap)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_with_its_place(bad):
    scores = make_heatmap().arrays["K"].copy()
    scores[2, 1, 1, 0] = bad
    with pytest.raises(errors.NonFiniteError, match=r"Block K, layer 1, kv head 0 .*\(1 slices do\)"):
        with_scores(make_heatmap(), "K", scores)


def test_a_number_in_an_absent_slice_is_refused():
    fields = without_layer_one(make_heatmap())
    fields["arrays"]["V"][0, 0, 1, 0] = 1.0
    with pytest.raises(errors.ShapeError, match="Block V holds a number in a slice declared absent"):
        make_heatmap(**fields)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"sample_a": ("x", 1, 2)}, errors.SampleIdError, "type int, str"),
        ({"sample_a": (True, False, 2)}, errors.SampleIdError, "type bool"),
        ({"sample_a": ("x", "y", "x")}, errors.SampleIdError, "'x' more than once"),
        ({"sample_a": (1, 2)}, errors.ShapeError, "Scores of block Q have shape"),
        ({"layers": (3, 3)}, errors.ShapeError, "layers is"),
        ({"heads": (0, 1, 2, -3)}, errors.ShapeError, "heads is"),
        ({"kv_index": np.full((2, 4), 2)}, errors.ShapeError, "kv_index runs from 2 to 2"),
        ({"kv_index": np.zeros((2, 3))}, errors.ShapeError, "kv_index has shape"),
        ({"present": np.zeros((2, 4))}, errors.ShapeError, "a query head that is not present"),
        ({"arrays": {"Q": np.zeros(1)}}, errors.ShapeError, "arrays has blocks"),
        ({"health": {"Q": {}}}, errors.ShapeError, "health has blocks"),
        ({"health": {"Q": {"x": 1}, "K": {}, "V": {}, "O": {}}}, errors.ShapeError, "different statistics"),
        ({"health": {block: {"x": np.zeros(1)} for block in BLOCKS}}, errors.ShapeError, r"health\['Q'\]\['x'\]"),
        ({"attributes": {"x": float("nan")}}, errors.OptionError, "cannot be written as JSON"),
        ({"attributes": {"x": {1, 2}}}, errors.OptionError, "cannot be written as JSON"),
        ({"attributes": {"conflict_order": "up"}}, errors.OptionError, "'up'"),
    ],
)
def test_fields_that_do_not_belong_together_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        make_heatmap(**fields)


def test_construction_copies_and_leaves_the_callers_array_writable():
    mine = np.asfortranarray(make_heatmap().arrays["Q"], dtype=np.float32)
    heatmap = with_scores(make_heatmap(), "Q", mine)
    mine[:] = 0
    assert heatmap.arrays["Q"].dtype == np.float64
    assert heatmap.arrays["Q"].flags.c_contiguous
    assert (heatmap.arrays["Q"] > 0).any()


def test_results_are_equal_when_every_bit_is():
    heatmap = make_heatmap()
    assert heatmap == make_heatmap()
    assert heatmap.fingerprint == make_heatmap().fingerprint
    assert heatmap != make_heatmap(task_b="verse")
    changed = heatmap.arrays["O"].copy()
    changed[0, 0, 0, 0] = np.nextafter(changed[0, 0, 0, 0], 9)
    assert not heatmap.identical(with_scores(heatmap, "O", changed))
    assert heatmap != "heatmap"
    with pytest.raises(TypeError):
        hash(heatmap)


def test_negative_zero_and_zero_are_the_same_score():
    zeros = np.zeros((3, 2, 2, 4))
    assert with_scores(make_heatmap(), "Q", zeros) == with_scores(make_heatmap(), "Q", -zeros)


def test_tuples_in_attributes_equal_what_is_loaded(tmp_path):
    heatmap = make_heatmap(attributes={"sizes": (1, 2), "damping": {"ridge": 1e-8}})
    assert heatmap.attributes["sizes"] == [1, 2]
    assert load_heatmap(heatmap.save(tmp_path / "x")).attributes == heatmap.attributes


ids = st.one_of(
    st.lists(st.integers(), max_size=4, unique=True),
    st.lists(st.text(st.characters()), max_size=4, unique=True),
)


@st.composite
def heatmaps(draw):
    num_kv, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    sample_a, sample_b = tuple(draw(ids)), tuple(draw(ids))
    heatmap = make_heatmap(
        num_a=len(sample_a),
        num_b=len(sample_b),
        layers=tuple(draw(st.sets(st.integers(0, 99), min_size=2, max_size=3))),
        heads=tuple(range(num_kv * group)),
        kv_heads=tuple(range(num_kv)),
        variant=draw(st.sampled_from(["unsigned", "signed"])),
        sample_a=sample_a,
        sample_b=sample_b,
        task_a=draw(st.text()),
    )
    return Heatmap(**_fields(heatmap) | without_layer_one(heatmap)) if draw(st.booleans()) else heatmap


@given(heatmaps())
@settings(max_examples=50)
@example(make_heatmap(sample_b=("a\0", "a")))
@example(make_heatmap(sample_b=(2**80, -1)))
@example(make_heatmap(sample_b=("1", "é\ud800")))
def test_a_saved_result_comes_back_bit_for_bit(tmp_path_factory, heatmap):
    folder = tmp_path_factory.mktemp("round")
    loaded = load_heatmap(heatmap.save(folder / "x.safetensors"))
    assert loaded == heatmap
    assert [type(i) for i in loaded.sample_a + loaded.sample_b] == [
        type(i) for i in heatmap.sample_a + heatmap.sample_b
    ]
    for name, value in _fields(heatmap).items():
        if isinstance(value, tuple | str):
            assert getattr(loaded, name) == value
    for block in BLOCKS:
        np.testing.assert_array_equal(loaded.arrays[block], heatmap.arrays[block])
    assert loaded.save(folder / "y").read_bytes() == (folder / "x.safetensors").read_bytes()


def test_a_file_that_contradicts_itself_is_refused(tmp_path):
    from qkov import result_file

    content, arrays = make_heatmap()._parts()
    write = {"format_name": "qkov-heatmap", "format_version": 1}
    for broken in ({"layers": [0]}, {"sample_a": ["x", 1, 2]}, {"surplus": 1}, {"stats": ["a", "b", "c"]}):
        path = result_file.write(tmp_path / "x", content | broken, arrays, **write)
        with pytest.raises(errors.ResultFileError, match="not a consistent heatmap"):
            load_heatmap(path)


def test_repr_is_short_and_says_the_caveat():
    text = repr(make_heatmap())
    assert text.startswith("<Heatmap code x prose: unsigned, Fisher of A; samples 3 x 2, layers 2, heads 4, kv heads 2")
    assert "carries no information on task A" in text
    assert text.count("\n") == 5
    assert "no information" not in repr(make_heatmap(pool="pooled"))


def test_html_repr_escapes_names_and_ids():
    heatmap = make_heatmap(task_a="<b>&", sample_a=("<i>", "<j>", "<k>"))
    text = heatmap._repr_html_()
    assert "<i>" not in text
    assert "&lt;b&gt;&amp; x prose" in text
    assert text.count("<tr>") == 5
