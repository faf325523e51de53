"""The book is built without warnings and loads nothing from other machines; `python -m reports` ends with a verdict."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from reports import __main__ as program
from reports import book
from reports.appendix.build import Appendix

from .test_reports_evidence import GOOD, changed, write
from .test_reports_notebooks import write as write_notebook

ROOT = Path(__file__).resolve().parent.parent
APPENDIX = Appendix(Path("appendix"), 1, 1, Path("appendix.pdf"), ())
PAGE = """\
# Laws

{{ num_faults }} wrong implementations, $x^2$.

```{include} generated/faults.md
```
"""


def small_book(folder, page=PAGE):
    """A book with the configuration of the real one, one page and one notebook."""
    (folder / "notebooks").mkdir(parents=True)
    for name in ("_ext", "references.bib"):
        (folder / name).symlink_to(ROOT / "book" / name)
    (folder / "_config.yml").write_text((ROOT / "book" / "_config.yml").read_text())
    (folder / "_toc.yml").write_text("format: jb-book\nroot: laws\nchapters:\n- file: notebooks/first\n")
    (folder / "laws.md").write_text(page)
    source = write_notebook(folder / "notebooks" / "first.md", "print(1.5)")
    source.write_text(source.read_text().replace("---\n\n", "---\n\n# First\n\n", 1))
    return folder


def test_everything_from_evidence_to_pages(tmp_path, capsys, monkeypatch):
    one = {"random-number": program.controls.CONTROLS["random-number"]}  # all of them run in test_reports_notebooks.py
    monkeypatch.setattr(program.controls, "CONTROLS", one)
    monkeypatch.setattr(program.appendix, "has_pdflatex", lambda: False)  # the same outcome on every machine
    options = ["--evidence", str(write(tmp_path / "evidence")), "--book", str(small_book(tmp_path / "book"))]
    assert program.main([*options, "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    # 1 check, 1 fault, 2 families, 1 situation, 3 rates, 4 findings, the verdicts, 1 notebook, 2 planted ones, the
    # source of the appendix, the book; 4 things not run, and the PDF
    assert said.endswith("18 passed, 0 failed, 5 skipped\n")
    assert "not run: GPU: no CUDA device" in said
    assert "not run: bad input peft: the package peft is not installed" in said
    assert "book: 2 pages" in said
    html = tmp_path / "out" / "pages" / "html"
    laws = (html / "laws.html").read_text()
    assert "1 wrong implementations" in laws
    assert "o_by_rows" in laws
    assert 'src="_static/mathjax/tex-svg.js"' in laws
    assert (html / "_static" / "mathjax" / "tex-svg.js").stat().st_size > 1_000_000
    assert "1.5" in (html / "notebooks" / "first.html").read_text()


def test_warning_of_the_build_fails_it(tmp_path):
    pages = small_book(tmp_path / "book", "# Laws\n\n[nowhere](missing.md)\n")
    (tmp_path / "executed").mkdir()
    (pages / "notebooks" / "first.md").unlink()
    (pages / "_toc.yml").write_text("format: jb-book\nroot: laws\n")
    book.assemble(pages, tmp_path / "executed", tmp_path / "sources", {})
    built = book.build(tmp_path / "sources", tmp_path / "pages")
    assert "missing.md" in built.problems[0]


def test_missing_evidence_ends_with_its_own_status(tmp_path, capsys):
    assert program.main(["--evidence", str(tmp_path)]) == 3
    assert "Run `python -m validation` first" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("counts", "audited", "num_comparisons", "status", "last"),
    [
        (
            {"checks": (5, 0, 1), "faults": (2, 0, 0), "families": (3, 0, 1), "statistics": (4, 0, 0)},
            [],
            1,
            0,
            "20 passed, 0 failed, 2 skipped",
        ),
        (
            {"checks": (5, 1, 1), "faults": (2, 0, 0), "families": (3, 0, 1), "statistics": (4, 0, 0)},
            [],
            1,
            1,
            "20 passed, 1 failed, 2 skipped",
        ),
        (
            {"checks": (5, 0, 1), "faults": (2, 1, 0), "families": (3, 0, 1), "statistics": (4, 0, 0)},
            [],
            1,
            1,
            "20 passed, 1 failed, 2 skipped",
        ),
        (
            {"checks": (5, 0, 1), "faults": (2, 0, 0), "families": (3, 0, 1), "statistics": (4, 0, 0)},
            ["wrong"],
            1,
            1,
            "19 passed, 1 failed, 2 skipped",
        ),
        (
            {"checks": (0, 0, 9), "faults": (2, 0, 0), "families": (3, 0, 1), "statistics": (4, 0, 0)},
            [],
            1,
            1,
            "15 passed, 0 failed, 10 skipped",
        ),
        (
            {"checks": (5, 0, 1), "faults": (2, 0, 0), "families": (3, 0, 1), "statistics": (4, 0, 0)},
            [],
            0,
            1,
            "19 passed, 0 failed, 2 skipped",
        ),
        (
            {"checks": (5, 0, 1), "faults": (2, 0, 0), "families": (3, 0, 1), "statistics": (3, 1, 0)},
            [],
            1,
            1,
            "19 passed, 1 failed, 2 skipped",
        ),
        (
            {"checks": (5, 0, 1), "faults": (2, 0, 0), "families": (3, 0, 1), "statistics": (0, 0, 0)},
            [],
            1,
            1,
            "16 passed, 0 failed, 2 skipped",
        ),
    ],
)
def test_exit_status_follows_the_table(counts, audited, num_comparisons, status, last, capsys):
    built = book.Book(Path("index.html"), 3, ())
    same = program.notebooks.Comparison("one", "text", (), "", 1, 1.0)
    planted = [program.controls.Control("random-number", True, "first difference")]
    assert program.summarise(counts, audited, [same] * num_comparisons, planted, built, APPENDIX) == status
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_failed_build_different_notebook_and_blind_control_fail_the_run(capsys):
    counts = {"checks": (5, 0, 0), "faults": (2, 0, 0), "families": (3, 0, 1), "statistics": (4, 0, 0)}
    same = program.notebooks.Comparison("one", "text", (), "", 1, 1.0)
    other = program.notebooks.Comparison("two", "text", (), "first difference", 1, 1.0)
    control, blind = (program.controls.Control("random-number", passed, "") for passed in (True, False))
    good, broken = (book.Book(Path("index.html"), 3, problems) for problems in ((), ("a warning",)))
    assert program.summarise(counts, [], [same], [control], good, APPENDIX) == 0
    assert program.summarise(counts, [], [same, other], [control], good, APPENDIX) == 1
    assert program.summarise(counts, [], [same], [control, blind], good, APPENDIX) == 1
    assert program.summarise(counts, [], [same], [control], broken, APPENDIX) == 1
    wrong = dataclasses.replace(APPENDIX, problems=("two builds of the PDF differ",))
    assert program.summarise(counts, [], [same], [control], good, wrong) == 1
    assert capsys.readouterr().out.count("1 failed") == 4


def test_everything_that_did_not_pass_is_named(capsys):
    found = changed("results", status="failed", reason="error 2 exceeds 1")
    found["faults"][0]["status"] = "missed"
    found["bad_input"][0].update(status="failed", reason="the message lacks 'x'")
    found["statistics"][0]["status"] = "failed"
    found["statistics_long"]["complaints"].append("made by other sources")
    program.name_outcomes(found)
    assert capsys.readouterr().out.splitlines() == [
        "failed: marginal_identity on llama: error 2 exceeds 1",
        "not run: gauge on bert: q/k norms | <none>",
        "missed: fault o_by_rows was not caught by relabelling",
        "failed: bad input one_token: the message lacks 'x'",
        "not run: bad input peft: the package peft is not installed",
        "failed: type I of test_source on light: 0.062",
        "failed: made by other sources",
        "not run: GPU: no CUDA device",
    ]
    program.name_outcomes({**GOOD, "results": [], "bad_input": [], "not_run": []})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "num_found"),
    [
        ('<script src="https://cdn.example/mathjax.js"></script>', 1),
        ('<script src="//cdn.example/mathjax.js"></script>', 1),
        ('<LINK REL="stylesheet" HREF="HTTP://cdn.example/a.css">', 1),
        ('<link href="https://cdn.example/a.css">', 1),
        ('<img src="https://example.org/a.png"><iframe src="https://example.org"></iframe>', 2),
        ('<a href="https://example.org">a link</a>', 0),
        ('<link rel="canonical" href="https://example.org">', 0),
        ('<script src="_static/mathjax/tex-svg.js"></script>', 0),
    ],
)
def test_remote_resource_is_found(tmp_path, text, num_found):
    (tmp_path / "page.html").write_text(f"<html>{text}</html>")
    assert len(book.remote_resources(tmp_path)) == num_found


def test_remote_resource_in_a_style_sheet_is_found(tmp_path):
    (tmp_path / "a.css").write_text("@import 'https://example.org/b.css'; b { background: url(//example.org/c.png) }")
    (tmp_path / "local.css").write_text("b { background: url(c.png) }")
    assert len(book.remote_resources(tmp_path)) == 2


def test_contents_name_only_pages_and_notebooks():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    files = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    assert len(files) == len(set(files)) >= 9
    assert sum(file.startswith("notebooks/") for file in files) >= 4
