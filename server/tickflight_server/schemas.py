"""The tables, as literals: one per cryptofeed channel, plus the system tables that are stored like them.

The rule of this file: a column is written down once, here. The feed reads ``source`` to convert objects, the store
reads the types to validate and write, the wire reads them to describe, the documentation prints them.

Column kinds and what they are in Arrow:

    kind        on the wire and in parts      in the ring
    label       string                        dictionary<int32, string>   (few distinct values)
    text        string                        string
    number      float64 or decimal128(38,18)  the same                    (``numeric_type``)
    time        timestamp[us], UTC, no zone   the same
    int         int64                         the same
    flag        bool                          the same
    numbers     list<number>                  the same
    texts       list<string>                  the same
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import pyarrow as pa

from tickflight_server.errors import NotFoundError

Kind = Literal["label", "text", "number", "time", "int", "flag", "numbers", "texts"]
NumericType = Literal["float64", "decimal"]

TIMESTAMP = pa.timestamp("us")
DECIMAL = pa.decimal128(38, 18)
LABEL = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Column:
    """One column: its name, its kind, and the attribute of the cryptofeed object that it holds.

    ``source`` is None where the value does not come from an attribute of the same meaning (``seq``, which the store
    gives, and what the book conversion computes).
    """

    name: str
    kind: Kind
    source: str | None = None
    required: bool = False

    def arrow_type(self, numeric: NumericType, *, memory: bool = False) -> pa.DataType:
        """Return the Arrow type of the column on the wire and in parts, or in the ring with ``memory``."""
        number = DECIMAL if numeric == "decimal" else pa.float64()
        return {
            "label": LABEL if memory else pa.string(),
            "text": pa.string(),
            "number": number,
            "time": TIMESTAMP,
            "int": pa.int64(),
            "flag": pa.bool_(),
            "numbers": pa.list_(number),
            "texts": pa.list_(pa.string()),
        }[self.kind]


@dataclass(frozen=True)
class TableSchema:
    """A stored table: ``schema``.``name`` and its columns in order. ``seq`` is always the last column."""

    name: str
    schema: Literal["market", "system"]
    columns: tuple[Column, ...]
    comment: str

    @lru_cache  # noqa: B019 - the instances are the literals below and live as long as the process
    def arrow(self, numeric: NumericType = "float64", *, memory: bool = False) -> pa.Schema:
        """Return the Arrow schema, ``seq`` included."""
        return pa.schema([(c.name, c.arrow_type(numeric, memory=memory)) for c in self.columns])

    @lru_cache  # noqa: B019 - as above
    def arrow_input(self, numeric: NumericType = "float64", *, memory: bool = False) -> pa.Schema:
        """Return the Arrow schema of what a producer sends: everything but ``seq``, which the store gives."""
        schema = self.arrow(numeric, memory=memory)
        return schema.remove(schema.get_field_index("seq"))

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the columns that may not be null."""
        return tuple(c.name for c in self.columns if c.required)


def _label(name: str) -> Column:
    return Column(name, "label", name)


def _text(name: str) -> Column:
    return Column(name, "text", name)


def _number(name: str) -> Column:
    return Column(name, "number", name)


def _time(name: str) -> Column:
    return Column(name, "time", name)


_HEAD = (Column("exchange", "label", "exchange", required=True), Column("symbol", "label", "symbol", required=True))
# balances and transactions have a currency and no symbol: the currency stands in for it, so that every table is
# partitioned alike, and is kept under its own name too.
_HEAD_CURRENCY = (
    Column("exchange", "label", "exchange", required=True),
    Column("symbol", "label", "currency", required=True),
)
_TAIL = (
    Column("timestamp", "time", "timestamp", required=True),
    Column("receipt_timestamp", "time", None, required=True),
    Column("seq", "int", None),
)
_BOOK_HEAD = (Column("sequence_number", "int"), Column("checksum", "text"), Column("is_snapshot", "flag"))


def _market(name: str, comment: str, *columns: Column, head: tuple[Column, ...] = _HEAD) -> TableSchema:
    return TableSchema(name, "market", (*head, *columns, *_TAIL), comment)


