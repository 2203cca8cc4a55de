"""nautilus_trader's objects: trade ticks, quote ticks, book deltas and bars, for its backtest engine or its catalog.

The rule of this file: an object says what its row says and nothing more; a row that cannot be one is left out, as said
below.

What becomes of the tables (facts: nautilus_trader 1.221, ``model/data.pyx``):

    trades     TradeTick; rows without price or with a size of 0 at the instrument's precision are left out
    l1_book    QuoteTick; rows that lack a side are left out
    ticker     QuoteTick with sizes of 0, which the table does not have
    l2_book    OrderBookDeltas, one for each row: a snapshot is CLEAR and then ADD, a delta UPDATE, or DELETE for size
               0; the last delta of a row has F_LAST, those of a snapshot F_SNAPSHOT

**Instruments.** The id is ``SYMBOL.EXCHANGE``, such as ``BTC-USDT.BINANCE``; give ``instrument_id`` to name it in
another way. Precisions are the instruments', where some are given, since the engine refuses prices of other digits;
else ``precision``. **Times** are nanoseconds: ``ts_event`` of timestamp, ``ts_init`` of receipt_timestamp. The engine
goes by ``ts_init`` and sorts what it is given; with ``ts_init="timestamp"`` its order is the replay's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickflight.adapters import needed
from tickflight.errors import QueryError
from tickflight.events import values
from tickflight.replay import Replay
from tickflight.result import Result

Precision = tuple[int, int]
TimeColumn = Literal["timestamp", "receipt_timestamp"]
Ints = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]
_HEAD = ("exchange", "symbol", "timestamp", "receipt_timestamp")


def default_id(exchange: str, symbol: str) -> str:
    """Return ``SYMBOL.EXCHANGE``."""
    return f"{symbol}.{exchange}"


def objects(
    replay: Replay,
    *,
    instruments: Iterable[Any] = (),
    precision: Precision | None = None,
    instrument_id: Callable[[str, str], str] = default_id,
    ts_init: TimeColumn = "receipt_timestamp",
) -> Iterator[Any]:
    """Yield a replay's events as nautilus_trader's objects, in its order.

    Args:
        replay: of trades, l1_book, ticker or l2_book.
        instruments: nautilus_trader's, whose digits are taken.
        precision: digits of prices and of sizes after the point, for what is not among them.
        instrument_id: makes an instrument's id of exchange and symbol.
        ts_init: the column that ``ts_init`` is of.

    Raises:
        QueryError: a table has no such form, lacks a column, or an instrument's precision is not known.
        ImportError: nautilus_trader is not installed.
    """
    known = {str(i.id): (int(i.price_precision), int(i.size_precision)) for i in instruments}
    made = _Maker(_Model.load(), known, precision, instrument_id, ts_init)
    for table, schema in replay.schemas.items():
        if table.rpartition(".")[2] not in _MAKERS:
            raise QueryError(f"{table} has no form in nautilus_trader: {', '.join(_MAKERS)} have.")
        missing = [name for name in _HEAD if name not in schema.names]
        if missing:
            raise QueryError(f"nautilus_trader's objects of {table} need its column {missing[0]!r}.")
    for chunk in replay:
        found = [made.rows(table, chunk.batches[table]) for table in chunk.tables]
        yield from (one for one in map(next, map(found.__getitem__, chunk.order.tolist())) if one is not None)


def bars(
    result: Result,
    specification: str,
    *,
    instruments: Iterable[Any] = (),
    precision: Precision | None = None,
    instrument_id: Callable[[str, str], str] = default_id,
) -> list[Any]:
    """Return what ``client.bars`` gave as ``Bar``, whose times are the bar's end.

    ``specification`` names the bars, such as ``1-MINUTE-LAST``, ``1000-TICK-LAST`` or ``50-VOLUME-LAST``; the other
    arguments are those of ``objects``.

    Raises:
        QueryError: an instrument's precision is not known.
        ImportError: nautilus_trader is not installed.
    """
    model = _Model.load()
    known = {str(i.id): (int(i.price_precision), int(i.size_precision)) for i in instruments}
    made = _Maker(model, known, precision, instrument_id, "timestamp")
    found: list[Any] = []
    for batch in result.arrow().combine_chunks().to_batches():
        objects = np.empty(batch.num_rows, object)
        ends = _nanoseconds(batch.column("end"))
        for identity, digits, rows in made.instruments(batch):
            kind = model.data.BarType.from_str(f"{identity}-{specification}-EXTERNAL")
            columns = [_floats(batch, name)[rows] for name in ("open", "high", "low", "close", "volume")]
            _put(objects, rows, model.data.Bar.from_raw_arrays_to_list(kind, *digits, *columns, ends[rows], ends[rows]))
        found += objects.tolist()
    return found


@dataclass(frozen=True)
class _Model:
    """The modules of nautilus_trader that are used."""

    data: Any
    enums: Any
    identifiers: Any
    objects: Any

    @classmethod
    def load(cls) -> _Model:
        names = ("data", "enums", "identifiers", "objects")
        return cls(*(needed(f"nautilus_trader.model.{name}", "nautilus_trader") for name in names))


@dataclass(frozen=True)
class _Maker:
    """Makes objects of rows."""

    model: _Model
    known: Mapping[str, Precision]
    precision: Precision | None
    name: Callable[[str, str], str]
    ts_init: TimeColumn

    def rows(self, table: str, batch: pa.RecordBatch) -> Iterator[Any]:
        """Return an iterator over a batch's rows as objects, None for one that cannot be."""
        found = np.empty(batch.num_rows, object)
        times = _nanoseconds(batch.column("timestamp")), _nanoseconds(batch.column(self.ts_init))
        for identity, digits, rows in self.instruments(batch):
            _MAKERS[table.rpartition(".")[2]](self, batch, rows, identity, digits, times, found)
        return iter(found.tolist())

    def instruments(self, batch: pa.RecordBatch) -> Iterator[tuple[Any, Precision, Ints]]:
        """Yield each instrument of a batch: its id, its digits, and which rows are its."""
        encoded = [batch.column(name).dictionary_encode() for name in ("exchange", "symbol")]
        codes = [column.indices.to_numpy().astype(np.int64) for column in encoded]
        pairs = codes[0] << 32 | codes[1]
        for pair in np.unique(pairs).tolist():
            exchange, symbol = encoded[0].dictionary[pair >> 32], encoded[1].dictionary[pair & 0xFFFFFFFF]
            text = self.name(exchange.as_py(), symbol.as_py())
            digits = self.known.get(text, self.precision)
            if digits is None:
                raise QueryError(f"the precision of {text} is not known: give its instrument, or precision=(2, 6).")
            yield self.model.identifiers.InstrumentId.from_str(text), digits, np.flatnonzero(pairs == pair)


