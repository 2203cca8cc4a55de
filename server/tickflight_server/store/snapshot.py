"""The state of a table, and the cut over it that a query reads.

The rule of this file: states never change, so readers take no lock; every row of a table is in exactly one place of a
snapshot, in a segment or in a part.
"""

from __future__ import annotations

from dataclasses import dataclass

from tickflight_server.schemas import TableSchema
from tickflight_server.store.parts import EMPTY, PartIndex
from tickflight_server.store.ring import Segment


@dataclass(frozen=True, eq=False)
class TableState:
    """What a table is at one instant.

    ``segments`` hold exactly the rows with ``seq > ring_from``, dense, in order. ``parts`` hold exactly the rows with
    ``seq <= flushed_seq``. Between ``ring_from`` and ``flushed_seq`` rows are in both, and the ring is read.
    ``bounds`` are the flushes' last ``seq`` from ``ring_from`` on: no segment and no part crosses one.
    """

    segments: tuple[Segment, ...] = ()
    ring_from: int = 0
    parts: PartIndex = EMPTY
    flushed_seq: int = 0
    version: int = -1
    bounds: tuple[int, ...] = ()

    @property
    def last_seq(self) -> int:
        """``seq`` of the newest row, 0 if there is none."""
        return self.segments[-1].last_seq if self.segments else self.flushed_seq

    @property
    def ring_bytes(self) -> int:
        """Memory of all segments."""
        return sum(s.nbytes for s in self.segments)

    @property
    def unflushed_bytes(self) -> int:
        """Memory of the segments whose rows are not in parts."""
        return sum(s.nbytes for s in self.segments if s.last_seq > self.flushed_seq)


@dataclass(frozen=True, eq=False)
class TableSnapshot:
    """One consistent cut over a table: ``segments`` and ``parts`` together hold each row once.

    ``version`` is the Delta table version that the parts come from, ``last_seq`` the newest row's ``seq``. With
    ``upto`` only rows with ``seq <= upto`` belong to the cut; segments and parts may hold later ones.
    """

    table: TableSchema
    segments: tuple[Segment, ...]
    parts: PartIndex
    version: int
    last_seq: int
    upto: int | None = None


def take_snapshot(table: TableSchema, state: TableState) -> TableSnapshot:
    """Return the cut over ``state``: the ring's rows, and the parts of all rows before them."""
    below = state.parts.max_seq <= state.ring_from
    assert (below | (state.parts.min_seq > state.ring_from)).all(), "a part crosses the ring's start"
    return TableSnapshot(table, state.segments, state.parts.chosen(below), state.version, state.last_seq)
