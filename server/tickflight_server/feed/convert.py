"""What backends keep → record batches, once per micro-batch; rows that do not fit come out beside them as JSON.

The rule of this file: rows in equals rows out. Every kept item is either a row of the batch or a ``Rejected`` with a
reason, and nothing here knows cryptofeed: items are read by attribute, through ``schemas``.

Two shapes of item exist. A flat channel keeps ``(attributes, time of receipt)``: the object's attributes that its table
stores (``reader``), or the object itself. A book keeps a ``BookEvent``, since cryptofeed goes on changing the book
object after the callback has returned.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import cache
from operator import attrgetter, itemgetter
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from tickflight_server.feed import columns
from tickflight_server.feed.columns import Bad
from tickflight_server.schemas import STORED, NumericType, TableSchema

BOOK_TABLES = frozenset({"l2_book", "l3_book"})

# Books of one batch: 256 Ki levels are 4 MiB of prices and sizes as float64, well under a Flight message.
LEVELS_MAX = 262_144

Item = tuple[Any, Any]
"""``(attributes or object, time of receipt)``; attributes are a tuple, in the order of ``sources``."""

Levels = Sequence[Sequence[Any]]
"""``(price, size)`` in ``l2_book``, ``(id, price, size)`` in ``l3_book``."""

BookEvent = tuple[Any, Any, Any, Any, Any, bool, Levels, Levels]
"""``(book, time of receipt, timestamp, sequence_number, checksum, is_snapshot, bids, asks)``; of ``book`` only
``exchange`` and ``symbol`` are read later, which never change."""


@dataclass(frozen=True)
class Rejected:
    """A row that does not fit its table, as table ``rejected`` holds it. Times are microseconds."""

    exchange: str
    symbol: str
    table: str
    reason: str
    row: str
    timestamp: int
    receipt_timestamp: int


@dataclass(frozen=True)
class Converted:
    """A batch in the table's input schema, and what could not become part of it."""

    batch: pa.RecordBatch
    rejected: list[Rejected]


@cache
def sources(table: str) -> tuple[str, ...]:
    """Return the attributes of a flat channel's object that its table stores, exchange and symbol first."""
    return tuple(spec.source for spec in STORED[table].columns if spec.source is not None)


def reader(table: str) -> Callable[[Any], tuple[Any, ...]]:
    """Return what reads these attributes of an object, at C speed where it has all of them."""
    names = sources(table)
    read: Callable[[Any], tuple[Any, ...]] = attrgetter(*names)

    def read_any(obj: Any) -> tuple[Any, ...]:
        try:
            return read(obj)
        except AttributeError:  # a balance has no timestamp; what was written as a dict may lack anything
            return tuple(getattr(obj, name, None) for name in names)

    return read_any


def convert(table: str, items: Sequence[Any], numeric: NumericType = "float64") -> Converted:
    """Return ``items`` of ``table`` as one record batch, dictionary-encoded labels and no ``seq``.

    Numbers become ``float(value)``, bit for bit what ``to_dict(numeric_type=float)`` gives, or exact decimals. Times
    become ``round(seconds * 1e6)``. Where the event has no time (None or 0), the time of receipt stands in.
    """
    schema = STORED[table]
    fill = _fill_books if table in BOOK_TABLES else _fill_flat
    arrays, bad = fill(schema, items, numeric)
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema.arrow_input(numeric, memory=True))
    if not bad:
        return Converted(batch, [])
    keep = pa.array([index not in bad for index in range(len(items))], pa.bool_())
    now = time.time()
    rejected = [_rejected(schema, items[index], bad[index], now) for index in sorted(bad)]
    assert len(rejected) + sum(keep.to_pylist()) == len(items), "a row was lost or doubled"
    return Converted(batch.filter(keep), rejected)


def convert_each(table: str, items: Sequence[Any], numeric: NumericType = "float64") -> Iterator[Converted]:
    """Convert ``items`` in as many batches as their levels ask for (``LEVELS_MAX``)."""
    for part in _parts(table, items):
        yield convert(table, part, numeric)