Times = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]


def _trades(
    made: _Maker, batch: pa.RecordBatch, rows: Ints, identity: Any, digits: Precision, times: Times, found: Objects
) -> None:
    prices, sizes = _floats(batch, "price"), _floats(batch, "amount")
    with np.errstate(invalid="ignore"):
        rows = rows[~np.isnan(prices[rows]) & (np.round(sizes[rows], digits[1]) > 0)]
    sides = made.model.enums.AggressorSide
    codes = {"buy": int(sides.BUYER), "sell": int(sides.SELLER)}
    taken = batch.take(pa.array(rows))
    takers = np.array([codes.get(side, 0) for side in values(taken.column("side"))], np.uint8)
    # an exchange that gives no id: the time tells most trades apart
    ids = values(taken.column("id")) if "id" in taken.schema.names else [None] * len(rows)
    ids = [name or str(ns) for name, ns in zip(ids, times[0][rows].tolist(), strict=True)]
    make = made.model.data.TradeTick.from_raw_arrays_to_list
    arrays = (prices[rows], sizes[rows], takers, ids, times[0][rows], times[1][rows])
    _put(found, rows, make(identity, *digits, *arrays))


def _quotes(
    made: _Maker, batch: pa.RecordBatch, rows: Ints, identity: Any, digits: Precision, times: Times, found: Objects
) -> None:
    if "bid_price" in batch.schema.names:
        columns = [_floats(batch, f"{side}_{what}") for what in ("price", "size") for side in ("bid", "ask")]
    else:
        columns = [_floats(batch, "bid"), _floats(batch, "ask")]
        columns += [np.zeros(batch.num_rows)] * 2
    rows = rows[~np.any([np.isnan(column[rows]) for column in columns], axis=0)]
    make = made.model.data.QuoteTick.from_raw_arrays_to_list
    _put(found, rows, make(identity, *digits, *(c[rows] for c in columns), times[0][rows], times[1][rows]))


def _books(
    made: _Maker, batch: pa.RecordBatch, rows: Ints, identity: Any, digits: Precision, times: Times, found: Objects
) -> None:
    taken = batch.take(pa.array(rows))
    names = ("is_snapshot", "sequence_number", "bid_prices", "bid_sizes", "ask_prices", "ask_sizes")
    columns = [values(taken.column(name)) for name in names]
    for row, event, init, *cells in zip(rows.tolist(), *(t[rows].tolist() for t in times), *columns, strict=True):
        found[row] = _deltas(made.model, identity, digits, event, init, *cells)


def _deltas(
    model: _Model,
    identity: Any,
    digits: Precision,
    event: int,
    init: int,
    whole: bool | None,
    number: int | None,
    *levels: list[Any] | None,
) -> Any:
    """Return a book row as OrderBookDeltas, None if it changes nothing."""
    data, actions, sides = model.data, model.enums.BookAction, model.enums.OrderSide
    flags = model.enums.RecordFlag
    kept = int(flags.F_SNAPSHOT) if whole else 0
    steps: list[tuple[Any, Any]] = []
    for side, prices, sizes in ((sides.BUY, *levels[:2]), (sides.SELL, *levels[2:])):
        for price, size in zip(prices or (), sizes or (), strict=True):
            quantity = model.objects.Quantity(size, digits[1])
            action = actions.DELETE if not quantity.raw else actions.ADD if whole else actions.UPDATE
            if not (whole and action == actions.DELETE):
                steps.append((action, data.BookOrder(side, model.objects.Price(price, digits[0]), quantity, 0)))
    if whole:
        steps.insert(0, (actions.CLEAR, None))
    last = len(steps) - 1
    made = [
        data.OrderBookDelta(
            identity, action, order, kept | (int(flags.F_LAST) if i == last else 0), number or 0, event, init
        )
        for i, (action, order) in enumerate(steps)
    ]
    return data.OrderBookDeltas(identity, made) if made else None


_MAKERS: Mapping[str, Callable[..., None]] = {
    "trades": _trades,
    "l1_book": _quotes,
    "ticker": _quotes,
    "l2_book": _books,
}


def _put(found: Objects, rows: Ints, made: list[Any]) -> None:
    part = np.empty(len(made), object)
    part[:] = made
    found[rows] = part


def _floats(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.float64]:
    numbers: npt.NDArray[np.float64] = batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


def _nanoseconds(column: pa.Array) -> npt.NDArray[np.uint64]:
    times: npt.NDArray[np.uint64] = (column.cast(pa.int64()).to_numpy() * 1000).astype(np.uint64)
    return times
