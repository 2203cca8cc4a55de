"""Long statements that are stopped in every way there is, at moments that a seed chooses, and how soon all is idle.

The rule of this file: idle is measured from outside: the server is a process of its own, whose metrics tell that no
statement runs, and whose processor time stands still.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
from flight_here import trades
from pyarrow import flight
from system_processes import ServerProgram

import tickflight
from tickflight.wire import commands as c
from tickflight.wire.actions import ActionCancelQueryRequest, CancelFlightInfoRequest
from tickflight.wire.enums import TableExistsOption, TableNotExistOption
from tickflight.wire.flight import FlightInfo
from tickflight.wire.tickets import Query

ENDLESS = 10**13
IDLE_S_MAX = 5.0
# but the one that asks
RUNNING = """SELECT sum(CASE name WHEN 'queries' THEN value ELSE -value END)::BIGINT - 1
FROM system.metrics WHERE name IN ('queries', 'queries_ended')"""
# what a killed client runs: one statement, as soon as it is told to
_CLIENT = """
import sys
import adbc_driver_flightsql.dbapi as adbc
with adbc.connect(sys.argv[1], autocommit=True) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT 1")
    cursor.fetchall()
    print("ready", flush=True)
    sys.stdin.readline()
    cursor.execute(sys.argv[2])
    cursor.fetchall()
