"""What pages say by hand agrees with the code: checks, degrees, chapters."""

import importlib
import re
from pathlib import Path

import pytest
import yaml

import qkov
from qkov import checks, distributed, errors, formula, statistics
from qkov.checks import CHECKS
from qkov.meaning import VARIANT_MEANING
from validation import bad_input

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
    pages = BOOK.rglob("*.md")
    assert sorted(listed) == sorted(page.relative_to(BOOK).with_suffix("").as_posix() for page in pages)


def test_notebooks_define_no_functions():
    for notebook in (BOOK / "notebooks").glob("*.md"):
        assert not re.search(r"^\s*(def|class) ", notebook.read_text(encoding="utf-8"), re.M), notebook.name


PUBLIC = {
    "qkov": set(qkov.__all__) - {"__version__"},
    "qkov.statistics": set(statistics.__all__),
    "qkov.checks": set(checks.__all__),
    "qkov.errors": {name for name, thing in vars(errors).items() if isinstance(thing, type)},
    "qkov.distributed": {
        name
        for name, thing in vars(distributed).items()
        if getattr(thing, "__module__", None) == "qkov.distributed" and not name.startswith("_")
    },
    "qkov.formula": {
        name
        for name, thing in vars(formula).items()
        if getattr(thing, "__module__", None) == "qkov.formula" and not name.startswith("_")
    },
}


def documented():
    """Names by module that the reference pages describe, each with the page."""
    found = {}
    for page in sorted((BOOK / "api").glob("*.md")):
        module = None
        for line in page.read_text(encoding="utf-8").splitlines():
            if given := re.match(r"\.\. currentmodule:: (\S+)", line):
                module = given[1]
            elif given := re.match(r"\.\. (?:auto(?:class|function|exception)|py:data):: (\w+)", line):
                found.setdefault((module, given[1]), []).append(page.stem)
            elif given := re.match(r"\.\. automodule:: (\S+)", line):
                for name in PUBLIC[given[1]]:
                    found.setdefault((given[1], name), []).append(page.stem)
    return found


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_on_a_reference_page(module):
    described = {name for home, name in documented() if home == module}
    # What is offered in two places is described in one of them.
    elsewhere = {name for home, name in documented() if home == "qkov"} if module != "qkov" else set()
    assert PUBLIC[module] <= described | elsewhere


def test_reference_pages_describe_each_thing_once_and_only_what_there_is():
    for (module, name), pages in documented().items():
        assert len(pages) == 1, f"{module}.{name} is on {pages}"
        assert hasattr(importlib.import_module(module), name)


def test_what_answers_lean_on_is_tried():
    text = (BOOK / "faq.md").read_text(encoding="utf-8")
    answers = re.split(r"^\*\*", text, flags=re.MULTILINE)[1:]
    leaning = [re.search(r"\*Tried:\*(.*)", answer, re.DOTALL) for answer in answers]
    tried = {name for part in filter(None, leaning) for name in re.findall(r"`(\w+)`", part[1].split("\n\n")[0])}
    assert len(tried) > 40
    assert tried <= set(CHECKS) | set(bad_input.CASES)
    assert sum(part is None for part in leaning) <= 4


def test_every_source_is_cited_somewhere():
    keys = re.findall(r"^@\w+\{(\w+),", (BOOK / "references.bib").read_text(encoding="utf-8"), re.MULTILINE)
    pages = "".join(page.read_text(encoding="utf-8") for page in BOOK.rglob("*.md"))
    cited = {key for keys in re.findall(r"\{cite:[pt]\}`([^`]+)`", pages) for key in keys.split(",")}
    assert len(keys) == len(set(keys)) > 25
    assert cited == set(keys)


def test_glossary_is_in_order_and_holds_the_vocabulary():
    text = (BOOK / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(\S.*)$", re.search(r"```\{glossary\}\n(.*?)```", text, re.DOTALL)[1], re.MULTILINE)
    assert terms == sorted(terms, key=lambda term: term.lower().replace("_", " "))
    words = {
        "aggregate",
        "block",
        "contribution",
        "damping",
        "Fisher diagonal",
        "fisher_pool",
        "gradient",
        "head",
        "head_dim",
    }
    assert words | {"kv head", "sample", "slice", "task A, task B", "variant"} <= set(terms)


def test_pictures_have_numbers_and_captions():
    for page in [*BOOK.glob("*.md"), *(BOOK / "notebooks").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for found in re.findall(r"!\[.*?\]\((.*?)\)|\{image\} (\S+)", text):
            assert "generated/status.svg" in found, f"{page.name} shows {found} without a number"
