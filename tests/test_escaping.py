r"""Text of others is shown literally: read back in the language it was written for, it is that text and nothing active."""

import csv
import dataclasses
import html.parser
import io
import re
import shutil
import warnings
import xml.etree.ElementTree
from pathlib import Path

import markdown_it.renderer
import myst_parser.config.main
import myst_parser.parsers.mdit
import pandas as pd
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import qkov
from qkov import errors, escaping, head_statistics, plots
from qkov.commands import console
from reports import book, tables
from tests.heatmaps import make_heatmap
from tests.statistics_models import three_tasks

ROOT = Path(__file__).resolve().parent.parent

HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=y>", '" onmouseover="x', "&lt;b&gt; &#60;b&#62;", "<!-- -->",
    "[x](javascript:y)", "![x](http://a/b)", "<http://a.b>", "http://a.b www.a.b", "| a | b |", "`code` ``x``",
    "*a* **b** _c_", "a\nb", "a\r\nb", "\n\n# title", "- item", "+ item", "* item", "12. item", "1) item", "> quote",
    "# title", "===", "---", "::: {note}", "```{eval-rst}", "{ref}`x`", "{{ num_checks }}", "(target)=", "% comment", "+++",
    "[^1]", "$x$", "$$x$$", r"$\href{javascript:x}{y}$", r"\(x\)", r"$\input{/etc/passwd}$", r"\write18{x}", "100 % ~ ^ & _ #",
    "--", "``a''", "?`",
    "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "\uff1d1",
    "\x1b[2J\x1b]0;title\x07", "\x9b31m", "\x00", "\x7f", "\u202eevil\u2066", "\u200b", "\ud800", "\ufeff", "a\u2028b",
    "$", "$ and $", r"\$", r"\frac{", "_hidden", "   x", "\\", "\\\\n", "",
)  # fmt: skip
TEXT = st.one_of(
    st.text(max_size=30),
    st.text("<>&\"'|`*_{}[]()#+-.!$%~^=:@\\/ \t\r\nax1\x1b\u202e", max_size=20),
    st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=3).map("".join),
)


def hostile(test):
    """Run a property on every known attack before those that Hypothesis draws."""
    for text in HOSTILE:
        test = example(text)(test)
    return given(TEXT)(test)


# Readers of each language; what they find is (text, active elements).


