"""Who may keep a connection open: those on which somebody was let in, and the others for a short while.

The rule of this file: gRPC has no such limits, so a thread looks at the process's connections from outside. It ends
those that have no right to stay, and touches no other; a call costs a set's add, whatever the number of connections.

    stranger     no call on it was let in yet: it has ``greeting_s``, and goes first when room is short
    guest        a call was let in: it may be silent for ever, and send ``unread_mb_max`` before some of it is taken
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import structlog

from tickflight_server.config import FlightSettings
from tickflight_server.flight import sockets
from tickflight_server.flight.sockets import Listening, Opened
from tickflight_server.metrics import Metrics

LOG = structlog.get_logger(__name__)
_LOOK_S = 0.1  # between two looks
_TOLD_S = 60.0  # one line of log in so long, however many are refused
_COST = 20  # a look takes at most one part in so many of the time
_MIB = 1 << 20


@dataclass(slots=True)
class _Connection:
    opened: Opened
    since: float
    guest: bool = False
    came: int = 0
    """Bytes that came so far."""
    taken_at: int = 0
    """Of these, when something of it was taken last."""
    ended: bool = False


class Watched:
    """A stream of batches that tells the door of each that is taken."""

    __slots__ = ("_door", "_peer", "_reader")

    def __init__(self, reader: Any, door: Door, peer: str) -> None:
        self._reader, self._door, self._peer = reader, door, peer

    def read_chunk(self) -> Any:
        """Return the next batch."""
        chunk = self._reader.read_chunk()
        self._door.let_in(self._peer)
        return chunk

    @property
    def schema(self) -> Any:
        """The stream's schema."""
        return self._reader.schema


class Door:
    """Looks after the connections to some ports from when it is opened until it is closed."""

    def __init__(self, settings: FlightSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._ports: frozenset[int] = frozenset()
        self._listening: dict[int, Listening] = {}
        self._connections_max = min(settings.connections_max, sockets.descriptors() // 2)
        self._unread_max = max(settings.unread_mb_max * _MIB, 2 * settings.message_bytes_max)
        # two sets: what a call adds while they are swapped is in the older one at the next look
        self._taken: set[str] = set()
        self._older: set[str] = set()
        self._connections: dict[int, _Connection] = {}
        self._known: dict[str, None] = {}  # addresses of guests, longest known first
        self._told = -_TOLD_S
        self._connects: tuple[float, int] | None = None
        self._share = 1.0
        self._all_slowed = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, ports: Collection[int]) -> None:
        """Begin to look after the connections to ``ports``, on which gRPC listens."""
        self._ports = frozenset(ports)
        self._find(time.monotonic())
        if not self._listening:
            LOG.info("door.open", reason="this system does not tell of its connections; limits of them do not hold")
            return
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self._thread.start()

    def let_in(self, peer: str) -> None:
        """Note that a call of ``peer`` was let in, or something that it sent was taken."""
        self._taken.add(peer)

    def watched(self, reader: Any, peer: str) -> Watched:
        """Return the reader of a stream, each batch of which counts as taken."""
        return Watched(reader, self, peer)

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        wait = _LOOK_S
        while not self._closing.wait(wait):
            began = time.monotonic()
            try:
                self.look(began)
            except Exception:
                LOG.exception("door.failed")
            wait = max(_LOOK_S, _COST * (time.monotonic() - began))

    def look(self, now: float) -> None:
        """Look once at all connections."""
        older, taken = self._older, self._taken
        self._older, self._taken = taken, set()
        self._slow_down(now)
        self._find(now)
        strangers: list[_Connection] = []
        addresses: Counter[str] = Counter()
        for one in self._connections.values():
            if one.ended:
                continue
            one.came = sockets.received(one.opened.fd)
            if one.opened.peer in taken or one.opened.peer in older:
                self._let_in(one)
            reason = self._reason(one, now)
            if reason:
                self._end(one, reason, now)
                continue
            addresses[one.opened.address] += 1
            if not one.guest:
                strangers.append(one)
        self._make_room(strangers, addresses, now)
        self._metrics.set("connections", addresses.total())

    def _let_in(self, one: _Connection) -> None:
        one.taken_at = one.came
        if not one.guest:
            one.guest = True
            self._known.pop(one.opened.address, None)
            self._known[one.opened.address] = None
            while len(self._known) > sockets.KNOWN_MAX:
                del self._known[next(iter(self._known))]

    def _find(self, now: float) -> None:
        """Bring the known connections, and what listens for more, to those that there are."""
        found: dict[int, _Connection] = {}
        listening: dict[int, Listening] = {}
        for fd, inode in sockets.sockets():
            known = self._connections.get(inode)
            if known is not None:
                found[inode] = known
            elif inode in self._listening:
                listening[inode] = self._listening[inode]
            else:
                one = sockets.look_at(fd, inode, self._ports)
                if isinstance(one, Opened):
                    found[inode] = _Connection(one, now)
                elif one is not None:  # the first, or another in its place when certificates change
                    one.notice_the_dead()
                    listening[inode] = one
        self._connections, self._listening = found, listening

    def _reason(self, one: _Connection, now: float) -> str | None:
        """Return why a connection ends, None if it stays."""
        if one.guest:
            return "unread" if one.came - one.taken_at > self._unread_max else None
        return "silent" if now - one.since > self._settings.greeting_s else None

    def _make_room(self, strangers: list[_Connection], addresses: Counter[str], now: float) -> None:
        """End strangers where there are too many connections, oldest first, or where they sent too much."""
        over = addresses.total() - self._connections_max
        most = self._settings.connections_per_address_max
        for one in strangers:  # in the order of their coming
            if addresses[one.opened.address] > most:
                self._end(one, "address", now)
            elif over > 0:
                self._end(one, "room", now)
            else:
                continue
            addresses[one.opened.address] -= 1
            over -= 1
        sent = sum(one.came for one in strangers if not one.ended) - self._settings.greeting_mb_max * _MIB
        for one in sorted(strangers, key=lambda one: -one.came) if sent > 0 else ():
            if sent > 0 and not one.ended:
                sent -= one.came
                self._end(one, "unread", now)

    def _end(self, one: _Connection, reason: str, now: float) -> None:
        one.ended = True
        if sockets.end(one.opened):
            self._metrics.add(f"connections_ended_{reason}")
            if now - self._told >= _TOLD_S:
                self._told = now
                LOG.warning("door.connection_ended", reason=reason, address=one.opened.address)

    def _slow_down(self, now: float) -> None:
        """Let fewer new connections come while they come too fast."""
        most, count = self._settings.connects_per_s_max, sockets.connects()
        if not most or count is None:
            return
        before, self._connects = self._connects, (now, count)
        if before is None or now <= before[0]:
            return
        elapsed = now - before[0]
        rate = (count - before[1]) / elapsed
        if self._share < 1:
            self._metrics.add("connections_slowed_s", elapsed)
            # those who are known are spared, unless it is they
            self._all_slowed = self._all_slowed or rate > 2 * most
        self._share = min(1.0, self._share * most / rate) if rate else 1.0
        self._all_slowed = self._all_slowed and self._share < 1
        for one in self._listening.values():
            one.choose(self._share, () if self._all_slowed else tuple(self._known))
