"""Tardis.dev's downloadable CSV datasets.

Columns and their meaning are those of https://docs.tardis.dev/downloadable-csv-files/data-types. Times are microseconds
since 1970, UTC; every line names its exchange and symbol. ``local_timestamp``, when the message came in at Tardis.dev,
is our ``receipt_timestamp``.

The rule of this file: the kinds of files are one table, ``KINDS``; ``options_chain`` is not among them, for there is no
table for it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.app.backfill.books import LevelGrouper
from tickflight_server.app.backfill.cells import Cells
from tickflight_server.app.backfill.files import SourceFile
from tickflight_server.app.backfill.layout import Layout, Rows, Wishes, batch_of, choose_table
from tickflight_server.app.backfill.symbols import exchange_name, symbol_name
from tickflight_server.errors import InputError, UnsupportedError

HEAD = ("exchange", "symbol", "timestamp", "local_timestamp")
_TRADE = (*HEAD, "id", "side", "price", "amount")
_QUOTE = (*HEAD, "ask_amount", "ask_price", "bid_price", "bid_amount")
_LEVEL = (*HEAD, "is_snapshot", "side", "price", "amount")
_DERIVATIVE = (
    *(*HEAD, "funding_timestamp", "funding_rate", "predicted_funding_rate", "open_interest"),
    *("last_price", "index_price", "mark_price"),
)
_SNAPSHOT_COLUMN = re.compile(r"(asks|bids)\[(\d+)\]\.(price|amount)")
_OPTIONS = "strike_price"  # a column of options_chain alone
Columns = dict[str, pa.Array]


class Tardis:
    """The conversions of one file."""

    def __init__(self, wishes: Wishes, table: str | None = None) -> None:
        self._wishes = wishes
        self._table = table
        self._grouper = LevelGrouper()

    def head(self, cells: Cells) -> Columns:
        """Return the columns that all tables have."""
        venues = cells.text("exchange")
        venue = next((v for v in venues.to_pylist() if v), "")
        if self._wishes.exchange:
            exchange = cells.constant(self._wishes.exchange)
        else:
            exchange = cells.label("exchange", exchange_name, "is no exchange that cryptofeed knows: give --exchange")
        if self._wishes.symbol:
            symbol = cells.constant(self._wishes.symbol)
        else:
            unknown = f"of {venue} has no name that can be told from it: give --symbol"
            symbol = cells.label("symbol", lambda s: symbol_name(venue, s), unknown)
            for row in np.flatnonzero(pc.not_equal(venues, venue).fill_null(False).to_numpy(zero_copy_only=False)):
                cells.fault(row, f"exchange is not {venue}, as in the lines before")
        received = cells.time("local_timestamp")
        happened = pc.coalesce(cells.time("timestamp"), received)
        cells.require("exchange", exchange)
        cells.require("symbol", symbol)
        cells.require("local_timestamp", received)
        return {"exchange": exchange, "symbol": symbol, "timestamp": happened, "receipt_timestamp": received}

    def trades(self, cells: Cells) -> list[Rows]:
        """One line is one trade, or one liquidation."""
        head = self.head(cells)
        amount = "amount" if self._table == "trades" else "quantity"
        columns = {
            "side": _side(cells, "buy", "sell", "unknown"),
            amount: cells.require("amount", cells.number("amount")),
            "price": cells.require("price", cells.number("price")),
            "id": cells.text("id"),
        }
        return [(str(self._table), batch_of(cells, head | columns))]

    def quotes(self, cells: Cells) -> list[Rows]:
        """One line is the best bid and ask."""
        columns = self.head(cells)
        if self._table == "l1_book":
            columns |= {f"{s}_price": cells.number(f"{s}_price") for s in ("bid", "ask")}
            columns |= {f"{s}_size": cells.number(f"{s}_amount") for s in ("bid", "ask")}
        else:
            columns |= {s: cells.number(f"{s}_price") for s in ("bid", "ask")}
        return [(str(self._table), batch_of(cells, columns))]

    def levels(self, cells: Cells) -> list[Rows]:
        """Lines that came together are one event."""
        columns = self.head(cells)
        columns["is_snapshot"] = cells.require("is_snapshot", cells.flag("is_snapshot"))
        side = cells.require("side", _side(cells, "bid", "ask"))
        columns["is_bid"] = pc.equal(side.cast(pa.string()), "bid")
        columns |= {n: cells.require(n, cells.number(n)) for n in ("price", "amount")}
        table = pa.table(columns)
        good = cells.good()
        events = self._grouper.add(table if good is None else table.filter(good))
        return [] if events is None else [("l2_book", events)]

    def finish_levels(self) -> list[Rows]:
        """Return the last event."""
        events = self._grouper.finish()
        return [] if events is None else [("l2_book", events)]

    def snapshots(self, cells: Cells, depth: int) -> list[Rows]:
        """One line is a full book of up to ``depth`` levels a side, best first; places without a level are empty."""
        columns = self.head(cells)
        columns["is_snapshot"] = pa.array(np.ones(cells.rows, bool))
        for side in ("bid", "ask"):
            prices, sizes = _level_lists(cells, side, depth)
            columns |= {f"{side}_prices": prices, f"{side}_sizes": sizes}
        return [("l2_book", batch_of(cells, columns))]

    def derivative(self, cells: Cells) -> list[Rows]:
        """One line is what changed of a contract's funding, open interest and prices: a row for each table it fills."""
        head = self.head(cells)
        parts = {
            "funding": {
                "mark_price": cells.number("mark_price"),
                "rate": cells.number("funding_rate"),
                "next_funding_time": cells.time("funding_timestamp"),
                "predicted_rate": cells.number("predicted_funding_rate"),
            },
            "open_interest": {"open_interest": cells.number("open_interest")},
            "index": {"price": cells.number("index_price")},
        }
        found: list[Rows] = []
        for table, columns in parts.items():
            if self._table not in (None, table):
                continue
            batch = batch_of(cells, head | columns)
            told = [batch.column(name).is_valid() for name in columns]
            batch = batch.filter(functools.reduce(pc.or_, told))
            if batch.num_rows:
                found.append((table, batch))
        return found


