"""Books of any instant: what book_at and books give is what a replay by hand gives, however the rows came and lie."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from book_oracle import DAY_US, MINUTE_US, Event, as_batch, book_at, in_order
from stopped_clock import StoppedClock

from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.errors import CancelledError, TooLargeError, UnsupportedError
from tickflight_server.query import book_days, book_order
from tickflight_server.query.book_cache import BookCache
from tickflight_server.query.engine import Engine
from tickflight_server.store import Store

START_US = 1_790_000_000_000_000
NOON_US = START_US - START_US % DAY_US + DAY_US // 2
SQL = "FROM book_at('BINANCE', 'BTC-USDT', make_timestamp(?), ?)"
Level = tuple[Any, Any]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_order, "SLICE_EVENTS", 7)
    monkeypatch.setattr(book_order, "SLICE_SNAPSHOTS", 3)
    monkeypatch.setattr(book_days, "RUN_SLICES", 2)


class Market:
    """A store and an engine, and the events beside them that were put in."""

    def __init__(self, folder: Path, seed: int, *, decimal: bool = False, **settings: Any) -> None:
        numeric = "decimal" if decimal else "float64"
        self.store = Store(LakehouseSettings(storage_path=folder, wal_commit_interval_ms=0, numeric_type=numeric))
        self.engine = Engine(self.store, QuerySettings(**settings), clock=StoppedClock(START_US))
        self.random = random.Random(seed)
        self.number: Callable[[Any], Any] = (lambda n: Decimal(n) / 8) if decimal else (lambda n: n / 8)
        self.arrow = self.store.schema("l2_book").arrow(numeric).field("bid_prices").type.value_type
        self.events: list[Event] = []
        self.now_us = NOON_US + DAY_US // 2 - 2 * MINUTE_US  # near the end of a day

    @property
    def last_seq(self) -> int:
        return self.store.tables["l2_book"].state.last_seq

    def _levels(self, count: int) -> list[Level]:
        return [
            (self.number(self.random.randrange(1, 40)), self.number(self.random.choice((0, 0, 1, 2, 3))))
            for _ in range(count)
        ]

    def append(self, count: int, *, jitter_us: int = 0, back_us: int = 0, snapshots: float = 0.03) -> None:
        """Append events, those of another symbol between them."""
        for _ in range(count):
            self.now_us += self.random.choice((0, 1, 1_000, 900_000, 5_000_000))
            at, snapshot = (
                self.now_us - back_us - self.random.randrange(jitter_us + 1),
                self.random.random() < snapshots,
            )
            levels = 12 if snapshot else self.random.randrange(4)
            self.put(Event(0, at, snapshot, self._levels(levels), self._levels(levels // 2 + self.random.randrange(3))))

    def put(self, *events: Event) -> None:
        other = Event(0, self.now_us, True, [(self.number(1), self.number(1))], [])
        batches = [as_batch([other], symbol="ETH-USDT", number=self.arrow), as_batch(list(events), number=self.arrow)]
        for number, event in enumerate(events):
            event.seq = self.last_seq + 2 + number
        self.store.append("l2_book", pa.Table.from_batches(batches).combine_chunks().to_batches()[0]).result()
        self.events += events

    def at(self, time_us: int, depth: int = 5, **more: Any) -> list[tuple[Any, ...]]:
        """Return the rows of ``book_at`` without ``stale``, times as integers."""
        table = self.ask(SQL, [time_us, depth], **more)
        place = table.column_names.index("timestamp")
        table = table.set_column(place, "timestamp", table["timestamp"].cast(pa.int64()))
        return [tuple(row.values())[:-1] for row in table.to_pylist()]

    def ask(self, sql: str, parameters: Any = (), **more: Any) -> pa.Table:
        with self.engine.execute(self.engine.plan(sql, parameters), **more) as execution:
            return execution.reader.read_all()

    def times(self, count: int) -> list[int]:
        stamps = [e.timestamp_us for e in self.events]
        near = [self.random.choice(stamps) + self.random.choice((-1, 0, 1)) for _ in range(count // 2)]
        return sorted([*near, *(self.random.randrange(min(stamps) - 9, max(stamps) + 9) for _ in range(count // 2))])

    def release(self) -> None:
        self.store.flush()
        for table in self.store.tables.values():
            while table.release_oldest():
                pass

    def compact(self) -> None:
        self.release()
        self.store.keeper.compact(all_of_it=True)

    def check(self, count: int = 12, upto: int | None = None) -> None:
        """Compare books at random instants, and series of them, with what a replay by hand gives."""
        more = {} if upto is None else {"cuts": {"l2_book": upto}}
        ordered = in_order([e for e in self.events if upto is None or e.seq <= upto])
        for time_us in self.times(count):
            depth = self.random.choice((1, 5, 1000))
            assert self.at(time_us, depth, **more) == book_at(ordered, time_us, depth), time_us
        start, step = self.times(2)[0], self.random.choice((1, 700_000, 9_000_000))
        grid = [start + n * step for n in range(20)]
        found = self.ask(
            "FROM books('BINANCE', 'BTC-USDT', make_timestamp(?), make_timestamp(?), to_microseconds(?), 3)",
            [start, grid[-1] + step - 1, step],
            **more,
        )
        expected = [(t, rows) for t in grid if (rows := book_at(ordered, t, 3)) or _known(ordered, t)]
        assert found["t"].cast(pa.int64()).to_pylist() == [t for t, _ in expected]
        for row, (_, rows) in zip(found.to_pylist(), expected, strict=True):
            for place, name in enumerate(("bid_prices", "bid_sizes", "ask_prices", "ask_sizes"), 1):
                assert row[name] == [r[place] for r in rows if r[place] is not None]


def _known(ordered: list[tuple[int, Event]], time_us: int) -> bool:
    return any(at <= time_us and event.snapshot for at, event in ordered)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Market]]:
    made: list[Market] = []

    def market(seed: int = 1, **settings: Any) -> Market:
        made.append(Market(tmp_path / f"lake-{len(made)}", seed, **settings))
        return made[-1]

    yield market
    for one in made:
        one.engine.close()
        one.store.close(flush=False)


@pytest.mark.parametrize("seed", range(5))
def test_book_is_that_of_a_replay_while_rows_come_and_move_to_disk(make: Any, seed: int) -> None:
    market = make(seed)
    market.append(20, snapshots=0)
    market.check(4)
    for _ in range(4):
        market.append(market.random.randrange(1, 30), jitter_us=market.random.choice((0, 0, 2_000, 3_000_000)))
        market.check(4)
        market.random.choice((market.store.flush, market.release, market.compact, lambda: None))()
        market.check(8)


@pytest.mark.parametrize("seed", range(3))
def test_late_rows_are_put_where_their_time_says(make: Any, seed: int) -> None:
    market = make(seed)
    market.append(60)
    market.check()
    for back_us in (3 * MINUTE_US, 0, DAY_US, 90_000_000, 0):
        market.append(15, back_us=back_us, snapshots=0.1)
        market.check(8)
        market.release()
        market.check(2)


def test_book_of_snapshots_alone_is_the_last_one(make: Any) -> None:
    market = make()
    market.append(60, snapshots=1)
    market.check(40)


@pytest.mark.parametrize("seed", range(2))
def test_exact_decimals_come_back_exact(make: Any, seed: int) -> None:
    market = make(seed, decimal=True)
    market.append(50, snapshots=0.1)
    market.check()
    market.release()
    market.append(10)
    market.check()
    assert all(isinstance(row[1], Decimal | None) for row in market.at(market.now_us))


@pytest.mark.parametrize("seed", range(2))
def test_pin_sees_the_book_of_its_rows(make: Any, seed: int) -> None:
    market = make(seed)
    market.append(30, snapshots=0.1)
    pinned = market.last_seq
    market.check(6, upto=pinned)
    market.append(30, jitter_us=2_000_000)
    market.check(6, upto=pinned)
    market.release()  # the cut goes through a part
    market.check(6, upto=pinned)
    market.check(6)
    market.check(6, upto=pinned)
    assert market.at(market.now_us, cuts={}) == []


def test_rows_that_are_gone_are_not_remembered(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    market = make()
    market.append(20, snapshots=0.1)
    market.now_us += DAY_US
    market.append(20, snapshots=0.1)
    market.release()
    market.check(6)
    table = market.store.tables["l2_book"]
    days = sorted(set(table.state.parts.day.tolist()))
    assert len(days) == 2
    snapshot = market.store.snapshot

    def without_the_first_day(name: str, upto: int | None = None) -> Any:
        found = snapshot(name, upto)
        return replace(found, parts=found.parts.chosen(found.parts.day == days[1])) if name == "l2_book" else found

    monkeypatch.setattr(market.store, "snapshot", without_the_first_day)
    market.events = [e for e in market.events if e.timestamp_us // DAY_US == days[1]]
    market.check()


def test_cache_is_bounded_and_may_be_nothing(make: Any) -> None:
    market = make(book_cache_mb=0)
    market.append(60, snapshots=0.05)
    market.check()
    cache = BookCache(100)
    for number in range(30):
        cache.put(number, number, 30)
        assert cache.nbytes <= 100
    cache.put("large", 1, 101)
    assert [n for n in range(30) if cache.get(n) is not None] == [27, 28, 29]
    assert cache.get("large") is None
    cache.put(29, "new", 10)
    assert (cache.get(29), cache.nbytes) == ("new", 70)


def test_old_days_are_not_read_where_a_snapshot_is_near(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    market = make()
    asked: list[int] = []
    reader = market.engine.own_rows.providers["book_at"].__self__._reader
    index = reader.index

    def noted(sight: Any, what: Any, day: int, after: int = 0) -> Any:
        asked.append(day)
        return index(sight, what, day, after)

    monkeypatch.setattr(reader, "index", noted)
    for day in range(5):
        market.now_us = NOON_US + day * DAY_US
        market.append(3, snapshots=day in (0, 3))
    first = NOON_US // DAY_US
    market.at(market.now_us)
    assert asked == [first + 4, first + 3]
    market.at(NOON_US + 2 * DAY_US + 60_000_000)
    assert asked[2:] == [first + 2, first + 1, first]


def test_book_is_stale_after_a_hole_until_the_next_snapshot(make: Any) -> None:
    market = make()
    second = 1_000_000
    level = [(1.0, 1.0)]
    market.put(*(Event(0, NOON_US + n * 10 * second, n in (0, 4), level, level) for n in range(6)))
    hole = {"exchange": "BINANCE", "symbol": "BTC-USDT", "channel": "l2_book", "cause": "sequence"}
    times = {"start": NOON_US + 15 * second, "end": NOON_US + 20 * second + 2000, "timestamp": NOON_US + 15 * second}
    columns = {k: pa.array([v], pa.int64()).cast(pa.timestamp("us")) for k, v in times.items()}
    others = [{**hole, "channel": "trades"}, {**hole, "cause": "stalled"}, {**hole, "symbol": "ETH-USDT"}, hole]
    for number, row in enumerate(others):
        rows = pa.record_batch({**{k: [v] for k, v in row.items()}, **columns})
        market.store.append("gaps", rows).result()
        found = [market.ask(SQL, [NOON_US + n * 10 * second, 1])["stale"].to_pylist() for n in range(6)]
        assert found == [[n in (2, 3) and number == 3] for n in range(6)]
    series = market.ask(
        "SELECT stale FROM books('BINANCE', 'BTC-USDT', make_timestamp(?), make_timestamp(?), INTERVAL 10 SECONDS)",
        [NOON_US, NOON_US + 50 * second],
    )
    assert series["stale"].to_pylist() == [False, False, True, True, False, False]


def test_snapshot_that_was_stamped_after_what_followed_it_does_not_undo_it(make: Any) -> None:
    market = make()
    market.put(Event(0, NOON_US + 500, True, [(1.0, 1.0)], [(2.0, 1.0)]), Event(0, NOON_US, False, [(1.0, 5.0)], []))
    assert market.at(NOON_US - 1) == []
    for time_us in (NOON_US, NOON_US + 500):
        assert market.at(time_us) == [(1, 1.0, 5.0, 2.0, 1.0, NOON_US, 3)]


def test_sides_without_levels_and_empty_books_are_shown(make: Any) -> None:
    market = make()
    market.put(Event(0, NOON_US, True, [(1.0, 1.0), (0.5, 2.0)], []))
    assert [row[1:5] for row in market.at(NOON_US)] == [(1.0, 1.0, None, None), (0.5, 2.0, None, None)]
    market.put(Event(0, NOON_US + 1, False, [(1.0, 0.0), (0.5, 0.0)], []))
    assert market.at(NOON_US + 1) == []
    (row,) = market.ask(
        "FROM books('BINANCE', 'BTC-USDT', make_timestamp(?), make_timestamp(?), INTERVAL 1 SECOND)", [NOON_US + 1] * 2
    ).to_pylist()
    assert (row["bid_prices"], row["ask_sizes"]) == ([], [])


def test_what_is_not_there_has_no_rows_and_orders_are_refused(make: Any) -> None:
    market = make()
    assert market.at(NOON_US) == []
    order = as_batch([Event(0, NOON_US, True, [(1.0, 1.0)], [])]).append_column("bid_ids", pa.array([["a"]]))
    market.store.append("l3_book", order.append_column("ask_ids", pa.array([[]], pa.list_(pa.string())))).result()
    with pytest.raises(UnsupportedError, match=r"BINANCE BTC-USDT has a book of orders \(l3_book\)"):
        market.at(NOON_US)


def test_series_is_limited(make: Any) -> None:
    market = make(book_levels_max=1000)
    market.append(30, snapshots=1)
    sql = "FROM books('BINANCE', 'BTC-USDT', make_timestamp(?), make_timestamp(?), INTERVAL 1 MILLISECOND)"
    with pytest.raises(TooLargeError, match=r"is asked for 1001 books, query.book_levels_max is 1000"):
        market.ask(sql, [market.now_us, market.now_us + 1_000_000])
    with pytest.raises(TooLargeError, match="more than 1000 levels"):
        market.ask(sql, [market.now_us, market.now_us + 999_000])
    assert market.ask(sql, [market.now_us, market.now_us - 1]).num_rows == 0


def test_call_can_be_stopped_while_another_makes_what_it_waits_for(make: Any) -> None:
    market = make()
    market.append(30)
    days = market.engine.own_rows.providers["book_at"].__self__._days

    @contextmanager
    def taken() -> Iterator[None]:
        holds, ends = threading.Event(), threading.Event()

        def hold() -> None:
            for lock in days._locks:
                lock.acquire()
            holds.set()
            ends.wait(10)
            for lock in days._locks:
                lock.release()

        thread = threading.Thread(target=hold)
        thread.start()
        assert holds.wait(10)
        yield
        ends.set()
        thread.join()

    with taken(), pytest.raises(CancelledError):
        market.at(market.now_us, started=lambda stop: stop())


def test_many_threads_see_whole_books_while_rows_come(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    market = make()
    market.append(20, snapshots=0.5)
    reader = market.engine.own_rows.providers["book_at"].__self__._reader
    index, whole = reader.index, []

    def noted(sight: Any, what: Any, day: int, after: int = 0) -> Any:
        whole.append(day) if after == 0 else None
        return index(sight, what, day, after)

    monkeypatch.setattr(reader, "index", noted)
    seen: list[list[tuple[Any, ...]]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            seen.append(market.at(market.now_us + DAY_US))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(40):
        market.append(3)
        if number % 15 == 14:
            market.store.flush()
    stop.set()
    for thread in threads:
        thread.join()
    ordered = in_order(market.events)
    for rows in seen:
        last = rows[0][-1]
        assert rows == book_at([(at, e) for at, e in ordered if e.seq <= last], market.now_us, 5)
    assert len({rows[0][-1] for rows in seen}) > 5
    assert len(whole) <= 12  # two days, and now and then a race that was lost four times
