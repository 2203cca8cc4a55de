"""Books at the moment of a callback: nothing kept changes afterwards."""

from __future__ import annotations

from decimal import Decimal as D  # noqa: N817 - many of them
from typing import Any

import pytest

from tickflight_server.feed.books import delta_event, kind_of, snapshot_event
from tickflight_server.feed.convert import convert

BIDS = {D(100): D(1), D(99): D(2), D(98): D(3)}
ASKS = {D(103): D(6), D(101): D(4), D(102): D(5)}
ORDERS = {D(100): {"a": D(1), "b": D(2)}, D(99): {"c": D(3)}}


def test_snapshot_is_the_book_as_to_dict_gives_it_and_stays(make_book: Any) -> None:
    book = make_book(BIDS, ASKS)
    said = book.to_dict()["book"]
    event = snapshot_event(book, 1.0)
    del book.book.bids[D(100)]
    book.book.asks[D(101)] = D(9)
    assert event[6] == list(said["bid"].items())
    assert event[7] == list(said["ask"].items())
    assert [price for price, _ in event[6]] == [100, 99, 98]
    assert [price for price, _ in event[7]] == [101, 102, 103]


def test_snapshot_has_no_more_levels_than_the_books_depth(make_book: Any) -> None:
    book = make_book(BIDS, ASKS, max_depth=2)
    event = snapshot_event(book, 1.0)
    said = book.to_dict()["book"]
    assert event[6] == list(said["bid"].items())
    assert len(event[6]) == 2


def test_delta_that_the_handler_goes_on_filling_is_kept_as_it_was(make_book: Any) -> None:
    book = make_book()
    book.delta = {"bid": [(D(1), D(2))], "ask": []}
    event = delta_event(book, 1.0)
    book.delta["bid"].append((D(3), D(4)))
    book.timestamp, book.sequence_number = 5.0, 77
    assert event[6:] == (((D(1), D(2)),), ())
    assert event[2:6] == (1_700_000_000.25, None, None, False)


@pytest.mark.parametrize("delta", [{}, {"bid": None, "ask": []}, {"bid": []}])
def test_side_that_is_missing_is_empty(make_book: Any, delta: dict[str, Any]) -> None:
    book = make_book()
    book.delta = delta
    assert delta_event(book, 1.0)[6:] == ((), ())


def test_orders_of_level_3_are_flattened_and_stay(make_book: Any) -> None:
    book = make_book({price: dict(orders) for price, orders in ORDERS.items()}, {})
    event = snapshot_event(book, 1.0)
    book.book.bids[D(100)]["a"] = D(9)
    assert event[6] == [("a", D(100), D(1)), ("b", D(100), D(2)), ("c", D(99), D(3))]
    assert kind_of(event, {}) == "l3_book"
    (row,) = convert("l3_book", [event]).batch.to_pylist()
    assert row["bid_ids"] == ["a", "b", "c"]
    assert row["bid_prices"] == [100.0, 100.0, 99.0]
    assert row["ask_ids"] == []


def test_event_without_levels_is_of_the_kind_its_symbol_has_had(make_book: Any) -> None:
    known: dict[tuple[Any, Any], str] = {}
    book = make_book()
    book.delta = {"bid": [], "ask": []}
    assert kind_of(delta_event(book, 1.0), known) == "l2_book"
    book.delta = {"bid": [], "ask": [("id", D(1), 0)]}
    assert kind_of(delta_event(book, 1.0), known) == "l3_book"
    book.delta = {"bid": [], "ask": []}
    assert kind_of(delta_event(book, 1.0), known) == "l3_book"
