"""Clients that mean harm, or do it: one function a kind, each of which does its worst once and returns.

The rule of this file: a kind is a row of the table ``KINDS``; it is frugal, since it shares the server's machine, and
what it gets for its trouble is no concern of its: errors are swallowed and counted.
"""

from __future__ import annotations

import errno
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import arrow_noise
import numpy as np
import pyarrow as pa
from pyarrow import flight
from raw_calls import RawCalls, damaged_somewhere, flight_data
from raw_http2 import CONTINUATION, DO_PUT, END_HEADERS, GREETING, HEADERS, LIST_ACTIONS, Connection, frame, request

from tickflight.wire.append import AppendBatch
from tickflight.wire.commands import AppendStream
from tickflight.wire.streams import Selection, Tail
from tickflight.wire.tickets import Query

TOKEN = "token-of-mallory"
_BEARER = (b"authorization", b"Bearer " + TOKEN.encode())
_OWN = [("grpc.use_local_subchannel_pool", 1)]  # or all clients of a process share a connection
_CALL_S = 15.0


@dataclass(frozen=True)
class Hostile:
    """One attacker: where, its chance, and when it is to stop."""

    port: int
    pick: random.Random
    stop: threading.Event

    @property
    def address(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def client(self) -> flight.FlightClient:
        return flight.FlightClient(self.address, generic_options=_OWN)

    def options(self, *headers: tuple[bytes, bytes]) -> flight.FlightCallOptions:
        return flight.FlightCallOptions(headers=list(headers or (_BEARER,)), timeout=_CALL_S)

    def ask(self, sql: str) -> None:
        with self.client() as client:
            client.do_get(flight.Ticket(Query(sql).serialize()), self.options()).read_all()

    def put(self, batch: pa.RecordBatch, compression: str | None = None) -> None:
        written = pa.ipc.IpcWriteOptions(compression=compression)
        options = flight.FlightCallOptions(headers=[_BEARER], timeout=_CALL_S, write_options=written)
        with self.client() as client:
            descriptor = flight.FlightDescriptor.for_command(AppendStream("trades").serialize())
            writer, reader = client.do_put(descriptor, batch.schema, options)
            writer.write_with_metadata(batch, pa.py_buffer(AppendBatch(1).serialize()))
            reader.read()
            writer.close()


def storm(one: Hostile) -> None:
    """Connect ten thousand times a second, for a tenth of one."""
    for _ in range(1000):
        with socket.socket() as knock:
            knock.setblocking(False)
            knock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if knock.connect_ex(("127.0.0.1", one.port)) not in (0, errno.EINPROGRESS):
                return


def slow(one: Hostile) -> None:
    """Say a byte a second."""
    said = GREETING + frame(HEADERS, END_HEADERS, 1, request(LIST_ACTIONS))
    with Connection(one.port) as connection:
        for place in range(len(said)):
            if one.stop.wait(1.0) or not connection.send(said[place : place + 1]):
                return


def half_open(one: Hostile) -> None:
    """Begin puts that never say what they want."""
    with Connection(one.port, GREETING) as connection:
        for number in range(5):
            connection.send(frame(HEADERS, END_HEADERS, 2 * number + 1, request(DO_PUT, token=TOKEN)))
        one.stop.wait(5.0)


def bad_password(one: Hostile) -> None:
    """Log in with a password that was changed."""
    with one.client() as client:
        client.authenticate_basic_token("ada", f"old-{one.pick.random()}")


def giant_metadata(one: Hostile) -> None:
    """Send headers of a megabyte, without an end."""
    piece = frame(CONTINUATION, 0, 1, request(LIST_ACTIONS, ("x", "y" * 8000)))
    with Connection(one.port, GREETING + frame(HEADERS, 0, 1, request(LIST_ACTIONS))) as connection:
        for _ in range(128):
            if not connection.send(piece):
                return


def giant_message(one: Hostile) -> None:
    """Send a ticket of a hundred megabytes, without a login."""
    with one.client() as client:
        client.do_get(flight.Ticket(bytes(100 << 20))).read_all()


def stretching(one: Hostile) -> None:
    """Send a few bytes that stand for gigabytes."""
    ends = pa.array([2**31 - 1], pa.int32())
    one.put(pa.record_batch({"price": pa.RunEndEncodedArray.from_arrays(ends, pa.array([1.0]))}))


def packed(one: Hostile) -> None:
    """Send a batch that unpacks to a hundred megabytes."""
    one.put(pa.record_batch({"price": np.zeros(100 << 17)}), one.pick.choice(("zstd", "lz4")))


def malformed(one: Hostile) -> None:
    """Send rows of any types, most of them damaged on the way."""
    rows = arrow_noise.some_batch(one.pick)
    messages = list(flight_data(AppendStream("trades").serialize(), [rows], AppendBatch(1).serialize()))
    if one.pick.random() < 0.7:
        messages = damaged_somewhere(one.pick, messages)
    with RawCalls(one.port, TOKEN) as calls:
        calls.call("DoPut", messages)


def nesting(one: Hostile) -> None:
    """Ask and send what is nested deep."""
    depth = one.pick.choice((50, 500, 5000))
    one.ask("SELECT " + "(" * depth + "1" + ")" * depth)


def runaway(one: Hostile) -> None:
    """Ask for what takes for ever."""
    one.ask("SELECT count(*) FROM range(100000000000) a WHERE a.range % 3 = 1")


def large(one: Hostile) -> None:
    """Ask for more than memory holds."""
    one.ask("SELECT list(a.range) FROM range(100000000) a GROUP BY a.range % 1000000")


def reconnecting(one: Hostile) -> None:
    """Connect, ask, and go, as a dashboard in a loop."""
    one.ask("SELECT 1")


def abandoned(one: Hostile) -> None:
    """Begin a large result or a tail, read a little of it, and fall silent."""
    everything = Query("SELECT * FROM trades").serialize()
    ticket = one.pick.choice((everything, Tail(Selection("trades")).serialize()))
    with one.client() as client:
        reader = client.do_get(flight.Ticket(ticket), one.options())
        reader.read_chunk()
        one.stop.wait(one.pick.uniform(0, 5))


# kind → how many of a hundred hostile clients, what it does, and how long it rests between (seconds, about)
KINDS: Mapping[str, tuple[int, Callable[[Hostile], None], float]] = {
    "storm": (3, storm, 2.0),
    "slow": (15, slow, 0.5),
    "half open": (12, half_open, 0.5),
    "bad password": (12, bad_password, 1.0),
    "giant metadata": (6, giant_metadata, 3.0),
    "giant message": (2, giant_message, 20.0),
    "stretching": (8, stretching, 2.0),
    "packed": (3, packed, 10.0),
    "malformed": (10, malformed, 1.0),
    "nesting": (6, nesting, 2.0),
    "runaway": (6, runaway, 10.0),
    "large": (2, large, 20.0),
    "reconnecting": (9, reconnecting, 0.5),
    "abandoned": (6, abandoned, 2.0),
}


def kinds(count: int) -> list[str]:
    """Return ``count`` kinds in the table's proportions, each at least once where there is room."""
    wanted = [(name, share * count / 100) for name, (share, _, _) in KINDS.items()]
    found = [name for name, share in wanted for _ in range(max(1, round(share)))]
    while len(found) < count:
        found.append("slow")
    return sorted(found, key=Counter(found).__getitem__)[:count]


def attack(port: int, seed: int, names: list[str], stop: threading.Event) -> Counter[str]:
    """Be so many hostile clients until ``stop``; return how often each kind did its worst, and what it got."""
    counts: Counter[str] = Counter()

    def run(name: str, number: int) -> None:
        pick = random.Random(f"{seed}/{name}/{number}")
        one, (_, act, rest_s) = Hostile(port, pick, stop), KINDS[name]
        stop.wait(pick.uniform(0, min(rest_s, 3.0)))
        while not stop.is_set():
            try:
                act(one)
                counts[f"{name}: done"] += 1
            except Exception as error:
                counts[f"{name}: {type(error).__name__}"] += 1
            stop.wait(pick.uniform(0.5, 1.5) * rest_s)

    threads = [threading.Thread(target=run, args=(name, i), daemon=True) for i, name in enumerate(names)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 10**6
    while not stop.is_set() and time.monotonic() < end:
        stop.wait(1.0)
    for thread in threads:
        thread.join(2 * _CALL_S)
    return counts
