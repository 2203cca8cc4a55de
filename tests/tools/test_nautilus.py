"""nautilus_trader in an environment of its own: a replay is its objects, and its engine and book take them."""

import pytest

pytestmark = pytest.mark.tool("nautilus_trader", environment="backtest")

HEAD = """
import tickflight
from tickflight.adapters import nautilus

client = tickflight.connect("grpc://127.0.0.1:{port}")
"""


def test_trades_are_trade_ticks(run_python, server, counts):
    script = """
from nautilus_trader.model.data import TradeTick
from nautilus_trader.model.enums import AggressorSide
found = list(nautilus.objects(client.replay("trades"), precision=(2, 8)))
rows = client.sql("FROM trades ORDER BY timestamp, receipt_timestamp, seq").arrow().to_pylist()
sides = {"buy": AggressorSide.BUYER, "sell": AggressorSide.SELLER}
same = [
    (type(t), str(t.instrument_id), float(str(t.price)), float(str(t.size)), t.aggressor_side, str(t.trade_id))
    == (TradeTick, f"{r['symbol']}.{r['exchange']}", r["price"], r["amount"], sides[r["side"]], r["id"])
    and (t.ts_event, t.ts_init) == tuple(
        int(round(r[c].replace(tzinfo=tickflight.replay.UTC).timestamp() * 1e6)) * 1000
        for c in ("timestamp", "receipt_timestamp")
    )
    for t, r in zip(found, rows, strict=True)
]
answer = {"rows": len(same), "same": sum(same)}
"""
    found = run_python(HEAD.format(port=server.port) + script, "answer")
    assert found == {"rows": sum(counts.values()), "same": sum(counts.values())}


def test_quotes_are_quote_ticks(run_python, server):
    script = """
import pyarrow as pa
with client.writer("l1_book") as writer:
    at = pa.array([1_790_000_000_000_000 + n for n in range(3)]).cast(pa.timestamp("us"))
    writer.write(pa.record_batch({
        "exchange": ["X"] * 3, "symbol": ["A-B"] * 3, "bid_price": [1.5, None, 3.5], "bid_size": [1.0] * 3,
        "ask_price": [2.5] * 3, "ask_size": [0.25] * 3, "timestamp": at, "receipt_timestamp": at,
    }))
    writer.flush()
told = lambda q: [str(x) for x in (q.instrument_id, q.bid_price, q.bid_size, q.ask_price, q.ask_size)] + [q.ts_event]
book = [told(q) for q in nautilus.objects(client.replay("l1_book"), precision=(1, 2))]
quotes = [told(q) for q in nautilus.objects(client.replay("ticker"), precision=(2, 0))]
rows = client.sql("FROM ticker ORDER BY timestamp, receipt_timestamp, seq").arrow().to_pylist()
same = [(float(q[1]), float(q[3])) == (r["bid"], r["ask"]) for q, r in zip(quotes, rows, strict=True)]
answer = [book, all(same), len(same), quotes[0][2]]
"""
    book, same, count, size = run_python(HEAD.format(port=server.port) + script, "answer")
    assert book == [
        ["A-B.X", "1.5", "1.00", "2.5", "0.25", 1_790_000_000_000_000_000],
        ["A-B.X", "3.5", "1.00", "2.5", "0.25", 1_790_000_000_000_002_000],
    ]
    assert same
    assert count > 0
    assert size == "0"


