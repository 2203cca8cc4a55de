"""A tail gives what is stored and then what is to come, each row once, wherever the rows lie while it reads."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flight_here import trades, wait_until

from tickflight_server.clock import SystemClock
from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.errors import BusyError, CancelledError, InputError, LagError, UnsupportedError
from tickflight_server.query import tails as tails_module
from tickflight_server.query.engine import Engine
from tickflight_server.query.selection import Choice, check
from tickflight_server.query.session import DEFAULTS
from tickflight_server.query.tails import Sent, Tail, Tails, Wanted
from tickflight_server.store import Store

START_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000
MANY = 50_000


@dataclass
class Here:
    """A store, an engine, and the tails over them."""

    store: Store
    engine: Engine
    tails: Tails

    def choice(self, **chosen: Any) -> Choice:
        return check(self.engine, "trades", **{"columns": ("seq",), **chosen})

    def open(self, after: int | None = None, *, chosen: Any = None, **wanted: Any) -> Tail:
        choice = self.choice(**(chosen or {}))
        return self.tails.open(self.tails.checked(Wanted(choice, after, **wanted)))

    def sql(self, sql: str, parameters: Any = ()) -> Tail:
        plan = self.engine.plan(sql, parameters)
        return self.tails.open(self.tails.wanted(plan, DEFAULTS))

    def add(self, rows: int, **more: Any) -> None:
        self.store.append("trades", trades(rows, **more)).result()

    def release(self) -> None:
        """Move all rows to parts, and out of memory."""
        self.store.flush()
        while self.store.tables["trades"].release_oldest():
            pass

    def nothing_is_left(self) -> None:
        counts = self.store.metrics.read()
        assert counts["tails"] == counts["tails_ended"]
        assert len(self.tails._channels) == 0
        assert not self.tails._open
        assert self.engine.shared.places.free == self.engine.settings.concurrent_max


@pytest.fixture
def make_here() -> Iterator[Callable[..., Here]]:
    made: list[tuple[Here, Any]] = []

    def make(*, lakehouse: Any = None, clock: Any = None, **query: Any) -> Here:
        folder = tempfile.TemporaryDirectory()
        values = {"wal_commit_interval_ms": 0, "flush_interval_seconds": 3600, "compact_share": 0, **(lakehouse or {})}
        store = Store(
            LakehouseSettings(storage_path=Path(folder.name), **values), **({"clock": clock} if clock else {})
        )
        settings = QuerySettings(**{"heartbeat_s": 0.02, **query})
        engine = Engine(store, settings)
        made.append((Here(store, engine, Tails(engine, settings, SystemClock())), folder))
        return made[-1][0]

    yield make
    for here, folder in made:
        here.tails.close()
        here.engine.close()
        here.store.close(flush=False)
        folder.cleanup()


@pytest.fixture
def here(make_here: Callable[..., Here]) -> Here:
    return make_here()


@contextmanager
def reading(tail: Tail) -> Iterator[Iterator[Sent]]:
    sent = tail.sent()
    try:
        yield sent
    finally:
        sent.close()  # type: ignore[attr-defined]


def upto(sent: Iterator[Sent], seq: int) -> list[Sent]:
    """Return what comes until ``seq`` was looked at."""
    found: list[Sent] = []
    for one in sent:
        found.append(one)
        if one.seq >= seq:
            return found
    raise AssertionError(f"it ended at {found[-1].seq if found else None}, before {seq}")


def seqs(sent: list[Sent], column: str = "seq") -> list[Any]:
    return [value for one in sent for value in one.batch.column(column).to_pylist()]


# --- history, then what comes


@pytest.mark.parametrize("seed", range(4))
def test_each_row_comes_once_while_rows_move_from_memory_to_parts(make_here: Callable[..., Here], seed: int) -> None:
    here, rng = (
        make_here(lakehouse={"ring_mb": 1, "ring_segment_rows": 1024}, ordered_window_rows=700),
        random.Random(seed),
    )
    for _ in range(5):
        here.add(rng.randrange(1, 600))
        move(here, rng)
    with reading(here.open(0)) as all_of_it, reading(here.open(rng.randrange(200))) as some:
        began = some_began = next(some).seq
        got: list[int] = []
        got_some: list[int] = []
        for _ in range(30):
            here.add(rng.randrange(1, 600), start_us=START_US + rng.randrange(3) * DAY_US)
            move(here, rng)
            last = here.store.tables["trades"].state.last_seq
            if rng.random() < 0.7:
                got += seqs(upto(all_of_it, rng.randrange(last)))
            if rng.random() < 0.3 and some_began < last:
                found = upto(some, last)
                some_began = found[-1].seq
                got_some += seqs(found)
        last = here.store.tables["trades"].state.last_seq + 1
        here.add(1)
        got += seqs(upto(all_of_it, last))
        got_some += seqs(upto(some, last))
        assert got == list(range(1, last + 1))
        assert got_some == list(range(began + 1, last + 1))
    here.nothing_is_left()


def move(here: Here, rng: random.Random) -> None:
    """Let rows lie elsewhere: in parts, merged, or no more in memory."""
    kind = rng.choice(["flush", "release", "merge", "compact", "nothing"])
    if kind == "flush":
        here.store.flush()
    elif kind == "release":
        here.release()
    elif kind == "merge":
        here.store.tables["trades"].merge_once()
    elif kind == "compact":
        here.store.flush()
        here.store.keeper.compact(all_of_it=True)


def test_readers_while_a_writer_runs_get_each_row_once(make_here: Callable[..., Here]) -> None:
    here = make_here(lakehouse={"ring_mb": 1, "flush_interval_seconds": 0.05, "buffer_size_mb": 1})
    here.add(3000)
    total, got = 30_000, {}

    def read(name: int, tail: Tail) -> None:
        with reading(tail) as sent:
            got[name] = seqs(upto(sent, total))

    wanted: list[dict[str, Any]] = [{}, {}, {"chosen": {"where": "price >= 0"}}, {"chosen": {"symbols": ["S1", "S2"]}}]
    threads = [threading.Thread(target=read, args=(n, here.open(0, **w))) for n, w in enumerate(wanted)]
    for thread in threads:
        thread.start()
    for number in range(90):
        here.add(300, symbol=f"S{number % 3}")
    for thread in threads:
        thread.join(30)
    every = list(range(1, total + 1))
    chosen = [seq for seq in every if seq > 3000 and (seq - 3001) // 300 % 3]
    assert [got[n] == every for n in range(3)] == [True] * 3
    assert got[3] == chosen
    here.nothing_is_left()


def test_a_mark_comes_first_and_says_where_it_begins(here: Here) -> None:
    here.add(10)
    for after, begins in ((None, 10), (0, 0), (7, 7), (10, 10)):
        with reading(here.open(after)) as sent:
            first = next(sent)
            assert (first.batch.num_rows, first.seq, first.newest_seq) == (0, begins, 10)
            here.add(0)
    with reading(here.open(7)) as sent:
        assert seqs(upto(sent, 10)) == [8, 9, 10]
    here.nothing_is_left()


def test_from_now_on_is_what_comes_after_it_was_opened(here: Here) -> None:
    here.add(10)
    tail = here.open()
    here.add(5)
    with reading(tail) as sent:
        assert seqs(upto(sent, 15)) == list(range(11, 16))


def test_what_is_new_says_since_when_it_is_durable_and_history_does_not(here: Here) -> None:
    here.add(10)
    here.release()
    with reading(here.open(0)) as sent:
        assert {one.durable_us for one in upto(sent, 10)} == {0}
        before = time.time_ns() // 1000
        here.add(5)
        (batch,) = [one for one in upto(sent, 15) if one.batch.num_rows]
        assert before <= batch.durable_us <= time.time_ns() // 1000


@pytest.mark.parametrize("stored", ["in memory", "in parts", "both"])
def test_since_leaves_out_rows_with_an_earlier_time(here: Here, stored: str) -> None:
    here.add(10)
    if stored != "in memory":
        here.release()
    if stored == "both":
        here.add(10)
    newest = here.store.tables["trades"].state.last_seq
    since_us = START_US + 6_000_000
    with reading(here.open(0, since_us=since_us)) as sent:
        here.add(10)
        assert [seq % 10 for seq in seqs(upto(sent, newest + 10))] == [7, 8, 9, 0] * (newest // 10 + 1)


@pytest.mark.parametrize("released", [False, True])
def test_rows_and_columns_are_chosen(here: Here, released: bool) -> None:
    for number in range(6):
        here.add(10, symbol="ABC"[number % 3], exchange="XY"[number % 2])
    if released:
        here.release()
    chosen = {"columns": ("price", "symbol"), "where": "price % 2 = 0", "symbols": ["A", "B"], "exchanges": ["X"]}
    with reading(here.open(0, chosen=chosen)) as sent:
        here.add(10, symbol="A", exchange="X")
        here.add(10, symbol="A", exchange="Y")
        found = upto(sent, 80)
    assert found[-1].batch.schema == pa.schema([("price", pa.float64()), ("symbol", pa.string())])
    evens = [0.0, 2.0, 4.0, 6.0, 8.0]
    assert seqs(found, "price") == evens * 3  # A of X, B of X, and the new ones
    assert seqs(found, "symbol") == ["A"] * 5 + ["B"] * 5 + ["A"] * 5
    here.nothing_is_left()


@pytest.mark.parametrize("released", [False, True])
def test_limit_ends_it(here: Here, released: bool) -> None:
    here.add(10)
    if released:
        here.release()
    with reading(here.open(0, limit=14)) as sent:
        here.add(10)
        assert seqs(list(sent)) == list(range(1, 15))
    with reading(here.open(0, limit=3)) as sent:
        assert seqs(list(sent)) == [1, 2, 3]
    with reading(here.open(0, limit=0)) as sent:
        assert seqs(list(sent)) == []
    here.nothing_is_left()


@pytest.mark.parametrize("released", [False, True])
def test_a_query_over_tail_makes_of_rows_what_it_says(here: Here, released: bool) -> None:
    here.add(10)
    if released:
        here.release()
    sql = """SELECT price * amount AS value, upper(side) AS "S" FROM tail('trades', since := TIMESTAMP '2000-01-01') t
    WHERE price >= $least AND symbol LIKE 'BTC%' LIMIT 8"""
    with reading(here.sql(sql, {"least": 6.0})) as sent:
        here.add(10)
        found = list(sent)
    assert found[0].batch.schema.names == ["value", "S"]
    assert seqs(found, "value") == [n * 1.5 for n in (6, 7, 8, 9, 6, 7, 8, 9)]
    assert seqs(found, "S") == ["BUY", "SELL"] * 4
    here.nothing_is_left()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM tail('trades')",
        "SELECT symbol FROM tail('trades') GROUP BY ALL",
        "SELECT * FROM tail('trades') ORDER BY seq",
        "SELECT DISTINCT symbol FROM tail('trades')",
        "SELECT sum(price) OVER () FROM tail('trades')",
        "SELECT * FROM tail('trades') JOIN trades USING (seq)",
        "SELECT * FROM tail('trades') a, tail('trades') b",
        "SELECT * FROM (SELECT count(*) FROM tail('trades'))",
        "SELECT (SELECT max(price) FROM tail('trades'))",
        "SELECT * FROM tail('trades') WHERE price > (SELECT avg(price) FROM trades)",
        "SELECT * FROM tail('trades') UNION ALL SELECT * FROM trades",
    ],
)
def test_what_cannot_be_answered_row_by_row_is_refused(here: Here, sql: str) -> None:
    with pytest.raises(UnsupportedError, match=r"tail\(\)"):
        here.sql(sql)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"on_lag": "wait"}, "on_lag is 'wait'.* one of end, skip"),
        ({"after": -1}, "rows after seq -1 are asked for"),
        ({"after": 11}, "rows after seq 11 are asked for, and the newest row of trades has 10"),
    ],
)
def test_what_cannot_be_is_told(here: Here, wanted: Any, words: str) -> None:
    here.add(10)
    with pytest.raises(InputError, match=words):
        here.tails.checked(Wanted(here.choice(), **wanted))


# --- marks, and lag


def test_heartbeats_come_while_nothing_does_or_nothing_matches(here: Here) -> None:
    here.add(10)
    with reading(here.open(10)) as sent:
        marks = [next(sent) for _ in range(4)]
        assert {(m.batch.num_rows, m.seq) for m in marks} == {(0, 10)}
    with reading(here.open(10, chosen={"symbols": ["nothing"]})) as sent:
        here.add(5)
        marks = upto(sent, 15)
        assert sum(m.batch.num_rows for m in marks) == 0


def test_history_that_does_not_match_gives_heartbeats_and_not_batches(make_here: Callable[..., Here]) -> None:
    here = make_here(heartbeat_s=3600, ordered_window_rows=100)
    here.add(5000)
    here.release()
    with reading(here.open(0, chosen={"where": "price = 4999"})) as sent:
        first, row = next(sent), next(sent)
        assert (first.seq, seqs([row])) == (0, [5000])


def test_a_reader_that_is_too_slow_ends_with_its_place(here: Here) -> None:
    here.add(10)
    with reading(here.open(5, lag_rows_max=100)) as sent:
        assert seqs(upto(sent, 10)) == [6, 7, 8, 9, 10]
        here.add(100)
        assert len(seqs(upto(sent, 110))) == 100
        here.add(101)
        last = next(sent)
        assert (last.ended, last.seq, last.newest_seq, last.batch.num_rows) == ("lag", 110, 211, 0)
        with pytest.raises(LagError, match="101 rows behind, 100 are allowed; it has all up to seq 110"):
            next(sent)
    here.nothing_is_left()
    assert here.store.metrics.read()["tails_lagged"] == 1
    with reading(here.open(110, resumed=True)) as sent:
        assert seqs(upto(sent, 211)) == list(range(111, 212))


def test_a_reader_that_is_too_slow_skips_and_is_told_what(here: Here) -> None:
    with reading(here.open(0, lag_rows_max=50, on_lag="skip")) as sent:
        next(sent)
        here.add(51)
        here.add(30)
        skip = next(sent)
        assert (skip.skipped_first, skip.skipped_last, skip.skipped_why) == (1, 81, "lag")
        assert (skip.seq, skip.batch.num_rows, skip.ended) == (81, 0, "")
        here.add(5)
        (rows,) = [one for one in upto(sent, 86) if one.batch.num_rows]
        assert (seqs([rows]), rows.skipped_last) == ([82, 83, 84, 85, 86], 0)
    assert here.store.metrics.read()["tail_rows_skipped"] == 81
    assert here.store.metrics.read()["tail_rows"] == 5


def test_the_server_allows_no_more_lag_than_its_own(make_here: Callable[..., Here]) -> None:
    here = make_here(tail_lag_rows_max=20)
    with reading(here.open(0, lag_rows_max=10**12)) as sent:
        next(sent)
        here.add(21)
        assert next(sent).ended == "lag"


@pytest.mark.parametrize("on_lag", ["end", "skip"])
@pytest.mark.parametrize("released", [False, True])
def test_history_is_no_lag(here: Here, on_lag: Any, released: bool) -> None:
    here.add(MANY)
    here.add(MANY)
    if released:
        here.release()
    with reading(here.open(0, lag_rows_max=100, on_lag=on_lag)) as sent:
        assert len(seqs(upto(sent, 2 * MANY))) == 2 * MANY


def test_rows_that_expired_are_told_to_who_was_there_before(make_here: Callable[..., Here]) -> None:
    class Clock(SystemClock):
        ahead_us = 0

        def now_us(self) -> int:
            return super().now_us() + self.ahead_us

    clock = Clock()
    here = make_here(lakehouse={"retention_days": {"trades": 10}}, clock=clock)
    here.add(20, start_us=clock.now_us() // DAY_US * DAY_US - 5 * DAY_US)
    here.release()
    here.add(10, start_us=clock.now_us() // DAY_US * DAY_US)
    clock.ahead_us = 7 * DAY_US
    assert here.store.keeper.retain() == 1
    with reading(here.open(5, resumed=True)) as sent:
        first = next(sent)
        assert (first.skipped_first, first.skipped_last, first.skipped_why, first.seq) == (6, 20, "expired", 20)
        rest = upto(sent, 30)
        assert (seqs(rest), {m.skipped_last for m in rest}) == (list(range(21, 31)), {0})
    with reading(here.open(0)) as sent:
        found = upto(sent, 30)
        assert (seqs(found), {m.skipped_last for m in found}) == (list(range(21, 31)), {0})
    with reading(here.open(20, resumed=True)) as sent:
        assert next(sent).skipped_last == 0


# --- the end


def read_to_the_end(tail: Tail, raised: list[BaseException]) -> None:
    try:
        list(tail.sent())
    except Exception as error:
        raised.append(error)


def test_stop_ends_a_reader_that_waits_at_once(make_here: Callable[..., Here]) -> None:
    here = make_here(heartbeat_s=3600)
    here.add(10)
    for why, kind in ((None, CancelledError), (BusyError("the server stops."), BusyError)):
        tail = here.open()
        raised: list[BaseException] = []
        thread = threading.Thread(target=read_to_the_end, args=(tail, raised))
        thread.start()
        wait_until(lambda: here.store.tables["trades"].arrivals._condition._waiters)
        began = time.monotonic()
        tail.stop(why)
        thread.join(10)
        assert time.monotonic() - began < 1
        assert [type(error) for error in raised] == [kind]
    here.nothing_is_left()


def test_stop_ends_a_reader_of_history_and_its_query(make_here: Callable[..., Here]) -> None:
    here = make_here(ordered_window_rows=1000, concurrent_max=1)
    here.add(MANY)
    here.release()
    tail = here.open(0)
    with reading(tail) as sent:
        upto(sent, 1)
        tail.stop()
        with pytest.raises(CancelledError):
            list(sent)
    here.nothing_is_left()


def test_closing_the_server_s_tails_tells_them_why(here: Here) -> None:
    here.add(10)
    with reading(here.open()) as one, reading(here.sql("SELECT * FROM tail('trades')")) as other:
        next(one)
        next(other)
        here.tails.close()
        for sent in (one, other):
            with pytest.raises(BusyError, match="the server stops"):
                next(sent)
    here.nothing_is_left()


def test_a_reader_that_goes_in_the_middle_leaves_nothing(here: Here) -> None:
    here.add(1000)
    for tail in (
        here.open(0),
        here.open(0, chosen={"where": "price > 3"}),
        here.sql("FROM tail('trades', since := now())"),
    ):
        with reading(tail) as sent:
            next(sent)
        tail.close()
        tail.close()
    here.nothing_is_left()
    assert here.store.metrics.read()["tails"] == 3


def test_a_tail_that_cannot_begin_leaves_nothing(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails_module, "_empty", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        here.open()
    assert len(here.tails._channels) == 0
    assert not here.tails._open


def test_like_tails_share_and_others_do_not(here: Here) -> None:
    here.add(10)
    same = [here.open(n) for n in range(3)]
    assert len(here.tails._channels) == 1
    others = [here.open(chosen={"symbols": ["A"]}), here.open(since_us=5), here.sql("SELECT seq FROM tail('trades')")]
    assert len(here.tails._channels) == 4
    for tail in (*same, *others):
        tail.close()
    here.nothing_is_left()


def test_a_condition_that_fails_on_a_row_ends_the_tail_with_its_place(here: Here) -> None:
    here.add(10)
    with reading(here.open(0, chosen={"where": "side::INT = 1"})) as sent, pytest.raises(InputError, match="'buy'"):
        upto(sent, 10)
    here.nothing_is_left()
