"""Background work: it comes by itself, it gives room, and its failures are tried again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tickflight_server.errors import BusyError, ConfigError, LogClosedError, StorageError
from tickflight_server.store import table as table_module
from tickflight_server.store import upkeep as upkeep_module
from tickflight_server.store.partition import PartWriter


@pytest.fixture
def held_writes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hold flushes before they write; ``started`` tells that one is there, ``go`` lets it pass."""
    started, go = threading.Event(), threading.Event()
    write = PartWriter.write

    def wait(*arguments: Any) -> Any:
        started.set()
        assert go.wait(20)
        return write(*arguments)

    monkeypatch.setattr(PartWriter, "write", wait)
    yield started, go
    go.set()


def test_rows_are_flushed_by_age(open_store: Any, trades: Any, wait_for: Any) -> None:
    store = open_store(flush_interval_seconds=0.05)
    store.append("trades", trades(10)).result(20)
    wait_for(lambda: store.tables["trades"].state.flushed_seq == 10, "a flush by age")
    wait_for(lambda: store.metrics.read().get("rows_flushed") == 10, "the counter")


def test_rows_are_flushed_when_the_buffer_is_full(open_store: Any, trades: Any, wait_for: Any) -> None:
    store = open_store(buffer_size_mb=1)
    store.append("trades", trades(30_000)).result(20)
    wait_for(lambda: store.tables["trades"].state.flushed_seq == 30_000, "a flush by size")


def test_small_batches_are_merged_by_themselves(open_store: Any, trades: Any, wait_for: Any, rows_of: Any) -> None:
    store = open_store()
    for i in range(40):
        store.append("trades", trades(5, i * 5)).result(20)
    wait_for(lambda: len(store.tables["trades"].state.segments) < 8, "a merge")
    assert rows_of(store) == [(i + 1, float(i)) for i in range(200)]


def test_the_ring_stays_within_its_budget(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store(buffer_size_mb=1, ring_mb=1)
    for i in range(6):
        store.append("trades", trades(10_000, i * 10_000)).result(20)
        store.flush()
    assert store.tables["trades"].state.ring_bytes <= 1 << 20
    assert store.tables["trades"].state.ring_from > 0
    assert rows_of(store) == [(i + 1, float(i)) for i in range(60_000)]


def test_the_oldest_rows_of_all_tables_are_released_first(open_store: Any, trades: Any) -> None:
    store = open_store(buffer_size_mb=1, ring_mb=1)
    # liquidations lack some of the columns of trades; ids make the rows heavy enough
    store.append("liquidations", trades(9_000).select(["exchange", "symbol", "id", "timestamp"])).result(20)
    store.flush()
    store.append("trades", trades(12_000, 9_000)).result(20)
    store.flush()
    assert store.tables["liquidations"].state.ring_from == 9_000
    assert store.tables["trades"].state.ring_from == 0


def test_log_files_go_when_every_table_in_them_is_flushed(open_store: Any, trades: Any, wait_for: Any) -> None:
    store = open_store(wal_file_mb=1)
    (store.root / "ticker").write_text("in the way of the table's folder")
    store.append("ticker", trades(1).select(["exchange", "symbol", "timestamp"])).result(20)
    for i in range(6):
        store.append("trades", trades(10_000, i * 10_000)).result(20)
    files = [f.path for f in store.log.files]
    assert len(files) > 2
    with pytest.raises(StorageError, match="cannot write a part"):
        store.flush()
    assert store.tables["trades"].state.flushed_seq == 60_000
    assert all(p.exists() for p in files)
    (store.root / "ticker").unlink()
    assert store.flush()["ticker"] == 1
    assert [p.exists() for p in files] == [False] * (len(files) - 1) + [True]


def test_a_failed_flush_keeps_the_rows_and_the_next_one_stores_each_once(
    open_store: Any, trades: Any, rows_of: Any
) -> None:
    store = open_store()
    store.append("trades", trades(10)).result(20)
    (store.root / "trades").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write a part"):
        store.flush()
    assert store.metrics.read()["flush_failures"] == 1
    assert rows_of(store) == [(i + 1, float(i)) for i in range(10)]
    store.append("trades", trades(5, 10)).result(20)
    (store.root / "trades").unlink()
    assert store.flush()["trades"] == 15
    store.tables["trades"].release_oldest()
    assert rows_of(store) == [(i + 1, float(i)) for i in range(15)]
    store.close()
    assert rows_of(open_store()) == [(i + 1, float(i)) for i in range(15)]


def test_the_flusher_survives_any_failure_and_tries_again(
    open_store: Any, trades: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "_RETRY_S", 0.05)
    store = open_store(flush_interval_seconds=0.05)

    def fail(*_: Any) -> None:
        raise ValueError("nobody foresaw this")

    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "write", fail)
        store.append("trades", trades(10)).result(20)
        wait_for(lambda: store.metrics.read().get("flush_failures", 0) >= 2, "two failed flushes")
        with pytest.raises(StorageError, match=r"cannot flush table trades.*nobody foresaw this"):
            store.flush()
    wait_for(lambda: store.tables["trades"].state.flushed_seq == 10, "a flush after the failures")


