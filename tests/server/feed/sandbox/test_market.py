from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from tickflight_server.feed.sandbox.book import Book
from tickflight_server.feed.sandbox.events import (
    INTERVALS_US,
    MINUTE_US,
    SECOND_US,
    BookDelta,
    CandleEvent,
    TickerEvent,
    TradeEvent,
    decimal_text,
    interval_start,
)
from tickflight_server.feed.sandbox.market import DEFAULT_SYMBOLS, DEPTH_MIN, Market

START_US = 1_790_000_000 * SECOND_US - 7 * SECOND_US


def make(seed=7, **settings):
    return Market(seed, **{"start_us": START_US, "rate": 2_000.0, **settings})


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def test_same_seed_gives_the_same_events():
    assert make().step(START_US + SECOND_US) == make().step(START_US + SECOND_US)


def test_other_seed_gives_other_events():
    assert make(seed=8).step(START_US + SECOND_US) != make().step(START_US + SECOND_US)


@pytest.mark.parametrize("step_us", [1, 777, 20_000, 333_333])
def test_events_do_not_depend_on_how_time_is_cut(step_us):
    length_us = min(3 * SECOND_US, 5_000 * step_us)
    market, events = make(), []
    for now_us in range(START_US, START_US + length_us, step_us):
        events += market.step(now_us)
    events += market.step(START_US + length_us)
    assert events == make().step(START_US + length_us)


def test_events_are_in_order_of_time_and_none_is_later_than_asked():
    times = [event.time_us for event in make().step(START_US + 2 * SECOND_US)]
    assert times == sorted(times)
    assert times[0] >= START_US
    assert times[-1] <= START_US + 2 * SECOND_US


@pytest.mark.parametrize("rate", [50.0, 2_000.0, 20_000.0])
def test_rate_holds(rate):
    seconds = 60_000 / rate
    events = make(rate=rate).step(START_US + round(seconds * SECOND_US))
    made = len(events) - len(of(events, CandleEvent))
    assert made / seconds == pytest.approx(rate, rel=0.05)


def test_first_symbols_are_the_busiest():
    trades = Counter(e.symbol for e in of(make().step(START_US + 20 * SECOND_US), TradeEvent))
    assert [symbol for symbol, _ in trades.most_common()] == list(DEFAULT_SYMBOLS)
    assert trades["BTC-USDT"] > 0.3 * trades.total()


def test_book_is_never_crossed_and_never_thin():
    market = make()
    for now_us in range(START_US, START_US + 10 * SECOND_US, 10_000):
        market.step(now_us)
        for symbol in DEFAULT_SYMBOLS:
            book = market.snapshot(symbol)
            assert book.bids[0][0] < book.asks[0][0]
            assert min(len(book.bids), len(book.asks)) >= DEPTH_MIN
            assert max(len(book.bids), len(book.asks)) <= market.depth + 4
            assert all(size > 0 for _, size in book.bids + book.asks)
            assert list(book.bids) == sorted(book.bids, reverse=True)
            assert list(book.asks) == sorted(book.asks)


def test_deltas_applied_to_a_snapshot_give_the_market_s_book():
    market = make()
    market.step(START_US + SECOND_US)
    books = {symbol: Book.of(market.snapshot(symbol)) for symbol in DEFAULT_SYMBOLS}
    for delta in of(market.step(START_US + 10 * SECOND_US), BookDelta):
        assert delta.first == books[delta.symbol].sequence + 1
        assert delta.last == delta.first - 1 + len(delta.bids) + len(delta.asks)
        books[delta.symbol].apply(delta)
    for symbol, book in books.items():
        assert book.snapshot(market.now_us) == market.snapshot(symbol)


def test_ticker_is_the_top_of_the_book_after_its_sequence():
    market = make()
    books = {symbol: Book.of(market.snapshot(symbol)) for symbol in DEFAULT_SYMBOLS}
    seen = 0
    for event in market.step(START_US + 5 * SECOND_US):
        if isinstance(event, BookDelta):
            books[event.symbol].apply(event)
        elif isinstance(event, TickerEvent):
            seen += 1
            book = books[event.symbol].snapshot(event.time_us, 1)
            assert event.sequence == book.sequence
            assert ((event.bid, event.bid_size),) == book.bids
            assert ((event.ask, event.ask_size),) == book.asks
    assert seen > 1_000


