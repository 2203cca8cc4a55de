"""What the holder of some roles may see and do, worked out once from the configuration.

The rule of this file: several roles together permit the rows of each; of columns and history what the narrowest of them
permits, unless one role permits all that another does: then the narrower does not count. So no combination shows a
value that no single role shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache

from tickflight_server.config import BUILT_IN, ReadGrant, RoleLimits, RoleSettings
from tickflight_server.errors import ConfigError
from tickflight_server.schemas import STORED, TableSchema

DAY_US = 86_400_000_000
SYSTEM_FOR_ALL = frozenset({"functions", "health", "parts", "segments", "tables", "queries"})
"""System tables that everybody sees, who sees of them only what concerns rows that they may see."""


@dataclass(frozen=True)
class TableRights:
    """What may be seen of one table: rows of some (exchange, symbol) patterns, columns, and how far back.

    None is without a bound. ``rows`` are pairs of tuples of patterns, of which a row meets one.
    """

    rows: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] | None = None
    columns: frozenset[str] | None = None
    history_us: int | None = None

    @property
    def everything(self) -> bool:
        """Whether all of the table may be seen."""
        return self.rows is None and self.columns is None and self.history_us is None

    def permits(self, exchange: str | None, symbol: str | None) -> bool:
        """Return whether rows of ``exchange`` and ``symbol`` may be seen."""
        return self.rows is None or _permits(self.rows, exchange or "", symbol or "")


@lru_cache(65_536)
def _permits(rows: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...], exchange: str, symbol: str) -> bool:
    return any(_matches(exchange, exchanges) and _matches(symbol, symbols) for exchanges, symbols in rows)


@dataclass(frozen=True)
class Rights:
    """What somebody may see and do. Equal rights see the same.

    ``tables`` has the stored tables that exist to them, ``system`` the names of the system tables, ``write`` the stored
    tables that they may append to. ``workspace`` says whose tables they may make and see: "" is the common workspace
    of those who see all rows, any other name one of their own, None none.
    """

    tables: tuple[tuple[str, TableRights], ...]
    system: frozenset[str]
    write: frozenset[str] = frozenset()
    workspace: str | None = None
    admin: bool = False
    limits: RoleLimits = field(default_factory=RoleLimits)

    @property
    def all_rows(self) -> bool:
        """Whether all rows of all stored tables may be seen."""
        return len(self.tables) == len(STORED) and all(r.everything for _, r in self.tables)

    @property
    def sight(self) -> Sight:
        """What they see, apart from what they may do and how much."""
        if self.all_rows:
            return ALL
        return Sight(self.tables, self.system, self.workspace)

    def may_write(self, table: str) -> bool:
        """Return whether rows may be appended to a stored table."""
        return table in self.write


@dataclass(frozen=True)
class Sight:
    """What is there to somebody: stored tables, system tables, and a workspace. Who has the same shares everything."""

    tables: tuple[tuple[str, TableRights], ...]
    system: frozenset[str]
    workspace: str | None

    def of(self, table: str) -> TableRights | None:
        """Return what may be seen of a stored table, None if it does not exist to them."""
        return dict(self.tables).get(table)


ALL = Sight(tuple((name, TableRights()) for name in sorted(STORED)), frozenset(), "")
"""Everything; which of the system's tables is looked at when they are asked for."""


