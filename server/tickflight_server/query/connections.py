"""An engine's connections: what each begins with, and those that are kept for reading and probing statements.

The rule of this file: a connection that is handed out looks names up as its session says, and is used by one thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, Full, LifoQueue
from typing import Protocol, TypeVar

import duckdb

from tickflight_server.query.builtins import builtins
from tickflight_server.query.database import MACROS
from tickflight_server.query.macros import AGGREGATES, MARKET_MACROS, TABLE_MACROS
from tickflight_server.query.probe import Prober
from tickflight_server.query.session import DEFAULTS, Options, Seat
from tickflight_server.query.shape import Shape
from tickflight_server.query.sources import take_back
from tickflight_server.query.statement import Reading, StatementReader
from tickflight_server.query.system import TABLES as SYSTEM_TABLES
from tickflight_server.schemas import STORED, NumericType, TableSchema

_STORED_VIEWS = tuple(Reading(table).view for table in STORED.values())


_OPTIONS_KEPT = 16  # schemas and time zones of sessions for which connections are kept
_KEPT_MAX = 64  # connections for each of them and each use


class Connections:
    """The connections of one database.

    Args:
        database: what they are cursors of; closed by ``close``.
        numeric: type of the stored tables' numbers.
        sql_bytes_max: longest SQL text.
        stored: the stored tables that there are.
        system: the system tables that there are.
        shape: how deep and long a SQL text may be.
    """

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        numeric: NumericType,
        sql_bytes_max: int,
        stored: Mapping[str, TableSchema] = STORED,
        system: Collection[str] = SYSTEM_TABLES.keys(),
        shape: Shape = Shape(),  # noqa: B008 - it never changes
    ) -> None:
        self._database = database
        self._shape = shape
        self._stored, self._system = stored, system
        self._numeric = numeric
        self._sql_bytes_max = sql_bytes_max
        self._lock = threading.Lock()
        self._probers: OrderedDict[tuple[str, str], LifoQueue[Prober]] = OrderedDict()  # by schema and time zone
        self._readers: LifoQueue[StatementReader] = LifoQueue()
        self.macros: frozenset[str] = TABLE_MACROS
        """The table macros that statements may name: the server's, and the users'."""
        self._ready: OrderedDict[tuple[str, str], LifoQueue[duckdb.DuckDBPyConnection]] = OrderedDict()
        self._aggregates = builtins().aggregates | AGGREGATES
        self.expanding = builtins().macros.union(name.lower() for name in (*MACROS, *MARKET_MACROS))
        """The macros of the engine and of the server: what they call, a statement's text does not tell."""

    def close(self) -> None:
        """Let the database go."""
        for probers in self._probers.values():
            _close_all(probers)
        for ready in self._ready.values():
            _close_all(ready)
        _close_all(self._readers)
        self._database.close()

    def connect(self, options: Options = DEFAULTS) -> duckdb.DuckDBPyConnection:
        """Return a new connection with a session's ``options``; the caller closes it."""
        return looking_as(self._database.cursor(), options)

    def ready(self, options: Options) -> duckdb.DuckDBPyConnection:
        """Return a connection with a session's ``options``; the caller closes or keeps it.

        It may still be in use by a reader of its last result: then the engine refuses to run anything on it.
        """
        try:
            return _of(self._ready, options, self._lock).get_nowait()
        except Empty:
            return self.connect(options)

    def keep(self, connection: duckdb.DuckDBPyConnection, options: Options) -> None:
        """Keep a connection for ``ready``; nothing is on it but, perhaps, a result that somebody still holds."""
        _put(_of(self._ready, options, self._lock), connection)

    @contextmanager
    def prober(self, options: Options, seat: Seat | None) -> Iterator[Prober]:
        """Give a prober to the block, on ``seat`` if there is one."""
        if seat is not None:
            with seat.taken() as connection:
                look_as(connection, options)
                take_back(connection, _STORED_VIEWS)
                try:
                    yield self._prober(connection)
                finally:
                    take_back(connection, _STORED_VIEWS)
        else:
            with self._kept_prober(options) as prober:
                yield prober

    def _prober(self, connection: duckdb.DuckDBPyConnection) -> Prober:
        return Prober(connection, self._numeric, self._stored.values(), self._system)

    @contextmanager
    def _kept_prober(self, options: Options) -> Iterator[Prober]:
        kept = _of(self._probers, options, self._lock)
        try:
            prober = kept.get_nowait()
        except Empty:
            prober = self._prober(self.connect(options))
        try:
            yield prober
        except duckdb.Error:
            # a statement that does not bind leaves nothing behind
            _put(kept, prober)
            raise
        except BaseException:
            prober.close()
            raise
        _put(kept, prober)

    @contextmanager
    def reader(self) -> Iterator[StatementReader]:
        """Give a reader of statements to the block."""
        try:
            reader = self._readers.get_nowait()
        except Empty:
            reader = StatementReader(self.connect(), self._sql_bytes_max, self._aggregates, self._stored, self._shape)
        reader.macros = self.macros
        try:
            yield reader
        finally:
            self._readers.put(reader)


class _Closes(Protocol):
    def close(self) -> object: ...


C = TypeVar("C", bound=_Closes)


def _of(every: OrderedDict[tuple[str, str], LifoQueue[C]], options: Options, lock: threading.Lock) -> LifoQueue[C]:
    """Return what is kept for those who look names up as ``options`` say; that of the rarest options is let go."""
    key = (options.schema, options.timezone)
    with lock:
        kept = every.setdefault(key, LifoQueue(_KEPT_MAX))
        every.move_to_end(key)
        rarest = every.popitem(last=False)[1] if len(every) > _OPTIONS_KEPT else None
    if rarest is not None:
        _close_all(rarest)
    return kept


def _put(kept: LifoQueue[C], one: C) -> None:
    try:
        kept.put_nowait(one)
    except Full:
        one.close()


def _close_all(kept: LifoQueue[C]) -> None:
    with suppress(Empty):
        while True:
            kept.get_nowait().close()


def looking_as(connection: duckdb.DuckDBPyConnection, options: Options) -> duckdb.DuckDBPyConnection:
    """Return a new connection, with a session's ``options``."""
    connection.execute(f"SET search_path = '{options.search_path}'")
    if options.timezone != DEFAULTS.timezone:
        connection.execute(f"SET TimeZone = '{options.timezone}'")
    return connection


def look_as(connection: duckdb.DuckDBPyConnection, options: Options) -> None:
    """Let a connection that is kept have a session's ``options``, whatever it had before."""
    connection.execute(f"SET search_path = '{options.search_path}'")
    connection.execute(f"SET TimeZone = '{options.timezone}'")
