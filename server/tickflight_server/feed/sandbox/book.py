"""One symbol's order book in ticks and lots.

The rule of this file: best bid < best ask at every moment; `Book.change` is the only way in and it asserts so.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from tickflight_server.feed.sandbox.events import BookDelta, BookSnapshot, Level


class Ladder:
    """One side of a book: sizes by price, and the prices in order from the best."""

    __slots__ = ("_keys", "sign", "sizes")

    def __init__(self, sign: int) -> None:
        """``sign`` is 1 for asks, whose best price is the lowest, and -1 for bids."""
        self.sign = sign
        self.sizes: dict[int, int] = {}
        self._keys: list[int] = []  # sign * price, ascending: the best level is the first

    def __len__(self) -> int:
        return len(self._keys)

    def price(self, index: int) -> int:
        """Return the price of the level ``index``, counted from the best."""
        return self.sign * self._keys[index]

    def put(self, price: int, size: int) -> None:
        """Give the level at ``price`` the size; 0 removes it."""
        if size == 0:
            if self.sizes.pop(price, None) is not None:
                del self._keys[bisect_left(self._keys, self.sign * price)]
            return
        if price not in self.sizes:
            key = self.sign * price
            self._keys.insert(bisect_left(self._keys, key), key)
        self.sizes[price] = size

    def top(self, depth: int | None = None) -> tuple[Level, ...]:
        """Return the best ``depth`` levels, or all, best first."""
        sizes, sign = self.sizes, self.sign
        return tuple((sign * key, sizes[sign * key]) for key in self._keys[:depth])


class Book:
    """Both sides of a book and the number of its last change."""

    __slots__ = ("asks", "bids", "sequence", "symbol")

    def __init__(self, symbol: str, sequence: int = 0) -> None:
        self.symbol = symbol
        self.sequence = sequence
        self.bids = Ladder(-1)
        self.asks = Ladder(1)

    def change(self, side: Ladder, changes: Iterable[Level]) -> None:
        """Put levels on one of the book's sides. When this returns the book is not crossed."""
        for price, size in changes:
            side.put(price, size)
        assert not (self.bids and self.asks) or self.bids.price(0) < self.asks.price(0), "the book is crossed"

    def apply(self, delta: BookDelta) -> None:
        """Apply a delta that continues this book, as a client would."""
        assert delta.first == self.sequence + 1, "the delta does not continue the book"
        # Removals first: between the two sides of one delta the book of a client may seem crossed.
        for side, levels in ((self.bids, delta.bids), (self.asks, delta.asks)):
            for price, size in levels:
                if size == 0:
                    side.put(price, 0)
        self.change(self.bids, delta.bids)
        self.change(self.asks, delta.asks)
        self.sequence = delta.last

    def snapshot(self, time_us: int, depth: int | None = None) -> BookSnapshot:
        """Return the best ``depth`` levels of both sides, or all, as of the last change."""
        return BookSnapshot(self.symbol, time_us, self.sequence, self.bids.top(depth), self.asks.top(depth))

    @classmethod
    def of(cls, snapshot: BookSnapshot) -> Book:
        """Return the book that a snapshot shows."""
        book = cls(snapshot.symbol, snapshot.sequence)
        book.change(book.bids, snapshot.bids)
        book.change(book.asks, snapshot.asks)
        return book