class Page(html.parser.HTMLParser):
    """Reads a page: its text, and everything that is not text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.text, self.active, self.attributes = "", [], []
        self.feed(page)
        self.close()

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attributes):
        self.active.append(tag)
        self.attributes += attributes

    def handle_comment(self, data):
        self.active.append("comment")

    handle_decl = handle_pi = unknown_decl = handle_comment


def read_html(text):
    page = Page(text)
    return page.text, page.active


def read_markdown(text):
    """Tokens of the parser of the book, with its extensions."""
    known = yaml.safe_load((ROOT / "book" / "_config.yml").read_text(encoding="utf-8"))["parse"][
        "myst_enable_extensions"
    ]
    config = myst_parser.config.main.MdParserConfig(enable_extensions=set(known))
    parser = myst_parser.parsers.mdit.create_md_parser(config, markdown_it.renderer.RendererHTML)
    found = parser.parse(text)
    inside = [child for token in found if token.type == "inline" for child in token.children]
    plain = {"paragraph_open", "paragraph_close", "inline"}
    plain |= {f"{part}_{end}" for part in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")}
    active = [token.type for token in found if token.type not in plain]
    active += [child.type for child in inside if child.type not in ("text", "text_special")]
    return "".join(child.content for child in inside), active


LATEX_WORDS = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
    "textbar": "|", "textquotedbl": '"', "textquotesingle": "'", "textasciigrave": "`",
}  # fmt: skip
LATEX_TOKEN = re.compile(r"\\([a-zA-Z]+)\{\}|\\([{}$&#_%])|([-,])\{\}|(.)", re.DOTALL)


def read_latex(text):
    """What LaTeX would print; a special that is left, a command that is not for a character, and a ligature are active."""
    shown, active = "", []
    for word, special, alone, other in LATEX_TOKEN.findall(text):
        if word and word not in LATEX_WORDS:
            active.append(word)
        if other and other in "\\{}$&#_%~^-,<>|\"'`":
            active.append(other)
        shown += LATEX_WORDS.get(word, "") or special or alone or other
    return shown, active


def read_terminal(text):
    return text, [char for char in text if char != "\n" and not char.isprintable()]


READERS = {
    "terminal": (escaping.for_terminal, read_terminal),
    "html": (escaping.for_html, read_html),
    "markdown": (escaping.for_markdown, read_markdown),
    "latex": (escaping.for_latex, read_latex),
}


def read_back(language, text, write=None):
    """Whether a text written for a language is read as itself, with nothing active."""
    ours, read = READERS[language]
    shown, active = read((write or ours)(text))
    expected = {"terminal": "\n".join(map(escaping.visible, text.split("\n")))}.get(language, escaping.visible(text))
    if language == "markdown":
        shown, expected = shown.strip(" "), expected.strip(" ")
    return shown == expected and not active


@pytest.mark.parametrize("language", READERS)
def test_any_text_is_read_back_and_nothing_is_active(language):
    @hostile
    def literal(text):
        assert read_back(language, text)

    literal()


@pytest.mark.parametrize(
    ("language", "write"),
    [
        ("terminal", str),
        ("terminal", lambda text: text.replace("\x1b", "")),
        ("html", escaping.visible),
        ("html", lambda text: escaping.visible(text).replace("<", "&lt;")),
        ("markdown", escaping.visible),
        ("markdown", lambda text: escaping.for_markdown(text).replace("\\|", "|").replace("\\&", "&")),
        ("markdown", lambda text: escaping.visible(text).translate(escaping._MARKDOWN)),
        ("latex", escaping.visible),
        ("latex", lambda text: escaping.for_latex(text).replace("\\%", "%")),
        ("latex", lambda text: escaping.for_latex(text).replace("-{}", "-")),
    ],
)
def test_a_wrong_escape_is_noticed(language, write):
    assert not all(read_back(language, text, write) for text in HOSTILE)


@hostile
def test_a_cell_of_a_report_is_literal_in_a_table_a_list_and_bold(text):
    words = escaping.visible(" ".join(text.split())).strip(" ")
    cell = tables.cell(text)
    if not words:
        return
    shown, active = read_markdown(tables.table(["a"], [[text]]))
    assert shown == f"a{words}"
    assert not active
    shown, active = read_markdown(f"**{cell}**\n\n- {cell}\n")
    assert shown.count(words) >= 2 or words in {"*"}
    assert set(active) <= {"strong_open", "strong_close", "bullet_list_open", "list_item_open", "list_item_close",
                           "bullet_list_close"}  # fmt: skip


@hostile
def test_a_csv_cell_is_no_formula_and_comes_back(text):
    cell = escaping.for_csv(text)
    assert cell[:1] not in tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
    assert escaping.from_csv(cell) == text
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerow([cell, "next"])
    stream.seek(0)
    assert next(csv.reader(stream)) == [cell, "next"]


def test_printable_text_stays_as_it_is_for_a_terminal_and_a_picture():
    text = "C:\\new é 漢字 Σ → \n second line"
    assert escaping.for_terminal(text) == text
    assert escaping.for_picture(text) == text


@hostile
def test_a_table_of_a_notebook_is_literal(text):
    page = Page(escaping.html_table(pd.DataFrame({text: [text], "n": [0.123456]})))
    assert set(page.active) <= {"table", "thead", "tbody", "tr", "th", "td"}
    shown = page.text.replace("\xa0", " ")  # pandas keeps spaces together, strips cells and shortens long ones
    assert shown.count(escaping.visible(text).strip()[:40]) >= 2
    assert "0.123" in page.text
    assert "0.1234" not in page.text


# Where names reach a person.


def hostile_results(name):
    """One result of every kind that shows names, with a name as task and ids."""
    heatmap = make_heatmap(task_a=name, task_b=f"{name} B", sample_a=(name, "one", "two"))
    yield heatmap
    yield heatmap.to_dataframe("pair")
    yield heatmap.data


NAMES = ["<script>x</script>", "\x1b[2J", "\u202eevil", "$\\href{javascript:x}{y}$", "=1|`x`", "a\nb"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_results_show_names_literally_in_a_notebook(name):
    for found in hostile_results(name):
        page = Page(found._repr_html_())
        assert not {"script", "img", "a", "iframe", "object"} & {tag for tag in page.active if tag != "svg"}, found
        assert not [key for key, _ in page.attributes if key.startswith("on")]
    ours = make_heatmap(task_a=name)._repr_html_()
    assert escaping.visible(name) in Page(ours).text
    assert ours.startswith('<div class="tex2jax_ignore mathjax_ignore">')
    assert ours.endswith("</div>")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_results_show_names_literally_in_a_terminal(name):
    assert not read_terminal(repr(make_heatmap(task_a=name, task_b=name)))[1]


def results_with_repr():
    """Every module of qkov that writes HTML for a notebook, and the one that some leave it to."""
    modules = [path.stem for path in sorted((ROOT / "qkov").glob("*.py")) if "_repr_html_" in path.read_text("utf-8")]
    return [*(name for name in modules if name != "escaping"), "result_words"]


WORDS_OF_RESULTS = "return result_words.in_html(*self._words())"


@pytest.mark.parametrize("module", results_with_repr())
def test_whatever_writes_html_does_it_through_one_module(module):
    source = (ROOT / "qkov" / f"{module}.py").read_text(encoding="utf-8")
    if WORDS_OF_RESULTS in source:  # all of it is left to a module that is looked at here too
        source = source.replace("result_words.in_html(", "escaping.html_block(").replace(
            "result_words.in_terminal(", "escaping.for_terminal("
        )
    assert "escaping.html_block(" in source
    assert "escaping.for_terminal(" in source or module == "conflict_advice"  # its words hold no name
    assert "html.escape" not in source
    assert ".to_html(" not in source


def test_messages_of_errors_and_warnings_hold_nothing_that_a_terminal_obeys():
    for kind in (errors.OptionError, errors.UnknownTaskError, errors.EmptyTaskWarning, errors.DiskError):
        said = str(kind("task \x1b[2J\u202e\nsecond line"))
        assert said == "task \\x1b[2J\\u202e\nsecond line"
    with pytest.warns(errors.EmptyTaskWarning) as caught:
        warnings.warn("task \x1b]0;x\x07", errors.EmptyTaskWarning, stacklevel=1)
    assert "\x1b" not in str(caught[0].message)


TITLES = ["$", "a $ b $ c", r"$\frac{$", r"\$x", "\x1b[2J", "\u202eevil", "\x00", "<b>&amp;", "--><script>", "_hidden"]


def drawn_texts(figure):
    """Every text of a picture, without the line breaks that were put in."""
    return " ".join(" ".join(text.get_text().split()) for text in figure.findobj(plots.matplotlib.text.Text))


def assert_literal(figure, name):
    svg = figure.to_svg()
    xml.etree.ElementTree.fromstring(svg)
    assert "<script" not in svg
    assert " ".join(escaping.for_picture(name).split()) in drawn_texts(figure)


@pytest.mark.parametrize("name", TITLES, ids=ascii)
def test_pictures_show_names_literally(name):
    assert_literal(make_heatmap(task_a=name).plot(), name)
    values = {name: [1.0, 2.0], "other": [2.0, 3.0]}
    assert_literal(plots.plot_identity(values, values, title=name, measured_label=name, note=name), name)
    assert_literal(plots.plot_maps({name: [[1.0, 2.0]]}, title=name, unit=name, note=name), name)


@pytest.fixture(scope="module")
def conflicts():
    return qkov.detect_conflicts(three_tasks(), "a", "b", progress=False)


@pytest.fixture(scope="module")
def tested():
    collector = three_tasks()
    return qkov.QKOVStatistics(n_permutations=19, n_splits=2).test_heatmap(
        collector, "a", "b", "r", seed=5, progress=False
    )


@pytest.mark.filterwarnings("ignore::qkov.errors.StatisticsWarning")
@pytest.mark.parametrize("name", TITLES, ids=ascii)
def test_a_picture_of_tests_shows_names_literally(tested, name):
    renamed = {field.name: getattr(tested, field.name) for field in dataclasses.fields(tested) if field.init}
    renamed["attributes"] = tested.attributes | {"task_a": name}
    assert_literal(qkov.HeadStatistics(**renamed).plot(), name)


@pytest.mark.parametrize("name", TITLES, ids=ascii)
def test_a_picture_of_conflicts_shows_names_literally(conflicts, name):
    found = dataclasses.replace(conflicts, attributes=conflicts.attributes | {"task_a": name})
    figure = found.plot()
    assert_literal(figure, name)
    assert f"inside {escaping.for_picture(name)} (A), mean" in drawn_texts(figure)


@pytest.fixture(scope="module")
def built_page(tmp_path_factory):
    """The body of a page of the book with every hostile name in a table, a title that folds and a list."""
    folder = tmp_path_factory.mktemp("book")
    sources = folder / "sources"
    shutil.copytree(ROOT / "book", sources, ignore=shutil.ignore_patterns("*.md", "_toc.yml", "notebooks"))
    (sources / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    cells = [tables.cell(name) for name in LISTED]
    parts = [tables.table(["name"], [[name] for name in LISTED])]
    parts += [f":::{{dropdown}} {cell} (1)\nbody\n:::\n" for cell in cells] + [f"- {cell}" for cell in cells]
    (sources / "page.md").write_text("\n".join(["# Title\n", *parts, ""]), encoding="utf-8")
    built = book.build(sources, folder / "pages")
    assert not built.problems
    page = (folder / "pages" / "html" / "page.html").read_text(encoding="utf-8")
    return Page(page[page.index("<article") : page.index("</article>")])


LISTED = [name for name in HOSTILE if name.strip()] + ["--model", "'a' and \"b\"", "(c) ..."]


def test_the_built_page_gives_back_every_name(built_page):
    for name in LISTED:
        assert built_page.text.count(escaping.visible(" ".join(name.split()))) >= 3, name
    assert not [key for key, value in built_page.attributes if key.startswith("on") or "javascript:" in (value or "")]
    assert not {"img", "iframe", "object", "embed", "math"} & set(built_page.active)
    assert built_page.active.count("a") == 1  # beside the title


def test_the_command_line_goes_through_the_same_module():
    assert "escaping.for_terminal" in Path(console.__file__).read_text(encoding="utf-8")
    assert head_statistics.escaping is escaping
    assert qkov.errors.escaping is escaping
