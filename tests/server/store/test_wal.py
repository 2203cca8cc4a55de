"""The log on disk: acknowledged records are never lost, damaged ones never believed."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from pathlib import Path
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tickflight_server.errors import LogClosedError, LogCorruptError
from tickflight_server.paths import log_file_name
from tickflight_server.store.record import AppendRecord, FileHeader, serialize_record
from tickflight_server.store.wal import WriteAheadLog

WRITER = UUID("00112233-4455-6677-8899-aabbccddeeff")
MIB = 1 << 20


def make_record(first_seq: int, rows: int = 1, table: str = "trades", size: int = 100) -> AppendRecord:
    return AppendRecord(table, first_seq, rows, b"p", first_seq, pa.py_buffer(bytes([first_seq % 251]) * size))


def open_log(
    folder: Path, file_bytes_max: int = MIB, writer: UUID = WRITER
) -> tuple[WriteAheadLog, list[AppendRecord]]:
    log = WriteAheadLog(folder, writer, file_bytes_max=file_bytes_max)
    return log, list(log.recover())


def write_log(folder: Path, groups: list[list[int]]) -> tuple[list[AppendRecord], list[int], list[int]]:
    """Write one file of groups of records with these payload sizes; return the records, their starts and durables."""
    log, _ = open_log(folder)
    records: list[AppendRecord] = []
    starts: list[int] = []
    durables: list[int] = []
    for sizes in groups:
        group = [make_record(len(records) + 1 + i, size=size) for i, size in enumerate(sizes)]
        at = durable = log.files[-1].size
        for record in group:
            starts.append(at)
            durables.append(durable)
            at += sum(len(b) for b in serialize_record(record, 0))
        log.append(group)
        records += group
    log.close()
    return records, starts, durables


def test_what_was_appended_is_recovered_in_order(tmp_path: Path) -> None:
    log, found = open_log(tmp_path / "log")
    assert found == []
    written = [make_record(i) for i in range(1, 8)]
    log.append(written[:3])
    log.append(written[3:])
    log.close()
    log, found = open_log(tmp_path / "log")
    log.close()
    assert found == written


def test_appending_goes_on_in_a_new_file_after_each_opening_and_above_the_size(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path, file_bytes_max=1_000)
    written = [make_record(i, size=400) for i in range(1, 10)]
    for record in written:
        log.append([record])
    assert [f.number for f in log.files] == [1, 2, 3]  # the third record of a file takes it above 1,000 bytes
    assert log.size_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    log.close()
    log, found = open_log(tmp_path, file_bytes_max=1_000)
    assert [f.number for f in log.files] == [1, 2, 3, 4]
    log.close()
    assert found == written


def test_more_buffers_than_one_system_call_takes_are_written_whole(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path)
    written = [make_record(i, size=i % 13) for i in range(1, 1_500)]
    log.append(written)
    log.close()
    log, found = open_log(tmp_path)
    log.close()
    assert found == written


groups = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=3), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(groups=groups, data=st.data(), tail=st.sampled_from([b"", bytes(64), b"\xff" * 33, b"TFLR" * 9]))
def test_a_log_cut_anywhere_gives_exactly_the_records_before_the_cut(
    groups: list[list[int]], data: st.DataObject, tail: bytes
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records, starts, _ = write_log(folder, groups)
        path = folder / log_file_name(1)
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut] + (tail if cut >= 40 else b""))
        # a record without its last zeros is whole; one that is followed by other bytes than zeros is, too
        ends = [s + 48 + 7 + r.payload.size for s, r in zip(starts, records, strict=True)]
        whole = [r for r, end in zip(records, ends, strict=True) if end <= cut]
        for _ in range(2):  # recovering changes nothing that a second recovery would miss
            log, found = open_log(folder)
            log.append([make_record(99)])
            log.close()
            assert found[: len(whole)] == whole
            assert all(r.first_seq == 99 for r in found[len(whole) :])


@settings(max_examples=150, deadline=None)
@given(groups=groups, data=st.data())
def test_a_flipped_bit_is_reported_with_file_and_offset_or_ends_the_last_group(
    groups: list[list[int]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records, starts, durables = write_log(folder, groups)
        path = folder / log_file_name(1)
        content = bytearray(path.read_bytes())
        bit = data.draw(st.integers(0, len(content) * 8 - 1))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        hit = max((i for i, s in enumerate(starts) if s <= bit // 8), default=None)
        if hit is None:
            reported: int | None = 0
        elif bit // 8 >= starts[hit] + 48 + 7 + records[hit].payload.size:
            reported, hit = None, len(records)  # padding says nothing
        else:
            reported = starts[hit] if durables[-1] > starts[hit] else None
        if reported is None:
            log, found = open_log(folder)
            log.close()
            assert found == records[:hit]
        else:
            with pytest.raises(LogCorruptError, match=rf"{path.name}, offset {reported}\b"):
                open_log(folder)


def test_a_torn_tail_is_cut_off_and_logged(tmp_path: Path) -> None:
    records, starts, _ = write_log(tmp_path, [[10], [10, 10]])
    path = tmp_path / log_file_name(1)
    path.write_bytes(path.read_bytes()[:-40])
    with capture_logs() as events:
        log, found = open_log(tmp_path)
    log.close()
    assert found == records[:2]
    assert path.stat().st_size == starts[2]
    assert open_log(tmp_path)[1] == records[:2]
    (event,) = [e for e in events if e["event"] == "log.torn_tail"]
    assert (event["file"], event["offset"]) == (path.name, starts[2])


def test_a_group_torn_in_its_first_record_is_a_tail_though_later_ones_are_whole(tmp_path: Path) -> None:
    records, starts, _ = write_log(tmp_path, [[10], [10, 10, 10]])
    path = tmp_path / log_file_name(1)
    content = bytearray(path.read_bytes())
    content[starts[1] : starts[1] + 16] = bytes(16)  # a page of an unfinished write that never reached the disk
    path.write_bytes(content)
    log, found = open_log(tmp_path)
    log.close()
    assert found == records[:1]


def test_damage_in_a_file_that_is_not_the_newest_is_reported(tmp_path: Path) -> None:
    records, starts, _ = write_log(tmp_path, [[10], [10]])
    log, found = open_log(tmp_path)
    assert found == records
    log.close()
    path = tmp_path / log_file_name(1)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(LogCorruptError, match=f"{path.name}, offset {starts[1]}"):
        open_log(tmp_path)


def test_what_no_record_proves_is_written_once_more_before_the_next_file_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync that failed before may have lost it, and from then on damage would be no torn tail."""
    records, starts, _ = write_log(tmp_path, [[10], [10]])
    path = tmp_path / log_file_name(1)
    before, written = path.read_bytes(), []
    pwrite = os.pwrite

    def note(fd: int, data: bytes, place: int) -> int:
        written.append((place, data))
        assert not (tmp_path / log_file_name(2)).exists()
        return pwrite(fd, data, place)

    monkeypatch.setattr(os, "pwrite", note)
    log, found = open_log(tmp_path)
    log.close()
    assert found == records
    assert written == [(starts[1], before[starts[1] :])]
    assert path.read_bytes() == before


