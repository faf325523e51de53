"""One writer at a time: who holds a lock is said, and a file system without locks is refused."""

import errno
import fcntl
import os
import sys

import pytest

from qkov import errors, store_lock


def test_the_holder_is_named_and_the_lock_comes_back(tmp_path):
    handle = store_lock.acquire(tmp_path)
    with pytest.raises(errors.StoreBusyError, match=rf"process {os.getpid()} on "):
        store_lock.acquire(tmp_path)
    store_lock.release(handle)
    store_lock.release(store_lock.acquire(tmp_path))


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"pid": "x", "host": 1}'])
def test_a_holder_without_a_record_is_another_process(tmp_path, record):
    handle = store_lock.acquire(tmp_path)
    (tmp_path / "lock").write_bytes(record)
    with pytest.raises(errors.StoreBusyError, match="written to by another process"):
        store_lock.acquire(tmp_path)
    store_lock.release(handle)


def test_a_name_in_the_record_cannot_command_a_terminal(tmp_path):
    handle = store_lock.acquire(tmp_path)
    (tmp_path / "lock").write_bytes(b'{"pid": 7, "host": "\\u001b[2J"}')
    with pytest.raises(errors.StoreBusyError) as raised:
        store_lock.acquire(tmp_path)
    assert str(raised.value).isprintable()
    store_lock.release(handle)


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def refuse(_handle, _how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(errors.DiskError, match=r"cannot be locked.*Use a folder on a local disk") as raised:
        store_lock.acquire(tmp_path)
    assert (raised.value.errno, raised.value.exit_status) == (errno.ENOLCK, 7)


def test_a_system_without_flock_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(errors.DiskError, match=r"file locks of POSIX systems.*Collect in memory"):
        store_lock.acquire(tmp_path)


def test_a_folder_that_refuses_the_file_is_told(tmp_path):
    with pytest.raises(errors.DiskError, match="cannot open"):
        store_lock.acquire(tmp_path / "nowhere")
