"""Reading a log that may be damaged: every whole record, every damaged stretch, and where the log ends.

The rule of this file: it reads and never writes; it believes what ``wal.py`` believes, and where that stops at damage
this goes on behind it. A record behind a torn tail was never acknowledged and is not believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from tickflight_server.errors import StorageError
from tickflight_server.paths import parse_log_file_name
from tickflight_server.store.record import (
    ALIGN,
    FILE_HEADER,
    AppendRecord,
    BadRecordError,
    find_record,
    parse_file_header,
    parse_record,
)
from tickflight_server.store.seqset import Range

Tick = Callable[[str, int], None]  # told what is read, and how many bytes of it were


@dataclass(frozen=True)
class Damage:
    """Bytes of a log file that are no whole record: ``data``, from ``offset`` to ``end``, while the file is read."""

    file: str
    offset: int
    end: int
    what: str
    data: memoryview = field(repr=False, compare=False)


@dataclass
class FileScan:
    """What is in one log file."""

    number: int
    path: Path
    size: int = 0
    writer: UUID | None = None
    foreign: str | None = None  # why it is not this log's
    records: int = 0
    damages: list[tuple[int, int, str]] = field(default_factory=list)  # offset, end, what
    torn_at: int | None = None
    last_seq: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    @property
    def usable(self) -> bool:
        """Whether the server takes the file as it is."""
        return self.foreign is None and not self.damages


@dataclass
class LogScan:
    """What is in the whole log: its files, and of each table the ``seq`` of its records as ranges, in their order."""

    files: list[FileScan] = field(default_factory=list)
    runs: dict[str, list[Range]] = field(default_factory=dict)
    overlaps: list[tuple[str, str, int, int]] = field(default_factory=list)  # file, table, first and last seq
    unknown: dict[str, int] = field(default_factory=dict)  # rows by table

    def last_seq(self, table: str) -> int:
        """Return the highest ``seq`` of a table's records, 0 without any."""
        return max((last for _, last in self.runs.get(table, ())), default=0)

    def note(self, file: FileScan, record: AppendRecord) -> None:
        """Take ``record`` of ``file`` into account."""
        file.records += 1
        file.last_seq[record.table] = max(file.last_seq.get(record.table, 0), record.last_seq)
        runs = self.runs.setdefault(record.table, [])
        if runs and record.first_seq == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], record.last_seq
            return
        if runs and record.first_seq <= runs[-1][1]:
            self.overlaps.append((file.name, record.table, record.first_seq, record.last_seq))
        runs.append((record.first_seq, record.last_seq))


def log_files(folder: Path) -> list[tuple[int, Path]]:
    """Return the files of the log with their numbers, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((n, p) for p in folder.iterdir() if (n := parse_log_file_name(p.name)) is not None)


def find_log_writers(folder: Path) -> set[UUID]:
    """Return whose files these are, as their heads say."""
    writers = set()
    for _, path in log_files(folder):
        try:
            with path.open("rb") as file:
                writers.add(parse_file_header(file.read(FILE_HEADER.size)).writer)
        except (OSError, BadRecordError):
            continue
    return writers


def scan_log(folder: Path, writer: UUID | None, tick: Tick, *, known: frozenset[str]) -> LogScan:
    """Read the whole log, one file at a time, and return what is in it.

    Raises:
        StorageError: a file cannot be read at all.
    """
    scan = LogScan()
    for file, record in read_log(folder, writer, scan.files, tick):
        if isinstance(record, AppendRecord):
            scan.note(file, record)
            if record.table not in known:
                scan.unknown[record.table] = scan.unknown.get(record.table, 0) + record.rows
    return scan


def read_log(
    folder: Path, writer: UUID | None, scans: list[FileScan], tick: Tick
) -> Iterator[tuple[FileScan, AppendRecord | Damage]]:
    """Yield every whole record and every damaged stretch of the log, in order; ``scans`` gets each file's.

    Raises:
        StorageError: a file cannot be read at all.
    """
    found = log_files(folder)
    for index, (number, path) in enumerate(found):
        file = FileScan(number, path)
        scans.append(file)
        try:
            data = memoryview(path.read_bytes())
        except OSError as error:
            raise StorageError(f"cannot read the log file {path.name}: {error.strerror}.") from None
        file.size = len(data)
        for item in _read_file(file, data, writer, last=index == len(found) - 1):
            yield file, item
        tick(path.name, len(data))


def _read_file(file: FileScan, data: memoryview, writer: UUID | None, *, last: bool) -> Iterator[AppendRecord | Damage]:
    start = FILE_HEADER.size
    try:
        header = parse_file_header(bytes(data[:start]))
    except BadRecordError as error:
        if last and len(data) <= start:
            file.torn_at = 0
            return
        yield _damage(file, data, 0, min(start, len(data)), str(error))
    else:
        file.writer = header.writer
        if writer is not None and header.writer != writer:
            file.foreign = f"it says that it is file {header.number} of writer {header.writer}"
            return
        if header.number != file.number:  # renamed: the server refuses it, and its records are good
            yield _damage(file, data, 0, start, f"it says that it is file {header.number}")
    pieces = list(_pieces(data, start))
    proven = max((durable for _, _, _, durable in pieces), default=0) if last else len(data)
    for offset, end, item, _ in pieces:
        if isinstance(item, AppendRecord):
            yield item
        elif offset >= proven:
            file.torn_at = offset
            return
        else:
            yield _damage(file, data, offset, end, item)


def _damage(file: FileScan, data: memoryview, offset: int, end: int, what: str) -> Damage:
    file.damages.append((offset, end, what))
    return Damage(file.name, offset, end, what, data[offset:end])


def _pieces(data: memoryview, offset: int) -> Iterator[tuple[int, int, AppendRecord | str, int]]:
    """Yield offset, end, the record or what is wrong, and how much was durable; damaged stretches have 0."""
    while offset < len(data):
        try:
            record, end, durable = parse_record(data, offset)
        except BadRecordError as error:
            # a record begins at a multiple of 8; the rest of a head before it belongs to this stretch
            end = find_record(data, offset + ALIGN) or len(data)
            yield offset, end, str(error), 0
        else:
            yield offset, end, record, durable
        offset = end
