"""Keep a run on this machine: sockets of Python connect to loopback and to Unix sockets only, no other name is resolved.

An audit hook of the interpreter refuses before anything is sent, whatever library asks, and cannot be taken off again.
Processes of Python that are started later (workers, trainings, kernels of notebooks, the build of the book) are blocked
when they start, by ``offline_startup/sitecustomize.py`` on their path. It does not see sockets that a library in another
language opens by itself; for the one that is used here, the hub's downloader, nox sets ``HF_HUB_OFFLINE``.

This file imports the standard library only: it runs before anything else in every process.
"""

import ipaddress
import os
import socket
import sys
from pathlib import Path

STARTUP = Path(__file__).resolve().parent / "offline_startup"
TEST_NET = "192.0.2.1"
"""An address for documentation (RFC 5737): no machine has it."""

SAID = "sockets are blocked"
_ASK = "qkov.offline.ask"
_TO_ADDRESS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_TO_HOST = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}


class BlockedConnectionError(ConnectionError):
    """A connection, datagram or look-up that would have left this machine."""


def block_sockets():
    """Block this process, and every process of Python that it starts from now on; a second call changes nothing."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(STARTUP) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(STARTUP), *paths]))
    if not is_blocked():
        sys.addaudithook(_refuse)


def is_blocked():
    """Whether this process is blocked, by this module or by the copy of it that ran at its start."""
    answer = []
    sys.audit(_ASK, answer)
    return bool(answer)


def is_local(host):
    """Whether a host is this machine: loopback, "localhost", or none.

    Example:
        >>> [is_local(host) for host in ("127.8.0.1", "::1", "localhost", None, "192.0.2.1", "example.org")]
        [True, True, True, True, False, False]
    """
    if isinstance(host, bytes | bytearray):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _refuse(event, arguments):
    if event in _TO_ADDRESS:
        if not _stays(*arguments):
            raise BlockedConnectionError(f"{event} to {arguments[1]!r}: {SAID}, other than to this machine.")
    elif event in _TO_HOST:
        host = arguments[0][0] if event == "socket.getnameinfo" else arguments[0]
        if not is_local(host):
            raise BlockedConnectionError(f"{event} of {host!r}: {SAID}, and no name is resolved.")
    elif event == _ASK:
        arguments[0].append(True)


def _stays(connection, address):
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        return address is None or is_local(address[0])  # None: to the peer that it is connected to already
    return connection.family == getattr(socket, "AF_UNIX", None)


def try_to_leave(where):
    """Try a connection to :data:`TEST_NET` and the look-up of a name; a row ``{where, status, said}``.

    Returns:
        status "refused" if the block refused both, else "reached".
    """
    said = []
    for attempt in (_connect, _look_up):
        try:
            attempt()
            said.append(f"{attempt.__name__[1:]}: nothing refused it")
        except OSError as error:
            said.append(str(error))
    status = "refused" if all(SAID in one for one in said) else "reached"
    return {"where": where, "status": status, "said": "; ".join(said)}


def _connect():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        connection.connect((TEST_NET, 9))


def _look_up():
    socket.getaddrinfo("qkov.invalid", 9)
