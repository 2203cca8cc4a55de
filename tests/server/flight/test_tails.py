"""Tails over Flight: any client follows with a plain DoGet or a query, and nothing is left of one that went."""

from __future__ import annotations

import base64
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from cancelling import Proxy
from flight_here import START_US, FlightHere, trades, wait_until
from noisy_client import STATUSES
from pyarrow import flight

from tickflight.wire.streams import ResumeToken, Selection, Tail, TailMark
from tickflight_server.schemas import STORED

PROMPT_S = 3.0  # a tenth of it, mostly; the machine may be busy
Open = Callable[..., flight.FlightStreamReader]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FlightHere]:
    query = {"heartbeat_s": 0.1, "streams_max": 4, "concurrent_max": 4, "ordered_window_rows": 1000}
    made = FlightHere(tmp_path / "lake", query=query)
    made.store.append("trades", trades(100)).result()
    yield made
    made.stop()


@pytest.fixture
def client(server: FlightHere) -> Iterator[flight.FlightClient]:
    with flight.FlightClient(server.address) as made:
        yield made


@pytest.fixture
def tail(client: flight.FlightClient) -> Open:
    def make(request: Tail | None = None, **fields: Any) -> flight.FlightStreamReader:
        asked = request or Tail(Selection("trades", columns=("seq",)))
        return client.do_get(flight.Ticket(replace(asked, **fields).serialize()))

    return make


@pytest.fixture
def cursor(server: FlightHere) -> Iterator[adbc.Cursor]:
    with adbc.connect(server.address, autocommit=True) as connection, connection.cursor() as made:
        yield made


def read(stream: flight.FlightStreamReader) -> tuple[pa.RecordBatch, TailMark]:
    chunk = stream.read_chunk()
    return chunk.data, TailMark.parse(chunk.app_metadata.to_pybytes())


def upto(stream: flight.FlightStreamReader, seq: int) -> tuple[list[int], TailMark]:
    """Return the ``seq`` of the rows until ``seq`` was looked at, and the mark that says so."""
    found: list[int] = []
    while True:
        batch, mark = read(stream)
        found += batch.column("seq").to_pylist()
        if mark.seq >= seq:
            return found, mark


def add(server: FlightHere, rows: int, **more: Any) -> None:
    server.store.append("trades", trades(rows, **more)).result()


def tails(server: FlightHere) -> Counter[str]:
    return Counter({k: int(v) for k, v in server.store.metrics.read().items() if k.startswith("tail")})


@contextmanager
def freed(server: FlightHere, opened: int = 1) -> Iterator[None]:
    """Expect that what was opened is gone soon after the block, and that nothing is held for it."""
    began = tails(server)["tails"]
    yield
    deadline = time.monotonic() + PROMPT_S
    wait_until(lambda: tails(server)["tails"] == tails(server)["tails_ended"] and not len(server.flight._streams))
    assert time.monotonic() < deadline, "it is freed soon"
    assert tails(server)["tails"] - began == opened
    assert len(server.flight.main._tails._tails._channels) == 0
    assert server.free_places == 4


# --- the ticket


def test_any_client_follows_with_plain_doget(server: FlightHere, client: flight.FlightClient) -> None:
    request = Tail(Selection("market.trades", symbols=("BTC-USDT",)), after_seq=90).serialize()
    descriptor = flight.FlightDescriptor.for_command(request)
    info = client.get_flight_info(descriptor)
    (endpoint,) = info.endpoints
    assert endpoint.ticket.ticket == request
    assert info.schema == client.get_schema(descriptor).schema == STORED["trades"].arrow()
    stream = client.do_get(endpoint.ticket)
    assert stream.schema == info.schema
    batch, mark = read(stream)
    assert (batch.num_rows, mark.seq, mark.newest_seq, mark.durable_us) == (0, 90, 100, 0)
    assert upto(stream, 100)[0] == list(range(91, 101))
    add(server, 5)
    found, mark = upto(stream, 105)
    assert found == list(range(101, 106))
    assert abs(mark.durable_us / 1e6 - time.time()) < 60
    stream.cancel()


def test_every_message_has_a_mark_and_heartbeats_have_only_that(server: FlightHere, tail: Open) -> None:
    stream = tail()
    began = time.monotonic()
    for _ in range(4):
        batch, mark = read(stream)
        assert (batch.num_rows, mark.seq, mark.ended, mark.skipped_last) == (0, 100, "", 0)
        token = ResumeToken.parse(mark.resume)
        assert token == ResumeToken(server.store.writer.bytes, "trades", 100, None)
    assert time.monotonic() - began > 0.25
    stream.cancel()


