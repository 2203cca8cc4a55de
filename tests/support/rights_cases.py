"""Users of every kind of role, and what each is to see of the market: written down by hand, beside the configuration.

The rule of this file: nothing of the server is used to say what is expected, but for the names of tables and columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rights_market import HISTORY_DAYS, MARKETS, TABLES, RightsMarket, Row

from tickflight_server.query.system import TABLES as SYSTEM
from tickflight_server.schemas import STORED

Keep = Callable[[Row, RightsMarket], bool]
MARKET_TABLES = tuple(name for name, table in STORED.items() if table.schema == "market")
SYSTEM_COMMON = frozenset(SYSTEM).intersection({"functions", "health", "parts", "queries", "segments", "tables"})
SYSTEM_TABLES = frozenset(SYSTEM)
"""Made when asked; who reads anything has the first, who sees everything all that there are."""


@dataclass(frozen=True)
class Seen:
    """What is seen of a table: the rows that ``keep`` lets through, and of them these columns, None for all."""

    keep: Keep
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Case:
    """A user with roles of the configuration, and what there is to it. What is not in ``sees`` does not exist."""

    name: str
    roles: Mapping[str, Mapping[str, Any]]
    sees: Mapping[str, Seen]
    system: frozenset[str] = SYSTEM_COMMON
    writes: frozenset[str] = frozenset()
    workspace: bool = False
    admin: bool = False
    built_in: str = ""
    ages: bool = False
    """Rows go out of its sight as they get older."""

    @property
    def token(self) -> str:
        return f"token-of-{self.name}"

    @property
    def role_names(self) -> list[str]:
        return [self.built_in] if self.built_in else list(self.roles)

    @property
    def all_rows(self) -> bool:
        """Whether it sees everything that is stored."""
        return self.sees is EVERYTHING

    def columns(self, table: str) -> list[str]:
        """Return the columns that there are of a table, in order; none if it is not there."""
        seen = self.sees.get(table)
        every = [c.name for c in STORED[table].columns]
        return [] if seen is None else [c for c in every if seen.columns is None or c in seen.columns]

    def whole_rows(self, table: str, market: RightsMarket, upto: int | None = None) -> list[dict[str, Any]]:
        """Return the rows that may be seen, with all of their columns; those up to a ``seq``, if one is given."""
        seen = self.sees.get(table)
        rows = market.rows[table] if seen is not None else []
        return [r for r in rows if seen is not None and seen.keep(r, market) and (upto is None or r["seq"] <= upto)]

    def rows(self, table: str, market: RightsMarket, upto: int | None = None) -> list[dict[str, Any]]:
        """Return what may be seen of a table."""
        columns = self.columns(table)
        return [{name: row[name] for name in columns} for row in self.whole_rows(table, market, upto)]

    def secrets(self, market: RightsMarket) -> frozenset[str]:
        """Return texts that stand in rows, and in none that it may see: none of them may be in any answer to it."""
        seen = {v for table in TABLES for row in self.rows(table, market) for v in _texts(row)}
        every = {v for table in TABLES for row in market.rows[table] for v in _texts(row)}
        return frozenset(v for v in every - seen if not any(v in s for s in seen))


def _texts(row: Row) -> set[str]:
    """Return the texts of a row that nothing else is called by: no sides, no table's name, no short numbers."""
    found = {v for v in row.values() if isinstance(v, str) and len(v) > 4 and v not in STORED}
    # a price is told by its whole part and its quarters: of no row but this
    return found | {repr(row[n]) for n in ("price", "mark_price", "bid", "balance") if row.get(n) is not None}


# --- what rows: exchange, symbol, age


def every(row: Row, market: RightsMarket) -> bool:
    """Let each row through."""
    return True


def none(row: Row, market: RightsMarket) -> bool:
    """Let no row through."""
    return False


def of(exchange: str | None = None, symbol: str = ".*", *, recent: bool = False) -> Keep:
    """Let rows of an exchange and of symbols that match an expression through, those of the last days if ``recent``."""

    def keep(row: Row, market: RightsMarket) -> bool:
        new = not recent or row["timestamp"] >= market.cut
        return exchange in (None, row["exchange"]) and re.fullmatch(symbol, row["symbol"]) is not None and new

    return keep


def either(*keeps: Keep) -> Keep:
    """Let through what one of them does."""
    return lambda row, market: any(keep(row, market) for keep in keeps)


def _tables(
    keep: Keep, columns: tuple[str, ...] | None = None, names: tuple[str, ...] = MARKET_TABLES
) -> dict[str, Seen]:
    return {name: Seen(keep, columns) for name in names}


