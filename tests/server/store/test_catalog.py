"""The Delta table: one commit makes a flush visible, and what it says is what was written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from store_parts import number_rows, parts_of, write_parts

from tickflight_server.errors import StorageError
from tickflight_server.schemas import STORED, NumericType
from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.partition import Part
from tickflight_server.store.parts import make_index

TRADES = STORED["trades"]
WRITER = UUID(int=7)
NAMES = ["BTC-USDT", "BTC/USD", "a=b", "é ü", "%41", "~x", "..", ".", "__HIVE_DEFAULT_PARTITION__", "null", "x" * 500]
NAMES += ["日本" * 50, "a b+c", "it's", 'a"b\\c', "a?b#c&d", "C:\\x", "tab\tx", "line\nx", "\x01", "*"]


def open_catalog(folder: Path, numeric: NumericType = "float64") -> TableCatalog:
    return TableCatalog(folder / "trades", TRADES, WRITER, numeric)


def write(folder: Path, batch: pa.RecordBatch, first_seq: int = 1) -> list[Part]:
    return write_parts(folder / "trades", [number_rows(batch, first_seq)])


def by_path(parts: list[Part]) -> list[Part]:
    return sorted(parts, key=lambda p: p.path)


def test_a_table_that_was_never_flushed_is_empty(tmp_path: Path) -> None:
    catalog = open_catalog(tmp_path)
    index, flushed = catalog.load()
    assert (len(index), flushed, catalog.version, catalog.producer_sequence(b"p")) == (0, 0, -1, 0)


def test_parts_come_back_as_they_were_committed_whatever_their_names(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    catalog = open_catalog(tmp_path)
    catalog.load()
    parts = write(tmp_path, trades(100, symbols=NAMES, step_us=7_777_777_777))
    assert catalog.commit(parts, 100, {}) == 0
    index, flushed = open_catalog(tmp_path).load()
    assert flushed == 100
    assert by_path(parts_of(index)) == by_path(parts)
    assert sorted(index.last.tolist()) == sorted(make_index(parts).last.tolist())
    assert set(index.symbol) == set(NAMES)
    assert all((tmp_path / "trades" / path).is_file() for path in index.path)


def test_another_delta_reader_sees_the_same_rows(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    catalog = open_catalog(tmp_path)
    catalog.load()
    parts = write(tmp_path, trades(100, symbols=NAMES))
    catalog.commit(parts, 100, {})
    rows = pa.table(DeltaTable(str(tmp_path / "trades")).to_pyarrow_dataset().to_table())
    assert sorted(rows["seq"].to_pylist()) == list(range(1, 101))
    assert {n: rows["symbol"].to_pylist().count(n) for n in NAMES} == {
        n: sum(NAMES[i % len(NAMES)] == n for i in range(100)) for n in NAMES
    }


@pytest.mark.parametrize("us", [0, 1, 999_999, 1_700_000_000_000_001, 7_258_118_399_999_999])
def test_times_are_exact_to_the_microsecond_and_over_all_years(
    tmp_path: Path, us: int, trades: Callable[..., pa.RecordBatch]
) -> None:
    catalog = open_catalog(tmp_path)
    catalog.load()
    catalog.commit(write(tmp_path, trades(1, t0=us)), 1, {})
    index, _ = open_catalog(tmp_path).load()
    assert (index.min_us[0], index.max_us[0]) == (us, us)


def test_a_commit_records_the_flushed_seq_and_the_producers(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    catalog = open_catalog(tmp_path)
    catalog.load()
    catalog.commit(write(tmp_path, trades(3)), 3, {b"\x00\xff": 5, b"q": 2**63 - 1})
    catalog.commit(write(tmp_path, trades(2), 4), 5, {b"\x00\xff": 9})
    for opened in (catalog, open_catalog(tmp_path)):
        _, flushed = opened.load()
        assert (flushed, opened.version) == (5, 1)
        assert opened.producer_sequence(b"\x00\xff") == 9
        assert opened.producer_sequence(b"q") == 2**63 - 1
        assert opened.producer_sequence(b"unknown") == 0


def test_a_table_of_another_writer_alone_is_refused(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    catalog = open_catalog(tmp_path)
    catalog.load()
    catalog.commit(write(tmp_path, trades(3)), 3, {})
    other = TableCatalog(tmp_path / "trades", TRADES, UUID(int=8), "float64")
    with pytest.raises(StorageError, match="another writer"):
        other.load()


def test_another_numeric_type_is_refused_with_a_hint(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    catalog = open_catalog(tmp_path)
    catalog.load()
    catalog.commit(write(tmp_path, trades(3)), 3, {})
    with pytest.raises(StorageError, match=r"'amount' is stored as double.* Hint: lakehouse\.numeric_type"):
        open_catalog(tmp_path, "decimal").load()


def test_a_damaged_table_is_a_storage_error(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    catalog = open_catalog(tmp_path)
    catalog.load()
    catalog.commit(write(tmp_path, trades(3)), 3, {})
    (tmp_path / "trades" / "_delta_log" / f"{0:020d}.json").write_text("{not json")
    with pytest.raises(StorageError, match="cannot read table trades"):
        open_catalog(tmp_path).load()


def test_many_commits_are_read_back_across_checkpoints(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    catalog = open_catalog(tmp_path)
    catalog.load()
    for number in range(45):
        catalog.commit(write(tmp_path, trades(1, number), number + 1), number + 1, {b"p": number + 1})
    log = tmp_path / "trades" / "_delta_log"
    assert len(list(log.glob("*.checkpoint.parquet"))) == 2
    assert (log / "_last_checkpoint").exists()
    again = open_catalog(tmp_path)
    index, flushed = again.load()
    assert (len(index), flushed, again.version, again.producer_sequence(b"p")) == (45, 45, 44, 45)


def test_a_commit_is_on_disk_with_its_folders_when_it_returns(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = open_catalog(tmp_path)
    catalog.load()
    parts = write(tmp_path, trades(3))
    synced = set()
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.add(Path(f"/proc/self/fd/{fd}").readlink())
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    catalog.commit(parts, 3, {})
    log = tmp_path / "trades" / "_delta_log"
    wanted = {log / f"{0:020d}.json", log, log.parent, tmp_path}
    assert wanted <= synced
    synced.clear()
    # a killed process may have left it unsynced, or synced in vain, and the log is released after it
    open_catalog(tmp_path).load()
    assert {log / f"{0:020d}.json.again", log, log.parent, tmp_path} <= synced
    assert not list(log.glob("*.again"))
