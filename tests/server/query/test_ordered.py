"""Sorted reading gives each row once and in order, whatever the windows, wherever the rows lie."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.errors import CancelledError, ResourceExhaustedError
from tickflight_server.query import ordered
from tickflight_server.query.engine import Engine
from tickflight_server.query.ordered import by_seq, by_time
from tickflight_server.query.selection import check
from tickflight_server.schemas import STORED
from tickflight_server.store import Store

START_US = 1_790_000_000_000_000
ORDER = [("timestamp", "ascending"), ("receipt_timestamp", "ascending"), ("seq", "ascending")]


@contextmanager
def lake(**query: Any) -> Iterator[tuple[Store, Engine]]:
    with tempfile.TemporaryDirectory() as folder:
        values = {"storage_path": Path(folder), "wal_commit_interval_ms": 0, "flush_interval_seconds": 3600}
        with Store(LakehouseSettings(**values, compact_share=0)) as store:
            engine = Engine(store, QuerySettings(**query))
            yield store, engine
            engine.close()


def some_trades(rng: random.Random, rows: int, spread_us: int) -> pa.RecordBatch:
    """Return trades of a few symbols, many of them at one time."""
    times = [START_US + rng.randrange(spread_us) for _ in range(rows)]
    return pa.record_batch(
        {
            "exchange": [rng.choice(["BINANCE", "OKX"]) for _ in range(rows)],
            "symbol": [rng.choice(["A-B", "C-D", "E-F"]) for _ in range(rows)],
            "price": [float(rng.randrange(100)) for _ in range(rows)],
            "amount": [1.0] * rows,
            "timestamp": pa.array(times).cast(pa.timestamp("us")),
            "receipt_timestamp": pa.array([t + rng.randrange(3) for t in times]).cast(pa.timestamp("us")),
        }
    )


def whole(engine: Engine, sql: str, values: Any = ()) -> pa.Table:
    with engine.execute(engine.plan(sql, values)) as execution:
        return execution.reader.read_all()


def move(store: Store, rng: random.Random) -> None:
    """Let rows lie elsewhere: in parts, merged, or no more in memory."""
    kind = rng.choice(["flush", "flush", "release", "merge", "compact", "nothing"])
    if kind == "flush":
        store.flush()
    elif kind == "release":
        store.tables["trades"].release_oldest()
    elif kind == "merge":
        store.tables["trades"].merge_once()
    elif kind == "compact":
        store.flush()
        store.keeper.compact(all_of_it=True)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from([1, 7, 100, 10_000]), st.sampled_from([2, 50, 10**6, 3 * 86_400 * 10**6]))
def test_windows_together_are_the_sorted_whole(seed: int, window_rows: int, spread_us: int) -> None:
    rng = random.Random(seed)
    with lake(ordered_window_rows=window_rows) as (store, engine):
        for _ in range(rng.randrange(1, 6)):
            store.append("trades", some_trades(rng, rng.randrange(1, 60), spread_us)).result()
            move(store, rng)
        newest = store.snapshot("trades").last_seq
        where = rng.choice(["", "price > 50", "price > 98", "false"])
        choice = check(
            engine,
            "trades",
            rng.choice([(), ("OKX",)]),
            rng.choice([(), ("A-B",), ("A-B", "E-F"), ("none",)]),
            rng.choice([(), ("price",), ("symbol", "timestamp", "price"), ("receipt_timestamp", "seq")]),
            where,
        )
        after, upto = rng.randrange(newest), rng.randrange(1, newest + 1)
        since = rng.choice([None, START_US + spread_us // 2])
        rows = whole(engine, choice.select("*"), choice.parameters())
        seq, us = rows["seq"].to_numpy(), rows["timestamp"].cast(pa.int64()).to_numpy()

        pieces = list(by_seq(engine, choice, after, upto, since_us=since))
        wanted = rows.filter((seq > after) & (seq <= upto) & (us >= (since or 0))).sort_by("seq")
        check_batches([p.batch for p in pieces], wanted, choice, store)
        told = [p.seq for p in pieces]
        assert told == sorted(set(told))
        assert (told[-1] == upto) if upto > after else not told

        low, high = sorted(START_US + rng.randrange(-1, spread_us + 1) for _ in range(2))
        cut = rng.randrange(newest + 1)
        found = list(by_time(engine, choice, low, high, cuts={"trades": cut}))
        wanted = rows.filter((us >= low) & (us < high) & (seq <= cut)).sort_by(ORDER)
        check_batches(found, wanted, choice, store)
        check_batches(list(by_time(engine, choice, None, None)), rows.sort_by(ORDER), choice, store)


def check_batches(batches: list[pa.RecordBatch], wanted: pa.Table, choice: Any, store: Store) -> None:
    schema = choice.schema(store.numeric)
    assert all(b.schema == schema for b in batches)
    assert pa.Table.from_batches(batches, schema) == wanted.select(choice.columns).cast(schema)


@pytest.fixture
def sorted_engine(store: Store, make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(ordered_window_rows=1000, concurrent_max=1, queue_timeout_s=0.2)


@pytest.fixture
def asked(sorted_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is run, with what it opens."""
    made: list[Any] = []
    execute = sorted_engine.execute

    def note(plan: Any, **more: Any) -> Any:
        execution = execute(plan, **more)
        made.append((plan.statement.sql, execution.opened["trades"]))
        return execution

    monkeypatch.setattr(sorted_engine, "execute", note)
    return made