def _side(cells: Cells, *known: str) -> pa.Array:
    names = {name: name for name in known}
    side = cells.label("side", names.get, f"is none of {', '.join(known)}").cast(pa.string())
    # where Tardis.dev does not know the side, neither do we
    return pc.if_else(pc.equal(side, "unknown"), pa.scalar(None, pa.string()), side).dictionary_encode()


def _level_lists(cells: Cells, side: str, depth: int) -> tuple[pa.Array, pa.Array]:
    prices = [cells.number(f"{side}s[{i}].price") for i in range(depth)]
    sizes = [cells.number(f"{side}s[{i}].amount") for i in range(depth)]
    has_price = np.stack([p.is_valid().to_numpy(zero_copy_only=False) for p in prices], axis=1)
    has_size = np.stack([s.is_valid().to_numpy(zero_copy_only=False) for s in sizes], axis=1)
    for row in np.flatnonzero((has_price != has_size).any(axis=1)):
        cells.fault(row, f"{side}s have a price without an amount, or an amount without a price")
    offsets = pa.array(np.r_[0, np.cumsum(has_price.sum(axis=1))], pa.int32())
    rows, levels = np.nonzero(has_price)
    places = pa.array(levels * cells.rows + rows)  # the columns lie one behind the other
    flat = [pa.concat_arrays(arrays).take(places) for arrays in (prices, sizes)]
    return pa.ListArray.from_arrays(offsets, flat[0]), pa.ListArray.from_arrays(offsets, flat[1])


@dataclass(frozen=True)
class _Kind:
    columns: tuple[str, ...]
    tables: tuple[str, ...]
    convert: Callable[[Tardis], Callable[[Cells], list[Rows]]]


