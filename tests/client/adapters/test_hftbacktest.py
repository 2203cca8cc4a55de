"""Rows as events, without the package: which event is of which row, in which order, with which flags."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tickflight.adapters.hftbacktest import _events, _in_both_orders
from tickflight.merging import ReplayChunk

# as hftbacktest 2.4 has them
TYPES = SimpleNamespace(
    DEPTH_EVENT=1,
    TRADE_EVENT=2,
    DEPTH_CLEAR_EVENT=3,
    DEPTH_SNAPSHOT_EVENT=4,
    DEPTH_BBO_EVENT=5,
    EXCH_EVENT=1 << 31,
    LOCAL_EVENT=1 << 30,
    BUY_EVENT=1 << 29,
    SELL_EVENT=1 << 28,
    event_dtype=np.dtype(
        [("ev", "u8"), ("exch_ts", "i8"), ("local_ts", "i8"), ("px", "f8"), ("qty", "f8"), ("order_id", "u8")]
    ),
)
BUY, SELL = TYPES.BUY_EVENT, TYPES.SELL_EVENT


def batch(times: list[int], **columns: Any) -> pa.RecordBatch:
    at = pa.array(times).cast(pa.timestamp("us"))
    names = {"exchange": ["X"] * len(times), "symbol": ["A"] * len(times), "timestamp": at, "receipt_timestamp": at}
    return pa.record_batch(names | columns)


def plain(events: Any) -> list[tuple[Any, ...]]:
    return [(int(e["ev"]), int(e["exch_ts"]), float(e["px"]), float(e["qty"])) for e in events]


def test_book_rows_become_a_clearing_bids_and_asks_in_the_chunks_order() -> None:
    floats = pa.list_(pa.float64())
    books = batch(
        [1, 3, 4],
        is_snapshot=[True, None, False],
        bid_prices=pa.array([[9.0, 8.0], [7.0], None], floats),
        bid_sizes=pa.array([[1.0, 2.0], [0.0], None], floats),
        ask_prices=pa.array([[10.0], [], [11.0]], floats),
        ask_sizes=pa.array([[3.0], [], [4.0]], floats),
    )
    trades = batch([2, 3], side=["sell", None], price=[9.5, 9.6], amount=[5.0, 6.0])
    order = np.array([1, 0, 0, 1, 1], np.uint8)  # trades come first among events of one time
    chunk = ReplayChunk(("trades", "l2_book"), {"trades": trades, "l2_book": books}, order, np.array([1, 2, 3, 3, 4]))
    assert plain(_events(chunk, TYPES)) == [
        (3, 1000, 0.0, 0.0),
        (4 | BUY, 1000, 9.0, 1.0),
        (4 | BUY, 1000, 8.0, 2.0),
        (4 | SELL, 1000, 10.0, 3.0),
        (2 | SELL, 2000, 9.5, 5.0),
        (2, 3000, 9.6, 6.0),
        (1 | BUY, 3000, 7.0, 0.0),
        (1 | SELL, 4000, 11.0, 4.0),
    ]


def test_quotes_are_an_event_for_each_side_that_is_known() -> None:
    quotes = batch([1, 2], bid_price=[9.0, None], bid_size=[1.0, 1.0], ask_price=[10.0, 11.0], ask_size=[2.0, 3.0])
    chunk = ReplayChunk(("l1_book",), {"l1_book": quotes}, np.zeros(2, np.uint8), np.array([1, 2]))
    assert plain(_events(chunk, TYPES)) == [
        (5 | BUY, 1000, 9.0, 1.0),
        (5 | SELL, 1000, 10.0, 2.0),
        (5 | SELL, 2000, 11.0, 3.0),
    ]


@pytest.mark.parametrize(("local", "moved"), [([5, 6], [5, 6]), ([0, 3], [11, 14])])
def test_local_clock_that_is_behind_is_moved(local: list[int], moved: list[int]) -> None:
    events = np.zeros(2, TYPES.event_dtype)
    events["exch_ts"], events["local_ts"] = [1, 2], local
    found = _in_both_orders(events, TYPES, 10)
    assert found["local_ts"].tolist() == moved
    assert found["ev"].tolist() == [TYPES.EXCH_EVENT | TYPES.LOCAL_EVENT] * 2
