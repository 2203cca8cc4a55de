"""Parts: immutable Parquet files, one per day, exchange and symbol of a flush; written aside, not yet visible.

The rule of this file: a part is sorted by timestamp and ``seq``, is on disk with its folders when ``write_parts``
returns, and says of itself exactly what the catalog will say of it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tickflight_server.errors import StorageError
from tickflight_server.paths import part_file_name, partition_folder
from tickflight_server.store.files import make_folders, sync_file, sync_folder

DAY_US = 86_400_000_000
# What repeats goes through a dictionary; what counts up is stored as differences; ids rarely repeat.
_DELTA_ENCODED = ("timestamp", "receipt_timestamp", "seq", "sequence_number", "start", "stop", "next_funding_time")
_PLAIN_TEXT = ("id", "order_id", "client_order_id")


@dataclass(frozen=True)
class Part:
    """A written part; ``path`` is relative to the table's folder, times are microseconds since 1970, inclusive."""

    path: str
    exchange: str
    symbol: str
    day: int
    rows: int
    nbytes: int
    min_us: int
    max_us: int
    min_seq: int
    max_seq: int

    @property
    def date(self) -> datetime:
        """The part's day, midnight UTC; ``day`` counts from 1970-01-01."""
        return datetime.fromtimestamp(self.day * 86_400, UTC)


@dataclass(frozen=True)
class PartOptions:
    """How parts are written."""

    compression: str
    row_group_rows: int


def write_parts(folder: Path, batches: Sequence[pa.RecordBatch], schema: pa.Schema, options: PartOptions) -> list[Part]:
    """Write the rows of ``batches``, one table's, to parts below ``folder``; return them in order of their keys.

    ``batches`` have the table's schema in memory, ``schema`` is the one in parts. When this returns, the files and
    their folders are on disk; until the catalog lists them, nobody reads them.

    Raises:
        StorageError: a file or folder cannot be written.
    """
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    first_seq, last_seq = (pc.min_max(table.column("seq"))[k].as_py() for k in ("min", "max"))
    name = part_file_name(first_seq, last_seq, secrets.token_hex(4))
    touched: set[Path] = set()
    parts: list[Part] = []
    try:
        for exchange, symbol, day, rows in _split(table):
            date = datetime.fromtimestamp(day * 86_400, UTC)
            relative = f"{partition_folder(date.year, date.month, date.day, exchange, symbol)}/{name}"
            path = folder / relative
            touched.update(make_folders(path.parent, folder))
            _write_file(path, rows.cast(schema), options)
            parts.append(_describe(relative, path, exchange, symbol, day, rows))
        for directory in sorted(touched, reverse=True):
            sync_folder(directory)
    except OSError as error:
        raise StorageError(
            f"cannot write a part below {folder.name}: {error.strerror or error}.",
            hint="Free space or mend the permissions; the rows are safe in the log and stay queryable.",
        ) from None
    return parts


def _split(table: pa.Table) -> Iterator[tuple[str, str, int, pa.Table]]:
    """Yield exchange, symbol, day and the sorted rows of each partition, in order of the names and days."""
    exchange, symbol = (table.column(n).chunk(0) for n in ("exchange", "symbol"))
    times = table.column("timestamp").cast(pa.int64()).to_numpy()
    seq = table.column("seq").to_numpy()
    days = times // DAY_US
    names = [_ranks(exchange), _ranks(symbol)]
    order = np.lexsort((seq, times, days, names[1][0], names[0][0]))
    keys = np.stack([names[0][0][order], names[1][0][order], days[order]])
    starts = np.flatnonzero(np.r_[True, np.any(keys[:, 1:] != keys[:, :-1], axis=0)])
    ends = np.r_[starts[1:], len(order)]
    ordered = table.take(pa.array(order))
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        x, s, day = keys[:, start].tolist()
        yield names[0][1][x], names[1][1][s], day, ordered.slice(start, end - start)


def _ranks(column: pa.DictionaryArray) -> tuple[np.ndarray, list[str]]:
    """Return each row's place among the sorted distinct values, and those values."""
    values = column.dictionary.to_pylist()
    distinct = sorted(set(values))
    place = {v: i for i, v in enumerate(distinct)}
    ranks = np.array([place[v] for v in values], dtype=np.int64)
    return ranks[column.indices.to_numpy()], distinct


def _write_file(path: Path, rows: pa.Table, options: PartOptions) -> None:
    names = rows.schema.names
    flat = [n for n in names if n not in _DELTA_ENCODED and n not in _PLAIN_TEXT]
    with path.open("xb") as sink:
        os.fchmod(sink.fileno(), 0o600)
        pq.write_table(
            rows,
            sink,
            compression=options.compression.upper(),
            row_group_size=options.row_group_rows,
            use_dictionary=flat,
            column_encoding={n: "DELTA_BINARY_PACKED" for n in names if n in _DELTA_ENCODED},
            write_statistics=True,
            sorting_columns=pq.SortingColumn.from_ordering(rows.schema, [("timestamp", "ascending")]),
        )
    sync_file(path)


def _describe(relative: str, path: Path, exchange: str, symbol: str, day: int, rows: pa.Table) -> Part:
    times = pc.min_max(rows.column("timestamp"))
    seq = pc.min_max(rows.column("seq"))
    return Part(
        path=relative,
        exchange=exchange,
        symbol=symbol,
        day=day,
        rows=rows.num_rows,
        nbytes=path.stat().st_size,
        min_us=times["min"].value,
        max_us=times["max"].value,
        min_seq=seq["min"].as_py(),
        max_seq=seq["max"].as_py(),
    )
