"""hftbacktest in an environment of its own: a replay is its event array, and its books are those that were stored."""

import pytest

pytestmark = pytest.mark.tool("hftbacktest", environment="backtest")

ARRAY = """
import numpy as np
import tickflight
from tickflight.adapters.hftbacktest import event_array
from hftbacktest import types

client = tickflight.connect("grpc://127.0.0.1:{port}")
replay = client.replay(["trades", "l2_book"], symbols="{symbol}")
events = event_array(replay)
"""


def test_every_trade_and_level_is_an_event(run_python, server, counts):
    script = """
kinds = events["ev"] & 0xFF
seen = events[(events["ev"] & types.EXCH_EVENT) > 0]
kinds = seen["ev"] & 0xFF
count = lambda kind: int((kinds == kind).sum())
answer = {
    "trades": count(types.TRADE_EVENT),
    "buys": int(((kinds == types.TRADE_EVENT) & ((seen["ev"] & types.BUY_EVENT) > 0)).sum()),
    "levels": count(types.DEPTH_EVENT),
    "snapshots": count(types.DEPTH_CLEAR_EVENT),
    "snapshot levels": count(types.DEPTH_SNAPSHOT_EVENT),
    "amount": float(seen["qty"][kinds == types.TRADE_EVENT].sum()),
    "exchange in order": bool((np.diff(seen["exch_ts"]) >= 0).all()),
    "local in order": bool((np.diff(events["local_ts"][(events["ev"] & types.LOCAL_EVENT) > 0]) >= 0).all()),
}
"""
    symbol = next(iter(counts))
    found = run_python(ARRAY.format(port=server.port, symbol=symbol) + script, "answer")
    levels = "sum(len(bid_prices) + len(ask_prices))"
    (trades,) = server.query(
        "SELECT count(*) n, count(*) FILTER (side = 'buy') buys, sum(amount)::DOUBLE total "
        f"FROM trades WHERE symbol = '{symbol}'"
    )
    (books,) = server.query(
        f"SELECT {levels} FILTER (NOT is_snapshot) levels, count(*) FILTER (is_snapshot) snapshots, "
        f"{levels} FILTER (is_snapshot) whole FROM l2_book WHERE symbol = '{symbol}'"
    )
    assert found["amount"] == pytest.approx(trades["total"])
    assert found == {
        "trades": trades["n"],
        "buys": trades["buys"],
        "levels": books["levels"],
        "snapshots": books["snapshots"],
        "snapshot levels": books["whole"],
        "amount": found["amount"],
        "exchange in order": True,
        "local in order": True,
    }
    assert books["snapshots"] > 0
    assert books["levels"] > 0


def test_its_backtest_sees_the_book_that_was_stored(run_python, server, counts):
    script = """
from hftbacktest import BacktestAsset, HashMapMarketDepthBacktest
from hftbacktest.data import validate_event_order

validate_event_order(events)
asset = (
    BacktestAsset().data(events).linear_asset(1.0).constant_order_latency(0, 0).risk_adverse_queue_model()
    .no_partial_fill_exchange().trading_value_fee_model(0, 0).tick_size(0.01).lot_size(0.00000001)
)
test = HashMapMarketDepthBacktest([asset])
last = int(events["local_ts"].max())
test.elapse(1)  # its clock begins with the first event
test.elapse(int(last - test.current_timestamp))
depth = test.depth(0)
answer = [depth.best_bid, depth.best_ask]
"""
    symbol = next(iter(counts))
    found = run_python(ARRAY.format(port=server.port, symbol=symbol) + script, "answer")
    book = {"bid": {}, "ask": {}}
    rows = f"SELECT * FROM l2_book WHERE symbol = '{symbol}' ORDER BY receipt_timestamp, seq"
    for row in server.query(rows):
        for side, levels in book.items():
            if row["is_snapshot"]:
                levels.clear()
            levels.update(zip(row[f"{side}_prices"], row[f"{side}_sizes"], strict=True))
    best = [max(p for p, n in book["bid"].items() if n), min(p for p, n in book["ask"].items() if n)]
    assert found == pytest.approx(best)


def test_one_array_is_of_one_symbol(run_python, server):
    script = f"""
import tickflight
from tickflight.adapters.hftbacktest import event_array

client = tickflight.connect("grpc://127.0.0.1:{server.port}")
told = []
for tables in ("trades", "ticker"):
    try:
        event_array(client.replay(tables))
    except tickflight.QueryError as error:
        told.append(str(error))
"""
    several, no_form = run_python(script, "told")
    assert "one symbol of one exchange" in several
    assert no_form.startswith("ticker has no form in hftbacktest")
