"""A digest of rows: the same for the same rows in the same order, however they are cut into batches.

The rule of this file: what is hashed are values, lengths and places of nulls, each stream of them by itself, so that no
boundary of a batch and nothing that lies in memory beside the values has a part in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


class _Column:
    """The digest of one column: of its values, of its lengths where they have some, and of where nulls are."""

    def __init__(self) -> None:
        self._values = hashlib.blake2b(digest_size=32)
        self._nulls = hashlib.blake2b(digest_size=32)
        self._inner: _Column | None = None
        self._text: Any = None
        self._rows = 0

    def add(self, column: pa.Array) -> None:
        if column.null_count:
            places = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)) + self._rows
            self._nulls.update(places.astype("<i8").data)
        self._rows += len(column)
        kind = column.type
        if pa.types.is_dictionary(kind):
            column, kind = column.dictionary_decode(), kind.value_type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self._inner = self._inner or _Column()
            self._values.update(_lengths(pc.list_value_length(column).fill_null(0)))
            self._inner.add(column.flatten())
        elif pa.types.is_string(kind) or pa.types.is_binary(kind):
            self._text = self._text or hashlib.blake2b(digest_size=32)
            if column.null_count:
                column = column.fill_null("" if pa.types.is_string(kind) else b"")
            self._values.update(_lengths(pc.binary_length(column)))
            self._text.update(_texts(column))
        else:
            self._values.update(_fixed(column))

    def digest(self) -> bytes:
        parts = [str(self._rows).encode(), self._values.digest(), self._nulls.digest()]
        if self._text is not None:
            parts.append(self._text.digest())
        if self._inner is not None:
            parts.append(self._inner.digest())
        return hashlib.blake2b(b"".join(parts), digest_size=32).digest()


class Digest:
    """The digest of some tables' rows and of the order in which they follow each other."""

    def __init__(self, schemas: Mapping[str, pa.Schema]) -> None:
        self._schemas = dict(schemas)
        self._columns = {table: [_Column() for _ in schema] for table, schema in self._schemas.items()}
        self._order = hashlib.blake2b(digest_size=32)

    def add(self, batches: Mapping[str, pa.RecordBatch], order: npt.NDArray[np.uint8]) -> None:
        """Add rows that come after those before."""
        self._order.update(np.ascontiguousarray(order).data)
        for table, columns in self._columns.items():
            batch = batches.get(table)
            if batch is not None and batch.num_rows:
                for digest, column in zip(columns, batch.columns, strict=True):
                    digest.add(column)

    def hexdigest(self) -> str:
        """Return the digest of all that was added, 64 hexadecimal digits."""
        whole = hashlib.blake2b(self._order.digest(), digest_size=32)
        for table, schema in self._schemas.items():
            whole.update(f"{table}\n".encode())
            for field, column in zip(schema, self._columns[table], strict=True):
                whole.update(f"{field.name} {field.type}\n".encode() + column.digest())
        return whole.hexdigest()


def _lengths(lengths: pa.Array) -> memoryview:
    numbers: npt.NDArray[np.int64] = lengths.to_numpy(zero_copy_only=False).astype("<i8")
    return numbers.data


def _fixed(column: pa.Array) -> Any:
    """Return the bytes of values of one width, zeros where there is none."""
    kind = column.type
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.uint8()), pa.uint8()
    if column.null_count:
        column = pc.fill_null(column, pa.scalar(0, pa.int64()).cast(kind))
    width = kind.bit_width // 8
    return memoryview(column.buffers()[1])[column.offset * width : (column.offset + len(column)) * width]


def _texts(column: pa.Array) -> Any:
    """Return the bytes of all texts, one after the other."""
    _, offsets, data = column.buffers()
    if data is None or not len(column):
        return b""
    kind = np.int64 if pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type) else np.int32
    bounds = np.frombuffer(offsets, dtype=kind)[[column.offset, column.offset + len(column)]]
    return memoryview(data)[int(bounds[0]) : int(bounds[1])]
