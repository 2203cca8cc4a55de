"""Streams of Arrow's format that a server should survive: batches of any type, packed or not, and damaged ones.

The rule of this file: the same bytes of chance make the same stream.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tickflight_server.schemas import STORED

TABLES = ("trades", "ticker", "l2_book", "candles", "rejected")
_CODECS: tuple[str | None, ...] = (None, None, None, "lz4", "zstd")
_TEXTS = ("", "BTC-USDT", "../..", "a\x00b", "é" * 40, "😀", "x" * 300, "nan", "1e400", "-0")


def stream(pick: random.Random) -> bytes:
    """Return a sound stream of one to three batches: of a table's columns, or of any."""
    batches = [some_batch(pick)] * pick.randint(1, 3)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=pick.choice(_CODECS), allow_64bit=True)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def some_batch(pick: random.Random) -> pa.RecordBatch:
    """Return a batch; what pyarrow has no way to make is another one."""
    while True:
        try:
            return table_batch(pick) if pick.random() < 0.5 else any_batch(pick)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue


def damaged(pick: random.Random, data: bytes) -> bytes:
    """Return ``data`` with up to eight of its bytes changed, or a piece missing, twice, or elsewhere."""
    found = bytearray(data)
    fate = pick.random()
    if fate < 0.15 and found:
        start = pick.randrange(len(found))
        del found[start : start + pick.choice((1, 4, 8, 64))]
    elif fate < 0.3 and found:
        start = pick.randrange(len(found))
        found[start:start] = found[start : start + pick.choice((4, 8, 64))]
    for _ in range(pick.randint(1, 8)):
        if found:
            place = pick.randrange(len(found))
            found[place] = pick.choice((0, 1, 0x7F, 0x80, 0xFF, found[place] ^ 1 << pick.randrange(8)))
    return bytes(found)


def table_batch(pick: random.Random) -> pa.RecordBatch:
    """Return rows with a stored table's columns, some of them missing, null or of other types."""
    table = STORED[pick.choice(TABLES)]
    rows = pick.randint(0, 5)
    columns = {}
    for field in table.arrow_input("float64", memory=pick.random() < 0.5):
        if pick.random() < 0.05:
            continue
        kind = field.type if pick.random() < 0.8 else any_type(pick, 2)
        columns[field.name] = values(pick, kind, rows)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)) if columns else any_batch(pick)


def any_batch(pick: random.Random) -> pa.RecordBatch:
    """Return a batch of columns of any types."""
    rows = pick.randint(0, 5)
    columns = [values(pick, any_type(pick, 3), rows) for _ in range(pick.randint(1, 6))]
    return pa.RecordBatch.from_arrays(columns, names=[pick.choice(_TEXTS) + str(i) for i in range(len(columns))])


_FLAT: Sequence[pa.DataType] = (
    *(pa.null(), pa.bool_(), pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.decimal128(38, 18), pa.decimal256(60, 3), pa.date32(), pa.date64()),
    *(pa.time32("s"), pa.time64("ns"), pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.timestamp("us", "Asia/Tokyo")),
    *(pa.duration("us"), pa.month_day_nano_interval(), pa.binary(), pa.binary(3), pa.large_binary(), pa.string()),
    *(pa.large_string(), pa.string_view(), pa.binary_view(), pa.uuid(), pa.json_(), pa.bool8()),
)


def any_type(pick: random.Random, depth: int) -> pa.DataType:
    """Return a type, nested up to ``depth``."""
    if depth == 0 or pick.random() < 0.5:
        return pick.choice(_FLAT)
    inner: Callable[[], pa.DataType] = lambda: any_type(pick, depth - 1)  # noqa: E731
    fields = [pa.field(f"f{i}", inner()) for i in range(pick.randint(1, 3))]
    makers: tuple[Callable[[], pa.DataType], ...] = (
        lambda: pa.list_(inner()),
        lambda: pa.large_list(inner()),
        lambda: pa.list_(inner(), pick.randint(0, 3)),
        lambda: pa.list_view(inner()),
        lambda: pa.large_list_view(inner()),
        lambda: pa.struct(fields),
        lambda: pa.map_(pa.string(), inner()),
        lambda: pa.dense_union(fields),
        lambda: pa.sparse_union(fields),
        lambda: pa.dictionary(pa.int8(), pick.choice((pa.string(), pa.int64(), pa.large_string(), pa.float64()))),
        lambda: pa.run_end_encoded(pa.int16(), pick.choice(_FLAT[1:])),
    )
    return pick.choice(makers)()


