"""One table: whatever publishes, merges, flushes, fails and releases, each row is there once and in order."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_model import check_state, read_rows

from tickflight_server.errors import LogCorruptError, StorageError
from tickflight_server.schemas import STORED, NumericType
from tickflight_server.store import catalog as catalog_module
from tickflight_server.store import delta_log as delta_log_module
from tickflight_server.store import partition as partition_module
from tickflight_server.store import table as table_module
from tickflight_server.store.partition import PartOptions, PartWriter
from tickflight_server.store.record import AppendRecord, batch_to_payload
from tickflight_server.store.rows import fit
from tickflight_server.store.snapshot import TableSnapshot, thin
from tickflight_server.store.table import Table, TableOptions

TRADES = STORED["trades"]
WRITER = UUID(int=7)


def open_table(folder: Path, numeric: NumericType = "float64") -> Table:
    table = Table(TRADES, folder / "trades", WRITER, TableOptions(numeric, 1_024, PartOptions("zstd", 1_024)))
    table.load()
    return table


def put(table: Table, batch: pa.RecordBatch, producer: bytes = b"", sequence: int = 0) -> None:
    fitted = fit(TRADES, batch, "float64", now_us=0).batch
    table.publish(table.next_seq, fitted, producer, sequence)
    table.next_seq += fitted.num_rows


def read(folder: Path, snapshot: TableSnapshot) -> list[tuple[int, float]]:
    return [(row.seq, row.price) for row in read_rows(snapshot, folder / "trades")]


def check(table: Table, folder: Path, rows: int) -> None:
    """Every row once with a dense ``seq``, and the state's own promises."""
    found = read_rows(table.snapshot(), folder / "trades")
    assert [(row.seq, row.price) for row in found] == [(i + 1, float(i)) for i in range(rows)]
    check_state(table.state, folder / "trades", found)


