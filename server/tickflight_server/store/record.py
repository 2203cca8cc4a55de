r"""Bytes of the write-ahead log: one record to bytes and back, no I/O. The page is proto-notes/log-format.md.

The rule of this file: a record is believed only when its checksum holds, and what was written by one version is read
by the next (the file header names the format).

File header, 40 bytes, little-endian: magic ``TFLOG\r\n\0`` (8), format u32 = 1, crc32 u32 of the rest of the
header, number u64, writer (16 bytes, UUID). Then records, each starting at a multiple of 8:

    offset  size  field
    0       4     magic "TFLR"
    4       4     crc32 of everything from offset 8 to the end of the payload
    8       4     length of table + producer + payload, without padding
    12      1     kind: 1 = append
    13      1     length of the table's name
    14      1     length of the producer's id
    15      1     zero
    16      8     durable: bytes of this file that were on disk when this record was written
    24      8     first_seq of the rows
    32      8     producer's sequence, 0 without a producer
    40      4     rows
    44      4     zero
    48      …     table (UTF-8), producer, payload (an Arrow IPC stream of one batch, without seq)
    …       0-7   zeros up to a multiple of 8
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from uuid import UUID

import pyarrow as pa

FILE_MAGIC = b"TFLOG\r\n\0"
FILE_FORMAT = 1
FILE_HEADER = struct.Struct("<8sIIQ16s")
RECORD_MAGIC = b"TFLR"
RECORD_HEADER = struct.Struct("<4sIIBBBBQQQII")
KIND_APPEND = 1
ALIGN = 8
_SMALL_BYTES = 4096  # pieces below it are copied together: a write takes a limited number
_RECORD_START = re.compile(re.escape(RECORD_MAGIC))

assert FILE_HEADER.size == 40
assert RECORD_HEADER.size == 48


class BadRecordError(ValueError):
    """The bytes at this place are not a whole record with a true checksum."""


@dataclass(frozen=True, eq=False)
class Payload:
    """An Arrow IPC stream in the ``pieces`` in which it lies in memory: those of a batch's columns are not copied."""

    pieces: tuple[memoryview, ...]
    size: int

    def to_pybytes(self) -> bytes:
        """Return the stream in one piece."""
        return b"".join(self.pieces)


@dataclass(frozen=True)
class AppendRecord:
    """Rows that were appended to a table in one piece.

    ``payload`` is an Arrow IPC stream of exactly one batch with the table's columns but ``seq``; row i has
    ``seq = first_seq + i``. ``producer`` is empty when the rows came without one.
    """

    table: str
    first_seq: int
    rows: int
    producer: bytes
    sequence: int
    payload: pa.Buffer | Payload

    @property
    def last_seq(self) -> int:
        """``seq`` of the last row."""
        return self.first_seq + self.rows - 1

    def batch(self) -> pa.RecordBatch:
        """Return the rows, in memory of their own.

        The payload is copied: where it lies in a file it is not aligned, and it would keep the whole file in memory.
        """
        with pa.ipc.open_stream(pa.py_buffer(self.payload.to_pybytes())) as reader:
            batch = reader.read_next_batch()
        assert batch.num_rows == self.rows
        return batch


@dataclass(frozen=True)
class FileHeader:
    """What a log file says of itself."""

    number: int
    writer: UUID

    def serialize(self) -> bytes:
        """Return the 40 bytes that open a file."""
        tail = struct.pack("<Q16s", self.number, self.writer.bytes)
        return FILE_HEADER.pack(FILE_MAGIC, FILE_FORMAT, zlib.crc32(tail), self.number, self.writer.bytes)


def parse_file_header(data: bytes) -> FileHeader:
    """Return the header of a file from its first 40 bytes.

    Raises:
        BadRecordError: too short, not a log, another format, or a wrong checksum.
    """
    if len(data) < FILE_HEADER.size:
        raise BadRecordError(f"the file header has {len(data)} of {FILE_HEADER.size} bytes")
    magic, version, crc, number, writer = FILE_HEADER.unpack_from(data)
    if magic != FILE_MAGIC:
        raise BadRecordError("not a log file of tickflight")
    if version != FILE_FORMAT:
        raise BadRecordError(f"log format {version}, this version reads {FILE_FORMAT}")
    if zlib.crc32(data[16 : FILE_HEADER.size]) != crc:
        raise BadRecordError("the file header's checksum is wrong")
    return FileHeader(number, UUID(bytes=writer))


