"""Parts: immutable Parquet files, one per day, exchange and symbol of a flush; written aside, not yet visible.

The rule of this file: a part is sorted by timestamp and ``seq``, is on disk with its folders when the writer's block
ends, and says of itself exactly what the catalog will say of it; its name holds the checksums of its contents.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from tickflight_server.errors import StorageError
from tickflight_server.files import make_folders, sync_file, sync_folder, write_all
from tickflight_server.paths import parse_part_file_name, part_file_name, partition_folder
from tickflight_server.store.key_parts import key_metadata
from tickflight_server.store.part_sums import with_sums

DAY_US = 86_400_000_000
# What repeats goes through a dictionary; what counts up is stored as differences; ids rarely repeat, but begin alike.
_DELTA_ENCODED = ("timestamp", "receipt_timestamp", "seq", "sequence_number", "start", "stop", "next_funding_time")
_IDS = ("id", "order_id", "client_order_id")
_ZSTD_LEVEL = 3  # a tenth smaller than at 1, for a tenth of the time to write it (bench size)
_SAMPLE_ROWS = 4096
_REPEAT_SHARE = 5  # numbers of which more than one in so many is another go without a dictionary: 11 % less of a book
_STATISTICS_ROWS = 2048  # of a smaller part, statistics of all columns would be a quarter, and save no reader anything
_BOUNDS = ["timestamp", "seq"]
_LABELS_MAX = 16  # entries of a dictionary that a part gets as it is, used or not


class PartitionKey(NamedTuple):
    """What the rows of a part have in common; ``day`` counts from 1970-01-01."""

    exchange: str
    symbol: str
    day: int

    @property
    def date(self) -> datetime:
        """The day's midnight, UTC."""
        return datetime.fromtimestamp(self.day * 86_400, UTC)

    @property
    def folder(self) -> str:
        """The partition's folder, relative to its table's."""
        date = self.date
        return partition_folder(date.year, date.month, date.day, self.exchange, self.symbol)


@dataclass(frozen=True)
class Part:
    """A written part.

    ``path`` is relative to the table's folder, or an absolute URL where it lies elsewhere; times are microseconds
    since 1970, inclusive.
    """

    path: str
    key: PartitionKey
    rows: int
    nbytes: int
    min_us: int
    max_us: int
    min_seq: int
    max_seq: int

    @property
    def last(self) -> int:
        """The ``seq`` up to which its partition's parts hold all rows, as its name says."""
        bounds = parse_part_file_name(self.path.rpartition("/")[2])
        return max(self.max_seq, bounds[1] if bounds else 0)


@dataclass(frozen=True)
class PartOptions:
    """How parts are written."""

    compression: str
    row_group_rows: int
    dedup: tuple[str, ...] = ()
    """Key columns beside exchange and symbol, empty for none."""


@dataclass(frozen=True)
class Partitioned:
    """Rows of one table by exchange, symbol and day.

    ``order[starts[i]:ends[i]]`` are the places of the rows of ``keys[i]``, in order of timestamp and ``seq``.
    """

    rows: pa.Table
    keys: list[PartitionKey]
    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def take(self, place: int) -> pa.Table:
        """Return the rows of the partition at ``place``, copied: they are not in memory twice all at once."""
        return self.rows.take(pa.array(self.order[self.starts[place] : self.ends[place]]))


