"""Finding a statement's filters: it is run once on empty tables that note what DuckDB pushes down to them.

The rule of this file: a filter that may not have been seen counts as none. What a probe does is bounded in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from tickflight_server.query.binding import columns
from tickflight_server.query.database import engine_parameters, find_place, relation, run, set_now
from tickflight_server.query.filters import Filter, columns_of, read_expression
from tickflight_server.query.statement import Parameters, Reading, Statement, view_name
from tickflight_server.query.stopping import DEADLINES, Stopper
from tickflight_server.query.system import TABLES as SYSTEM_TABLES
from tickflight_server.schemas import STORED, NumericType, TableSchema


class Filters(list[Filter | None]):
    """One filter a scan, None for a scan that reads everything.

    ``columns`` are those that the scans read, for their filters or to give them on, ``given`` the latter; None is all.
    """

    def __init__(
        self,
        filters: Iterable[Filter | None] = (),
        columns: frozenset[str] | None = None,
        given: frozenset[str] | None = None,
    ) -> None:
        super().__init__(filters)
        self.columns = columns
        self.given = given


_ROWS = 2048  # the engine's vectors


class _Probe(ds.InMemoryDataset):  # type: ignore[misc]
    """An empty table that notes which filters DuckDB pushes down to it."""

    def scanner(self, columns: Any = None, filter: Any = None, **kwargs: Any) -> Any:
        self.seen.append((columns, filter))
        return super().scanner(columns=columns, filter=filter)


class Prober:
    """A connection whose tables, ``stored`` and ``system``, are empty probes; not for use by two threads at once."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        numeric: NumericType,
        stored: Iterable[TableSchema] = STORED.values(),
        system: Iterable[str] = SYSTEM_TABLES.keys(),
    ) -> None:
        self._connection = connection
        self._numeric = numeric
        self._probes = {table.name: self._register(Reading(table)) for table in stored}
        for name in system:
            connection.register(view_name("system", name), SYSTEM_TABLES[name][0].empty_table())

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection, for binding statements that do not run."""
        return self._connection

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()

    def stopper(self) -> Stopper:
        """Return what stops the search that comes next."""
        return Stopper(self._connection)

    @contextmanager
    def knowing(self, given: Mapping[str, pa.Schema]) -> Iterator[None]:
        """Let the block bind statements that name views of these columns."""
        for view, schema in given.items():
            self._connection.register(view, schema.empty_table())
        try:
            yield
        finally:
            for view in given:
                self._connection.unregister(view)

    def _register(self, reading: Reading) -> _Probe:
        # labels are plain text here: the engine pushes the same filters down, and pyarrow evaluates them on nothing
        probe = _Probe(reading.table.arrow(self._numeric).empty_table())
        probe.seen = []
        self._connection.register(reading.view, probe)
        return probe

    def find(
        self, statement: Statement, parameters: Parameters, *, now_us: int, timeout_s: float
    ) -> tuple[pa.Schema, dict[str, Filters | None]]:
        """Return the result's schema, and the filters that reach the scans of each reading of a stored table.

        A reading's filters are None where its scans are not known.

        Raises:
            duckdb.Error: the statement does not bind; the message has the engine's place marker.
        """
        readings = statement.readings()
        probes = {r.key: self._register(r) if r.travel else self._probes[r.key] for r in readings}
        for probe in probes.values():
            probe.seen = []
        try:
            if statement.asks_now:
                set_now(self._connection, now_us)
            runs = bool(probes) and not statement.explain
            schema = self._run(statement.probe_sql, parameters, timeout_s) if runs else None
            complete = schema is not None
            if schema is None:
                schema = self._columns(statement.probe_sql, parameters)
        except duckdb.Error as error:
            raise find_place(self._connection, statement.probe_sql, parameters, error) from None
        finally:
            for reading in readings:
                if reading.travel:
                    self._connection.unregister(reading.view)
        return schema, {key: _filters(probe) if complete else None for key, probe in probes.items()}

    def columns(self, sql: str, parameters: Parameters) -> pa.Schema | None:
        """Return the schema of a query's result, None where only a run tells; nothing of it runs."""
        return columns(self._connection, sql, engine_parameters(parameters))

    def _columns(self, sql: str, parameters: Parameters) -> pa.Schema:
        """Return the schema of a statement's result; nothing of a query runs."""
        known = self.columns(sql, parameters)
        if known is not None:
            return known
        query = relation(self._connection, sql, parameters)
        # this plans and runs nothing; it renames columns of one name
        types = query.limit(0).to_arrow_reader(1).schema
        return pa.schema([f.with_name(name) for f, name in zip(types, query.columns, strict=True)])

    def _run(self, sql: str, parameters: Parameters, timeout_s: float) -> pa.Schema | None:
        """Run the probe to its end; return its schema, or None if it took too long or failed midway.

        A failure midway comes again from the real run, which reports it; one before the first row is raised.
        """
        reader = None
        try:
            with DEADLINES.within(timeout_s, self._connection):
                reader = run(self._connection, sql, parameters, _ROWS)
                for _ in reader:
                    pass
                return reader.schema
        except (duckdb.InterruptException, pa.ArrowException, OSError):
            return None
        finally:
            if reader is not None:
                reader.close()


def _filters(probe: _Probe) -> Filters | None:
    """Return one filter a scan, or None where no scan was seen."""
    if not probe.seen:
        return None
    read: set[str] = set()
    given: set[str] = set()
    known = True
    for taken, expression in probe.seen:
        # the engine leaves out columns that only the filter has
        named = frozenset() if expression is None else columns_of(expression)
        known = known and taken is not None and named is not None
        given.update(taken or ())
        read.update(taken or (), named or ())
    filters = (None if f is None else read_expression(f) for _, f in probe.seen)
    return Filters(filters, frozenset(read), frozenset(given)) if known else Filters(filters)
