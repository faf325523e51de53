"""The badge and the box of the first page say what the evidence says."""

import xml.etree.ElementTree as ElementTree

import pytest

from reports import evidence, status

from .test_reports_evidence import GOOD

MANIFEST = {
    "commit": "0123456789abcdef" * 2,
    "environment": {
        "python": "3.11.7",
        "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
        "threads": 1,
        "platform": "Linux",
    },
}


def test_totals_are_of_everything_that_was_counted():
    counts = {"checks": (5, 0, 2), "faults": (3, 1, 0)}
    assert status.totals(counts) == (8, 1, 2)
    assert status.totals(counts, ["a verdict that does not follow"]) == (8, 2, 2)
    assert status.totals(evidence.count(GOOD))[1] == 0


@pytest.mark.parametrize(
    ("numbers", "word"), [((5, 0), "passed"), ((5, 1), "failed"), ((0, 1), "failed"), ((0, 0), "empty")]
)
def test_state_is_a_word(numbers, word):
    assert status.state(*numbers) == word


def test_badge_holds_its_numbers_and_loads_nothing():
    root = ElementTree.fromstring(status.badge(2139, 3, 45))
    text = " ".join("".join(root.itertext()).split())
    assert "2,139 passed · 3 failed · 45 not run" in text
    assert root.get("aria-label") == "validation: 2,139 passed · 3 failed · 45 not run"
    assert not [one for one in root.iter() if one.tag.endswith(("image", "script", "style", "use"))]


def test_colour_follows_the_state():
    colours = [status.badge(*numbers).count(status.COLOURS["failed"]) for numbers in ((1, 0, 0), (1, 1, 0), (0, 0, 4))]
    assert colours == [0, 1, 0]
    assert status.COLOURS["empty"] in status.badge(0, 0, 4)


@pytest.mark.parametrize("colour", status.COLOURS.values())
def test_white_can_be_read_on_every_colour(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) > 4.5


def test_box_names_versions_commit_date_and_what_did_not_run(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    said = status.provenance(GOOD, MANIFEST, {"checks": (1, 0, 5)})
    for part in ("0123456789ab ", "2026-01-01", "2.13.0", "3.11.7", "1 / 0 / 5", GOOD["not_run"][0]["what"]):
        assert part in said
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert "not set" in status.stamp()


def test_files_are_where_the_first_page_looks(tmp_path):
    status.write_status(tmp_path / "generated", GOOD, MANIFEST, {"checks": (1, 0, 5)}, [])
    assert sorted(path.name for path in (tmp_path / "generated").iterdir()) == ["provenance.md", "status.svg"]