@pytest.mark.parametrize("head", [b"", b"TFLOG", bytes(40)], ids=["empty", "short", "zeros"])
def test_a_newest_file_whose_head_is_torn_is_replaced(tmp_path: Path, head: bytes) -> None:
    records, _, _ = write_log(tmp_path, [[10]])
    (tmp_path / log_file_name(2)).write_bytes(head)
    log, found = open_log(tmp_path)
    log.append([make_record(2)])
    log.close()
    assert found == records
    log, found = open_log(tmp_path)
    log.close()
    assert [r.first_seq for r in found] == [1, 2]


def test_a_torn_head_before_the_newest_file_is_damage(tmp_path: Path) -> None:
    write_log(tmp_path, [[10]])
    (tmp_path / log_file_name(0)).write_bytes(b"TFLOG")
    with pytest.raises(LogCorruptError, match=r"000000000000\.log, offset 0"):
        open_log(tmp_path)


def test_a_file_of_another_writer_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, [[10]])
    with pytest.raises(LogCorruptError, match=str(WRITER)):
        open_log(tmp_path, writer=uuid4())


def test_a_renamed_file_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, [[10]])
    (tmp_path / log_file_name(1)).rename(tmp_path / log_file_name(5))
    with pytest.raises(LogCorruptError, match="file 1"):
        open_log(tmp_path)