def partition_rows(table: pa.Table) -> Partitioned:
    """Return the rows of ``table``, one table's in its schema in memory, by partition."""
    table = table.unify_dictionaries().combine_chunks()
    if table.num_rows == 0:
        none = np.empty(0, np.int64)
        return Partitioned(table, [], none, none, none)
    exchanges, symbols = (_ranks(table.column(n).chunk(0)) for n in ("exchange", "symbol"))
    times = table.column("timestamp").cast(pa.int64()).to_numpy()
    days, day = _days(times)
    ranks = exchanges.ranks
    if len(exchanges.names) * len(symbols.names) * len(days) > np.iinfo(ranks.dtype).max:
        ranks = ranks.astype(np.int64)
    group = (ranks * len(symbols.names) + symbols.ranks) * len(days) + day
    order = _in_order(group, times, table.column("seq").to_numpy())
    group = group[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    found = []
    for number in group[starts].tolist():
        rest, day_number = divmod(number, len(days))
        exchange, symbol = divmod(rest, len(symbols.names))
        found.append(PartitionKey(exchanges.names[exchange], symbols.names[symbol], int(days[day_number])))
    return Partitioned(table, found, order, starts, np.r_[starts[1:], len(order)])


def _days(times: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | int]:
    """Return the days that ``times`` are of, and each one's place among them, a single 0 if there is but one day."""
    first, last = int(times.min()) // DAY_US, int(times.max()) // DAY_US
    if first == last:
        return np.array([first]), 0
    days, places = np.unique(times // DAY_US, return_inverse=True)
    return days, places


def _in_order(
    group: npt.NDArray[np.int64], times: npt.NDArray[np.int64], seq: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the places of rows in order of group, time and ``seq``.

    Rows mostly come in order of ``seq``, and nearly in that of time: sorts that keep the order of equals have little
    to do, and small numbers are sorted by radix.
    """
    if len(seq) > 1 and not (seq[1:] > seq[:-1]).all():
        return np.lexsort((seq, times, group))
    narrow = group.astype(np.uint16) if int(group.max()) < 1 << 16 else group
    order = np.argsort(narrow, kind="stable")
    sorted_group, sorted_times = narrow[order], times[order]
    ends = np.r_[np.flatnonzero(sorted_group[1:] != sorted_group[:-1]) + 1, len(group)]
    begin = 0
    for end in ends.tolist():
        mine = sorted_times[begin:end]
        if not (mine[1:] >= mine[:-1]).all():
            order[begin:end] = order[begin:end][np.argsort(mine, kind="stable")]
        begin = end
    return order


class _Ranks(NamedTuple):
    """Each row's place among the sorted distinct values, and those values."""

    ranks: npt.NDArray[np.int32]
    names: list[str]


def _ranks(column: pa.DictionaryArray) -> _Ranks:
    values = column.dictionary.to_pylist()
    distinct = sorted(set(values))
    place = {v: i for i, v in enumerate(distinct)}
    ranks = np.array([place[v] for v in values], dtype=np.int32)
    return _Ranks(ranks[column.indices.to_numpy()], distinct)


class PartWriter:
    """Writes parts below ``folder``. When its block ends, they are on disk with their names; when it fails, gone.

    Until the catalog lists them, nobody reads them.

    Raises:
        StorageError: a file or folder cannot be written.
    """

    def __init__(self, folder: Path, schema: pa.Schema, options: PartOptions) -> None:
        self._folder = folder
        self._schema = schema
        self._options = options
        self._touched: set[Path] = set()
        self._written: list[Path] = []

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
        else:
            self._remove()

    def write(self, key: PartitionKey, rows: pa.Table, first: int, last: int) -> Part:
        """Write the sorted ``rows`` of a partition to a part whose name says ``first`` and ``last``; return it."""
        rows = _with_labels(rows, key, self._schema)
        data, end = with_sums(_encode(rows, self._options))
        name = part_file_name(first, last, xxhash.xxh3_64_hexdigest(data) + end)
        relative = f"{key.folder}/{name}"
        path = self._folder / relative
        try:
            self._touched.update(make_folders(path.parent, self._folder))
            if not path.exists():
                self._written.append(path)
            _write_file(path, data)
        except OSError as error:
            raise _unwritable(path, error) from None
        times, seq = (pc.min_max(rows.column(n)) for n in ("timestamp", "seq"))
        bounds = (times["min"].value, times["max"].value, seq["min"].as_py(), seq["max"].as_py())
        return Part(relative, key, rows.num_rows, len(data), *bounds)

    def _finish(self) -> None:
        for directory in sorted(self._touched, reverse=True):
            try:
                sync_folder(directory)
            except OSError as error:
                self._remove()
                raise _unwritable(directory, error) from None

    def _remove(self) -> None:
        """Take back what was written: a disk that is full must not fill up with failed attempts."""
        for path in self._written:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def read_part(path: Path) -> pa.Table:
    """Return all rows of a part in the types of the file.

    Raises:
        StorageError: the file is missing or damaged.
    """
    try:
        return pq.read_table(path, partitioning=None, memory_map=False)
    except (OSError, pa.ArrowException) as error:
        text = str(error).splitlines()[0]
        raise StorageError(f"cannot read the part {path.name}: {text}.", hint=DAMAGED_HINT) from None


DAMAGED_HINT = "Restore the file from a backup; `tickflight-server check` lists what is damaged and can set it aside."


def _with_labels(rows: pa.Table, key: PartitionKey, schema: pa.Schema) -> pa.Table:
    """Return ``rows`` in ``schema``, but labels of few values stay numbered, as the file will have them."""
    columns = []
    for field in schema:
        column = rows.column(field.name)
        if field.name in ("exchange", "symbol") and pa.types.is_dictionary(column.type):
            value = key.exchange if field.name == "exchange" else key.symbol
            codes = pa.array(np.zeros(rows.num_rows, np.int32))
            columns.append(pa.chunked_array([pa.DictionaryArray.from_arrays(codes, pa.array([value]))]))
        elif pa.types.is_dictionary(column.type) and len(column.chunk(0).dictionary) <= _LABELS_MAX:
            columns.append(column)
        else:
            columns.append(column.cast(field.type))
    return pa.table(columns, names=schema.names)


def _encode(rows: pa.Table, options: PartOptions) -> pa.Buffer:
    """Return the file of ``rows``. Labels may be numbered: Parquet's own schema says what they are to a reader."""
    encodings = {n: "DELTA_BINARY_PACKED" for n in rows.schema.names if n in _DELTA_ENCODED}
    encodings |= {n: "DELTA_BYTE_ARRAY" for n in rows.schema.names if n in _IDS}
    leaves = [
        f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name
        for f in rows.schema
        if f.name not in encodings and not _differs(rows.column(f.name))
    ]
    metadata = key_metadata(rows, options.dedup) if options.dedup else None
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows.replace_schema_metadata(metadata),
        sink,
        compression=options.compression.upper(),
        compression_level=_ZSTD_LEVEL if options.compression == "zstd" else None,
        row_group_size=options.row_group_rows,
        use_dictionary=leaves or False,
        column_encoding=encodings,
        write_statistics=True if rows.num_rows >= _STATISTICS_ROWS else _BOUNDS,
        # Arrow's schema would say that labels are dictionaries, and is a third of a small part
        store_schema=False,
        sorting_columns=pq.SortingColumn.from_ordering(rows.schema, [("timestamp", "ascending")]),
    )
    return sink.getvalue()


def _differs(column: pa.ChunkedArray) -> bool:
    """Return whether ``column`` holds doubles that seldom repeat: compressed, they are smaller as they are."""
    some = column.slice(0, _SAMPLE_ROWS).combine_chunks()
    if pa.types.is_list(column.type):
        some = some.flatten().slice(0, _SAMPLE_ROWS)
    return pa.types.is_float64(some.type) and len(pc.unique(some)) * _REPEAT_SHARE > len(some)


def _write_file(path: Path, data: bytes) -> None:
    # a file of this name has these contents already, or is what a crash left of them
    if path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data:
        sync_file(path)
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, memoryview(data))
        os.fsync(fd)
    finally:
        os.close(fd)


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot write a part, {path.name}: {error.strerror or error}.",
        hint="Free space or mend the permissions; the rows are safe in the log and stay queryable.",
    )