def fail(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


STEPS = ["put", "put", "flush", "merge", "release", "fail_write", "fail_commit", "fail_sync", "reopen"]


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 700)), min_size=5, max_size=30))
def test_any_order_of_steps_keeps_each_row_once(
    tmp_path_factory: pytest.TempPathFactory, trades: Callable[..., pa.RecordBatch], steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("table")
    table = open_table(folder)
    rows = 0
    for step, number in steps:
        if step == "put":
            put(table, trades(number, rows, symbols=("A", "B")), b"p", rows + number)
            rows += number
        elif step == "flush":
            table.flush()
            assert table.state.flushed_seq == rows
        elif step == "merge":
            table.merge_once()
        elif step == "release":
            table.release_oldest()
        elif step == "reopen":
            table.flush()
            table = open_table(folder)
            assert table.producers.taken(b"p") == rows
        else:
            where = {
                "fail_write": (partition_module, "_write_file"),
                "fail_commit": (catalog_module, "_add_action"),
                "fail_sync": (delta_log_module, "sync_file"),
            }[step]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(*where, fail)
                with contextlib.suppress(StorageError, OSError):  # there may be nothing to flush
                    table.flush()
        check(table, folder, rows)
    table.flush()
    check(table, folder, rows)
    check(open_table(folder), folder, rows)
    live = {str(p) for p in table.state.parts.path}
    assert {str(p.relative_to(folder / "trades")) for p in folder.rglob("symbol=*/*.parquet")} == live


def test_row_is_never_in_part_and_ring(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    table = open_table(tmp_path)
    put(table, trades(10))
    table.flush()
    put(table, trades(5, 10))
    snapshot = table.snapshot()
    assert len(snapshot.parts) == 0  # the ring still has the flushed rows, so the part is not read
    assert table.release_oldest() > 0
    snapshot = table.snapshot()
    assert (len(snapshot.parts), sum(s.rows for s in snapshot.segments)) == (1, 5)
    check(table, tmp_path, 15)


def test_a_snapshot_stays_as_it_is(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    table = open_table(tmp_path)
    put(table, trades(10))
    snapshot = table.snapshot()
    put(table, trades(10, 10))
    table.flush()
    table.release_oldest()
    assert read(tmp_path, snapshot) == [(i + 1, float(i)) for i in range(10)]


def test_flushing_nothing_makes_no_version(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    table = open_table(tmp_path)
    assert table.flush() == 0
    assert table.state.version == -1
    put(table, trades(1))
    assert table.flush() == 1
    assert table.flush() == 0
    assert table.state.version == 0


def test_a_commit_that_fails_after_it_was_written_is_not_written_again(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_table(tmp_path)
    put(table, trades(10), b"p", 1)
    with monkeypatch.context() as patch:
        patch.setattr(delta_log_module, "sync_file", fail)
        patch.setattr(delta_log_module, "write_again", fail)
        with pytest.raises(StorageError, match="No space left"):
            table.flush()
        assert table.state.flushed_seq == 0
        put(table, trades(10, 10), b"p", 2)
        with pytest.raises(StorageError, match="No space left"):
            table.flush()
    check(table, tmp_path, 20)
    assert table.flush() == 10
    check(table, tmp_path, 20)
    table.release_oldest()
    check(table, tmp_path, 20)
    check(open_table(tmp_path), tmp_path, 20)
    assert open_table(tmp_path).producers.taken(b"p") == 2


def test_a_table_that_goes_back_is_not_written_over(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    table = open_table(tmp_path)
    put(table, trades(10))
    table.flush()
    put(table, trades(10, 10))
    moved = (tmp_path / "trades").rename(tmp_path / "away")
    (tmp_path / "trades").write_text("")
    with pytest.raises(StorageError):
        table.flush()
    (tmp_path / "trades").unlink()
    with pytest.raises(StorageError, match="cannot commit"):
        table.flush()
    for _ in range(2):
        with pytest.raises(StorageError, match="went back from row 10 to 0"):
            table.flush()
    assert read(tmp_path, table.snapshot()) == [(i + 1, float(i)) for i in range(20)]
    shutil.rmtree(tmp_path / "trades")
    moved.rename(tmp_path / "trades")
    assert table.flush() == 10
    check(table, tmp_path, 20)


def test_merging_during_a_flush_loses_nothing(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_table(tmp_path)
    for i in range(20):
        put(table, trades(5, i * 5))
    write = PartWriter.write

    def write_while_others_work(*arguments: Any) -> Any:
        for i in range(20, 40):
            put(table, trades(5, i * 5))
        while table.merge_once():
            pass
        return write(*arguments)

    monkeypatch.setattr(PartWriter, "write", write_while_others_work)
    assert table.flush() == 100
    check(table, tmp_path, 200)
    assert len(table.state.segments) < 16
    table.release_oldest()
    check(table, tmp_path, 200)


def test_a_merge_whose_segments_were_released_meanwhile_changes_nothing(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_table(tmp_path)
    for i in range(10):
        put(table, trades(5, i * 5))
    table.flush()
    merge = table_module.merge

    def merge_too_late(run: Any) -> Any:
        table.release_oldest()
        return merge(run)

    monkeypatch.setattr(table_module, "merge", merge_too_late)
    table.merge_once()
    assert table.state.segments == ()
    check(table, tmp_path, 50)


def test_a_quiet_table_does_not_gather_a_segment_with_every_flush(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    table = open_table(tmp_path)
    for i in range(60):
        put(table, trades(1, i))
        table.flush()
        while table.merge_once():
            pass
    assert len(table.state.segments) < 16
    assert len(table.state.bounds) <= 2
    check(table, tmp_path, 60)


def test_the_ring_is_released_a_flush_at_a_time_the_oldest_first(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    table = open_table(tmp_path)
    for i in range(4):
        put(table, trades(1_000, i * 1_000))
        table.flush()
    put(table, trades(1_000, 4_000))
    released = []
    while (oldest := table.oldest_held()) is not None:
        assert oldest == table.state.segments[0].max_us
        assert table.release_oldest() > 0
        released.append(table.state.ring_from)
        check(table, tmp_path, 5_000)
    assert released == [1_000, 2_000, 3_000, 4_000]
    assert table.release_oldest() == 0


@given(gaps=st.lists(st.integers(1, 3_000), max_size=40), unflushed=st.integers(0, 2), start=st.integers(0, 3))
def test_bounds_are_thinned_to_runs_of_a_full_segment_and_the_newest_stays(
    gaps: list[int], unflushed: int, start: int
) -> None:
    bounds = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    flushed = bounds[-1 - unflushed] if len(bounds) > unflushed else 0
    ring_from = bounds[start] if start < len(bounds) and bounds[start] <= flushed else 0
    bounds = [b for b in bounds if b >= ring_from]
    kept = thin(bounds, ring_from, flushed, 1_024)
    assert set(kept) <= set(bounds)
    assert {b for b in bounds if b >= flushed} <= set(kept)
    inner = [ring_from, *(b for b in kept if ring_from < b <= flushed)]
    for low, high in pairwise(inner):
        assert high - low <= 1_024 or not any(low < b < high for b in bounds), "a long run was one flush already"
    assert all(c - a > 1_024 for a, _, c in zip(inner, inner[1:], inner[2:], strict=False))


def make_record(batch: pa.RecordBatch, first_seq: int, numeric: NumericType = "float64") -> AppendRecord:
    fitted = fit(TRADES, batch, numeric, now_us=0).batch
    return AppendRecord("trades", first_seq, fitted.num_rows, b"p", first_seq, batch_to_payload(fitted))


def test_a_replayed_log_is_merged_on_the_way(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    table = open_table(tmp_path)
    for i in range(500):
        table.replay(make_record(trades(3, i * 3), i * 3 + 1))
    assert len(table.state.segments) < 40
    check(table, tmp_path, 1_500)


def test_a_hole_in_the_log_is_reported(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    table = open_table(tmp_path)
    table.replay(make_record(trades(3), 1))
    with pytest.raises(LogCorruptError, match="lacks rows 4 to 6 of table trades"):
        table.replay(make_record(trades(3), 7))


def test_rows_logged_under_another_numeric_type_are_refused(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    with pytest.raises(StorageError, match=r"lakehouse\.numeric_type"):
        open_table(tmp_path, "decimal").replay(make_record(trades(3), 1))


def test_a_producers_sequence_never_goes_back(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    table = open_table(tmp_path)
    put(table, trades(1), b"p", 7)
    table.flush()
    table = open_table(tmp_path)
    table.producers.take(b"p", 5)  # an old record whose log file came back after its release
    assert table.producers.taken(b"p") == 7
    table.producers.take(b"p", 9)
    assert table.producers.taken(b"p") == 9


def test_a_commit_says_no_sequence_of_rows_published_after_its_cut(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_table(tmp_path)
    put(table, trades(1), b"p", 1)
    write = PartWriter.write

    def publish_meanwhile(*arguments: Any) -> Any:
        put(table, trades(1, 1), b"p", 2)
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "write", publish_meanwhile)
        table.flush()
    assert open_table(tmp_path).producers.taken(b"p") == 1
    table.flush()
    assert open_table(tmp_path).producers.taken(b"p") == 2


def test_readers_beside_a_publisher_a_merger_and_a_flusher_see_each_row_once(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    table = open_table(tmp_path)
    done = threading.Event()
    failures: list[BaseException] = []

    def work(step: Callable[[], object]) -> None:
        try:
            while not done.wait(0.005):
                step()
        except BaseException as error:
            failures.append(error)

    def flush() -> None:
        table.flush()
        table.release_oldest()

    threads = [threading.Thread(target=work, args=(step,)) for step in (flush, table.merge_once)]
    for thread in threads:
        thread.start()
    try:
        for i in range(150):
            put(table, trades(7, i * 7))
            if i % 5 == 0:
                snapshot = table.snapshot()
                found = read(tmp_path, snapshot)
                assert found == [(n + 1, float(n)) for n in range(snapshot.last_seq)]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
    check(table, tmp_path, 1_050)
