"""Bars are what one makes of the trades by hand, and never mix symbols or exchanges."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from flight_here import FlightHere

import tickflight
from tickflight.bars import bars_query
from tickflight.errors import QueryError

START_US = 1_790_000_000_000_000
COLUMNS = ["exchange", "symbol", "start", "end", "open", "high", "low", "close", "volume", "dollar", "trades", "vwap"]
Trade = dict[str, Any]


@pytest.fixture(scope="module", params=["float64", "decimal"])
def client(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tickflight.Client]:
    """A server with trades of two symbols on two exchanges, many at one time, some without a price."""
    folder = tmp_path_factory.mktemp("served")
    server = FlightHere(folder, lakehouse={"numeric_type": request.param})
    rng = random.Random(3)
    at = [START_US + rng.randrange(400) * 500_000 for _ in range(600)]
    batch = pa.RecordBatch.from_pydict(
        {
            "exchange": [rng.choice(["BINANCE", "OKX"]) for _ in at],
            "symbol": [rng.choice(["A-B", "C-D"]) for _ in at],
            "price": [rng.choice([None, *(rng.randrange(1, 100) / 4 for _ in range(9))]) for _ in at],
            "amount": [rng.randrange(1, 100) / 10 for _ in at],
            "timestamp": pa.array(at).cast(pa.timestamp("us")),
        }
    )
    server.store.append("trades", batch).result()
    with tickflight.connect(server.address) as made:
        yield made
    server.stop()


@pytest.fixture
def trades(client: tickflight.Client) -> dict[tuple[str, str], list[Trade]]:
    """The trades of each exchange and symbol, in order."""
    rows = client.sql("FROM trades WHERE price IS NOT NULL ORDER BY timestamp, seq").arrow().to_pylist()
    rows.sort(key=lambda r: (r["exchange"], r["symbol"]))
    return {key: list(some) for key, some in itertools.groupby(rows, lambda r: (r["exchange"], r["symbol"]))}


def by_hand(kind: str, step: Any, rows: list[Trade]) -> list[list[Trade]]:
    """Return the trades of each bar."""
    made: list[list[Trade]] = []
    number, done = None, Fraction(0)
    for place, row in enumerate(rows):
        amount = Fraction(round(Decimal(str(row["amount"])), 10))  # floats that were kept as decimals
        before, done = done, done + (amount * Fraction(str(row["price"])) if kind == "dollar" else amount)
        us = int((row["timestamp"] - datetime(2000, 1, 3)) / timedelta(microseconds=1))
        wanted = {"time": us // 10**6 // step, "tick": place // step}.get(kind, before // Fraction(str(step)))
        if wanted != number:
            made.append([])
        number = wanted
        made[-1].append(row)
    return made


@pytest.mark.parametrize(("kind", "step"), [("time", 7), ("tick", 13), ("volume", 12.3), ("dollar", 100), ("tick", 1)])
def test_bars_are_those_made_by_hand(
    client: tickflight.Client, trades: dict[tuple[str, str], list[Trade]], kind: Any, step: Any
) -> None:
    table = client.bars(None, f"{step}s" if kind == "time" else step, kind).arrow()
    assert table.column_names == COLUMNS
    found = iter(table.to_pylist())
    for (exchange, symbol), rows in trades.items():
        for bar in by_hand(kind, step, rows):
            row = next(found)
            prices = [t["price"] for t in bar]
            assert (row["exchange"], row["symbol"], row["trades"]) == (exchange, symbol, len(bar))
            assert (row["open"], row["close"]) == (prices[0], prices[-1])
            assert (row["low"], row["high"]) == (min(prices), max(prices))
            assert float(row["volume"]) == pytest.approx(float(sum(t["amount"] for t in bar)))
            assert row["dollar"] == pytest.approx(float(sum(t["amount"] * t["price"] for t in bar)))
            assert row["vwap"] == pytest.approx(row["dollar"] / float(row["volume"]))
            if kind == "time":
                assert row["end"] - row["start"] == timedelta(seconds=step)
                assert row["start"] <= bar[0]["timestamp"] <= bar[-1]["timestamp"] < row["end"]
            else:
                assert (row["start"], row["end"]) == (bar[0]["timestamp"], bar[-1]["timestamp"])
    assert next(found, None) is None


def test_range_and_names_choose_trades(client: tickflight.Client) -> None:
    start = datetime.fromtimestamp(START_US / 1e6, UTC) + timedelta(seconds=10)
    end = start + timedelta(minutes=1)
    rows = client.bars("A-B", timedelta(seconds=10), start=start, end=end, exchanges=["OKX"]).arrow()
    assert set(rows["exchange"].to_pylist()) == {"OKX"}
    assert set(rows["symbol"].to_pylist()) == {"A-B"}
    count = "SELECT count(*) AS n FROM trades WHERE price IS NOT NULL AND exchange = 'OKX' AND symbol = 'A-B'"
    between = client.sql(f"{count} AND timestamp >= ? AND timestamp < ?", [start, end]).arrow()["n"][0].as_py()
    assert sum(rows["trades"].to_pylist()) == between


def test_snapshot_is_what_is_seen(client: tickflight.Client) -> None:
    with client.snapshot(60) as snapshot:
        assert client.bars("A-B", 10, "tick", snapshot=snapshot).arrow().num_rows
    assert client.bars("none", "1m").arrow().num_rows == 0


@pytest.mark.parametrize(
    ("interval", "us"),
    [("500ms", 500_000), ("5s", 5_000_000), ("1m", 60_000_000), ("2 min", 120_000_000), ("1D", 86_400_000_000)],
)
def test_lengths_of_time_are_read(interval: str, us: int) -> None:
    assert bars_query(None, interval)[1] == {"step": us}


@pytest.mark.parametrize(
    ("interval", "kind", "words"),
    [
        ("5 parsecs", "time", "no length of time"),
        ("", "time", "no length of time"),
        (5, "time", "no length of time"),
        ("0s", "time", "above 0"),
        (timedelta(seconds=-1), "time", "above 0"),
        ("1m", "tick", "as long as a number"),
        (1.5, "tick", "whole number"),
        (0, "volume", "above 0"),
        (float("nan"), "dollar", "above 0"),
        (1e-12, "volume", "shorter than"),
        (1, "lunar", "kind is 'lunar'"),
    ],
)
def test_length_that_is_none_is_refused(interval: Any, kind: Any, words: str) -> None:
    with pytest.raises(QueryError, match=words):
        bars_query(None, interval, kind)


def test_bars_are_of_trades() -> None:
    with pytest.raises(QueryError, match="not of 'ticker'"):
        bars_query(None, "1m", table="ticker")


def test_liquidations_have_bars_too(client: tickflight.Client) -> None:
    assert client.bars(None, "1m", table="liquidations").arrow().column_names == COLUMNS
