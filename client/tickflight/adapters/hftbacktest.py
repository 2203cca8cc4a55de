"""hftbacktest's event array: a replay of one symbol of one exchange, as its ``BacktestAsset.data`` takes it.

The rule of this file: each event is as it was stored; where an event was received before an earlier one, the package's
own ``correct_event_order`` splits them, since it wants both orders in one array.

What becomes of the tables (facts: hftbacktest 2.4, ``types.py`` and ``data/utils``):

    trades     TRADE_EVENT with BUY_EVENT or SELL_EVENT, whoever was the taker
    l2_book    a delta's levels: DEPTH_EVENT, quantity 0 removes the level. A snapshot: DEPTH_CLEAR_EVENT without a
               side, which clears both, then DEPTH_SNAPSHOT_EVENT for each level
    l1_book    DEPTH_BBO_EVENT for each side

Times are in nanoseconds: ``exch_ts`` of timestamp, ``local_ts`` of receipt_timestamp. Name trades before books: of
events at one time trades then come first, as the package asks for, so that a queue is not shortened twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickflight.adapters import needed
from tickflight.errors import QueryError
from tickflight.merging import ReplayChunk
from tickflight.replay import Replay

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Events = npt.NDArray[Any]
# of each event of a table: the row that it is of, its flags, price and quantity
Made = tuple[Ints, npt.NDArray[np.uint64], Floats, Floats]
_HEAD = ("exchange", "symbol", "timestamp", "receipt_timestamp")


def event_array(replay: Replay, *, base_latency_ns: int = 0) -> Events:
    """Return all of a replay as one array of ``hftbacktest.types.event_dtype``, in order and with all flags.

    If the local clock was behind the exchange's, all local times are moved by the worst case and ``base_latency_ns``,
    as the package's own converters do. The array holds the whole replay: take a day at a time.

    Raises:
        QueryError: the replay has several symbols or exchanges, or a table that has no such form.
        ImportError: hftbacktest is not installed.
    """
    types = needed("hftbacktest.types", "hftbacktest")
    pieces = list(_pieces(replay, types))
    events = np.concatenate(pieces) if pieces else np.empty(0, types.event_dtype)
    return _in_both_orders(events, types, base_latency_ns) if len(events) else events


def _pieces(replay: Replay, types: Any) -> Iterator[Events]:
    for table in replay.schemas:
        if _name(table) not in _MAKERS:
            raise QueryError(f"{table} has no form in hftbacktest: {', '.join(_MAKERS)} have.")
        missing = [name for name in _HEAD if name not in replay.schemas[table].names]
        if missing:
            raise QueryError(f"hftbacktest's events of {table} need its column {missing[0]!r}.")
    seen: dict[str, set[str]] = {"exchange": set(), "symbol": set()}
    for chunk in replay:
        for name, labels in seen.items():
            for batch in chunk.batches.values():
                labels.update(pc.unique(batch.column(name)).to_pylist())
            if len(labels) > 1:
                raise QueryError(f"an event array is of one symbol of one exchange, and here are {sorted(labels)[:9]}.")
        yield _events(chunk, types)


def _events(chunk: ReplayChunk, types: Any) -> Events:
    """Return a chunk's events, in its order."""
    made: list[Events] = []
    ranks: list[Ints] = []
    for place, table in enumerate(chunk.tables):
        batch = chunk.batches[table]
        rows, flags, prices, sizes = _MAKERS[_name(table)](batch, types)
        events = np.zeros(len(rows), types.event_dtype)
        events["ev"], events["px"], events["qty"] = flags, prices, sizes
        for field, column in (("exch_ts", "timestamp"), ("local_ts", "receipt_timestamp")):
            events[field] = (batch.column(column).cast(pa.int64()).to_numpy() * 1000)[rows]
        made.append(events)
        ranks.append(np.flatnonzero(chunk.order == place)[rows])
    return np.concatenate(made)[np.argsort(np.concatenate(ranks), kind="stable")]