def test_books_are_deltas_that_make_the_stored_book(run_python, server, counts):
    symbol = next(iter(counts))
    script = f"""
from nautilus_trader.model.book import OrderBook
from nautilus_trader.model.enums import BookType
from nautilus_trader.model.identifiers import InstrumentId
made = list(nautilus.objects(client.replay("l2_book", symbols="{symbol}"), precision=(2, 8), ts_init="timestamp"))
book = OrderBook(made[0].instrument_id, BookType.L2_MBP)
for deltas in made:
    book.apply_deltas(deltas)
answer = {{
    "rows": len(made),
    "snapshots": sum(d.is_snapshot for d in made),
    "best": [float(str(book.best_bid_price())), float(str(book.best_ask_price()))],
    "levels": [len(book.bids()), len(book.asks())],
    "in order": [d.ts_init for d in made] == sorted(d.ts_init for d in made),
}}
"""
    found = run_python(HEAD.format(port=server.port) + script, "answer")
    book = {"bid": {}, "ask": {}}
    rows = server.query(f"SELECT * FROM l2_book WHERE symbol = '{symbol}' ORDER BY timestamp, receipt_timestamp, seq")
    for row in rows:
        for side, levels in book.items():
            if row["is_snapshot"]:
                levels.clear()
            levels.update(zip(row[f"{side}_prices"], row[f"{side}_sizes"], strict=True))
    left = {side: [price for price, size in levels.items() if size] for side, levels in book.items()}
    assert found == {
        "rows": len(rows),
        "snapshots": sum(row["is_snapshot"] for row in rows),
        "best": [max(left["bid"]), min(left["ask"])],
        "levels": [len(left["bid"]), len(left["ask"])],
        "in order": True,
    }


def test_bars_are_bars(run_python, server, counts):
    script = """
bars = nautilus.bars(client.bars(None, "1s"), "1-SECOND-LAST", precision=(2, 8))
rows = client.bars(None, "1s").arrow().to_pylist()
answer = [
    [str(b.bar_type) for b in bars[:1]],
    all(float(str(getattr(b, name))) == r[name] for b, r in zip(bars, rows, strict=True)
        for name in ("open", "high", "low", "close")),
    len(bars),
]
"""
    kinds, same, count = run_python(HEAD.format(port=server.port) + script, "answer")
    (first,) = server.query("SELECT min(symbol) s FROM trades")
    assert kinds == [f"{first['s']}.BINANCE-1-SECOND-LAST-EXTERNAL"]
    assert same
    assert count > 0


def test_its_engine_runs_over_a_replay(run_python, server, counts):
    symbol = next(iter(counts))
    script = f"""
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig
from nautilus_trader.model.currencies import USDT
from nautilus_trader.model.enums import AccountType, OmsType
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import CurrencyPair
from nautilus_trader.model.objects import Currency, Money, Price, Quantity
from nautilus_trader.trading.strategy import Strategy

identity = InstrumentId.from_str("{symbol}.BINANCE")
base, quote = "{symbol}".split("-")
instrument = CurrencyPair(
    instrument_id=identity, raw_symbol=Symbol("{symbol}"), base_currency=Currency.from_str(base),
    quote_currency=Currency.from_str(quote), price_precision=2, size_precision=8,
    price_increment=Price.from_str("0.01"), size_increment=Quantity.from_str("0.00000001"), ts_event=0, ts_init=0,
)
seen = []

class Watch(Strategy):
    def on_start(self):
        self.subscribe_trade_ticks(identity)

    def on_trade_tick(self, tick):
        seen.append(tick.ts_init)

engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
engine.add_venue(
    venue=Venue("BINANCE"), oms_type=OmsType.NETTING, account_type=AccountType.CASH,
    starting_balances=[Money(1_000_000, Currency.from_str(quote))],
)
engine.add_instrument(instrument)
engine.add_data(list(nautilus.objects(client.replay("trades", symbols="{symbol}"), instruments=[instrument])))
engine.add_strategy(Watch())
engine.run()
answer = [len(seen), seen == sorted(seen)]
engine.dispose()
"""
    assert run_python(HEAD.format(port=server.port) + script, "answer") == [counts[symbol], True]


def test_instrument_whose_digits_nobody_knows_is_told(run_python, server):
    script = """
told = []
for tables in ("trades", "funding"):
    try:
        list(nautilus.objects(client.replay(tables)))
    except tickflight.QueryError as error:
        told.append(str(error))
"""
    digits, no_form = run_python(HEAD.format(port=server.port) + script, "told")
    assert digits.startswith("the precision of ")
    assert no_form.startswith("funding has no form in nautilus_trader")
