"""Books in memory: levels are set and taken away, snapshots begin anew, and rows that do not fit are told."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tickflight_server.errors import StorageError
from tickflight_server.query.ladder import Book, Events, Ladder, Side, levels_of

Levels = list[tuple[Any, Any]]


def events(*rows: tuple[bool, Levels, Levels], kind: Any = None) -> Events:
    """Return events of snapshot or not, bids and asks; the n-th is of second n, with number n."""
    count = len(rows)
    kind = pa.list_(kind or pa.float64())
    sides = [
        levels_of(
            pa.array([[p for p, _ in row[at]] for row in rows], kind),
            pa.array([[s for _, s in row[at]] for row in rows], kind),
        )
        for at in (1, 2)
    ]
    numbers = np.arange(count, dtype=np.int64)
    flags = np.array([row[0] for row in rows], dtype=bool)
    return Events(numbers, numbers * 10, numbers * 10 + 2, numbers * 10, flags, sides[0], sides[1])


def levels(side: Side) -> Levels:
    return list(zip(side.prices.to_pylist(), side.sizes.to_pylist(), strict=True))


def test_levels_are_set_and_taken_away() -> None:
    ladder = Ladder(
        None,
        events((True, [(1, 1), (2, 1)], [(3, 1)]), (False, [(2, 0), (1, 5)], [(4, 2)]), (False, [(2, 7)], [(3, 0)])),
    )
    seen = []
    for count in (1, 2, 3):
        ladder.advance(count)
        book = ladder.book()
        assert book is not None
        seen.append((levels(book.bids), levels(book.asks), book.seq, book.timestamp_us))
    assert seen == [
        ([(2.0, 1.0), (1.0, 1.0)], [(3.0, 1.0)], 0, 0),
        ([(1.0, 5.0)], [(3.0, 1.0), (4.0, 2.0)], 1, 10),
        ([(2.0, 7.0), (1.0, 5.0)], [(4.0, 2.0)], 2, 20),
    ]


def test_last_of_one_price_in_an_event_counts() -> None:
    ladder = Ladder(None, events((True, [(1, 1), (1, 0), (2, 0), (2, 3)], [])))
    ladder.advance(1)
    book = ladder.book()
    assert book is not None
    assert levels(book.bids) == [(2.0, 3.0)]
    assert levels(book.bids.top(0)) == levels(book.asks) == []


def test_snapshot_begins_anew_and_nothing_is_known_before_it() -> None:
    ladder = Ladder(
        None, events((False, [(1, 1)], []), (False, [(5, 1)], []), (True, [(2, 1)], []), (False, [], [(9, 1)]))
    )
    ladder.advance(2)
    assert ladder.book() is None
    ladder.advance(4)
    ladder.advance(3)  # what is applied stays so
    book = ladder.book()
    assert book is not None
    assert (levels(book.bids), levels(book.asks), book.seq, book.snapshot_us) == ([(2.0, 1.0)], [(9.0, 1.0)], 3, 22)


def test_events_go_on_from_a_book() -> None:
    base = Book(Side(pa.array([2.0, 1.0]), pa.array([1.0, 1.0])), Side(pa.array([3.0]), pa.array([1.0])), 77, 7, 70)
    ladder = Ladder(base, events((False, [(2, 0), (1.5, 4)], [])))
    assert ladder.book(1) is not None
    before = ladder.book()
    assert before is not None
    assert (levels(before.bids), before.seq, before.timestamp_us) == ([(2.0, 1.0), (1.0, 1.0)], 7, 77)
    ladder.advance(1)
    book = ladder.book()
    assert book is not None
    assert (levels(book.bids), levels(book.asks), book.snapshot_us) == ([(1.5, 4.0), (1.0, 1.0)], [(3.0, 1.0)], 70)


def test_decimals_stay_exact() -> None:
    tenth, kind = Decimal("0.1"), pa.decimal128(38, 18)
    ladder = Ladder(
        None, events((True, [(tenth, tenth), (3 * tenth, tenth)], []), (False, [(tenth, Decimal(0))], []), kind=kind)
    )
    ladder.advance(2)
    book = ladder.book()
    assert book is not None
    assert levels(book.bids) == [(3 * tenth, tenth)]


def test_null_levels_are_none_and_unequal_ones_are_told() -> None:
    kind = pa.list_(pa.float64())
    found = levels_of(pa.array([None, [1.0], []], kind), pa.array([None, [2.0], None], kind))
    assert found.starts.tolist() == [0, 0, 1, 1]
    with pytest.raises(StorageError, match="has not as many sizes as prices"):
        levels_of(pa.array([[1.0]], kind), pa.array([[]], kind))