class Roles:
    """The roles of a configuration, those that are built in among them.

    Args:
        configured: by name; one with a built-in name takes its place.
    """

    def __init__(self, configured: Mapping[str, RoleSettings]) -> None:
        self._roles = {**BUILT_IN, **configured}
        self._known: dict[tuple[str, ...], Rights] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._roles

    def names(self) -> list[str]:
        """Return the names of all roles."""
        return sorted(self._roles)

    def rights(self, names: Iterable[str]) -> Rights:
        """Return what somebody with these roles may see and do; without any, nothing.

        Raises:
            ConfigError: there is no such role.
        """
        key = tuple(sorted(set(names)))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._rights(key)
        return found

    def _rights(self, names: tuple[str, ...]) -> Rights:
        for name in names:
            if name not in self._roles:
                raise ConfigError(f"there is no role {name!r}.", hint=f"Roles are {', '.join(self.names())}.")
        roles = [self._roles[name] for name in names]
        grants = [grant for role in roles for grant in role.read]
        tables = {name: _table_rights(table, grants) for name, table in STORED.items()}
        named = [g for g in grants if _matches("system", g.schemas)]
        system = SYSTEM_FOR_ALL if grants else frozenset[str]()
        rights = Rights(
            tables=tuple((name, found) for name, found in sorted(tables.items()) if found is not None),
            # patterns: which system tables there are is known above
            system=system.union(*(g.tables for g in named)),
            write=frozenset(t for t, s in STORED.items() if any(_names(s, role.write) for role in roles)),
            admin=any(role.admin for role in roles),
            limits=_limits(roles),
        )
        if not any(role.workspace for role in roles):
            return rights
        return replace(rights, workspace="" if rights.all_rows else _workspace(names))


def _workspace(names: Sequence[str]) -> str:
    """Return what the workspace of those who have these roles is called: a part of a file's name."""
    text = "+".join(names)
    return text if len(text) <= 150 else hashlib.sha256(text.encode()).hexdigest()[:32]


def _names(table: TableSchema, patterns: Sequence[str]) -> bool:
    return _matches(table.name, patterns) or _matches(f"{table.schema}.{table.name}", patterns)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _table_rights(table: TableSchema, grants: Iterable[ReadGrant]) -> TableRights | None:
    """Return what ``grants`` together let see of a table, None for nothing."""
    found: list[TableRights] = []
    for grant in grants:
        if not _matches(table.schema, grant.schemas) or not _names(table, grant.tables):
            continue
        columns = frozenset(c.name for c in table.columns if _matches(c.name, grant.columns))
        if not columns:
            continue
        every = "*" in grant.exchanges and "*" in grant.symbols
        found.append(
            TableRights(
                rows=None if every else ((grant.exchanges, grant.symbols),),
                columns=None if len(columns) == len(table.columns) else columns,
                history_us=None if grant.history_days is None else int(grant.history_days * DAY_US),
            )
        )
    kept = [r for i, r in enumerate(found) if not _is_covered(r, found[:i], found[i + 1 :])]
    if not kept:
        return None
    shared: frozenset[str] | None = None
    for one in kept:
        if one.columns is not None:
            shared = one.columns if shared is None else shared & one.columns
    if shared is not None and not shared:
        return None
    rows = None if any(r.rows is None for r in kept) else tuple(row for r in kept for row in r.rows or ())
    ages = [r.history_us for r in kept if r.history_us is not None]
    return TableRights(rows, shared, min(ages) if ages else None)


def _is_covered(narrow: TableRights, before: Sequence[TableRights], after: Sequence[TableRights]) -> bool:
    """Return whether another one permits all that ``narrow`` does; of equal ones only the first counts."""
    return narrow in before or any(_covers(wide, narrow) for wide in (*before, *after) if wide != narrow)


def _covers(wide: TableRights, narrow: TableRights) -> bool:
    rows = wide.rows is None or (narrow.rows is not None and set(narrow.rows) <= set(wide.rows))
    columns = wide.columns is None or (narrow.columns is not None and narrow.columns <= wide.columns)
    history = wide.history_us is None or (narrow.history_us is not None and narrow.history_us <= wide.history_us)
    return rows and columns and history


def _limits(roles: Sequence[RoleSettings]) -> RoleLimits:
    """Return the widest of the roles' limits, each: without a limit in one of them, there is none."""
    widest = {}
    for name in RoleLimits.model_fields:
        values = [getattr(role.limits, name) for role in roles]
        widest[name] = None if not values or None in values else max(values)
    return RoleLimits(**widest)
