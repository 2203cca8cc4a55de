"""No message is above what drivers take, and what goes wrong in the middle of a stream is told clean."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import flight

from tickflight.wire.tickets import Query
from tickflight_server.flight.streams import is_flat
from tickflight_server.query.execution import cut_by_bytes
from tickflight_server.schemas import STORED

WIRE_MAX = 4 << 20
BATCH = 2 << 20


def ask(client: flight.FlightClient, sql: str) -> list[pa.RecordBatch]:
    return [chunk.data for chunk in client.do_get(flight.Ticket(Query(sql).serialize()))]


@given(st.lists(st.text(max_size=300), max_size=50), st.integers(64, 2000))
def test_cutting_keeps_all_rows_in_order_and_the_limit(values: list[str], limit: int) -> None:
    batch = pa.record_batch({"text": pa.array(values, pa.string()), "n": pa.array(range(len(values)))})
    pieces = list(cut_by_bytes(batch, limit))
    assert pa.Table.from_batches(pieces, batch.schema).to_pylist() == batch.to_pylist()
    assert all(piece.nbytes <= limit or piece.num_rows == 1 for piece in pieces)


@pytest.mark.parametrize("name", STORED)
def test_stored_tables_without_lists_go_in_cpp(name: str) -> None:
    schema = STORED[name].arrow()
    bounded = not any(pa.types.is_list(f.type) for f in schema) and name not in ("rejected", "gaps")
    assert is_flat(schema, BATCH) is bounded


@pytest.mark.parametrize(
    ("schema", "flat"),
    [
        (pa.schema([("n", pa.int64()), ("t", pa.timestamp("us")), ("b", pa.bool_()), ("x", pa.null())]), True),
        (pa.schema([("symbol", pa.string()), ("d", pa.decimal128(38, 18))]), True),
        (pa.schema([("e", pa.dictionary(pa.int8(), pa.string()))]), True),
        (pa.schema([("made_up", pa.string())]), False),
        (pa.schema([("symbol", pa.binary())]), False),
        (pa.schema([("a", pa.list_(pa.int8()))]), False),
        (pa.schema([("a", pa.list_(pa.float64(), 1000))]), False),
        (pa.schema([("a", pa.struct([("x", pa.string())]))]), False),
        (pa.schema([("a", pa.map_(pa.string(), pa.string()))]), False),
        (pa.schema([(f"c{i}", pa.float64()) for i in range(128)]), True),
        (pa.schema([(f"c{i}", pa.float64()) for i in range(129)]), False),
    ],
)
def test_result_is_flat_if_its_rows_are_bounded(schema: pa.Schema, flat: bool) -> None:
    assert is_flat(schema, BATCH) is flat


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT * FROM trades", 300_000),
        ("SELECT * FROM l2_book", 60),
        ("SELECT seq, bid_prices FROM l2_book, range(20)", 1_200),
        ("SELECT x, string_agg(y::VARCHAR, ', ') s FROM range(40) a(x), range(20000) b(y) GROUP BY x", 40),
        ("SELECT x, list(y) l FROM range(40) a(x), range(20000) b(y) GROUP BY x", 40),
        ("SELECT repeat('x', 3000000) AS s FROM range(5)", 5),
        ("SELECT repeat('x', 1000)::BLOB AS s FROM range(10000)", 10_000),
        (f"SELECT {', '.join(f'x + {i} AS c{i}' for i in range(600))} FROM range(3000) r(x)", 3_000),
        ("SELECT [x]::BIGINT[1] || repeat([x], 999) AS l FROM range(3000) r(x)", 3_000),
        ("SELECT array_value(x, x, x, x)::DOUBLE[4] AS l FROM range(300000) r(x)", 300_000),
        ("SELECT {'s': repeat('x', 2000)} AS s FROM range(3000)", 3_000),
    ],
)
def test_no_message_is_above_four_mebibytes(client: flight.FlightClient, sql: str, rows: int) -> None:
    batches = ask(client, sql)
    assert sum(b.num_rows for b in batches) == rows
    assert max(b.nbytes for b in batches) < WIRE_MAX


def test_large_result_comes_in_large_batches(client: flight.FlightClient) -> None:
    sizes = [b.num_rows for b in ask(client, "SELECT seq, price FROM trades")]
    assert sum(sizes) == 300_000
    assert len(sizes) <= 12


LATE = "SELECT CASE WHEN x < 500000 THEN 1 ELSE CAST('no' || x AS INTEGER) END {} FROM range(600000) r(x)"


WAYS = {"C++": "AS n", "generator": "AS n, 'text' AS made_up", "reader": "AS n, ['x'::ENUM('x', 'y')] AS made_up"}


@pytest.mark.parametrize("column", WAYS.values(), ids=WAYS)
def test_error_in_the_middle_keeps_the_engines_words(
    client: flight.FlightClient, served: Any, raises_clean: Callable[..., Any], until: Callable[..., None], column: str
) -> None:
    with raises_clean((pa.ArrowInvalid, flight.FlightServerError), "Could not convert string 'no500000' to INT32"):
        ask(client, LATE.format(column))
    until(lambda: served.free_places == 8)


def test_error_in_the_middle_reaches_adbc(cursor: adbc.Cursor, raises_clean: Callable[..., Any]) -> None:
    cursor.execute(LATE.format("AS n, 'text' AS made_up"))
    with raises_clean(adbc.ProgrammingError, "Could not convert string"):
        cursor.fetch_arrow_table()


def test_client_that_goes_away_before_the_first_row_stops_the_query(
    client: flight.FlightClient, served: Any, until: Callable[..., None]
) -> None:
    ticket = flight.Ticket(Query("SELECT count(*) FROM range(10000000000000) WHERE range % 3 = 1").serialize())
    with pytest.raises(flight.FlightTimedOutError):
        client.do_get(ticket, flight.FlightCallOptions(timeout=0.3)).read_all()
    until(lambda: served.free_places == 8)


def test_no_thread_is_left_of_a_call(client: flight.FlightClient, until: Callable[..., None]) -> None:
    for _ in range(20):
        ask(client, "SELECT 1")
    until(lambda: "call-watch" not in [t.name for t in threading.enumerate()])


@pytest.mark.parametrize("more", ["", ", 'text' AS made_up"], ids=["C++", "generator"])
def test_client_that_goes_away_midway_frees_its_place(served: Any, until: Callable[..., None], more: str) -> None:
    sql = f"SELECT b.x{more} FROM trades, range(1000000) b(x)"
    for end in ("cancel", "close", "forget"):
        client = flight.FlightClient(served.address)
        stream = client.do_get(flight.Ticket(Query(sql).serialize()))
        assert stream.read_chunk().data.num_rows > 0
        assert served.free_places == 7
        if end == "cancel":
            stream.cancel()
        del stream
        if end == "close":
            client.close()
        del client
        until(lambda: served.free_places == 8)
