"""A report in a real browser: what clicks, keys, links and filters show are the numbers of the arrays; nothing is fetched."""

import re

import numpy as np
import pytest

import qkov
from qkov import escaping
from qkov.report import page as page_module
from tests import browser
from tests.heatmaps import make_heatmap
from tests.report_cases import huge_heatmap, make_prediction, make_statistics
from tests.report_pages import Page

pytestmark = pytest.mark.skipif(browser.path() is None, reason=browser.MISSING)
HOSTILE = "</script><img src=x onerror=window.hit=1>\u202e"


@pytest.fixture(scope="module")
def tab():
    """One browser for all tests of this module."""
    with browser.opened() as one:
        yield one


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Name to the address of a report and what is in it."""
    folder, found = tmp_path_factory.mktemp("pages"), {}
    heatmap = make_heatmap(pool="pooled")
    results = (
        [heatmap, make_heatmap(variant="signed", pool="pooled")],
        make_statistics(heatmap, untested=2),
        make_prediction(heatmap),
    )
    evil = make_heatmap(task_a=HOSTILE, sample_a=(HOSTILE, "one", "two"), variant="signed", pool="pooled")
    huge = huge_heatmap(num_a=2, num_b=2, pool="pooled")
    written = {
        "whole": qkov.make_report(*results),
        "hostile": qkov.make_report(evil, texts={HOSTILE: {HOSTILE: HOSTILE}}, record={"command": HOSTILE}),
        "huge": qkov.make_report(huge, make_statistics(huge, strong=100)),
    }
    for name, text in written.items():
        path = folder / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        found[name] = path.as_uri(), Page(text)
    return found


@pytest.fixture
def whole(tab, pages):
    """The report with every kind of result, freshly opened; what it wrote to the console is checked afterwards."""
    tab.media()
    tab.open(pages["whole"][0])
    yield pages["whole"][1]
    assert tab.console == []


def shown(tab):
    """What the panel of details shows: its title, and numbers by name of their column."""
    return tab.run(
        "({title: document.querySelector('#details h3').textContent, key: document.getElementById('details').dataset.key,"
        " numbers: Object.fromEntries([...document.querySelectorAll('#details dd')]"
        ".map(one => [one.dataset.name, one.textContent])),"
        " all: document.getElementById('details').textContent})"
    )


def assert_numbers(found, page, label):
    """Whether the panel shows the numbers of a slice, each with its interval, to the digits that it shows."""
    at = page.slice_labels().index(label)
    by_name = {one["name"]: one for one in page.data["columns"]}
    ends = {end for one in by_name.values() for end in (one["low"], one["high"]) if end}
    assert set(found["numbers"]) == set(by_name) - ends
    for name, text in found["numbers"].items():
        values = [by_name[name]["values"][at]]
        values += [by_name[by_name[name][end]]["values"][at] for end in ("low", "high") if by_name[name][end]]
        if values[0] is None:
            assert text == "—"
        else:
            numbers = [float(one) for one in re.findall(r"[-+.\de]+", text)]
            np.testing.assert_allclose(numbers, values, rtol=6e-4, err_msg=name)


def rows_of(tab, name, table="slices"):
    """Texts of a column of a table, as shown."""
    return tab.run(f"[...document.querySelectorAll('#table-{table} td[data-name={name}]')].map(one => one.textContent)")


def test_a_click_shows_the_numbers_of_the_arrays_and_holds_them(tab, whole):
    labels = whole.slice_labels()
    for label in (("Q", 1, 3), ("K", 0, 1), ("O", 1, 0)):
        tab.click(f"#panel-{label[0]} [data-index='{labels.index(label)}']")
        found = shown(tab)
        assert found["key"] == "-".join(map(str, label))
        assert_numbers(found, whole, label)
        assert tab.run("location.hash") == f"#select={found['key']}"
    tab.point("h1")
    assert shown(tab)["key"] == "O-1-0"
    assert tab.run("document.querySelectorAll('.rings .own').length") == 1
    tab.click(f"#panel-O [data-index='{labels.index(('O', 1, 0))}']")
    assert shown(tab)["title"] == "No head chosen"
    assert "select" not in tab.run("location.hash")


def test_pointing_shows_a_slice_only_while_it_lasts(tab, whole):
    labels = whole.slice_labels()
    tab.point(f"#panel-V [data-index='{labels.index(('V', 1, 0))}']")
    found = shown(tab)
    assert found["title"] == "V, layer 1, kv head 0"
    assert "serves query heads 0, 1" in found["all"]
    tab.point("h1")
    assert shown(tab)["title"] == "No head chosen"


@pytest.mark.parametrize("label", [("Q", 0, 3), ("K", 1, 1), ("V", 0, 0), ("O", 1, 3)])
def test_a_link_opens_on_a_slice(tab, pages, label):
    address, page = pages["whole"]
    tab.open(f"{address}#select={'-'.join(map(str, label))}&map=effect")
    assert_numbers(shown(tab), page, label)
    assert tab.run("document.querySelector('[name=map]:checked').value") == "effect"
    assert tab.console == []


def test_a_link_to_what_is_not_there_shows_nothing(tab, pages):
    tab.open(f"{pages['whole'][0]}#select=Q-99-1&map=nonsense&sort=nonsense&filter=nonsense>1")
    assert shown(tab)["title"] == "No head chosen"
    assert "There is no column nonsense" in tab.run("document.querySelector('#table-slices .problem').textContent")
    assert tab.console == []


def test_the_keyboard_moves_chooses_and_lets_go(tab, whole):
    tab.run("document.querySelector('#panel-Q .plot svg').focus()")
    tab.press("ArrowRight")
    assert shown(tab)["key"] == "Q-0-1"
    assert "Q, layer 0, head 1: Mean score" in tab.run("document.getElementById('said').textContent")
    tab.press("ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", "Enter")
    assert shown(tab)["key"] == "Q-1-3"
    assert_numbers(shown(tab), whole, ("Q", 1, 3))
    tab.run("document.activeElement.blur()")
    assert shown(tab)["key"] == "Q-1-3"
    tab.run("document.querySelector('#panel-Q .plot svg').focus()")
    tab.press("Escape")
    assert shown(tab)["title"] == "No head chosen"


def test_a_kv_head_spans_its_query_heads_and_its_group_is_outlined(tab, whole):
    widths = tab.run("['Q', 'K'].map(one => document.querySelector(`#panel-${one} .cells rect`).width.baseVal.value)")
    assert widths[1] > 2 * widths[0]
    cells = tab.run("['Q', 'K', 'V', 'O'].map(one => document.querySelectorAll(`#panel-${one} .cells rect`).length)")
    assert cells == [8, 4, 4, 8]
    tab.point(f"#panel-Q [data-index='{whole.slice_labels().index(('Q', 0, 2))}']")
    assert "kv head 1, shared by heads 2, 3" in shown(tab)["all"]
    assert tab.run("document.querySelectorAll('#panel-K .rings .related').length") == 1


def test_marks_have_shapes_and_stand_where_slices_survive(tab, whole):
    marks = whole.data["marks"]
    assert tab.run("document.querySelectorAll('.plot .marks circle').length") == marks.count(2) > 0
    assert tab.run("document.querySelectorAll('.plot .marks path').length") == marks.count(1) > 0
    assert f"({marks.count(2)} slices)" in tab.run("document.getElementById('key').textContent")
    tab.click("#marked")
    assert tab.run("document.querySelectorAll('.plot .marks *').length") == 0


def test_what_was_not_tested_is_dotted_and_told(tab, whole):
    tab.click("[value=effect]")
    untested = [at for at, mark in enumerate(whole.data["marks"]) if mark is None]
    filled = tab.run(
        "[...document.querySelectorAll('.cells rect')].filter(one => one.getAttribute('fill')).map(one => +one.dataset.index)"
    )
    assert sorted(filled) == untested
    assert "nothing could be tested" in tab.run("document.getElementById('key').textContent")
    tab.click(f"#panel-O [data-index='{untested[0]}']")
    assert "not tested" in shown(tab)["all"]


def test_colours_follow_the_numbers(tab, whole):
    def steps(block):
        return tab.run(
            f"Object.fromEntries([...document.querySelectorAll('#panel-{block} .cells rect')]"
            ".map(one => [one.dataset.index, +one.getAttribute('class').slice(1)]))"
        )

    for choice, column in ((0, "score"), (1, "score_signed")):
        tab.click(f"[name=map][value={column}]")
        values = whole.columns[column]
        found = sorted((values[int(at)], step) for at, step in steps("Q").items())
        assert [step for _, step in found] == sorted(step for _, step in found)
        assert len({step for _, step in found}) > 3
        kind = tab.run("document.querySelector('#panel-Q .cells').getAttribute('class')")
        assert kind == ("cells sequential", "cells diverging")[choice]
        if choice:
            assert all((value < 0) == (step < 32) for value, step in found if abs(value) > 1e-2)


def test_a_column_sorts_as_numbers_with_mouse_and_keyboard(tab, whole):
    expected = [value for value in whole.columns["effect"] if value is not None]
    tab.click("#table-slices [data-sort=effect]")
    texts = [text for text in rows_of(tab, "effect") if text]
    np.testing.assert_allclose([float(text) for text in texts], sorted(expected), atol=6e-4)
    assert tab.run("document.querySelector('#table-slices th:has([data-sort=effect])').ariaSort") == "ascending"
    assert rows_of(tab, "effect")[-2:] == ["", ""]  # what was not tested is last
    tab.press("Enter")  # the heading kept the focus
    texts = rows_of(tab, "effect")
    np.testing.assert_allclose([float(text) for text in texts[:-2]], sorted(expected, reverse=True), atol=6e-4)
    assert texts[-2:] == ["", ""]
    assert tab.run("document.querySelector('#table-slices th:has([data-sort=effect])').ariaSort") == "descending"
    tab.click("#table-slices [data-sort=score_signed]")  # of both signs: as text, -0.1 would come before -0.2
    found = [float(text) for text in rows_of(tab, "score_signed")]
    np.testing.assert_allclose(found, sorted(whole.columns["score_signed"]), atol=6e-4)


def test_numbers_sort_by_size_and_not_as_text(tab, pages):
    tab.open(f"{pages['huge'][0]}#sort=layer&filter=Q")
    tab.click("#table-slices [data-sort=layer]")
    assert rows_of(tab, "layer")[0] == "79"
    assert tab.run("document.querySelectorAll('#table-slices tbody tr').length") == 50
    tab.click("#table-slices .pages button:last-child")
    assert "Rows 51 to 100 of 5120, of 11520 in all" in tab.run(
        "document.querySelector('#table-slices [role=status]').textContent"
    )


@pytest.mark.parametrize(
    ("words", "keeps"),
    [
        ("K", lambda block, layer, score: block == "K"),
        ("block:k layer>=1", lambda block, layer, score: block == "K" and layer >= 1),
        ("score>0.8 layer=0", lambda block, layer, score: score > 0.8 and layer == 0),
        ("", lambda block, layer, score: True),
        ("nothing-like-it", lambda block, layer, score: False),
    ],
)
def test_a_filter_keeps_what_it_says(tab, whole, words, keeps):
    tab.run(
        f"(() => {{ const one = document.getElementById('filter-slices'); one.value = {words!r};"
        " one.dispatchEvent(new Event('input')); })()"
    )
    scores = whole.columns["score"]
    expected = sorted(
        block
        for (block, layer, _), score in zip(whole.slice_labels(), scores, strict=True)
        if keeps(block, layer, score)
    )
    assert sorted(rows_of(tab, "block")) == expected


def test_a_row_opens_its_slice_and_survivors_can_be_kept(tab, whole):
    tab.click("#table-slices tbody tr:nth-child(2) .open")
    assert shown(tab)["key"] in ("Q-0-1",)
    tab.run("document.querySelectorAll('#table-slices input[type=checkbox]')[0].click()")
    assert len(rows_of(tab, "block")) == whole.data["marks"].count(2)


def test_a_csv_has_every_row_and_no_formula(tab, pages):
    tab.open(pages["hostile"][0])
    text = tab.run(
        "new Promise(done => { URL.createObjectURL = blob => { blob.text().then(done); return '#'; };"
        " document.querySelector('#table-pairs .controls button').click(); })"
    )
    lines = text.split("\r\n")
    assert lines[0].startswith('"block","layer"')
    assert len(lines) == 1 + len(pages["hostile"][1].data["tables"]["pairs"][0]["values"])
    assert not re.search(r'"[=+@\t]', text)
    tab.open(pages["hostile"][0])  # as it was


def test_hostile_names_stay_text(tab, pages):
    tab.media()
    tab.open(f"{pages['hostile'][0]}#select=Q-0-0")
    assert tab.run("window.hit") is None
    assert tab.run("document.querySelectorAll('img').length") == 0
    assert escaping.visible(HOSTILE) in tab.run("document.querySelector('h1').textContent")
    assert escaping.visible(HOSTILE) in tab.run("document.querySelector('#details .pairs').textContent")
    assert tab.console == []


def test_nothing_is_fetched_and_nothing_could_be(tab, pages):
    tab.open(pages["whole"][0])
    assert [one for one in tab.requests if not one.startswith(("file:", "data:", "about:"))] == []
    refused = tab.run(
        "new Promise(done => { document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));"
        " new Image().src = 'http://127.0.0.1:9/x.png'; })"
    )
    assert refused == "img-src"


def test_the_page_is_dark_where_that_is_preferred_or_chosen(tab, whole):
    def lightness():
        return sum(map(int, re.findall(r"\d+", tab.run("getComputedStyle(document.body).backgroundColor"))[:3]))

    assert lightness() > 700
    tab.click("#theme")
    assert lightness() < 120
    tab.click("#theme")
    tab.media(dark=True)
    assert lightness() > 700  # chosen: light
    tab.click("#theme")
    assert lightness() < 120  # as the system


def test_paper_is_light_and_shows_signs_without_hue(tab, pages):
    tab.open(f"{pages['whole'][0]}#map=score_signed")
    hidden = "getComputedStyle(document.querySelector('g.signs')).display"
    assert tab.run(hidden) == "none"
    tab.media(kind="print", dark=True)
    assert tab.run(hidden) == "inline"
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    negative = [value for value in pages["whole"][1].columns["score_signed"] if value < 0]
    assert tab.run("document.querySelectorAll('.plot g.signs rect').length") == len(negative) > 0
    tab.media()


@pytest.mark.parametrize(("name", "width"), [("whole", 420), ("hostile", 420), ("huge", 420), ("huge", 1600)])
def test_no_page_is_wider_than_its_window(tab, pages, name, width):
    tab.open(pages[name][0], width=width)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.console == []


def test_the_largest_page_answers(tab, pages):
    tab.open(f"{pages['huge'][0]}#select=K-79-7")
    assert tab.run("document.querySelectorAll('.cells rect').length") == 2 * 80 * (64 + 8)
    assert_numbers(shown(tab), pages["huge"][1], ("K", 79, 7))
    took = tab.run(
        "(() => { const start = performance.now(); document.querySelector('[value=effect]').click();"
        " document.body.offsetHeight; return performance.now() - start; })()"
    )
    assert took < 10_000  # about 0.2 s on an idle machine


FAULTS = {
    "sorted as text": ("tables.js", "(a < b ? -1 : a > b ? 1 : 0) : a - b", "0 : String(a) < String(b) ? -1 : 1"),
    "numbers of another head": ("details.js", "one.values[index];", "one.values[(index + 1) % count];"),
    "marks of what does not survive": ("maps.js", "if (!mark) continue", "if (mark === null) continue"),
    "colours upside down": ("maps.js", "const step = Math.round(", "const step = map.steps - 1 - Math.round("),
    "one cell per query head": ("maps.js", "if (last && last[0] === kv)", "if (false)"),
    "untested shown as 0": ("maps.js", "const empty = value === null ||", "const empty = false &&"),
    "arrows go nowhere": ("maps.js", "unit += right", "unit += 0"),
}
NOTICED_BY = {
    "sorted as text": test_a_column_sorts_as_numbers_with_mouse_and_keyboard,
    "numbers of another head": test_a_click_shows_the_numbers_of_the_arrays_and_holds_them,
    "marks of what does not survive": test_marks_have_shapes_and_stand_where_slices_survive,
    "colours upside down": test_colours_follow_the_numbers,
    "one cell per query head": test_a_kv_head_spans_its_query_heads_and_its_group_is_outlined,
    "untested shown as 0": test_what_was_not_tested_is_dotted_and_told,
    "arrows go nowhere": test_the_keyboard_moves_chooses_and_lets_go,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_script_is_noticed(tab, tmp_path, monkeypatch, name):
    """A report with one mistake in its script fails the test that is for it."""
    file, right, wrong = FAULTS[name]
    read = page_module._read
    assert right in read(file)
    monkeypatch.setattr(page_module, "_read", lambda one: read(one).replace(right, wrong) if one == file else read(one))
    heatmap = make_heatmap(pool="pooled")
    results = (
        [heatmap, make_heatmap(variant="signed", pool="pooled")],
        make_statistics(heatmap, untested=2),
        make_prediction(heatmap),
    )
    path = tmp_path / "wrong.html"
    path.write_text(qkov.make_report(*results), encoding="utf-8")
    tab.media()
    tab.open(path.as_uri())
    with pytest.raises((AssertionError, KeyError)):
        NOTICED_BY[name](tab, Page(path.read_text(encoding="utf-8")))