def test_a_token_goes_on_exactly_after_its_batch(server: FlightHere, tail: Open) -> None:
    add(server, 100_000, symbol="ETH-USDT")
    server.store.flush()
    request = Tail(Selection("trades", columns=("seq",), where="seq % 7 = 1"), since_us=START_US + 10_000_000)
    stream, got, batches = tail(request), [], 0
    while True:
        batch, mark = read(stream)
        got += batch.column("seq").to_pylist()
        batches += 1
        if mark.seq == 100_100:
            break
        if batches % 3 == 0:
            stream.cancel()
            stream = tail(request, resume=mark.resume, since_us=None)
    stream.cancel()
    assert batches > 3
    late = [seq for seq in (*range(11, 101), *range(111, 100_101)) if seq % 7 == 1]
    assert got == late, "since is in the token, too"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"writer": b"x" * 16}, "of another server's data"),
        ({"writer": b""}, "of another server's data"),
        ({"table": "ticker"}, "of table 'ticker', and not of trades"),
        ({"table": ""}, "of table '', and not of trades"),
        ({"seq": 101}, "rows after seq 101 are asked for, and the newest row of trades has 100"),
        ({"seq": -1}, "rows after seq -1"),
    ],
)
def test_a_token_of_somewhere_else_is_refused(server: FlightHere, tail: Open, change: Any, words: str) -> None:
    token = replace(ResumeToken(server.store.writer.bytes, "trades", 50), **change)
    with freed(server, 0), pytest.raises(pa.ArrowInvalid, match=words):
        tail(resume=token.serialize()).read_chunk()


def test_lag_is_told_by_a_mark_and_a_status(server: FlightHere, tail: Open) -> None:
    with freed(server):
        stream = tail(lag_rows_max=50)
        read(stream)
        add(server, 51)
        while not (mark := read(stream)[1]).ended:
            assert mark.seq == 100
        with pytest.raises(flight.FlightUnavailableError, match="51 rows behind, 50 are allowed"):
            stream.read_chunk()
    assert (mark.ended, mark.seq, ResumeToken.parse(mark.resume).seq) == ("lag", 100, 100)
    skipping = tail(lag_rows_max=50, on_lag="skip", resume=mark.resume)
    assert upto(skipping, 151)[0] == list(range(101, 152)), "it lags only after it has caught up"
    add(server, 200)
    while not (mark := read(skipping)[1]).skipped_last:
        pass
    assert (mark.skipped_last, mark.skipped_why) == (351, "lag")
    assert tails(server)["tail_rows_skipped"] == mark.skipped_last - mark.skipped_first + 1
    skipping.cancel()


# --- in SQL


def test_a_query_over_tail_streams_while_rows_come(server: FlightHere, cursor: adbc.Cursor) -> None:
    with freed(server):
        cursor.execute("SELECT seq, price * 2 AS twice FROM tail('trades', symbols := ['BTC-USDT']) WHERE price >= 1")
        reader = cursor.fetch_record_batch()
        assert reader.schema == pa.schema([("seq", pa.int64()), ("twice", pa.float64())])
        wait_until(lambda: tails(server)["tails"])  # the driver fetches by itself, and now is when it does
        for number in range(3):
            add(server, 4)
            assert rows_of(reader, 3) == [(seq + 100 + number * 4, (seq - 1) * 2.0) for seq in (2, 3, 4)]
        reader.close()
        cursor.close()


def rows_of(reader: pa.RecordBatchReader, count: int) -> list[tuple[Any, ...]]:
    """Return the next so many rows; heartbeats have none."""
    found: list[tuple[Any, ...]] = []
    while len(found) < count:
        batch = reader.read_next_batch()
        found += zip(*(column.to_pylist() for column in batch.columns), strict=True)
    return found


def test_limit_ends_a_query(server: FlightHere, cursor: adbc.Cursor) -> None:
    later = threading.Timer(0.2, add, (server, 10))
    later.start()
    with freed(server):
        cursor.execute("SELECT seq FROM tail('trades', after_seq := 95) LIMIT 8")
        assert cursor.fetch_arrow_table()["seq"].to_pylist() == list(range(96, 104))
    later.join()


def test_prepared_statement_takes_values(server: FlightHere, cursor: adbc.Cursor) -> None:
    sql = "SELECT seq FROM tail('trades', after_seq := $1) WHERE price > $2 AND symbol = $3 LIMIT 3"
    for after, price, found in ((0, 50.0, [52, 53, 54]), (90, 5.0, [91, 92, 93])):
        with freed(server):
            cursor.execute(sql, (after, price, "BTC-USDT"))
            assert cursor.fetch_arrow_table()["seq"].to_pylist() == found


