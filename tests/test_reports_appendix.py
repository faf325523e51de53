"""The appendix prints what the book prints, says where each number comes from, and is typeset the same twice."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qkov import escaping
from reports import evidence, independent_tables, tables
from reports.appendix import __main__ as program
from reports.appendix import build, contents, latex, page, tracing
from tests.test_escaping import HOSTILE, read_latex

from .test_reports_evidence import GOOD, MANIFEST, changed, write

# Digits that are no results: names, citations of places, and what a definition is made of.
NAMES = re.compile(
    r"GPT-2|SHA-256|Philox-4x64-10|PCG64|UTF-8|64-bit|4x64|numpy\.random|\\(?:tag|ref|label|tab)\{\w+\}|\(?[MLSPRW]\d+\)?"
    r"|section \d|10pt|a4paper|22mm|4pt plus 1pt|2em"
)
TYPED = re.compile(r"\d+\.\d+|\d\s*\\?%|10\^|(?<![\^{\-\d])\d{3,}|e-\d")


def typed_results(text):
    r"""Find what looks like a result that was typed: decimals, percentages, powers of ten, whole numbers of three digits.

    Example:
        >>> typed_results(r"in $\N{alpha}$ of cases, $2^{11}$"), typed_results("in 0.05 of 1200 cases, 7 \\%")
        ([], ['0.05', '1200', '7 \\%'])
    """
    return TYPED.findall(NAMES.sub("", re.sub(r"(?<!\\)%.*", "", text)))


def test_no_result_is_typed_in_the_text():
    for path in build.TEXT.glob("*.tex"):
        text = path.read_text(encoding="utf-8").replace("label $-100$", "").replace("the label", "")
        assert typed_results(text) == [], path.name


@pytest.mark.parametrize("line", ["error of 3.4", "p of 5\\%", "in 2192 results", "below $10^{-8}$", "1e-9"])
def test_typed_result_is_found(line):
    assert typed_results(line)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The appendix of a small evidence, not typeset."""
    monkeypatch.setattr(build, "has_pdflatex", lambda: False)
    return build.build(GOOD, MANIFEST, tmp_path / "appendix")


def test_every_number_names_a_place_that_holds_it(made):
    document = json.loads((made.folder / "numbers.json").read_text(encoding="utf-8"))
    documents, checked = {"evidence.json": GOOD, "manifest.json": MANIFEST}, 0
    entries = [one for table in document["tables"].values() for one in table["numbers"]]
    entries += [one for number in document["numbers"].values() for one in number.get("numbers", ())]
    for entry in entries:
        assert entry["sources"], entry
        for place in entry["sources"]:
            if entry["kind"] == "value":
                found = tracing.resolve(documents, place)
                assert float(entry["shown"].replace(",", "")) == pytest.approx(found, rel=0.06), entry
                checked += 1
            elif entry["kind"] == "text":
                assert entry["shown"] in str(tracing.resolve(documents, place)) or entry["shown"] in place
            elif entry["kind"] == "count":
                assert place.startswith(("evidence.json#/", "manifest.json#/"))
    assert checked > 5


def test_constants_of_the_text_are_those_of_the_code(made):
    document = json.loads((made.folder / "numbers.json").read_text(encoding="utf-8"))["numbers"]
    coded = {name: entry for name, entry in document.items() if "code" in entry}
    assert len(coded) > 10
    for name, entry in coded.items():
        value = contents.constant(entry["code"]) if name in contents.CODE else contents.EXPONENTS[name][1]()
        assert entry["shown"] == str(value)
    assert {name for name in contents.CODE if name not in document} <= {"bound_single"}


def test_tables_show_what_the_book_shows(made):
    written = (made.folder / "tables" / "laws.tex").read_text(encoding="utf-8")
    (_, _, _, rows), *_ = latex.tables_in(tables.laws_table(GOOD))
    for row in rows:
        assert " & ".join(map(latex.text, row)) in written
    assert "⟦" not in "".join(path.read_text(encoding="utf-8") for path in made.folder.rglob("*.tex"))