def _in_both_orders(events: Events, types: Any, base_latency_ns: int) -> Events:
    """Return events with the flags that say who sees each when: the exchange, the local side, or both."""
    behind = int((events["local_ts"] - events["exch_ts"]).min())
    if behind < 0:
        events["local_ts"] += base_latency_ns - behind
    if (np.diff(events["local_ts"]) >= 0).all():
        events["ev"] |= np.uint64(types.EXCH_EVENT | types.LOCAL_EVENT)
        return events
    correct = needed("hftbacktest.data", "hftbacktest").correct_event_order
    orders = (np.argsort(events[name], kind="stable") for name in ("exch_ts", "local_ts"))
    split: Events = correct(events, *orders)
    return split


def _trades(batch: pa.RecordBatch, types: Any) -> Made:
    prices, sizes = _floats(batch, "price"), _floats(batch, "amount")
    rows = np.flatnonzero(~np.isnan(prices) & ~np.isnan(sizes))
    flags = np.full(len(prices), types.TRADE_EVENT, np.uint64)
    for side, flag in (("buy", types.BUY_EVENT), ("sell", types.SELL_EVENT)):
        flags[_mask(pc.equal(batch.column("side"), side))] |= np.uint64(flag)
    return rows, flags[rows], prices[rows], sizes[rows]


def _quotes(batch: pa.RecordBatch, types: Any) -> Made:
    sides = [_floats(batch, f"{side}_{what}") for what in ("price", "size") for side in ("bid", "ask")]
    prices, sizes = np.stack(sides[:2], 1).ravel(), np.stack(sides[2:], 1).ravel()
    rows = np.repeat(np.arange(batch.num_rows), 2)
    flags = np.tile(np.array([types.BUY_EVENT, types.SELL_EVENT], np.uint64), batch.num_rows)
    known = ~np.isnan(prices) & ~np.isnan(sizes)
    return rows[known], flags[known] | np.uint64(types.DEPTH_BBO_EVENT), prices[known], sizes[known]


def _books(batch: pa.RecordBatch, types: Any) -> Made:
    whole = _mask(batch.column("is_snapshot"))
    lengths = [_lengths(batch, f"{side}_prices") for side in ("bid", "ask")]
    counts = whole + lengths[0] + lengths[1]
    rows = np.repeat(np.arange(batch.num_rows), counts)
    # the place of each event in its row: the clearing, then bids, then asks
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) - whole[rows]
    bids, asks = (place >= 0) & (place < lengths[0][rows]), place >= lengths[0][rows]
    prices, sizes = np.zeros(len(rows)), np.zeros(len(rows))
    for mask, side in ((bids, "bid"), (asks, "ask")):
        prices[mask], sizes[mask] = (_floats(batch, f"{side}_{what}", flat=True) for what in ("prices", "sizes"))
    kinds = np.where(whole[rows], types.DEPTH_SNAPSHOT_EVENT, types.DEPTH_EVENT).astype(np.uint64)
    kinds[place < 0] = types.DEPTH_CLEAR_EVENT
    kinds[bids] |= np.uint64(types.BUY_EVENT)
    kinds[asks] |= np.uint64(types.SELL_EVENT)
    return rows, kinds, prices, sizes


_MAKERS: Mapping[str, Callable[[pa.RecordBatch, Any], Made]] = {
    "trades": _trades,
    "l2_book": _books,
    "l1_book": _quotes,
}


def _name(table: str) -> str:
    return table.rpartition(".")[2]


def _floats(batch: pa.RecordBatch, name: str, *, flat: bool = False) -> Floats:
    column = batch.column(name).flatten() if flat else batch.column(name)
    numbers: Floats = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


def _lengths(batch: pa.RecordBatch, name: str) -> Ints:
    lengths: Ints = batch.column(name).value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _mask(flags: pa.Array) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = flags.fill_null(False).to_numpy(zero_copy_only=False)
    return mask
