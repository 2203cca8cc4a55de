"""Batches of trades without end whose ids rise, cheap enough that their making limits no writer.

The rule of this file: no key comes twice, so that no row is refused as a repeat; per row next to nothing is done.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa

from bench.markets import Market, symbols

ROWS = 65_536
TEMPLATES = 8
_DIGITS = 5  # of an id that count within a batch; five more count batches
_FIRST_BATCH = 10_000


class RisingTrades:
    """Trades of ``count`` symbols, ``rows`` a batch, times going on from now.

    Batches repeat the columns of a few made-up ones; ids of ten digits and times are each batch's own.
    """

    def __init__(self, count: int = 50, rows: int = ROWS, seed: int = 1) -> None:
        market = Market(tuple(symbols(count)), seed=seed)
        self._batches = list(market.batches(rows * TEMPLATES, rows, start_us=0, span_us=20_000 * TEMPLATES))
        self._times = [np.asarray(b.column("timestamp").cast(pa.int64())) - 20_000 * i for i, b in self._numbered()]
        self._lags = [
            np.asarray(b.column("receipt_timestamp").cast(pa.int64()))
            - np.asarray(b.column("timestamp").cast(pa.int64()))
            for _, b in self._numbered()
        ]
        self._ends = pa.py_buffer((np.arange(rows + 1) * 2 * _DIGITS).astype(np.int32))
        digits = np.frombuffer(b"".join(b"%05d" % i for i in range(rows)), np.uint8).reshape(rows, _DIGITS)
        self._text = np.empty((rows, 2 * _DIGITS), np.uint8)
        self._text[:, _DIGITS:] = digits
        self._rows = rows
        self._made = 0

    def _numbered(self) -> list[tuple[int, pa.RecordBatch]]:
        return list(enumerate(self._batches))

    def next(self) -> pa.RecordBatch:
        """Return the next batch, of the present time."""
        which = self._made % TEMPLATES
        template = self._batches[which]
        text = self._text.copy()
        text[:, :_DIGITS] = np.frombuffer(b"%05d" % (_FIRST_BATCH + self._made), np.uint8)
        self._made += 1
        times = self._times[which] + time.time_ns() // 1000
        changed = {
            "id": pa.StringArray.from_buffers(self._rows, self._ends, pa.py_buffer(text)),
            "timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            "receipt_timestamp": pa.array(times + self._lags[which], pa.timestamp("us", "UTC")),
        }
        columns = [changed.get(name, template.column(name)) for name in template.schema.names]
        return pa.RecordBatch.from_arrays(columns, schema=template.schema)
