"""What the scans are measured on: rows in a server's memory, rows in its parts, and readers of either.

The rule of this file: a reader reads to the end and counts, it keeps nothing; rows that are wanted are there before the
clock starts, and a count that is wrong is an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from adbc_driver_flightsql import dbapi
from pyarrow import flight

import tickflight
from bench.markets import Market, symbols
from bench.servers import running_server
from tickflight.wire.commands import CommandStatementQuery, parse_command
from tickflight.wire.tickets import TicketStatementQuery, parse_ticket

MARKET = Market(tuple(symbols(50)), exchanges=("BINANCE", "COINBASE"), seed=6)
MARKET_WORDS = "50 symbols of 2 exchanges, 10 columns, 4 of them names and one ids"
DAY_US = 86_400_000_000
START_US = 20_000 * DAY_US
BATCH_ROWS = 100_000
DUCKDB_ROWS = 131_072
_COPIED_MB = 512
_EVERYTHING = {
    "TICKFLIGHT_LAKEHOUSE__WAL_MB": "65536",
    "TICKFLIGHT_LAKEHOUSE__FLUSH_INTERVAL_SECONDS": "86400",
    # every row is stored, whatever its id is: looking at ids is no part of what is measured
    "TICKFLIGHT_LAKEHOUSE__DEDUP": '{"trades": []}',
}
IN_MEMORY = {
    **_EVERYTHING,
    "TICKFLIGHT_LAKEHOUSE__RING_MB": "8192",
    "TICKFLIGHT_LAKEHOUSE__BUFFER_SIZE_MB": "8192",
    "TICKFLIGHT_LAKEHOUSE__RING_SECONDS": "86400",
}
IN_PARTS = {
    **_EVERYTHING,
    "TICKFLIGHT_LAKEHOUSE__BUFFER_SIZE_MB": "2048",
    "TICKFLIGHT_LAKEHOUSE__RING_SECONDS": "0.1",
    "TICKFLIGHT_LAKEHOUSE__COMPACT_SHARE": "0",
}


@contextmanager
def server_with_ring(rows: int) -> Iterator[str]:
    """Run a server with ``rows`` trades in memory, merged to segments of their full size; give its address."""
    with running_server(environment=IN_MEMORY) as (address, _), tickflight.connect(address) as client:
        fill(client, rows)
        wait_for(client, lambda segments: segments <= rows / 65_536 + 2, "SELECT count(*) AS n FROM system.segments")
        yield address


@contextmanager
def server_with_parts(rows: int, flushes: int) -> Iterator[tuple[str, Path]]:
    """Run a server with ``rows`` trades in parts and none in memory; give its address and its data folder."""
    with running_server(environment=IN_PARTS) as (address, folder), tickflight.connect(address) as client:
        for number in range(flushes):
            fill(client, rows // flushes, day=number, first_id=10_000_000 + number * rows)
            client.flush()
        wait_for(client, lambda held: held == 0, "SELECT rows_in_memory::BIGINT AS n FROM system.tables")
        yield address, folder


def fill(client: tickflight.Client, rows: int, *, day: int = 0, first_id: int = 10_000_000) -> None:
    """Write ``rows`` trades of one day; they are durable when this returns."""
    start = START_US + day * DAY_US
    with client.writer("trades") as writer:
        for batch in MARKET.batches(rows, BATCH_ROWS, start_us=start, span_us=DAY_US - 1, first_id=first_id):
            writer.write(batch)


def wait_for(client: tickflight.Client, enough: Callable[[int], bool], sql: str) -> None:
    """Wait until the sum of what ``sql`` gives as ``n`` is ``enough``, for a minute at most."""
    until = time.monotonic() + 60
    while not enough(sum(client.sql(sql).arrow()["n"].to_pylist())):
        if time.monotonic() > until:
            raise TimeoutError(f"not so after a minute: {sql}")
        time.sleep(0.1)


class BareServer(flight.FlightServerBase):  # type: ignore[misc]
    """Streams batches that it has in memory, and does nothing else; Flight SQL clients find them in ``endpoints``.

    Ticket ``<n>/<of>`` is the n-th of so many runs of the batches.
    """

    def __init__(self, rows: pa.Table, endpoints: int) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._schema, self._batches, self._endpoints = rows.schema, rows.to_batches(), endpoints

    def get_flight_info(self, context: Any, descriptor: Any) -> flight.FlightInfo:
        """Answer any query with all rows, and nothing else."""
        if not isinstance(parse_command(descriptor.command), CommandStatementQuery):
            raise NotImplementedError
        tickets = [TicketStatementQuery(b"%d/%d" % (i, self._endpoints)).serialize() for i in range(self._endpoints)]
        return flight.FlightInfo(
            self._schema, descriptor, [flight.FlightEndpoint(ticket, []) for ticket in tickets], -1, -1
        )

    def do_get(self, context: Any, ticket: Any) -> flight.FlightDataStream:
        """Stream a run of the batches, in C++."""
        number, _, count = parse_handle(ticket.ticket).partition(b"/")
        run = self._batches[int(number) :: int(count)]
        return flight.RecordBatchStream(pa.RecordBatchReader.from_batches(self._schema, run))


def parse_handle(ticket: bytes) -> bytes:
    """Return the handle of a bare server's ticket."""
    parsed = parse_ticket(ticket)
    assert isinstance(parsed, TicketStatementQuery)
    return parsed.statement_handle