KINDS: Mapping[str, _Kind] = {
    "trades": _Kind(_TRADE, ("trades",), lambda t: t.trades),
    "liquidations": _Kind(_TRADE, ("liquidations",), lambda t: t.trades),
    "quotes": _Kind(_QUOTE, ("l1_book", "ticker"), lambda t: t.quotes),
    "book_ticker": _Kind(_QUOTE, ("l1_book", "ticker"), lambda t: t.quotes),
    "incremental_book_L2": _Kind(_LEVEL, ("l2_book",), lambda t: t.levels),
    "derivative_ticker": _Kind(_DERIVATIVE, ("funding", "open_interest", "index"), lambda t: t.derivative),
}


def is_tardis(header: tuple[str, ...]) -> bool:
    """Whether a first line is that of a Tardis.dev dataset."""
    return header[:4] == HEAD


def tardis_layout(file: SourceFile, header: tuple[str, ...], wishes: Wishes) -> Layout:
    """Return the layout of a dataset.

    Raises:
        InputError: it is none, or its kind cannot be told.
        UnsupportedError: it is one that no table takes.
    """
    if not is_tardis(header):
        raise InputError(
            f"{file.path} does not begin with the columns {', '.join(HEAD)}.", hint="Is --format right? See the file."
        )
    if _OPTIONS in header:
        raise UnsupportedError(f"{file.path} is an options_chain, which no table takes.", hint="Leave it out.")
    if _SNAPSHOT_COLUMN.fullmatch(header[4] if len(header) > 4 else ""):
        return _snapshot_layout(file, header, wishes)
    kind = _kind(file, header, wishes)
    many = kind == "derivative_ticker" and wishes.table is None
    table = None if many else choose_table(wishes.table, KINDS[kind].tables, f"Tardis.dev's {kind}")
    tardis = Tardis(wishes, table)
    return Layout(
        # two kinds of one shape, and a file may carry any name: what counts is the shape and the table
        name="tardis",
        columns=header,
        used=tuple(c for c in KINDS[kind].columns if c != "last_price"),
        header=True,
        tables=KINDS[kind].tables if table is None else (table,),
        mapping={"exchange": wishes.exchange, "symbol": wishes.symbol},
        convert=KINDS[kind].convert(tardis),
        finish=tardis.finish_levels if kind == "incremental_book_L2" else list,
    )


def _snapshot_layout(file: SourceFile, header: tuple[str, ...], wishes: Wishes) -> Layout:
    depth = len(header[4:]) // 4
    wanted = {f"{s}[{i}].{w}" for s in ("asks", "bids") for i in range(depth) for w in ("price", "amount")}
    if set(header[4:]) != wanted:
        raise InputError(f"{file.path} has other columns than a book_snapshot.", hint="See its first line.")
    choose_table(wishes.table, ("l2_book",), "Tardis.dev's book snapshots")
    tardis = Tardis(wishes, "l2_book")
    return Layout(
        name="tardis",
        columns=header,
        used=header,
        header=True,
        tables=("l2_book",),
        mapping={"exchange": wishes.exchange, "symbol": wishes.symbol},
        convert=lambda cells: tardis.snapshots(cells, depth),
        chunk_rows=8192,
    )


def _kind(file: SourceFile, header: tuple[str, ...], wishes: Wishes) -> str:
    """Return the kind of a file: by its columns, and where two kinds have the same, by its name or the wished table."""
    fitting = [kind for kind, k in KINDS.items() if set(k.columns) == set(header)]
    if not fitting:
        raise InputError(
            f"{file.path} has none of the headers of Tardis.dev's datasets.", hint=f"Known are {', '.join(KINDS)}."
        )
    if len(fitting) == 1 or fitting[0] == "quotes":
        return fitting[0]
    if wishes.table is not None:
        for kind in fitting:
            if wishes.table.removeprefix("market.") in KINDS[kind].tables:
                return kind
    # either <exchange>_<kind>_<day>_<symbol>.csv.gz or …/<exchange>/<kind>/<year>/<month>/<day>/<symbol>.csv.gz
    named = [k for k in fitting if f"_{k}_" in file.name or k in file.path.parts[:-1]]
    if len(named) == 1:
        return named[0]
    raise InputError(
        f"{file.path} may hold trades or liquidations: both have these columns.",
        hint=f"Give --table {' or --table '.join(fitting)}, or keep Tardis.dev's file name.",
    )
