"""Queries that only choose columns of a table: its rows as they lie, without a way through the engine.

The rule of this file: what the engine would answer is answered, in the same types; a query of which that is not certain
is the engine's. Rows are read, cut and cast in C++; what passes here is one reference a batch, so that the reading can
be stopped between any two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tickflight_server.errors import CancelledError, StorageError
from tickflight_server.query.plan import Plan
from tickflight_server.query.sources import Opened, chosen, hold
from tickflight_server.query.statement import Reading
from tickflight_server.schemas import NumericType
from tickflight_server.store import Segment, Store, TableSnapshot
from tickflight_server.store.part_reader import read_parts

Columns = Mapping[str, str]
"""Column of the table by name in the result, in the result's order."""


def plain_reading(plan: Plan, numeric: NumericType) -> tuple[Reading, Columns] | None:
    """Return what ``plan`` reads and the columns that it takes of it, or None where that is not all that it does."""
    statement, readings = plan.statement, plan.statement.readings()
    if statement.columns is None or not statement.rowwise or len(readings) != 1 or statement.owns:
        return None
    (reading,) = readings
    # one scan of everything was seen: the name is the stored table's, and no user's of the same name
    if reading.travel is not None or plan.filters.get(reading.key) != [None]:
        return None
    wire = reading.table.arrow(numeric, memory=plan.dictionaries)
    names = {name.lower(): name for name in wire.names}
    taken: list[tuple[str, str]] = []
    for column, name in statement.columns:
        if column == "*":
            taken += [(n, n) for n in wire.names]
        elif column.lower() in names:
            taken.append((name if name != column else names[column.lower()], names[column.lower()]))
    columns = dict(taken)
    schema = pa.schema([wire.field(column).with_name(name) for name, column in columns.items()])
    same = schema.equals(plan.schema) and not any(pa.types.is_nested(field.type) for field in schema)
    return (reading, columns) if same else None


def with_dictionaries(plan: Plan, numeric: NumericType) -> Plan:
    """Return ``plan`` with dictionaries in its schema in the place of names, or unchanged if it is not a plain one."""
    plain = plain_reading(plan, numeric)
    if plain is None:
        return plan
    reading, columns = plain
    memory = reading.table.arrow(numeric, memory=True)
    schema = pa.schema([memory.field(column).with_name(name) for name, column in columns.items()])
    return replace(plan, schema=schema, dictionaries=True)


class PlainScan:
    """The batches of a scan of ``table``, ``reader``, until it is stopped; ``opened`` is what it reads.

    If it is ``evolved``, some parts have other columns than the table has now, and the engine is to read it.

    Args:
        columns: what is taken of each row.
        schema: of the result.
        upto: rows with a later ``seq`` are left out, if given.
        batch_rows: most rows of a batch.
        held: keeps the parts readable until it is closed.

    Raises:
        StorageError: a part is missing or damaged.
    """

    def __init__(
        self,
        store: Store,
        snapshot: TableSnapshot,
        columns: Columns,
        schema: pa.Schema,
        *,
        upto: int | None,
        batch_rows: int,
        held: ExitStack,
    ) -> None:
        self.snapshot = snapshot
        self.table = snapshot.table.name
        self._memory = snapshot.table.arrow(store.numeric, memory=True)
        self._columns = {name: _as(column, schema.field(name).type, self._memory) for name, column in columns.items()}
        self._upto, self._batch_rows = upto, batch_rows
        self._stopped = False
        hold(snapshot, held)
        self._segments, parts = chosen(snapshot, None, upto)
        self._late_parts = upto is not None and len(parts) > 0 and int(parts.max_seq.max()) > upto
        read = frozenset(columns.values()) | ({"seq"} if self._late_parts else frozenset())
        self.ready = store.open_parts(snapshot, parts, read)
        held.callback(self.ready.close)
        self.evolved = self.ready.evolved
        self._paths = [path if path.startswith("/") else f"{store.root}/{path}" for path in self.ready.paths]
        self.opened = Opened(tuple(parts.path), tuple(s.first_seq for s in self._segments))
        self.reader = pa.RecordBatchReader.from_batches(schema, self._batches())

    def stop(self) -> None:
        """Let whoever reads get an error in place of the next batch."""
        self._stopped = True

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for reader in self._readers():
            for batch in reader:
                if self._stopped:
                    raise CancelledError("the query was cancelled.")
                if batch.num_rows:
                    yield batch

    def _readers(self) -> Iterator[pa.RecordBatchReader]:
        if self._segments:
            yield self._read_segments(self._segments)
        if self._paths:
            where = _not_after(self._upto) if self._late_parts else None
            try:
                yield read_parts(self._paths, self._memory, self._columns, where=where, batch_rows=self._batch_rows)
            except (OSError, pa.ArrowException) as error:
                raise StorageError(f"the parts cannot be read: {str(error).splitlines()[0]}.") from None

    def _read_segments(self, segments: list[Segment]) -> pa.RecordBatchReader:
        rows = ds.dataset(pa.Table.from_batches([s.batch for s in segments], schema=self._memory))
        later = self._upto is not None and any(s.last_seq > self._upto for s in segments)
        where = _not_after(self._upto) if later else None
        return rows.scanner(columns=self._columns, filter=where, batch_size=self._batch_rows).to_reader()


def _not_after(seq: int | None) -> pc.Expression:
    return pc.field("seq") <= pc.scalar(seq)


def _as(column: str, kind: pa.DataType, memory: pa.Schema) -> pc.Expression:
    found = pc.field(column)
    return found if memory.field(column).type == kind else found.cast(kind)
