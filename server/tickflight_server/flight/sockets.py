"""What Linux tells of this process's own connections, and what it does with them before gRPC sees them.

The rule of this file: gRPC owns every socket. Here they are looked at, and ended as a peer would end them; none is
read, written or closed. Where there is no /proc, nothing is found and nothing is done.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import resource
import socket
import stat
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_FDS = Path("/proc/self/fd")
_SNMP = Path("/proc/net/snmp")
# struct tcp_info (linux/tcp.h): tcpi_bytes_received is a u64 at byte 128
_RECEIVED_AT, _INFO_BYTES = 128, 136
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))

# classic BPF (linux/filter.h); a packet for a listening TCP socket starts with its TCP header
_LD_BYTE, _LD_WORD, _AND, _JEQ, _JGE, _SHIFT, _JUMP, _RETURN = 0x30, 0x20, 0x54, 0x15, 0x35, 0x74, 0x05, 0x06
_FLAGS_AT, _SYN_AND_ACK, _SYN = 13, 0x12, 0x02
_NETWORK, _RANDOM = 0xFFF00000, 0xFFFFF000 + 56
_SOURCE4_AT, _SOURCE6_AT = 12, 8
_LET_THROUGH = (_RETURN, 0, 0, 0xFFFFFFFF)
KNOWN_MAX = 64


@dataclass(frozen=True)
class Opened:
    """A connection: its descriptor now, the number that it keeps for life, and who is at the other end."""

    fd: int
    inode: int
    address: str
    peer: str
    """As gRPC writes it in its calls: ``ipv4:127.0.0.1:5000``."""


def sockets() -> Iterator[tuple[int, int]]:
    """Yield descriptor and inode of every socket of this process."""
    try:
        names = os.listdir(_FDS)  # noqa: PTH208 - a path for each would cost more than all else
    except OSError:
        return
    for name in names:
        with suppress(OSError):
            found = os.fstat(int(name))
            if stat.S_ISSOCK(found.st_mode):
                yield int(name), found.st_ino


def look_at(fd: int, inode: int, ports: Collection[int]) -> Opened | Listening | None:
    """Return what ``fd`` is, None unless it is a connection to one of ``ports``, or listens there."""
    with suppress(OSError, ValueError), _held(fd, inode) as held:
        if held.family not in (socket.AF_INET, socket.AF_INET6) or held.type != socket.SOCK_STREAM:
            return None
        if held.getsockname()[1] not in ports:
            return None
        if held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return Listening(fd, inode)
        host, number, *_ = held.getpeername()
        found = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address):
            found = found.ipv4_mapped or found
        peer = f"ipv4:{found}:{number}" if found.version == 4 else f"ipv6:%5B{host}%5D:{number}"
        return Opened(fd, inode, str(found), peer)
    return None


def received(fd: int) -> int:
    """Return how many bytes came over a connection so far; 0 where the system does not tell."""
    try:
        probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    except OSError:  # gRPC has closed it meanwhile
        return 0
    try:
        info = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except (OSError, AttributeError):
        return 0
    finally:
        probe.detach()
    return int.from_bytes(info[_RECEIVED_AT:_INFO_BYTES], "little") if len(info) == _INFO_BYTES else 0


def end(one: Opened) -> bool:
    """End a connection as if its peer had; return whether it was still there."""
    with suppress(OSError), _held(one.fd, one.inode) as held:
        held.shutdown(socket.SHUT_RDWR)
        return True
    return False


class _held:  # noqa: N801 - used like a function
    """A socket of its own over a copy of ``fd``, if that is still the socket ``inode``."""

    def __init__(self, fd: int, inode: int) -> None:
        copy = os.dup(fd)
        try:
            if os.fstat(copy).st_ino != inode:
                raise OSError
            self._socket = socket.socket(fileno=copy)
        except BaseException:
            os.close(copy)
            raise

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Listening:
    """A socket that gRPC listens on."""

    def __init__(self, fd: int, inode: int) -> None:
        self._fd, self._inode = fd, inode
        self._choosy = False

    def notice_the_dead(self) -> None:
        """Have the system ask silent peers of connections to come whether they live; a dead one's ends in 2 minutes."""
        with suppress(OSError), _held(self._fd, self._inode) as held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    held.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def choose(self, share: float, known: Sequence[str]) -> None:
        """Let only a ``share`` of new connections come, and all from ``known`` addresses; 1 lets all come.

        The others' first packets are dropped by the system, for the price of a packet; who means it sends it again.
        """
        if share >= 1 and not self._choosy:
            return
        with suppress(OSError), _held(self._fd, self._inode) as held:
            if share >= 1:
                held.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            else:
                program = syn_filter(share, known)
                place = ctypes.create_string_buffer(program, len(program))
                described = struct.pack("HP", len(program) // 8, ctypes.addressof(place))
                held.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
            self._choosy = share < 1


def syn_filter(share: float, known: Sequence[str]) -> bytes:
    """Return the program that lets a ``share`` of first packets through, and all others and all of ``known``."""
    found = [ipaddress.ip_address(address).packed for address in list(known)[:KNOWN_MAX]]
    four = [one for packed in found if len(packed) == 4 for one in _same(packed, _NETWORK + _SOURCE4_AT)]
    six = [one for packed in found if len(packed) == 16 for one in _same(packed, _NETWORK + _SOURCE6_AT)]
    code = [
        (_LD_BYTE, 0, 0, _FLAGS_AT),
        (_AND, 0, 0, _SYN_AND_ACK),
        (_JEQ, 1, 0, _SYN),
        _LET_THROUGH,
        (_LD_BYTE, 0, 0, _NETWORK),
        (_SHIFT, 0, 0, 4),
        (_JEQ, 1, 0, 4),
        (_JUMP, 0, 0, len(four) + 1),
        *four,
        (_JUMP, 0, 0, len(six)),
        *six,
        (_LD_WORD, 0, 0, _RANDOM),
        (_JGE, 0, 1, int(share * 0xFFFFFFFF)),
        (_RETURN, 0, 0, 0),
        _LET_THROUGH,
    ]
    return b"".join(struct.pack("HBBI", *one) for one in code)


def _same(address: bytes, at: int) -> list[tuple[int, int, int, int]]:
    """Return what lets a packet through whose source is ``address``, and goes on behind it with any other."""
    words = struct.unpack(f"!{len(address) // 4}I", address)
    code: list[tuple[int, int, int, int]] = []
    for number, word in enumerate(words):
        left = 2 * (len(words) - number - 1) + 1
        code += [(_LD_WORD, 0, 0, at + 4 * number), (_JEQ, 0, left, word)]
    return [*code, _LET_THROUGH]


def connects() -> int | None:
    """Return how many TCP connections this system has taken so far, by all its programs; None if it does not tell."""
    try:
        names, values = [line.split() for line in _SNMP.read_text().splitlines() if line.startswith("Tcp:")][:2]
        return int(values[names.index("PassiveOpens")])
    except (OSError, ValueError):
        return None


def descriptors() -> int:
    """Raise the number of descriptors that this process may have to what the system lets it; return that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 1 << 20)
    if soft < hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
