"""The store as a whole: acknowledged means durable and visible, whatever happens then."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickflight_server.errors import (
    ConfigError,
    InputError,
    LogClosedError,
    LogCorruptError,
    NotFoundError,
    RowError,
    StorageError,
    TooLargeError,
)
from tickflight_server.schemas import STORED
from tickflight_server.store import Ack, Store


def numbered(rows: int) -> list[tuple[int, float]]:
    return [(i + 1, float(i)) for i in range(rows)]


def spoil(batch: pa.RecordBatch, *rows: int) -> pa.RecordBatch:
    """Return ``batch`` with these rows' symbols null."""
    index = batch.schema.get_field_index("symbol")
    symbols = [None if i in rows else s for i, s in enumerate(batch["symbol"].to_pylist())]
    return batch.set_column(index, "symbol", pa.array(symbols, pa.string()))


@pytest.fixture
def held_syncs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hold every sync of the log until the event is set; ``fail`` makes it fail then."""

    class Gate(threading.Event):
        fail = False

    gate = Gate()
    sync = os.fdatasync

    def wait(fd: int) -> None:
        assert gate.wait(20)
        if gate.fail:
            raise OSError(5, "Input/output error")
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", wait)
    yield gate
    gate.set()


def test_an_acknowledged_row_is_visible_and_has_the_next_seq(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store()
    assert store.append("trades", trades(3)).result(20) == Ack(first_seq=1, rows=3)
    assert store.append("trades", trades(2, 3)).result(20) == Ack(first_seq=4, rows=2)
    assert store.append("ticker", trades(1).select(["exchange", "symbol", "timestamp"])).result(20).first_seq == 1
    assert rows_of(store) == numbered(5)


@pytest.mark.parametrize("flushed", [False, True])
def test_acknowledged_rows_survive_a_crash(
    open_store: Any, trades: Any, rows_of: Any, crash: Any, flushed: bool
) -> None:
    store = open_store()
    store.append("trades", trades(10)).result(20)
    if flushed:
        store.flush()
    store.append("trades", trades(10, 10)).result(20)
    copy = crash(store)
    for _ in range(3):  # a store opened after a crash can crash again
        again = open_store(copy)
        assert rows_of(again) == numbered(20)
        again.close(flush=False)
    again = open_store(copy)
    again.append("trades", trades(5, 20)).result(20)
    assert again.flush()["trades"] == 25
    assert rows_of(open_store(crash(again))) == numbered(25)


OPS = ["append", "append", "again", "flush", "merge", "release", "crash", "reopen", "rejected"]


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(OPS), st.integers(1, 400)), min_size=3, max_size=15))
def test_any_order_of_appends_flushes_merges_releases_and_crashes_keeps_each_row_once(
    trades: Any, rows_of: Any, settings_for: Any, steps: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = settings_for(Path(name), ring_segment_rows=1_024)
        store = Store(place)
        rows = rejected = sequence = 0
        last: pa.RecordBatch | None = None
        try:
            for op, number in steps:
                if op in ("append", "rejected"):
                    last = trades(number, rows, symbols=("A", "B"))
                    sequence += 1
                    taken = number
                    if op == "rejected":  # the last row is taken away, so that the prices stay dense
                        last, taken = spoil(last, number - 1), number - 1
                        rejected += 1
                    ack = store.append("trades", last, producer=b"p", sequence=sequence).result(20)
                    assert ack == Ack(rows + 1 if taken else 0, taken, number - taken)
                    rows += taken
                elif op == "again" and last is not None:
                    ack = store.append("trades", last, producer=b"p", sequence=sequence).result(20)
                    assert ack.duplicate
                    assert ack.first_seq == 0
                elif op == "flush":
                    assert store.flush()["trades"] == rows
                elif op == "merge":
                    store.tables["trades"].merge_once()
                elif op == "release":
                    store.tables["trades"].release_oldest()
                elif op in ("crash", "reopen"):
                    store.close(flush=op == "reopen")
                    store = Store(place)
                assert rows_of(store) == numbered(rows)
                assert len(rows_of(store, "rejected", "reason")) == rejected
        finally:
            store.close(flush=False)


def test_rejected_rows_are_kept_aside_with_reason_and_producer(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store()
    ack = store.append("trades", spoil(trades(4), 1, 3), producer=b"\x07", sequence=1).result(20)
    assert ack == Ack(first_seq=1, rows=2, rejected=2)
    assert rows_of(store) == [(1, 0.0), (2, 2.0)]
    assert rows_of(store, "rejected", "reason") == [(1, "column 'symbol' is null"), (2, "column 'symbol' is null")]
    assert [json.loads(t)["price"] for _, t in rows_of(store, "rejected", "row")] == [1.0, 3.0]
    assert {p for _, p in rows_of(store, "rejected", "producer")} == {"07"}
    assert store.metrics.read()["rows_rejected"] == 2
    store.close()
    again = open_store()
    assert rows_of(again, "rejected", "table") == [(1, "trades"), (2, "trades")]
    assert again.append("trades", spoil(trades(4), 1, 3), producer=b"\x07", sequence=1).result(20) == Ack(0, 2, 2, True)
    assert len(rows_of(again, "rejected", "reason")) == 2


def test_a_batch_of_only_rejected_rows_is_stored_once(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store()
    for duplicate in (False, True):
        ack = store.append("trades", spoil(trades(2), 0, 1), producer=b"p", sequence=1).result(20)
        assert ack == Ack(0, 0, 2, duplicate)
    assert rows_of(store) == []
    assert len(rows_of(store, "rejected", "reason")) == 2


def test_rows_that_table_rejected_rejects_are_kept_there_too(open_store: Any, rows_of: Any) -> None:
    store = open_store()
    columns = {"exchange": ["X", "X"], "symbol": ["A", None], "table": ["t"] * 2, "reason": ["mine"] * 2}
    batch = pa.record_batch(columns | {"timestamp": pa.array([1, 2], pa.timestamp("us"))})
    assert store.append("rejected", batch).result(20) == Ack(1, 1, 1)
    assert store.append("rejected", batch).result(20) == Ack(3, 1, 1)
    wanted = [(1, "mine"), (2, "column 'symbol' is null"), (3, "mine"), (4, "column 'symbol' is null")]
    assert rows_of(store, "rejected", "reason") == wanted


def test_an_empty_batch_is_acknowledged_and_leaves_nothing(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store()
    size = store.log.size_bytes
    assert store.append("trades", trades(0)).result(20) == Ack(0, 0)
    assert store.append("trades", trades(0), producer=b"p", sequence=1).result(20) == Ack(0, 0)
    assert store.log.size_bytes == size
    assert rows_of(store) == []


@pytest.mark.parametrize("through", ["the same store", "a crash", "a flush and a crash", "a clean restart"])
def test_a_producers_batch_sent_again_is_recognised(
    open_store: Any, trades: Any, rows_of: Any, crash: Any, through: str
) -> None:
    store = open_store()
    for row, sequence in enumerate((1, 2, 5)):
        ack = store.append("trades", trades(1, row), producer=b"p", sequence=sequence).result(20)
        assert ack == Ack(row + 1, 1)
    if "flush" in through:
        store.flush()
    if "crash" in through:
        store = open_store(crash(store))
    elif "clean" in through:
        store.close()
        store = open_store()
    for sequence in (1, 2, 5):
        assert store.append("trades", trades(1), producer=b"p", sequence=sequence).result(20) == Ack(0, 1, 0, True)
    assert not store.append("trades", trades(1, 3), producer=b"q", sequence=5).result(20).duplicate
    assert not store.append("trades", trades(1, 4), producer=b"p", sequence=6).result(20).duplicate
    assert rows_of(store) == numbered(5)


@pytest.mark.parametrize("fail", [False, True])
def test_a_duplicate_is_answered_when_its_original_is_durable_or_failed(
    open_store: Any, trades: Any, held_syncs: Any, fail: bool
) -> None:
    store = open_store()
    original = store.append("trades", trades(1), producer=b"p", sequence=1)
    duplicate = store.append("trades", trades(1), producer=b"p", sequence=1)
    assert not original.done()
    assert not duplicate.done()
    held_syncs.fail = fail
    held_syncs.set()
    if fail:
        for future in (original, duplicate):
            with pytest.raises(LogClosedError):
                future.result(20)
        with pytest.raises(LogClosedError):
            store.append("trades", trades(1), producer=b"p", sequence=1)
    else:
        assert original.result(20) == Ack(1, 1)
        assert duplicate.result(20) == Ack(0, 1, 0, True)


def test_after_a_failed_sync_nothing_is_acknowledged_and_what_was_stays_readable(
    open_store: Any, trades: Any, rows_of: Any, held_syncs: Any
) -> None:
    store = open_store()
    held_syncs.set()
    store.append("trades", trades(3)).result(20)
    held_syncs.fail = True
    with pytest.raises(LogClosedError, match="Input/output error"):
        store.append("trades", trades(3, 3)).result(20)
    with pytest.raises(LogClosedError, match="Nothing is accepted until it can be"):
        store.append("trades", trades(3, 3))
    assert rows_of(store) == numbered(3)
    store.close()
    held_syncs.fail = False
    # the second batch may have reached the disk; it was not acknowledged, and is there wholly or not at all
    assert rows_of(open_store()) in (numbered(3), numbered(6))


@pytest.mark.parametrize(
    ("producer", "sequence"), [(b"p" * 65, 1), (b"p" * 300, 1), (b"p", 0), (b"p", -1), (b"p", 2**63), (b"p", 2**64)]
)
def test_a_producer_that_cannot_be_recorded_is_refused_before_the_log(
    open_store: Any, trades: Any, producer: bytes, sequence: int
) -> None:
    store = open_store()
    with pytest.raises(InputError):
        store.append("trades", trades(1), producer=producer, sequence=sequence)
    store.append("trades", spoil(trades(2), 0), producer=b"p" * 64, sequence=2**63 - 1).result(20)
    assert store.flush()["trades"] == 1


def test_what_a_caller_does_wrong_is_told_at_once_and_harms_nothing(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store(wal_record_mb=1)
    with pytest.raises(NotFoundError, match=r"'quotes'.*Tables are trades, ticker"):
        store.append("quotes", trades(1))
    with pytest.raises(NotFoundError):
        store.snapshot("quotes")
    with pytest.raises(RowError):
        store.append("ticker", trades(1))
    with pytest.raises(TooLargeError, match=r"wal_record_mb \(1048576 bytes\)"):
        store.append("trades", trades(50_000))
    store.append("trades", trades(1)).result(20)
    assert rows_of(store) == numbered(1)


def test_every_stored_table_takes_flushes_and_gives_back_rows(open_store: Any, rows_of: Any) -> None:
    store = open_store()
    for name, schema in STORED.items():
        required = {
            "exchange": ["X"],
            "symbol": ["A"],
            "table": ["t"],
            "reason": ["r"],
            "cause": ["c"],
            "start": [7],
            "end": [8],
        }
        columns = {k: v for k, v in required.items() if k in schema.required}
        batch = pa.record_batch(columns | {"timestamp": pa.array([7], pa.timestamp("us"))})
        assert store.append(name, batch).result(20).rows == 1
    assert set(store.flush().values()) == {1}
    for name, table in store.tables.items():
        table.release_oldest()
        assert rows_of(store, name, "symbol") == [(1, "A")]
    store.close()
    assert rows_of(open_store(), "l3_book", "symbol") == [(1, "A")]


def test_decimal_digits_survive_log_and_parts(open_store: Any, trades: Any, rows_of: Any, crash: Any) -> None:
    store = open_store(numeric_type="decimal")
    batch = trades(1)
    index = batch.schema.get_field_index("price")
    digits = "12345678901234567890.123456789012345678"
    store.append("trades", batch.set_column(index, "price", pa.array([digits]))).result(20)
    again = open_store(crash(store), numeric_type="decimal")
    assert [str(p) for _, p in rows_of(again)] == [digits]
    again.flush()
    again.tables["trades"].release_oldest()
    assert [str(p) for _, p in rows_of(again)] == [digits]


@pytest.mark.parametrize("flush", [False, True])
def test_a_changed_numeric_type_is_refused_and_the_folder_let_go(open_store: Any, trades: Any, flush: bool) -> None:
    store = open_store()
    store.append("trades", trades(1)).result(20)
    store.close(flush=flush)
    with pytest.raises(StorageError, match=r"Hint: lakehouse\.numeric_type must stay"):
        open_store(numeric_type="decimal")
    open_store()


def test_a_damaged_log_is_reported_and_the_folder_let_go(open_store: Any, trades: Any) -> None:
    store = open_store()
    for i in range(3):
        store.append("trades", trades(10, i * 10)).result(20)
    store.close(flush=False)
    path = store.log.files[0].path
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(LogCorruptError, match=rf"{path.name}, offset 40: the checksum is wrong"):
            open_store()


def test_a_second_store_on_one_folder_is_refused_with_the_owners_pid(open_store: Any) -> None:
    open_store()
    with pytest.raises(ConfigError, match=rf"process {os.getpid()}"):
        open_store()


def test_a_folder_that_cannot_be_used_is_refused(open_store: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Hint"):
        open_store(tmp_path / "file" / "lake")


def test_a_failed_opening_leaves_no_file_open(open_store: Any, trades: Any) -> None:
    store = open_store()
    store.append("trades", trades(1)).result(20)
    store.close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(StorageError):
            open_store(numeric_type="decimal")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_closing_twice_is_closing_once(open_store: Any, trades: Any) -> None:
    store = open_store()
    store.append("trades", trades(1)).result(20)
    store.close()
    version = store.tables["trades"].state.version
    other = open_store()
    store.close()
    with pytest.raises(ConfigError):
        open_store()
    assert other.tables["trades"].state.version == version
    with pytest.raises(LogClosedError, match="closed"):
        store.append("trades", trades(1))


def test_leaving_the_context_after_closing_without_a_flush_flushes_nothing(
    settings_for: Any, tmp_path: Path, trades: Any
) -> None:
    with Store(settings_for(tmp_path)) as store:
        store.append("trades", trades(1)).result(20)
        store.close(flush=False)
    assert not (tmp_path / "trades").exists()


def test_closing_flushes_and_leaves_a_log_whose_records_are_all_skipped(
    open_store: Any, trades: Any, rows_of: Any
) -> None:
    with open_store() as store:
        future = store.append("trades", trades(10))
    assert future.result(0).rows == 10
    again = open_store()
    assert again.tables["trades"].state.segments == ()
    assert again.tables["trades"].state.flushed_seq == 10
    assert rows_of(again) == numbered(10)
    again.append("trades", trades(1, 10)).result(20)
    assert rows_of(again) == numbered(11)


def test_a_failing_last_flush_still_closes(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store()
    store.append("trades", trades(3)).result(20)
    (store.root / "trades").write_text("in the way")
    with pytest.raises(StorageError):
        store.close()
    store.close()
    (store.root / "trades").unlink()
    assert rows_of(open_store()) == numbered(3)


def test_orphans_of_a_flush_that_died_are_removed_and_its_rows_flushed_again(
    open_store: Any, trades: Any, rows_of: Any, crash: Any
) -> None:
    store = open_store()
    store.append("trades", trades(10)).result(20)
    store.flush()
    store.append("trades", trades(10, 10)).result(20)
    died = crash(store)
    store.flush()
    # a crash between the parts and the commit: the new parts are there, the log of versions is the old one
    shutil.copytree(store.root / "trades", died / "trades", dirs_exist_ok=True)
    (died / "trades" / "_delta_log" / f"{1:020d}.json").unlink()
    assert len(list((died / "trades").rglob("*.parquet"))) == 2
    again = open_store(died)
    assert len(list((died / "trades").rglob("*.parquet"))) == 1
    assert rows_of(again) == numbered(20)
    assert again.flush()["trades"] == 20
    again.tables["trades"].release_oldest()
    assert rows_of(again) == numbered(20)


def test_a_log_larger_than_the_buffer_is_replayed_into_parts(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store(buffer_size_mb=64, ring_mb=64, wal_file_mb=1)
    for i in range(12):
        store.append("trades", trades(5_000, i * 5_000)).result(20)
    store.close(flush=False)
    files = len(list((store.root / "_tickflight" / "log").iterdir()))
    again = open_store(buffer_size_mb=1, ring_mb=1, wal_file_mb=1)
    state = again.tables["trades"].state
    assert state.unflushed_bytes < 2 << 20
    assert state.flushed_seq > 0
    assert len(again.log.files) < files
    assert rows_of(again) == numbered(60_000)


def test_a_log_of_many_small_records_is_replayed_in_a_moment(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store()
    futures = [store.append("trades", trades(1, i)) for i in range(3_000)]
    for future in futures:
        future.result(20)
    store.close(flush=False)
    started = time.monotonic()
    again = open_store()
    assert time.monotonic() - started < 5
    assert len(again.tables["trades"].state.segments) < 100
    assert rows_of(again) == numbered(3_000)


def test_records_of_an_unknown_table_are_left_in_the_log(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store()
    store.append("trades", trades(2)).result(20)
    store.append("ticker", trades(1).select(["exchange", "symbol", "timestamp"])).result(20)
    store.close(flush=False)
    older = open_store(tables={k: v for k, v in STORED.items() if k != "ticker"})
    assert rows_of(older) == numbered(2)
    older.close()
    assert rows_of(open_store(), "ticker", "symbol") == [(1, "BTC-USDT")]


def test_what_was_acknowledged_while_closing_is_stored(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store()
    acknowledged: list[int] = []

    def send(producer: int) -> None:
        try:
            for sequence in range(1, 100_000):
                future = store.append(
                    "trades", trades(1, producer * 100_000 + sequence), producer=bytes([producer]), sequence=sequence
                )
                acknowledged.append(future.result(20).first_seq)
        except LogClosedError:
            return

    threads = [threading.Thread(target=send, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 50:
        time.sleep(0.001)
    store.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    stored = [seq for seq, _ in rows_of(open_store())]
    assert stored == list(range(1, len(stored) + 1))
    assert set(acknowledged) <= set(stored)


def test_new_producers_beside_a_flusher_are_each_stored_once(
    open_store: Any, trades: Any, rows_of: Any, crash: Any
) -> None:
    store = open_store()
    done = threading.Event()

    def flush() -> None:
        while not done.wait(0.002):
            store.flush()

    flusher = threading.Thread(target=flush)
    flusher.start()
    futures = []
    try:
        for i in range(150):
            futures += [store.append("trades", trades(1, i), producer=b"p%d" % i, sequence=1) for _ in range(2)]
    finally:
        done.set()
        flusher.join(20)
    acks = [f.result(20) for f in futures]
    assert [a.duplicate for a in acks] == [False, True] * 150
    again = open_store(crash(store))
    assert rows_of(again) == numbered(150)
    for i in range(150):
        assert again.append("trades", trades(1), producer=b"p%d" % i, sequence=1).result(20).duplicate


def test_a_very_large_batch_is_cut_into_segments(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store(ring_segment_rows=1_024)
    assert store.append("trades", trades(10_000)).result(20) == Ack(1, 10_000)
    assert max(s.rows for s in store.snapshot("trades").segments) <= 1_024
    assert rows_of(store) == numbered(10_000)


def test_folders_and_files_are_private_whatever_the_umask(open_store: Any, trades: Any) -> None:
    before = os.umask(0)
    try:
        store = open_store()
        store.append("trades", trades(3)).result(20)
        store.flush()
    finally:
        os.umask(before)
    # what delta-rs writes has its own modes; it lies below the table's folder, which is closed
    ours = [p for p in (store.root, *store.root.rglob("*")) if "_delta_log" not in p.parts]
    assert {p.stat().st_mode & 0o777 for p in ours if p.is_dir()} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in ours if p.is_file()} == {0o600}


def test_the_clock_that_was_passed_in_fills_the_receipt_time(settings_for: Callable[..., Any], tmp_path: Path) -> None:
    class Fixed:
        def now_us(self) -> int:
            return 1_234_567

        def monotonic(self) -> float:
            return time.monotonic()

    with Store(settings_for(tmp_path), Fixed()) as store:
        batch = pa.record_batch({"exchange": ["X"], "symbol": ["A"], "timestamp": pa.array([7], pa.timestamp("us"))})
        store.append("ticker", batch).result(20)
        (segment,) = store.snapshot("ticker").segments
        assert segment.batch["receipt_timestamp"].cast(pa.int64()).to_pylist() == [1_234_567]


@pytest.mark.parametrize("lost", ["trades/_delta_log", f"trades/_delta_log/{1:020d}.json", "_tickflight/writer"])
def test_a_folder_that_lost_what_names_its_parts_is_refused_and_keeps_them(
    open_store: Any, trades: Any, rows_of: Any, crash: Any, lost: str
) -> None:
    store = open_store(wal_file_mb=1)
    for i in range(2):
        store.append("trades", trades(20_000, i * 20_000)).result(60)
        store.flush()
    store.close()
    spoiled = crash(store)
    # the log has let go of what is in parts
    shutil.rmtree(spoiled / "_tickflight" / "log")
    kept = spoiled.parent / "kept"
    (spoiled / lost).rename(kept)
    parts = sorted((spoiled / "trades").rglob("*-*.parquet"))
    with pytest.raises(StorageError, match=r"trades.*Hint: .*backup"):
        open_store(spoiled)
    assert sorted((spoiled / "trades").rglob("*-*.parquet")) == parts, "nothing was deleted"
    shutil.rmtree(spoiled / lost, ignore_errors=True)
    (spoiled / lost).unlink(missing_ok=True)
    kept.rename(spoiled / lost)
    assert len(rows_of(open_store(spoiled))) == 40_000
