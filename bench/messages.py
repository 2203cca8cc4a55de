"""Made-up exchange messages in the exchange's own JSON: a recording of Binance's streams, as cryptofeed 2.4.1 makes it.

The rule of this file: the market is that of ``markets``; texts, numbers of digits and streams are Binance's
(aggTrade, bookTicker, depth@100ms), and cryptofeed's own parser reads them without a complaint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.markets import Market, symbols

LEVELS = 500  # of a side of a book's first snapshot
CHANGED = 8  # levels that a depth message changes, on average
REPEATED = 0.38  # of sizes are ones that the symbol had lately: in half of the recordings of 14 exchanges more are
LATELY = 256  # sizes
_START_US = 1_780_000_000_000_000
_FIRST_UPDATE = 1_000_000


def record(folder: Path, counts: dict[str, int], names: int = 20, seed: int = 5) -> int:
    """Write a recording of ``counts`` messages by channel (trades, ticker, l2_book) to ``folder``; return its bytes.

    The bytes are those of the messages alone, as they come over the connection.
    """
    folder.mkdir(parents=True)
    market = Market(tuple(symbols(names)), seed=seed)
    listed = [name.replace("-", "") for name in market.names]
    info = {
        "timezone": "UTC",
        "symbols": [
            {
                "symbol": short,
                "status": "TRADING",
                "isSpotTradingAllowed": True,
                "permissions": ["SPOT"],
                **dict(zip(("baseAsset", "quoteAsset"), name.split("-"), strict=True)),
                "filters": [{"filterType": "PRICE_FILTER", "minPrice": "0.01000000", "tickSize": "0.01000000"}],
            }
            for short, name in zip(listed, market.names, strict=True)
        ],
    }
    at = _START_US / 1e6
    configuration = {channel: list(market.names) for channel in counts}
    (folder / "BINANCE.0").write_text(
        f"https://api.binance.com/api/v3/exchangeInfo -> {at}: {json.dumps(info)}\n"
        f"configuration: {json.dumps(configuration)}\n"
    )
    books = _Books(np.random.default_rng(seed), listed)
    with (folder / "BINANCE.http.0.0").open("w") as out:
        for short in listed:
            address = f"https://api.binance.com/api/v3/depth?symbol={short}&limit=1000"
            out.write(f"{address} -> {at}: {json.dumps(books.snapshot(short))}\n")
    size = 0
    with (folder / "BINANCE.ws.1.0").open("w") as out:
        out.write(f"wss://stream.binance.com:9443/stream?streams= <-> {at}\n")
        for us, text in _messages(market, listed, counts, books):
            size += len(text)
            out.write(f"{us / 1e6}: {text}\n")
    return size


def _messages(market: Market, listed: list[str], counts: dict[str, int], books: _Books) -> Iterator[tuple[int, str]]:
    """Yield times and messages of all channels, mixed in the order of time."""
    total = sum(counts.values())
    chance = np.random.default_rng(market.seed + 1)
    kinds = chance.permutation(np.repeat(np.arange(len(counts)), list(counts.values())))
    channels = list(counts)
    number = 4_000_000_000
    for batch in market.batches(total, min(total, 50_000), start_us=_START_US, span_us=total * 400):
        which = np.asarray(batch.column("symbol").indices).tolist()
        sides = batch.column("side").to_pylist()
        times = batch.column("timestamp").cast(pa.int64()).to_pylist()
        amounts, prices = (batch.column(c).to_pylist() for c in ("amount", "price"))
        for i, us in enumerate(times):
            short = listed[which[i]]
            channel = channels[kinds[number - 4_000_000_000]]
            number += 1
            if channel == "trades":
                text = _trade(short, us, number, prices[i], amounts[i], sides[i])
            elif channel == "ticker":
                text = books.ticker(short)
            else:
                text = books.change(short, us)
            yield us + 20_000, text


def _trade(short: str, us: int, number: int, price: float, amount: float, side: str) -> str:
    ms = us // 1000
    maker = "true" if side == "sell" else "false"
    return (
        f'{{"stream":"{short.lower()}@aggTrade","data":{{"e":"aggTrade","E":{ms + 1},"s":"{short}","a":{number},'
        f'"p":"{price:.8f}","q":"{amount:.8f}","f":{number},"l":{number},"T":{ms},"m":{maker},"M":true}}}}'
    )


class _Books:
    """Books of all symbols: levels on a grid of ticks of 0.01 around a middle that walks."""

    def __init__(self, chance: np.random.Generator, listed: list[str]) -> None:
        self._chance = chance
        self._middle = {short: int(chance.integers(10_000, 6_500_000)) for short in listed}
        self._update = dict.fromkeys(listed, _FIRST_UPDATE)
        self._sizes: dict[str, list[str]] = {short: [] for short in listed}

    def snapshot(self, short: str) -> dict[str, object]:
        """Return the book as a REST call gives it."""
        middle = self._middle[short]
        sides = {
            side: [[_price(middle + sign * (i + 1)), self._size(short)] for i in range(LEVELS)]
            for side, sign in (("bids", -1), ("asks", 1))
        }
        return {"lastUpdateId": _FIRST_UPDATE, **sides}

    def ticker(self, short: str) -> str:
        """Return a bookTicker message."""
        middle = self._middle[short]
        bid, ask = self._size(short), self._size(short)
        return (
            f'{{"stream":"{short.lower()}@bookTicker","data":{{"u":{self._update[short]},"s":"{short}",'
            f'"b":"{_price(middle - 1)}","B":"{bid}","a":"{_price(middle + 1)}","A":"{ask}"}}}}'
        )

    def change(self, short: str, us: int) -> str:
        """Return a depth message: the changed levels, most of them near the middle, a third of them removed."""
        chance = self._chance
        self._middle[short] += int(chance.integers(-2, 3))
        first = self._update[short] + 1
        count = 1 + int(chance.geometric(1 / CHANGED))
        last = self._update[short] = first + count - 1
        away = 1 + chance.geometric(0.05, count)
        bids = chance.integers(0, count + 1)
        levels = [
            f'["{_price(self._middle[short] + (-step if i < bids else step))}","{self._size(short, removed)}"]'
            for i, (step, removed) in enumerate(zip(away.tolist(), (chance.random(count) < 0.3).tolist(), strict=True))
        ]
        return (
            f'{{"stream":"{short.lower()}@depth@100ms","data":{{"e":"depthUpdate","E":{us // 1000},"s":"{short}",'
            f'"U":{first},"u":{last},"b":[{",".join(levels[:bids])}],"a":[{",".join(levels[bids:])}]}}}}'
        )

    def _size(self, short: str, removed: bool = False) -> str:
        if removed:
            return "0.00000000"
        chance, lately = self._chance, self._sizes[short]
        if lately and chance.random() < REPEATED:
            return lately[int(chance.integers(0, len(lately)))]
        size = f"{round(float(np.exp(chance.normal(-2, 2))) + 0.0001, 5):.8f}"
        if len(lately) < LATELY:
            lately.append(size)
        else:
            lately[int(chance.integers(0, LATELY))] = size
        return size


def _price(ticks: int) -> str:
    return f"{ticks / 100:.8f}"
