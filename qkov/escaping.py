r"""Text that others chose, shown literally: to a terminal, a browser, Markdown, LaTeX, a spreadsheet, a picture.

Names of tasks, sample ids, cluster labels, module and file names come from data and models. Whoever shows one to a person
takes the function of the place where it is shown. All but :func:`for_csv` first make visible what cannot be seen or what a
program obeys, see :func:`visible`; reading their result back in that language gives exactly this visible text.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


__all__ = [
    "for_csv",
    "for_html",
    "for_latex",
    "for_markdown",
    "for_picture",
    "for_terminal",
    "from_csv",
    "html_block",
    "html_table",
    "visible",
]

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]<>|$#~&^"})
# What begins a list, a heading's underline, a comment, a fence, a target or a numbered item, at the start of a line only.
_MARKDOWN_START = re.compile(r"(?=[=%:(!]|[-+](?!\d))|\d{1,9}(?=[.)](?: |$))")
# Braces end each command's name; those after - and , keep two of them from becoming a dash or a quotation mark.
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "'": r"\textquotesingle{}",
        "`": r"\textasciigrave{}",
        "-": "-{}",
        ",": ",{}",
        **{char: f"\\{char}" for char in "{}$&#_%"},
    }
)


def visible(text: object) -> str:
    r"""Write what is no printable character as an escape of Python: controls, bidirectional overrides, odd spaces.

    Against text that reads otherwise than it is stored, and against characters that a file format cannot hold (NUL, lone
    surrogates). A backslash stays one, so that paths stay readable; the result is for people, not to be read back.

    Example:
        >>> visible("a\tb\x1b[2J\u202ec \\ é")
        'a\\tb\\x1b[2J\\u202ec \\ é'
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def for_terminal(text: str) -> str:
    r"""Return :func:`visible` text that keeps its line breaks.

    Against escape sequences, which a terminal obeys: they move the cursor, overwrite lines, set the title, answer as if
    typed.

    Example:
        >>> print(for_terminal("layer \x1b[31mred\nnext"))
        layer \x1b[31mred
        next
    """
    return "\n".join(map(visible, str(text).split("\n")))


def for_html(text: str) -> str:
    """Return text for the body of an element or a quoted attribute.

    Against elements, attributes and entities in the text. Mathematics between dollars is left alone by a page only inside
    :func:`html_block`.

    Example:
        >>> for_html("<script>alert('x')</script> & co")
        '&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; co'
    """
    return html.escape(visible(text))


def html_block(*parts: str) -> str:
    """Join pieces of HTML into one block that notebooks and pages do not search for mathematics.

    Against ``$`` in names: MathJax reads the text after all escapes are gone, and its commands can make links.
    """
    return f'<div class="tex2jax_ignore mathjax_ignore">{"".join(parts)}</div>'


def html_table(table: pd.DataFrame, **options: Any) -> str:
    """Write a pandas table as HTML without its index, numbers short, text as :func:`for_html` writes it.

    Args:
        table: The DataFrame.
        **options: As for ``DataFrame.to_html``.
    """
    shown = table.map(lambda value: visible(value) if isinstance(value, str) else value)
    shown.columns = [visible(name) for name in table.columns]
    given = {"index": False, "float_format": "{:.3g}".format} | options
    return shown.to_html(**given, escape=True)


def for_markdown(text: str) -> str:
    r"""Return text for a paragraph, a list item or a cell of a table in Markdown, MyST included; it stays on one line.

    Against markup: links, images, raw HTML, entities, roles, substitutions, mathematics, bars that end a cell. Spaces at
    both ends are dropped, as Markdown does.

    Example:
        >>> for_markdown("[x](javascript:y) | a_b"), for_markdown("1. one")
        ('\\[x\\](javascript:y) \\| a\\_b', '1\\. one')
    """
    escaped = visible(text).strip(" ").translate(_MARKDOWN)
    start = _MARKDOWN_START.match(escaped)
    return escaped if start is None else f"{start.group()}\\{escaped[start.end() :]}"


def for_latex(text: str) -> str:
    r"""Return text for the body of a LaTeX document.

    Against commands (``\input`` reads files), comments, alignment and mathematics, and against ligatures that show other
    characters.

    Example:
        >>> print(for_latex(r"$\input{a} 50% a_b"))
        \$\textbackslash{}input\{a\} 50\% a\_b
    """
    return visible(text).translate(_LATEX)


def for_csv(text: str) -> str:
    r"""Return a cell of a CSV file that no spreadsheet takes for a formula; :func:`from_csv` gives the text back.

    Against text that begins with ``=``, ``+``, ``-``, ``@`` (wide forms too), a tab or a line break: a spreadsheet runs it as
    a formula. A ``'`` goes in front, also of text that begins with ``'`` before one of these, so that it can be taken away.
    Commas and quotes are the CSV writer's.

    Example:
        >>> for_csv("=1+1"), for_csv("'=1"), for_csv("math")
        ("'=1+1", "''=1", 'math')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_csv(text: str) -> str:
    """Undo :func:`for_csv`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def for_picture(text: str) -> str:
    """Return text for a matplotlib label that is drawn with ``parse_math=False``, line breaks kept.

    Against characters without a glyph, and those that make an SVG file no XML. What a ``$`` begins is no mathematics only
    where the label says ``parse_math=False``: no escape of ``$`` is undone in every text.
    """
    return for_terminal(text)
