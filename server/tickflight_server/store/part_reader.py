"""Reading the rows of a part batch by batch, and no further than somebody asks.

The rule of this file: what is read has been opened by ``store.access``, which found it whole. Of the labels that all
rows of a part share, nothing is read: they are those of its partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tickflight_server.errors import StorageError
from tickflight_server.store.partition import DAMAGED_HINT

_SOON_ROWS = 4096
Columns = Sequence[tuple[str, pa.DataType]]
"""Names of columns, and the types to give them in."""


def read_batches(
    path: Path,
    columns: Columns,
    same: Mapping[str, str],
    labels: Sequence[str],
    *,
    upto: int | None,
    rows: int,
    soon: bool = False,
) -> Iterator[list[pa.Array]]:
    """Yield ``columns`` of the part at ``path`` in batches of at most ``rows`` rows.

    ``same`` are the columns that hold one text in all of its rows. Rows with a ``seq`` after ``upto``, if it is given,
    are left out. With ``soon`` the first batches are small, and there sooner. ``labels`` are read as
    dictionaries, which takes less than half the time of reading them as texts.

    Raises:
        StorageError: the file cannot be read.
    """
    constants = {name: _repeated(same[name], kind, rows) for name, kind in columns if name in same}
    read = [name for name, _ in columns if name not in same]
    if upto is not None:
        read.append("seq")
    try:
        with pq.ParquetFile(path, read_dictionary=labels, pre_buffer=False) as file:
            if not read:  # the footer says how many rows there are
                count = file.metadata.num_rows
                for start in range(0, count, rows):
                    yield [constants[name].slice(0, min(rows, count - start)) for name, _ in columns]
                return
            for many in _batches(file, list(dict.fromkeys(read)), rows, soon=soon):
                batch = many if upto is None else many.filter(pc.less_equal(many.column("seq"), upto))
                size = batch.num_rows
                yield [
                    constants[name].slice(0, size) if name in constants else as_type(batch.column(name), kind)
                    for name, kind in columns
                ]
    except (OSError, pa.ArrowException) as error:
        text = str(error).splitlines()[0].replace(f"{path.parent}/", "")  # a client has no use for the server's folders
        raise StorageError(f"cannot read the part {path.name}: {text}.", hint=DAMAGED_HINT) from None


def _batches(file: pq.ParquetFile, columns: list[str], rows: int, *, soon: bool) -> Iterator[pa.RecordBatch]:
    groups = range(file.num_row_groups)
    read = partial(file.iter_batches, columns=columns, use_threads=False)
    if soon:
        yield from read(min(rows, _SOON_ROWS), row_groups=groups[:1])
        groups = groups[1:]
    if groups:
        yield from read(rows, row_groups=groups)


def as_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return ``column`` in type ``kind``, as it is where it has it."""
    return column if column.type == kind else column.cast(kind)


def _repeated(text: str, kind: pa.DataType, rows: int) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, kind.index_type), rows), pa.array([text]))
    return pa.repeat(pa.scalar(text, kind), rows)


class _Rows(ds.InMemoryDataset):  # type: ignore[misc]
    """Some columns of a dataset: whoever scans it, or asks for its schema, meets no others."""

    def __init__(self, rows: ds.Dataset, schema: pa.Schema) -> None:
        super().__init__(schema.empty_table())
        self._rows = rows

    def scanner(self, columns: Any = None, filter: Any = None, **kwargs: Any) -> ds.Scanner:
        """Return a scan of the rows."""
        return self._rows.scanner(columns=self.schema.names if columns is None else columns, filter=filter, **kwargs)


def rows_from(paths: Sequence[str], schema: pa.Schema, since: pa.Scalar, columns: pa.Schema) -> ds.Dataset:
    """Return ``columns`` of the rows of parts, which have ``schema``, with a ``timestamp`` of ``since`` or later."""
    parts = ds.dataset(list(paths), schema=schema, format=ds.ParquetFileFormat())
    return _Rows(parts.filter(ds.field("timestamp") >= since), columns)
