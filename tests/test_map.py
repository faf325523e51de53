"""The map of the code in CONTRIBUTING.md: every module of qkov is on it once, nothing else is, and it fits a screen."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP = ("qkov/", "validation/", "reports/", "book/", "tests/", "examples/")


def drawn():
    """The lines of the map."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.split("## Where things are")[1].split("```")[1].strip("\n").splitlines()


def modules_on(lines):
    """Names on the lines of qkov, without what is said of them in brackets; packages with their slash."""
    start = next(number for number, line in enumerate(lines) if line.startswith("qkov/"))
    end = next(number for number, line in enumerate(lines) if line.startswith("validation/"))
    return [name for line in lines[start + 1 : end] for name in re.sub(r"\(.*?\)", "", line[20:]).split()]


def modules_in(folder):
    """Modules and packages of a folder, as the map writes them."""
    files = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")]
    return sorted(files + [f"{path.parent.name}/" for path in folder.glob("*/__init__.py")])


def test_every_module_is_on_the_map_once():
    assert sorted(modules_on(drawn())) == modules_in(ROOT / "qkov")


def test_every_folder_is_on_the_map():
    heads = [line.split()[0] for line in drawn() if not line.startswith(" ")]
    assert heads == list(TOP)
    assert all((ROOT / name).is_dir() for name in heads)


def test_names_of_validation_exist():
    lines = drawn()
    start = next(number for number, line in enumerate(lines) if line.startswith("validation/"))
    end = next(number for number, line in enumerate(lines) if line.startswith("reports/"))
    for line in lines[start + 1 : end - 1]:
        for name in re.sub(r"\(.*?\)", "", line[20:]).split():
            found = list((ROOT / "validation").glob(name if name.endswith("/") else f"{name}.py"))
            assert found, f"{name} is on the map and not in validation/"


def test_the_map_fits_a_screen():
    assert len(drawn()) <= 50
    assert max(map(len, drawn())) <= 150


@pytest.mark.parametrize(
    ("before", "after"),
    [("formula  fisher", "fisher"), ("formula  fisher", "formula  formula  fisher"), ("hub", "hubs")],
)
def test_a_wrong_map_is_noticed(before, after):
    lines = [line.replace(before, after, 1) for line in drawn()]
    assert lines != drawn()
    assert sorted(modules_on(lines)) != modules_in(ROOT / "qkov")
