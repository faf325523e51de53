"""The table of heads as CSV: what comes back is what was written, and no cell is a formula."""

import csv
import dataclasses

import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import qkov
from qkov import errors, escaping
from tests.diagonals import make_diagonal

# NUL and lone surrogates are no text that UTF-8 files and their readers share.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)


def named(task, **options):
    return make_diagonal("llama", task=task, include="attention", **options)


def test_table_has_a_row_per_task_head_and_block():
    table = qkov.head_table({"x": named("math"), "y": named("code", seed=1)})
    assert len(table) == 2 * 2 * (6 + 2 + 2 + 6)
    assert (
        table.groupby(["task", "block"])["rank"]
        .apply(lambda ranks: sorted(ranks) == list(range(1, len(ranks) + 1)))
        .all()
    )
    row = table[
        (table["task"] == "code") & (table["layer"] == 1) & (table["block"] == "O") & (table["head"] == 4)
    ].iloc[0]
    value = named("code", seed=1).values["model.layers.1.self_attn.o_proj.weight"][:, 16:20]
    assert (row["parameter"], row["kv_head"], row["num_parameters"]) == (
        "model.layers.1.self_attn.o_proj.weight",
        1,
        96,
    )
    assert (row["row_start"], row["row_stop"], row["column_start"], row["column_stop"]) == (0, 24, 16, 20)
    assert row["sum"] == pytest.approx(float(value.sum()), rel=1e-14)
    assert row["mean"] == pytest.approx(float(value.mean()), rel=1e-14)
    assert row["unit"] == "squared gradient, per token"


@pytest.mark.parametrize("source", [named("a"), [qkov.compute_fisher_importance(named("a"), normalisation="layer")]])
def test_exported_table_comes_back_in_every_bit(tmp_path, source):
    path = qkov.export_head_table(source, tmp_path / "heads.csv", rank_by="mean")
    expected = qkov.head_table(source, rank_by="mean")
    pd.testing.assert_frame_equal(qkov.load_head_table(path), expected, check_exact=True)
    plain = pd.read_csv(path, dtype=str)
    assert list(plain.columns) == list(expected.columns)  # no column of an index
    assert plain["sum"].tolist() == [repr(value) for value in expected["sum"]]
    assert [one.name for one in tmp_path.iterdir()] == ["heads.csv"]


@pytest.mark.parametrize("task", ["=HYPERLINK(1)", "+1", "-1", "@a", "\tx", "\rx", "'=1", "NA", "", 'a"b,c\nd\re', "é"])
def test_no_cell_is_a_formula_and_every_name_comes_back(tmp_path, task):
    path = qkov.export_head_table(named(task), tmp_path / "heads.csv")
    with open(path, newline="", encoding="utf-8") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert set(qkov.load_head_table(path)["task"]) == {task}


@given(TEXT)
@example("'")
@example("''=")
def test_escaping_can_be_undone(text):
    cell = escaping.for_csv(text)
    assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r")
    assert escaping.from_csv(cell) == text


def test_a_single_quote_dropped_too_eagerly_is_caught(monkeypatch, tmp_path):
    monkeypatch.setattr(escaping, "from_csv", lambda text: text.removeprefix("'"))
    path = qkov.export_head_table(named("'n"), tmp_path / "heads.csv")
    assert set(qkov.load_head_table(path)["task"]) != {"'n"}


def test_extreme_numbers_survive(tmp_path):
    fill = {"q_proj": 1e-300, "k_proj": 0.1, "v_proj": 1e300, "o_proj": 0.0}
    values = lambda name, shape: torch.full(shape, fill[name.split(".")[-2]], dtype=torch.float64)  # noqa: E731
    path = qkov.export_head_table(named("a", values=values), tmp_path / "heads.csv")
    assert qkov.load_head_table(path)["mean"].tolist() == qkov.head_table(named("a", values=values))["mean"].tolist()


def test_the_same_task_twice_and_other_files_are_refused(tmp_path):
    with pytest.raises(errors.OptionError, match=r"\['a', 'a'\]"):
        qkov.head_table([named("a"), named("a")])
    with pytest.raises(errors.OptionError, match="each once"):
        qkov.head_table([])
    path = tmp_path / "other.csv"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(errors.ResultFileError, match="columns"):
        qkov.load_head_table(path)
    path.write_text("layer\nfirst\n")
    with pytest.raises(errors.ResultFileError, match="not a table of heads"):
        qkov.load_head_table(path)
    with pytest.raises(FileNotFoundError):
        qkov.load_head_table(tmp_path / "none.csv")


def test_heads_need_a_layout():
    with pytest.raises(errors.LayoutError, match="heads"):
        qkov.head_table(dataclasses.replace(named("a"), config=None))
