"""Pictures show the right numbers under the right labels, say their caveats, and are the same every time."""

import re

import matplotlib
import numpy as np
import pytest

from qkov import errors, plots
from qkov.geometry import BLOCKS
from tests.heatmaps import make_heatmap, without_layer_one


def panels(figure):
    """Axes that show a map, in order."""
    return [axes for axes in figure.axes if axes.get_title(loc="left")]


def shown(axes):
    """The values behind a panel's image, NaN where masked."""
    (image,) = axes.images
    return np.ma.filled(image.get_array(), np.nan)


def texts(figure):
    """Everything written around the panels, in one line."""
    return " ".join(" ".join(text.get_text().split()) for text in figure.texts)


def test_each_panel_shows_its_blocks_average():
    heatmap = make_heatmap()
    figure = heatmap.plot()
    assert [axes.get_title(loc="left")[0] for axes in panels(figure)] == list(BLOCKS)
    for axes, block in zip(panels(figure), BLOCKS, strict=True):
        np.testing.assert_array_equal(shown(axes), heatmap[block]["layer_head_avg"])


def test_a_kv_head_is_one_cell_over_its_query_heads():
    figure = make_heatmap(heads=(4, 5, 6, 7), kv_heads=(2, 3), layers=(3, 8)).plot()
    query, key = panels(figure)[:2]
    assert [label.get_text() for label in query.get_xticklabels()] == ["4", "5", "6", "7"]
    assert [label.get_text() for label in key.get_xticklabels()] == ["2", "3"]
    assert list(key.get_xticks()) == [0.5, 2.5]
    assert [label.get_text() for label in key.get_yticklabels()] == ["3", "8"]
    assert key.get_xlabel() == "kv head (spans its query heads)"
    assert query.get_xlabel() == "query head"
    vertical = [segment[0, 0] for segment in key.collections[0].get_segments()]
    assert vertical == [1.5]


def test_title_says_tasks_variant_pool_and_pairs():
    text = texts(make_heatmap(pool="pooled").plot())
    assert "code (A) against prose (B)" in text
    assert "unsigned score, Fisher pooled over both tasks, average over 3 x 2 pairs of samples" in text
    assert "no Fisher" in texts(make_heatmap(variant="dot").plot())


def test_caveat_is_printed_only_where_there_is_one():
    heatmap = make_heatmap()
    figure = heatmap.plot()
    assert heatmap.attributes["average_caveat"] in texts(figure)
    assert figure.texts[-1].get_bbox_patch() is not None
    assert len(make_heatmap(pool="pooled").plot().texts) == 1


def test_signed_scores_have_white_at_zero_and_red_for_conflict():
    heatmap = make_heatmap(variant="signed", pool="pooled")
    figure = heatmap.plot()
    for axes, block in zip(panels(figure), BLOCKS, strict=True):
        (image,) = axes.images
        limit = np.abs(heatmap.mean_map(block)).max()
        assert image.get_clim() == (-limit, limit)
        red, _, blue, _ = image.cmap(image.norm(-limit))
        assert red > 2 * blue
    assert "Sign: + synergy, - conflict." in texts(figure)


def test_unsigned_scores_start_at_zero():
    for axes in panels(make_heatmap().plot()):
        (image,) = axes.images
        assert image.get_clim() == (0.0, shown(axes).max())
        assert image.cmap.name == "viridis"


def test_colour_bars_carry_the_unit():
    figure = make_heatmap().plot()
    labels = [" ".join(axes.get_ylabel().split()) for axes in figure.axes if axes not in panels(figure)]
    assert labels == ["loss per unit of parameter (B's gradient), mean over the slice"] * 4


def test_absent_slices_are_grey_and_explained():
    heatmap = make_heatmap(**without_layer_one(make_heatmap()))
    figure = heatmap.plot()
    key = panels(figure)[1]
    np.testing.assert_array_equal(np.isnan(shown(key)), heatmap.kv_index < 0)
    assert [label.get_text() for label in key.get_xticklabels()] == ["0", "1"]
    assert "Grey: the model has no such slice." in texts(figure)


def test_empty_task_b_says_so_and_shows_no_numbers():
    figure = make_heatmap(num_b=0).plot()
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert "no samples of task B (prose)" in axes.texts[0].get_text()
        assert np.isnan(shown(axes)).all()