def test_another_format_is_refused_by_its_number(tmp_path: Path) -> None:
    write_log(tmp_path, [[10]])
    path = tmp_path / log_file_name(1)
    content = bytearray(path.read_bytes())
    content[8] = 2
    path.write_bytes(content)
    with pytest.raises(LogCorruptError, match="log format 2, this version reads 1"):
        open_log(tmp_path)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    log, found = open_log(tmp_path)
    log.append([make_record(1)])
    log.close()
    assert found == []
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_after_a_failed_sync_nothing_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = open_log(tmp_path)
    log.append([make_record(1)])

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(LogClosedError, match="Input/output error"):
            log.append([make_record(2)])
    with pytest.raises(LogClosedError, match="Input/output error"):
        log.append([make_record(3)])
    log.close()
    log, found = open_log(tmp_path)
    log.close()
    # whether the second record reached the disk is not known; the third was never written
    assert [r.first_seq for r in found] in ([1], [1, 2])


def test_a_log_that_failed_goes_on_in_a_new_file_without_what_was_not_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = open_log(tmp_path)
    log.append([make_record(1)])

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(LogClosedError, match="Input/output error") as caught:
            log.append([make_record(2)])
        assert caught.value.temporary
    assert (tmp_path / log_file_name(1)).stat().st_size > log.size_bytes
    for name in ("ftruncate", "fsync", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(LogClosedError, match="Input/output error"):
                log.reopen()
        with pytest.raises(LogClosedError):
            log.append([make_record(2)])
    log.reopen()
    assert [f.number for f in log.files] == [1, 2]
    assert log.size_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    log.append([make_record(2, size=7)])
    assert log.release({"trades": 1}) == 1
    log.close()
    with pytest.raises(LogClosedError, match="closed"):
        log.reopen()
    log, found = open_log(tmp_path)
    log.close()
    assert found == [make_record(2, size=7)]


def test_a_write_cut_short_by_a_full_disk_leaves_the_acknowledged_records(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path)
    log.append([make_record(1)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.size_bytes + 500, hard))
    try:
        with pytest.raises(LogClosedError, match="cannot be written"):
            log.append([make_record(2, size=10_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / log_file_name(1)).stat().st_size == log.size_bytes + 500
    with pytest.raises(LogClosedError):
        log.append([make_record(2)])
    log.close()
    log, found = open_log(tmp_path)
    log.append([make_record(2)])
    log.close()
    assert [r.first_seq for r in found] == [1]


def test_a_new_file_that_cannot_be_made_closes_the_log(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path, file_bytes_max=1)
    (tmp_path / log_file_name(2)).mkdir()
    with pytest.raises(LogClosedError):
        log.append([make_record(1)])
    with pytest.raises(LogClosedError):
        log.append([make_record(1)])
    log.close()


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path)
    log.close()
    log.close()
    with pytest.raises(LogClosedError, match="closed"):
        log.append([make_record(1)])


def test_what_recovery_reads_is_synced_before_it_is_given_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path, [[10]])
    synced: list[str] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    log = WriteAheadLog(tmp_path, WRITER, file_bytes_max=MIB)
    recovered = log.recover()
    next(recovered)
    assert synced == [log_file_name(1)]
    list(recovered)
    log.close()


def test_files_are_released_only_when_every_table_in_them_is_flushed(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path, file_bytes_max=100)
    log.append([make_record(1, table="trades"), make_record(1, table="ticker")])
    log.append([make_record(2, table="trades")])
    log.append([make_record(3, table="trades")])
    log.append([make_record(4, table="trades")])
    assert [f.number for f in log.files] == [1, 2, 3, 4]
    assert log.release({"trades": 4}) == 0  # ticker's row is in the oldest file
    assert log.release({"trades": 2, "ticker": 1}) == 2
    assert [f.number for f in log.files] == [3, 4]
    log.close()
    log, found = open_log(tmp_path)
    log.close()
    assert [(r.table, r.first_seq) for r in found] == [("trades", 3), ("trades", 4)]


def test_the_file_in_use_is_never_released(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path)
    log.append([make_record(1)])
    assert log.release({"trades": 1}) == 0
    log.append([make_record(2)])
    log.close()
    log, found = open_log(tmp_path)
    assert len(found) == 2
    assert log.release({"trades": 2}) == 1
    log.close()
    assert open_log(tmp_path)[1] == []


def test_log_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        log, _ = open_log(tmp_path / "a" / "log")
        log.close()
    finally:
        os.umask(before)
    assert [p.stat().st_mode & 0o777 for p in (tmp_path / "a", tmp_path / "a" / "log")] == [0o700, 0o700]
    assert [p.stat().st_mode & 0o777 for p in (tmp_path / "a" / "log").iterdir()] == [0o600]


def test_the_header_names_number_and_writer(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path)
    log.close()
    assert (tmp_path / log_file_name(1)).read_bytes() == FileHeader(1, WRITER).serialize()