"""

# what gives no batch for a long time
SILENT = {
    "cross product": f"SELECT count(*) FROM range({ENDLESS}) WHERE range % 3 = 1",
    "range join": "SELECT count(*) FROM range(1000000) a(x) JOIN range(1000000) b(y) ON x < y AND x * 7 % 11 < y % 13",
    "groups": f"SELECT x % 1000 AS k, sum(sin(x)) FROM range({ENDLESS}) r(x) GROUP BY ALL",
    "market join": "SELECT count(*) FROM trades a, trades b, trades c WHERE a.price * b.price < c.price + 7",
    "market and range": f"SELECT count(seq % 3) FROM (SELECT seq FROM trades UNION ALL FROM range({ENDLESS}))",
    "sparse": f"SELECT range AS x FROM range({ENDLESS}) WHERE range % 30000000 = 1",
    "recursion": "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
}
# what gives rows for ever
STREAMING = {
    "rows": f"SELECT range AS x FROM range({ENDLESS})",
    "texts": f"SELECT repeat('ab', 100) || x AS t FROM range({ENDLESS}) r(x)",
    "market product": "SELECT a.symbol, a.price * b.price AS p FROM trades a, trades b, trades c",
}
WRITES = {
    "create": f"CREATE TABLE made AS SELECT sum(range) FROM range({ENDLESS})",
    "create rows": f"CREATE TABLE made AS SELECT range AS x FROM range({ENDLESS})",
    "insert": f"INSERT INTO kept SELECT x FROM range({ENDLESS}) r(x)",
    "update": f"UPDATE kept SET x = (SELECT count(*) FROM range({ENDLESS}) WHERE range % 3 = 1)",
    "delete": f"DELETE FROM kept WHERE x IN (SELECT max(range) FROM range({ENDLESS}) GROUP BY range % 7)",
    "insert market": "INSERT INTO kept SELECT a.seq FROM trades a, trades b, trades c",
}


class Proxy:
    """Passes bytes between clients and a server until it is cut, as when a client's machine is gone."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"grpc://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [near, far]
                for a, b in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=_pump, args=(a, b), daemon=True))
                    self._threads[-1].start()

    def cut(self) -> None:
        """End all connections at once."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()  # a connection that is just being accepted is cut, too
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for one in self._sockets:
            one.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)


@dataclass(frozen=True)
class Stopped:
    """One statement that was stopped: how, which, when, and how long the server took to be idle."""

    way: str
    statement: str
    after_s: float
    idle_s: float
    quiet_s: float

    def __str__(self) -> str:
        """Tell it in a line."""
        times = f"idle {self.idle_s * 1000:.0f} ms, quiet {self.quiet_s * 1000:.0f} ms"
        return f"{self.way}, {self.statement}, after {self.after_s * 1000:.0f} ms: {times}"


class Campaign:
    """Statements on one server, one after the other.

    Args:
        server: has trades, and nothing else to do.
        seed: chooses statements and moments.
    """

    def __init__(self, server: ServerProgram, seed: int) -> None:
        self._server = server
        self._chance = random.Random(seed)
        self._monitor = flight.FlightClient(server.address)
        self._stat = Path(f"/proc/{server.process.pid}/schedstat")
        self.after_s = 0.0
        self._began = 0.0

    def close(self) -> None:
        """Let the server go."""
        self._monitor.close()

    def prepare(self) -> None:
        """Put in what the statements read and write."""
        with tickflight.connect(self._server.address) as client, client.writer("trades") as writer:
            writer.write(trades(3000))
            writer.flush(30)
        with adbc.connect(self._server.address, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE kept AS SELECT range AS x FROM range(1000)")

    def left(self) -> list[Any]:
        """Return what a stopped statement may not have changed."""
        tables = "SELECT list(table_name ORDER BY 1) FROM duckdb_tables() WHERE schema_name IN ('workspace', 'main')"
        return [self._ask(tables), self._ask("SELECT [count(*), sum(x)]::VARCHAR FROM kept")]

    def run(self, number: int) -> Stopped:
        """Stop one statement: the ways take turns, statements and moments are the seed's."""
        name, way, statements = _WAYS[number % len(_WAYS)]
        which = self._chance.choice(sorted(statements))
        self.after_s = self._chance.choice((0.0, self._chance.uniform(0, 0.02), self._chance.uniform(0, 0.15)))
        stopped_at = way(self, statements[which])
        idle = self._when(lambda: self._ask(RUNNING) == 0) - stopped_at
        quiet = self._when(self._is_quiet) - stopped_at
        return Stopped(name, which, self.after_s, idle, quiet)

    def _ask(self, sql: str) -> Any:
        table = self._monitor.do_get(flight.Ticket(Query(sql).serialize())).read_all()
        return table[0][0].as_py()

    def _when(self, condition: Callable[[], bool]) -> float:
        """Return when ``condition`` was seen first; a look at it may take a while, which does not count."""
        end = time.monotonic() + IDLE_S_MAX
        while True:
            now = time.monotonic()
            if condition():
                return now
            assert now < end, f"not idle within {IDLE_S_MAX} s"

    def _is_quiet(self) -> bool:
        before = int(self._stat.read_text().split()[0])
        time.sleep(0.02)
        return int(self._stat.read_text().split()[0]) - before < 5_000_000

    def wait(self) -> None:
        """Wait for the moment."""
        time.sleep(self.after_s)

    # --- ways: each returns when it stopped the statement

    def _cancelled(self, sql: str, before: tuple[str, ...] = (), *, autocommit: bool = True) -> float:
        with adbc.connect(self._server.address, autocommit=autocommit) as connection, connection.cursor() as cursor:
            for text in before:
                cursor.execute(text)
                cursor.fetchall()
            running = _in_thread(lambda: _drain(cursor, sql))
            self.wait()
            stopped_at = time.monotonic()
            while running.is_alive():  # a cancel between two calls of the driver is forgotten
                cursor.adbc_cancel()
                running.join(0.005)
            with suppress(adbc.Error):
                connection.rollback()
        return stopped_at

    def cancel(self, sql: str) -> float:
        """Cancel by the driver's own call."""
        return self._cancelled(sql)

    def cancel_written(self, sql: str) -> float:
        """Cancel in a transaction that has written."""
        return self._cancelled(sql, ("INSERT INTO kept VALUES (-1)",), autocommit=False)

    def cancel_temporary(self, sql: str) -> float:
        """Cancel in a session with a temporary table."""
        return self._cancelled(sql, ("CREATE TEMP TABLE t AS SELECT 1 AS x",))

    def cancel_stream(self, sql: str) -> float:
        """Cancel a stream after some of its batches."""
        with flight.FlightClient(self._server.address) as client:
            stream = client.do_get(flight.Ticket(Query(sql).serialize()))
            end = time.monotonic() + self.after_s
            while stream.read_chunk() and time.monotonic() < end:
                pass
            stopped_at = time.monotonic()
            stream.cancel()
            del stream
        return stopped_at

    def forget_stream(self, sql: str) -> float:
        """Close the channel under a stream."""
        client = flight.FlightClient(self._server.address)
        stream = client.do_get(flight.Ticket(Query(sql).serialize()))
        stream.read_chunk()
        self.wait()
        stopped_at = time.monotonic()
        del stream
        client.close()
        return stopped_at

    def deadline(self, sql: str) -> float:
        """Let the client's time run out."""
        self.after_s += 0.002
        with flight.FlightClient(self._server.address) as client:
            with suppress(flight.FlightTimedOutError):
                _fetch(client, sql, flight.FlightCallOptions(timeout=self.after_s))
                raise AssertionError("it is endless")
            return time.monotonic()

    def statement_timeout(self, sql: str) -> float:
        """Let the session's limit run out."""
        self.after_s += 0.002
        with adbc.connect(self._server.address, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = '{self.after_s * 1000:.0f}ms'")
            began = time.monotonic()
            with suppress(adbc.Error, pa.ArrowException, OSError):
                _drain(cursor, sql)
                raise AssertionError("it is endless")
        return began + self.after_s

    def _by_action(self, sql: str, act: Callable[[flight.FlightClient, flight.FlightInfo], None]) -> float:
        with flight.FlightClient(self._server.address) as client, flight.FlightClient(self._server.address) as other:
            info = client.get_flight_info(_command(sql))
            running = _in_thread(lambda: _read(client.do_get(info.endpoints[0].ticket)))
            self.wait()
            stopped_at = time.monotonic()
            act(other, info)
            running.join(IDLE_S_MAX)
            assert not running.is_alive(), "it goes on"
        return stopped_at

    def cancel_flight_info(self, sql: str) -> float:
        """Cancel by the action."""
        return self._by_action(sql, _cancel_flight_info)

    def cancel_query(self, sql: str) -> float:
        """Cancel by the deprecated action."""
        return self._by_action(sql, _cancel_query)

    def disconnect(self, sql: str) -> float:
        """Cut the connection."""
        proxy = Proxy(self._server.port)
        with flight.FlightClient(proxy.address) as client:
            running = _in_thread(lambda: _fetch(client, sql))
            self.wait()
            stopped_at = time.monotonic()
            proxy.cut()
            running.join(IDLE_S_MAX)
            assert not running.is_alive(), "the client goes on"
        return stopped_at

    def kill(self, sql: str) -> float:
        """Kill the client's process."""
        client = subprocess.Popen(
            [sys.executable, "-c", _CLIENT, self._server.address, sql], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdout.readline()
            client.stdin.write(b"go\n")
            client.stdin.flush()
            self.wait()
            stopped_at = time.monotonic()
            client.send_signal(signal.SIGKILL)
        return stopped_at

    def cut_ingest(self, _: str) -> float:
        """Cut the connection under an ingest."""
        proxy = Proxy(self._server.port)
        with flight.FlightClient(proxy.address) as client:
            batch = pa.record_batch({"x": pa.array(range(10_000), pa.int64())})
            command = c.CommandStatementIngest(
                c.TableDefinitionOptions(
                    TableNotExistOption.TABLE_NOT_EXIST_OPTION_CREATE, TableExistsOption.TABLE_EXISTS_OPTION_APPEND
                ),
                self._chance.choice(("kept", "made")),
            )
            writer, reader = client.do_put(flight.FlightDescriptor.for_command(command.serialize()), batch.schema)
            end = time.monotonic() + self.after_s
            writer.write_batch(batch)
            while time.monotonic() < end:
                writer.write_batch(batch)
            stopped_at = time.monotonic()
            proxy.cut()
            with suppress(pa.ArrowException, flight.FlightError):
                writer.close()
            del reader
        return stopped_at


def _in_thread(run: Callable[[], object]) -> threading.Thread:
    def guarded() -> None:
        with suppress(adbc.Error, flight.FlightError, pa.ArrowException, OSError):
            run()

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread


def _drain(cursor: adbc.Cursor, sql: str) -> None:
    # no rows of Python's: a client that is busy with those sees the end late
    cursor.execute(sql)
    for batch in cursor.fetch_record_batch():
        del batch


def _command(sql: str) -> flight.FlightDescriptor:
    return flight.FlightDescriptor.for_command(c.CommandStatementQuery(sql).serialize())


def _fetch(client: flight.FlightClient, sql: str, options: Any = None) -> None:
    info = client.get_flight_info(_command(sql), options)
    _read(client.do_get(info.endpoints[0].ticket, options))


def _read(stream: flight.FlightStreamReader) -> None:
    # not read_all, which takes CANCELLED from a server for Control-C at this process
    for chunk in stream:
        del chunk


def _cancel_flight_info(client: flight.FlightClient, info: flight.FlightInfo) -> None:
    request = CancelFlightInfoRequest(FlightInfo.parse(info.serialize()))
    list(client.do_action(flight.Action("CancelFlightInfo", request.serialize())))


def _cancel_query(client: flight.FlightClient, info: flight.FlightInfo) -> None:
    request = ActionCancelQueryRequest(info.serialize())
    list(client.do_action(flight.Action("CancelQuery", request.serialize())))


_READS = {**SILENT, **STREAMING}
_ALL = {**_READS, **WRITES}
_WAYS: tuple[tuple[str, Callable[[Campaign, str], float], dict[str, str]], ...] = (
    ("driver's cancel", Campaign.cancel, _READS),
    ("driver's cancel of a write", Campaign.cancel, WRITES),
    ("cancel in a transaction that wrote", Campaign.cancel_written, _ALL),
    ("cancel beside a temporary table", Campaign.cancel_temporary, _READS),
    ("cancelled stream", Campaign.cancel_stream, STREAMING),
    ("forgotten stream", Campaign.forget_stream, STREAMING),
    ("client's deadline", Campaign.deadline, _READS),
    ("client's deadline of a write", Campaign.deadline, WRITES),
    ("statement timeout", Campaign.statement_timeout, _ALL),
    ("CancelFlightInfo", Campaign.cancel_flight_info, _READS),
    ("CancelQuery", Campaign.cancel_query, _READS),
    ("disconnect", Campaign.disconnect, _READS),
    ("disconnect of a write", Campaign.disconnect, WRITES),
    ("disconnect of an ingest", Campaign.cut_ingest, {"ingest": ""}),
    ("disconnect of a stream", Campaign.disconnect, STREAMING),
    ("killed client", Campaign.kill, _ALL),
)
