"""What somebody sees of a store: of each table the rows and columns that their rights permit, and nothing else.

The rule of this file: every row that leaves the store for a caller passes here, so what is not let through is in no
answer, whichever road it was asked by. What somebody may see whole is passed on as it is, and costs nothing.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from tickflight_server.clock import Clock, SystemClock
from tickflight_server.errors import NotFoundError
from tickflight_server.identity.rights import ALL, Sight, TableRights
from tickflight_server.metrics import Metrics
from tickflight_server.schemas import TIMESTAMP, NumericType, TableSchema
from tickflight_server.store.access import OpenParts
from tickflight_server.store.health import Health
from tickflight_server.store.narrow import Mask, narrowed_batch, narrowed_segment, permitted_parts
from tickflight_server.store.part_reader import rows_from
from tickflight_server.store.parts import EMPTY, PartIndex
from tickflight_server.store.ring import Segment, make_segment
from tickflight_server.store.snapshot import TableSnapshot
from tickflight_server.store.store import Store
from tickflight_server.store.table import Table

_TOLD = frozenset({"exchange", "symbol", "timestamp", "seq"})


class SeenStore:
    """A store as those see it who have ``sight`` of it.

    Args:
        store: whose rows.
        sight: what is permitted.
        kept_bytes: rows of segments that are kept, once they were chosen from those that may not be seen.
    """

    def __init__(
        self, store: Store, sight: Sight = ALL, clock: Clock | None = None, *, kept_bytes: int = 256 << 20
    ) -> None:
        self._store = store
        self.sight = sight
        self._clock = clock or SystemClock()
        self._kept_bytes = kept_bytes
        self._rights = dict(sight.tables)
        self.tables: dict[str, Table] = {n: t for n, t in store.tables.items() if n in self._rights}
        """The tables that there are, for what is told of their positions; rows are had by the methods here."""
        self.schemas: Mapping[str, TableSchema] = {
            n: _schema(t.schema, self._rights[n]) for n, t in self.tables.items()
        }
        """The schemas of the tables that there are, with the columns that there are."""
        self._lock = threading.Lock()
        self._masks: weakref.WeakKeyDictionary[PartIndex, dict[TableRights, Mask]] = weakref.WeakKeyDictionary()
        self._segments: OrderedDict[tuple[int, TableRights], _Kept] = OrderedDict()  # longest unused first
        self._segment_bytes = 0

    # --- of the whole store

    @property
    def numeric(self) -> NumericType:
        """See ``Store.numeric``."""
        return self._store.numeric

    @property
    def root(self) -> Path:
        """The data folder, absolute."""
        return self._store.root

    @property
    def metrics(self) -> Metrics:
        """The server's counters."""
        return self._store.metrics

    @property
    def health(self) -> Health:
        """How the components are doing."""
        return self._store.health

    @property
    def whole(self) -> Store:
        """The store itself, for what is no table's."""
        return self._store

    @property
    def read_folders(self) -> list[Path]:
        """Where the parts that ``open_parts`` gives may lie; books read the holes, whoever may see table ``gaps``."""
        read = self.tables.keys() | ({"gaps"} if "l2_book" in self.tables else set())
        hidden = {self._store.root / name for name in self._store.tables if name not in read}
        return [folder for folder in self._store.read_folders if folder not in hidden]

    def is_narrowed(self, table: str) -> bool:
        """Return whether not all of ``table`` may be seen."""
        return not self._rights[table].everything

    def moves(self, tables: Iterable[str]) -> bool:
        """Return whether of one of ``tables`` rows go out of sight as time goes on."""
        return any(self._rights[table].history_us is not None for table in tables)

    def tells_places(self, table: str) -> bool:
        """Return whether it may be told where rows of ``table`` lie, which says what is in what they are sorted by."""
        columns = self._rights[table].columns
        return columns is None or columns >= _TOLD

    # --- rows

    def snapshot(self, table: str, upto: int | None = None) -> TableSnapshot:
        """Return a consistent cut over what there is of ``table``; see ``Store.snapshot``.

        Raises:
            NotFoundError: there is no such table.
        """
        return self._narrowed(self._store.snapshot(self._known(table), upto), self._rights[table])

    def snapshot_at(self, table: str, version: int) -> TableSnapshot:
        """Return what there is in the parts of a version of ``table``; see ``Store.snapshot_at``.

        Raises:
            NotFoundError: there is no such table, or no such version.
        """
        return self._narrowed(self._store.snapshot_at(self._known(table), version), self._rights[table])

    def version_at(self, table: str, timestamp_us: int) -> int:
        """Return the version of ``table`` at a time; see ``Store.version_at``.

        Raises:
            NotFoundError: there is no such table, there was no version, or it is not kept any more.
        """
        return self._store.version_at(self._known(table), timestamp_us)

    def gaps(self, of: str, upto: int | None = None) -> TableSnapshot:
        """Return what is missing of those rows of table ``of`` that may be seen, whether table ``gaps`` may be or not.

        Raises:
            NotFoundError: there is no table ``of``.
        """
        rights = replace(self._rights[self._known(of)], columns=None)
        return self._narrowed(self._store.snapshot("gaps", upto), rights)

    def open_parts(
        self,
        snapshot: TableSnapshot,
        parts: PartIndex,
        columns: frozenset[str] | None = None,
        *,
        meanwhile: bool = False,
    ) -> OpenParts:
        """Make ``parts`` of ``snapshot``, which is from here, ready to be read; see ``Store.open_parts``."""
        return self._store.open_parts(snapshot, parts, columns, meanwhile=meanwhile)

    def begun_parts(self, snapshot: TableSnapshot, paths: Sequence[str]) -> ds.Dataset:
        """Return the rows from the beginning of ``snapshot`` on of opened parts that also have older ones.

        ``paths`` are those that ``open_parts`` gave. Whoever scans it meets no older row.
        """
        assert snapshot.whole is not None
        assert snapshot.since_us is not None
        schema = snapshot.whole.table.arrow(self.numeric)
        places = [path if path.startswith("/") else f"{self.root}/{path}" for path in paths]
        since = pa.scalar(snapshot.since_us, TIMESTAMP)
        return rows_from(places, schema, since, snapshot.table.arrow(self.numeric))

    def permitted(self, table: str, segment: Segment, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return those of ``rows``, a slice of ``segment`` of ``table``, that may be seen, in the columns that may."""
        rights = self._rights[table]
        return rows if rights.everything else narrowed_batch(segment, rows, rights, self._since_us(rights), None)

    def live(self, table: str) -> TableSnapshot:
        """Return all that is in memory of ``table`` and all live parts, where rows may be in both, for telling of them.

        Parts that also have rows which may not be seen are left out, and so is everything where one of the columns
        exchange, symbol, timestamp and seq is not there, of which there is most to tell.
        """
        state = self.tables[table].state
        schema = self.tables[table].schema
        every = TableSnapshot(schema, (*state.held, *state.segments), state.parts, state.version, state.last_seq)
        rights = self._rights[table]
        if rights.everything:
            return every
        if not self.tells_places(table):
            return replace(every, segments=(), parts=EMPTY, last_seq=0)
        found = self._narrowed(every, rights)
        parts = found.parts if found.since_us is None else found.parts.chosen(found.parts.min_us >= found.since_us)
        segments = tuple(make_segment(s.batch, dense=False) for s in found.segments if s.rows)
        return replace(found, parts=parts, segments=segments)

    # --- how

    def _known(self, table: str) -> str:
        if table not in self._rights:
            raise NotFoundError(
                f"there is no stored table {table!r}.", hint=f"Tables are {', '.join(self.tables) or 'none'}."
            )
        return table

    def _since_us(self, rights: TableRights) -> int | None:
        return None if rights.history_us is None else self._clock.now_us() - rights.history_us

    def _narrowed(self, snapshot: TableSnapshot, rights: TableRights) -> TableSnapshot:
        if rights.everything:
            return snapshot
        since_us = self._since_us(rights)
        parts = self._parts(snapshot.parts, rights)
        if since_us is not None:
            parts = parts.chosen(parts.max_us >= since_us)
        found = (self._segment(s, rights, since_us, snapshot.upto) for s in snapshot.segments)
        return replace(
            snapshot,
            table=_schema(snapshot.table, rights),
            segments=tuple(s for s in found if s is not None),
            parts=parts,
            since_us=since_us,
            whole=snapshot,
        )

    def _parts(self, parts: PartIndex, rights: TableRights) -> PartIndex:
        if rights.rows is None or not len(parts):
            return parts
        with self._lock:
            found = self._masks.setdefault(parts, {}).get(rights)
        if found is None:
            found = permitted_parts(parts, rights)
            with self._lock:
                self._masks[parts][rights] = found
        return parts.chosen(found)

    def _segment(self, segment: Segment, rights: TableRights, since_us: int | None, upto: int | None) -> Segment | None:
        """Return what may be seen of a segment, None if nothing is; rows after ``upto`` are left out, if given."""
        late = upto is not None and segment.last_seq > upto
        if late or (since_us is not None and segment.min_us < since_us):
            return narrowed_segment(segment, rights, since_us, upto)
        key = (id(segment), rights)
        with self._lock:
            kept = self._segments.get(key)
            if kept is not None and kept.of() is segment:
                self._segments.move_to_end(key)
                return kept.seen
        seen = narrowed_segment(segment, rights, None, None)
        if seen is not None and seen is not segment:
            self._keep(key, _Kept(weakref.ref(segment), seen, segment.nbytes))
        return seen

    def _keep(self, key: tuple[int, TableRights], kept: _Kept) -> None:
        with self._lock:
            before = self._segments.pop(key, None)
            self._segments[key] = kept
            self._segment_bytes += kept.nbytes - (before.nbytes if before else 0)
            for other, one in list(self._segments.items()):
                if self._segment_bytes <= self._kept_bytes and one.of() is not None:
                    break
                del self._segments[other]
                self._segment_bytes -= one.nbytes


@dataclass(frozen=True)
class _Kept:
    """What is seen of a segment; its rows are made when they are first asked for, and have at most ``nbytes``."""

    of: weakref.ref[Segment]
    seen: Segment
    nbytes: int


def _schema(table: TableSchema, rights: TableRights) -> TableSchema:
    """Return the schema of what may be seen of a table."""
    if rights.columns is None:
        return table
    return replace(table, columns=tuple(c for c in table.columns if c.name in rights.columns))
