"""Vacuum: what was removed long ago goes; what anybody may still need stays."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from store_model import read_rows
from store_parts import part_paths

from tickflight_server.errors import NotFoundError, StorageError
from tickflight_server.paths import part_file_name
from tickflight_server.store import delta_log as delta_log_module
from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.delta_log import version_files
from tickflight_server.store.vacuum import remove_crash_leftovers, vacuum

HOUR_S = 3_600


@pytest.fixture
def compacted(open_store: Any, put_parts: Any, clock: Any) -> Any:
    """Return a store with one live part and the three that it was made of."""
    store = open_store(compact_parts_min=2, clock=clock, vacuum_hours=24)
    put_parts(store, 3)
    store.keeper.compact()
    time.sleep(0.002)  # a file of this very millisecond is not older than zero hours
    return store


def files(store: Any) -> list[str]:
    return [p.name for p in part_paths(store.root / "trades")]


def test_removed_parts_go_after_their_hours(compacted: Any, clock: Any, rows_of: Any) -> None:
    assert compacted.keeper.vacuum() == []
    clock.ahead_s = 23.9 * HOUR_S
    assert compacted.keeper.vacuum() == []
    clock.ahead_s = 24.1 * HOUR_S
    planned = compacted.keeper.vacuum(dry_run=True)
    assert len(planned) == 3
    assert len(files(compacted)) == 4, "a dry run deletes nothing"
    assert compacted.keeper.vacuum() == planned
    assert [f"trades/{p}" for p in compacted.tables["trades"].state.parts.path] not in planned
    assert len(files(compacted)) == 1
    assert rows_of(compacted) == [(i + 1, float(i)) for i in range(30)]
    assert compacted.keeper.vacuum() == []
    assert compacted.metrics.read()["files_vacuumed"] == 3


def test_a_second_vacuum_reads_no_version_again(compacted: Any) -> None:
    assert compacted.keeper.vacuum() == []
    for _, path in version_files(compacted.root / "trades"):
        path.write_text("{not read again")
    assert len(compacted.keeper.vacuum(hours=0, dry_run=True)) == 3


def test_hours_can_be_given(compacted: Any, clock: Any) -> None:
    assert compacted.keeper.vacuum(hours=1) == []
    assert len(compacted.keeper.vacuum(hours=0)) == 3


def test_parts_that_somebody_reads_stay_until_he_is_done(compacted: Any, rows_of: Any, crash: Any) -> None:
    old = compacted.snapshot_at("trades", 1)
    assert len(old.parts) == 2
    assert len(compacted.keeper.vacuum(hours=0)) == 1
    assert len(read_rows(old, compacted.root / "trades")) == 20
    assert len(compacted.open_parts(old, old.parts).paths) == 2
    del old
    assert len(compacted.keeper.vacuum(hours=0)) == 2


def test_a_snapshot_from_before_a_compaction_can_be_read_after_it_and_a_vacuum(
    open_store: Any, put_parts: Any, rows_of: Any
) -> None:
    store = open_store(compact_parts_min=2)
    put_parts(store, 3)
    before = store.snapshot("trades")
    store.keeper.compact()
    time.sleep(0.002)
    assert store.keeper.vacuum(hours=0) == []
    assert len(read_rows(before, store.root / "trades")) == 30


def test_files_that_are_not_ours_are_left_alone(compacted: Any) -> None:
    folder = compacted.root / "trades"
    mine = [
        folder / "mine.parquet",
        folder / "year=2023" / "notes.txt",
        folder / "_delta_log" / part_file_name(1, 2, "0" * 16),
    ]
    for path in mine:
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    compacted.keeper.vacuum(hours=0)
    assert all(path.exists() for path in mine)


def test_a_file_that_no_version_ever_listed_goes_when_it_is_old(compacted: Any, tmp_path: Path) -> None:
    folder = compacted.root / "trades"
    lost = folder / "year=2023" / "month=01" / part_file_name(1, 2, "0" * 16)
    lost.parent.mkdir()
    lost.write_bytes(b"")
    assert compacted.keeper.vacuum() == []
    os.utime(lost, (0, 0))
    assert compacted.keeper.vacuum() == [f"trades/{lost.relative_to(folder)}"]


def test_folders_that_became_empty_go(open_store: Any, put_parts: Any, clock: Any) -> None:
    store = open_store(clock=clock, retention_days={"*": 30})
    put_parts(store, 2)
    assert store.keeper.retain() == 2
    clock.ahead_s = 25 * HOUR_S
    assert len(store.keeper.vacuum()) == 2
    folders = [p for p in (store.root / "trades").rglob("*=*") if p.is_dir()]
    assert len(folders) == 5, "a flush may be about to write there"
    for path in sorted(folders, reverse=True):
        os.utime(path, (1, 1))
        store.keeper.vacuum()
    assert [p.name for p in (store.root / "trades").iterdir()] == ["_delta_log"]
    put_parts(store, 1)
    assert len(files(store)) == 1


def test_a_part_that_cannot_be_deleted_is_reported_and_deleted_later(
    compacted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(StorageError, match="cannot clear up table trades: Operation not permitted"):
            compacted.keeper.vacuum(hours=0)
    assert len(compacted.keeper.vacuum(hours=0)) == 3


def test_versions_whose_parts_went_say_so_when_they_are_read(compacted: Any) -> None:
    compacted.keeper.vacuum(hours=0)
    snapshot = compacted.snapshot_at("trades", 1)
    with pytest.raises(StorageError, match=r"part .*\.parquet of table trades cannot be read"):
        compacted.open_parts(snapshot, snapshot.parts)


def test_nothing_is_deleted_while_a_live_part_is_missing(compacted: Any) -> None:
    (live,) = compacted.tables["trades"].state.parts.path
    (compacted.root / "trades" / live).unlink()
    with pytest.raises(StorageError, match=f"1 live parts of table trades are missing, {re.escape(live)}"):
        compacted.keeper.vacuum(hours=0)
    assert len(files(compacted)) == 3


def test_parts_of_a_commit_that_failed_after_it_was_there_stay(
    open_store: Any, trades: Any, rows_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    store.append("trades", trades(5)).result(20)

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(delta_log_module, "sync_file", fail)
        with pytest.raises(StorageError):
            store.flush()
    time.sleep(0.002)
    store.keeper.vacuum(hours=0)
    store.flush()
    store.tables["trades"].release_oldest()
    assert len(rows_of(store)) == 5


def test_parts_of_a_flush_under_way_stay(
    open_store: Any, trades: Any, rows_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    store.append("trades", trades(5)).result(20)
    commit = TableCatalog.commit

    vacuuming = threading.Thread(target=store.keeper.vacuum, kwargs={"hours": 0})

    def vacuum_first(*arguments: Any) -> int:
        time.sleep(0.002)
        vacuuming.start()
        vacuuming.join(0.2)  # it may wait until the flush is done
        return commit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TableCatalog, "commit", vacuum_first)
        store.flush()
    vacuuming.join(20)
    assert not vacuuming.is_alive()
    store.tables["trades"].release_oldest()
    assert len(rows_of(store)) == 5


# --- what a crash left


def leftover(store: Any, first: int, last: int) -> Path:
    path = next(iter(part_paths(store.root / "trades"))).parent / part_file_name(first, last, "0" * 16)
    path.write_bytes(b"left by a crash")
    return path


def test_parts_of_a_version_that_was_never_committed_go_and_removed_ones_stay(compacted: Any) -> None:
    left = leftover(compacted, 5, 30)
    live = set(compacted.tables["trades"].state.parts.path)
    now_ms = time.time_ns() // 1_000_000
    assert remove_crash_leftovers(compacted.root / "trades", "trades", live, 30, now_ms - 1_000 * HOUR_S) == 1
    assert not left.exists()
    assert len(files(compacted)) == 4
    assert remove_crash_leftovers(compacted.root / "trades", "trades", live, 30, now_ms) == 3


def test_a_part_with_rows_that_nothing_knows_of_stops_it(compacted: Any) -> None:
    paths = [leftover(compacted, 5, 30), leftover(compacted, 25, 31)]
    live = set(compacted.tables["trades"].state.parts.path)
    with pytest.raises(StorageError, match=r"rows 25 to 31.*Hint: A table version is missing"):
        remove_crash_leftovers(compacted.root / "trades", "trades", live, 30, 0)
    assert all(path.exists() for path in paths)


def test_nothing_is_removed_at_the_start_while_a_live_part_is_missing(
    compacted: Any, open_store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    left = leftover(compacted, 5, 30)
    (live,) = compacted.tables["trades"].state.parts.path
    compacted.close()
    (compacted.root / "trades" / live).unlink()
    again = open_store(compact_parts_min=2)
    assert left.exists()
    snapshot = again.snapshot("trades")
    with pytest.raises(StorageError, match=Path(live).name):
        again.open_parts(snapshot, snapshot.parts)


def test_an_empty_folder_has_nothing_to_remove(tmp_path: Path) -> None:
    assert remove_crash_leftovers(tmp_path, "trades", set(), 0, 0) == 0
    assert vacuum(tmp_path, "trades", set(), set(), {}, 0) == []


# --- versions


def test_a_version_reads_what_was_flushed_then(open_store: Any, trades: Any, put_parts: Any) -> None:
    store = open_store(compact_parts_min=2)
    with pytest.raises(NotFoundError, match=r"no version 0\. Hint: It has no version yet"):
        store.snapshot_at("trades", 0)
    put_parts(store, 3)
    store.keeper.compact()
    store.append("trades", trades(5, 30)).result(20)
    for version, rows in enumerate((10, 20, 30, 30)):
        snapshot = store.snapshot_at("trades", version)
        assert (snapshot.version, snapshot.last_seq, snapshot.segments) == (version, rows, ())
        assert [row.seq for row in read_rows(snapshot, store.root / "trades")] == list(range(1, rows + 1))
    for version in (-1, 4):
        with pytest.raises(NotFoundError, match=rf"no version {version}\. Hint: Versions 0 to 3 are kept"):
            store.snapshot_at("trades", version)


def test_the_version_of_a_time_is_the_newest_committed_by_then(open_store: Any, put_parts: Any) -> None:
    store = open_store()
    with pytest.raises(NotFoundError, match="no version of that time"):
        store.version_at("trades", time.time_ns() // 1000)
    put_parts(store, 3)
    begun_us = time.time_ns() // 1000 - 100_000_000
    for version in range(3):
        us = begun_us + version * 1_000_000
        os.utime(store.root / "trades" / "_delta_log" / f"{version:020d}.json", ns=(us * 1_000, us * 1_000))
    times = [begun_us, begun_us + 999_999, begun_us + 1_000_000, begun_us + 2_000_000, time.time_ns() // 1000]
    assert [store.version_at("trades", us) for us in times] == [0, 0, 1, 2, 2]
    with pytest.raises(NotFoundError, match=r"no version of that time\. Hint: Versions 0 to 2 are kept"):
        store.version_at("trades", begun_us - 1)


def test_versions_whose_commits_were_cleaned_up_are_gone_from_the_last_checkpoint_on(
    open_store: Any, put_parts: Any
) -> None:
    store = open_store()
    put_parts(store, 23, rows=1)
    log = store.root / "trades" / "_delta_log"
    (checkpoint,) = [int(p.name[:20]) for p in log.glob("*.checkpoint.parquet")]
    for version in range(checkpoint + 1):
        (log / f"{version:020d}.json").unlink()
    store.close()
    again = open_store()
    catalog = again.tables["trades"].catalog
    assert catalog.versions() == (checkpoint, 22)
    for version in range(checkpoint, 23):
        snapshot = again.snapshot_at("trades", version)
        assert len(read_rows(snapshot, again.root / "trades")) == version + 1
    with pytest.raises(NotFoundError, match=rf"Hint: Versions {checkpoint} to 22 are kept"):
        again.snapshot_at("trades", checkpoint - 1)