def batch_to_payload(batch: pa.RecordBatch) -> Payload:
    """Return ``batch`` as an Arrow IPC stream of one batch, which holds on to the batch's memory."""
    sink = _Pieces()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), batch.schema) as writer:
        writer.write_batch(batch)
    return sink.payload()


class _Pieces:
    """A file that keeps what is written to it. Arrow hands it a column's buffer as it is, and heads as bytes."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[memoryview] = []
        self._small: list[bytes] = []
        self._size = 0

    def write(self, data: bytes | pa.Buffer) -> int:
        size = len(data)
        if size < _SMALL_BYTES:
            self._small.append(bytes(data))
        else:
            self._join_small()
            self._pieces.append(memoryview(data))
        self._size += size
        return size

    def _join_small(self) -> None:
        if self._small:
            self._pieces.append(memoryview(b"".join(self._small)))
            self._small.clear()

    def payload(self) -> Payload:
        self._join_small()
        return Payload(tuple(self._pieces), self._size)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Have nothing to do, as ``close``: Arrow calls both."""

    def close(self) -> None:
        """See ``flush``."""


def serialize_record(record: AppendRecord, durable: int) -> list[bytes | memoryview]:
    """Return the record's bytes as buffers to be written one after the other; the payload is not copied."""
    table = record.table.encode()
    names = table + record.producer
    length = len(names) + record.payload.size
    fields = (
        *(length, KIND_APPEND, len(table), len(record.producer), 0),
        *(durable, record.first_seq, record.sequence, record.rows, 0),
    )
    head = RECORD_HEADER.pack(RECORD_MAGIC, 0, *fields)[8:] + names
    pieces = record.payload.pieces if isinstance(record.payload, Payload) else (memoryview(record.payload),)
    padding = bytes(-(RECORD_HEADER.size + length) % ALIGN)
    crc = zlib.crc32(head)
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
    return [RECORD_MAGIC + struct.pack("<I", crc) + head, *pieces, padding]


def parse_record(data: memoryview, offset: int) -> tuple[AppendRecord, int, int]:
    """Return the record at ``offset``, the offset behind it, and how much of the file was durable before it.

    Raises:
        BadRecordError: the bytes there are cut short or damaged.
    """
    if len(data) - offset < RECORD_HEADER.size:
        raise BadRecordError(f"{len(data) - offset} bytes are left, a record's head has {RECORD_HEADER.size}")
    (magic, crc, length, kind, table_length, producer_length, zero, durable, first_seq, sequence, rows, zero2) = (
        RECORD_HEADER.unpack_from(data, offset)
    )
    if magic != RECORD_MAGIC:
        raise BadRecordError("no record starts here")
    end = offset + RECORD_HEADER.size + length
    if end > len(data) or table_length + producer_length > length:
        raise BadRecordError(f"the record is cut short: it says {length} bytes")
    if zlib.crc32(data[offset + 8 : end]) != crc:
        raise BadRecordError("the checksum is wrong")
    if kind != KIND_APPEND or zero or zero2:
        raise BadRecordError(f"unknown kind of record {kind}")
    names = offset + RECORD_HEADER.size
    producer = names + table_length
    payload = producer + producer_length
    record = AppendRecord(
        table=bytes(data[names:producer]).decode(),
        first_seq=first_seq,
        rows=rows,
        producer=bytes(data[producer:payload]),
        sequence=sequence,
        payload=pa.py_buffer(data[payload:end]),
    )
    return record, end + -end % ALIGN, durable


def record_span(data: memoryview, offset: int) -> int:
    """Return how many bytes the record at ``offset`` says it has, padding included; a head's if none starts there."""
    if len(data) - offset < RECORD_HEADER.size or data[offset : offset + len(RECORD_MAGIC)] != RECORD_MAGIC:
        return RECORD_HEADER.size
    size = RECORD_HEADER.size + int(RECORD_HEADER.unpack_from(data, offset)[2])
    return size + -size % ALIGN


def find_record(data: memoryview, offset: int) -> int | None:
    """Return the offset of the next whole record at or after ``offset``, or None: for telling damage from a tail."""
    for match in _RECORD_START.finditer(data, offset):
        place = match.start()
        if place % ALIGN == 0:
            try:
                parse_record(data, place)
            except BadRecordError:
                pass
            else:
                return place
    return None