_ALL = (
    _market(
        "trades",
        "executed trades",
        *(_label("side"), _number("amount"), _number("price"), _text("id"), _label("type")),
    ),
    _market("ticker", "best bid and ask prices", _number("bid"), _number("ask")),
    _market(
        "l1_book",
        "best bid and ask with their sizes",
        *(_number("bid_price"), _number("bid_size"), _number("ask_price"), _number("ask_size")),
    ),
    _market(
        "l2_book",
        "book events by price: a snapshot holds all levels, a delta the changed ones (size 0 removes a level)",
        *_BOOK_HEAD,
        *(Column(f"{side}_{what}", "numbers") for side in ("bid", "ask") for what in ("prices", "sizes")),
    ),
    _market(
        "l3_book",
        "book events by order: a snapshot holds all orders, a delta the changed ones (size 0 removes an order)",
        *_BOOK_HEAD,
        Column("bid_ids", "texts"),
        Column("bid_prices", "numbers"),
        Column("bid_sizes", "numbers"),
        Column("ask_ids", "texts"),
        Column("ask_prices", "numbers"),
        Column("ask_sizes", "numbers"),
    ),
    _market(
        "funding",
        "funding rates of perpetuals",
        *(_number("mark_price"), _number("rate"), _time("next_funding_time"), _number("predicted_rate")),
    ),
    _market("open_interest", "open interest of derivatives", _number("open_interest")),
    _market(
        "liquidations",
        "forced trades",
        *(_label("side"), _number("quantity"), _number("price"), _text("id"), _label("status")),
    ),
    _market(
        "candles",
        "the exchange's own bars",
        *(_time("start"), _time("stop"), _label("interval"), Column("trades", "int", "trades")),
        *(_number("open"), _number("close"), _number("high"), _number("low"), _number("volume")),
        Column("closed", "flag", "closed"),
    ),
    _market("index", "index prices", _number("price")),
    _market(
        "order_info",
        "states of own orders",
        *(_text("id"), _text("client_order_id"), _label("side"), _label("status"), _label("type")),
        *(_number("price"), _number("amount"), _number("remaining"), _label("account")),
    ),
    _market(
        "fills",
        "executions of own orders",
        *(_number("price"), _number("amount"), _label("side"), _number("fee"), _text("id"), _text("order_id")),
        *(_label("liquidity"), _label("type"), _label("account")),
    ),
    _market(
        "balances",
        "balances of own accounts; symbol holds the currency",
        *(_label("currency"), _number("balance"), _number("reserved")),
        head=_HEAD_CURRENCY,
    ),
    _market(
        "positions",
        "own positions",
        *(_number("position"), _number("entry_price"), _label("side"), _number("unrealised_pnl")),
    ),
    _market(
        "transactions",
        "deposits and withdrawals; symbol holds the currency",
        *(_label("currency"), _label("type"), _label("status"), _number("amount")),
        head=_HEAD_CURRENCY,
    ),
    TableSchema(
        "rejected",
        "system",
        (
            *_HEAD,
            Column("table", "label", required=True),
            Column("reason", "text", required=True),
            Column("row", "text"),
            Column("producer", "label"),
            *_TAIL,
        ),
        "rows that failed validation, kept aside as JSON with the reason",
    ),
    TableSchema(
        "gaps",
        "system",
        (
            *_HEAD,
            _label("channel"),
            Column("cause", "label", "cause", required=True),
            Column("start", "time", "start", required=True),
            Column("end", "time", "end", required=True),
            *(Column(name, "int", name) for name in ("expected", "received")),
            _text("detail"),
            _label("producer"),
            *_TAIL,
        ),
        "holes that a feed knows of: reconnects, missing book numbers, silence, dropped events",
    ),
)

STORED: Mapping[str, TableSchema] = {t.name: t for t in _ALL}
"""Every stored table by name."""

MARKET: Mapping[str, TableSchema] = {t.name: t for t in _ALL if t.schema == "market"}
"""The tables of schema ``market`` by name, which is cryptofeed's own constant of the channel."""


def stored(name: str, tables: Mapping[str, TableSchema] = STORED) -> TableSchema:
    """Return the stored table ``name``, one of ``tables``, which may have its schema before it.

    Raises:
        NotFoundError: there is no such table.
    """
    schema, _, table = name.lower().rpartition(".")
    found = tables.get(table)
    if found is None or schema not in ("", found.schema):
        raise NotFoundError(
            f"there is no stored table {name[:100]!r}.",
            hint=f"There are {', '.join(f'{t.schema}.{t.name}' for t in tables.values()) or 'none'}.",
        )
    return found
