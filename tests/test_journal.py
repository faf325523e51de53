"""Lines of the journal: what is damage, what is an interrupted write."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkov import journal

THREE = b"".join(journal.line({"n": number, "task": "té\n"}) for number in range(3))


def test_lines_are_read_back():
    found = journal.parse(THREE)
    assert [record["n"] for record in found.records] == [0, 1, 2]
    assert found.records[0]["task"] == "té\n"
    assert (found.size, found.tail, found.damaged) == (len(THREE), 0, ())


@pytest.mark.parametrize(
    "tail", [b"x", THREE[:20], b"\0" * 50, b"0" * 8 + b" {}\n", b"\n", THREE[:30] + b"\0" * 9 + b"\n"]
)
def test_what_an_interrupted_write_leaves_is_a_tail(tail):
    found = journal.parse(THREE + tail)
    assert (len(found.records), found.size, found.tail, found.damaged) == (3, len(THREE), len(tail), ())


def test_no_bytes_are_no_lines():
    assert journal.parse(b"") == journal.Journal((), 0, 0, ())


@given(st.integers(0, len(THREE) - 1), st.integers(0, 7))
@settings(max_examples=300)
def test_no_flipped_bit_passes(place, bit):
    data = bytearray(THREE)
    data[place] ^= 1 << bit
    found = journal.parse(bytes(data))
    assert found.damaged or found.tail
    assert all(record == {"n": record["n"], "task": "té\n"} for record in found.records)


@pytest.mark.parametrize("order", [(0, 2), (1, 2), (0, 1, 1), (0, 2, 1)])
def test_missing_and_repeated_lines_are_damage(order):
    lines = [journal.line({"n": number}) for number in range(3)]
    assert journal.parse(b"".join(lines[number] for number in order)).damaged


def test_without_checksums_a_flipped_bit_would_pass(monkeypatch):
    monkeypatch.setattr(journal, "_record", lambda raw: json.loads(raw[9:-1]))
    found = journal.parse(THREE.replace(b"t\\u00e9", b"t\\u00e8"))
    assert found.records[0]["task"] == "tè\n"
    assert not found.damaged
