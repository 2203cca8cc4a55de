"""The state of a table, and the cut over it that a query reads.

The rule of this file: states never change, so readers take no lock; every row of a table is in exactly one place of a
snapshot: in a segment, in the held rows, or in a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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
    def oldest_seq(self) -> int:
        """The least ``seq`` of a row that is stored, one more than the newest if none is."""
        in_parts = int(self.parts.min_seq.min(initial=self.last_seq + 1))
        return min([in_parts, *(s.first_seq for s in (*self.held, *self.segments[:1]))])

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

    Of one that was narrowed to what somebody may see, ``table`` has the columns that they may, ``segments`` and
    ``parts`` the rows, but that rows of parts from before ``since_us`` (microseconds since 1970) are still to be left
    out; ``whole`` is the cut that it was made of.
    """

    table: TableSchema
    segments: tuple[Segment, ...]
    parts: PartIndex
    version: int
    last_seq: int
    upto: int | None = None
    since_us: int | None = None
    whole: TableSnapshot | None = None


def take_snapshot(table: TableSchema, state: TableState, upto: int | None = None) -> TableSnapshot:
    """Return the cut over ``state``: the rows in memory, and the parts of all others; up to ``upto`` if given."""
    parts = state.parts.chosen(state.parts.last <= state.ring_from)
    segments = state.held + state.segments
    if upto is None:
        return TableSnapshot(table, segments, parts, state.version, state.last_seq)
    segments = tuple(s for s in segments if s.first_seq <= upto)
    parts = parts.chosen(parts.min_seq <= upto)
    return TableSnapshot(table, segments, parts, state.version, min(state.last_seq, upto), upto)


def with_bound(bounds: tuple[int, ...], seq: int) -> tuple[int, ...]:
    """Return ``bounds`` with one at ``seq``."""
    return bounds if seq in bounds else (*bounds, seq)


def thin(bounds: Iterable[int], ring_from: int, target: int, rows_max: int) -> tuple[int, ...]:
    """Return ``bounds`` without those between small flushes, whose rows together are at most ``rows_max``.

    Segments may then be merged across, and a quiet table does not gather a segment with every flush. The bound of the
    newest flush always stays.
    """
    kept: list[int] = []
    for bound in bounds:
        before = kept[-2] if len(kept) > 1 else ring_from
        if kept and bound <= target and bound - before <= rows_max:
            kept.pop()
        kept.append(bound)
    return tuple(kept)


def replace_run(state: TableState, run: Sequence[Segment], merged: Segment) -> TableState:
    """Return ``state`` with ``merged`` for ``run``, or unchanged if the run was released or cut meanwhile."""
    segments = state.segments
    try:
        start = next(i for i, s in enumerate(segments) if s is run[0])
    except StopIteration:
        return state
    if any(merged.first_seq <= b < merged.last_seq for b in state.bounds):
        return state
    return replace(state, segments=(*segments[:start], merged, *segments[start + len(run) :]))