def test_layers_that_share_kv_heads_differently_keep_query_head_labels():
    figure = make_heatmap(kv_index=[[0, 0, 1, 1], [0, 1, 1, 1]]).plot()
    assert panels(figure)[1].get_xlabel() == "query head"


def test_multi_head_attention_has_a_kv_head_for_each_head():
    key = panels(make_heatmap(kv_heads=(0, 1, 2, 3)).plot())[1]
    assert key.get_xlabel() == "kv head"
    assert len(key.get_xticks()) == 4


def test_large_maps_thin_their_ticks_and_drop_the_lines():
    values = np.arange(40 * 30.0).reshape(40, 30)
    (axes,) = panels(plots.plot_maps({"Q": values}))
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(n) for n in range(0, 30, 3)]
    assert not axes.collections
    np.testing.assert_array_equal(shown(axes), values)


def test_maps_on_kv_heads_are_spread_over_query_heads():
    figure = plots.plot_maps({"Q": np.ones((1, 4)), "K": [[1.0, 2.0]], "other": [[3.0, 4.0]]}, scale="shared")
    assert len(panels(figure)) == 3
    np.testing.assert_array_equal(shown(panels(figure)[1]), [[1, 1, 2, 2]])
    np.testing.assert_array_equal(shown(panels(figure)[2]), [[3, 3, 4, 4]])
    assert {axes.images[0].get_clim() for axes in panels(figure)} == {(0.0, 4.0)}


def test_maps_with_given_sharing():
    kv_index = np.array([[0, 1, 1, 1], [-1, -1, -1, -1]])
    figure = plots.plot_maps({"Q": np.ones((2, 4)), "V": [[5.0, 6.0], [7.0, 8.0]]}, kv_index=kv_index, kv_heads=(3, 9))
    value = panels(figure)[1]
    np.testing.assert_array_equal(shown(value), [[5, 6, 6, 6], [np.nan] * 4])
    assert [label.get_text() for label in value.get_xticklabels()] == ["3", "9"]


def dots(axes):
    """Places of a panel's marks, as (column, row)."""
    (points,) = [one for one in axes.collections if len(getattr(one, "get_sizes", list)())]
    return [tuple(place) for place in np.asarray(points.get_offsets()).tolist()]


def test_marks_stand_in_the_middle_of_their_cells():
    maps = {"Q": np.ones((2, 4)), "K": np.ones((2, 2)), "V": np.ones((2, 4))}
    marks = {"Q": np.eye(2, 4), "K": [[False, True], [True, True]], "V": [[0, 0, 1, 1], [0, 0, 0, 0]]}
    query, key, value = panels(plots.plot_maps(maps, marks=marks))
    assert dots(query) == [(0, 0), (1, 1)]
    assert dots(key) == [(2.5, 0), (0.5, 1), (2.5, 1)]
    assert dots(value) == [(2.5, 0)]  # on query heads: still one kv head, and one dot
    assert not any(len(getattr(one, "get_sizes", list)()) for one in panels(plots.plot_maps(maps))[0].collections)


def test_a_kv_head_has_one_dot_where_layers_share_differently():
    kv_index = np.array([[0, 0, 1, 1], [0, 1, 1, -1]])
    marks = {"Q": np.ones((2, 4)), "K": [[1, 1, 0, 0], [0, 1, 1, 0]]}
    query, key = panels(plots.plot_maps({"Q": np.ones((2, 4)), "K": np.ones((2, 4))}, kv_index=kv_index, marks=marks))
    assert len(dots(query)) == 8
    assert dots(key) == [(0.5, 0), (1.5, 1)]


def test_grey_is_explained_as_the_caller_says():
    values = np.array([[1.0, np.nan]])
    assert "Grey: not tested." in texts(plots.plot_maps({"Q": values}, absent="Grey: not tested."))
    assert "Grey" not in texts(plots.plot_maps({"Q": np.ones((1, 2))}, absent="Grey: not tested.", note="N"))


@pytest.mark.parametrize("kind", ["sequential", "diverging"])
def test_all_zero_maps_have_a_colour_range(kind):
    (axes,) = panels(plots.plot_maps({"Q": np.zeros((1, 1))}, kind=kind))
    low, high = axes.images[0].get_clim()
    assert (low, high) == ((0, 1) if kind == "sequential" else (-1, 1))


