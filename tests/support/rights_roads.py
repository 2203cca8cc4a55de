"""The roads that rows are read by, each tried for all that a user may see and for what it may not.

The rule of this file: a road is a row of ``READING``; what it is to give is worked out from plain rows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
from rights_market import MARKETS, TABLES
from rights_visitor import Visitor

from tickflight.errors import QueryError, TickflightError, UnsupportedError
from tickflight.wire.commands import CommandStatementQuery
from tickflight_server.schemas import STORED

EPOCH = datetime(1970, 1, 1)
_NUMBERS = ("price", "amount", "bid", "mark_price", "balance", "expected", "seq")
_SUMS = ("price", "amount", "bid", "mark_price", "balance", "expected")


def us(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def named(table: str) -> str:
    return f"{STORED[table].schema}.{table}"


def whole(v: Visitor) -> None:
    """Every table as it is, and every table that is not there."""
    for table in v.some(STORED, 4):
        columns = v.case.columns(table)
        if not columns:
            v.missing(f"FROM {named(table)}", table)
            v.missing(f"SELECT count(*) FROM {table} AS t", table)
            continue
        rows = v.case.rows(table, v.market)
        v.same(f"FROM {named(table)}", rows)
        v.same(f"SELECT * FROM {table}", rows, dictionaries=True)
        v.same(f"SELECT t.* FROM {table} AS t LIMIT 1000", rows)
        names = v.table(f"FROM {named(table)} LIMIT 0").schema.names
        v.check(names == columns, f"{table} has columns {names}, wanted {columns}")


def columns(v: Visitor) -> None:
    """Every column by itself, in every way of naming one."""
    # a column that is called as its table is, is a row of it where it is not there
    pairs = [(t, c.name) for t in v.case.sees for c in STORED[t].columns if c.name != t]
    for table, column in v.some(pairs, 8):
        if column in v.case.columns(table):
            rows = [{column: row[column]} for row in v.case.rows(table, v.market)]
            v.same(f'SELECT "{column}" FROM {named(table)}', rows)
            continue
        shape = v.random.choice(
            (
                "SELECT {c} FROM {t}",
                "SELECT x.{c} FROM {t} AS x",
                "SELECT 1 FROM {t} WHERE {c} IS NOT NULL",
                "SELECT count({c}) FROM {t}",
                "SELECT 1 FROM {t} ORDER BY {c}",
                "SELECT count(*) FROM {t} GROUP BY {c}",
                "SELECT * EXCLUDE ({c}) FROM {t}",
                "SELECT * FROM {t} AS a JOIN {t} AS b ON a.{c} = b.{c}",
                "SELECT (SELECT max(y.{c}) FROM {t} AS y)",
                "SELECT row_number() OVER (ORDER BY {c}) FROM {t}",
                "SELECT COLUMNS('^{c}$') FROM {t}",
            )
        )
        v.missing(shape.format(c=column, t=named(table)), column)
        v.missing(f'SELECT "{column.upper()}" FROM {named(table)}', column.upper())


def labels(v: Visitor) -> None:
    """Every exchange and symbol of every table, by conditions that are understood without the engine."""
    places = [(t, e, s) for t in TABLES for e, s in (*MARKETS, ("ALPHA", "XMR-GBP"))]
    for table, exchange, symbol in v.some(places, 4):
        there = v.case.columns(table)
        if not {"exchange", "symbol"} <= set(there):
            continue
        rows = [r for r in v.case.rows(table, v.market) if (r["exchange"], r["symbol"]) == (exchange, symbol)]
        where = f"FROM {named(table)} WHERE exchange = '{exchange}' AND symbol = '{symbol}'"
        v.same(f"SELECT * {where}", rows)
        v.same(f"SELECT * FROM {table} WHERE exchange = ? AND symbol = ?", rows, [exchange, symbol], dictionaries=True)
        v.same(f"SELECT count(*) AS n {where}", [{"n": len(rows)}])
        if "seq" in there:
            last = [{"n": max((r["seq"] for r in rows), default=None)}]
            v.same(f"SELECT max(seq) AS n {where}", last)


def times(v: Visitor) -> None:
    """Ranges of time, on both sides of where a history ends."""
    for table in v.some(v.case.sees, 1):
        if "timestamp" not in v.case.columns(table):
            continue
        rows = v.case.rows(table, v.market)
        for hours in v.some(((2000, 49), (49, 47), (51, 0), (200, 24), (24, -1)), 2):
            first, last = (v.market.now - timedelta(hours=h) for h in hours)
            kept = [r for r in rows if first <= r["timestamp"] < last]
            v.same(f"SELECT * FROM {named(table)} WHERE timestamp >= ? AND timestamp < ?", kept, [first, last])
            where = f"timestamp BETWEEN TIMESTAMP '{first}' AND TIMESTAMP '{last}'"
            kept = [r for r in rows if first <= r["timestamp"] <= last]
            v.same(f"SELECT count(*) AS n FROM {named(table)} WHERE {where}", [{"n": len(kept)}])


def aggregates(v: Visitor) -> None:
    """What counts, sums and describes."""
    for table in v.some(v.case.sees, 1):
        there, rows = v.case.columns(table), v.case.rows(table, v.market)
        v.same(f"SELECT count(*) AS n FROM {named(table)}", [{"n": len(rows)}])
        for column in v.some((c for c in _NUMBERS if c in there), 1):
            values = [r[column] for r in rows if r[column] is not None]
            bounds = {"low": min(values, default=None), "high": max(values, default=None), "n": len(values)}
            v.same(f"SELECT min({column}) AS low, max({column}) AS high, count({column}) AS n FROM {table}", [bounds])
            if column in _SUMS:
                total = {"s": float(sum(values)) if values else None}
                v.same(f"SELECT sum({column})::DOUBLE AS s FROM {table}", [total])
        for column in v.some((c for c in ("exchange", "symbol", "side", "account") if c in there), 1):
            groups: dict[Any, int] = defaultdict(int)
            for row in rows:
                groups[row[column]] += 1
            expected = [{column: k, "n": n} for k, n in groups.items()]
            v.same(f"SELECT {column}, count(*) AS n FROM {named(table)} GROUP BY {column}", expected)
            v.same(f"SELECT DISTINCT {column} FROM {named(table)}", [{column: k} for k in groups])
            v.same(f"SELECT approx_count_distinct({column}) > {len(groups) * 2 + 1} AS n FROM {table}", [{"n": False}])
        told = v.table(f"SUMMARIZE {named(table)}")
        v.check(told["column_name"].to_pylist() == there, f"SUMMARIZE {table} names {told['column_name']}")
        v.check(set(told["count"].to_pylist()) <= {len(rows)}, f"SUMMARIZE {table} counts {told['count'][0]}")
        v.clean_table(told, f"SUMMARIZE {table}")
        described = v.table(f"DESCRIBE {named(table)}")["column_name"].to_pylist()
        v.check(described == there, f"DESCRIBE {table} names {described}")


def shapes(v: Visitor) -> None:
    """Joins, subqueries, common tables, windows, sets: rows by a detour."""
    for table in v.some(v.case.sees, 1):
        there, rows, name = v.case.columns(table), v.case.rows(table, v.market), named(table)
        number = [{"n": len(rows)}]
        counting = (
            f"WITH x AS (FROM {name}) SELECT count(*) AS n FROM x",
            f"WITH x AS MATERIALIZED (FROM {name}) SELECT count(*) AS n FROM x",
            f"SELECT (SELECT count(*) FROM {name}) AS n",
            f"SELECT count(*) AS n FROM (FROM {name} UNION ALL FROM {name} LIMIT {len(rows)})",
            f"SELECT count(*) AS n FROM (SELECT count(*) OVER () AS w FROM {name}) WHERE w = {len(rows)}",
            f"SELECT count(*) AS n FROM {name} WHERE random() >= 0",
            f"SELECT count(*) AS n FROM {name} AS t WHERE t IS NOT NULL",
            f"SELECT coalesce(sum(len([x])), 0)::BIGINT AS n FROM {name} AS x",
            f"SELECT count(*) AS n FROM {name} TABLESAMPLE 100%",
            f"SELECT count(*) AS n FROM (VALUES (1)) AS o(i), LATERAL (FROM {name})",
        )
        for sql in v.some(counting, 3):
            v.same(sql, number)
        if "seq" in there:
            v.same(f"SELECT count(*) AS n FROM {name} AS a JOIN {name} AS b USING (seq)", number)
            v.same(
                f"SELECT a.seq FROM {name} AS a WHERE EXISTS (FROM {name} AS b WHERE b.seq = a.seq)",
                [{"seq": r["seq"]} for r in rows],
            )
            v.same(
                f"SELECT seq FROM generate_series(1, 200) AS g(seq) SEMI JOIN {name} USING (seq)",
                [{"seq": r["seq"]} for r in rows],
            )
        if {"symbol", "timestamp", "seq"} <= set(there):
            on = "a.symbol = b.symbol AND a.timestamp >= b.timestamp"
            sql = f"SELECT a.seq, b.seq AS b FROM {name} AS a ASOF JOIN {name} AS b ON {on}"
            pairs = v.table(sql)
            seqs = {r["seq"] for r in rows}
            v.check(
                set(pairs["b"].to_pylist()) <= seqs and set(pairs["seq"].to_pylist()) == seqs, f"{sql} joins others"
            )
        for hidden in v.some((t for t in STORED if t not in v.case.sees), 2):
            v.missing(f"SELECT * FROM {name} AS a, {named(hidden)} AS b", hidden)
            v.missing(f"SELECT count(*) FROM {name} WHERE EXISTS (FROM {hidden})", hidden)
            v.missing(f"WITH x AS (FROM {hidden}) SELECT 1", hidden)


def poison(v: Visitor) -> None:
    """Expressions that fail on rows which may not be seen: they are never tried on them."""
    for table, column in (("trades", "id"), ("order_info", "id")):
        there = v.case.columns(table)
        if column not in there:
            continue
        rows = v.case.rows(table, v.market)
        good = all(r[column].isdigit() for r in rows)
        for where in (
            f"CAST({column} AS BIGINT) > 0",
            f"{column}::HUGEINT % 7 < 8 AND {column}::BIGINT >= 0",
            f"[{column}::BIGINT][1] > 0",
            f"CASE WHEN {column}[1] = 'x' THEN error({column}) ELSE true END",
        ):
            sql = f"SELECT count(*) AS n FROM {named(table)} WHERE {where}"
            if good:
                v.same(sql, [{"n": len(rows)}])
            else:
                v.fails(sql, (QueryError,))


def explained(v: Visitor) -> None:
    """What EXPLAIN ANALYZE counts is what is there."""
    for table in v.some(v.case.sees, 1):
        if not {"exchange", "symbol", "timestamp", "seq"} <= set(v.case.columns(table)):
            # parts' names and bounds would tell of rows and columns that are not there
            v.fails(f"EXPLAIN ANALYZE FROM {named(table)}", (UnsupportedError,))
            v.fails(f"EXPLAIN SELECT count(*) FROM {named(table)}", (UnsupportedError,))
            continue
        rows = len(v.case.rows(table, v.market))
        text = "\n".join(
            str(x) for row in v.table(f"EXPLAIN ANALYZE FROM {named(table)}").to_pylist() for x in row.values()
        )
        v.clean(text, f"EXPLAIN ANALYZE {table}")
        counted = {int(n.replace(",", "")) for n in _COUNT.findall(text)}
        # of several sources each has its own number, and none is more than all
        v.check(max(counted, default=0) <= max(rows, 1), f"EXPLAIN ANALYZE {table} counts {counted}, there are {rows}")
        try:
            told = v.table(f"SELECT DISTINCT stats({v.case.columns(table)[0]}) AS s FROM {named(table)}")
            v.clean_table(told, f"stats of {table}")
        except TickflightError as error:
            v.clean(str(error), "stats")


_COUNT = re.compile(r"\b(\d[\d,]*) [Rr]ows?\b")


def versions(v: Visitor) -> None:
    """Tables as of a version, by number and time."""
    for table in v.some(TABLES, 1):
        for version, upto in enumerate(v.market.versions[table]):
            at = f"{table} AT (VERSION => {version})"
            if not v.case.columns(table):
                v.missing(f"SELECT count(*) FROM {at}", table)
                continue
            rows = v.case.rows(table, v.market, upto)
            v.same(f"SELECT count(*) AS n FROM {at}", [{"n": len(rows)}])
            v.same(f"FROM {named(table)} AT (VERSION => ?)", rows, [version])
            for column in (c for c in ("price", "symbol", "seq", "side") if c not in v.case.columns(table)):
                v.fails(f"SELECT {column} FROM {at}")
        if v.case.columns(table):
            v.fails(f"FROM {table} AT (VERSION => 999)")
            v.fails(f"FROM {table} AT (TIMESTAMP => TIMESTAMP '2001-01-01')")


def prepared(v: Visitor) -> None:
    """Statements with values, prepared by another driver."""
    with (
        adbc.connect(v.address, db_kwargs={"adbc.flight.sql.authorization_header": f"Bearer {v.case.token}"}) as opened,
        opened.cursor() as cursor,
    ):
        for table in v.some((t for t in v.case.sees if t in TABLES and "symbol" in v.case.columns(t)), 1):
            for symbol in v.some(sorted({s for _, s in MARKETS}), 2):
                rows = [r for r in v.case.rows(table, v.market) if r["symbol"] == symbol]
                cursor.execute(f"SELECT * FROM {named(table)} WHERE symbol = ?", [symbol])
                v.rows(f"prepared {table} {symbol}", cursor.fetch_arrow_table(), rows)
        for table in v.some((t for t in STORED if t not in v.case.sees), 2):

            def ask(sql: str) -> None:
                try:
                    cursor.execute(sql, ["x"])
                except adbc.Error as error:
                    raise QueryError(str(error)) from None

            v.missing(f"SELECT * FROM {named(table)} WHERE symbol = ?", table, ask)


def shares(v: Visitor) -> None:
    """Scans that are answered by several endpoints, and how many rows they announce."""
    for table in v.some(v.case.sees, 2):
        rows = v.case.rows(table, v.market)
        info, got = v.by_endpoints(CommandStatementQuery(f"SELECT * FROM {named(table)}"))
        v.rows(f"the endpoints of {table}", got, rows)
        v.check(info.total_records in (-1, len(rows)), f"{table} announces {info.total_records} of {len(rows)} rows")
        v.check(len(info.endpoints) <= max(1, len(rows)), f"{table} has {len(info.endpoints)} endpoints")


def snapshots(v: Visitor) -> None:
    """Queries under a snapshot, and what a snapshot tells."""
    with v.client.snapshot(60) as pin:
        hidden = set(pin.cuts) - set(v.case.sees)
        v.check(not hidden, f"a snapshot tells of {sorted(hidden)}")
        # where a table is, is told to who may see its seq
        hidden = {t for t in pin.cuts if "seq" not in v.case.columns(t)}
        v.check(not hidden, f"a snapshot tells how far {sorted(hidden)} are")
        for table in v.some(v.case.sees, 1):
            v.same(f"FROM {named(table)}", v.case.rows(table, v.market), snapshot=pin)


READING: Mapping[str, Callable[[Visitor], None]] = {
    "SELECT *": whole,
    "columns": columns,
    "labels": labels,
    "times": times,
    "aggregates": aggregates,
    "shapes": shapes,
    "failing expressions": poison,
    "EXPLAIN": explained,
    "versions": versions,
    "prepared statements": prepared,
    "shares": shares,
    "snapshots": snapshots,
}
