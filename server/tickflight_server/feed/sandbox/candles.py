"""Candles of one symbol, computed from its trades.

The rule of this file: a candle is a sum over the trades with start <= time < stop and over nothing else; an interval
without trades has no candle.
"""

from __future__ import annotations

from tickflight_server.feed.sandbox.events import INTERVALS_US, CandleEvent, Event, TradeEvent, interval_start


class _Bar:
    __slots__ = (
        "buy_turnover",
        "buy_volume",
        "close",
        "first_id",
        "high",
        "interval",
        "last_id",
        "low",
        "open",
        "shown",
        "start_us",
        "stop_us",
        "turnover",
        "volume",
    )

    def __init__(self, interval: str, time_us: int) -> None:
        self.interval = interval
        self.start_us = interval_start(interval, time_us)
        self.stop_us = self.start_us + INTERVALS_US[interval]
        self.open = self.high = self.low = self.close = 0
        self.volume = self.turnover = self.buy_volume = self.buy_turnover = 0
        self.first_id = self.last_id = 0
        self.shown = True  # nothing has happened since it was last shown

    def add(self, trade: TradeEvent) -> None:
        price = trade.price
        if self.first_id == 0:
            self.first_id = trade.trade_id
            self.open = self.high = self.low = price
        elif price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        self.close = price
        self.last_id = trade.trade_id
        self.volume += trade.size
        self.turnover += price * trade.size
        if trade.side == "buy":
            self.buy_volume += trade.size
            self.buy_turnover += price * trade.size
        self.shown = False

    def event(self, symbol: str, time_us: int, *, closed: bool) -> CandleEvent:
        return CandleEvent(
            symbol=symbol,
            time_us=time_us,
            interval=self.interval,
            start_us=self.start_us,
            stop_us=self.stop_us,
            open=self.open,
            high=self.high,
            low=self.low,
            close=self.close,
            volume=self.volume,
            turnover=self.turnover,
            buy_volume=self.buy_volume,
            buy_turnover=self.buy_turnover,
            trades=self.last_id - self.first_id + 1,
            first_trade_id=self.first_id,
            last_trade_id=self.last_id,
            closed=closed,
        )


class Candles:
    """The running candles of one symbol, one per interval of `INTERVALS_US`."""

    __slots__ = ("_bars", "_symbol")

    def __init__(self, symbol: str, start_us: int) -> None:
        self._symbol = symbol
        self._bars = [_Bar(interval, start_us) for interval in INTERVALS_US]

    def add(self, trade: TradeEvent) -> None:
        """Count a trade in every interval. Trades come in order and after the last `show`."""
        for bar in self._bars:
            assert bar.start_us <= trade.time_us < bar.stop_us, "a trade outside the running candle"
            bar.add(trade)

    def show(self, time_us: int, events: list[Event]) -> None:
        """Append the candles that ended by ``time_us``, closed, and those that changed since they were last shown."""
        for index, bar in enumerate(self._bars):
            if time_us >= bar.stop_us:
                if bar.first_id:
                    events.append(bar.event(self._symbol, time_us, closed=True))
                self._bars[index] = _Bar(bar.interval, time_us)
            elif not bar.shown:
                bar.shown = True
                events.append(bar.event(self._symbol, time_us, closed=False))
