"""Made-up markets: what every benchmark reads and writes, from a seed, in the shape of real ones.

The rule of this file: a market has few heavy symbols and many light ones (a Zipf law), bursts (most events come within
a few milliseconds of another), prices that walk on ticks, amounts in lots of very unequal size, and string ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pyarrow as pa
from cryptofeed.types import Trade

_NAMES = ("BTC", "ETH", "SOL", "XRP", "DOGE", "ADA", "AVAX", "LINK", "DOT", "LTC")
BURST = 12  # events that come together, on average
WITHIN_BURST_US = 40


def symbols(count: int) -> list[str]:
    """Return ``count`` names of instruments, the heaviest first."""
    return [f"{name}-USDT" for name in _NAMES[:count]] + [f"COIN{i}-USDT" for i in range(count - len(_NAMES))]


@dataclass(frozen=True)
class Market:
    """Trades of ``symbols`` on one exchange or more; the same seed gives the same rows."""

    names: tuple[str, ...]
    exchanges: tuple[str, ...] = ("BINANCE",)
    seed: int = 1
    skew: float = 1.1  # of the Zipf law: the heaviest of 50 symbols has about a quarter of the events

    def batches(
        self, rows: int, batch_rows: int, *, start_us: int, span_us: int, first_id: int = 10_000_000
    ) -> Iterator[pa.RecordBatch]:
        """Yield ``rows`` trades in batches, over ``span_us`` from ``start_us`` on, in the order of time.

        Columns are those that ``client.writer("trades")`` takes: exchange, symbol and side as dictionaries, amount and
        price as doubles, id as text, timestamp and receipt_timestamp as UTC microseconds.
        """
        chance = np.random.default_rng(self.seed)
        ticks = 10.0 ** chance.integers(-4, 0, len(self.names))
        last = chance.integers(5_000, 500_000, len(self.names)).astype(np.int64)
        done = 0
        while done < rows:
            count = min(batch_rows, rows - done)
            begin, end = (start_us + span_us * edge // rows for edge in (done, done + count))
            times = burst_times(chance, count, begin, end)
            yield self._batch(chance, count, times, ticks, last, first_id + done)
            done += count

    def _batch(
        self,
        chance: np.random.Generator,
        count: int,
        times: np.ndarray,
        ticks: np.ndarray,
        last: np.ndarray,
        first_id: int,
    ) -> pa.RecordBatch:
        which = chance.choice(len(self.names), count, p=self.weights()).astype(np.int32)
        steps = chance.integers(-2, 3, count)
        prices = np.empty(count, np.int64)
        order = np.argsort(which, kind="stable")
        edges = np.searchsorted(which[order], np.arange(len(self.names) + 1))
        for symbol, (begin, end) in enumerate(pairwise(edges)):
            if begin < end:
                walk = np.abs(last[symbol] + np.cumsum(steps[begin:end])) + 1
                prices[order[begin:end]] = walk
                last[symbol] = walk[-1]
        amounts = np.round(np.exp(chance.normal(-3, 2, count)) + 0.0001, 4)
        ids = pa.array(np.arange(first_id, first_id + count)).cast(pa.string())
        stamps = pa.array(times, pa.timestamp("us", "UTC"))
        return pa.RecordBatch.from_pydict(
            {
                "exchange": _labels(chance.integers(0, len(self.exchanges), count), self.exchanges),
                "symbol": _labels(which, self.names),
                "side": _labels(chance.integers(0, 2, count), ("buy", "sell")),
                "amount": amounts,
                "price": np.round(prices * ticks[which], 4),
                "id": ids,
                "timestamp": stamps,
                "receipt_timestamp": pa.array(times + chance.integers(500, 40_000, count), pa.timestamp("us", "UTC")),
            }
        )

    def weights(self) -> np.ndarray:
        """Return each symbol's share of the events, heaviest first; together 1."""
        raw = np.arange(1, len(self.names) + 1, dtype=float) ** -self.skew
        return np.asarray(raw / raw.sum())

    def trades(self, rows: int, *, start_us: int) -> list[Trade]:
        """Return ``rows`` trades as cryptofeed's parsers make them: Decimals, epoch seconds."""
        span_us = rows * 10
        (batch,) = self.batches(rows, rows, start_us=start_us, span_us=span_us)
        columns = (batch.column(name).to_pylist() for name in ("exchange", "symbol", "side", "amount", "price", "id"))
        times = batch.column("timestamp").cast(pa.int64()).to_pylist()
        return [
            Trade(exchange, symbol, side, Decimal(repr(amount)), Decimal(repr(price)), time / 1e6, id=name)
            for exchange, symbol, side, amount, price, name, time in zip(*columns, times, strict=True)
        ]


def burst_times(chance: np.random.Generator, count: int, begin_us: int, end_us: int) -> np.ndarray:
    """Return ``count`` rising times from ``begin_us`` to before ``end_us``, most of them within bursts."""
    bursts = max(1, count // BURST)
    starts = np.sort(chance.integers(begin_us, max(begin_us + 1, end_us), bursts))
    inside = chance.exponential(WITHIN_BURST_US, count).astype(np.int64)
    times = np.sort(starts[chance.integers(0, bursts, count)] + inside)
    return np.asarray(np.minimum(times, max(begin_us, end_us - 1)))


def _labels(codes: np.ndarray, names: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(names))
