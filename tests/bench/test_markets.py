"""Tests that made-up markets have the shape of real ones, and are the same every time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from bench.markets import Market, symbols

START_US = 1_790_000_000_000_000
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Return an hour of trades of fifty symbols."""
    return pa.Table.from_batches(_batches())


def _batches() -> list[pa.RecordBatch]:
    return list(Market(tuple(symbols(50))).batches(200_000, 50_000, start_us=START_US, span_us=HOUR_US))


def test_the_same_seed_gives_the_same_rows(rows: pa.Table) -> None:
    assert rows.equals(pa.Table.from_batches(_batches()))


def test_few_symbols_have_most_of_the_events(rows: pa.Table) -> None:
    counts = np.sort([one["counts"].as_py() for one in pc.value_counts(rows["symbol"].cast(pa.string()))])[::-1]
    assert len(counts) == 50
    assert counts[0] > 0.2 * rows.num_rows
    assert counts[:10].sum() > 0.65 * rows.num_rows


def test_events_come_in_bursts_and_in_the_order_of_time(rows: pa.Table) -> None:
    gaps = np.diff(rows["timestamp"].cast(pa.int64()).to_numpy())
    assert gaps.min() >= 0
    assert np.median(gaps) < 100 < gaps.mean(), "most follow another at once"


def test_ids_rise_and_prices_lie_on_ticks(rows: pa.Table) -> None:
    ids = rows["id"].cast(pa.int64()).to_numpy()
    assert (np.diff(ids) == 1).all()
    prices = rows["price"].to_numpy()
    assert prices.min() > 0
    assert np.abs(prices * 1e4 - np.round(prices * 1e4)).max() < 1e-3


def test_trades_are_what_cryptofeeds_parsers_make() -> None:
    (first, *_), (again, *_) = (Market(tuple(symbols(3))).trades(10, start_us=START_US) for _ in range(2))
    assert (first.exchange, first.symbol, first.price) == (again.exchange, again.symbol, again.price)
    assert first.symbol in symbols(3)
