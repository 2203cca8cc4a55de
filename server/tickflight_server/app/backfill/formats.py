"""Files that an export writes: Parquet, CSV, Arrow.

The rule of this file: a file has its name only when it is complete and on disk; until then it lies beside it under a
hidden one, and a failure removes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from tickflight_server.errors import InputError, StorageError

GROUP_ROWS = 131_072
GROUP_BYTES = 64 << 20
ENDINGS = {".parquet": "parquet", ".csv": "csv", ".arrow": "arrow", ".feather": "arrow"}


class RowFile(Protocol):
    """Takes the rows of one file."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""

    def close(self) -> None:
        """Write the end of the file."""


class ParquetFile:
    """Parquet with zstd, in groups of ``GROUP_ROWS`` rows, or fewer of ``GROUP_BYTES``."""

    def __init__(self, file: Any, schema: pa.Schema) -> None:
        self._writer = parquet.ParquetWriter(file, schema, compression="zstd")
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; a group is written when it is full."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._waiting.clear()
        self._rows = self._bytes = 0

    def close(self) -> None:
        """Write the last group and the file's end."""
        if self._waiting:
            self._write_group()
        self._writer.close()


class CsvFile:
    """CSV with a header; lists are JSON. Texts are in quotes, so that an empty one is not a missing one."""

    def __init__(self, file: Any, schema: pa.Schema) -> None:
        self._schema = schema
        plain = [f.with_type(pa.string()) if pa.types.is_nested(f.type) else f for f in schema]
        self._plain = pa.schema(plain)
        self._writer = arrow_csv.CSVWriter(file, self._plain)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        columns = [_json_of(c) if pa.types.is_nested(c.type) else c for c in batch.columns]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._plain))

    def close(self) -> None:
        """End the file."""
        self._writer.close()


class ArrowFile:
    """Arrow's file format (also called Feather, version 2), with zstd."""

    def __init__(self, file: Any, schema: pa.Schema) -> None:
        self._writer = pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression="zstd"))

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Write the file's end."""
        self._writer.close()


def _json_of(column: pa.Array) -> pa.Array:
    """Return lists as JSON: numbers in full digits, without a detour over Python; anything else through it."""
    inner = column.type.value_type if pa.types.is_list(column.type) else None
    if inner is None or not (pa.types.is_floating(inner) or pa.types.is_decimal(inner) or pa.types.is_integer(inner)):
        values = column.to_pylist()
        return pa.array([None if v is None else json.dumps(v, default=str) for v in values], pa.string())
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array([0, *lengths.cumsum().tolist()], pa.int32())
    texts = pc.fill_null(column.flatten().cast(pa.string()), "null")
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ",")
    text = pc.binary_join_element_wise("[", joined, "]", "")
    return pc.if_else(column.is_null(), pa.scalar(None, pa.string()), text)


FORMATS: Mapping[str, Callable[[Any, pa.Schema], RowFile]] = {
    "parquet": ParquetFile,
    "csv": CsvFile,
    "arrow": ArrowFile,
}


def format_of(path: Path, wanted: str | None) -> str:
    """Return a file's format: the wanted one, else by its ending, else Parquet.

    Raises:
        InputError: a packed ending and another format than CSV.
    """
    endings = [s.lower() for s in path.suffixes]
    packed = bool(endings) and endings[-1] in (".gz", ".zst")
    if packed:
        endings.pop()
    found = wanted or ENDINGS.get(endings[-1] if endings else "", "parquet")
    if packed and found != "csv":
        raise InputError(f"{path.name}: only CSV is packed as a whole.", hint=f"Name it {path.stem}, or take csv.")
    return found


class Output:
    """A file under a hidden name; ``finish`` gives it its own, leaving the block without it removes it.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, hidden: Path, name: str, kind: str, schema: pa.Schema) -> None:
        self._hidden = hidden
        self.rows = 0
        compression = {".gz": "gzip", ".zst": "zstd"}.get(Path(name).suffix.lower())
        try:
            hidden.parent.mkdir(parents=True, exist_ok=True)
            self._file = pa.output_stream(str(hidden), compression=compression)
        except OSError as error:
            raise _unwritable(hidden.parent, error) from None
        self._writer = FORMATS[kind](self._file, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        try:
            self._writer.write(batch)
        except OSError as error:
            raise _unwritable(self._hidden.parent, error) from None
        self.rows += batch.num_rows

    def size(self) -> int:
        """Return how large the file is by now."""
        return self._hidden.stat().st_size

    def finish(self) -> int:
        """Complete the file, on disk, still under its hidden name; return its size."""
        try:
            self._writer.close()
            self._file.close()
            with self._hidden.open("rb") as written:
                os.fsync(written.fileno())
        except OSError as error:
            raise _unwritable(self._hidden.parent, error) from None
        return self.size()


def _unwritable(folder: Path, error: OSError) -> StorageError:
    reason = str(error.strerror or error).splitlines()[0].rstrip(".")
    return StorageError(f"cannot write in {folder}: {reason}.", hint="Check --output, its permissions and free space.")
