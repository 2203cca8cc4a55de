"""An engine that holds the rows and columns which a user may see and nothing else, and what to ask of both.

The rule of this file: it is made of plain rows. Of the server it has the texts of the macros, which are no matter of
rights, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa
from rights_cases import Case
from rights_market import MARKETS, TABLES, RightsMarket
from sql_fuzz import Made
from sql_fuzz_expressions import FuzzSchema, FuzzTable, Kind

from tickflight_server.query.macros import MARKET_MACROS
from tickflight_server.schemas import STORED

_KINDS: dict[str, Kind] = {
    "label": "text",
    "text": "text",
    "number": "number",
    "time": "time",
    "int": "int",
    "flag": "flag",
    "numbers": "numbers",
}
BOOK_AT = """CREATE MACRO tickflight.market.book_at(e, s, t, depth := 10) AS TABLE
SELECT unnest(range(1, 1 + least(depth, len(b.bid_prices))))::INTEGER AS level, unnest(b.bid_prices) AS bid_price,
unnest(b.bid_sizes) AS bid_size, unnest(b.ask_prices) AS ask_price, unnest(b.ask_sizes) AS ask_size,
b.timestamp, b.seq, false AS stale
FROM (SELECT l.* FROM tickflight.market.l2_book AS l WHERE l.exchange = e AND l.symbol = s AND l.timestamp <= t
      ORDER BY l.timestamp DESC LIMIT 1) AS b"""
_BOOK: dict[str, Kind] = {
    "level": "int",
    "bid_price": "number",
    "ask_size": "number",
    "timestamp": "time",
    "seq": "int",
}


class Oracle:
    """What a user sees, in an engine of its own; close it."""

    def __init__(self, case: Case, market: RightsMarket) -> None:
        self.case, self._market = case, market
        self._engine = duckdb.connect(":memory:", config={"threads": 1, "asof_loop_join_threshold": "0"})
        run = self._engine.execute
        run("ATTACH ':memory:' AS tickflight")
        run("USE tickflight")
        run("SET TimeZone = 'UTC'")
        for schema in ("market", "system", "workspace"):
            run(f"CREATE SCHEMA tickflight.{schema}")
        for table in case.sees:
            self._make(f"{STORED[table].schema}.{table}", table, None)
            for version, upto in enumerate(market.versions[table]):
                self._make(f"market.__{table}_{version}", table, upto)
        for create in (*(macro.create for macro in MARKET_MACROS.values()), BOOK_AT):
            with suppress(duckdb.Error):  # it reads what is not there
                run(create)
        self._engine.execute("SET VARIABLE __now = ?", [market.now + timedelta(minutes=1)])
        run("SET search_path = 'tickflight.workspace,tickflight.market,tickflight.system'")

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def _make(self, name: str, table: str, upto: int | None) -> None:
        whole = STORED[table].arrow("float64")
        schema = pa.schema([whole.field(c) for c in self.case.columns(table)])
        rows = pa.Table.from_pylist(self.case.rows(table, self._market, upto), schema=schema)
        self._engine.register("__rows", rows)
        self._engine.execute(f"CREATE TABLE tickflight.{name} AS FROM __rows")
        self._engine.unregister("__rows")

    def run(self, sql: str) -> None:
        """Run what gives nothing back."""
        self._engine.execute(sql)

    def ask(self, made: Made) -> pa.Table:
        """Return a statement's rows.

        Raises:
            duckdb.Error: it fails.
        """
        # the server writes the catalog's name before its own schema, which the engine has one of, too
        sql = made.oracle.replace(" system.", " tickflight.system.")
        return self._engine.sql(sql, params=list(made.values) or None).to_arrow_table()


def own_views(case: Case) -> list[tuple[str, str]]:
    """Return views and macros that a user with a workspace makes: the name that is read, and the statement."""
    made = []
    for table in (t for t in TABLES if t in case.sees and case.workspace):
        made.append((f"own_{table}", f"CREATE OR REPLACE VIEW workspace.own_{table} AS FROM {table}"))
        macro = f"CREATE OR REPLACE MACRO workspace.called_{table}() AS TABLE SELECT * FROM own_{table}"
        made.append((f"called_{table}()", macro))
    return made


def fuzz_schema(case: Case, market: RightsMarket) -> FuzzSchema:
    """Return what statements of a user are made of: what it sees, and names and values that it does not see."""
    tables, hidden, digits = [], [], []
    for name in (t for t in TABLES if t in case.sees):
        columns = {c.name: _KINDS[c.kind] for c in STORED[name].columns if c.name in case.columns(name)}
        unique = "seq" if "seq" in columns else None
        full = f"{STORED[name].schema}.{name}"
        versions = tuple(f"market.__{name}_{i}" for i in range(len(market.versions[name])))
        tables.append(FuzzTable(full, columns, unique, versions))
        tables.append(FuzzTable(name, columns, unique, versions))
        tables += [
            FuzzTable(own, columns, unique) for own, _ in own_views(case) if own in (f"own_{name}", f"called_{name}()")
        ]
        hidden += [(full, c.name) for c in STORED[name].columns if c.name not in columns]
    hidden += [(f"{t.schema}.{n}", "") for n, t in STORED.items() if n not in case.sees]
    if all(r["id"].isdigit() for t in ("trades", "order_info") for r in case.whole_rows(t, market)):
        digits = [t for t in ("id",) if any(t in case.columns(n) for n in ("trades", "order_info"))]
    return FuzzSchema(tables, list(_calls(case, market)), _constants(market), hidden, digits)


def _calls(case: Case, market: RightsMarket) -> Iterator[tuple[str, dict[str, Kind]]]:
    """Yield calls of macros and of book_at whose columns are all there."""

    def whole(table: str) -> bool:
        return case.columns(table) == market.columns(table)

    kinds = {t: {c.name: _KINDS[c.kind] for c in STORED[t].columns} for t in ("trades", "ticker", "funding")}
    for symbol in sorted({s for _, s in MARKETS}):
        if whole("trades"):
            bars: dict[str, Kind] = {
                "exchange": "text",
                "symbol": "text",
                "t": "time",
                "open": "number",
                "close": "number",
            }
            yield f"ohlcv('{symbol}', INTERVAL 1 DAY)", bars
            yield (
                f"ohlcv('{symbol}', INTERVAL 1 HOUR, exchange := 'BRAVO')",
                {**bars, "volume": "number", "trades": "int"},
            )
        if whole("trades") and whole("ticker"):
            yield f"trades_with_ticker('{symbol}')", {**kinds["trades"], "mid": "number", "quoted": "time"}
            yield (
                f"markouts('{symbol}', INTERVAL 1 HOUR)",
                {"symbol": "text", "mid_after": "number", "markout": "number"},
            )
    for table in ("trades", "ticker", "funding"):
        if whole(table):
            yield f"latest_{table}()", kinds[table]
            yield f"latest_{table}(symbol := 'XBT-USDT', within := INTERVAL 3 DAY)", kinds[table]
    if whole("l2_book"):
        for exchange, symbol in MARKETS:
            for hours in (1, 4.5, 47.2, 48.7, 300):
                yield f"book_at('{exchange}', '{symbol}', TIMESTAMP '{market.now - timedelta(hours=hours)}')", _BOOK


def _constants(market: RightsMarket) -> dict[str, list[Any]]:
    """Return constants that statements compare with: of rows that are seen, and of others."""
    labels = [*{e for e, _ in MARKETS}, *{s for _, s in MARKETS}, "NOPE", "buy", "type-alphaxbt", "acct-bravosol", "x"]
    prices = [10_000.0 * i + n / 4 for i in range(1, 7) for n in (0, 20, 50)] + [0.0, 1.0, 2.5, 100_000.0]
    times = [market.now - timedelta(hours=h) for h in (1000, 120, 50, 49.5, 48, 46.5, 24, 4, 0)]
    return {"number": prices, "int": [0, 1, 7, 50, 100], "text": sorted(labels), "time": times, "flag": [True, False]}