def test_rows_that_fit_one_window_are_asked_for_once(
    store: Store, sorted_engine: Engine, asked: list[Any], make_trades: Any
) -> None:
    store.append("trades", make_trades(5000)).result()
    (piece,) = by_seq(sorted_engine, check(sorted_engine, "trades"), 4900, 4990)
    assert (piece.seq, piece.batch.num_rows, len(asked)) == (4990, 90, 1)
    (piece,) = by_seq(sorted_engine, check(sorted_engine, "trades"), 10, 1010)
    assert (piece.seq, piece.batch.num_rows, len(asked)) == (1010, 1000, 2)


def test_few_matches_among_many_rows_are_one_window(
    store: Store, sorted_engine: Engine, asked: list[Any], make_trades: Any
) -> None:
    store.append("trades", make_trades(20_000)).result()
    choice = check(sorted_engine, "trades", where="price % 100 = 0", columns=["price"])
    (batch,) = by_time(sorted_engine, choice, None, None)
    assert batch.column("price").to_pylist() == [float(n) for n in range(0, 20_000, 100)]
    assert len(asked) == 2  # counted, then read


def test_window_opens_only_the_parts_that_it_needs(
    store: Store, sorted_engine: Engine, asked: list[Any], make_trades: Any, release: Callable[[], None]
) -> None:
    for day in range(4):
        store.append("trades", make_trades(900, start_us=START_US + day * 86_400_000_000)).result()
    release()
    batches = list(by_time(sorted_engine, check(sorted_engine, "trades"), None, None))
    assert sum(b.num_rows for b in batches) == 3600
    reads = [len(opened.parts) for sql, opened in asked if "ORDER BY timestamp" in sql.replace('"', "")]
    assert reads == [1, 1, 1, 1]


def test_window_is_never_above_its_rows_though_all_have_one_time(
    store: Store, sorted_engine: Engine, asked: list[Any], make_trades: Any
) -> None:
    batch = make_trades(5000)
    place = batch.schema.get_field_index("timestamp")
    same = pa.array([START_US] * 5000).cast(pa.timestamp("us"))
    batch = batch.set_column(place, "timestamp", same).append_column("receipt_timestamp", same)
    store.append("trades", batch).result()
    sizes = []
    original = ordered._Scan._sorted

    def note(scan: Any, ranges: Any) -> Any:
        batches = list(original(scan, ranges))
        sizes.append(sum(b.num_rows for b in batches))
        return iter(batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered._Scan, "_sorted", note)
        rows = pa.Table.from_batches(by_time(sorted_engine, check(sorted_engine, "trades"), None, None))
    assert rows["seq"].to_pylist() == list(range(1, 5001))
    assert max(sizes) <= 1000
    assert sizes[0] < 500  # the first rows come soon
    assert len(sizes) <= 9


