"""Events into a cryptofeed backend, the same way for every backend.

The rule of this file: the event loop has its turn as often as a feed gives it one, so that a backend's writer runs
beside the callbacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
from cryptofeed.types import Trade

EVENTS_A_TURN = 100


def trades_of(rows: pa.Table) -> list[Trade]:
    """Return rows as cryptofeed's parsers make them: Decimals, epoch seconds."""
    columns = (rows[name].to_pylist() for name in ("exchange", "symbol", "side", "amount", "price", "id"))
    times = rows["timestamp"].cast(pa.int64()).to_pylist()
    return [
        Trade(exchange, symbol, side, Decimal(repr(amount)), Decimal(repr(price)), time / 1e6, id=name)
        for exchange, symbol, side, amount, price, name, time in zip(*columns, times, strict=True)
    ]


async def call_back(backend: Any, trades: Sequence[Trade]) -> None:
    """Call ``backend`` with each trade."""
    for start in range(0, len(trades), EVENTS_A_TURN):
        for trade in trades[start : start + EVENTS_A_TURN]:
            await backend(trade, trade.timestamp)
        await asyncio.sleep(0)
