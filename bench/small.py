"""Round trips of the smallest statements: how long one takes, and how many many clients get through together.

Each connection is a thread's own, and the threads of 8 and 64 connections are in two processes. The rule of
this file: beside each figure stands the least, a server in Python that does nothing (``bench/bare.py``), asked
in the same turns.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager as manager
import pyarrow as pa

import tickflight
from bench.bare import serve_constants
from bench.figures import Aim, Figure, figure
from bench.processes import serving, together
from bench.servers import running_server
from tickflight.connection import Connection, Credentials

CONNECTIONS = (1, 8, 64)
PROCESSES = 2
RUNS = 5
ALONE_S, MANY_S = 0.2, 0.3
P50_MS = 1.5
LEAST = "a Flight server that answers a constant"

Ask = Callable[[], object]


def adbc_cursor(address: str, held: ExitStack) -> Ask:
    """One cursor of ADBC's DB-API, the statement again and again; it is prepared once, by the driver."""
    cursor = held.enter_context(held.enter_context(adbc.connect(address)).cursor())
    return lambda: cursor.execute("SELECT 1").fetchall()


def adbc_cursors(address: str, held: ExitStack) -> Ask:
    """A cursor each time: the driver prepares and forgets the statement, four calls over the wire."""
    connection = held.enter_context(adbc.connect(address))

    def ask() -> object:
        with connection.cursor() as cursor:
            return cursor.execute("SELECT 1").fetchall()

    return ask


def adbc_statement(address: str, held: ExitStack) -> Ask:
    """The driver's own statement below the DB-API, which prepares nothing: two calls over the wire."""
    connection = held.enter_context(adbc.connect(address)).adbc_connection

    def ask() -> object:
        with manager.AdbcStatement(connection) as statement:
            statement.set_sql_query("SELECT 1")
            stream, _ = statement.execute_query()
            return pa.RecordBatchReader._import_from_c(stream.address).read_all()

    return ask


def adbc_bound(address: str, held: ExitStack) -> Ask:
    """A prepared statement with another value each time: binding is a call of its own, three over the wire."""
    cursor = held.enter_context(held.enter_context(adbc.connect(address)).cursor())
    counter = iter(range(1 << 62))
    return lambda: cursor.execute("SELECT ?::BIGINT + 1", [next(counter)]).fetchall()


def _client(address: str) -> tickflight.Client:
    # without what ``connect`` asks first, which a server of constants cannot answer
    return tickflight.Client(Connection(address, Credentials(), timeout_s=None))


def ours(address: str, held: ExitStack) -> Ask:
    """Our client: one call."""
    client = held.enter_context(_client(address))
    return lambda: client.sql("SELECT 1").arrow()


def ours_bound(address: str, held: ExitStack) -> Ask:
    """Our client with another value each time: one call."""
    client = held.enter_context(_client(address))
    counter = iter(range(1 << 62))
    return lambda: client.sql("SELECT ?::BIGINT + 1", [next(counter)]).arrow()


Road = Callable[[str, ExitStack], Ask]
ROADS: Mapping[str, Road] = {
    "SELECT 1, ADBC": adbc_cursor,
    "SELECT 1, ADBC, a cursor each": adbc_cursors,
    "SELECT 1, ADBC without DB-API": adbc_statement,
    "SELECT 1, our client": ours,
    "prepared with a value, ADBC": adbc_bound,
    "a value, our client": ours_bound,
}
MANY = ("SELECT 1, ADBC", "SELECT 1, our client", "prepared with a value, ADBC", "a value, our client")


def run() -> Iterator[Figure]:
    """Measure everything; about 45 seconds."""
    with running_server() as (address, _), serving(serve_constants) as (bare, _):
        alone = together(1, measure, (address, bare), [(name, 1) for name in ROADS], ALONE_S)
        many = together(
            PROCESSES, measure, (address, bare), [(name, n) for name in MANY for n in CONNECTIONS[1:]], MANY_S
        )
    for name in ROADS:
        where = f"1 connection, one thread of one process, {RUNS} times {ALONE_S:g} s"
        times = [run[name, 1] for run in alone[0][address]]
        least = [run[name, 1] for run in alone[0][bare]]
        p50s, p99s = ([statistics.quantiles(t, n=100)[p - 1] * 1000 for t in times] for p in (50, 99))
        bare_p50s = [statistics.median(t) * 1000 for t in least]
        yield figure("small", f"{name}: p50", p50s, "ms", where, aim=Aim("<=", P50_MS))
        yield figure("small", f"{name}: p99", p99s, "ms", where)
        yield figure("small", f"{name}: p50 beside the least", p50s, "ms", where, beside=bare_p50s, ratio_to=LEAST)
    for name in MANY:
        rates: dict[int, list[float]] = {}
        bare_rates: dict[int, list[float]] = {}
        for count in CONNECTIONS[1:]:
            runs = [[t for process in many for t in process[address][i][name, count]] for i in range(RUNS)]
            rates[count] = [len(times) / MANY_S for times in runs]
            bare_rates[count] = [sum(len(p[bare][i][name, count]) for p in many) / MANY_S for i in range(RUNS)]
            p99s = [statistics.quantiles(times, n=100)[98] * 1000 for times in runs]
            where = f"{count} connections, a thread each in {PROCESSES} processes, {RUNS} times {MANY_S:g} s"
            yield figure("small", f"{name}: p99, {count} connections", p99s, "ms", where)
            if count == CONNECTIONS[1]:
                yield figure("small", f"{name}: rate, {count} connections", rates[count], "statements/s", where)
        where_least = f"{LEAST}, {count} connections as before"
        yield figure(
            *(
                "small",
                f"{name}: the least's rate, {count} connections",
                bare_rates[count],
                "statements/s",
                where_least,
            ),
            beside=bare_rates[CONNECTIONS[1]],
            ratio_to=f"{CONNECTIONS[1]} connections",
        )
        yield figure(
            *("small", f"{name}: rate, {count} connections", rates[count], "statements/s", where),
            beside=rates[CONNECTIONS[1]],
            ratio_to=f"{CONNECTIONS[1]} connections",
            aim=Aim(">=", 1.0),
        )


def measure(
    turn: Callable[[], None], place: int, addresses: tuple[str, ...], asked: list[tuple[str, int]], seconds: float
) -> dict[str, list[dict[tuple[str, int], list[float]]]]:
    """Ask in turns, all processes at once; return the seconds of each statement by address, run, road and number."""
    answer: dict[str, list[dict[tuple[str, int], list[float]]]] = {address: [] for address in addresses}
    with ExitStack() as held:
        asks: dict[tuple[str, str], list[Ask]] = {}
        for address, (name, count) in ((a, b) for a in addresses for b in asked):
            kept = asks.setdefault((address, name), [])
            while len(kept) < max(1, count // PROCESSES):
                kept.append(ROADS[name](address, held))
                kept[-1]()
        for _ in range(RUNS):
            for found in answer.values():
                found.append({})
            for name, count in asked:
                for address in addresses:
                    turn()
                    answer[address][-1][name, count] = load(asks[address, name][: max(1, count // PROCESSES)], seconds)
    return answer


def load(asks: list[Ask], seconds: float) -> list[float]:
    """Ask from a thread each for so long; return how long each statement took."""
    found: list[list[float]] = [[] for _ in asks]
    until = time.perf_counter() + seconds

    def work(ask: Ask, times: list[float]) -> None:
        while (began := time.perf_counter()) < until:
            ask()
            times.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(asks, found, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [t for times in found for t in times]
