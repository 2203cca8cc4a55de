"""Macros over books and trades: their values by hand, and that filters reach the parts through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from book_oracle import Event, as_batch
from flight_here import START_US, trades
from sql_here import SqlHere

from tickflight_server.errors import PermissionDeniedError
from tickflight_server.query.engine import Engine
from tickflight_server.query.functions import FUNCTIONS
from tickflight_server.query.macros import MARKET_MACROS
from tickflight_server.store import Store

SECOND = 1_000_000
Ask = Callable[..., Any]
BOOK = "[10.0, 9.0, 8.0] AS bp, [1.0, 2.0, 4.0] AS bs, [11.0, 12.0, 13.0] AS ap, [3.0, 1.0, 5.0] AS az"


def rows(asked: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in asked[0].to_pylist()]


def quotes(times: list[int], bids: list[float], symbol: str = "BTC-USDT", table: str = "ticker") -> pa.RecordBatch:
    names = ("bid", "ask") if table == "ticker" else ("bid_price", "ask_price")
    more = {} if table == "ticker" else {"bid_size": [1.0] * len(bids), "ask_size": [1.0] * len(bids)}
    return pa.record_batch(
        {
            "exchange": ["BINANCE"] * len(times),
            "symbol": [symbol] * len(times),
            names[0]: bids,
            names[1]: [bid + 2.0 for bid in bids],
            **more,
            "timestamp": pa.array(times, pa.int64()).cast(pa.timestamp("us")),
        }
    )


VALUES = [
    ("spread(bp, ap)", 1.0),
    ("mid(bp, ap)", 10.5),
    ("microprice(bp, bs, ap, az)", (10 * 3 + 11 * 1) / 4),
    ("imbalance(bs, az)", (1 - 3) / 4),
    ("imbalance(bs, az, levels := 2)", (3 - 4) / 7),
    ("imbalance(bs, az, levels := 99)", (7 - 9) / 16),
    ("depth_within(bp, bs, mid(bp, ap), 15)", 3.0),
    ("depth_within(ap, az, 10.5, 5)", 3.0),
    ("depth_within(ap, az, 10.5, 1)", 0.0),
    ("price_for_volume(ap, az, 2)", 11.0),
    ("price_for_volume(ap, az, 5)", (11 * 3 + 12 * 1 + 13 * 1) / 5),
    ("price_for_volume(bp, bs, 7)", (10 * 1 + 9 * 2 + 8 * 4) / 7),
    ("price_for_volume(bp, bs, 7.5)", None),
    ("spread([], ap)", None),
]


def test_values_of_a_book(ask: Ask) -> None:
    for sql, expected in VALUES:
        ((found,),) = rows(ask(f"SELECT {sql} FROM (SELECT {BOOK})"))
        assert found == (expected if expected is None else pytest.approx(expected)), sql


@pytest.fixture
def market(store: Store, release: Callable[[], None]) -> Store:
    """Two symbols and two exchanges on disk, a part each, and an hour later one of them in memory."""
    for symbol in ("BTC-USDT", "ETH-USDT"):
        store.append("trades", trades(10, symbol, first=100)).result()
    store.append("trades", trades(10, "BTC-USDT", first=200, exchange="KRAKEN")).result()
    store.append("ticker", quotes([START_US + (99 + n) * SECOND for n in range(0, 9, 3)], [90.0, 93.0, 96.0])).result()
    store.append("ticker", quotes([START_US], [1.0], "ETH-USDT")).result()
    store.append("l1_book", quotes([START_US + 99 * SECOND], [90.0], table="l1_book")).result()
    release()
    store.append("trades", trades(4, "BTC-USDT", first=3000)).result()
    return store


def opened(asked: Any, table: str) -> tuple[int, int]:
    return len(asked[1][table].parts), len(asked[1][table].segments)


def test_bars_of_a_symbol(market: Store, ask: Ask) -> None:
    found = ask("FROM ohlcv('BTC-USDT', INTERVAL 5 SECONDS, exchange := 'BINANCE')")
    assert found[0].column_names == [
        *("exchange", "symbol", "t", "open", "high", "low", "close", "volume", "vwap", "trades")
    ]
    bars = [(*row[3:],) for row in rows(found)]
    assert bars[0] == (100.0, 104.0, 100.0, 104.0, 7.5, 102.0, 5)
    assert bars[1] == (105.0, 109.0, 105.0, 109.0, 7.5, 107.0, 5)
    assert bars[2] == (3000.0, 3003.0, 3000.0, 3003.0, 6.0, 3001.5, 4)
    assert opened(found, "trades") == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "parameters", "bars", "parts"),
    [
        ("'BTC-USDT', INTERVAL 1 DAY", (), 2, (2, 1)),
        ("'ETH-USDT', INTERVAL 1 DAY", (), 1, (1, 0)),
        ("?, ?::INTERVAL, exchange := ?", ["BTC-USDT", "1 day", "KRAKEN"], 1, (1, 0)),
        ("'BTC-USDT', INTERVAL 1 DAY, since := now() - INTERVAL 20 MINUTES", (), 1, (0, 1)),
        ("'BTC-USDT', INTERVAL 1 DAY, until := make_timestamp(?)", [START_US + 150 * SECOND], 1, (1, 0)),
        ("'NO-SUCH', INTERVAL 1 DAY", (), 0, (0, 0)),
    ],
)
def test_filters_reach_the_parts_through_a_macro(
    market: Store, ask: Ask, arguments: str, parameters: Any, bars: int, parts: tuple[int, int]
) -> None:
    found = ask(f"FROM ohlcv({arguments})", parameters)
    assert opened(found, "trades") == parts
    assert len({(row[0], row[2]) for row in rows(found)}) == found[0].num_rows == bars


def test_newest_rows(market: Store, ask: Ask) -> None:
    found = ask("SELECT exchange, symbol, price FROM latest_trades() ORDER BY ALL")
    assert rows(found) == [
        ("BINANCE", "BTC-USDT", 3003.0),
        ("BINANCE", "ETH-USDT", 109.0),
        ("KRAKEN", "BTC-USDT", 209.0),
    ]
    found = ask("SELECT price FROM latest_trades('BTC-USDT', 'BINANCE', INTERVAL 15 MINUTES)")
    assert (rows(found), opened(found, "trades")) == ([(3003.0,)], (0, 1))


@pytest.mark.parametrize(("name", "table"), [("trades_with_ticker", "ticker"), ("trades_with_l1_book", "l1_book")])
def test_trades_with_the_quote_of_their_time(market: Store, ask: Ask, name: str, table: str) -> None:
    call = f"{name}('BTC-USDT', until := make_timestamp(?), exchange := 'BINANCE')"
    found = ask(f"SELECT price, bid, mid FROM {call} ORDER BY seq", [START_US + 150 * SECOND])
    bids = [90, 90, 93, 93, 93, 96, 96, 96, 96, 96] if table == "ticker" else [90] * 10
    assert rows(found) == [(100.0 + n, float(bid), bid + 1.0) for n, bid in enumerate(bids)]
    assert (opened(found, "trades"), opened(found, table)) == ((1, 0), (1, 0))


def test_markouts_say_what_the_taker_gained(market: Store, ask: Ask) -> None:
    call = "markouts('BTC-USDT', INTERVAL 3 SECONDS, until := make_timestamp(?))"
    found = rows(ask(f"SELECT side, markout FROM {call} ORDER BY timestamp", [START_US + 103 * SECOND]))
    # the middle three seconds after trades at 100, 101 and 102 is 94, 94 and 97
    assert found == [("buy", -6.0), ("sell", 7.0), ("buy", -5.0)]


def test_large_asof_join_is_no_nested_loop(store: Store, ask: Ask) -> None:
    count = 60_000
    for first in range(0, count, 20_000):
        store.append("trades", trades(20_000, first=first)).result()
        store.append(
            "ticker", quotes([START_US + n * SECOND for n in range(first, first + 20_000)], [1.0] * 20_000)
        ).result()
    ((found,),) = rows(ask("SELECT count(quoted) FROM trades_with_ticker('BTC-USDT', exchange := 'BINANCE')"))
    assert found == count


def test_vwap_is_an_aggregate_and_no_scan_with_it_is_shared(market: Store, ask: Ask, engine: Engine) -> None:
    sql = "SELECT vwap(price, amount) FROM trades WHERE symbol = 'ETH-USDT'"
    assert rows(ask(sql)) == [(104.5,)]
    read = engine.read(sql)
    assert not read.rowwise  # type: ignore[union-attr]
    assert engine.read("SELECT price FROM trades").rowwise  # type: ignore[union-attr]


def test_example_of_every_function_runs(store: Store, engine: Engine, ask: Ask) -> None:
    now_us = START_US + 3600 * SECOND
    level = [(10.0, 2.0), (9.0, 2.0)]
    store.append("l2_book", as_batch([Event(0, now_us - 70 * SECOND, True, level, [(11.0, 2.0)])])).result()
    store.append("trades", trades(10, first=3590)).result()
    for table in ("ticker", "l1_book"):
        store.append(table, quotes([now_us - 30 * SECOND], [10.0], table=table)).result()
    head = {"exchange": ["BINANCE"], "symbol": ["BTC-USDT"]}
    time = {"timestamp": pa.array([now_us - 1], pa.int64()).cast(pa.timestamp("us"))}
    for table, column in (("funding", "rate"), ("open_interest", "open_interest"), ("index", "price")):
        store.append(table, pa.record_batch({**head, column: [1.0], **time})).result()
    for function in FUNCTIONS:
        assert function["name"] in function["example"]
        assert function["description"].endswith(".")
        if function["name"] == "tail":  # nothing but a stream answers it: tests/server/flight/test_tails.py
            statement = engine.read(function["example"])
            assert statement.streams  # type: ignore[union-attr]
            assert statement.rowwise  # type: ignore[union-attr]
            continue
        found, _ = ask(function["example"])
        assert found.num_rows or function["name"] == "cancel_query", function  # which is given no statement of these


def test_functions_are_listed(ask: Ask) -> None:
    found = {row["name"]: row for row in ask("FROM system.functions")[0].to_pylist()}
    assert found["book_at"]["signature"] == "book_at(exchange, symbol, t, depth := 10)"
    assert found["vwap"]["kind"] == "aggregate"
    assert found["imbalance"]["kind"] == "scalar"
    assert found["ohlcv"]["kind"] == "table"
    assert found.keys() >= MARKET_MACROS.keys()


def test_macros_are_the_servers(engine: Engine) -> None:
    for sql in (
        "DROP MACRO mid",
        "DROP MACRO TABLE market.ohlcv",
        "CREATE OR REPLACE MACRO market.mid(a, b) AS 1",
        "CREATE MACRO workspace.mid(a, b) AS 1",
        "CREATE TEMP MACRO spread(a, b) AS 1",
        "CREATE MACRO workspace.ohlcv(a) AS TABLE SELECT 1",
    ):
        with pytest.raises(PermissionDeniedError):
            SqlHere(engine).write(sql)


def test_users_build_on_macros(market: Store, engine: Engine) -> None:
    here = SqlHere(engine)
    here.write("CREATE VIEW workspace.bars AS FROM ohlcv('BTC-USDT', INTERVAL 1 DAY, exchange := 'KRAKEN')")
    found, opened = here.ask("SELECT close FROM workspace.bars")
    assert found == [(209.0,)]
    assert len(opened["trades"].parts) == 1
    here.write("CREATE MACRO workspace.half(a, b) AS spread(a, b) / 2")
    assert here.rows("SELECT workspace.half([1.0], [2.0])") == [(0.5,)]
