"""Results in words: the same cells in a terminal and in a page, and nothing in them that either could run."""

import pytest

from qkov import result_words
from tests.heatmaps import make_heatmap

COLUMNS, ROWS = ("average", "strongest conflict"), [("Q", "1.5", "<b>at\x1b[31m</b>"), ("K", "2", "none")]


def test_a_row_is_a_line_and_notes_come_last():
    text = result_words.in_terminal("Heatmap", "a x b", COLUMNS, [("Q", "1.5", "here")], ["a note"])
    assert text == "<Heatmap a x b\n  Q: average 1.5, strongest conflict here\n  a note>"


def test_a_row_is_a_row_of_the_table():
    page = result_words.in_html("Heatmap", "a x b", COLUMNS, [("Q", "1.5", "here")], ["a note"])
    for part in ("<b>Heatmap</b> a x b", "<th>block</th><th>average</th><th>strongest conflict</th>", "<p>a note</p>"):
        assert part in page
    assert "<tr><td>Q</td><td>1.5</td><td>here</td></tr>" in page


def test_cells_are_escaped():
    assert "\x1b" not in result_words.in_terminal("Heatmap", "a\x1b", COLUMNS, ROWS, ["\x1b"])
    assert "<b>at" not in result_words.in_html("Heatmap", "<i>a", COLUMNS, ROWS, ["<i>"])
    assert "<i>" not in result_words.in_html("Heatmap", "<i>a", COLUMNS, ROWS, ["<i>"])


def test_a_row_of_another_length_than_the_columns_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        result_words.in_terminal("Heatmap", "", COLUMNS, [("Q", "1.5")], [])


def test_place_of_a_conflict_names_the_kv_head_of_keys_and_values():
    top = {"score": 0.12345, "layer": 3, "head": 4, "kv_head": 2, "sample_i": "p", "sample_j": 7}
    assert result_words.where_strongest("Q", top) == "0.123 at layer 3, head 4, 'p' x 7"
    assert result_words.where_strongest("K", top) == "0.123 at layer 3, kv head 2, 'p' x 7"


@pytest.mark.parametrize(("pool", "said"), [("A", "signed, Fisher of A"), ("pooled", "signed, Fisher pooled")])
def test_kind_names_the_variant_and_whose_fisher_divides(pool, said):
    assert result_words.kind_of({"variant": "signed", "fisher_pool": pool}) == said
    assert result_words.kind_of({}) == "scores, Fisher of ?"


def test_headline_and_notes_are_those_of_the_result():
    result = make_heatmap()
    assert result_words.headline(result, "3 x 2").startswith(f"{result.task_a} x {result.task_b}: ")
    assert result_words.notes_of({"b": "two", "a": "one", "c": ""}, ("a", "b", "c", "d")) == ["one", "two"]
