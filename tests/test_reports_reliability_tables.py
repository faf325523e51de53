"""Situations are shown as they ended, and no message can become anything but text."""

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from qkov import errors, escaping
from reports import reliability_tables, tables

from .test_reports_evidence import GOOD, changed
from .test_reports_tables import rows

NASTY = "<script>alert(1)</script> | **b** `c` $x$ {{ num }} [a](http://b) <!-- &lt; \\ =1+1 :::{note}"


def test_situations_are_listed_with_error_status_and_verdict():
    text = reliability_tables.cases_table(GOOD)
    samples, models = text.split("**Models**\n\n")
    assert rows(samples.split("**Samples**\n\n")[1].strip()) == [
        ["a sample of one token", "The error names the sample.", "BatchError", "3", "passed, nothing else changed"]
    ]
    assert rows(models.strip())[0][2:] == ["–", "–", "NOT RUN: the package peft is not installed"]
    failed = reliability_tables.cases_table(changed("bad_input", status="failed", reason="found KeyError"))
    assert "FAILED: found KeyError" in failed
    warned = changed("bad_input", error="none", warning="EmptyTaskWarning", exit_status=None)
    assert "| EmptyTaskWarning | – |" in reliability_tables.cases_table(warned)
    assert reliability_tables.cases_table({}) == "Nothing of this was tried.\n"


def test_messages_are_shown_where_there_are_some():
    text = reliability_tables.messages_table(GOOD)
    assert text.count(":::{dropdown}") == 1
    assert "sample '\\<b\\>' has no predicted token. Remove it." in text
    assert reliability_tables.messages_table({}) == "Nothing of this was said.\n"


def test_what_did_not_run_is_named():
    assert rows(reliability_tables.not_run_table(GOOD)) == [
        ["adapters of a package", "the package peft is not installed"]
    ]  # fmt: skip
    assert reliability_tables.not_run_table({}) == "Every situation was made.\n"


def test_every_error_is_listed_under_its_status():
    listed = {row[0]: row for row in rows(reliability_tables.statuses_table())}
    for one in vars(errors).values():
        if isinstance(one, type) and issubclass(one, errors.QKOVError) and one is not errors.QKOVError:
            assert one.__name__ in listed[str(one.exit_status)][2].split(", ")
    assert set(map(int, listed)) == set(reliability_tables.MEANINGS)


def test_numbers_for_the_prose():
    assert reliability_tables.reliability_numbers(GOOD) == {
        "num_situations": 2,
        "num_situations_passed": 1,
        "num_situations_not_run": 1,
        "num_situations_refused": 1,
        "num_situations_unchanged": 1,
    }


def test_every_table_has_a_name():
    assert set(reliability_tables.reliability_tables(GOOD)) == {
        "reliability_cases", "reliability_messages", "reliability_not_run", "reliability_statuses",
    }  # fmt: skip


def last_cell(text):
    """What a browser shows of the last cell of a Markdown table, and the tags in it."""
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page, re.S)
    return html.unescape(re.sub(r"<[^>]*>", "", cells[-1])), re.findall(r"<[^>]*>", cells[-1])


@given(st.text(min_size=1))
@example(NASTY)
@example("a\x1b[2J\x07\u202eb")
@example("&amp;&lt;b&gt;")
@example("https://example.org www.example.org a@b.c")
def test_every_character_is_shown_as_itself(text):
    table = tables.table(["situation", "message"], [["s", text]])
    shown, tags = last_cell(table)
    assert tags == []
    assert shown == (escaping.visible(" ".join(text.split())) or "–")
    assert all(one.isprintable() or one == "\n" for one in table)


@pytest.mark.parametrize("field", ["situation", "behaviour", "reason", "message", "group"])
def test_no_field_of_a_row_becomes_markup(field):
    found = changed("bad_input", **{field: NASTY, "status": "failed"})
    for text in reliability_tables.reliability_tables(found).values():
        page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.replace(":::", ""))
        assert not re.search(r"<(script|a|code|!--)", page)
        assert "{{ num }}" not in text
        assert "\n:::{note}" not in text