def values(pick: random.Random, kind: pa.DataType, rows: int) -> pa.Array:
    """Return ``rows`` values of a type, some of them null."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, values(pick, kind.storage_type, rows))
    if pa.types.is_union(kind):
        children = [values(pick, kind.field(i).type, rows) for i in range(kind.num_fields)]
        codes = pa.array([pick.randrange(len(children)) for _ in range(rows)], pa.int8())
        names = [kind.field(i).name for i in range(kind.num_fields)]
        if kind.mode == "sparse":
            return pa.UnionArray.from_sparse(codes, children, names)
        return pa.UnionArray.from_dense(codes, pa.array(range(rows), pa.int32()), children, names)
    if pa.types.is_run_end_encoded(kind):
        ends = pa.array(range(1, rows + 1), kind.run_end_type)
        return pa.RunEndEncodedArray.from_arrays(ends, values(pick, kind.value_type, rows))
    if pa.types.is_dictionary(kind):
        entries = values(pick, kind.value_type, 3)
        return pa.DictionaryArray.from_arrays(
            pa.array([pick.randrange(3) for _ in range(rows)], kind.index_type), entries
        )
    if pa.types.is_struct(kind):
        children = [values(pick, kind.field(i).type, rows) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(children, fields=list(kind))
    if pa.types.is_nested(kind):
        return pa.nulls(rows, kind) if pick.random() < 0.5 else _lists(pick, kind, rows)
    return _flat(pick, kind, rows)


def _lists(pick: random.Random, kind: pa.DataType, rows: int) -> pa.Array:
    try:
        if pa.types.is_map(kind):
            keys = pa.array([f"k{i}" for i in range(rows)], pa.string())
            return pa.MapArray.from_arrays(list(range(rows + 1)), keys, values(pick, kind.item_type, rows))
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            of = pa.ListArray if pa.types.is_list(kind) else pa.LargeListArray
            return of.from_arrays(list(range(rows + 1)), values(pick, kind.value_type, rows))
        if pa.types.is_fixed_size_list(kind):
            return pa.FixedSizeListArray.from_arrays(
                values(pick, kind.value_type, rows * kind.list_size), kind.list_size
            )
        of = pa.ListViewArray if pa.types.is_list_view(kind) else pa.LargeListViewArray
        return of.from_arrays(
            [0] * rows, [pick.randint(0, rows) for _ in range(rows)], values(pick, kind.value_type, rows)
        )
    except (pa.ArrowException, TypeError, ValueError):
        return pa.nulls(rows, kind)


def _flat(pick: random.Random, kind: pa.DataType, rows: int) -> pa.Array:
    of: Callable[[], Any]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        of = lambda: pick.choice(_TEXTS)  # noqa: E731
    elif pa.types.is_fixed_size_binary(kind):
        of = lambda: pick.randbytes(kind.byte_width)  # noqa: E731
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        of = lambda: pick.choice(_TEXTS).encode()  # noqa: E731
    elif pa.types.is_float16(kind):
        of = lambda: np.float16(pick.choice((0, 1, float("inf"))))  # noqa: E731
    elif pa.types.is_floating(kind):
        of = lambda: pick.choice((0.0, -0.0, 1.5, float("nan"), float("inf"), 1e30))  # noqa: E731
    elif pa.types.is_null(kind) or pa.types.is_interval(kind) or pa.types.is_decimal(kind):
        of = lambda: None  # noqa: E731
    elif pa.types.is_boolean(kind):
        of = lambda: pick.random() < 0.5  # noqa: E731
    else:
        of = lambda: pick.choice((0, 1, 100))  # noqa: E731
    found = [None if pick.random() < 0.2 else of() for _ in range(rows)]
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        wide = pa.int32() if kind.bit_width == 32 else pa.int64()
        return pa.array(found, wide).view(kind)
    return pa.array(found, kind)