EVERYTHING: Mapping[str, Seen] = _tables(every, names=tuple(STORED))
_BUILT_IN = (
    Case("ada", {}, EVERYTHING, SYSTEM_TABLES, frozenset(STORED), workspace=True, admin=True, built_in="admin"),
    Case("uma", {}, EVERYTHING, SYSTEM_COMMON, frozenset(STORED), workspace=True, built_in="user"),
    Case("rea", {}, EVERYTHING, SYSTEM_COMMON, built_in="reader"),
    Case("fee", {}, {}, frozenset(), frozenset(STORED), built_in="feed"),
)
_HEAD = ("exchange", "symbol", "timestamp", "seq")
_PRICED: Mapping[str, tuple[str, ...]] = {
    "trades": ("price",),
    "l1_book": ("bid_price", "ask_price"),
    "l2_book": ("bid_prices", "ask_prices"),
    "l3_book": ("bid_prices", "ask_prices"),
    "funding": ("mark_price",),
    "liquidations": ("price",),
    "index": ("price",),
    "order_info": ("price",),
    "fills": ("price",),
    "positions": ("entry_price",),
}


def _one(name: str, grants: Any, sees: Mapping[str, Seen], system: Any = SYSTEM_COMMON, **more: Any) -> Case:
    """Return a user with a role of its own."""
    settings = {k: more[k] for k in ("write", "workspace", "admin") if k in more}
    case = {k: more[k] for k in ("workspace", "admin", "ages") if k in more} | {
        "writes": frozenset(more.get("writes", ()))
    }
    return Case(name, {f"role-{name}": {"read": grants, **settings}}, sees, frozenset(system), **case)


_BTC_OF_ALPHA = of("ALPHA", "XBT-USDT")
_NARROW = (
    _one("nobody", [], {}, ()),
    _one("onesymbol", [{"exchanges": ["ALPHA"], "symbols": ["XBT-USDT"]}], _tables(_BTC_OF_ALPHA)),
    _one("starsymbol", [{"symbols": ["XBT-*"]}], _tables(of(None, "XBT-.*"))),
    _one(
        "twopatterns",
        [{"symbols": ["*-USDT"], "exchanges": ["A*"]}, {"symbols": ["XMR-???"]}],
        _tables(either(of("ALPHA", ".*-USDT"), of(None, "XMR-..."))),
    ),
    _one("marked", [{"exchanges": ["?RAVO"]}], _tables(of("BRAVO"))),
    _one("oneexchange", [{"exchanges": ["BRAVO"]}], _tables(of("BRAVO"))),
    _one("lowercase", [{"exchanges": ["alpha"]}], _tables(none)),
    _one("nosuchsymbol", [{"symbols": ["NOPE-*"]}], _tables(none)),
    _one("onetable", [{"tables": ["trades"]}], _tables(every, names=("trades",))),
    _one("qualified", [{"tables": ["market.ti*", "market.funding"]}], _tables(every, names=("ticker", "funding"))),
    _one("nosuchtable", [{"tables": ["nosuch"]}], {}),
    _one("allofmarket", [{}], _tables(every)),
    _one(
        "headed", [{"tables": ["trades"], "columns": [*_HEAD, "price"]}], _tables(every, (*_HEAD, "price"), ("trades",))
    ),
    _one(
        "noseq",
        [{"columns": ["exchange", "symbol", "timestamp", "price", "bid", "ask"]}],
        {t: Seen(every, ("exchange", "symbol", "timestamp", "price", "bid", "ask")) for t in MARKET_TABLES},
    ),
    _one(
        "notime",
        [{"columns": ["exchange", "symbol", "price", "bid*", "seq"]}],
        {
            t: Seen(
                every,
                tuple(
                    c.name
                    for c in STORED[t].columns
                    if c.name in ("exchange", "symbol", "price", "seq") or c.name.startswith("bid")
                ),
            )
            for t in MARKET_TABLES
        },
    ),
    _one(
        "nolabels",
        [{"exchanges": ["ALPHA"], "columns": ["timestamp", "price", "amount", "side", "seq", "bid*"]}],
        {
            t: Seen(
                of("ALPHA"),
                tuple(
                    c.name
                    for c in STORED[t].columns
                    if c.name in ("timestamp", "price", "amount", "side", "seq") or c.name.startswith("bid")
                ),
            )
            for t in MARKET_TABLES
        },
    ),
    _one("priced", [{"columns": ["*price*"]}], {t: Seen(every, columns) for t, columns in _PRICED.items()}),
    _one("recent", [{"history_days": HISTORY_DAYS}], _tables(of(recent=True)), ages=True),
    _one(
        "recentpart",
        [{"history_days": HISTORY_DAYS, "exchanges": ["BRAVO"], "tables": ["trades", "l2_book"]}],
        _tables(of("BRAVO", recent=True), names=("trades", "l2_book")),
        ages=True,
    ),
    _one(
        "recentnotime",
        [{"history_days": HISTORY_DAYS, "tables": ["trades"], "columns": ["symbol", "price", "id"]}],
        _tables(of(recent=True), ("symbol", "price", "id"), ("trades",)),
        ages=True,
    ),
    _one(
        "gapsonly", [{"schemas": ["system"], "tables": ["gaps"], "exchanges": ["ALPHA"]}], {"gaps": Seen(of("ALPHA"))}
    ),
    _one(
        "rejectedof",
        [{"schemas": ["*"], "tables": ["rejected", "trades"], "symbols": ["SOL-*"]}],
        _tables(of(None, "SOL-.*"), names=("trades", "rejected")),
    ),
    _one(
        "metricsonly", [{"schemas": ["system"], "tables": ["metrics", "log"]}], {}, SYSTEM_COMMON | {"metrics", "log"}
    ),
    _one("maker", [{"exchanges": ["ALPHA"]}], _tables(of("ALPHA")), workspace=True),
    _one("maker2", [{"exchanges": ["BRAVO"]}], _tables(of("BRAVO")), workspace=True),
    _one(
        "writer",
        [{"symbols": ["XBT-USDT"], "tables": ["ticker"]}],
        _tables(of(None, "XBT-USDT"), names=("ticker",)),
        write=["trades", "market.fund*"],
        writes=("trades", "funding"),
    ),
    _one("narrowadmin", [{"exchanges": ["ALPHA"]}], _tables(of("ALPHA")), admin=True),
    _one(
        "oldandnew",
        [{"history_days": HISTORY_DAYS}, {"exchanges": ["ALPHA"], "symbols": ["ETX-USDT"]}],
        # of history what the narrowest permits, where neither permits all that the other does
        _tables(of(recent=True)),
        ages=True,
    ),
)


