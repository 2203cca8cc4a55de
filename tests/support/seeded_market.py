"""Ten minutes of a made-up market of two symbols, the same for the same seed: trades, quotes, and books of them.

The rule of this file: prices follow the trades a little and late, so that a study of them finds something.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

import tickflight

SYMBOLS = {"BTC-USDT": (65_000.0, 0.1), "ETH-USDT": (3_400.0, 0.01)}  # first price, tick
STEP_US = 100_000
LEVELS = 20


class SeededMarket:
    """A market from ``start_us`` on, a step of which is a tenth of a second, that begins at the prices ``first``."""

    def __init__(
        self, start_us: int, steps: int = 6000, seed: int = 7, first: Mapping[str, float] | None = None
    ) -> None:
        self._start_us = start_us
        self._first = first or {}
        self._steps = steps
        self._random = np.random.default_rng(seed)
        self.last: dict[str, float] = {}
        """The mid price at the end, by symbol."""

    def tables(self) -> dict[str, pa.Table]:
        """Return all rows in order of time, by table."""
        found: dict[str, list[pa.RecordBatch]] = {name: [] for name in ("trades", "ticker", "l1_book", "l2_book")}
        for symbol, (price, tick) in SYMBOLS.items():
            flow = self._random.choice([-1, 0, 1], self._steps, p=[0.25, 0.5, 0.25])
            felt = np.convolve(flow, np.exp(-np.arange(30) / 8), "full")[: self._steps]  # an impact that takes seconds
            moves = 3e-6 * self._random.standard_normal(self._steps) + 1.5e-6 * np.concatenate([[0], felt[:-1]])
            mids = np.round(self._first.get(symbol, price) * np.exp(np.cumsum(moves)) / tick) * tick
            self.last[symbol] = float(mids[-1])
            found["trades"].append(self._trades(symbol, mids, flow, tick))
            for table in ("ticker", "l1_book"):
                found[table].append(self._quotes(table, symbol, mids, tick))
            found["l2_book"].append(self._book(symbol, mids, tick))
        return {name: pa.Table.from_batches(batches).sort_by("timestamp") for name, batches in found.items()}

    def _rows(self, symbol: str, steps: Any, offset_us: int, **columns: Any) -> pa.RecordBatch:
        times = pa.array(self._start_us + steps * STEP_US + offset_us, pa.int64()).cast(pa.timestamp("us"))
        names = {"exchange": _texts(["BINANCE"] * len(steps)), "symbol": _texts([symbol] * len(steps))}
        return pa.record_batch({**names, **columns, "timestamp": times, "receipt_timestamp": times})

    def _trades(self, symbol: str, mids: Any, flow: Any, tick: float) -> pa.RecordBatch:
        steps = np.flatnonzero(flow)
        sides = np.where(flow[steps] > 0, "buy", "sell").tolist()
        amounts = np.round(self._random.exponential(0.2, len(steps)) + 1e-4, 4)
        ids = [f"{symbol}-{self._start_us + step}" for step in steps]
        prices = np.round(mids[steps] + flow[steps] * tick, 2)
        return self._rows(symbol, steps, 50_000, side=_texts(sides), amount=amounts, price=prices, id=_texts(ids))

    def _quotes(self, table: str, symbol: str, mids: Any, tick: float) -> pa.RecordBatch:
        steps = np.arange(self._steps)
        bid, ask = np.round(mids - tick, 2), np.round(mids + tick, 2)
        if table == "ticker":
            return self._rows(symbol, steps, 0, bid=bid, ask=ask)
        sizes = [np.round(self._random.exponential(1, self._steps) + 0.01, 3) for _ in range(2)]
        return self._rows(symbol, steps, 0, bid_price=bid, bid_size=sizes[0], ask_price=ask, ask_size=sizes[1])

    def _book(self, symbol: str, mids: Any, tick: float) -> pa.RecordBatch:
        steps = np.arange(0, self._steps, 5)
        held: tuple[dict[float, float], dict[float, float]] = ({}, {})
        sides: dict[str, list[list[float]]] = {n: [] for n in ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")}
        first = []
        for number, step in enumerate(steps):
            snapshot = number % 200 == 0
            first.append(snapshot)
            for side, sign, name in ((held[0], -1, "bid"), (held[1], 1, "ask")):
                prices = np.round(mids[step] + sign * tick * np.arange(1, LEVELS + 1), 2).tolist()
                sizes = np.round(self._random.exponential(1, LEVELS) + 0.01, 3).tolist()
                changed = {p: s for p, s in zip(prices, sizes, strict=True) if p not in side or s > 2 or snapshot}
                changed |= {p: 0.0 for p in side if p not in prices}
                for level, size in changed.items():
                    side[level] = size
                    if not size:
                        del side[level]
                shown = side if snapshot else changed
                best_first = sorted(shown.items(), reverse=sign < 0)
                sides[f"{name}_prices"].append([p for p, _ in best_first])
                sides[f"{name}_sizes"].append([s for _, s in best_first])
        numbers = pa.array(range(1, len(steps) + 1), pa.int64())
        return self._rows(symbol, steps, 20_000, is_snapshot=first, sequence_number=numbers, **sides)


def _texts(values: list[str]) -> pa.Array:
    return pa.array(values, pa.string())


def seed_market(address: str, seed: int = 7) -> dict[str, float]:
    """Write the ten minutes that end now; return the last prices."""
    market = SeededMarket(time.time_ns() // 1000 - 600_000_000, seed=seed)
    with tickflight.connect(address) as client:
        for name, table in market.tables().items():
            with client.writer(name) as writer:
                writer.write(table)
    return market.last


class GoingOn:
    """The market goes on from the prices ``first``: every tenth of a second its trades, until it is stopped."""

    def __init__(self, address: str, first: dict[str, float]) -> None:
        self._address = address
        self._last = first
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="market")
        self._thread.start()

    def _run(self) -> None:
        with tickflight.connect(self._address) as client, client.writer("trades") as writer:
            number = 0
            while not self._stop.wait(0.1):
                number += 1
                market = SeededMarket(time.time_ns() // 1000 - 300_000, steps=4, seed=number, first=self._last)
                trades = market.tables()["trades"]
                self._last = market.last
                if trades.num_rows:
                    writer.write(trades)

    def stop(self) -> None:
        """Let it end."""
        self._stop.set()
        self._thread.join()
