"""Where a call that is beginning comes from, by the connections of the process."""

from __future__ import annotations

import socket
import sys
import time
from contextlib import ExitStack

import pytest

from tickflight_server.flight.peers import MARGIN_MS, RECENT_MS, Callers, peer_address

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="TCP_INFO is read on Linux only")


class Port:
    """A port of this process, and those who connect to it from other addresses."""

    def __init__(self, stack):
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.number = self._listener.getsockname()[1]

    def connect(self, source):
        near = socket.create_connection(("127.0.0.1", self.number), source_address=(source, 0))
        self._stack.enter_context(near)
        far, (_, port) = self._listener.accept()
        self._stack.enter_context(far)
        return near, far, f"ipv4:{source}:{port}"


@pytest.fixture
def port():
    with ExitStack() as stack:
        yield Port(stack)


def say(near, far):
    near.sendall(b"x")
    assert far.recv(1) == b"x"


def pause(ms):
    # the kernel counts time, and only time makes one connection older than another
    time.sleep(ms / 1000)


def test_it_is_who_has_just_said_something(port):
    callers = Callers(port.number)
    old = port.connect("127.0.0.2")
    say(*old[:2])
    pause(3 * MARGIN_MS)
    new = port.connect("127.0.0.3")
    say(*new[:2])
    assert callers.addresses() == ("127.0.0.3",)
    pause(RECENT_MS + 3 * MARGIN_MS)
    assert callers.addresses() == ()
    say(*old[:2])
    assert callers.addresses() == ("127.0.0.2",)


def test_two_at_once_are_both_told(port):
    callers = Callers(port.number)
    pairs = [port.connect(f"127.0.0.{number}") for number in (2, 3)]
    for near, far, _ in pairs:
        say(near, far)
    assert set(callers.addresses()) == {"127.0.0.2", "127.0.0.3"}


def test_who_was_let_in_is_thought_of_last(port):
    callers = Callers(port.number)
    known, stranger = port.connect("127.0.0.2"), port.connect("127.0.0.3")
    callers.let_in(known[2])
    for near, far, _ in (stranger, known):
        say(near, far)
    assert callers.addresses() == ("127.0.0.3",)
    callers.let_in(stranger[2])
    assert set(callers.addresses()) == {"127.0.0.2", "127.0.0.3"}


def test_where_it_is_not_needed_it_is_looked_up_now_and_then(port):
    callers = Callers(port.number)
    say(*port.connect("127.0.0.2")[:2])
    assert callers.addresses(needed=False) == ("127.0.0.2",)
    assert callers.addresses(needed=False) == ()
    assert callers.addresses() == ("127.0.0.2",)


def test_connections_of_others_are_not_looked_at(port):
    say(*port.connect("127.0.0.2")[:2])
    assert Callers(port.number + 1).addresses() == ()
    assert Callers().addresses() == ()


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:4711", "127.0.0.1"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:[fe80::1%25eth0]:4711", "fe80::1%eth0"),
        ("unix:", "unix:"),
        ("", ""),
    ],
)
def test_a_peer_has_an_address(peer, address):
    assert peer_address(peer) == address
