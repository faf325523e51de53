"""What pages say by hand agrees with the code: checks, degrees, chapters."""

import re
from pathlib import Path

import yaml

from qkov.checks import CHECKS
from qkov.meaning import VARIANT_MEANING

BOOK = Path(__file__).parent.parent / "book"


def test_every_check_is_explained_on_the_page_of_laws():
    explained = re.findall(r"`(\w+)`", (BOOK / "laws.md").read_text(encoding="utf-8"))
    assert set(CHECKS) <= set(explained)


def test_laws_named_on_the_page_of_reasons_exist():
    text = (BOOK / "why.md").read_text(encoding="utf-8")
    named = [name for line in re.findall(r"\*Law:\*[^\n]*\n?[^\n]*", text) for name in re.findall(r"`(\w+)`", line)]
    assert named
    assert set(named) <= set(CHECKS)


def test_degrees_on_the_page_of_the_metric_are_those_of_results():
    text = (BOOK / "metric.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| ([-−\d]+) \|", text, re.MULTILINE)
    found = {
        variant: [tuple(int(number.replace("−", "-")) for number in part.split(", ")) for part in parts]
        for variant, *parts in cells
    }
    for variant, entry in VARIANT_MEANING.items():
        own, other, pooled = (entry["degrees"][pool] for pool in ("A", "B", "pooled"))
        assert found[variant] == [own[:2], other[:2], pooled[2:]], variant


def test_chapters_are_the_pages_that_exist():
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    pages = [*BOOK.glob("*.md"), *(BOOK / "notebooks").glob("*.md")]
    assert sorted(listed) == sorted(page.relative_to(BOOK).with_suffix("").as_posix() for page in pages)


def test_notebooks_define_no_functions():
    for notebook in (BOOK / "notebooks").glob("*.md"):
        assert not re.search(r"^\s*(def|class) ", notebook.read_text(encoding="utf-8"), re.M), notebook.name
