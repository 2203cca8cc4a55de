"""The Delta table of each stored table: which parts are live, and up to which ``seq`` rows are in them.

The rule of this file: a flush becomes visible by exactly one atomic commit, which adds its parts and records the
flushed ``seq`` as the application transaction ``<writer>/<table>``; so a flush is never counted twice or by half.
Only one thread commits to a table at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import numpy as np
import pyarrow as pa
import structlog
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from tickflight_server.errors import StorageError
from tickflight_server.paths import parse_part_file_name
from tickflight_server.schemas import NumericType, TableSchema
from tickflight_server.store.files import sync_file, sync_folder
from tickflight_server.store.partition import DAY_US, Part
from tickflight_server.store.parts import EMPTY, PartIndex

LOG = structlog.get_logger(__name__)

PARTITION_KEYS = ("year", "month", "day", "exchange", "symbol")
# A checkpoint every so many commits keeps loading and committing fast (measured: proto-notes/architecture.md).
_CONFIGURATION: dict[str, str | None] = {"delta.checkpointInterval": "20"}


def delta_schema(table: TableSchema, numeric: NumericType) -> pa.Schema:
    """Return the schema of a table's Delta table: the columns and, before them, year, month and day."""
    days = [pa.field(name, pa.int32()) for name in ("year", "month", "day")]
    return pa.schema([*days, *table.arrow(numeric)])


