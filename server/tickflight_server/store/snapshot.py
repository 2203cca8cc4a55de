"""The state of a table, and the cut over it that a query reads.

The rule of this file: states never change, so readers take no lock; every row of a table is in exactly one place of a
snapshot: in a segment, in the held rows, or in a part.
"""

from __future__ import annotations

from dataclasses import dataclass

from tickflight_server.schemas import TableSchema
from tickflight_server.store.parts import EMPTY, PartIndex
from tickflight_server.store.ring import Segment


@dataclass(frozen=True, eq=False)
class TableState:
    """What a table is at one instant.

    ``segments`` hold exactly the rows with ``seq > ring_from``, dense, in order. A part is read when the ``last`` of
    its name is at most ``ring_from``: all rows of its partition up to ``last`` are in parts then. ``held`` has the rows
    up to ``ring_from`` that are in no part that is read: those of partitions that are too small to be flushed yet, and
    those whose part also has rows above ``ring_from``.

    Every row up to ``flushed_seq`` is in a part; ``target`` is up to where the newest flush looked at rows.
    ``unflushed_bytes`` is the memory of the rows that are in no part. ``bounds`` are targets of flushes from
    ``ring_from`` on, where no segment crosses and the ring may be cut.
    """

    segments: tuple[Segment, ...] = ()
    held: tuple[Segment, ...] = ()
    ring_from: int = 0
    parts: PartIndex = EMPTY
    flushed_seq: int = 0
    target: int = 0
    leftover_rows: int = 0
    leftover_bytes: int = 0
    version: int = -1
    bounds: tuple[int, ...] = ()

    @property
    def last_seq(self) -> int:
        """``seq`` of the newest row, 0 if there is none."""
        return self.segments[-1].last_seq if self.segments else max(self.ring_from, self.target)

    @property
    def ring_bytes(self) -> int:
        """Memory of all rows that queries find in memory."""
        return sum(s.nbytes for s in self.segments) + sum(s.nbytes for s in self.held)

    @property
    def unflushed_bytes(self) -> int:
        """Memory of the rows that are in no part."""
        return self.leftover_bytes + sum(s.nbytes for s in self.segments if s.last_seq > self.target)

    @property
    def unflushed_rows(self) -> int:
        """How many rows are in no part."""
        return self.leftover_rows + sum(s.rows for s in self.segments if s.last_seq > self.target)


@dataclass(frozen=True, eq=False)
class TableSnapshot:
    """One consistent cut over a table: ``segments`` and ``parts`` together hold each row once.

    ``version`` is the Delta table version that the parts come from, ``last_seq`` the newest row's ``seq``. With
    ``upto``, only the rows with ``seq <= upto`` belong to the cut; what is known to hold later rows only is left out.
    """

    table: TableSchema
    segments: tuple[Segment, ...]
    parts: PartIndex
    version: int
    last_seq: int
    upto: int | None = None


def take_snapshot(table: TableSchema, state: TableState, upto: int | None = None) -> TableSnapshot:
    """Return the cut over ``state``: the rows in memory, and the parts of all others; up to ``upto`` if given."""
    parts = state.parts.chosen(state.parts.last <= state.ring_from)
    segments = state.held + state.segments
    if upto is None:
        return TableSnapshot(table, segments, parts, state.version, state.last_seq)
    segments = tuple(s for s in segments if s.first_seq <= upto)
    parts = parts.chosen(parts.min_seq <= upto)
    return TableSnapshot(table, segments, parts, state.version, min(state.last_seq, upto), upto)