def serve_bare(address: str, sql: str, dictionaries: bool, endpoints: int, tell: Callable[[str], None]) -> None:
    """Stream what the server at ``address`` answers to ``sql``, in the same batches, until the process is killed."""
    with tickflight.connect(address) as client:
        rows = client.sql(sql, dictionaries=dictionaries).arrow()
    server = BareServer(rows, endpoints)
    tell(f"grpc://127.0.0.1:{server.port}")
    server.serve()


Read = Callable[[], float]
"""Reads everything once and returns the seconds that it took."""


class Reading:
    """Reads results to their ends and counts; ``rows`` are wanted of each."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def _timed(self, read: Callable[[], int]) -> float:
        started = time.perf_counter()
        found = read()
        seconds = time.perf_counter() - started
        if found != self._rows:
            raise RuntimeError(f"{found} rows were read, and there are {self._rows}")
        return seconds

    def by_flight(self, address: str) -> Read:
        """Return a reader of a bare server's only endpoint by pyarrow's client."""
        client = flight.FlightClient(address)
        ticket = flight.Ticket(TicketStatementQuery(b"0/1").serialize())
        return lambda: self._timed(lambda: count(client.do_get(ticket).to_reader()))

    def by_client(self, client: tickflight.Client, sql: str, *, dictionaries: bool = False) -> Read:
        """Return a reader by our client, batch by batch."""
        return lambda: self._timed(lambda: count(client.sql(sql, dictionaries=dictionaries)))

    def by_duckdb(self, files: Sequence[Path], columns: str) -> Read:
        """Return a reader of Parquet files by DuckDB, in this process, with its own settings as they come."""
        connection = duckdb.connect()
        sql = f"SELECT {columns} FROM read_parquet({[str(path) for path in files]}, hive_partitioning = false)"
        return lambda: self._timed(lambda: count(connection.sql(sql).to_arrow_reader(DUCKDB_ROWS)))

    def by_adbc(self, address: str, sql: str, *, dictionaries: bool = False) -> Read:
        """Return a reader by ADBC, batch by batch."""
        return self._by_cursor(address, sql, lambda cursor: count(cursor.fetch_record_batch()), dictionaries)

    def by_adbc_table(self, address: str, sql: str) -> Read:
        """Return a reader by ADBC into one table."""
        return self._by_cursor(address, sql, lambda cursor: int(cursor.fetch_arrow_table().num_rows))

    def _by_cursor(self, address: str, sql: str, fetch: Callable[[Any], int], dictionaries: bool = False) -> Read:
        options = {"adbc.flight.sql.rpc.call_header.x-tickflight-labels": "dictionary"} if dictionaries else {}
        connection = dbapi.connect(address, autocommit=True, conn_kwargs=options)

        def read() -> int:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return fetch(cursor)

        return lambda: self._timed(read)


def count(batches: Iterable[pa.RecordBatch]) -> int:
    """Return how many rows there are, keeping none."""
    return sum(batch.num_rows for batch in batches)


def in_turns(reads: Mapping[str, Read], runs: int) -> dict[str, list[float]]:
    """Return each one's seconds of ``runs`` runs, after one that does not count, taken in turns."""
    for read in reads.values():
        read()
    seconds: dict[str, list[float]] = {name: [] for name in reads}
    for _ in range(runs):
        for name, read in reads.items():
            seconds[name].append(read())
    return seconds


def rates(rows: int, seconds: Sequence[float]) -> list[float]:
    """Return millions of rows a second."""
    return [rows / s / 1e6 for s in seconds]


def memory_rate() -> list[float]:
    """Return how many gigabytes one core copies a second, in several runs."""
    source = np.ones(_COPIED_MB << 17)
    target = np.empty_like(source)
    found = []
    for _ in range(6):
        started = time.perf_counter()
        np.copyto(target, source)
        found.append(source.nbytes / (time.perf_counter() - started) / 1e9)
    return found[1:]  # the first gets its pages from the system
