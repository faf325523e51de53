"""Write the appendix: text, tables, numbers with their sources; and a PDF where pdflatex is installed."""

import hashlib
import inspect
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import contents, latex, tracing

TEXT = Path(__file__).resolve().parent / "text"
FORMAT = "qkov-appendix-numbers-1"
NAME = "appendix"
USED = re.compile(r"\\N\{(\w+)\}")
INPUT = re.compile(r"\\input\{tables/(\w+)\}")
FIXED = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "TZ": "UTC", "LC_ALL": "C.UTF-8", "max_print_line": "1000"}
"""So that two builds are the same bytes."""


class AppendixError(ValueError):
    """Text that names a number or a table that there is not."""


@dataclass(frozen=True)
class Appendix:
    """What was made.

    Attributes:
        folder: Where. num_tables, num_numbers: How many.
        pdf: The PDF, or None where there is no pdflatex.
        problems: What is wrong with it.
    """

    folder: Path
    num_tables: int
    num_numbers: int
    pdf: Path | None
    problems: tuple[str, ...]

    @property
    def counts(self):
        """(passed, failed, not run) for the final table: the source, and the PDF."""
        if self.problems:
            return 0, len(self.problems), 0
        return (2, 0, 0) if self.pdf else (1, 0, 1)


def build(found, manifest, folder):
    """Make the appendix.

    Args:
        found, manifest: Evidence and manifest of one validation.
        folder: Emptied and filled: ``appendix.tex`` with ``text/``, ``tables/`` and ``numbers.tex``, ``numbers.json``, and
            ``appendix.pdf`` where pdflatex is installed.

    Returns:
        An :class:`Appendix`; a text that names a number or a table that there is not, or that pdflatex refuses, is a problem
        of it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        num_tables, num_numbers = write_sources(found, manifest, folder)
    except AppendixError as error:
        return Appendix(folder, 0, 0, None, (str(error),))
    if not has_pdflatex():
        return Appendix(folder, num_tables, num_numbers, None, ())
    pdf, problems = typeset_twice(folder)
    return Appendix(folder, num_tables, num_numbers, pdf, tuple(problems))


def has_pdflatex():
    """Whether a PDF can be made here."""
    return shutil.which("pdflatex") is not None


def write_sources(found, manifest, folder):
    """Write everything that pdflatex reads, and where each number comes from; how many tables and numbers."""
    (folder / "tables").mkdir(parents=True)
    shutil.copytree(TEXT, folder / "text", ignore=shutil.ignore_patterns("main.tex"))
    shutil.copyfile(TEXT / "main.tex", folder / f"{NAME}.tex")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(TEXT.glob("*.tex")))
    sources = tracing.words_of(found, "evidence.json#")
    sources = tracing.words_of(manifest, "manifest.json#", sources)
    numbers, lines = numbers_of(found, manifest, set(USED.findall(text)), sources)
    (folder / "numbers.tex").write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = {}
    if unknown := set(INPUT.findall(text)) ^ contents.TABLES.keys():
        raise AppendixError(f"the text and the tables differ by {', '.join(sorted(unknown))}.")
    for name, table in contents.TABLES.items():
        written, made[name] = make_table(name, table, found, manifest, sources)
        (folder / "tables" / f"{name}.tex").write_text(written, encoding="utf-8")
    document = {
        "format": FORMAT,
        "documents": {"evidence.json": digest(found), "manifest.json": digest(manifest)},
        "numbers": numbers,
        "tables": made,
    }
    path = folder / "numbers.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return len(made), len(numbers) + sum(len(one["numbers"]) for one in made.values())


def digest(document):
    """SHA-256 of a document as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def numbers_of(found, manifest, used, words):
    """Every number of the prose: ``({name: shown, sources}, lines of LaTeX that define them)``."""
    made = {
        name: one for made_by in contents.MEASURED for name, one in measured(made_by, found, manifest, words).items()
    }
    entries, lines = {}, [r"% Made by python -m reports.appendix."]
    for name in sorted(used):
        entry = of_code(name) or made.get(name)
        if entry is None:
            raise AppendixError(f"the text has the number {name!r}, which nothing makes.")
        entries[name] = entry
        lines.append(rf"\expandafter\def\csname number@{name}\endcsname{{{in_prose(entry['shown'])}}}")
    return entries, lines


def of_code(name):
    """A constant of the definitions, ``{shown, code}``, or None."""
    if name in contents.CODE:
        return {"shown": str(contents.constant(contents.CODE[name])), "code": contents.CODE[name]}
    if name in contents.EXPONENTS:
        source, value = contents.EXPONENTS[name]
        return {"shown": str(value()), "code": source}
    return None