class TableCatalog:
    """The Delta table of one stored table, in ``folder``; it is made by the first commit.

    Args:
        folder: the table's folder.
        table: the table.
        writer: the server's identity, part of the application transaction's name.
        numeric: type of the numbers, which a table keeps for life.
    """

    def __init__(self, folder: Path, table: TableSchema, writer: UUID, numeric: NumericType) -> None:
        self._folder = folder
        self._table = table
        self._app_id = f"{writer}/{table.name}"
        self._schema = delta_schema(table, numeric)
        self._delta: DeltaTable | None = None

    @property
    def version(self) -> int:
        """The table version, -1 before the first commit."""
        return -1 if self._delta is None else self._delta.version()

    def load(self) -> tuple[PartIndex, int]:
        """Read the newest version; return its parts and the flushed ``seq`` (0 if nothing was flushed).

        A version that was written and not synced is synced: the log may be released up to what this returns. Call it
        again after a failed flush.

        Raises:
            StorageError: the table cannot be read, holds another schema, or is another writer's.
        """
        if not DeltaTable.is_deltatable(str(self._folder)):
            return EMPTY, 0
        try:
            self._delta = DeltaTable(str(self._folder))
            flushed = self._delta.transaction_version(self._app_id)
            index = self._read_parts(self._delta)
            self._sync_log()
        except (DeltaError, OSError, pa.ArrowInvalid) as error:
            raise StorageError(f"cannot read table {self._table.name}: {_first_line(error)}.") from None
        self._check_schema(self._delta)
        if flushed is None and len(index):
            raise StorageError(
                f"table {self._table.name} holds rows of another writer, and none of this folder's.",
                hint="Restore _tickflight/writer, which belongs to the tables, from a backup.",
            )
        return index, flushed or 0

    def producer_sequence(self, producer: bytes) -> int:
        """Return the last sequence of ``producer`` whose rows are in parts, 0 if there is none."""
        if self._delta is None:
            return 0
        return self._delta.transaction_version(self._producer_id(producer)) or 0

    def _producer_id(self, producer: bytes) -> str:
        return f"producer/{producer.hex()}/{self._table.name}"

    def commit(self, parts: Sequence[Part], flushed_seq: int, producers: Mapping[bytes, int]) -> int:
        """Add ``parts`` and record ``flushed_seq`` and each producer's last sequence; return the new version.

        When this returns, the commit is on disk.

        Raises:
            StorageError: the commit failed, and only ``load`` tells whether it is visible all the same.
        """
        transactions = [Transaction(self._app_id, flushed_seq)]
        transactions += [Transaction(self._producer_id(p), s) for p, s in producers.items()]
        properties = CommitProperties(app_transactions=transactions)
        actions: list[AddAction | RemoveAction] = [_add_action(part) for part in parts]
        schema = Schema.from_arrow(self._schema)
        try:
            if self._delta is None:
                create_table_with_add_actions(
                    str(self._folder),
                    schema,
                    [_add_action(part) for part in parts],
                    partition_by=list(PARTITION_KEYS),
                    name=self._table.name,
                    description=self._table.comment,
                    configuration=_CONFIGURATION,
                    commit_properties=properties,
                )
                self._delta = DeltaTable(str(self._folder))
            else:
                self._delta.create_write_transaction(
                    actions, "append", schema, partition_by=list(PARTITION_KEYS), commit_properties=properties
                )
                self._delta.update_incremental()
            self._sync_log()
        except (DeltaError, OSError) as error:
            raise StorageError(
                f"cannot commit to table {self._table.name}: {_first_line(error)}.",
                hint="The rows are safe in the log and stay queryable; the flush is tried again.",
            ) from None
        return self._delta.version()

    def _sync_log(self) -> None:
        """Make the newest version durable: delta-rs writes it and leaves the sync to the system."""
        folder = self._folder / "_delta_log"
        name = f"{self.version:020d}"
        sync_file(folder / f"{name}.json")
        if (checkpoint := folder / f"{name}.checkpoint.parquet").exists():
            # whoever opens the table next starts from it
            sync_file(checkpoint)
            sync_file(folder / "_last_checkpoint")
        sync_folder(folder)
        sync_folder(self._folder)
        sync_folder(self._folder.parent)

    def _check_schema(self, delta: DeltaTable) -> None:
        # types by name, both as Delta would give them; nullability and metadata are not compared
        stored = {f.name: f.type for f in pa.schema(delta.schema())}
        wanted = {f.name: f.type for f in pa.schema(Schema.from_arrow(self._schema))}
        differing = [n for n in wanted if str(stored.get(n)) != str(wanted[n])]
        if differing:
            name = differing[0]
            raise StorageError(
                f"table {self._table.name} stores column {name!r} as {stored.get(name)}, not {wanted[name]}.",
                hint="lakehouse.numeric_type must stay what it was when the table was made.",
            )

    def _read_parts(self, delta: DeltaTable) -> PartIndex:
        actions = pa.table(delta.get_add_actions(flatten=True))
        if actions.num_rows == 0:
            return EMPTY

        def ints(name: str) -> Any:
            return actions.column(name).combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)

        def micros(name: str) -> Any:
            column = actions.column(name).combine_chunks()
            return column.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy(zero_copy_only=False)

        def texts(name: str) -> Any:
            return np.array(actions.column(name).to_pylist(), dtype=object)

        low = micros("min.timestamp")
        paths = np.array([unquote(p) for p in actions.column("path").to_pylist()], dtype=object)
        return PartIndex(
            path=paths,
            exchange=texts("partition.exchange"),
            symbol=texts("partition.symbol"),
            day=low // DAY_US,
            rows=ints("num_records"),
            nbytes=ints("size_bytes"),
            min_us=low,
            max_us=micros("max.timestamp"),
            min_seq=ints("min.seq"),
            max_seq=ints("max.seq"),
        )

    def remove_orphans(self, live: set[str], flushed: int, last_seq: int) -> None:
        """Delete the files of flushes that died before their commit.

        They are no part in ``live``, and their names say rows above ``flushed``, the table's when it was loaded. Only
        what the log gave back, up to ``last_seq``, is deleted.

        Raises:
            StorageError: there are files with other rows: a table version is missing, and nothing is deleted.
        """
        orphans = []
        for path in self._folder.rglob("*.parquet"):
            if "_delta_log" in path.parts:
                continue
            seqs = parse_part_file_name(path.name)
            if seqs is None or seqs[0] <= flushed or str(path.relative_to(self._folder)) in live:
                continue
            if seqs[1] > last_seq:
                raise StorageError(
                    f"table {self._table.name} has a part with rows {seqs[0]} to {seqs[1]}, which neither its versions "
                    f"nor the log know: {path.name}.",
                    hint="A table version is missing: restore the table's _delta_log from a backup.",
                )
            orphans.append(path)
        for path in orphans:
            LOG.info("catalog.orphan_removed", table=self._table.name, part=path.name)
            path.unlink(missing_ok=True)


def _add_action(part: Part) -> AddAction:
    date = part.date
    values = {
        "year": str(date.year),
        "month": str(date.month),
        "day": str(date.day),
        "exchange": part.exchange,
        "symbol": part.symbol,
    }
    stats = {
        "numRecords": part.rows,
        "minValues": {"timestamp": _iso(part.min_us), "seq": part.min_seq},
        "maxValues": {"timestamp": _iso(part.max_us), "seq": part.max_seq},
        "nullCount": {"timestamp": 0, "seq": 0},
    }
    return AddAction(part.path, part.nbytes, values, time.time_ns() // 1_000_000, True, json.dumps(stats))


def _iso(us: int) -> str:
    return datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{us % 1_000_000:06d}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
