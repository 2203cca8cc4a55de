"""Order books through the client: what is in them, what is asked of them, and how they look."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
import pyarrow as pa
import pytest
from book_oracle import Event, as_batch
from flight_here import START_US, FlightHere

import tickflight
from tickflight.book import Book

SECOND = 1_000_000
START = datetime.fromtimestamp(START_US / 1e6, UTC).replace(tzinfo=None)
BIDS, ASKS = [(10.0, 1.0), (9.0, 2.0), (8.0, 4.0)], [(11.0, 3.0), (12.0, 1.0)]


@pytest.fixture(scope="module")
def at(served: FlightHere) -> str:
    """An exchange's book: a snapshot, and each second a change of the best bid's size."""
    events = [Event(0, START_US, True, BIDS, ASKS)]
    events += [Event(0, START_US + n * SECOND, False, [(10.0, 1.0 + n)], []) for n in range(1, 10)]
    served.store.append("l2_book", as_batch(events)).result()
    return "BINANCE"


def test_book_at_an_instant(reading: tickflight.Client, at: str) -> None:
    book = reading.book(at, "BTC-USDT", START + timedelta(seconds=2, milliseconds=500))
    assert isinstance(book, tickflight.Book)
    assert (book.timestamp, book.seq, book.stale) == (START + timedelta(seconds=2), 3, False)
    assert book.bids.prices.to_pylist() == [10.0, 9.0, 8.0]
    assert book.bids.sizes.to_numpy().tolist() == [3.0, 2.0, 4.0]
    assert (len(book.asks), book.asks[1]) == (2, (12.0, 1.0))
    assert len(reading.book(at, "BTC-USDT", START, depth=1).bids) == 1


def test_book_as_it_stands_now(reading: tickflight.Client, at: str) -> None:
    assert reading.book(at, "BTC-USDT").seq == 10


@pytest.mark.parametrize(
    "t",
    [
        START,
        START.isoformat(),
        START.replace(tzinfo=UTC),
        START.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=5))),
    ],
)
def test_time_without_a_zone_is_utc(reading: tickflight.Client, at: str, t: Any) -> None:
    assert reading.book(at, "BTC-USDT", t).seq == 1


def test_book_under_a_snapshot(server: FlightHere, client: tickflight.Client) -> None:
    server.store.append("l2_book", as_batch([Event(0, START_US, True, BIDS, ASKS)])).result()
    with client.snapshot() as snapshot:
        server.store.append("l2_book", as_batch([Event(0, START_US + 1, True, ASKS, [])])).result()
        assert client.book("BINANCE", "BTC-USDT", snapshot=snapshot).seq == 1
        assert client.book("BINANCE", "BTC-USDT").seq == 2
        series = client.books("BINANCE", "BTC-USDT", START, START + timedelta(seconds=1), 1, snapshot=snapshot)
        assert series.arrow()["seq"].to_pylist() == [1, 1]


def test_series_of_books(reading: tickflight.Client, at: str) -> None:
    end = START + timedelta(seconds=4)
    for step in (2, 2.0, timedelta(seconds=2)):
        found = reading.books(at, "BTC-USDT", START - timedelta(seconds=2), end, step, depth=2).arrow()
        assert found["t"].to_pylist() == [START, START + timedelta(seconds=2), end]
        assert found["bid_sizes"].to_pylist() == [[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]]


def test_what_is_no_argument_is_refused(reading: tickflight.Client, at: str) -> None:
    with pytest.raises(tickflight.QueryError, match="'noon' is no time"):
        reading.book(at, "BTC-USDT", "noon")
    with pytest.raises(tickflight.QueryError, match="7 is no time"):
        reading.book(at, "BTC-USDT", 7)  # type: ignore[arg-type]
    with pytest.raises(tickflight.QueryError, match="depth of book_at"):
        reading.book(at, "BTC-USDT", START, depth=0)
    with pytest.raises(tickflight.QueryError, match="step of books"):
        reading.books(at, "BTC-USDT", START, START, 0)


def made(bids: Any, asks: Any, number: Any = None) -> Book:
    rows = max(len(bids), len(asks))
    columns: dict[str, Any] = {"level": list(range(1, rows + 1))}
    for name, side in (("bid", bids), ("ask", asks)):
        padded = [*side, *[(None, None)] * (rows - len(side))]
        for place, what in enumerate(("price", "size")):
            columns[f"{name}_{what}"] = pa.array([level[place] for level in padded], number or pa.float64())
    columns |= {"timestamp": [START] * rows, "seq": [7] * rows, "stale": [True] * rows}
    return Book("BINANCE", "BTC-USDT", pa.table(columns))


def test_figures_of_a_book() -> None:
    book = made(BIDS, ASKS)
    assert (book.mid, book.spread, book.microprice) == (10.5, 1.0, (10 * 3 + 11 * 1) / 4)
    assert book.imbalance() == (1 - 3) / 4
    assert book.imbalance(2) == (3 - 4) / 7
    assert book.price_for(2, "buy") == 11.0
    assert book.price_for(4, "buy") == (11 * 3 + 12) / 4
    assert book.price_for(4, "sell") == (10 * 1 + 9 * 2 + 8 * 1) / 4
    assert book.price_for(4.5, "buy") is None
    for volume, side in ((1, "bid"), (0, "buy"), (-1, "sell")):
        with pytest.raises(tickflight.QueryError, match="a volume above zero"):
            book.price_for(volume, side)  # type: ignore[arg-type]


def test_figures_of_exact_numbers_are_exact() -> None:
    number = pa.decimal128(38, 18)
    book = made([(Decimal("0.1"), Decimal(1))], [(Decimal("0.3"), Decimal(1))], number)
    assert (book.mid, book.spread, book.price_for(0.5, "buy")) == (Decimal("0.2"), Decimal("0.2"), Decimal("0.3"))


def test_figures_of_half_a_book_are_none() -> None:
    book = made(BIDS, [])
    assert (book.mid, book.spread, book.microprice, book.imbalance()) == (None, None, None, 1.0)


def test_book_that_is_not_known_is_empty(reading: tickflight.Client, at: str) -> None:
    book = reading.book(at, "NO-SUCH")
    assert (len(book.bids), len(book.asks), book.timestamp, book.seq, book.stale) == (0, 0, None, None, False)
    assert book.imbalance() is None
    assert repr(book) == "<no book of BINANCE NO-SUCH>"


def test_book_is_shown_as_a_ladder() -> None:
    assert repr(made(BIDS, ASKS)) == "\n".join(
        [
            f"BINANCE BTC-USDT at {START} (seq 7, stale)",
            "bid  price  ask",
            "        12    1",
            "        11    3",
            "  1     10",
            "  2      9",
            "  4      8",
        ]
    )


def test_ladder_has_all_digits() -> None:
    assert "64999.71\n" in repr(made([(64999.71, 0.00012345)], [(65000.02, 1.0)])) + "\n"
    exact = made(
        [(Decimal("64999.710000"), Decimal("100"))], [(Decimal("65000.02"), Decimal(1))], pa.decimal128(38, 18)
    )
    assert "100  64999.71" in repr(exact)


@pytest.fixture
def cursor(served: FlightHere, at: str) -> Iterator[Any]:
    with flight_sql.connect(served.address, autocommit=True) as connection, connection.cursor() as made:
        yield made


def test_any_driver_calls_functions_and_macros(cursor: Any) -> None:
    cursor.execute("SELECT bid_size FROM book_at('BINANCE', 'BTC-USDT', TIMESTAMP '2030-01-01') WHERE level = 1")
    assert cursor.fetchall() == [(10.0,)]
    sql = "SELECT b.bid_price, t.n FROM book_at(?, ?, ?, ?) b, (SELECT ? AS n) t ORDER BY ALL"
    for size, seconds in ((1, 0), (2, 5)):
        cursor.execute(sql, ("BINANCE", "BTC-USDT", START + timedelta(seconds=seconds), size, 7))
        assert cursor.fetchall() == [(10.0 - n, 7) for n in range(size)][::-1]
    sql = "SELECT spread(bid_prices, ask_prices) FROM books($2, $3, $4, $4, INTERVAL 1 SECOND) WHERE $1 > 0"
    cursor.execute(sql, (1, "BINANCE", "BTC-USDT", START))
    assert cursor.fetchall() == [(1.0,)]
    cursor.execute("SELECT count(*) FROM ohlcv('BTC-USDT', INTERVAL 1 MINUTE)")
    assert cursor.fetchall() == [(2,)]
    schema = cursor.adbc_prepare("SELECT level FROM book_at(?, ?, ?, ?) WHERE level > ?")
    assert [str(f.type) for f in schema] == ["string", "string", "timestamp[us]", "int64", "int32"]
