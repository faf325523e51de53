"""The page of a report: what is in it, that names stay text, that it asks for nothing, and that it is the same every time."""

import dataclasses
import re

import numpy as np
import pytest

import qkov
from qkov import errors, escaping
from qkov.report import page as page_module
from qkov.report.markup import Markup, element, embedded_json, source_hash
from qkov.top_pairs import TopPairs
from tests.heatmaps import make_heatmap, without_layer_one
from tests.report_cases import empty_heatmap, huge_heatmap, make_prediction, make_statistics
from tests.report_pages import Page

POOLED = {"pool": "pooled"}
HOSTILE = (
    "</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='x", "<!-- <script>", "]]>",
    "\x1b[2J", "\u202eevil", "a\u2028b", "&lt;b&gt;", "=1+1", "${x} {{y}} `z`", "\ud800", "   ",
)  # fmt: skip
RISKY = (
    "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "fetch(", "XMLHttp", "import(",
)  # fmt: skip
LARGEST = 7_000_000
"""Bytes of a page with every kind of result for 80 layers of 64 heads, without pictures."""


def everything(**fields):
    """A heatmap of each kind and all results that go with it."""
    heatmap = make_heatmap(**(POOLED | fields))
    signed = make_heatmap(variant="signed", **(POOLED | fields))
    return [heatmap, signed], make_statistics(heatmap, untested=2), make_prediction(heatmap)


def test_the_page_says_what_was_asked_and_what_was_found():
    page = Page(qkov.make_report(*everything()))
    assert page.words.startswith("“code” against “prose” · qkov report")
    for said in ("Task A is “code”, task B is “prose”", "reference task R, “chat”", "In 3 of 22 tested slices",
                 "3 × 2 samples · 2 layers × 4 heads · 2 kv heads", "Predicted from gradients, not measured",
                 "never negative; says that both tasks touch the same parameters", "+ synergy, - conflict",
                 "No pair of samples has a p value", "9999 of 1000000 possible"):  # fmt: skip
        assert said in page.words


def test_the_caveat_of_an_average_stands_in_front():
    page = Page(qkov.make_report(make_heatmap()))
    caveat = "the average carries no information on task A"
    assert page.words.index("Before the pictures") < page.words.index(caveat) < page.words.index("Task A is")
    assert page.words.index(caveat) < page.words.index("Nothing was tested")
    assert caveat in page.data["maps"][0]["note"]
    assert caveat not in Page(qkov.make_report(make_heatmap(**POOLED))).words


def test_the_page_asks_for_nothing():
    page = Page(qkov.make_report(*everything(), pictures=True))
    addresses = [
        value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")
    ]
    assert addresses
    assert all(address.startswith(("#", "data:image/")) for address in addresses)
    assert not {"link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.elements}
    code = "".join(re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", page.source, re.DOTALL))
    assert "@import" not in code
    assert "url(" not in code.replace("url(#", "")
    for risky in RISKY:
        assert risky not in code


def test_the_policy_allows_this_script_and_this_style_alone():
    page = Page(qkov.make_report(make_heatmap()))
    policy = next(one["content"] for tag, one in page.elements if one.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    (style,) = re.findall(r"<style>(.*?)</style>", page.source, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    assert f"style-src {source_hash(style)}" in policy
    assert f"script-src {source_hash(script)}" in policy
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on") or key == "style"]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_names_and_texts_stay_text(name):
    heatmap = make_heatmap(task_a=name, task_b=f"{name} B", sample_a=(name, "one", "two"), **POOLED)
    harmless = make_heatmap(task_b="prose B", sample_a=("zero", "one", "two"), **POOLED)
    record = {"command": name, "model": {"name": name}, "data": {name: {"path": name}}, "notes": [name]}
    record |= {"not_run": [{"what": name, "reason": name}]}
    texts = {heatmap.task_a: {name: name}, heatmap.task_b: {}}
    page = Page(qkov.make_report(heatmap, make_statistics(heatmap, reference=f"{name} R"), texts=texts, record=record))
    other = Page(
        qkov.make_report(
            harmless, make_statistics(harmless), texts={"code": {"zero": "x"}},
            record={"command": "x", "model": {"name": "x"}, "data": {"x": {"path": "x"}}, "notes": ["x"],
                    "not_run": [{"what": "x", "reason": "x"}]},
        )
    )  # fmt: skip
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in other.elements]
    assert escaping.visible(name).strip() in page.text
    assert page.data["samples"]["a"].count(escaping.visible(name)) == 1
    assert all(char.isprintable() or char == "\n" for char in page.source)


def test_more_relabelings_than_can_be_counted_are_a_size():
    heatmap = make_heatmap(**POOLED)
    found = make_statistics(heatmap)
    for given, shown in (("1000000", "9999 of 1000000 possible"), ("1" + "7" * 23, "9999 of about 1e23 possible")):
        tests = {test: facts | {"n_distinct": given} for test, facts in found.attributes["tests"].items()}
        page = qkov.make_report(heatmap, dataclasses.replace(found, attributes=found.attributes | {"tests": tests}))
        assert shown in page


@pytest.mark.parametrize(
    ("given", "shown"),
    [("../models/tiny", "tiny"), ("/data/tiny/", "tiny"), ("owner/tiny", "owner/tiny"), ("..", ".."), ("/", "/")],
)
def test_header_shows_a_folder_of_a_model_by_its_own_name(given, shown):
    page = qkov.make_report(make_heatmap(), record={"command": "x", "model": {"name": given}})
    (sizes,) = re.findall(r'<p class="sizes">(.*?)</p>', page)
    assert re.sub("<.*?>", "", sizes).startswith(f"{shown} · ")


def test_a_page_that_escapes_nothing_is_noticed(monkeypatch):
    """The check above, on a page that lets names through."""
    monkeypatch.setattr("qkov.report.markup.escaping.for_html", str)
    with pytest.raises(AssertionError):
        test_names_and_texts_stay_text(HOSTILE[1])


def test_json_ends_no_script():
    written = embedded_json({"a": HOSTILE, "b": "\u2028\u2029"})
    assert not {"<", ">", "&", "\u2028", "\u2029"} & set(written)
    assert isinstance(element("p", "<b>"), Markup)
    assert element("p", "<b>", title='"') == '<p title="&quot;">&lt;b&gt;</p>'


def test_texts_are_shown_only_when_given_and_cut():
    heatmap = make_heatmap(num_a=1, num_b=1, sample_a=("s",), **POOLED)
    assert Page(qkov.make_report(heatmap)).data["texts"] is None
    texts = {"code": {"s": "line one\nline two " + 1000 * "x"}, "prose": {100: "short"}}
    page = Page(qkov.make_report(heatmap, texts=texts))
    (shown,) = page.data["texts"]["a"]
    assert shown.startswith("line one\nline two xxx")
    assert shown.endswith("… (618 more characters)")
    assert shown.count("x") == 400 - len("line one\nline two ")
    assert page.data["texts"]["b"] == ["short"]


def test_a_hidden_text_is_nowhere_in_the_page():
    assert "SECRET" not in qkov.make_report(make_heatmap(**POOLED))


def test_the_same_results_give_the_same_bytes():
    assert qkov.make_report(*everything()) == qkov.make_report(*everything())


def test_pictures_are_in_the_page_when_asked_for():
    heatmaps, statistics, prediction = everything()
    page = Page(qkov.make_report(heatmaps, statistics, prediction, pictures=True))
    names = [one["download"] for tag, one in page.elements if tag == "a" and "download" in one]
    assert names == [
        f"{name}.{form}"
        for name in ("scores-unsigned", "scores-signed", "statistics", "prediction")
        for form in ("svg", "png")
    ]
    assert not [tag for tag, _ in Page(qkov.make_report(heatmaps)).elements if tag == "img"]


def test_without_samples_nothing_is_shown_as_a_number():
    page = Page(qkov.make_report(empty_heatmap()))
    assert "Nothing was measured: there are no samples of task B (“prose”)." in page.words
    assert "average carries" not in page.words.split("Maps, layer by head")[0]
    assert page.data["measured"] is False
    assert set(page.columns["score"]) == {None}


def test_one_head_of_one_layer():
    heatmap = make_heatmap(num_a=1, num_b=1, layers=(5,), heads=(3,), kv_heads=(1,), sample_a=("s",), **POOLED)
    page = Page(qkov.make_report(heatmap, make_statistics(heatmap, strong=1, weak=0)))
    assert "1 × 1 samples · 1 layer × 1 head · 1 kv head" in page.words
    assert page.slice_labels() == [("Q", 5, 3), ("K", 5, 1), ("V", 5, 1), ("O", 5, 3)]


def test_slices_that_the_model_lacks_are_not_in_the_page():
    whole = make_heatmap(**POOLED)
    heatmap = dataclasses.replace(whole, **without_layer_one(whole))
    page = Page(qkov.make_report(heatmap))
    assert ("K", 1, 0) not in page.slice_labels()
    assert ("Q", 1, 3) not in page.slice_labels()
    assert len(page.slice_labels()) == len(Page(qkov.make_report(whole)).slice_labels()) - 6


def test_the_largest_page_is_bounded():
    heatmap = huge_heatmap(num_a=3, num_b=3, **POOLED)
    page = qkov.make_report(heatmap, make_statistics(heatmap, strong=100))
    assert len(page.encode()) < LARGEST
    assert len(Page(page).slice_labels()) == 2 * 80 * (64 + 8)


def test_results_of_other_tasks_or_models_are_refused():
    heatmap, other = make_heatmap(**POOLED), make_heatmap(task_a="chat", **POOLED)
    with pytest.raises(errors.OptionError, match="statistics are of tasks"):
        qkov.make_report(heatmap, make_statistics(other))
    with pytest.raises(errors.OptionError, match="prediction are of tasks"):
        qkov.make_report(heatmap, prediction=make_prediction(other))
    with pytest.raises(errors.OptionError, match="differ in tasks, samples or slices"):
        qkov.make_report([heatmap, other])
    with pytest.raises(errors.OptionError, match="at least one heatmap"):
        qkov.make_report([])
    with pytest.raises(errors.OptionError, match="level between 0 and 1"):
        qkov.make_report(heatmap, alpha=5)
    with pytest.raises(errors.OptionError, match="content of run"):
        qkov.make_report(heatmap, record=["x"])
    facts = heatmap.attributes | {"model_fingerprint": "one"}
    found = make_statistics(heatmap)
    moved = dataclasses.replace(found, attributes=found.attributes | {"model_fingerprint": "two"})
    with pytest.raises(errors.ModelChangedError):
        qkov.make_report(dataclasses.replace(heatmap, attributes=facts), moved)


def test_described_pairs_come_with_their_notes():
    row = {
        "block": "K",
        "layer": 1,
        "head": None,
        "kv_head": 1,
        "sample_a": "<b>",
        "sample_b": 101,
        "score": 2.0,
        "kept": 0.25,
    }
    pairs = TopPairs(
        rows=(row,), attributes={"task_a": "code", "task_b": "prose", "notes": ["expect them to fall <i>"]}
    )
    page = Page(qkov.make_report(make_heatmap(**POOLED), top_pairs=pairs))
    assert "expect them to fall <i>" in page.words
    table = {one["name"]: one["values"] for one in page.data["tables"]["pairs"]}
    assert table == {"block": ["K"], "layer": [1], "head": [None], "kv_head": [1], "sample_a": ["<b>"], "sample_b": ["101"],
                     "score": [2.0], "kept": [0.25]}  # fmt: skip


def test_the_record_is_shown_with_what_was_not_run():
    record = {
        "status": "complete", "started": "2020-01-02T03:04:05Z", "seeds": {"relabelings": 7},
        "commit": {"folder": None, "qkov": "abc"},
        "versions": {"python": "3.11.7", "versions": {"torch": "2.6"}}, "data": {"code": {"path": "c.jsonl", "samples": 3}},
        "results": {"statistics.safetensors": {"sha256": "ff"}}, "notes": ["samples have no clusters"],
        "not_run": [{"what": "statistics", "reason": "too few clusters"}],
    }  # fmt: skip
    words = Page(qkov.make_report(make_heatmap(**POOLED), record=record)).words
    for said in (
        "2020-01-02T03:04:05Z",
        "relabelings 7",
        "qkov abc",
        "torch 2.6",
        "c.jsonl",
        "samples have no clusters",
        "too few clusters",
    ):
        assert said in words
    assert "Nothing was tested: too few clusters." in words
    assert "not among the results" in words  # of the prediction, which the record does not speak of


def test_numbers_of_the_page_are_those_of_the_results():
    heatmaps, statistics, prediction = everything()
    page = Page(qkov.make_report(heatmaps, statistics, prediction))
    columns, labels = page.columns, page.slice_labels()
    rows = {
        label: at for at, label in enumerate(zip(statistics.blocks, statistics.layers, statistics.units, strict=True))
    }
    change = prediction.to_dataframe("slice")
    for at, (block, layer, unit) in enumerate(labels):
        heatmap = heatmaps[0]
        row, place = heatmap.layers.index(layer), (heatmap.kv_heads if block in "KV" else heatmap.heads).index(unit)
        for one, name in zip(heatmaps, ("score", "score_signed"), strict=True):
            np.testing.assert_allclose(columns[name][at], one.mean_map(block)[row, place], rtol=1e-5)
        np.testing.assert_allclose(
            columns["damping_share"][at], heatmap.health[block]["damping_share"][row, place], rtol=1e-5
        )
        for name in ("effect", "p", "q", "p_maxt", "statistic", "effect_low", "effect_high"):
            expected = statistics.columns[f"source_{name}"][rows[block, layer, unit]]
            found = columns[name][at]
            assert (found is None) == np.isnan(expected)
            np.testing.assert_allclose(np.nan if found is None else found, expected, rtol=1e-5)
        slices = zip(prediction.blocks, prediction.layers, prediction.units, strict=True)
        expected = change.iloc[list(slices).index((block, layer, unit))]
        for name, short in (("change", "change"), ("change_low", "low"), ("change_high", "high")):
            np.testing.assert_allclose(columns[name][at], expected[short], rtol=1e-5)


def test_marks_are_what_survives():
    heatmap = make_heatmap(**POOLED)
    statistics = make_statistics(heatmap, strong=3, weak=4, untested=2)
    page = Page(qkov.make_report(heatmap, statistics))
    marks = dict(zip(page.slice_labels(), page.data["marks"], strict=True))
    labels = list(zip(statistics.blocks, statistics.layers, statistics.units, strict=True))
    strong, weak = statistics.survives(), statistics.survives(criterion="q")
    untested = np.isnan(statistics.columns["source_p"])
    expected = {
        label: None if none else 2 if a else 1 if b else 0
        for label, a, b, none in zip(labels, strong, weak, untested, strict=True)
    }
    assert marks == expected
    assert sorted(map(str, set(marks.values()))) == ["0", "1", "2", "None"]


@pytest.mark.parametrize("variant", ["unsigned", "signed"])
def test_listed_pairs_are_the_strongest(variant):
    heatmap = make_heatmap(num_a=5, num_b=4, variant=variant, sample_a=tuple("vwxyz"), **POOLED)
    page = Page(qkov.make_report(heatmap, pairs_per_slice=3))
    listed, samples = page.data["pairs"][0], page.data["samples"]
    for at, (block, layer, unit) in enumerate(page.slice_labels()):
        place = (heatmap.kv_heads if block in "KV" else heatmap.heads).index(unit)
        scores = heatmap.slice_scores(block, heatmap.layers.index(layer), place)
        ordered = np.sort(scores.ravel())
        expected = ordered[:3] if variant == "signed" else ordered[::-1][:3]
        np.testing.assert_allclose(listed["score"][at], expected, rtol=1e-5)
        for a, b, score in zip(listed["a"][at], listed["b"][at], listed["score"][at], strict=True):
            i, j = heatmap.sample_a.index(samples["a"][a]), heatmap.sample_b.index(int(samples["b"][b]))
            np.testing.assert_allclose(scores[i, j], score, rtol=1e-5)
    table = {one["name"]: one["values"] for one in page.data["tables"]["pairs"]}
    expected = [(block, row) for block in "QKVO" for row in heatmap.top_conflicts(block, top_k=3)]
    assert table["block"] == [block for block, _ in expected]
    assert table["sample_a"] == [row["sample_i"] for _, row in expected]
    np.testing.assert_allclose(table["score"], [row["score"] for _, row in expected], rtol=1e-5)


def test_no_pairs_are_listed_when_none_are_asked_for():
    page = Page(qkov.make_report(make_heatmap(**POOLED), pairs_per_slice=0))
    assert page.data["samples"] == {"a": [], "b": []}


def test_types_of_heads_are_shown():
    from qkov.head_types import HeadTypes
    from qkov.pattern_scores import MEASURES

    heatmap = make_heatmap(**POOLED)
    scores = np.full((len(MEASURES), 2, 4), 0.1)
    scores[list(MEASURES).index("induction"), 1, 2] = 0.9
    types = HeadTypes(
        types=MEASURES, scores=scores, chance=np.zeros((len(MEASURES), 2)), offset=np.ones((2, 4)), layers=(0, 1),
        heads=(0, 1, 2, 3), attributes={},
    )  # fmt: skip
    page = Page(qkov.make_report(heatmap, head_types=types))
    found = dict(zip(page.slice_labels(), page.columns["head_type"], strict=True))
    assert found["Q", 1, 2] == "induction"
    assert found["K", 1, 1] == "mixed"


def test_every_piece_of_the_script_is_in_the_page():
    assert len(set(page_module.SCRIPTS)) == len(page_module.SCRIPTS)
    assert all(page_module._read(file).splitlines()[0] in page_module._script() for file in page_module.SCRIPTS)