@pytest.mark.parametrize(
    ("maps", "options", "error", "message"),
    [
        ({}, {}, errors.OptionError, "0 maps"),
        ({"Q": [[1.0]]}, {"kind": "rainbow"}, errors.OptionError, "'rainbow'"),
        ({"Q": [[1.0]]}, {"scale": "log"}, errors.OptionError, "'log'"),
        ({"Q": [1.0]}, {}, errors.ShapeError, r"'Q' has shape \(1,\)"),
        ({"Q": np.ones((2, 0))}, {}, errors.ShapeError, "neither of them 0"),
        ({"Q": np.ones((1, 4)), "K": np.ones((1, 3))}, {}, errors.ShapeError, "evenly"),
        ({"Q": np.ones((1, 4)), "K": np.ones((2, 2))}, {}, errors.ShapeError, "Map 'Q' has shape"),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused(maps, options, error, message):
    with pytest.raises(error, match=message):
        plots.plot_maps(maps, **options)


def test_identity_shows_points_line_and_error():
    expected = {"Q": np.array([[1.0, 2.0]]), "O": np.array([10.0])}
    measured = {"Q": np.array([[1.0, 2.0]]), "O": np.array([10.5])}
    figure = plots.plot_identity(
        measured, expected, title="T", measured_label="average", expected_label="norm", note="N"
    )
    (axes,) = figure.axes
    assert [points.get_offsets().tolist() for points in axes.collections] == [[[1, 1], [2, 2]], [[10, 10.5]]]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 1], [10.5, 10.5]])
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "norm", "average")
    assert "3 values; largest difference 5.0e-02 of the largest value. N" in texts(figure)


def test_identity_with_zeros_is_linear():
    figure = plots.plot_identity(np.zeros((2, 2)), np.zeros((2, 2)))
    assert figure.axes[0].get_xscale() == "linear"
    assert "4 values; largest difference 0.0e+00" in texts(figure)


@pytest.mark.parametrize(
    ("measured", "expected", "error"),
    [
        (np.ones(2), np.ones(3), errors.ShapeError),
        ({"Q": [1.0]}, {"K": [1.0]}, errors.ShapeError),
        ({"Q": [1.0]}, [1.0], errors.ShapeError),
        ([], [], errors.ShapeError),
        ([np.nan], [1.0], errors.NonFiniteError),
    ],
)
def test_identity_of_unlike_values_is_refused(measured, expected, error):
    with pytest.raises(error):
        plots.plot_identity(measured, expected)


def test_pictures_are_reproducible_whatever_the_users_style():
    first = make_heatmap().plot().to_svg()
    with matplotlib.rc_context(
        {"figure.facecolor": "black", "font.size": 20, "svg.hashsalt": None, "image.cmap": "gray"}
    ):
        second = make_heatmap().plot()
        assert second.to_svg() == first
        assert second.to_svg() == first
    assert second._repr_svg_() == first
    assert second.get_facecolor() == (1, 1, 1, 1)
    assert not re.search(r"20\d\d-\d\d-\d\dT", first)


@pytest.mark.parametrize(("ending", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_saved_pictures_have_equal_bytes(tmp_path, ending, start):
    written = [plots.save_picture(make_heatmap().plot(), tmp_path / (name + ending)).read_bytes() for name in "ab"]
    assert written[0] == written[1]
    assert written[0].startswith(start)


def test_unknown_picture_format_is_refused(tmp_path):
    with pytest.raises(errors.OptionError, match=r"a\.jpg"):
        plots.save_picture(make_heatmap().plot(), tmp_path / "a.jpg")


def test_names_are_never_read_as_mathematics():
    text = texts(make_heatmap(task_a="cost in $ and $\\frac$").plot())
    assert "cost in $ and $\\frac$ (A)" in text


def test_logarithmic_ticks_are_few_and_plain():
    values = np.geomspace(0.07, 0.8, 20)
    panel = plots.plot_identity(values, values).axes[0]
    panel.figure.canvas.draw()
    low, high = panel.get_xlim()
    labels = [label.get_text() for label in panel.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert labels == ["0.1", "0.2", "0.5"]
    assert not any(label.get_text() for label in panel.get_xticklabels(minor=True))
