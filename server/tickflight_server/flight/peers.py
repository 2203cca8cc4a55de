"""Where a call comes from before its handler runs, which is all that a refused login ever gets to.

gRPC tells a handler the address of its call; pyarrow tells none to what checks the login. So the connections of this
process are looked at: the one that has just received bytes is the login's.

The rule of this file: of several that it may be all are told; connections that somebody has logged in over are only
thought of where there is no other.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
import time
from urllib.parse import unquote

CONNECTIONS_MAX = 2_000
RECENT_MS = 200
MARGIN_MS = 10  # the kernel counts in steps of a few
_PAUSE_S = 0.05
_INFO_BYTES = 104
_LAST_RECEIVED = struct.Struct("=52xI")  # tcpi_last_data_recv of struct tcp_info, linux/tcp.h: milliseconds ago
_PEER = re.compile(r"ipv[46]:\[?([^\]]*)\]?:\d+")
_FOLDER = "/proc/self/fd"


def peer_address(peer: str) -> str:
    """Return the address in what gRPC calls a peer, such as ``ipv4:127.0.0.1:4711`` or ``ipv6:%5B::1%5D:4711``."""
    found = _PEER.fullmatch(unquote(peer))
    return found[1] if found else peer


class Callers:
    """The connections to a port of this process."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._known: dict[str, None] = {}  # peers that were let in
        self._looked = -1.0

    def let_in(self, peer: str) -> None:
        """Remember that a peer's call was let in."""
        if len(self._known) > CONNECTIONS_MAX:
            self._known = {}
        self._known[peer] = None

    def addresses(self, needed: bool = True) -> tuple[str, ...]:
        """Return where the call that is beginning may have come from: one address where that is certain.

        It costs about 10 µs for each open file; where it is not ``needed`` it is looked up now and then only.
        """
        now = time.monotonic()
        if not self.port or not sys.platform.startswith("linux") or (not needed and now - self._looked < _PAUSE_S):
            return ()
        self._looked = now
        try:
            names = os.listdir(_FOLDER)  # noqa: PTH208 - Path would make an object of each
        except OSError:
            return ()
        if len(names) > CONNECTIONS_MAX:
            return ()
        recent = sorted(found for name in names if (found := _recent(int(name), self.port)) is not None)
        strangers = [found for found in recent if found[2] not in self._known] or recent
        if not strangers:
            return ()
        least_ms = strangers[0][0] + MARGIN_MS
        return tuple(dict.fromkeys(address for ago_ms, address, _ in strangers if ago_ms <= least_ms))


def _recent(fd: int, port: int) -> tuple[int, str, str] | None:
    """Return who is at the other end of a connection to ``port`` that has just received something, else None.

    It is how many milliseconds ago, the address, and what gRPC calls the peer.
    """
    try:
        copy = os.dup(fd)  # gRPC may close its own meanwhile
    except OSError:
        return None
    try:
        connection = socket.socket(fileno=copy)
    except OSError:  # no socket
        os.close(copy)
        return None
    with connection:
        try:
            if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] != port:
                return None
            address, peer_port = connection.getpeername()[:2]
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        except OSError:  # it listens, or it has just ended
            return None
    (ago_ms,) = _LAST_RECEIVED.unpack_from(info)
    if ago_ms > RECENT_MS:
        return None
    if ":" in address and address.startswith("::ffff:"):
        address = address[7:]  # how a socket of both kinds shows IPv4, and gRPC does not
    return ago_ms, address, f"ipv6:%5B{address}%5D:{peer_port}" if ":" in address else f"ipv4:{address}:{peer_port}"
