"""What a query reads of one table: the segments and parts that can match, as a view of the connection.

The rule of this file: a source that cannot hold a matching row is not opened; what is opened has the table's columns
and types, whenever it was written; rows beyond the cut are left out by the view itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from tickflight_server.query.probe import Filters
from tickflight_server.query.prune import Candidates, PartCandidates, SegmentCandidates, may_match
from tickflight_server.query.sieve import sieved
from tickflight_server.query.unread import known_labels, passing_columns
from tickflight_server.schemas import NumericType, TableSchema
from tickflight_server.store import PartIndex, SeenStore, Segment, TableSnapshot
from tickflight_server.store.access import OpenParts

_SQL_TYPES: tuple[tuple[Any, str], ...] = (
    (pa.types.is_string, "VARCHAR"),
    (pa.types.is_float64, "DOUBLE"),
    (pa.types.is_timestamp, "TIMESTAMP"),
    (pa.types.is_int64, "BIGINT"),
    (pa.types.is_boolean, "BOOLEAN"),
)
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Opened:
    """What a query opens of one table: part paths relative to the table's folder, and segments by first ``seq``.

    ``rows`` are in them together.
    """

    parts: tuple[str, ...]
    segments: tuple[int, ...]
    rows: int = 0


def opened_of(segments: Iterable[Segment], parts: PartIndex | None = None) -> Opened:
    """Return what a query opens that reads ``segments`` and ``parts``."""
    segments = tuple(segments)
    rows = sum(s.rows for s in segments) + (0 if parts is None else parts.total_rows)
    return Opened(() if parts is None else tuple(parts.path), tuple(s.first_seq for s in segments), rows)


class Sources:
    """Gives connections what they are to see of a store.

    Args:
        store: whose tables are read.
        folder: what stands before a path below the data folder, with a slash, or nothing in the folder itself.
    """

    def __init__(self, store: SeenStore, folder: str) -> None:
        self._store = store
        self._folder = folder

    def give(
        self,
        connection: duckdb.DuckDBPyConnection,
        view: str,
        snapshot: TableSnapshot,
        filters: Filters | None,
        upto: int | None,
        held: ExitStack,
        ready: OpenParts | None = None,
        unsure: list[OpenParts] | None = None,
    ) -> Opened:
        """Let ``connection`` see as ``view`` those rows of ``snapshot`` that can match, up to ``upto``.

        ``held`` keeps the parts readable, and lets them go when it is closed. ``ready`` are the parts that can match,
        where they have been opened already. With ``unsure`` parts are added to it that are still being compared: what
        is read of them is to be kept back until they are known to be whole.

        Raises:
            StorageError: a part is missing or damaged.
        """
        table = snapshot.table
        hold(snapshot, held)
        segments, parts = chosen(snapshot, filters, upto)
        later = upto is not None and any(s.last_seq > upto for s in segments)
        seen = None if filters is None else filters.columns
        seen = seen | {"seq"} if seen is not None and later else seen
        kept = sieved(segments, filters, seen)
        ring = pa.Table.from_batches(kept, schema=table.arrow(self._store.numeric, memory=True))
        if len(parts) == 0 and not later:
            connection.register(view, ring)
            return opened_of(segments)
        selects = []
        if len(parts):
            cut = upto if upto is not None and parts.max_seq.max() > upto else None
            passing = passing_columns(parts, filters) if cut is None else {}
            read = None if filters is None else filters.columns
            if read is not None:
                # the view's own condition reads a column that the probe did not see
                read = read - passing.keys() if cut is None else read | {"seq"}
            opened = ready or self._store.open_parts(snapshot, parts, read, meanwhile=unsure is not None)
            held.callback(opened.close)
            if unsure is not None:
                unsure.append(opened)
            old = is_cut(parts, snapshot)
            paths = [self._place(path) for path, part in zip(opened.paths, old, strict=True) if not part]
            connection.execute(f"SET VARIABLE {view} = ?", [paths])
            if old.any():
                # a condition of the view would not do: the engine may look at rows before it, and tell of them
                begun = [path for path, part in zip(opened.paths, old, strict=True) if part]
                connection.register(f"{view}_begun", self._store.begun_parts(snapshot, begun))
                selects.append(up_to(f"SELECT {_columns(table)} FROM {view}_begun", cut))
            if opened.evolved:
                connection.register(f"{view}_none", table.arrow(self._store.numeric).empty_table())
            if paths:
                known = known_labels(parts) | passing
                select = parts_select(table, view, self._store.numeric, evolved=opened.evolved, known=known)
                selects.append(up_to(select, cut))
        if segments:
            connection.register(f"{view}_ring", ring)
            selects.append(up_to(f"SELECT {_columns(table)} FROM {view}_ring", upto if later else None))
        connection.execute(f"CREATE TEMP VIEW {view} AS {' UNION ALL '.join(selects)}")
        return opened_of(segments, parts)

    def _place(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._folder}{path}"


def chosen(snapshot: TableSnapshot, filters: Filters | None, upto: int | None) -> tuple[list[Segment], PartIndex]:
    """Return the segments and parts of ``snapshot`` that some scan needs."""
    by_segment, by_part = SegmentCandidates(snapshot.segments), PartCandidates(snapshot.parts)
    keep = _keep(filters, by_segment, upto)
    segments = [s for s, wanted in zip(snapshot.segments, keep, strict=True) if wanted]
    return segments, snapshot.parts.chosen(_keep(filters, by_part, upto))


def take_back(connection: duckdb.DuckDBPyConnection, views: Iterable[str]) -> None:
    """Let ``connection`` forget what it was given as ``views``, if anything."""
    for view in views:
        with suppress(duckdb.Error):  # the transaction was aborted, and they go with it
            connection.execute(f"DROP VIEW IF EXISTS temp.main.{view}")
        for name in (view, f"{view}_ring", f"{view}_none", f"{view}_begun"):
            with suppress(duckdb.Error):
                connection.unregister(name)


def parts_select(
    table: TableSchema, view: str, numeric: NumericType, *, evolved: bool, known: Mapping[str, str] = _NOTHING
) -> str:
    """Return the query over the files in variable ``view``; columns that are ``known`` are not read.

    With ``evolved`` some were written with fewer columns or narrower types: columns are matched by name, what is
    missing is null (the empty table ``<view>_none`` has every column), and each is cast to the table's type. The
    engine still pushes filters down to the files.
    """
    read = f"read_parquet(getvariable('{view}'), hive_partitioning = false"
    if not evolved:
        columns = (f'{known[c.name]} AS "{c.name}"' if c.name in known else f'"{c.name}"' for c in table.columns)
        return f"SELECT {', '.join(columns)} FROM {read})"
    casts = ", ".join(f'CAST("{f.name}" AS {sql_type(f.type)}) AS "{f.name}"' for f in table.arrow(numeric))
    every = f"SELECT * FROM {read}, union_by_name = true) UNION ALL BY NAME SELECT * FROM {view}_none"
    return f"SELECT {casts} FROM ({every})"


def is_cut(parts: PartIndex, snapshot: TableSnapshot) -> np.ndarray:
    """Return which of ``parts`` of ``snapshot`` also have rows from before its beginning."""
    if snapshot.since_us is None:
        return np.zeros(len(parts), dtype=bool)
    return np.asarray(parts.min_us < snapshot.since_us)


def up_to(select: str, seq: int | None) -> str:
    """Return ``select`` without the rows after ``seq``, if one is given."""
    return select if seq is None else f"{select} WHERE seq <= {seq}"


def sql_type(kind: pa.DataType) -> str:
    """Return the engine's name of a column's type in parts."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    for holds, name in _SQL_TYPES:
        if holds(kind):
            return name
    raise AssertionError(f"no stored column is {kind}")


def hold(snapshot: TableSnapshot, held: ExitStack) -> None:
    """Hold ``snapshot`` until ``held`` is closed: the store leaves the parts of one that somebody holds."""
    held.callback(_let_go, snapshot)


def _let_go(_: TableSnapshot) -> None:
    """Do nothing: that somebody may call this holds the snapshot."""


def _columns(table: TableSchema) -> str:
    return ", ".join(f'"{c.name}"' for c in table.columns)


def _keep(filters: Filters | None, candidates: Candidates, upto: int | None) -> np.ndarray:
    """Return which candidates some scan needs, and have a row up to ``upto``."""
    keep = np.zeros(len(candidates), dtype=bool)
    if filters is None or any(f is None for f in filters):
        keep[:] = True
    else:
        for one in filters:
            assert one is not None
            keep |= may_match(one, candidates)
    if upto is not None:
        bounds = candidates.range("seq")
        assert bounds is not None
        keep &= bounds[0] <= upto
    return keep