def test_the_merger_survives_any_failure(
    open_store: Any, trades: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "_RETRY_S", 0.01)
    store = open_store()

    def fail(*_: Any) -> None:
        raise ValueError("nobody foresaw this")

    with monkeypatch.context() as patch:
        patch.setattr(table_module, "merge", fail)
        for i in range(10):
            store.append("trades", trades(5, i * 5)).result(20)
        wait_for(lambda: store.metrics.read().get("merge_failures", 0) >= 2, "two failed merges")
    wait_for(lambda: len(store.tables["trades"].state.segments) < 8, "a merge after the failures")


def test_a_full_ring_makes_append_wait_and_then_say_busy(
    open_store: Any, trades: Any, rows_of: Any, held_writes: Any
) -> None:
    started, go = held_writes
    store = open_store(buffer_size_mb=1, ring_mb=1, append_timeout_s=0.1)
    store.append("trades", trades(30_000)).result(20)
    assert started.wait(20)
    with pytest.raises(BusyError, match=r"wal_pending_mb and ring_mb"):
        store.append("trades", trades(1, 30_000))
    assert store.metrics.read()["append_timeouts"] == 1
    go.set()
    store.flush()
    store.append("trades", trades(1, 30_000)).result(20)
    assert rows_of(store) == [(i + 1, float(i)) for i in range(30_001)]


def test_closing_wakes_an_append_that_waits_for_room(open_store: Any, trades: Any, held_writes: Any) -> None:
    started, go = held_writes
    store = open_store(buffer_size_mb=1, ring_mb=1, append_timeout_s=300)
    store.append("trades", trades(30_000)).result(20)
    assert started.wait(20)
    raised: list[BaseException] = []

    def append() -> None:
        try:
            store.append("trades", trades(1, 30_000))
        except LogClosedError as error:
            raised.append(error)

    waiting = threading.Thread(target=append)
    waiting.start()
    closing = threading.Thread(target=store.close, kwargs={"flush": False})
    closing.start()
    waiting.join(20)
    assert not waiting.is_alive()
    assert len(raised) == 1
    go.set()
    closing.join(20)
    assert not closing.is_alive()


def test_closing_waits_for_a_flush_and_holds_the_folder_until_it_ends(
    open_store: Any, trades: Any, rows_of: Any, held_writes: Any, tmp_path: Path, wait_for: Any
) -> None:
    started, go = held_writes
    store = open_store()
    store.append("trades", trades(10)).result(20)
    flushing = threading.Thread(target=store.flush)
    flushing.start()
    assert started.wait(20)
    closing = threading.Thread(target=store.close, kwargs={"flush": False})
    closing.start()
    wait_for(lambda: store._upkeep._stop.is_set(), "the closing to begin")
    with pytest.raises(ConfigError, match="used by another server"):
        open_store()
    assert closing.is_alive()
    go.set()
    for thread in (flushing, closing):
        thread.join(20)
        assert not thread.is_alive()
    again = open_store()
    assert again.tables["trades"].state.flushed_seq == 10
    assert rows_of(again) == [(i + 1, float(i)) for i in range(10)]


def test_nothing_is_flushed_after_closing(open_store: Any, trades: Any) -> None:
    store = open_store()
    store.append("trades", trades(10)).result(20)
    store.close(flush=False)
    with pytest.raises(LogClosedError, match="the store is closed"):
        store.flush()
    assert not (store.root / "trades").exists()


def test_a_log_file_that_cannot_be_removed_is_reported_and_removed_later(
    open_store: Any, trades: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(wal_file_mb=1)
    for i in range(3):
        store.append("trades", trades(15_000, i * 15_000)).result(20)
    files = len(store.log.files)
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> None:
            raise PermissionError(1, "Operation not permitted")

        patch.setattr(Path, "unlink", fail)
        with pytest.raises(StorageError, match="cannot remove a released log file: Operation not permitted"):
            store.flush()
    assert len(store.log.files) == files > 1
    store.flush()
    assert len(store.log.files) == 1
