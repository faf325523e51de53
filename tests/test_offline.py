"""No socket leaves the machine: refused in this process, in every process of Python it starts, and in kernels."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from reports import controls, notebooks
from validation import __main__ as program
from validation import offline, suite

ROOT = Path(__file__).resolve().parent.parent


def refused(attempt):
    with pytest.raises(ConnectionError, match=offline.SAID) as caught:
        attempt()
    # A process that was blocked when it started has its own copy of the class.
    assert type(caught.value).__name__ == offline.BlockedConnectionError.__name__
    return str(caught.value)


@pytest.mark.parametrize("host", [offline.TEST_NET, "10.0.0.1", "0.0.0.1", "255.255.255.255"])
def test_an_address_elsewhere_is_refused_by_name(host):
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        for attempt in (
            lambda: stream.connect((host, 9)),
            lambda: stream.connect_ex((host, 9)),
            lambda: socket.create_connection((host, 9), 1),
            lambda: datagram.connect((host, 9)),
            lambda: datagram.sendto(b"x", (host, 9)),
            lambda: datagram.sendmsg([b"x"], [], 0, (host, 9)),
        ):
            assert host in refused(attempt)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_address_elsewhere_is_refused_in_version_six_too():
    with socket.socket(socket.AF_INET6) as stream:
        for host in ("2001:db8::1", "::ffff:192.0.2.1"):
            assert host in refused(lambda host=host: stream.connect((host, 9)))


def test_no_name_but_localhost_is_resolved():
    for attempt in (
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: socket.getaddrinfo(b"example.org", 80),
        lambda: socket.gethostbyname("example.org"),
        lambda: socket.gethostbyname_ex("example.org"),
        lambda: socket.gethostbyaddr(offline.TEST_NET),
        lambda: socket.getnameinfo((offline.TEST_NET, 9), 0),
        lambda: socket.create_connection(("localhost.example.org", 80), 1),
    ):
        refused(attempt)
    assert socket.getaddrinfo("localhost", 80, socket.AF_INET)
    assert socket.getaddrinfo("127.0.0.1", 80)


def test_libraries_are_refused_too():
    with pytest.raises(urllib.error.URLError, match=offline.SAID):
        urllib.request.urlopen("http://example.org", timeout=1)


def test_loopback_and_unix_sockets_work(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.sendall(b"x")
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(1) == b"x"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
    one, other = socket.socketpair()
    with one, other:
        one.sendmsg([b"x"])


def test_this_process_and_a_worker_are_refused():
    assert offline.is_blocked()
    rows = program.stay_offline(program.parse_arguments([]))
    assert [row["where"] for row in rows] == ["the main process", "a worker process"]
    assert {row["status"] for row in rows} == {"refused"}
    assert offline.TEST_NET in rows[1]["said"]


def child(environment):
    command = (
        "import sys; sys.path.insert(0, sys.argv[1]); from validation import offline; print(offline.is_blocked(), "
    )
    command += "offline.try_to_leave('child')['status'] if offline.is_blocked() else '')"
    return subprocess.run(
        [sys.executable, "-c", command, str(ROOT)], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_any_python_that_is_started_is_refused():
    assert child(os.environ) == "True refused"
    assert child({name: value for name, value in os.environ.items() if name != "PYTHONPATH"}) == "False"


@pytest.mark.parametrize("name", ["_connect", "_look_up"])
@pytest.mark.parametrize("error", [None, TimeoutError("timed out"), OSError(101, "Network is unreachable")])
def test_an_attempt_that_the_block_did_not_refuse_has_reached(monkeypatch, name, error):
    def attempt():
        if error is not None:
            raise error

    monkeypatch.setattr(offline, name, attempt)
    assert offline.try_to_leave("here")["status"] == "reached"


def test_a_worker_is_blocked_also_where_the_path_is_not_read(monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    with suite.process_pool(1) as pool:
        assert pool.submit(offline.try_to_leave, "worker").result()["status"] == "refused"


def test_another_start_up_module_keeps_its_turn(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.seen = True")
    paths = os.pathsep.join([str(offline.STARTUP), str(tmp_path)])
    command = [sys.executable, "-c", "import sys, socket; print(sys.seen); socket.getaddrinfo('example.org', 80)"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.stdout == "True\n"
    assert offline.SAID in done.stderr


def test_the_path_is_extended_once():
    offline.block_sockets()
    assert os.environ["PYTHONPATH"].split(os.pathsep).count(str(offline.STARTUP)) == 1


def test_a_kernel_of_a_notebook_is_refused(tmp_path):
    (tmp_path / "network.md").write_text(f"{controls.HEADER}{controls.CONTROLS['network'][0]}\n```\n")
    (problem,) = notebooks.execute(tmp_path / "network.md").problems
    assert "BlockedConnectionError" in problem
    assert offline.SAID in problem


def test_a_hub_name_leaves_sockets_open_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(offline, "block_sockets", lambda: pytest.fail("blocked"))
    (row,) = program.stay_offline(program.parse_arguments(["--model", "gpt2"]))
    assert row == {"where": "every process", "status": "open", "said": "--model gpt2 needs the network"}
    assert program.why_online(program.parse_arguments(["--model", str(tmp_path)])) == ""