@pytest.mark.parametrize("way", ["cancel", "close the reader", "close the cursor"])
def test_a_query_ends_when_its_client_is_through(server: FlightHere, way: str) -> None:
    connection = adbc.connect(server.address, autocommit=True)
    cursor = connection.cursor()
    cursor.execute("SELECT seq FROM tail('trades', after_seq := 0)")
    reader = cursor.fetch_record_batch()
    assert len(rows_of(reader, 100)) == 100
    with freed(server, 0):
        if way == "cancel":
            cursor.adbc_cancel()
        elif way == "close the reader":
            reader.close()
        else:
            cursor.close()
    with suppress(Exception):
        reader.close()
    cursor.close()
    connection.close()


def test_cancel_ends_a_client_that_waits(server: FlightHere, cursor: adbc.Cursor) -> None:
    cursor.execute("SELECT seq FROM tail('trades')")
    reader = cursor.fetch_record_batch()
    later = threading.Timer(0.3, cursor.adbc_cancel)
    wait_until(lambda: tails(server)["tails"])
    with freed(server, 0):
        later.start()
        with pytest.raises(Exception, match=r"(?i)cancel"):
            rows_of(reader, 1)
        later.join()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM tail('trades')",
        "SELECT symbol, max(price) FROM tail('trades') GROUP BY symbol",
        "SELECT symbol FROM tail('trades') GROUP BY ALL",
        "SELECT * FROM tail('trades') ORDER BY seq",
        "SELECT DISTINCT symbol FROM tail('trades')",
        "SELECT lag(price) OVER () FROM tail('trades')",
        "SELECT * FROM tail('trades') JOIN trades USING (seq)",
        "SELECT * FROM tail('trades') ASOF JOIN trades USING (symbol, timestamp)",
        "SELECT * FROM tail('trades') a, tail('trades') b",
        "SELECT * FROM (SELECT * FROM tail('trades'))",
        "WITH t AS (SELECT * FROM tail('trades')) SELECT * FROM t",
        "SELECT * FROM tail('trades') WHERE seq IN (SELECT seq FROM trades)",
        "SELECT (SELECT max(price) FROM tail('trades'))",
        "SELECT * FROM tail('trades') UNION ALL SELECT * FROM trades",
        "SELECT * FROM tail('trades') LIMIT 5 OFFSET 2",
        "CREATE TABLE mine AS SELECT * FROM tail('trades')",
        "CREATE VIEW mine AS SELECT * FROM tail('trades')",
        "CREATE MACRO mine() AS TABLE SELECT * FROM tail('trades')",
        "INSERT INTO notes SELECT seq FROM tail('trades')",
        "DELETE FROM notes WHERE seq IN (SELECT seq FROM tail('trades'))",
        "SUMMARIZE SELECT * FROM tail('trades')",
    ],
)
def test_what_would_never_end_is_refused_before_it_begins(server: FlightHere, cursor: adbc.Cursor, sql: str) -> None:
    cursor.execute("CREATE TABLE notes (seq BIGINT)")
    with freed(server, 0), pytest.raises(adbc.NotSupportedError, match=r"tail\(\)") as caught:
        cursor.execute(sql)
    assert "Traceback" not in str(caught.value)
    assert 'File "' not in str(caught.value)


# --- who comes, and who goes


def test_more_than_may_be_open_are_refused_and_an_ended_one_makes_room(server: FlightHere, tail: Open) -> None:
    streams = [tail() for _ in range(4)]
    for stream in streams:
        read(stream)
    with pytest.raises(flight.FlightUnavailableError, match=r"query\.streams_max"):
        tail().read_chunk()
    streams[0].cancel()
    wait_until(lambda: len(server.flight._streams) == 3)
    read(tail())
    assert tails(server)["tails"] - tails(server)["tails_ended"] == 4


def until_the_network_is_full(server: FlightHere) -> None:
    before = -1
    while before != (before := tails(server)["tail_rows"]) or not before:
        time.sleep(0.1)


@pytest.mark.parametrize("way", ["cancel", "close", "network"])
@pytest.mark.parametrize("state", ["waiting", "reading history", "not reading"])
def test_nothing_is_left_of_a_caller_that_went(server: FlightHere, way: str, state: str) -> None:
    for _ in range(6):
        add(server, 50_000)
    if state == "reading history":
        server.store.flush()
        while server.store.tables["trades"].release_oldest():
            pass
    proxy = Proxy(server.port)
    client = flight.FlightClient(proxy.address)
    after = None if state == "waiting" else 0
    request = Tail(Selection("trades"), after_seq=after).serialize()
    stream = client.do_get(flight.Ticket(request))
    read(stream)
    if state == "reading history":
        read(stream)
    if state == "not reading":
        until_the_network_is_full(server)
        assert tails(server)["tail_rows"] < 300_000
    with freed(server, 0):
        if way == "cancel":
            stream.cancel()
        elif way == "close":
            stream.cancel()
            client.close()
        else:
            proxy.cut()
    client.close()
    if way != "network":
        proxy.cut()