def test_changed_evidence_changes_what_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "has_pdflatex", lambda: False)
    other = build.build(changed("results", error=7.7e-9), MANIFEST, tmp_path)
    assert "7.7e-{}09" in (other.folder / "tables" / "laws.tex").read_text(encoding="utf-8")


def test_table_that_reads_otherwise_when_traced_is_refused(tmp_path, monkeypatch):
    table = contents.Table("x", lambda found, _m: f"{type(found).__name__}\n", "caption")
    monkeypatch.setitem(contents.TABLES, "laws", table)
    found = build.build(GOOD, MANIFEST, tmp_path)
    assert found.problems == ("laws reads otherwise when its numbers are traced than in the book.",)
    assert found.counts == (0, 1, 0)


@pytest.mark.parametrize(("what", "said"), [("\\N{nonsense}", "nonsense"), ("\\input{tables/nonsense}", "nonsense")])
def test_text_that_names_what_there_is_not_is_refused(tmp_path, monkeypatch, what, said):
    shutil.copytree(build.TEXT, tmp_path / "text")
    (tmp_path / "text" / "metric.tex").write_text(what)
    monkeypatch.setattr(build, "TEXT", tmp_path / "text")
    (problem,) = build.build(GOOD, MANIFEST, tmp_path / "out").problems
    assert said in problem


def test_no_pdflatex_counts_as_not_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "has_pdflatex", lambda: False)
    write(tmp_path)
    assert program.main(["--evidence", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert "not run: appendix.pdf: not made: no pdflatex" in capsys.readouterr().out
    assert build.build(GOOD, MANIFEST, tmp_path / "out").counts == (1, 0, 1)


def test_missing_evidence_ends_with_its_own_status(tmp_path, capsys):
    assert program.main(["--evidence", str(tmp_path), "--output", str(tmp_path / "out")]) == 3
    assert "Run `python -m validation` first" in capsys.readouterr().out


def stub(folder, body):
    """A program named pdflatex in a folder."""
    path = folder / "pdflatex"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo '! Undefined control sequence.'; exit 1", "Undefined control sequence"),
        ("echo 'LaTeX Warning: Reference x undefined' > appendix.log; touch appendix.pdf", "Reference x undefined"),
        ("touch appendix.log; pwd > appendix.pdf", "two builds of the PDF differ"),
    ],
)
def test_what_pdflatex_does_wrong_is_a_problem(tmp_path, monkeypatch, body, said):
    stub(tmp_path, body)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = build.build(GOOD, MANIFEST, tmp_path / "out")
    assert said in found.problems[0]
    assert found.counts[:2] == (0, 1)


@pytest.mark.skipif(not build.has_pdflatex(), reason="no pdflatex")
def test_hostile_names_are_typeset_and_two_builds_are_the_same(tmp_path):
    found = changed("results", model="\\input{/etc/passwd} $x$ 100 % _日本 é ≤ " + "".join(c for c in HOSTILE[0]))
    result = build.build(found, MANIFEST, tmp_path)
    assert result.problems == ()
    assert result.pdf.read_bytes().startswith(b"%PDF")


def literal(text):
    """What LaTeX prints of a text of :func:`latex.text`, breaks taken away."""
    text = text.replace("\\allowbreak{}", "")
    return re.sub(r"\\texttt\{U\+(\w+)\}", lambda found: chr(int(found[1], 16)), text)


@given(st.text(max_size=30))
@example("a_b/c.d,e")
def test_text_is_literal(text):
    written = latex.text(text)
    for char, command in latex.CHARACTERS.items():
        if char in text:
            assert command in written
    plain = "".join(char for char in escaping.visible(text) if char not in latex.CHARACTERS)
    shown, active = read_latex(literal(latex.text(plain)))
    assert (shown, active) == (plain, [])


def test_columns_fit_the_page():
    header, rows = ["a", "b", "c"], [["x" * 300, "1", "y" * 90]]
    wide = latex.widths("lrl", header, rows)
    assert sum(wide) + latex.GAP * 3 <= latex.WIDTH
    assert wide[1] >= 2
    narrow = latex.widths("lr", ["a", "b"], [["x" * 200, "0.049 (0.046 to 0.052; 1,000)"]])
    assert narrow[1] >= 30, "numbers stay on a line"