def measured(made_by, found, manifest, words):
    """The numbers that one function makes, ``{name: shown, made_by, numbers}``."""
    log, make = tracing.Log(), contents.MEASURED[made_by]
    plain = {name: str(value) for name, value in make(found, manifest).items()}
    marked = make(tracing.traced(found, "evidence.json#", log), tracing.traced(manifest, "manifest.json#", log))
    marked = {name: str(value) for name, value in marked.items()}
    for name, value in plain.items():
        require_same(name, tracing.unmarked(marked[name]), value)
    return {
        name: {"shown": value, "made_by": made_by, "numbers": tracing.sources_of(marked[name], log, words, made_by)}
        for name, value in plain.items()
    }


def in_prose(plain):
    r"""Write a number as LaTeX: powers of ten, thousands, a minus; other text literally.

    Example:
        >>> print(in_prose("1e-08"), in_prose("2.5e-09"), in_prose("12345"), in_prose("20260101"))
        \ensuremath{10^{-8}} \ensuremath{2.5 \cdot 10^{-9}} \ensuremath{12{,}345} 20260101
    """
    if match := re.fullmatch(r"(-?[\d.]+)e([-+]\d+)", plain):
        power = f"10^{{{int(match[2])}}}"
        factor = "" if float(match[1]) == 1 else rf"{match[1]} \cdot "
        return rf"\ensuremath{{{factor}{power}}}"
    if re.fullmatch(r"\d{5,6}", plain):
        plain = f"{int(plain):,}"
    if re.fullmatch(r"-?[\d,]+(\.\d+)?", plain) and not re.fullmatch(r"\d{7,}", plain):
        return rf"\ensuremath{{{plain.replace(',', '{,}')}}}"
    return latex.text(plain)


def make_table(name, table, found, manifest, words):
    """One file of tables, and the sources of its numbers, row by row."""
    log = tracing.Log()
    markdown = table.make(tracing.traced(found, "evidence.json#", log), tracing.traced(manifest, "manifest.json#", log))
    require_same(name, tracing.unmarked(markdown), table.make(found, manifest))
    parts, entries, read = [], [], latex.tables_in(markdown)
    if all(isinstance(part, str) for part in read):
        said = tracing.unmarked(" ".join(read))
        return latex.sentence(said, caption=table.caption, label=name), {"made_by": table.made_by, "numbers": []}
    for part in read:
        if isinstance(part, str):
            parts.append(latex.text(tracing.unmarked(part)) + "\n")
            continue
        heading, align, header, rows = part
        caption = table.caption + (f": {latex.text(heading)}" if heading else "")
        label = name if not any(one.startswith("{") for one in parts) else ""
        shown = [[tracing.unmarked(cell) for cell in row] for row in rows]
        parts.append(latex.long_table(align, header, shown, caption=caption, label=label))
        for row_number, row in enumerate(rows):
            for title, cell in zip(header, row, strict=True):
                place = {"table": heading, "row": row_number, "column": title}
                entries += [place | one for one in tracing.sources_of(cell, log, words, table.made_by)]
    return "\n".join(parts), {"made_by": table.made_by, "numbers": entries}


def require_same(name, traced, plain):
    """The text with traces must be the text without: that of the book."""
    if traced != plain:
        raise AppendixError(f"{name} reads otherwise when its numbers are traced than in the book.")


def typeset_twice(folder):
    """Run pdflatex in two folders; ``(the PDF or None, problems)``."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        made = [typeset(folder, Path(place)) for place in (first, second)]
        if said := next((said for _, said in made if said), ""):
            return None, [said]
        one, two = (path.read_bytes() for path, _ in made)
        shutil.copyfile(made[0][0], folder / f"{NAME}.pdf")
    problems = [] if one == two else ["two builds of the PDF differ"]
    return folder / f"{NAME}.pdf", problems


def typeset(folder, place):
    """Copy the sources and run pdflatex until references stand; ``(PDF, what went wrong)``."""
    work = place / "work"
    shutil.copytree(folder, work)
    # No shell, no reading or writing outside of the folder: texts come from others.
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", f"{NAME}.tex"]
    env = {**os.environ, **FIXED, "openin_any": "p", "openout_any": "p"}
    for _ in range(3):
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            lines = done.stdout.splitlines()
            start = next((at for at, line in enumerate(lines) if line.startswith("!")), max(0, len(lines) - 12))
            return None, "pdflatex failed:\n" + "\n".join(lines[start : start + 12])
    log = (work / f"{NAME}.log").read_text(encoding="utf-8", errors="replace")
    if wrong := [line for line in log.splitlines() if re.search(r"undefined|multiply defined|Missing character", line)]:
        return None, "pdflatex warned:\n" + "\n".join(inspect.cleandoc(line) for line in wrong[:10])
    return work / f"{NAME}.pdf", ""
