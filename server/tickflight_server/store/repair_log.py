"""What damaged stretches of the log still say, for table ``system.rejected``.

The rule of this file: bytes whose checksum is wrong are never taken for rows. What can be read of them is kept as text
with file and offset, for a person to judge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tickflight_server.schemas import STORED, NumericType, TableSchema
from tickflight_server.store.evolution import adapt
from tickflight_server.store.log_scan import Damage
from tickflight_server.store.record import ALIGN, KIND_APPEND, RECORD_HEADER, RECORD_MAGIC, AppendRecord
from tickflight_server.store.rows import rejected_batch
from tickflight_server.store.seqset import SeqSet

_BYTES_SHOWN = 1024
_BYTES_KEPT = 256 << 20  # of rows in damaged records, all together; of what is above it only the head is told
_MAGIC = re.compile(re.escape(RECORD_MAGIC))


@dataclass
class Fragment:
    """A piece of a damaged stretch: a record as far as it can be read.

    ``first_seq`` is None while nothing around it bears out what its head says; ``after`` is the ``seq`` that the next
    row of its table had at this place of the log. ``batch`` are its rows in the table's schema, if they can be read.
    """

    file: str
    offset: int
    what: str
    text: str
    table: str = "-"
    rows: int = 0
    head_first: int = 0
    first_seq: int | None = None
    after: int | None = None
    producer: bytes = b""
    batch: pa.RecordBatch | None = None

    @property
    def last_seq(self) -> int:
        """``seq`` of the last row, 0 if the first is not believed."""
        return 0 if self.first_seq is None else self.first_seq + self.rows - 1


class Fragments:
    """Gathers what damaged stretches say while the log is read in order.

    Args:
        flushed: of each table, the ``seq`` up to which all rows are in parts.
    """

    def __init__(
        self, numeric: NumericType, flushed: Mapping[str, int], tables: Mapping[str, TableSchema] = STORED
    ) -> None:
        self._numeric = numeric
        self._flushed = flushed
        self._tables = tables
        self._next: dict[str, int] = {}
        self._bytes = 0
        self.found: list[Fragment] = []

    def saw(self, record: AppendRecord) -> None:
        """Note a whole record: what is before and behind it in its table follows from its ``seq``."""
        self._next[record.table] = record.last_seq + 1
        if self.found and (last := self.found[-1]).table == record.table and last.first_seq is None:
            if last.head_first + last.rows == record.first_seq:
                last.first_seq = last.head_first
            elif last.batch is not None and last.after is not None and last.after + last.rows == record.first_seq:
                last.first_seq = last.after

    def add(self, damage: Damage) -> None:
        """Keep what ``damage`` says."""
        for start, end in _split(damage.data) if damage.offset else ():  # the file's head holds no row
            self.found.append(self._read(damage, start, end))

    def _read(self, damage: Damage, start: int, end: int) -> Fragment:
        data = damage.data[start:end]
        head = _parse_head(data)
        shown: dict[str, Any] = {"file": damage.file, "offset": damage.offset + start, "bytes": end - start}
        if head is not None:
            shown |= {"table": head.table, "first_seq": head.first_seq, "rows": head.rows}
            shown |= {"producer": head.producer.hex(), "sequence": head.sequence}
        shown["hex"] = bytes(data[:_BYTES_SHOWN]).hex()
        fragment = Fragment(damage.file, damage.offset + start, damage.what, json.dumps(shown))
        if head is None:
            return fragment
        batch = self._decode(head) if self._bytes < _BYTES_KEPT else None
        self._bytes += batch.nbytes if batch is not None else 0
        fragment.batch = batch
        fragment.table, fragment.producer, fragment.head_first = head.table, head.producer, head.first_seq
        fragment.rows = head.rows if batch is None else batch.num_rows
        fragment.after = self._next.get(head.table)
        begins = fragment.after is None and batch is not None and head.first_seq <= self._flushed.get(head.table, 0) + 1
        sensible = batch is not None or head.rows <= len(data)
        if sensible and (begins or head.first_seq == fragment.after):
            fragment.first_seq = head.first_seq
            self._next[head.table] = fragment.last_seq + 1
        return fragment

    def _decode(self, head: AppendRecord) -> pa.RecordBatch | None:
        schema = self._tables[head.table].arrow_input(self._numeric, memory=True)
        try:
            with pa.ipc.open_stream(pa.py_buffer(head.payload.to_pybytes())) as reader:
                batch = reader.read_next_batch()
            batch.validate(full=True)
            batch = adapt(batch, schema)
            batch.validate(full=True)
        except Exception:  # bytes that are not what they should be can raise anything
            return None
        return batch

    def batches(
        self, holes: Mapping[str, SeqSet], files: set[str], now_us: int
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield rows for table ``rejected``, each batch with the log file it is from.

        ``holes`` are the rows that are lost, by table: what is not lost is not told. Only of ``files``.
        """
        for fragment in self.found:
            if fragment.file not in files or self._in_parts(fragment):
                continue
            place = f"repair: log file {fragment.file}, offset {fragment.offset}: {fragment.what}"
            lost = np.ones(fragment.rows, dtype=bool)
            if fragment.first_seq is not None:
                seq = np.arange(fragment.first_seq, fragment.first_seq + fragment.rows, dtype=np.int64)
                lost = holes.get(fragment.table, SeqSet()).contains(seq)
                if not lost.any():
                    continue
            if fragment.batch is None:
                yield fragment.file, self._text_row(fragment, place, now_us)
                continue
            reasons = {int(row): f"{place}; {_number(fragment, int(row))}" for row in np.flatnonzero(lost)}
            table = self._tables[fragment.table]
            try:
                rows = rejected_batch(
                    table, fragment.batch, reasons, self._numeric, now_us=now_us, producer=fragment.producer
                )
            except (ValueError, TypeError, OverflowError):  # such as text that is not UTF-8
                rows = self._text_row(fragment, place, now_us)
            yield fragment.file, rows

    def _in_parts(self, fragment: Fragment) -> bool:
        """Return whether the place in the log says that the rows were in parts long ago."""
        return fragment.after is not None and fragment.after + fragment.rows - 1 <= self._flushed.get(fragment.table, 0)

    def _text_row(self, fragment: Fragment, place: str, now_us: int) -> pa.RecordBatch:
        row = {
            "exchange": "-",
            "symbol": "-",
            "table": fragment.table,
            "reason": place,
            "row": fragment.text,
            "producer": fragment.producer.hex() or None,
            "timestamp": now_us,
            "receipt_timestamp": now_us,
        }
        schema = STORED["rejected"].arrow_input(self._numeric, memory=True)
        arrays = [
            pa.array([row[f.name]], pa.int64()).cast(f.type)
            if pa.types.is_timestamp(f.type)
            else pa.array([row[f.name]], f.type)
            for f in schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _number(fragment: Fragment, row: int) -> str:
    if fragment.first_seq is None:
        return f"row {row} of the record, its seq is not known; not verified"
    return f"it had seq {fragment.first_seq + row}; not verified"


def _split(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield the pieces of a damaged stretch: each begins where a record could begin."""
    starts = [m.start() for m in _MAGIC.finditer(data) if m.start() % ALIGN == 0]
    if not starts or starts[0] != 0:
        starts.insert(0, 0)
    yield from zip(starts, [*starts[1:], len(data)], strict=True)


def _parse_head(data: memoryview) -> AppendRecord | None:
    """Return a record without believing its checksum, or None if its head makes no sense."""
    if len(data) < RECORD_HEADER.size:
        return None
    (magic, _, length, kind, table_length, producer_length, zero, _, first_seq, sequence, rows, zero2) = (
        RECORD_HEADER.unpack_from(data)
    )
    if magic != RECORD_MAGIC or kind != KIND_APPEND or zero or zero2 or rows == 0 or first_seq == 0:
        return None
    names = RECORD_HEADER.size
    producer, payload = names + table_length, names + table_length + producer_length
    end = min(names + length, len(data))
    table = bytes(data[names:producer]).decode(errors="replace")
    if payload > end or table not in STORED or first_seq + rows >= 1 << 63:
        return None
    return AppendRecord(
        table, first_seq, rows, bytes(data[producer:payload]), sequence, pa.py_buffer(data[payload:end])
    )
