"""Recorded book events, as cryptofeed called back with them, and its own order book that they are applied to."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from book_oracle import Event, in_order
from cryptofeed.types import OrderBook
from flight_here import FlightHere

from tickflight_server.feed.playback import replay
from tickflight_server.store import Store

Instrument = tuple[str, str]
HOUR_US = 3_600_000_000
RESYNC_US = 45_000_000


class Recorded:
    """What was called back with, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[Instrument, Event]] = []

    def __call__(self, channel: str, book: Any, receipt_timestamp: Any) -> None:
        if channel != "l2_book":
            return
        levels = {side: list(getattr(book.book, f"{side}s").to_list()) for side in ("bid", "ask")}
        if book.delta is not None:
            levels = {side: list(book.delta[side]) for side in ("bid", "ask")}
        bids, asks = ([(float(p), float(s)) for p, s in levels[side]] for side in ("bid", "ask"))
        at = round(float(book.timestamp or receipt_timestamp) * 1e6)
        self.events.append(((book.exchange, book.symbol), Event(0, at, book.delta is None, bids, asks)))


def play(folder: Path, recordings: Sequence[Path]) -> tuple[list[tuple[Instrument, Event]], pa.Table]:
    """Play recordings into a server; return the events as called back with, and the rows that they became."""
    recorded = Recorded()
    here = FlightHere(folder)
    try:
        replay(recordings, here.address, observe=recorded)
        with here.engine.execute(here.engine.plan("FROM l2_book ORDER BY seq")) as execution:
            rows = execution.reader.read_all().combine_chunks()
    finally:
        here.stop()
    assert rows.num_rows == len(recorded.events)
    return recorded.events, rows


def as_live(events: Sequence[tuple[Instrument, Event]]) -> list[tuple[Instrument, Event]]:
    """Return the events with snapshots stamped as they are on a live feed.

    What a handler fetches over REST is stamped by the clock, which is years later than a recording that is played: it
    becomes a moment after the event that follows.
    """
    following: dict[Instrument, int] = {}
    stamped = []
    for what, event in reversed(events):
        if event.snapshot and abs(event.timestamp_us - following.get(what, event.timestamp_us)) > HOUR_US:
            event = replace(event, timestamp_us=following[what] + 1_500)
        following[what] = event.timestamp_us
        stamped.append((what, event))
    return stamped[::-1]


def append(store: Store, events: Sequence[tuple[Instrument, Event]], rows: pa.Table, chance: random.Random) -> None:
    """Append rows, with the timestamps of their events, cut into batches and flushed at random."""
    stamps = pa.array([event.timestamp_us for _, event in events], pa.int64()).cast(pa.timestamp("us"))
    rows = rows.drop_columns(["seq"]).set_column(rows.column_names.index("timestamp"), "timestamp", stamps)
    start = 0
    while start < rows.num_rows:
        count = chance.randrange(1, 900)
        for batch in rows.slice(start, count).combine_chunks().to_batches():
            store.append("l2_book", batch).result()
        start += count
        if chance.random() < 0.2:
            store.flush()


def by_instrument(events: Sequence[tuple[Instrument, Event]]) -> dict[Instrument, list[Event]]:
    """Return the events of each instrument, numbered as the store numbers them."""
    found: dict[Instrument, list[Event]] = defaultdict(list)
    for seq, (what, event) in enumerate(events, 1):
        found[what].append(replace(event, seq=seq))
    return found


def expected(
    what: Instrument, events: list[Event], times_us: Sequence[int], depth: int
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of ``book_at``, but for ``stale``, at instants that do not fall."""
    ordered = in_order(events)
    book, last, known, place = OrderBook(*what), None, False, 0
    for time_us in times_us:
        while place < len(ordered) and ordered[place][0] <= time_us:
            last = ordered[place][1]
            if last.snapshot:
                book, known = OrderBook(*what), True
            for side, levels in ((book.book.bids, last.bids), (book.book.asks, last.asks)):
                for price, size in levels:
                    if size:
                        side[price] = size
                    elif price in side:
                        del side[price]
            place += 1
        if not known:
            yield []
            continue
        assert last is not None
        bids, asks = book.book.bids.to_list()[:depth], book.book.asks.to_list()[:depth]
        rows = range(max(len(bids), len(asks)))
        padded = [[*side, *[(None, None)] * (len(rows) - len(side))] for side in (bids, asks)]
        yield [(n + 1, *padded[0][n], *padded[1][n], last.timestamp_us, last.seq) for n in rows]
