"""Tables of the book as LaTeX: the same text, read as Markdown and written again, so that both show the same numbers."""

import math
import re

from markdown_it import MarkdownIt

from qkov import escaping

WIDTH, GAP = 126, 1.8
"""Letters of the size of tables that fit a line, and that fit between two columns."""
SIZES = (7, 6.2, 5.6)
"""Letters in points, the first where it will do."""
WORDS, SHORTEST = 18, 9
"""Letters to which columns are cut down: of words to the first, then all to the second."""
CHARACTERS = {
    "–": "--", "—": "---", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "≤": r"$\le$", "≥": r"$\ge$", "±": r"$\pm$",
    "●": r"$\bullet$", "○": r"$\circ$", "→": r"$\to$", "…": r"\ldots{}", "’": "'", "‘": "`", "“": "``", "”": "''",
    "²": r"\textsuperscript{2}", "λ": r"$\lambda$", "β": r"$\beta$", "ρ": r"$\rho$", "°": r"\textdegree{}", "µ": r"$\mu$",
}  # fmt: skip
"""What pdfLaTeX with these fonts cannot read, and how it is written."""


def text(value):
    r"""Write any text so that LaTeX prints it literally; a character without a letter in the fonts by its number.

    Lines may break behind underscores, full stops and slashes, which names are full of.

    Example:
        >>> print(text("a_b ≤ 1"), text("日"))
        a\_\allowbreak{}b $\le$ 1 \texttt{U+65E5}
    """
    written = "".join(
        CHARACTERS.get(char) or (escaping.for_latex(char) if ord(char) < 128 else rf"\texttt{{U+{ord(char):04X}}}")
        for char in escaping.visible(value)
    )
    # Not inside of numbers: a digit on either side of a full stop keeps the line together.
    return re.sub(r"(\\_|(?<=[A-Za-z])[./](?=[A-Za-z]))", r"\1\\allowbreak{}", written)


def tables_in(markdown):
    """Read a text of the book: ``[(heading, align, header, rows)]``, and sentences where there is no table.

    Returns:
        A list whose entries are tables or plain sentences (str).
    """
    parser = MarkdownIt("commonmark").enable("table")
    found, heading, current = [], "", None
    for token in parser.parse(markdown):
        if token.type == "table_open":
            current = {"heading": heading, "align": [], "rows": []}
        elif token.type == "table_close":
            found.append((current["heading"], current["align"], current["rows"][0], current["rows"][1:]))
            current, heading = None, ""
        elif token.type == "tr_open":
            current["rows"].append([])
        elif token.type == "th_open":
            current["align"].append("r" if "right" in str(token.attrs.get("style", "")) else "l")
        elif token.type == "inline":
            plain = plain_text(token)
            if current is not None:
                current["rows"][-1].append(plain)
            elif is_heading(token):
                heading = plain
            elif not plain.startswith(":::"):
                found.append(plain)
    return found


def is_heading(token):
    """Whether a paragraph is nothing but bold text, which stands above a table."""
    kinds = [child.type for child in token.children if child.type != "text" or child.content]
    return kinds[:1] == ["strong_open"] and kinds[-1:] == ["strong_close"]


def plain_text(token):
    """What a reader of the page sees."""
    return "".join("\n" if child.type.endswith("break") else child.content for child in token.children).strip()


def long_table(align, header, rows, *, caption, label):
    """Write a table that may run over pages: rules as in books, columns no wider than they need.

    Args:
        align: "l" or "r" for each column. header, rows: Plain text. caption: LaTeX. label: For ``ref``; "" for none.
    """
    points, line, wide = fitted(align, header, rows)
    columns = "".join(column(side, width, line) for side, width in zip(align, wide, strict=True))
    head = " & ".join(rf"\textbf{{{text(name)}}}" for name in header) + r" \\"
    named = rf"\label{{tab:{label}}}" if label else ""
    number = len(header)
    lines = [
        rf"{{\fontsize{{{points:g}}}{{{points + 1:g}}}\selectfont\setlength{{\tabcolsep}}{{3pt}}",
        rf"\begin{{longtable}}{{{columns}}}",
        rf"\caption{{{caption}}}{named} \\",
        r"\toprule", head, r"\midrule", r"\endfirsthead",
        r"\toprule", head, r"\midrule", r"\endhead",
        rf"\midrule \multicolumn{{{number}}}{{r}}{{continued}} \\ \endfoot", r"\bottomrule", r"\endlastfoot",
        *(" & ".join(map(text, row)) + r" \\" for row in rows),
        r"\end{longtable}}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def sentence(said, *, caption, label):
    """Write what stands in the place of a table that has no rows, under its caption and label."""
    return "\n".join([
        r"\begin{longtable}{p{0.9\textwidth}}", rf"\caption{{{caption}}}\label{{tab:{label}}} \\", text(said),
        r"\end{longtable}", "",
    ])  # fmt: skip


def widths(align, header, rows, line=WIDTH):
    """Letters for each column: what the longest cell needs; where that is too much, words give way first, numbers last."""
    widest = needed = [
        max(math.ceil(1.2 * length(cells[0])), *map(length, cells)) + 1 for cells in zip(header, *rows, strict=True)
    ]
    for columns, least in (
        ([at for at, side in enumerate(align) if side == "l"], WORDS),
        (range(len(widest)), SHORTEST),
    ):
        needed = list(needed)
        while columns and sum(needed) + GAP * len(needed) > line and max(needed[at] for at in columns) > least:
            needed[max(columns, key=lambda at: needed[at])] -= 1
    return needed


def fitted(align, header, rows):
    """The size of letters in points, letters a line and widths of columns: smaller where numbers would break over lines."""
    numbers = [at for at, side in enumerate(align) if side == "r"]
    for points in SIZES:
        line = round(WIDTH * SIZES[0] / points)
        found, free = (widths(align, header, rows, one) for one in (line, math.inf))
        if all(found[at] == free[at] for at in numbers):
            break
    return points, line, found


def length(cell):
    """Letters of average width that a cell takes: capitals and digits are wider."""
    return math.ceil(sum(1.3 if char.isupper() else 1.06 if char.isdigit() else 1.0 for char in cell))


def column(align, width, line):
    """A column of fixed width, ragged on the free side."""
    side = "raggedleft" if align == "r" else "raggedright"
    return rf">{{\{side}\arraybackslash}}p{{{width / line:.4f}\textwidth}}"
