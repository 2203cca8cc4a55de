"""The order in which a day's book events are applied, cut into slices.

The rule of this file: events are applied as they arrived, by ``seq``, and each counts from the moment at which it, or
one that arrived after it, is stamped. A stamp that is more than a minute before the one that arrived last begins a new
run: rows that came late, which are put where their time says.

A handler that fetches a snapshot over REST stamps it when it is received; the changes that follow it may be stamped by
the exchange a moment before. In order of ``timestamp`` the snapshot would undo them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tickflight_server.query.ladder import Flags, Ints

SLICE_EVENTS = 8192
"""Events of a slice: what is read and applied for a book, at most."""
SLICE_SNAPSHOTS = 512
"""The same where more than a tenth of the events are snapshots, which have many levels."""

RUN_FALL_US = 60_000_000
_DAY_BITS = 37  # microseconds of a day fit


@dataclass(frozen=True, eq=False)
class Slice:
    """Neighbours in a day's order of events, with the bounds of their ``seq`` and timestamps.

    They count from ``start_us`` to ``end_us``, the first and the last. ``seqs`` are their numbers in order, None where
    they are those of the day from ``first_seq`` to ``last_seq`` in order; ``at_us`` is from when each counts, None
    where that is its timestamp. ``snapshot_at`` and ``snapshot_seq`` are place and number of the last snapshot among
    them, -1 if there is none.
    """

    rows: int
    first_seq: int
    last_seq: int
    min_us: int
    max_us: int
    start_us: int
    end_us: int
    snapshot_at: int
    snapshot_seq: int
    seqs: Ints | None
    at_us: Ints | None

    @property
    def nbytes(self) -> int:
        """Memory."""
        return 256 + sum(a.nbytes for a in (self.seqs, self.at_us) if a is not None)


def counts_from(timestamp_us: Ints) -> Ints:
    """Return from when on each event counts; they are in order of ``seq``."""
    if len(timestamp_us) == 0:
        return timestamp_us
    first = int(timestamp_us.min())
    run = np.zeros(len(timestamp_us), dtype=np.int64)
    np.cumsum(np.diff(timestamp_us) < -RUN_FALL_US, out=run[1:])
    # a later run is above any earlier one, so that the least from the end begins anew in each
    lifted = (timestamp_us - first) + (run << _DAY_BITS)
    least: Ints = np.minimum.accumulate(lifted[::-1])[::-1]
    return least - (run << _DAY_BITS) + first


def slices_of(seq: Ints, timestamp_us: Ints, snapshot: Flags, *, alone: bool = True) -> list[Slice]:
    """Return the slices of events, which are given in order of ``seq``.

    ``alone``: no other event of the day has a ``seq`` between theirs.
    """
    at = counts_from(timestamp_us)
    order = None if _rises(at) else np.lexsort((seq, at))
    many = len(seq) and float(np.mean(snapshot)) > 0.1
    return list(_cut(seq, timestamp_us, snapshot, at, order, SLICE_SNAPSHOTS if many else SLICE_EVENTS, alone))


def _cut(
    seq: Ints, timestamp_us: Ints, snapshot: Flags, at: Ints, order: Ints | None, events: int, alone: bool
) -> Iterator[Slice]:
    for start in range(0, len(seq), events):
        places = np.arange(start, min(start + events, len(seq))) if order is None else order[start : start + events]
        times, moments, numbers = timestamp_us[places], at[places], seq[places]
        plain = alone and bool(places[-1] - places[0] == len(places) - 1) and _rises(places)
        snapshots = np.flatnonzero(snapshot[places])
        yield Slice(
            rows=len(places),
            first_seq=int(numbers.min()),
            last_seq=int(numbers.max()),
            min_us=int(times.min()),
            max_us=int(times.max()),
            start_us=int(moments[0]),
            end_us=int(moments[-1]),
            snapshot_at=int(snapshots[-1]) if len(snapshots) else -1,
            snapshot_seq=int(numbers[snapshots[-1]]) if len(snapshots) else -1,
            seqs=None if plain else numbers,
            at_us=None if np.array_equal(times, moments) else moments,
        )


def _rises(values: Ints) -> bool:
    return bool(np.all(values[1:] >= values[:-1]))