def _several(name: str, roles: Mapping[str, Any], sees: Mapping[str, Seen], **more: Any) -> Case:
    return Case(name, {r: {"read": grants} for r, grants in roles.items()}, sees, **more)


_TOGETHER = (
    _several(
        "united",
        {"u-btc": [{"exchanges": ["ALPHA"], "symbols": ["XBT-USDT"]}], "u-bravo": [{"exchanges": ["BRAVO"]}]},
        _tables(either(_BTC_OF_ALPHA, of("BRAVO"))),
    ),
    _several(
        "crossed",
        {
            "c-alpha": [{"tables": ["trades"], "exchanges": ["ALPHA"], "columns": [*_HEAD, "price"]}],
            "c-bravo": [{"tables": ["trades"], "exchanges": ["BRAVO"], "columns": [*_HEAD, "price", "amount"]}],
        },
        _tables(every, (*_HEAD, "price"), ("trades",)),
    ),
    _several(
        "apart",
        {
            "a-alpha": [{"tables": ["trades"], "exchanges": ["ALPHA"], "columns": ["price"]}, {"tables": ["ticker"]}],
            "a-bravo": [{"tables": ["trades"], "exchanges": ["BRAVO"], "columns": ["amount"]}],
        },
        _tables(every, names=("ticker",)),
    ),
    _several(
        "covered",
        {
            "v-wide": [{"tables": ["trades"], "exchanges": ["ALPHA"]}],
            "v-narrow": [{"tables": ["trades"], "exchanges": ["ALPHA"], "columns": ["price"], "history_days": 1}],
        },
        _tables(of("ALPHA"), names=("trades",)),
    ),
)

CASES: Mapping[str, Case] = {case.name: case for case in (*_BUILT_IN, *_NARROW, *_TOGETHER)}
"""Every user by name."""

EXCHANGES = sorted({exchange for exchange, _ in MARKETS})


def configuration() -> dict[str, Any]:
    """Return the sections ``roles`` and ``auth`` of a server for all of them."""
    roles = {name: dict(role) for case in CASES.values() for name, role in case.roles.items()}
    return {
        "roles": roles,
        "auth": {
            "tokens": {case.name: case.token for case in CASES.values()},
            "roles": {case.name: case.role_names for case in CASES.values()},
        },
    }
