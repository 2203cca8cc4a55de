"""The roads that rows come by in an order: replays, tails, live queries, order books.

The rule of this file: a road is a row of ``STREAMS``; what it is to give is worked out from plain rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import pyarrow as pa
from pyarrow import flight
from rights_market import MARKETS
from rights_roads import named
from rights_visitor import MISSING, Visitor

from tickflight.errors import UnsupportedError, translate
from tickflight.wire.streams import Replay, Selection, Tail, TailMark
from tickflight_server.schemas import STORED


def replays(v: Visitor) -> None:
    """Stored rows in order of time."""
    for table in v.some(STORED, 2):
        there = v.case.columns(table)
        if not there:
            v.missing(table, table, lambda name: _replay(v, name))
            continue
        rows = v.case.whole_rows(table, v.market)
        if not {"timestamp", "receipt_timestamp", "seq"} <= set(there):
            # its order, and its range, would tell what is in columns that are not there
            v.fails(lambda t=table: _replay(v, t))
            continue
        rows = sorted(rows, key=lambda r: (r["timestamp"], r["receipt_timestamp"], r["seq"]))
        expected = [{c: r[c] for c in there} for r in rows]
        v.rows(f"a replay of {table}", _replay(v, table), expected, ordered=True)
        if "symbol" in there:
            symbol = v.random.choice(MARKETS)[1]
            v.rows(
                f"a replay of {table} of {symbol}",
                _replay(v, table, symbols=(symbol,)),
                [r for r in expected if r["symbol"] == symbol],
                ordered=True,
            )
        else:
            v.fails(lambda t=table: _replay(v, t, symbols=("XBT-USDT",)))
        hidden = [c.name for c in STORED[table].columns if c.name not in there]
        for column in v.some(hidden, 2):
            v.missing(column, column, lambda name, t=table: _replay(v, t, columns=(name,)))
            v.missing(f"{column} IS NOT NULL", column, lambda where, t=table: _replay(v, t, where=where))


def _replay(v: Visitor, table: str, **more: Any) -> pa.Table:
    return v.get(Replay(Selection(table, **more)))


def tails(v: Visitor) -> None:
    """Rows as they come, with the stored ones before them."""
    for table in v.some(STORED, 1):
        there = v.case.columns(table)
        if not there:
            v.missing(table, table, lambda name: _tail(v, Tail(Selection(name), after_seq=0), 1))
            v.missing(table, table, lambda name: v.table(f"FROM tail('{name}') LIMIT 1"))
            continue
        if "seq" not in there:
            v.fails(lambda t=table: _tail(v, Tail(Selection(t), after_seq=0), 1))
            continue
        rows = v.case.rows(table, v.market)
        got, _ = _tail(v, Tail(Selection(table), after_seq=0), len(rows))
        v.rows(f"a tail of {table}", got, rows, ordered=True)
        for column in v.some((c.name for c in STORED[table].columns if c.name not in there), 1):
            v.missing(column, column, partial(_tail_of, v, table))
        if "timestamp" not in there:
            v.fails(lambda t=table: _tail(v, Tail(Selection(t), since_us=0), 1))


def _tail_of(v: Visitor, table: str, column: str) -> object:
    return _tail(v, Tail(Selection(table, columns=(column,)), after_seq=0), 1)


def _tail(v: Visitor, request: Tail, wanted: int) -> tuple[pa.Table, TailMark]:
    """Return what a tail sends until it has nothing more to send, and its last mark."""
    batches, quiet, mark, stream = [], 0, TailMark(), None
    try:
        stream = v.flight.do_get(flight.Ticket(request.serialize()), v.options())
        while quiet < 2:
            chunk = stream.read_chunk()
            mark = TailMark.parse(chunk.app_metadata.to_pybytes())
            batches.append(chunk.data)
            rows = sum(b.num_rows for b in batches)
            quiet = quiet + 1 if not chunk.data.num_rows and rows >= min(wanted, rows) else 0
        return pa.Table.from_batches(batches, stream.schema), mark
    except (flight.FlightError, pa.ArrowException, OSError) as error:
        raise translate(error) from None
    finally:
        if stream is not None:
            stream.cancel()


def lives(v: Visitor) -> None:
    """The first result of a live query."""
    for table in v.some(v.case.sees, 1):
        rows = len(v.case.rows(table, v.market))
        with v.client.live(f"SELECT count(*) AS n FROM {named(table)}", every=0.05) as live:
            v.rows(f"a live count of {table}", next(iter(live)), [{"n": rows}])
    for table in v.some((t for t in STORED if t not in v.case.sees), 1):
        v.missing(f"SELECT count(*) AS n FROM {named(table)}", table, lambda sql: v.client.live(sql).close())


def books(v: Visitor) -> None:
    """Order books of instants."""
    shown = {
        "exchange",
        "symbol",
        "timestamp",
        "seq",
        "is_snapshot",
        "bid_prices",
        "bid_sizes",
        "ask_prices",
        "ask_sizes",
    }
    there = set(v.case.columns("l2_book"))
    instants = [v.market.now - timedelta(hours=h) for h in (0, 4.5, 47.2, 48.7, 100, 900)]
    for (exchange, symbol), at in v.some(itertools.product(MARKETS, instants), 2):
        sql = "SELECT bid_price, bid_size, ask_price, ask_size, seq FROM book_at(?, ?, ?)"
        if not shown <= there:
            v.fails(lambda q=sql, values=(exchange, symbol, at): v.table(q, values), (UnsupportedError, *MISSING))
            continue
        rows = [
            r
            for r in v.case.whole_rows("l2_book", v.market)
            if (r["exchange"], r["symbol"]) == (exchange, symbol) and r["timestamp"] <= at
        ]
        expected = _book(max(rows, key=lambda r: r["timestamp"])) if rows else []
        v.same(sql, expected, [exchange, symbol, at], ordered=True)
        series = v.table(
            "SELECT seq FROM books(?, ?, ?, ?, INTERVAL 1 HOUR)", [exchange, symbol, at - timedelta(hours=1), at]
        )
        v.check(set(series["seq"].to_pylist()) <= {r["seq"] for r in rows}, f"books of {exchange} {symbol} show others")


def _book(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    levels = zip(*(row[f"{side}_{what}"] for side in ("bid", "ask") for what in ("prices", "sizes")), strict=True)
    return [
        dict(zip(("bid_price", "bid_size", "ask_price", "ask_size"), level, strict=True)) | {"seq": row["seq"]}
        for level in levels
    ]


STREAMS: Mapping[str, Callable[[Visitor], None]] = {
    "replay": replays,
    "tail": tails,
    "live": lives,
    "books": books,
}