def test_a_shutdown_ends_tails_as_unavailable_and_does_not_wait_for_them(server: FlightHere, tail: Open) -> None:
    streams = [tail(), tail(after_seq=0)]
    for stream in streams:
        read(stream)
    began = time.monotonic()
    stopping = threading.Thread(target=server.flight.shutdown)
    stopping.start()
    for stream in streams:
        with pytest.raises(flight.FlightUnavailableError, match="the server stops"):
            upto(stream, 10**6)
    stopping.join(10)
    assert time.monotonic() - began < 3
    assert tails(server)["tails"] == tails(server)["tails_ended"] == 2


# --- noise

_TEXTS = ("", "trades", "price", "seq", "nope", "\x00", "x" * 5000, "'; --", "ä€😀", "market.trades", "system.gaps")
_CONDITIONS = (
    "",
    " ",
    "price > 5",
    "1=1) OR (1=1",
    ";",
    "'",
    "price > ?",
    "price > (SELECT 1)",
    "side::INT = 1",
    "row_number() OVER () > 1",
    "count(*) > 1",
    "\x00",
    "(" * 200,
    "true GROUP BY ALL",
    "getenv('HOME') = ''",
    "error('no')",
    "sleep_ms(1) IS NULL",
    "x" * 50_000,
)
_NUMBERS = (0, 1, -1, 50, 100, 101, START_US, 2**31, 2**62, 2**63 - 1, -(2**63))


def noisy(pick: random.Random, writer: bytes) -> bytes:
    """Return a request of which now and then a field makes no sense, or a byte."""

    def some(values: Any, sound: Any, chance: float = 0.7) -> Any:
        return sound if pick.random() < chance else pick.choice(values)

    def texts() -> tuple[str, ...]:
        return tuple(pick.choice(_TEXTS) for _ in range(pick.randrange(4)))

    token = ResumeToken(
        some((b"", b"x"), writer, 0.9), some(_TEXTS, "trades"), some(_NUMBERS, 50), some(_NUMBERS, None)
    ).serialize()
    request = Tail(
        some(
            (None,),
            Selection(
                some(_TEXTS, "trades", 0.8),
                some((texts(),), ()),
                some((texts(),), ("BTC-USDT",)),
                some((texts(),), ()),
                some(_CONDITIONS, "", 0.5),
            ),
            0.95,
        ),
        after_seq=some(_NUMBERS, None),
        resume=some((token, damaged(pick, token), pick.randbytes(20)), b""),
        since_us=some(_NUMBERS, None),
        on_lag=some(("end", "END", "\x00", "x" * 5000), "skip"),
        lag_rows_max=some(_NUMBERS, 0),
    ).serialize()
    return damaged(pick, request) if pick.random() < 0.2 else request


def damaged(pick: random.Random, data: bytes) -> bytes:
    at = pick.randrange(len(data))
    return data[:at] + pick.choice((b"", pick.randbytes(1), pick.randbytes(9))) + data[at + pick.randrange(3) :]


@pytest.mark.parametrize("seed", range(2))
def test_noise_in_any_field_gets_a_clean_status(tmp_path: Path, seed: int) -> None:
    server = FlightHere(tmp_path / "lake", query={"heartbeat_s": 0.05})
    add(server, 50)
    server.store.flush()
    while server.store.tables["trades"].release_oldest():
        pass
    add(server, 50)
    pick, counts = random.Random(seed), Counter[str]()
    options = flight.FlightCallOptions(timeout=20)
    try:
        with flight.FlightClient(server.address) as client:
            for _ in range(100):
                request = noisy(pick, server.store.writer.bytes)
                descriptor = flight.FlightDescriptor.for_command(request)
                counts[outcome(lambda d=descriptor: client.get_flight_info(d, options), request)] += 1
                counts[outcome(lambda d=descriptor: client.get_schema(d, options), request)] += 1
                counts[outcome(lambda r=request: follow(client.do_get(flight.Ticket(r), options)), request)] += 1
        assert set(counts) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "PERMISSION_DENIED"}
        assert min(counts["OK"], counts["INVALID_ARGUMENT"], counts["NOT_FOUND"]) > 10
        wait_until(lambda: tails(server)["tails"] == tails(server)["tails_ended"] and server.free_places == 64)
    finally:
        server.stop()


def follow(stream: flight.FlightStreamReader) -> None:
    for _ in range(4):
        read(stream)
    stream.cancel()


def outcome(call: Callable[[], Any], request: bytes) -> str:
    """Return the status of a call, whose words have nothing of the server's inside."""
    try:
        call()
    except Exception as error:
        status, text = STATUSES.get(type(error)), str(error)
        told = f"{base64.b64encode(request)!r}: {type(error).__name__}: {text[:1500]}"
        assert status is not None, told
        assert not any(inside in text for inside in ("Traceback", 'File "', ".py", "site-packages")), told
        assert "Deadline" not in text, told
        return status
    return "OK"