def test_no_place_is_held_between_two_pieces(store: Store, sorted_engine: Engine, make_trades: Any) -> None:
    store.append("trades", make_trades(5000)).result()
    pieces = by_seq(sorted_engine, check(sorted_engine, "trades"), 0, 5000)
    seen = []
    for piece in pieces:
        assert whole(sorted_engine, "SELECT 1").num_rows == 1  # there is one place alone
        seen.append(piece.batch.num_rows)
    assert sum(seen) == 5000
    assert max(seen) <= 1000


def test_rows_that_come_meanwhile_are_not_seen(store: Store, sorted_engine: Engine, make_trades: Any) -> None:
    store.append("trades", make_trades(3000)).result()
    batches = by_time(sorted_engine, check(sorted_engine, "trades"), None, None)
    first = next(batches)
    store.append("trades", make_trades(3000)).result()
    store.flush()
    assert first.num_rows + sum(b.num_rows for b in batches) == 3000


def test_long_rows_make_smaller_windows(make_engine: Callable[..., Engine], store: Store) -> None:
    engine = make_engine(ordered_window_mb=1)
    rows, levels = 200, 1000
    times = pa.array(np.arange(rows) + START_US).cast(pa.timestamp("us"))
    column = pa.array([[1.5] * levels] * rows)
    names = ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")
    head = {"exchange": ["X"] * rows, "symbol": ["A-B"] * rows, "timestamp": times}
    for _ in range(2):
        store.append("l2_book", pa.record_batch(head | dict.fromkeys(names, column))).result()
    batches = list(by_time(engine, check(engine, "l2_book"), None, None))
    assert sum(b.num_rows for b in batches) == 2 * rows
    # 32 kB a row: some thirty in a window
    assert max(b.num_rows for b in batches) < 64


def test_rows_that_are_too_long_for_the_engine_are_read_in_smaller_windows(
    make_engine: Callable[..., Engine], store: Store, release: Callable[[], None]
) -> None:
    # equal levels are small in a part: nothing tells beforehand that a row has 16 kB
    engine = make_engine(memory_mb=80, threads=1)
    rows, levels = 4000, 500
    times = pa.array(np.arange(rows) + START_US).cast(pa.timestamp("us"))
    column = pa.array([[1.5] * levels] * rows)
    head = {"exchange": ["X"] * rows, "symbol": ["A-B"] * rows, "timestamp": times}
    names = ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")
    store.append("l2_book", pa.record_batch(head | dict.fromkeys(names, column))).result()
    release()
    choice = check(engine, "l2_book")
    with pytest.raises(ResourceExhaustedError, match="Out of Memory"):
        whole(engine, "FROM l2_book ORDER BY timestamp")
    batches = by_time(engine, choice, None, None)
    assert [seq for batch in batches for seq in batch["seq"].to_pylist()] == list(range(1, rows + 1))


def test_reading_can_be_cancelled(store: Store, sorted_engine: Engine, make_trades: Any) -> None:
    store.append("trades", make_trades(5000)).result()
    with pytest.raises(CancelledError):
        list(by_seq(sorted_engine, check(sorted_engine, "trades"), 0, 5000, started=lambda cancel: cancel()))
    assert whole(sorted_engine, "SELECT 1").num_rows == 1


def test_empty_ranges_have_no_rows(store: Store, sorted_engine: Engine, make_trades: Any) -> None:
    choice = check(sorted_engine, "trades", columns=["price"])
    assert list(by_time(sorted_engine, choice, None, None)) == []
    assert list(by_seq(sorted_engine, choice, 0, 0)) == []
    store.append("trades", make_trades(10)).result()
    assert list(by_time(sorted_engine, choice, 5, 5)) == []
    assert list(by_time(sorted_engine, choice, -(2**63), START_US)) == []
    assert sum(b.num_rows for b in by_time(sorted_engine, choice, -(2**63), 2**63 - 1)) == 10
    assert STORED["trades"].name == choice.table.name
