"""Connections of this process are found, told apart and ended; the filter of first packets lets the right ones come."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tickflight_server.flight import sockets
from tickflight_server.flight.sockets import Listening, Opened

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux alone tells of them")


@pytest.fixture(params=[("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)], ids=["IPv4", "IPv6"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    host, family = request.param
    try:
        made = socket.create_server((host, 0), family=family, backlog=128)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with made:
        yield made


def looked_at(port: int) -> list[Opened | Listening | None]:
    return [sockets.look_at(fd, inode, {port}) for fd, inode in sockets.sockets()]


def listening_on(port: int) -> Listening:
    (found,) = [one for one in looked_at(port) if isinstance(one, Listening)]
    return found


def connect(listening: socket.socket, most_s: float = 5.0) -> socket.socket:
    return socket.create_connection(listening.getsockname()[:2], most_s)


def test_connection_is_found_with_what_came_and_ends_once(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    with connect(listening) as far, closing(listening.accept()[0]) as near:
        far.sendall(b"x" * 1000)
        assert near.recv(1000, socket.MSG_WAITALL)
        found = [one for one in looked_at(port) if isinstance(one, Opened)]
        assert [one.fd for one in found] == [near.fileno()]
        assert found[0].peer.endswith(f":{far.getsockname()[1]}")
        assert found[0].peer.startswith("ipv4:127.0.0.1:" if near.family == socket.AF_INET else "ipv6:%5B::1%5D:")
        assert sockets.received(near.fileno()) == 1000
        assert sockets.end(found[0])
        assert far.recv(1) == b""
    assert not sockets.end(found[0]), "another socket may have its descriptor"
    assert sockets.received(found[0].fd) == 0, "gRPC closes when it likes"


def test_filter_keeps_strangers_out_and_lets_known_addresses_and_open_connections_be(listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    listener = listening_on(port)
    listener.notice_the_dead()
    with ExitStack() as held:
        open_before = held.enter_context(connect(listening))
        near = held.enter_context(closing(listening.accept()[0]))
        listener.choose(0.0, ("192.0.2.1", "2001:db8::1"))
        with pytest.raises(TimeoutError):
            connect(listening, 0.3)
        open_before.sendall(b"x")
        assert near.recv(1) == b"x"
        listener.choose(0.0, ("192.0.2.1", host))
        held.enter_context(connect(listening))
        inherited = held.enter_context(closing(listening.accept()[0]))
        assert inherited.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        listener.choose(1.0, ())
        held.enter_context(connect(listening, 0.5))


def test_a_share_of_first_packets_comes_through(listening: socket.socket) -> None:
    listener = listening_on(listening.getsockname()[1])
    listener.choose(0.5, ())
    with ExitStack() as held:
        tries = [held.enter_context(socket.socket(listening.family)) for _ in range(100)]
        for one in tries:
            one.setblocking(False)
            one.connect_ex(listening.getsockname()[:2])
        came = 0
        listening.settimeout(0.2)
        end = time.monotonic() + 0.6  # before the others' packets are sent again
        while time.monotonic() < end:
            try:
                held.enter_context(closing(listening.accept()[0]))
            except TimeoutError:
                break
            came += 1
    assert 20 <= came <= 80


def test_connects_of_the_machine_are_counted(listening: socket.socket) -> None:
    before = sockets.connects()
    assert before is not None
    with connect(listening), closing(listening.accept()[0]):
        after = sockets.connects()
        assert after is not None
        assert after > before
