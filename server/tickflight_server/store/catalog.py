"""The Delta table of each stored table: which parts are live, and up to which ``seq`` rows are in them.

The rule of this file: what changes the parts becomes visible by exactly one atomic commit. A flush adds its parts and
records the flushed ``seq`` as the application transaction ``<writer>/<table>``; compaction, tiering and retention
remove parts and add those that stand for them. Only one thread commits to a table at a time.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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

from tickflight_server.errors import NotFoundError, StorageError
from tickflight_server.schemas import NumericType, TableSchema
from tickflight_server.store.delta_log import (
    set_torn_aside,
    set_torn_checkpoints_aside,
    sync_version,
    version_files,
    write_metadata,
    write_version_again,
)
from tickflight_server.store.evolution import evolve
from tickflight_server.store.partition import DAY_US, Part
from tickflight_server.store.parts import EMPTY, Names, PartIndex, name_bounds

LOG = structlog.get_logger(__name__)
PARTITION_KEYS = ("year", "month", "day", "exchange", "symbol")
EVOLVED = "tickflight.evolvedSeq"


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
        keep_hours: how long versions and removed parts can be read.
    """

    def __init__(
        self, folder: Path, table: TableSchema, writer: UUID, numeric: NumericType, keep_hours: float = 24.0
    ) -> None:
        self._folder = folder
        self._table = table
        self._app_id = f"{writer}/{table.name}"
        self._schema = delta_schema(table, numeric)
        keep = f"interval {max(1, math.ceil(keep_hours * 3600))} seconds"
        # a checkpoint every so many commits keeps loading and committing fast (measured: proto-notes/architecture.md)
        self._configuration = {
            "delta.checkpointInterval": "20",
            "delta.logRetentionDuration": keep,
            "delta.deletedFileRetentionDuration": keep,
            # with a checkpoint that may not be on disk yet, delta-rs would delete what it stands for: see clean_log
            "delta.enableExpiredLogCleanup": "false",
        }
        self._delta: DeltaTable | None = None
        self._exchanges, self._symbols = Names(), Names()
        self._target: pa.Schema | None = None  # what the schema is to become with the next commit
        self.evolved_seq = -1  # parts whose names end here or before may have fewer columns or narrower types

    @property
    def version(self) -> int:
        """The table version, -1 before the first commit."""
        return -1 if self._delta is None else self._delta.version()

    def load(self) -> tuple[PartIndex, int]:
        """Read the newest version; return its parts and the flushed ``seq`` (0 if nothing was flushed).

        A version that was written and not synced, or synced in vain, is written once more: the log may be released up
        to what this returns. Call it
        again after a failed commit.

        Raises:
            StorageError: the table cannot be read, holds a schema that cannot become this one, or is another writer's.
        """
        if not DeltaTable.is_deltatable(str(self._folder)):
            return self._empty(), 0
        try:
            self._delta = DeltaTable(str(self._folder))
            flushed = self._delta.transaction_version(self._app_id)
            index = self._read_parts(self._delta)
            write_version_again(self._folder, self.version)
        except (DeltaError, OSError, pa.ArrowInvalid) as error:
            raise StorageError(
                f"cannot read table {self._table.name}: {_first_line(error)}.",
                hint="A table version is missing or damaged: restore the table's _delta_log from a backup.",
            ) from None
        self._read_schema(self._delta, index)
        if flushed is None and len(index):
            raise StorageError(
                f"table {self._table.name} holds rows of another writer, and none of this folder's.",
                hint="Restore _tickflight/writer, which belongs to the tables, from a backup.",
            )
        return index, flushed or 0

    def mend(self) -> None:
        """Take what was cut off while it was written out of the log; to be called once, before ``load``.

        Raises:
            StorageError: the log cannot be read or written, or lacks the contents of an older version.
        """
        try:
            torn = set_torn_aside(self._folder)
            for name in set_torn_checkpoints_aside(self._folder):
                LOG.warning("catalog.torn_checkpoint", table=self._table.name, file=name)
        except OSError as error:
            raise StorageError(f"cannot look at the versions of {self._table.name}: {_first_line(error)}.") from None
        if torn is not None:
            LOG.warning("catalog.torn_version", table=self._table.name, version=torn)

    def _empty(self) -> PartIndex:
        return replace(EMPTY, exchanges=self._exchanges, symbols=self._symbols)

    def _read_schema(self, delta: DeltaTable, index: PartIndex) -> None:
        stored, wanted = pa.schema(delta.schema()), pa.schema(Schema.from_arrow(self._schema))
        # plain Arrow fields: nullability and metadata are not compared
        plain = [pa.schema([(f.name, f.type) for f in schema]) for schema in (stored, wanted)]
        self._target = evolve(self._table.name, plain[0], plain[1], self._table.required)
        known = delta.metadata().configuration.get(EVOLVED)
        self.evolved_seq = int(known) if known is not None else -1
        if self._target is not None and len(index):
            self.evolved_seq = int(index.last.max())

    @property
    def row_schema(self) -> pa.Schema:
        """The schema of the rows in parts: this version's columns, and those that only a newer one has."""
        schema = self._target or (self._schema if self._delta is None else pa.schema(self._delta.schema()))
        return pa.schema([(f.name, f.type) for f in schema if f.name not in ("year", "month", "day")])

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
        return self._commit([_add_action(part, new=True) for part in parts], self._marks(flushed_seq, producers))

    def rebuild(
        self, removed: Iterable[Part], added: Iterable[Part], flushed_seq: int, producers: Mapping[bytes, int]
    ) -> int:
        """Take ``removed`` out for good and ``added`` in, and record marks as ``commit`` does: what a repair commits.

        Return the new version, which is on disk.

        Raises:
            StorageError: as for ``commit``.
        """
        actions = [*_removals(removed, expired=True), *(_add_action(p, new=True) for p in added)]
        return self._commit(actions, self._marks(flushed_seq, producers))

    def _marks(self, flushed_seq: int, producers: Mapping[bytes, int]) -> list[Transaction]:
        marks = [Transaction(self._app_id, flushed_seq)]
        return marks + [Transaction(self._producer_id(p), s) for p, s in producers.items()]

    def replace(self, removed: Iterable[Part], added: Iterable[Part], *, expired: bool = False) -> int:
        """Let ``added`` stand for ``removed``, with the same rows, or with none of them if ``expired``.

        Return the new version, which is on disk.

        Raises:
            StorageError: as for ``commit``.
        """
        actions = [*_removals(removed, expired=expired), *(_add_action(p, new=False) for p in added)]
        return self._commit(actions, [])

    def _commit(self, actions: list[AddAction | RemoveAction], transactions: list[Transaction]) -> int:
        properties = CommitProperties(app_transactions=transactions)
        schema = Schema.from_arrow(self._schema)
        try:
            if self._delta is None:
                self._create([a for a in actions if isinstance(a, AddAction)], schema, properties)
            else:
                self._alter(self._delta)
                self._delta.create_write_transaction(
                    actions, "append", schema, partition_by=list(PARTITION_KEYS), commit_properties=properties
                )
                self._delta.update_incremental()
            sync_version(self._folder, self.version)
        except (DeltaError, OSError) as error:
            raise StorageError(
                f"cannot commit to table {self._table.name}: {_first_line(error)}.",
                hint="The rows are safe in log and parts and stay queryable; the commit is tried again.",
            ) from None
        return self.version

    def _create(self, actions: list[AddAction], schema: Schema, properties: CommitProperties) -> None:
        create_table_with_add_actions(
            str(self._folder),
            schema,
            actions,
            partition_by=list(PARTITION_KEYS),
            name=self._table.name,
            description=self._table.comment,
            configuration=dict(self._configuration),
            commit_properties=properties,
        )
        self._delta = DeltaTable(str(self._folder))

    def _alter(self, delta: DeltaTable) -> None:
        """Bring schema and configuration up to date, in a version of its own, if they are not."""
        configuration = dict(self._configuration)
        if self._target is not None:
            configuration[EVOLVED] = str(self.evolved_seq)
        stored = delta.metadata().configuration
        if self._target is None and all(stored.get(k) == v for k, v in configuration.items()):
            return
        schema = delta.schema() if self._target is None else Schema.from_arrow(self._target)
        write_metadata(self._folder, delta, schema, configuration)
        delta.update_incremental()
        self._target = None

    def clean_log(self) -> None:
        """Delete versions that are older than they are kept and stand before a checkpoint, which is on disk.

        Raises:
            StorageError: a file cannot be deleted.
        """
        if self._delta is None:
            return
        try:
            self._delta.cleanup_metadata()
        except (DeltaError, OSError) as error:
            raise StorageError(f"cannot clear up versions of {self._table.name}: {_first_line(error)}.") from None

    def versions(self) -> tuple[int, int]:
        """Return the oldest and the newest version that can be read; (-1, -1) without any."""
        kept = version_files(self._folder)
        if not kept:
            return self.version, self.version
        checkpoints = sorted(int(p.name[:20]) for p in (self._folder / "_delta_log").glob("*.checkpoint.parquet"))
        oldest = kept[0][0]
        if oldest > 0:
            # without its first versions a table can be read from a checkpoint on
            oldest = next((v for v in checkpoints if v >= oldest - 1), kept[-1][0])
        return oldest, self.version

    def at_version(self, version: int) -> PartIndex:
        """Return the parts of an older version.

        Raises:
            NotFoundError: there is none, or it is not kept any more.
        """
        oldest, newest = self.versions()
        if not oldest <= version <= newest or newest < 0:
            kept = f"Versions {oldest} to {newest} are kept." if newest >= 0 else "It has no version yet."
            raise NotFoundError(f"table {self._table.name} has no version {version}.", hint=kept)
        try:
            return self._read_parts(DeltaTable(str(self._folder), version=version))
        except (DeltaError, OSError, pa.ArrowInvalid) as error:
            raise NotFoundError(
                f"version {version} of table {self._table.name} cannot be read: {_first_line(error)}.",
                hint=f"The newest version is {newest}.",
            ) from None

    def version_at(self, timestamp_us: int) -> int:
        """Return the newest version that was committed at or before ``timestamp_us``.

        Raises:
            NotFoundError: there was none, or it is not kept any more.
        """
        oldest, newest = self.versions()
        when = [(v, p.stat().st_mtime_ns // 1000) for v, p in version_files(self._folder) if v >= oldest]
        before = [v for v, us in when if us <= timestamp_us]
        if not before:
            raise NotFoundError(
                f"table {self._table.name} has no version of that time.",
                hint=f"Versions {oldest} to {newest} are kept.",
            )
        return before[-1]

    def _read_parts(self, delta: DeltaTable) -> PartIndex:
        actions = pa.table(delta.get_add_actions(flatten=True))
        if actions.num_rows == 0:
            return self._empty()

        for name in ("num_records", "min.timestamp", "max.timestamp", "min.seq", "max.seq"):
            if actions.column(name).null_count:
                raise pa.ArrowInvalid(f"a part has no statistics {name!r}")

        def ints(name: str) -> Any:
            return actions.column(name).combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)

        def micros(name: str) -> Any:
            column = actions.column(name).combine_chunks()
            return column.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy(zero_copy_only=False)

        low = micros("min.timestamp")
        paths = np.array([unquote(p) for p in actions.column("path").to_pylist()], dtype=object)
        first, last = name_bounds(paths)
        # parts of older versions that a repair took over may have names that say nothing
        last = np.maximum(last, ints("max.seq"))
        return PartIndex(
            path=paths,
            exchange_code=self._exchanges.codes(actions.column("partition.exchange").to_pylist()),
            symbol_code=self._symbols.codes(actions.column("partition.symbol").to_pylist()),
            day=low // DAY_US,
            rows=ints("num_records"),
            nbytes=ints("size_bytes"),
            min_us=low,
            max_us=micros("max.timestamp"),
            min_seq=ints("min.seq"),
            max_seq=ints("max.seq"),
            first=first,
            last=last,
            exchanges=self._exchanges,
            symbols=self._symbols,
        )


def _partition_values(part: Part) -> dict[str, str | None]:
    date = part.key.date
    return {
        "year": str(date.year),
        "month": str(date.month),
        "day": str(date.day),
        "exchange": part.key.exchange,
        "symbol": part.key.symbol,
    }


def _removals(parts: Iterable[Part], *, expired: bool) -> list[AddAction | RemoveAction]:
    now_ms = time.time_ns() // 1_000_000
    # the path as it was given to AddAction: in any other form the removal would be of nothing
    return [RemoveAction(p.path, expired, now_ms, p.nbytes, _partition_values(p)) for p in parts]


def _add_action(part: Part, *, new: bool) -> AddAction:
    stats = {
        "numRecords": part.rows,
        "minValues": {"timestamp": _iso(part.min_us), "seq": part.min_seq},
        "maxValues": {"timestamp": _iso(part.max_us), "seq": part.max_seq},
        "nullCount": {"timestamp": 0, "seq": 0},
    }
    now_ms = time.time_ns() // 1_000_000
    return AddAction(part.path, part.nbytes, _partition_values(part), now_ms, new, json.dumps(stats))


def _iso(us: int) -> str:
    return datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{us % 1_000_000:06d}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
