"""Levels of order books, a line each, to book events, a row each.

The rule of this file: levels that the source received together are one event, a snapshot has its levels best first,
and an event is never cut where a chunk ends.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.errors import InputError

EVENT_LEVELS_MAX = 1_000_000


class LevelGrouper:
    """Groups levels in the order of the file; the last event is held back until its end is seen.

    The tables it takes have the columns exchange, symbol (dictionaries), timestamp, receipt_timestamp (int64, µs),
    is_snapshot, is_bid (bool), price, amount (numbers).
    """

    def __init__(self) -> None:
        self._held: pa.Table | None = None

    def add(self, levels: pa.Table) -> pa.RecordBatch | None:
        """Take levels; return the events that are complete with them."""
        if self._held is not None:
            levels = pa.concat_tables([self._held, levels])
        if levels.num_rows == 0:
            return None
        levels = levels.unify_dictionaries().combine_chunks()
        starts = _starts(levels)
        last = int(starts[-1])
        self._held = levels.slice(last)
        if self._held.num_rows > EVENT_LEVELS_MAX:
            raise InputError(
                f"a book event has more than {EVENT_LEVELS_MAX} levels.",
                hint="Lines of one event share local_timestamp and is_snapshot: are they right?",
            )
        return _events(levels.slice(0, last), starts[:-1]) if last else None

    def finish(self) -> pa.RecordBatch | None:
        """Return the last event."""
        held, self._held = self._held, None
        if held is None or held.num_rows == 0:
            return None
        return _events(held, np.zeros(1, np.int64))


def _starts(levels: pa.Table) -> np.ndarray:
    """Return where events start: the exchange, symbol, time of receipt or kind is another than in the line before."""
    changed = np.zeros(levels.num_rows, bool)
    changed[0] = True
    for name in ("exchange", "symbol", "receipt_timestamp", "is_snapshot"):
        column = levels.column(name).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.indices
        values = column.to_numpy(zero_copy_only=False)
        changed[1:] |= values[1:] != values[:-1]
    return np.flatnonzero(changed)


def _events(levels: pa.Table, starts: np.ndarray) -> pa.RecordBatch:
    arrays = {name: levels.column(name).combine_chunks() for name in levels.column_names}
    lengths = np.diff(np.r_[starts, levels.num_rows])
    event = np.repeat(np.arange(len(starts)), lengths)
    first = pa.array(starts)
    times = np.maximum.reduceat(arrays["timestamp"].to_numpy(), starts)
    columns: dict[str, pa.Array] = {
        "exchange": arrays["exchange"].take(first),
        "symbol": arrays["symbol"].take(first),
        "is_snapshot": arrays["is_snapshot"].take(first),
        "timestamp": pa.array(times).cast(pa.timestamp("us")),
        "receipt_timestamp": arrays["receipt_timestamp"].take(first).cast(pa.timestamp("us")),
    }
    is_bid = arrays["is_bid"].to_numpy(zero_copy_only=False)
    snapshot = arrays["is_snapshot"].to_numpy(zero_copy_only=False)
    for side, mask, order in (("bid", is_bid, "descending"), ("ask", ~is_bid, "ascending")):
        rows = np.flatnonzero(mask)
        rows = _best_first(rows, event, snapshot, arrays["price"], order)
        offsets = np.r_[0, np.cumsum(np.bincount(event[rows], minlength=len(starts)))]
        for what, source in (("prices", "price"), ("sizes", "amount")):
            flat = arrays[source].take(pa.array(rows))
            columns[f"{side}_{what}"] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _best_first(rows: np.ndarray, event: np.ndarray, snapshot: np.ndarray, price: pa.Array, order: str) -> np.ndarray:
    """Return ``rows`` with those of each snapshot in order of price; changes stay in the order of the file."""
    places = np.flatnonzero(snapshot[rows])
    if len(places):
        chosen = rows[places]
        keys = pa.table({"event": event[chosen], "price": price.take(pa.array(chosen))})
        ranks = pc.sort_indices(keys, sort_keys=[("event", "ascending"), ("price", order)])
        rows[places] = chosen[ranks.to_numpy()]
    return rows
