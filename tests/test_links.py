"""How ranks talk: over gloo between processes, and between threads."""

import contextlib
import datetime
import os
import threading
import warnings

import numpy as np
import pytest
from torch import distributed

import qkov
from qkov import errors, links

SECONDS = datetime.timedelta(seconds=30)


@contextlib.contextmanager
def two_processes(path, other):
    """Be rank 0 of a gloo group whose rank 1, a fork of this process, calls ``other()`` and ends."""
    address = {"backend": "gloo", "init_method": f"file://{path / 'meeting'}", "world_size": 2, "timeout": SECONDS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: torch's own, idle here
        child = os.fork()
    if not child:
        status = 1
        try:
            distributed.init_process_group(rank=1, **address)
            other()
            status = 0
        finally:
            os._exit(status)
    try:
        distributed.init_process_group(rank=0, **address)
        yield child
    finally:
        if distributed.is_initialized():  # a link that has lost its peer has ended the group
            distributed.destroy_process_group()
        assert os.waitpid(child, 0)[1] == 0


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def talk(link):
    """What a rank sends and gets; rank 1 has more to say."""
    mine = np.arange(12.0).reshape(3, 4) * (link.rank + 1)
    column, small = mine[:, 1], np.array([link.rank], np.uint8)
    link.broadcast(column, 1)
    link.broadcast(small, 0)
    return [
        link.gather(bytes(range(5 * link.rank))),
        link.gather(b""),
        link.gather(b"x"),
        mine.tolist(),
        small.tolist(),
    ]


def expected(rank):
    mine = np.arange(12.0).reshape(3, 4) * (rank + 1)
    mine[:, 1] = np.arange(12.0).reshape(3, 4)[:, 1] * 2
    return [[b"", bytes(range(5))], [b"", b""], [b"x", b"x"], mine.tolist(), [0]]


def test_gloo_carries_bytes_and_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(links, "PIECE", 2)  # messages of several pieces
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)

    def other():
        link = links.Gloo(distributed.group.WORLD)
        assert talk(link) == expected(1)
        with qkov.distributed.ranks() as ranks:  # beside a group of the program's own
            assert (ranks.rank, ranks.size) == (1, 2)
        assert link.gather(b"still there") == [b"still there"] * 2

    with two_processes(tmp_path, other):
        link = links.Gloo(distributed.group.WORLD)
        assert talk(link) == expected(0)
        with qkov.distributed.ranks() as ranks:
            assert (ranks.rank, ranks.size) == (0, 2)
        assert link.gather(b"still there") == [b"still there"] * 2


def test_a_process_that_has_ended_is_noticed(tmp_path):
    with two_processes(tmp_path, lambda: links.Gloo(distributed.group.WORLD).gather(b"bye")):
        link = links.Gloo(distributed.group.WORLD)
        link.gather(b"hello")
        with pytest.raises(errors.RankFailedError, match="another rank has ended") as raised:
            link.gather(b"anybody?")
        assert "typically" not in str(raised.value)
        with pytest.raises(errors.RankFailedError, match="has ended, after an earlier failure"):
            link.gather(b"again?")


def test_threads_carry_bytes_and_arrays():
    said = {}

    def work(link):
        said[link.rank] = talk(link)

    threads = [threading.Thread(target=work, args=(link,)) for link in links.Threads.make(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {rank: expected(rank) for rank in range(2)}


def test_a_thread_that_has_left_is_noticed():
    one, other = links.Threads.make(2)
    other.close()
    with pytest.raises(errors.RankFailedError):
        one.gather(b"anybody?")
    silent, _ = links.Threads.make(2, timeout=0.01)
    with pytest.raises(errors.RankFailedError):
        silent.gather(b"too late")


def test_alone_there_is_nobody_to_tell():
    link, array = links.Alone(), np.ones(2)
    link.broadcast(array, 0)
    link.close()
    assert (link.gather(b"x"), array.tolist(), link.rank, link.size) == ([b"x"], [1, 1], 0, 1)
