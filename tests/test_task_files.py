"""Files of samples: what can be used is read, what cannot is told by file, line and id."""

import contextlib
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkov import errors, task_files


def write(path, *lines):
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines))
    return path


def test_all_fields_are_read(tmp_path):
    path = write(
        tmp_path / "t.jsonl",
        {"id": "a", "text": "x", "cluster": "c"},
        b"",
        {"id": "b", "text": "y", "prompt": "p", "cluster": 3},
        {"id": "c", "input_ids": [1, 2], "labels": [-100, 2], "cluster": "c"},
    )
    found = task_files.read_task(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.sample_ids == ("a", "b", "c")
    assert found.clusters == ("c", 3, "c")
    assert [one.number for one in found.lines] == [1, 3, 4]
    assert [(one.text, one.prompt) for one in found.lines] == [("x", None), ("y", "p"), (None, None)]
    assert (found.lines[2].input_ids, found.lines[2].labels) == ((1, 2), (-100, 2))


def test_line_ends_of_windows_and_a_mark_of_utf8_are_no_error(tmp_path):
    path = write(tmp_path / "t.jsonl", b'\xef\xbb\xbf{"id": 1, "text": "\xc3\xa9"}\r', b'{"id": 2, "text": "b"}\r', b"")
    found = task_files.read_task(path)
    assert (found.sample_ids, found.lines[0].text, found.clusters) == ((1, 2), "é", None)


ONE = {"id": "a", "text": "x"}


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ([], "holds no samples"),
        ([b"\n\n  "], "holds no samples"),
        ([ONE, b"{"], "line 2 is not JSON"),
        ([b"[" * 100_000], "line 1 is not JSON"),
        ([b'{"id": "a", "text": NaN}'], "NaN is no number of JSON"),
        ([b'{"id": "a", "text": "x", "text": "y"}'], "line 1 gives 'text' twice"),
        ([b"3"], "line 1 is 3; expected one sample"),
        ([ONE, b'{"id": "b", "text": "\xff"}'], "line 2: byte 22 of the line is not UTF-8"),
        ([b"\xff\xfe{"], "line 1: byte 1 of the line is not UTF-8"),
        ([{"text": "x"}], "line 1 has no 'id'"),
        ([{"id": "a"}], "(id 'a') has neither of 'text' and 'input_ids'"),
        ([{"id": "a", "text": "x", "input_ids": [1]}], "has both of 'text' and 'input_ids'"),
        ([{"id": "a", "text": ""}], "(id 'a'): 'text' is empty"),
        ([{"id": "a", "text": 3}], "'text' is 3; expected text"),
        ([{"id": "a", "text": "x", "prompt": 3}], "'prompt' is 3; expected text"),
        ([b'{"id": "a", "text": "\\ud800"}'], "half of a surrogate pair"),
        ([b'{"id": "\\ud800", "text": "x"}'], "'id' is"),
        ([{"id": 1.5, "text": "x"}], "'id' is 1.5; expected a string or a whole number"),
        ([{"id": True, "text": "x"}], "'id' is True"),
        ([{"id": None, "text": "x"}], "'id' is None"),
        ([{"id": 2**63, "text": "x"}], "more than 64 bits hold"),
        ([ONE, {"id": 1, "text": "x"}], "line 2: id 1 is a number, that of line 1 a string"),
        ([ONE, {"id": "b", "text": "x"}, ONE], "line 3: id 'a' is that of line 1 too"),
        ([ONE, {"id": "b", "text": "x", "cluster": 1}], "line 2 (id 'b') has a 'cluster', unlike line 1"),
        ([{"id": "b", "text": "x", "cluster": 1}, ONE], "line 2 (id 'a') has no 'cluster', unlike line 1"),
        ([{"id": "a", "text": "x", "cluster": []}], "'cluster' is []"),
        ([{"id": "a", "text": "x", "labels": [1]}], "Labels are of tokens"),
        ([{"id": "a", "input_ids": [1, 2], "prompt": "x"}], "Mask the prompt by labels of -100"),
        ([{"id": "a", "input_ids": []}], "'input_ids' is []"),
        ([{"id": "a", "input_ids": [1, -1]}], "whole numbers from 0 on"),
        ([{"id": "a", "input_ids": [1, True]}], "'input_ids' is [1, True]"),
        ([{"id": "a", "input_ids": [1, 2], "labels": [1]}], "labels are not input_ids with some of them replaced by -100"),
        ([{"id": "a", "input_ids": [1, 2], "labels": [1, 3]}], "labels are not input_ids"),
        ([{"id": "a", "text": "x", "txet": 1}], "line 1 has the field 'txet'; expected some of id, text"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_told(tmp_path, lines, shown):
    path = write(tmp_path / "t.jsonl", *lines)
    with pytest.raises(errors.TaskFileError, match=r"t\.jsonl") as raised:
        task_files.read_task(path)
    assert shown in str(raised.value), str(raised.value)
    assert raised.value.exit_status == 3


@pytest.mark.parametrize("name", ["none.jsonl", "."])
def test_a_file_that_cannot_be_read_is_told(tmp_path, name):
    with pytest.raises(errors.TaskFileError, match="cannot read the task file"):
        task_files.read_task(tmp_path / name)


def test_a_file_that_has_changed_is_refused_with_both_hashes(tmp_path):
    path = write(tmp_path / "t.jsonl", ONE)
    before = task_files.read_task(path).sha256
    assert task_files.read_task(path, sha256=before).sha256 == before
    write(path, ONE, {"id": "b", "text": "y"})
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(errors.TaskFileError, match=f"its sha256 is {after}, expected {before}"):
        task_files.read_task(path, sha256=before)


def test_hostile_names_are_shown_and_not_obeyed(tmp_path):
    name = "\x1b[2J../x\u202e" + "y" * 10_000
    path = write(tmp_path / "t.jsonl", {"id": name, "text": "x"}, {"id": name, "text": "x"})
    with pytest.raises(errors.TaskFileError) as raised:
        task_files.read_task(path)
    assert "\x1b" not in str(raised.value)
    assert "\u202e" not in str(raised.value)
    assert len(str(raised.value)) < 400


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
sample = st.fixed_dictionaries({"text": texts}, optional={"prompt": texts})
given_ids = st.lists(texts, unique=True, min_size=1, max_size=5) | st.lists(
    st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=5
)


@given(given_ids, st.data())
@settings(max_examples=100)
def test_what_is_written_is_read(tmp_path_factory, ids, data):
    lines = [{"id": one, **data.draw(sample), "cluster": data.draw(texts)} for one in ids]
    ascii_only = data.draw(st.booleans())
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes("".join(json.dumps(one, ensure_ascii=ascii_only) + "\n" for one in lines).encode())
    found = task_files.read_task(path).lines
    assert [(one.sample_id, one.text, one.prompt, one.cluster) for one in found] == [
        (one["id"], one["text"], one.get("prompt"), one["cluster"]) for one in lines
    ]


@given(st.binary(max_size=80))
@settings(max_examples=100)
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)
    with contextlib.suppress(errors.TaskFileError):
        assert task_files.read_task(path).lines
