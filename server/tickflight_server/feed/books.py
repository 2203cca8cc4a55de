"""Order books as they are at the moment of a callback.

The rule of this file: nothing that is kept is shared with the handler. cryptofeed goes on changing a book after the
callback, and two handlers of 2.4.1 (FMFW, INDEPENDENT_RESERVE) go on filling the very delta that they called back with;
levels are copied here, the tuples inside them are immutable.
"""

from __future__ import annotations

from typing import Any

from tickflight_server.feed.convert import BookEvent


def delta_event(book: Any, receipt_timestamp: Any) -> BookEvent:
    """Return the event of changed levels. Costs about half a microsecond."""
    delta = book.delta
    return (
        book,
        receipt_timestamp,
        book.timestamp,
        book.sequence_number,
        book.checksum,
        False,
        tuple(delta.get("bid") or ()),
        tuple(delta.get("ask") or ()),
    )


def snapshot_event(book: Any, receipt_timestamp: Any) -> BookEvent:
    """Return the event of all levels, in the book's own order: best first. Costs about 35 ns a level."""
    return (
        book,
        receipt_timestamp,
        book.timestamp,
        book.sequence_number,
        book.checksum,
        True,
        _levels(book.book.bids),
        _levels(book.book.asks),
    )


def _levels(side: Any) -> Any:
    """Copy a side of ``order_book``, or of the dict that ``to_dict`` makes of it."""
    levels = (
        list(side.items()) if isinstance(side, dict) else side.to_list() if hasattr(side, "to_list") else list(side)
    )
    if levels and isinstance(levels[0][1], dict):
        return [(order, price, size) for price, orders in levels for order, size in orders.items()]
    return levels


def kind_of(event: BookEvent, known: dict[tuple[Any, Any], str]) -> str:
    """Return the table of an event: three values a level are orders, two are prices.

    An event without levels is of the kind that its symbol has had, ``known``, or else of level 2.
    """
    levels = event[6] or event[7]
    key = (event[0].exchange, event[0].symbol)
    if not levels:
        return known.get(key, "l2_book")
    try:
        kind = "l3_book" if len(levels[0]) == 3 else "l2_book"
    except TypeError:  # not a level at all: converting it will say so
        kind = "l2_book"
    known[key] = kind
    return kind
