"""Group commit: log, then ring, then acknowledgement; after a failure it goes on, and nobody is told otherwise."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from tickflight_server.clock import SystemClock
from tickflight_server.errors import LogClosedError
from tickflight_server.metrics import Metrics
from tickflight_server.schemas import STORED
from tickflight_server.store import committer as committer_module
from tickflight_server.store.committer import Committer, Pending
from tickflight_server.store.health import Health
from tickflight_server.store.partition import PartOptions
from tickflight_server.store.record import AppendRecord, batch_to_payload
from tickflight_server.store.rows import fit
from tickflight_server.store.table import Table, TableOptions
from tickflight_server.store.wal import WriteAheadLog

TRADES = STORED["trades"]


class Bench:
    """A committer over a real log and a real table, and a gate before the sync."""

    def __init__(self, folder: Path, bytes_max: int, interval_ms: float, recover: bool) -> None:
        self.folder = folder
        self.log = WriteAheadLog(folder / "log", UUID(int=7), file_bytes_max=1 << 20)
        assert list(self.log.recover()) == []
        options = TableOptions("float64", 1_024, PartOptions("zstd", 1_024))
        self.table = Table(TRADES, folder / "trades", UUID(int=7), options)
        self.metrics = Metrics()
        self.health = Health(SystemClock())
        self.committer = Committer(
            self.log, SystemClock(), self.metrics, self.health, interval_ms=interval_ms, bytes_max=bytes_max
        )
        self.committer.start(self.recovered if recover else None)

    def recovered(self) -> None:
        self.table.forget_unpublished()
        self.committer.resume()

    def offer(self, batch: pa.RecordBatch) -> Future[None]:
        fitted = fit(TRADES, batch, "float64", now_us=0).batch
        record = AppendRecord("trades", self.table.next_seq, fitted.num_rows, b"", 0, batch_to_payload(fitted))
        item = Pending(self.table, record, fitted, Future())
        self.committer.offer([item])
        self.table.next_seq = record.last_seq + 1
        return item.future


@pytest.fixture(params=[False, True], ids=["one thread", "two threads"], autouse=True)
def behind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Have every group synced by the second thread, or none."""
    monkeypatch.setattr(committer_module, "BEHIND_BYTES", 0 if request.param else 1 << 40)
    return bool(request.param)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(bytes_max: int = 1 << 20, interval_ms: float = 0, recover: bool = False) -> Bench:
        made.append(Bench(tmp_path, bytes_max, interval_ms, recover))
        return made[-1]

    yield make
    for one in made:
        one.committer.close()
        one.log.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold every sync of a log back until the event is set."""
    event = threading.Event()
    sync = os.fdatasync

    def wait(fd: int) -> None:
        assert event.wait(20)
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", wait)
    yield event
    event.set()


def test_rows_are_visible_and_acknowledged_only_after_the_sync(
    bench: Callable[..., Bench], gate: threading.Event, trades: Any, wait_for: Any
) -> None:
    one = bench()
    before = one.log.size_bytes
    future = one.offer(trades(5))
    path = one.log.files[0].path
    wait_for(lambda: path.stat().st_size > before, "the record to be written")
    assert one.table.state.last_seq == 0
    assert not future.done()
    gate.set()
    future.result(20)
    assert one.table.state.last_seq == 5


def test_an_acknowledged_row_is_visible_already(bench: Callable[..., Bench], trades: Any) -> None:
    one = bench()
    seen: list[int] = []
    for i in range(20):
        one.offer(trades(1, i)).add_done_callback(lambda _: seen.append(one.table.state.last_seq))
    one.committer.close()
    assert all(last >= i + 1 for i, last in enumerate(seen))
    assert len(seen) == 20


def test_what_comes_during_a_sync_shares_the_next_one(
    bench: Callable[..., Bench], gate: threading.Event, trades: Any, wait_for: Any, behind: bool
) -> None:
    one = bench()
    first = one.offer(trades(1))
    wait_for(lambda: one.log.files[0].path.stat().st_size > 40, "the first record to be written")
    others = [one.offer(trades(1, i)) for i in range(1, 50)]
    gate.set()
    for future in [first, *others]:
        future.result(20)
    one.committer.close()
    # with two threads, what came first was written during the sync, and waits for one of its own
    assert one.metrics.read()["log_commits"] in ((2, 3) if behind else (2,))
    assert one.metrics.read()["rows_appended"] == 50


def test_syncs_keep_their_interval(bench: Callable[..., Bench], trades: Any) -> None:
    one = bench(interval_ms=100)
    for i in range(3):
        one.offer(trades(1, i)).result(20)
    futures = [one.offer(trades(1, i)) for i in range(3, 40)]
    for future in futures:
        future.result(20)
    assert one.metrics.read()["log_commits"] <= 5


def test_closing_commits_what_waits_without_waiting_for_the_interval(bench: Callable[..., Bench], trades: Any) -> None:
    one = bench(interval_ms=60_000)
    one.offer(trades(1)).result(20)
    future = one.offer(trades(1, 1))
    one.committer.close()
    assert future.done()
    future.result()
    with pytest.raises(LogClosedError, match="closed"):
        one.offer(trades(1, 2))
    one.committer.close()


def test_there_is_no_room_until_the_waiting_bytes_are_written(
    bench: Callable[..., Bench], gate: threading.Event, trades: Any
) -> None:
    one = bench(bytes_max=1_000)
    assert one.committer.wait_for_room(0)
    future = one.offer(trades(100))
    assert not one.committer.wait_for_room(0.02)
    gate.set()
    future.result(20)
    assert one.committer.wait_for_room(20)


def test_after_a_failed_sync_all_futures_fail_and_nothing_is_taken(
    bench: Callable[..., Bench], trades: Any, monkeypatch: pytest.MonkeyPatch, wait_for: Any
) -> None:
    one = bench()
    one.offer(trades(1)).result(20)
    started, go = threading.Event(), threading.Event()

    def fail(fd: int) -> None:
        started.set()
        assert go.wait(20)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    futures = [one.offer(trades(1, 1))]
    assert started.wait(20)
    futures += [one.offer(trades(1, i)) for i in range(2, 5)]
    go.set()
    for future in futures:
        with pytest.raises(LogClosedError, match="Input/output error"):
            future.result(20)
    assert one.table.state.last_seq == 1
    assert one.committer.failure is not None
    with pytest.raises(LogClosedError, match="Input/output error") as caught:
        one.offer(trades(1, 9))
    assert caught.value.temporary
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("It is tried again every second")
    assert {c.component: c.state for c in one.health.conditions()}["log"] == "failed"
    assert one.committer.wait_for_room(20)


def test_after_a_failure_the_log_goes_on_by_itself_and_stores_nothing_twice(
    bench: Callable[..., Bench], trades: Any, monkeypatch: pytest.MonkeyPatch, wait_for: Any
) -> None:
    monkeypatch.setattr(committer_module, "RETRY_S", 0.01)
    one = bench(recover=True)
    one.offer(trades(1)).result(20)

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        patch.setattr(os, "fsync", fail)  # reopening fails, too
        with pytest.raises(LogClosedError, match="No space left"):
            one.offer(trades(1, 1)).result(20)
        with pytest.raises(LogClosedError, match="No space left"):
            one.offer(trades(1, 1))
    wait_for(lambda: one.committer.failure is None, "the log to go on")
    assert one.table.next_seq == 2
    one.offer(trades(1, 1)).result(20)
    assert one.table.state.last_seq == 2
    assert one.health.state == "ok"
    one.committer.close()
    one.log.close()
    again = WriteAheadLog(one.folder / "log", UUID(int=7), file_bytes_max=1 << 20)
    assert [(r.first_seq, r.rows) for r in again.recover()] == [(1, 1), (2, 1)]
    again.close()


def test_closing_ends_the_attempts_to_go_on(
    bench: Callable[..., Bench], trades: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench(recover=True)

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(LogClosedError):
            one.offer(trades(1)).result(20)
        one.committer.close()
    assert one.committer.failure is not None
    assert not one.committer._thread.is_alive()


def test_any_other_failure_closes_the_log_too(
    bench: Callable[..., Bench], trades: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()

    def fail(*_: Any) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(one.table, "publish", fail)
    with pytest.raises(LogClosedError, match="a mistake of ours"):
        one.offer(trades(1)).result(20)
    with pytest.raises(LogClosedError, match="a mistake of ours"):
        one.offer(trades(1))


def test_a_callback_that_raises_does_not_stop_the_commits(
    bench: Callable[..., Bench], trades: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one = bench()

    def fail(_: object) -> None:
        raise RuntimeError("not ours")

    one.offer(trades(1)).add_done_callback(fail)
    one.offer(trades(1, 1)).result(20)
    assert one.committer.failure is None


def test_a_group_is_written_while_the_one_before_is_synced(
    bench: Callable[..., Bench], gate: threading.Event, trades: Any, wait_for: Any, behind: bool
) -> None:
    one = bench(bytes_max=1 << 30)
    path = one.log.files[0].path
    first = one.offer(trades(5))
    wait_for(lambda: path.stat().st_size > 40, "the first record to be written")
    size = path.stat().st_size
    second = one.offer(trades(5, 5))
    if behind:
        wait_for(lambda: path.stat().st_size > size, "the second record to be written")
    assert one.table.state.last_seq == 0
    assert not first.done()
    assert not second.done()
    gate.set()
    second.result(20)
    assert first.done()
    assert one.table.state.last_seq == 10


def test_a_write_that_fails_during_a_sync_takes_nothing_from_what_was_written_before(
    bench: Callable[..., Bench], gate: threading.Event, trades: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer_module, "RETRY_S", 0.01)
    monkeypatch.setattr(committer_module, "BEHIND_BYTES", 0)
    one = bench(recover=True)
    writev, share = os.writev, [1.0]

    def write_some(fd: int, pieces: list[memoryview]) -> int:
        if share[0] == 1.0:
            return writev(fd, pieces)
        writev(fd, [b"".join(pieces)[:100]])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", write_some)
        first = one.offer(trades(5))
        wait_for(lambda: one.committer._syncing, "the first record to be written")
        share[0] = 0.5
        with pytest.raises(LogClosedError, match="No space left"):
            one.offer(trades(5, 5)).result(20)
        assert not first.done()
        gate.set()
        first.result(20)
    wait_for(lambda: one.committer.failure is None, "the log to go on")
    assert one.table.next_seq == 6
    one.offer(trades(3, 5)).result(20)
    one.committer.close()
    one.log.close()
    again = WriteAheadLog(one.folder / "log", UUID(int=7), file_bytes_max=1 << 20)
    assert [(r.first_seq, r.rows) for r in again.recover()] == [(1, 5), (6, 3)]
    again.close()


def test_a_sync_that_fails_takes_with_it_what_was_written_meanwhile(
    bench: Callable[..., Bench], trades: Any, monkeypatch: pytest.MonkeyPatch, wait_for: Any
) -> None:
    monkeypatch.setattr(committer_module, "BEHIND_BYTES", 0)
    one = bench()
    path = one.log.files[0].path
    go = threading.Event()

    def fail(fd: int) -> None:
        assert go.wait(20)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    first = one.offer(trades(5))
    wait_for(lambda: one.committer._syncing, "the first record to be written")
    size = path.stat().st_size
    second = one.offer(trades(5, 5))
    wait_for(lambda: path.stat().st_size > size, "the second record to be written")
    go.set()
    for future in (first, second):
        with pytest.raises(LogClosedError, match="Input/output error"):
            future.result(20)
    assert one.table.state.last_seq == 0
    assert one.committer.wait_for_room(20)


def test_files_end_where_the_next_one_begins_though_two_threads_write_them(
    bench: Callable[..., Bench], trades: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer_module, "BEHIND_BYTES", 0)
    one = bench(bytes_max=1 << 30)
    one.log._file_bytes_max = 10_000
    futures: list[Future[None]] = []
    for i in range(60):
        futures.append(one.offer(trades(40, 40 * i)))
        futures[max(0, i - 3)].result(20)
    futures[-1].result(20)
    one.committer.close()
    assert len(one.log.files) > 3
    one.log.close()
    again = WriteAheadLog(one.folder / "log", UUID(int=7), file_bytes_max=1 << 20)
    assert [r.first_seq for r in again.recover()] == list(range(1, 60 * 40, 40))
    again.close()
