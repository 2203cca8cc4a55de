"""The write-ahead log: a folder of numbered files of records; what is synced survives kill -9 and power loss.

The rule of this file: an acknowledged record is never lost and a damaged one is never believed. A torn tail is the
end of the log; damage before a place that was known to be durable is corruption and is reported with file and
offset. After a failed write or sync nothing is accepted until ``reopen``, and what the failure left is not believed.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import NoReturn
from uuid import UUID

import structlog

from tickflight_server.errors import LogClosedError, LogCorruptError, StorageError
from tickflight_server.files import make_folder, sync_file, sync_folder, write_all
from tickflight_server.paths import log_file_name, parse_log_file_name
from tickflight_server.store.record import (
    ALIGN,
    FILE_HEADER,
    RECORD_HEADER,
    AppendRecord,
    BadRecordError,
    FileHeader,
    find_record,
    parse_file_header,
    parse_record,
    record_span,
    serialize_record,
)

LOG = structlog.get_logger(__name__)
_IOV_MAX = 512
_READ_BYTES = 4 << 20  # read at once, or one record if that is longer


@dataclass
class LogFile:
    """One file of the log and the last ``seq`` of each table in it."""

    number: int
    path: Path
    size: int = 0
    last_seq: dict[str, int] = field(default_factory=dict)

    def covers(self, record: AppendRecord) -> None:
        """Note that ``record`` is in this file."""
        self.last_seq[record.table] = record.last_seq


class _Window:
    """A file as it is read from its beginning to its end: a piece of it in memory, and the record that is asked for.

    Args:
        handle: the file, unbuffered, read by nobody else.
    """

    def __init__(self, handle: FileIO) -> None:
        self._handle = handle
        self._start = 0
        self._data = memoryview(b"")
        self.size = os.fstat(handle.fileno()).st_size

    def at(self, offset: int, size: int) -> memoryview:
        """Return ``size`` bytes from ``offset`` on, or what the file has of them."""
        end = min(self.size, offset + size)
        if offset < self._start or end > self._start + len(self._data):
            self._handle.seek(offset)
            length = min(self.size - offset, max(size, _READ_BYTES))
            self._start, self._data = offset, memoryview(_read(self._handle, length))
        return self._data[offset - self._start : end - self._start]


def _read(handle: FileIO, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := handle.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class WriteAheadLog:
    """The log of one store. One thread writes, one syncs, or one does both; ``release`` may be called from another.

    Args:
        folder: where the files are; made if missing.
        writer: the server's identity, written in each file's head.
        file_bytes_max: a file above this size is left and the log goes on in a new one.
    """

    def __init__(self, folder: Path, writer: UUID, *, file_bytes_max: int) -> None:
        self._folder = folder
        self._writer = writer
        self._file_bytes_max = file_bytes_max
        self._files: list[LogFile] = []  # changed by the appending thread and by release
        self._lock = threading.Lock()
        self._written: deque[tuple[int, list[AppendRecord]]] = deque()  # up to where, what: not known to be on disk
        self._end = 0  # of what was written to the file in use
        self._fd = -1
        self._failure: str | None = None
        self._closed = False
        self.bytes_read = 0  # by recover
        self._doubtful: list[int] = []  # places of the newest file's records that no later one says were on disk
        try:
            make_folder(folder)
        except OSError as error:
            raise StorageError(
                f"cannot make the folder of the log, {folder}: {error.strerror}.", hint="Mend the disk or permissions."
            ) from None

    @property
    def files(self) -> tuple[LogFile, ...]:
        """The files, oldest first."""
        with self._lock:
            return tuple(self._files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)

    def bytes_on_disk(self) -> int:
        """Return the size of all files in the folder, for telling how far ``recover`` is."""
        paths = (p for p in self._folder.iterdir() if parse_log_file_name(p.name) is not None)
        return sum(p.stat().st_size for p in paths)

    def recover(self) -> Iterator[AppendRecord]:
        """Yield every record, oldest first, and cut off a torn tail; then the log is ready for ``append``.

        A few megabytes of a file are in memory at a time. The caller must run the iterator to its end.

        Raises:
            LogCorruptError: damage before the tail.
            StorageError: a file cannot be read.
        """
        assert self._fd < 0, "recover comes first"
        found = sorted((n, p) for p in self._folder.iterdir() if (n := parse_log_file_name(p.name)) is not None)
        for index, (number, path) in enumerate(found):
            file = LogFile(number, path)
            self._files.append(file)
            try:
                yield from self._read_file(file, last=index == len(found) - 1)
            except OSError as error:
                raise StorageError(f"cannot read the log file {path.name}: {error.strerror}.") from None
        try:
            if found and self._files[-1].size == 0:
                # a file whose head was torn never held an acknowledged record
                self._files.pop().path.unlink()
            if self._doubtful:
                self._write_again()
            self._roll()
        except OSError as error:
            raise StorageError(
                f"cannot write the log: {error.strerror}.", hint="Mend the disk and start again; nothing is lost."
            ) from None

    def _write_again(self) -> None:
        """Write what no later record proves to have been on disk once more, in its place.

        A sync that succeeds after one that failed says nothing: the system may have dropped what it could not write,
        and still show it. Before the next file begins, since damage is no torn tail any more from then on.
        """
        file = self._files[-1]
        fd = os.open(file.path, os.O_RDWR)
        try:
            place = self._doubtful[0]
            while place < file.size and (piece := os.pread(fd, min(_READ_BYTES, file.size - place), place)):
                place += os.pwrite(fd, piece, place)
            os.fsync(fd)
        finally:
            os.close(fd)
        self._doubtful = []

    def _read_file(self, file: LogFile, *, last: bool) -> Iterator[AppendRecord]:
        if last:
            # a killed process may have left records that were written and not synced; they become visible now
            sync_file(file.path)
        with file.path.open("rb", buffering=0) as handle:
            yield from self._read_records(file, _Window(handle), last=last)

    def _read_records(self, file: LogFile, window: _Window, *, last: bool) -> Iterator[AppendRecord]:
        try:
            header = parse_file_header(bytes(window.at(0, FILE_HEADER.size)))
        except BadRecordError as error:
            if last and window.size <= FILE_HEADER.size:
                return
            raise LogCorruptError(f"log file {file.path.name}, offset 0: {error}.", hint=_REPAIR) from None
        if header.writer != self._writer or header.number != file.number:
            raise LogCorruptError(
                f"log file {file.path.name} belongs to writer {header.writer}, file {header.number}.",
                hint="Files of another store were copied here: remove them.",
            )
        offset = FILE_HEADER.size
        while offset < window.size:
            head = window.at(offset, RECORD_HEADER.size)
            try:
                record, span, durable = parse_record(window.at(offset, record_span(head, 0)), 0)
            except BadRecordError as error:
                self._end_of_log(file, window.at(0, window.size), offset, error, last=last)
                break
            file.covers(record)
            if last:
                self._doubtful = [place for place in self._doubtful if place >= durable]
                self._doubtful.append(offset)
            self.bytes_read += span
            offset += span
            file.size = offset
            yield record
        file.size = offset

    def _end_of_log(self, file: LogFile, data: memoryview, offset: int, error: BadRecordError, *, last: bool) -> None:
        """Cut the torn tail at ``offset``, or say that it is no tail but damage."""
        later = find_record(data, offset + ALIGN)
        while later is not None:
            _, end, durable = parse_record(data, later)
            if durable > offset:
                break
            later = find_record(data, end)
        if not last or later is not None:
            raise LogCorruptError(f"log file {file.path.name}, offset {offset}: {error}.", hint=_REPAIR)
        LOG.warning("log.torn_tail", file=file.path.name, offset=offset, bytes_dropped=len(data) - offset)
        self._truncate(file.path, offset)

    @staticmethod
    def _truncate(path: Path, size: int) -> None:
        fd = os.open(path, os.O_WRONLY)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)

    def append(self, records: list[AppendRecord]) -> None:
        """Write ``records`` and sync once; when this returns, they survive kill -9 and power loss.

        Raises:
            LogClosedError: the log was closed, or this or an earlier write or sync failed.
        """
        self.write(records)
        self.sync()

    @property
    def full(self) -> bool:
        """Whether the next ``write`` begins a new file: nothing that was written may wait for a sync then."""
        return self._end >= self._file_bytes_max

    def write(self, records: list[AppendRecord]) -> None:
        """Write ``records`` behind the others; they are durable after the next ``sync``.

        Raises:
            LogClosedError: as of ``append``.
        """
        if self._failure is not None or self._fd < 0:
            raise LogClosedError(self._failure or "the log is closed.", temporary=self._failure is not None)
        if self.full:
            # damage in a file that is not the last one is no torn tail
            assert not self._written, "a file is left before it is on disk"
            self._roll()
        file = self._files[-1]
        durable = file.size
        buffers: list[bytes | memoryview] = []
        for record in records:
            buffers.extend(serialize_record(record, durable))
        try:
            self._end += self._write(buffers)
        except OSError as error:
            self._fail(error)
        self._written.append((self._end, records))

    def sync(self) -> None:
        """Make durable what was written before this call; more may be written meanwhile, by another thread.

        Raises:
            LogClosedError: it failed; an earlier sync that did is not tried again before ``reopen``.
        """
        count, file = len(self._written), self._files[-1]
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._fail(error)
        for _ in range(count):
            end, records = self._written[0]
            for record in records:
                file.covers(record)
            file.size = end
            self._written.popleft()

    def _write(self, buffers: list[bytes | memoryview]) -> int:
        total = 0
        pending = [memoryview(b) for b in buffers if len(b)]
        start = 0
        while start < len(pending):
            written = os.writev(self._fd, pending[start : start + _IOV_MAX])
            total += written
            while start < len(pending) and written >= len(pending[start]):
                written -= len(pending[start])
                start += 1
            if written:
                pending[start] = pending[start][written:]
        return total

    def _fail(self, error: OSError) -> NoReturn:
        self._failure = f"the log cannot be written: {error.strerror or error}. Nothing is accepted until it can be."
        LOG.error("log.failed", error=str(error))
        raise LogClosedError(self._failure, hint=_RETRIED, temporary=True) from None

    def reopen(self) -> None:
        """Go on after a failure: cut the file in use at what was durable, and begin a new one.

        What a failed sync left in memory or on disk is not believed: nobody was told that it is durable.

        Raises:
            LogClosedError: the disk does not take it yet, or the log was closed.
        """
        if self._closed:
            raise LogClosedError("the log is closed.")
        file = self._files[-1]
        self._written.clear()
        try:
            if self._fd >= 0:
                os.ftruncate(self._fd, file.size)
                os.fsync(self._fd)
        except OSError as error:
            self._fail(error)
        self._failure = None
        self._roll()
        LOG.info("log.reopened", file=self._files[-1].path.name)

    def _roll(self) -> None:
        """Go on in a new file, which is on disk with its name before any record is in it."""
        number = self._files[-1].number + 1 if self._files else 1
        path = self._folder / log_file_name(number)
        header = FileHeader(number, self._writer).serialize()
        fd = -1
        try:
            path.unlink(missing_ok=True)  # what an attempt that failed left: never in use
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            write_all(fd, header)
            os.fsync(fd)
            sync_folder(self._folder)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            self._fail(error)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._end = len(header)
        with self._lock:
            self._files.append(LogFile(number, path, size=len(header)))

    def release(self, flushed: dict[str, int]) -> int:
        """Delete the files whose every row is in a part, given each table's flushed ``seq``; return how many.

        The file in use stays. Files go oldest first, so that the log has no hole.
        """
        removed = 0
        while True:
            with self._lock:
                # the file in use is left first: the appending thread adds to its last_seq meanwhile
                if len(self._files) == 1:
                    break
                oldest = self._files[0]
                if any(flushed.get(table, 0) < seq for table, seq in oldest.last_seq.items()):
                    break
                oldest.path.unlink(missing_ok=True)
                self._files.pop(0)
            removed += 1
        if removed:
            sync_folder(self._folder)
        return removed

    def close(self) -> None:
        """Close the file in use; the log takes nothing any more."""
        self._closed = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_REPAIR = "Keep a copy of the folder, then run `tickflight-server check --repair`, which saves what is readable."
_RETRIED = "It is tried again every second: free space or mend the disk; what was acknowledged is safe."
