"""Starts and failures: a long log is replayed in little memory, and after a failing disk all goes on by itself."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_parts import part_paths
from structlog.testing import capture_logs

from tickflight_server.config import MIB
from tickflight_server.errors import LogClosedError, LogCorruptError, StorageError
from tickflight_server.store import Ack, Store
from tickflight_server.store import committer as committer_module
from tickflight_server.store import table as table_module
from tickflight_server.store import upkeep as upkeep_module
from tickflight_server.store.partition import PartWriter
from tickflight_server.store.progress import Progress


def numbered(rows: int) -> list[tuple[int, float]]:
    return [(i + 1, float(i)) for i in range(rows)]


def state_of(store: Store, component: str) -> tuple[str, str]:
    return next((c.state, c.detail) for c in store.health.conditions() if c.component == component)


class Disk:
    """A disk below which some system calls fail while ``full`` is set; ``calls`` counts those."""

    def __init__(self, patch: pytest.MonkeyPatch, error: int, names: list[str]) -> None:
        self.full = threading.Event()
        self.calls = 0
        for name in names:
            patch.setattr(os, name, self.guarded(getattr(os, name), error))

    def guarded(self, call: Callable[..., Any], error: int) -> Callable[..., Any]:
        def guard(*arguments: Any, **how: Any) -> Any:
            if self.full.is_set():
                self.calls += 1
                raise OSError(error, os.strerror(error))
            return call(*arguments, **how)

        return guard


@pytest.fixture
def make_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Disk]]:
    monkeypatch.setattr(committer_module, "RETRY_S", 0.005)
    monkeypatch.setattr(upkeep_module, "_RETRY_S", 0.05)
    made: list[Disk] = []

    def make(*names: str, error: int = errno.ENOSPC) -> Disk:
        made.append(Disk(monkeypatch, error, list(names)))
        return made[-1]

    yield make
    for disk in made:
        disk.full.clear()


# --- starts


def long_log(store: Store, trades: Any, batches: int, symbols: Any = ("A", "B")) -> None:
    for i in range(batches):
        store.append("trades", trades(5_000, i * 5_000, symbols=symbols)).result(20)


def test_a_log_larger_than_the_buffer_is_replayed_in_the_memory_of_one(
    open_store: Any, trades: Any, rows_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(buffer_size_mb=64, ring_mb=64, wal_file_mb=1)
    long_log(store, trades, 16)
    store.close(flush=False)
    seen: list[int] = []
    replay = table_module.Table.replay

    def look(table: Any, record: Any) -> int:
        seen.append(table.state.unflushed_bytes)
        return replay(table, record)

    monkeypatch.setattr(table_module.Table, "replay", look)
    again = open_store(buffer_size_mb=1, ring_mb=1, wal_file_mb=1)
    assert len(seen) == 16
    assert max(seen) < 2 * MIB
    assert again.tables["trades"].state.ring_bytes < 3 * MIB
    assert len(again.log.files) < len(store.log.files)
    assert rows_of(again) == numbered(80_000)


@pytest.mark.parametrize("flushes", [1, 3])
def test_rows_that_flushes_left_out_are_replayed_in_bounded_memory_too(
    open_store: Any, trades: Any, rows_of: Any, flushes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most partitions are left out by the flushes before the restart, and are flushed while their log is replayed."""
    symbols = [f"S{i}" for i in range(30)]
    store = open_store(buffer_size_mb=64, ring_mb=64, flush_files_max=1)
    for i in range(flushes):
        for j in range(4):
            number = i * 4 + j
            store.append("trades", trades(5_000, number * 5_000, symbols=symbols)).result(20)
        table = store.tables["trades"]
        table.flush("memory", keep_bytes=table.state.unflushed_bytes * 9 // 10)
    state = store.tables["trades"].state
    assert state.leftover_rows > 10_000
    store.close(flush=False)
    again = open_store(buffer_size_mb=1, ring_mb=1, flush_files_max=1)
    assert again.tables["trades"].state.unflushed_bytes < 2 * MIB
    assert rows_of(again) == numbered(flushes * 20_000)
    assert again.flush()["trades"] == flushes * 20_000
    again.close()
    assert rows_of(open_store()) == numbered(flushes * 20_000)


def test_many_small_records_that_flushes_left_out_are_replayed_in_a_moment(
    open_store: Any, trades: Any, rows_of: Any
) -> None:
    store = open_store(flush_files_max=1)
    futures = [store.append("trades", trades(2, 2 * i, symbols=("A", "B"))) for i in range(2_000)]
    for future in futures:
        future.result(20)
    table = store.tables["trades"]
    table.flush("memory", keep_bytes=table.state.unflushed_bytes * 3 // 4)
    assert (len(table.state.parts), table.state.leftover_rows) == (1, 2_000)
    store.close(flush=False)
    calls = 0

    class Counting:
        def now_us(self) -> int:
            return 0

        def monotonic(self) -> float:
            nonlocal calls
            calls += 1
            return 0.0

    again = open_store(clock=Counting())
    state = again.tables["trades"].state
    assert (state.leftover_rows, sum(s.rows for s in state.held)) == (2_000, 2_000)
    assert rows_of(again) == numbered(4_000)


def test_a_long_start_tells_how_far_it_is(open_store: Any, trades: Any) -> None:
    store = open_store()
    long_log(store, trades, 8)
    store.close(flush=False)

    class Ticking:
        """Each look at this clock takes a second."""

        def __init__(self) -> None:
            self.s = 0.0

        def now_us(self) -> int:
            return int(self.s * 1e6)

        def monotonic(self) -> float:
            self.s += 1
            return self.s

    with capture_logs() as logs:
        open_store(clock=Ticking()).close(flush=False)
    told = [entry for entry in logs if entry["event"] == "log.replaying"]
    assert len(told) >= 3
    assert [e["percent"] for e in told] == sorted(e["percent"] for e in told)
    assert all(0 <= e["percent"] <= 100 and e["seconds_left"] >= 0 for e in told)
    assert [e["rows"] for e in told] == sorted(e["rows"] for e in told)
    assert [e["rows"] for e in logs if e["event"] == "log.replayed"] == [40_000]


def test_a_short_start_tells_nothing() -> None:
    class Still:
        def now_us(self) -> int:
            return 0

        def monotonic(self) -> float:
            return 0.0

    with capture_logs() as logs:
        progress = Progress(0, Still())
        for i in range(10):
            progress.step(i)
        progress.end()
    assert logs == []


def test_a_newest_log_file_that_is_missing_is_said(open_store: Any, trades: Any) -> None:
    """A flush has seen rows that are in no part: without their log they would be lost in silence."""
    store = open_store(flush_files_max=1)
    store.append("trades", trades(100, symbols=("A", "B"))).result(20)
    table = store.tables["trades"]
    table.flush("memory", keep_bytes=table.state.unflushed_bytes * 3 // 4)
    store.close(flush=False)
    files = [f.path for f in store.log.files]
    for path in files:
        path.unlink()
    with pytest.raises(LogCorruptError, match=r"the log lacks rows \d+ to 100 of table trades.*Hint: Its newest file"):
        open_store()


@pytest.mark.parametrize("cut", ["at a line's end", "within a line", "empty", "zeros"])
def test_a_version_that_power_cut_off_is_taken_out_and_flushed_again(
    open_store: Any, trades: Any, rows_of: Any, crash: Any, cut: str
) -> None:
    """The log is released only after a version is on disk: until then it has the rows."""
    store = open_store()
    store.append("trades", trades(10, symbols=("A", "B"))).result(20)
    store.flush()
    store.append("trades", trades(10, 10, symbols=("A", "B"))).result(20)
    store.flush()
    for keep in range(1, 4):
        died = crash(store)
        path = died / "trades" / "_delta_log" / f"{1:020d}.json"
        lines = path.read_bytes().splitlines(keepends=True)
        assert len(lines) >= 4
        left = {"at a line's end": b"".join(lines[:keep]), "within a line": b"".join(lines[:keep]) + lines[keep][:9]}
        path.write_bytes(left.get(cut, b"" if cut == "empty" else bytes(4_096)))
        again = open_store(died)
        assert rows_of(again) == numbered(20)
        again.flush()
        while again.tables["trades"].release_oldest():
            pass
        assert rows_of(again) == numbered(20)
        again.append("trades", trades(1, 20)).result(20)
        assert again.flush()["trades"] == 21
        again.close()
        assert rows_of(open_store(died)) == numbered(21)


# --- the log's bound


def test_a_log_above_its_bound_flushes_everything_and_shrinks(
    open_store: Any, trades: Any, wait_for: Any, rows_of: Any
) -> None:
    store = open_store(wal_mb=2, wal_file_mb=1, flush_files_max=1, buffer_size_mb=64)
    long_log(store, trades, 20)
    wait_for(lambda: store.tables["trades"].state.flushed_seq > 0, "a flush for the log's sake")
    wait_for(lambda: sum(f.size for f in store.log.files[:-1]) <= 2 * MIB, "a smaller log")
    assert rows_of(store) == numbered(100_000)


def test_a_log_bound_below_a_files_size_does_not_flush_all_the_time(
    open_store: Any, trades: Any, wait_for: Any
) -> None:
    store = open_store(wal_mb=1, wal_file_mb=64)
    long_log(store, trades, 8)
    assert store.log.size_bytes > MIB
    looks = []
    look = store._disk.look
    store._disk.look = lambda: looks.append(look())
    wait_for(lambda: len(looks) > 3, "some looks of the flusher")
    assert store.tables["trades"].state.version == -1


# --- disks that fail


@pytest.mark.parametrize(
    ("calls", "error"),
    [
        (["writev", "write"], errno.ENOSPC),
        (["fdatasync"], errno.ENOSPC),
        (["fdatasync", "fsync"], errno.ENOSPC),
        (["writev", "write", "fdatasync", "fsync", "ftruncate"], errno.EIO),
    ],
)
@pytest.mark.parametrize(
    "dedup",
    [
        {"trades": []},
        pytest.param({}, marks=pytest.mark.xfail(reason="a refused batch has taken its keys: AssertionError")),
    ],
)
def test_while_the_disk_fails_nothing_is_accepted_and_then_all_goes_on_without_a_restart(
    open_store: Any,
    trades: Any,
    rows_of: Any,
    make_disk: Any,
    wait_for: Any,
    crash: Any,
    calls: list[str],
    error: int,
    dedup: dict[str, list[str]],
) -> None:
    disk = make_disk(*calls, error=error)
    store = open_store(dedup=dedup)
    store.append("trades", trades(3), producer=b"p", sequence=1).result(20)
    disk.full.set()
    with pytest.raises(LogClosedError, match=os.strerror(error)) as caught:
        store.append("trades", trades(3, 3), producer=b"p", sequence=2).result(20)
    assert caught.value.temporary
    if len(calls) > 1:  # the log cannot be opened anew either
        for _ in range(3):
            with pytest.raises(LogClosedError, match=os.strerror(error)):
                store.append("trades", trades(3, 6)).result(20)
        assert state_of(store, "log")[0] == "failed"
        seen = disk.calls
        wait_for(lambda: disk.calls > seen + 3, "some more attempts")
    assert rows_of(store) == numbered(3), "what is stored can be read meanwhile"
    disk.full.clear()
    wait_for(lambda: store._committer.failure is None, "the log to go on")
    assert state_of(store, "log") == ("ok", "")
    assert store.append("trades", trades(3, 3), producer=b"p", sequence=2).result(20) == Ack(4, 3)
    assert store.append("trades", trades(3, 3), producer=b"p", sequence=2).result(20).duplicate
    assert store.append("trades", trades(3), producer=b"p", sequence=1).result(20).duplicate
    assert rows_of(store) == numbered(6)
    again = open_store(crash(store))
    assert rows_of(again) == numbered(6)
    assert again.append("trades", trades(3, 3), producer=b"p", sequence=2).result(20).duplicate
    assert store.flush()["trades"] == 6


def test_a_record_cut_short_by_a_full_disk_is_not_there_afterwards(
    open_store: Any, trades: Any, rows_of: Any, crash: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer_module, "RETRY_S", 0.005)
    store = open_store()
    store.append("trades", trades(3)).result(20)
    writev = os.writev
    wrote: list[int] = []

    def write_half(fd: int, buffers: Any) -> int:
        if wrote:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = b"".join(buffers)
        wrote.append(writev(fd, [data[: len(data) // 2]]))
        return wrote[0]

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", write_half)
        with pytest.raises(LogClosedError, match="No space left"):
            store.append("trades", trades(100, 3)).result(20)
        assert rows_of(open_store(crash(store))) == numbered(3)
    wait_for(lambda: store._committer.failure is None, "the log to go on")
    store.append("trades", trades(2, 3)).result(20)
    assert rows_of(store) == numbered(5)
    assert rows_of(open_store(crash(store))) == numbered(5)


def test_many_producers_beside_a_disk_that_fails_now_and_then_are_each_stored_once(
    open_store: Any, trades: Any, rows_of: Any, make_disk: Any, crash: Any
) -> None:
    disk = make_disk("fdatasync")
    store = open_store(dedup={"trades": []})
    done = threading.Event()
    wanted: list[tuple[bytes, float]] = []

    def send(producer: bytes, first: int) -> None:
        for sequence in range(1, 31):
            while True:  # as the client does it: the same batch until it is acknowledged
                try:
                    batch = trades(2, first + 2 * sequence)
                    store.append("trades", batch, producer=producer, sequence=sequence).result(20)
                    break
                except LogClosedError as error:
                    assert error.temporary  # noqa: PT017 - any other failure ends the test
            wanted.extend([(producer, float(first + 2 * sequence)), (producer, float(first + 2 * sequence + 1))])

    def fail_now_and_then() -> None:
        while not done.wait(0.02):
            disk.full.set()
            done.wait(0.01)
            disk.full.clear()

    threads = [threading.Thread(target=send, args=(b"p%d" % i, 1_000 * i)) for i in range(3)]
    failing = threading.Thread(target=fail_now_and_then)
    for thread in (*threads, failing):
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    done.set()
    failing.join(20)
    disk.full.clear()
    found = rows_of(store)
    assert [seq for seq, _ in found] == list(range(1, 181))
    assert sorted(price for _, price in found) == sorted(price for _, price in wanted)
    assert rows_of(open_store(crash(store))) == found


@pytest.mark.parametrize("calls", [["write"], ["fsync"]])
def test_a_flush_on_a_full_disk_leaves_nothing_behind_and_is_done_when_there_is_room(
    open_store: Any, trades: Any, rows_of: Any, make_disk: Any, wait_for: Any, calls: list[str]
) -> None:
    store = open_store(flush_interval_seconds=0.05)
    table = store.tables["trades"]
    store.append("trades", trades(5)).result(20)
    wait_for(lambda: table.state.flushed_seq == 5, "a first flush")
    disk = make_disk(*calls)
    disk.full.set()
    store.append("trades", trades(10, 5, symbols=("A", "B"))).result(20)
    wait_for(lambda: store.metrics.read().get("flush_failures", 0) >= 2, "two failed flushes")
    state, detail = state_of(store, "flush")
    assert state == "degraded"
    assert "trades" in detail
    assert "No space left" in detail
    assert rows_of(store) == numbered(15)
    disk.full.clear()
    wait_for(lambda: table.state.flushed_seq == 15, "a flush")
    wait_for(lambda: state_of(store, "flush") == ("ok", ""), "the end of the alert")
    while table.release_oldest():
        pass
    assert rows_of(store) == numbered(15)
    live = {str(store.root / "trades" / p) for p in table.state.parts.path}
    assert {str(p) for p in part_paths(store.root / "trades")} == live


def test_what_a_failed_flush_wrote_is_taken_back_before_the_next_try(
    open_store: Any, trades: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full must not fill up with failed attempts."""
    store = open_store()
    write = PartWriter.write
    done: list[int] = []

    def fail_at_the_third(*arguments: Any) -> Any:
        done.append(1)
        if len(done) == 3:
            raise StorageError("cannot write a part: No space left on device.")
        return write(*arguments)

    store.append("trades", trades(9, symbols=("A", "B", "C"))).result(20)
    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "write", fail_at_the_third)
        with pytest.raises(StorageError, match=r"cannot flush table trades: .*No space left"):
            store.flush()
    assert part_paths(store.root / "trades") == []
    assert store.flush()["trades"] == 9
    assert len(part_paths(store.root / "trades")) == 3


# --- a disk with little room


def test_below_the_reserve_nothing_is_accepted_and_queries_go_on(
    open_store: Any, trades: Any, rows_of: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(disk_free_min_mb=100)
    store.append("trades", trades(3)).result(20)
    statvfs = os.statvfs

    class Nearly:
        f_frsize = 4_096
        f_bavail = 99 * MIB // 4_096
        f_blocks = 100_000 * MIB // 4_096

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda path: Nearly() if Path(path) == store.root else statvfs(path))
        wait_for(lambda: state_of(store, "disk")[0] == "failed", "a look at the disk")
        with pytest.raises(
            LogClosedError, match=r"99 MB free, below the reserve of 100 MB.*disk_free_min_mb"
        ) as caught:
            store.append("trades", trades(1, 3))
        assert caught.value.temporary
        assert rows_of(store) == numbered(3)
        assert store.flush()["trades"] == 3, "flushes may use the reserve"
    wait_for(lambda: state_of(store, "disk")[0] == "ok", "room")
    assert store.append("trades", trades(1, 3)).result(20).first_seq == 4


def test_a_small_disk_keeps_a_twentieth(
    open_store: Any, trades: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small:
        f_frsize = 4_096
        f_bavail = 60 * MIB // 4_096
        f_blocks = 1_000 * MIB // 4_096

    monkeypatch.setattr(os, "statvfs", lambda path: Small())
    store = open_store(disk_free_min_mb=10_000)
    assert store.append("trades", trades(3)).result(20).rows == 3
    Small.f_bavail = 49 * MIB // 4_096
    wait_for(lambda: state_of(store, "disk")[0] == "failed", "a look at the disk")