def rejected_batch(rejected: Sequence[Rejected], producer: str, numeric: NumericType = "float64") -> pa.RecordBatch:
    """Return ``rejected`` as a batch of table ``rejected``."""
    given: dict[str, list[Any]] = {
        "exchange": [r.exchange for r in rejected],
        "symbol": [r.symbol for r in rejected],
        "table": [r.table for r in rejected],
        "reason": [r.reason for r in rejected],
        "row": [r.row for r in rejected],
        "producer": [producer] * len(rejected),
        "timestamp": [r.timestamp for r in rejected],
        "receipt_timestamp": [r.receipt_timestamp for r in rejected],
    }
    schema = STORED["rejected"].arrow_input(numeric, memory=True)
    arrays = [
        pa.array(given[field.name], pa.string()).dictionary_encode()
        if pa.types.is_dictionary(field.type)
        else pa.array(given[field.name], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def reject_all(table: str, items: Sequence[Any], reason: str) -> list[Rejected]:
    """Return every item as rejected for ``reason``: what is done when converting them fails altogether."""
    now = time.time()
    return [_rejected(STORED[table], item, reason, now) for item in items]


def _fill_flat(schema: TableSchema, items: Sequence[Item], numeric: NumericType) -> tuple[list[pa.Array], Bad]:
    objects = [item[0] for item in items]
    receipts = [item[1] for item in items]
    if objects and type(objects[0]) is tuple:
        names = sources(schema.name)
        values = {name: list(map(itemgetter(place), objects)) for place, name in enumerate(names)}
    else:
        values = {name: _attributes(objects, name) for name in sources(schema.name)}
    arrays: list[pa.Array] = []
    bad: Bad = {}
    for spec in schema.columns:
        if spec.name == "seq":
            continue
        if spec.name == "timestamp":
            filled = columns.times(spec, values["timestamp"], receipts)
        elif spec.name == "receipt_timestamp":
            filled = columns.column(spec, receipts, numeric)
        else:
            assert spec.source is not None, f"column {schema.name}.{spec.name} says not where it comes from"
            filled = columns.column(spec, values[spec.source], numeric)
        arrays.append(filled.array)
        _add(bad, filled.bad)
    return arrays, bad


def _fill_books(schema: TableSchema, events: Sequence[BookEvent], numeric: NumericType) -> tuple[list[pa.Array], Bad]:
    books, receipts, timestamps, numbers, checksums, snapshots, bids, asks = (
        zip(*events, strict=True) if events else ((),) * 8
    )
    width = 3 if schema.name == "l3_book" else 2
    bid, ask = columns.sides("bids", bids, width, numeric), columns.sides("asks", asks, width, numeric)
    values: dict[str, Sequence[Any]] = {
        "exchange": _attributes(books, "exchange"),
        "symbol": _attributes(books, "symbol"),
        "sequence_number": numbers,
        "checksum": [None if value is None else str(value) for value in checksums],
        "is_snapshot": snapshots,
        "receipt_timestamp": receipts,
    }
    ready: dict[str, pa.Array | None] = {
        "bid_ids": bid.ids,
        "bid_prices": bid.prices,
        "bid_sizes": bid.sizes,
        "ask_ids": ask.ids,
        "ask_prices": ask.prices,
        "ask_sizes": ask.sizes,
    }
    arrays: list[pa.Array] = []
    bad: Bad = {}
    for spec in schema.columns:
        if spec.name == "seq":
            continue
        if spec.name in ready:
            arrays.append(ready[spec.name])
            continue
        if spec.name == "timestamp":
            filled = columns.times(spec, timestamps, receipts)
        else:
            filled = columns.column(spec, values[spec.name], numeric)
        arrays.append(filled.array)
        _add(bad, filled.bad)
    _add(bad, bid.bad)
    _add(bad, ask.bad)
    return arrays, bad


def _attributes(objects: Sequence[Any], name: str) -> list[Any]:
    try:
        return list(map(attrgetter(name), objects))
    except AttributeError:
        return [getattr(one, name, None) for one in objects]


def _add(bad: Bad, more: Bad) -> None:
    for index, reason in more.items():
        bad[index] = f"{bad[index]}; {reason}" if index in bad else reason


def _parts(table: str, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    if table not in BOOK_TABLES:
        yield items
        return
    start, levels = 0, 0
    for index, event in enumerate(items):
        weight = len(event[6]) + len(event[7])
        if levels + weight > LEVELS_MAX and index > start:
            yield items[start:index]
            start, levels = index, 0
        levels += weight
    if start < len(items):
        yield items[start:]


def _rejected(schema: TableSchema, item: Any, reason: str, now: float) -> Rejected:
    if type(item[0]) is tuple:
        item = (SimpleNamespace(**dict(zip(sources(schema.name), item[0], strict=True))), item[1])
    source = item[0]
    row = _book_row(item) if schema.name in BOOK_TABLES else _flat_row(schema, item)
    symbol = next(spec.source for spec in schema.columns if spec.name == "symbol") or "symbol"
    receipt = _time_or(item[1], _us(now))
    timestamp = item[2] if schema.name in BOOK_TABLES else getattr(source, "timestamp", None)
    return Rejected(
        exchange=_name_or(getattr(source, "exchange", None)),
        symbol=_name_or(getattr(source, symbol, None)),
        table=schema.name,
        reason=columns.clean(reason),
        row=columns.clean(json.dumps(row)),
        timestamp=_time_or(timestamp, receipt),
        receipt_timestamp=receipt,
    )


def _flat_row(schema: TableSchema, item: Item) -> dict[str, Any]:
    source, receipt = item
    names = [spec.source for spec in schema.columns if spec.source is not None]
    return {name: _plain(getattr(source, name, None)) for name in names} | {"receipt_timestamp": _plain(receipt)}


def _book_row(event: BookEvent) -> dict[str, Any]:
    names = ("receipt_timestamp", "timestamp", "sequence_number", "checksum", "is_snapshot", "bids", "asks")
    head = {name: _plain(getattr(event[0], name, None)) for name in ("exchange", "symbol")}
    return head | {name: _plain(value) for name, value in zip(names, event[1:], strict=True)}


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it, numbers as the text that they were."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    return repr(value)


def _name_or(value: Any) -> str:
    return columns.clean(value) if isinstance(value, str) and value else "unknown"


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _time_or(value: Any, other: int) -> int:
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return other
    return _us(seconds) if 0 < seconds < columns.SECONDS_END else other