def test_letters_are_smaller_where_numbers_would_break():
    found = {}
    for count in (2, 4):
        row = ["x" * 20, *["0.049 (0.046 to 0.052; 1,000)"] * count]
        found[count] = latex.fitted("l" + "r" * count, ["x"] * (count + 1), [row])
    points, line, wide = found[4]
    assert found[2][0] == 7
    assert points < 7
    assert min(wide[1:]) >= 30
    assert sum(wide) + latex.GAP * len(wide) <= line


def test_trace_follows_numbers_through_sums_and_formats():
    log = tracing.Log()
    found = tracing.traced({"a": [{"x": 2, "y": 0.25, "name": "n", "on": True}, {"x": 3}]}, "e#", log)
    one, two = found["a"]
    assert one["on"] is True
    assert isinstance(one["x"], int)
    text = f"{sum(row['x'] for row in found['a']):,} and {one['y']:.0%}, {tables.cell(two['x'])}, {100 - one['y']:.2f}"
    assert tracing.unmarked(text) == "5 and 25%, 3, 99.75"
    sources = tracing.sources_of(text, log, {}, "here")
    assert [(entry["kind"], entry["sources"]) for entry in sources] == [
        ("combined", ["e#/a/0/x", "e#/a/1/x"]), ("value", ["e#/a/0/y"]), ("value", ["e#/a/1/x"]), ("value", ["e#/a/0/y"]),
    ]  # fmt: skip
    assert "e#/a/*/x" in log.read


def test_number_without_a_trace_is_a_word_a_count_or_wording():
    log, words = tracing.Log(read={"e#/a/*/x": None}), {"7": ("text", "e#/b")}
    kinds = [entry["kind"] for entry in tracing.sources_of("model 7, 12 of 0.5", log, words, "here")]
    assert kinds == ["text", "count", "wording"]
    assert [entry["kind"] for entry in tracing.sources_of("7", log, words, "here")] == ["count"]


def test_pages_link_to_what_was_made_and_name_what_was_not(made, tmp_path):
    page.copy_files(made, tmp_path / "one")
    page.copy_files(made, tmp_path / "two")
    zips = [(tmp_path / name / "appendix-source.zip").read_bytes() for name in ("one", "two")]
    assert zips[0] == zips[1]
    text = page.appendix_tables(made)["appendix_files"]
    assert "{download}`numbers.json <generated/numbers.json>`" in text
    assert "- appendix.pdf: not made in this build" in text
    assert Path(tmp_path / "one" / "numbers.json").exists()


READ = {"misreading": "O by rows", "equation": "L2", "noticed_by": ["independent_scores on llama"], "ratio": 2e8}
READ |= {"status": "noticed"}


def test_what_was_reproduced_and_what_was_misread_is_shown():
    rows = [GOOD["results"][0] | {"check": f"independent_{name}"} for name in ("misreadings", "scores", "unknown")]
    found = GOOD | {
        "results": rows,
        "misreadings": [READ, READ | {"noticed_by": [], "ratio": None, "status": "missed"}],
    }
    (_, _, _, made), *_ = latex.tables_in(independent_tables.independent_table(found))
    assert [row[0].split()[0] for row in made] == ["averages", "wrong", "independent_unknown"]
    (_, _, _, made), *_ = latex.tables_in(independent_tables.misreadings_table(found))
    assert [row[2:] for row in made] == [["scores (llama)", "2.0e+08", "noticed"], ["–", "–", "missed"]]
    numbers = independent_tables.independent_numbers(found)
    assert (numbers["independent_missed"], numbers["independent_misreadings"]) == (1, 2)
    assert independent_tables.independent_table(GOOD) == "Nothing was reproduced in this run.\n"


def test_misreading_that_nothing_noticed_is_no_verdict():
    assert evidence.audit(GOOD | {"misreadings": [READ]}) == []
    assert evidence.audit(GOOD | {"misreadings": [READ | {"noticed_by": []}]}) == [
        "misreading O by rows is called noticed, but by nothing"
    ]