def test_trade_hits_the_best_level_of_the_other_side():
    market = make()
    books = {symbol: Book.of(market.snapshot(symbol)) for symbol in DEFAULT_SYMBOLS}
    pending = defaultdict(list)
    for event in market.step(START_US + 5 * SECOND_US):
        if isinstance(event, TradeEvent):
            pending[event.symbol].append(event)
        elif isinstance(event, BookDelta):
            book = books[event.symbol]
            for index, trade in enumerate(pending.pop(event.symbol, ())):
                ladder = book.asks if trade.side == "buy" else book.bids
                assert trade.price == ladder.price(index)
                assert 0 < trade.size <= ladder.sizes[trade.price]
            book.apply(event)


def test_trade_ids_are_dense_per_symbol():
    ids = defaultdict(list)
    for trade in of(make().step(START_US + 5 * SECOND_US), TradeEvent):
        ids[trade.symbol].append(trade.trade_id)
    for numbers in ids.values():
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_prices_stay_near_where_they_start():
    market = make(rate=5_000.0)
    for now_us in range(START_US, START_US + 120 * SECOND_US, SECOND_US):
        market.step(now_us)
    for symbol, instrument in market.instruments.items():
        book = market.snapshot(symbol)
        assert book.bids[0][0] == pytest.approx(instrument.price_ticks, rel=0.1)


def test_closed_candles_are_the_sums_of_their_trades():
    events = make(rate=500.0).step(START_US + 190 * SECOND_US)
    trades, candles = of(events, TradeEvent), of(events, CandleEvent)
    closed = [c for c in candles if c.closed]
    assert {c.interval for c in closed} >= {"1m", "3m"}
    for candle in closed:
        inside = [t for t in trades if t.symbol == candle.symbol and candle.start_us <= t.time_us < candle.stop_us]
        assert candle.trades == len(inside)
        assert (candle.first_trade_id, candle.last_trade_id) == (inside[0].trade_id, inside[-1].trade_id)
        prices = [t.price for t in inside]
        assert (candle.open, candle.close) == (prices[0], prices[-1])
        assert (candle.high, candle.low) == (max(prices), min(prices))
        assert candle.volume == sum(t.size for t in inside)
        assert candle.turnover == sum(t.size * t.price for t in inside)
        assert candle.buy_volume == sum(t.size for t in inside if t.side == "buy")
        assert candle.start_us == interval_start(candle.interval, inside[0].time_us)
        assert candle.stop_us - candle.start_us == INTERVALS_US[candle.interval]


def test_weeks_start_on_monday():
    thursday_us = 0
    assert interval_start("1w", thursday_us) == -3 * 24 * 60 * MINUTE_US


def test_skipped_time_has_no_events_and_the_market_goes_on():
    market = make()
    market.step(START_US + SECOND_US)
    book = market.snapshot("BTC-USDT")
    market.skip(START_US + 100 * SECOND_US)
    events = market.step(START_US + 101 * SECOND_US)
    assert min(e.time_us for e in events) >= START_US + 99 * SECOND_US
    assert len(events) - len(of(events, CandleEvent)) == pytest.approx(2_000, rel=0.2)
    assert next(d for d in of(events, BookDelta) if d.symbol == "BTC-USDT").first == book.sequence + 1


def test_unknown_symbols_get_an_instrument_of_their_own():
    market = make(symbols=[f"C{i}-USDT" for i in range(100)], depth=60)
    events = market.step(START_US + 2 * SECOND_US)
    assert len({e.symbol for e in events}) > 80
    assert market.instruments["C1-USDT"] == make(symbols=["C1-USDT"]).instruments["C1-USDT"]


@pytest.mark.parametrize(
    ("units", "decimals", "places", "text"),
    [
        (6_500_001, 2, 0, "65000.01"),
        (5, 2, 8, "0.05000000"),
        (12, 0, 0, "12"),
        (12, 0, 3, "12.000"),
        (7, 3, 2, "0.007"),
    ],
)
def test_decimal_text_is_exact(units, decimals, places, text):
    assert decimal_text(units, decimals, places) == text
