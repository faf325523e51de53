"""Writes that are synced in the right order, and refusals of the system that say what to do."""

import errno
import os

import pytest

from qkov import durable, errors


class Recorded:
    """``os``, with what is done to files written down and, at a chosen call, refused."""

    def __init__(self, fail_at=None, number=errno.ENOSPC, short=0):
        self.calls, self.fail_at, self.number, self.short = [], fail_at, number, short

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in ("open", "write", "fsync", "replace", "unlink", "ftruncate", "mkdir"):
            return real

        def call(*arguments, **options):
            self.calls.append(name)
            if self.fail_at == len(self.calls):
                raise OSError(self.number, os.strerror(self.number))
            if name == "write" and self.short:
                return real(arguments[0], arguments[1][: self.short])
            return real(*arguments, **options)

        return call


def watched(monkeypatch, **options):
    recorded = Recorded(**options)
    monkeypatch.setattr(durable, "os", recorded)
    return recorded


def test_a_file_is_synced_before_it_is_named_and_its_name_after(monkeypatch, tmp_path):
    recorded = watched(monkeypatch)
    durable.write_file(tmp_path / "x", [b"ab", memoryview(b"cd")])
    assert recorded.calls == ["open", "write", "write", "fsync", "replace", "open", "fsync"]
    assert (tmp_path / "x").read_bytes() == b"abcd"


def test_a_file_written_anywhere_has_its_name_only_when_it_is_whole(monkeypatch, tmp_path):
    recorded = watched(monkeypatch, short=3)
    part = durable.PartFile(tmp_path / "x", 12)
    part.write_at(6, b"efgh")
    part.write_at(1, memoryview(b"abcd"))
    assert not (tmp_path / "x").exists()
    part.finish()
    part.discard()
    assert (tmp_path / "x").read_bytes() == b"\0abcd\0efgh\0\0"
    assert recorded.calls[:2] == ["open", "ftruncate"]
    order = [call for call in recorded.calls if call in ("write", "fsync", "replace")]
    assert order == ["write"] * 4 + ["fsync", "replace", "fsync"]
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("fail_at", range(1, 6))
def test_a_refused_part_of_a_file_leaves_the_old_one(monkeypatch, tmp_path, fail_at):
    (tmp_path / "x").write_bytes(b"old")
    watched(monkeypatch, fail_at=fail_at)
    part = None

    def write():
        nonlocal part
        part = durable.PartFile(tmp_path / "x", 4)
        part.write_at(0, b"new")
        part.finish()

    with pytest.raises(errors.DiskError) as raised:
        write()
    assert raised.value.errno == errno.ENOSPC
    if part is not None:
        part.discard()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"old"}


def test_an_append_is_synced(monkeypatch, tmp_path):
    (tmp_path / "x").write_bytes(b"12")
    recorded = watched(monkeypatch)
    durable.append(tmp_path / "x", b"34", size=2)
    assert recorded.calls == ["open", "write", "fsync"]
    assert (tmp_path / "x").read_bytes() == b"1234"


def test_short_writes_are_continued(monkeypatch, tmp_path):
    watched(monkeypatch, short=3)
    durable.write_file(tmp_path / "x", [b"0123456789"])
    durable.append(tmp_path / "x", b"abcdefgh", size=10)
    assert (tmp_path / "x").read_bytes() == b"0123456789abcdefgh"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EDQUOT])
@pytest.mark.parametrize("fail_at", range(1, 6))
def test_a_refused_write_changes_nothing(monkeypatch, tmp_path, number, fail_at):
    (tmp_path / "x").write_bytes(b"old")
    watched(monkeypatch, fail_at=fail_at, number=number)
    with pytest.raises(errors.DiskError) as raised:
        durable.write_file(tmp_path / "x", [b"new", b"er"])
    assert (raised.value.errno, raised.value.exit_status) == (number, 7)
    assert str(tmp_path / "x") in str(raised.value) or str(tmp_path) in str(raised.value)
    assert durable.REMEDIES[number] in str(raised.value)
    assert "run the same command again" in str(raised.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"old"}


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_what_a_refused_append_left_does_not_stay_in_the_way(monkeypatch, tmp_path, fail_at):
    (tmp_path / "x").write_bytes(b"12")
    watched(monkeypatch, fail_at=fail_at, short=2)
    with pytest.raises(errors.DiskError):
        durable.append(tmp_path / "x", b"3456", size=2)
    monkeypatch.undo()
    durable.append(tmp_path / "x", b"78", size=2)
    assert (tmp_path / "x").read_bytes() == b"1278"


def test_nothing_is_appended_to_a_file_that_lost_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"1")
    with pytest.raises(errors.DiskError, match="it has 1 bytes, 2 were written before"):
        durable.append(tmp_path / "x", b"34", size=2)
    assert (tmp_path / "x").read_bytes() == b"1"


def test_an_append_after_a_failed_one_that_could_not_be_cut_back(tmp_path):
    (tmp_path / "x").write_bytes(b"12" + b"half a li")
    durable.append(tmp_path / "x", b"34", size=2)
    assert (tmp_path / "x").read_bytes() == b"1234"


def test_a_removed_file_may_be_gone_already(tmp_path):
    (tmp_path / "x").write_bytes(b"1")
    durable.remove([tmp_path / "x", tmp_path / "y"])
    assert not list(tmp_path.iterdir())


def test_folders_are_made_with_their_parents(tmp_path):
    durable.make_folder(tmp_path / "a" / "b")
    durable.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(errors.DiskError, match="make the folder"):
        durable.make_folder(tmp_path / "f" / "g")


def test_reading_past_the_end_gives_what_is_there(tmp_path):
    (tmp_path / "x").write_bytes(b"012345")
    assert durable.read_range(tmp_path / "x", 4, 10) == b"45"
    assert durable.read_range(tmp_path / "x", 1, 2) == b"12"
