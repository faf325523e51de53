"""The extensions of the book: arguments get lines of their own, references lead to public names."""

import importlib.util
from pathlib import Path

import pytest

import qkov

FOLDER = Path(__file__).resolve().parent.parent / "book" / "_ext"


def load(name):
    """Import an extension, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docstrings = load("api_docstrings")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("    model: A model. batch: Small.", ["    model: A model.", "    batch: Small."]),
        ("    model: A model; batch: Small.", ["    model: A model;", "    batch: Small."]),
        ("    model: As said. note: not an argument.", ["    model: As said. note: not an argument."]),
        ("    batch, model: Both.", ["    batch,\u200bmodel: Both."]),
        ("    model: One. batch, model: Two.", ["    model: One.", "    batch,\u200bmodel: Two."]),
    ],
)
def test_arguments_get_lines_of_their_own(given, expected):
    lines = ["Do it.", "", "Args:", given, "", "Returns:", "    model: one. batch: two."]
    docstrings.split_arguments(lines, {"model", "batch"})
    assert lines == ["Do it.", "", "Args:", *expected, "", "Returns:", "    model: one. batch: two."]


@pytest.mark.parametrize(
    ("path", "thing"),
    [
        ("qkov.FisherCollector", qkov.FisherCollector),
        ("qkov.collector.FisherCollector", qkov.FisherCollector),
        ("qkov.statistics.source.test_source", qkov.statistics.test_source),
        ("qkov.Heatmap.kv_index", None),
    ],
)
def test_references_are_found(path, thing):
    assert docstrings.find(path) is thing


@pytest.mark.parametrize(
    "path", ["qkov.no_such_name", "qkov.collector.nothing", "qkov.Heatmap.no_field", "nowhere.at.all"]
)
def test_references_to_nothing_are_not(path):
    with pytest.raises(LookupError):
        docstrings.find(path)


def test_names_are_sought_in_class_module_and_package():
    node = {"reftarget": "to_dataframe", "py:module": "qkov", "py:class": "Heatmap"}
    paths = list(docstrings.candidates(node))
    assert paths[:2] == ["to_dataframe", "qkov.Heatmap.to_dataframe"]
    assert "qkov.heatmap.to_dataframe" in paths
    assert list(docstrings.candidates({"reftarget": "qkov.store"})) == ["qkov.store"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (":returns: *The run* -- as open_run gives it", ":returns: The run: as open_run gives it"),
        (":returns: * *The run* -- first", ":returns: * The run: first"),
        (":returns: A run -- *really*", ":returns: A run -- *really*"),
        (":param x: *One* -- two", ":param x: *One* -- two"),
    ],
)
def test_words_before_a_colon_are_no_type(line, said):
    lines = [line]
    docstrings.restore(None, "function", "f", None, None, lines)
    assert lines == [said]


def test_first_sentence_of_a_property_stays_as_written():
    lines = ["Where it is: here."]
    docstrings.process(None, "property", "C.p", None, None, lines)
    lines[:] = ["here.", "", ":type: Where it is"]  # as napoleon leaves it
    docstrings.restore(None, "property", "C.p", None, None, lines)
    assert lines == ["Where it is: here."]
