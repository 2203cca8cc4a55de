"""From a file to numbered chunks of cells, and the layout that reads them.

The rule of this file: the number of a chunk, from 1, follows from the file and its layout alone.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from tickflight_server.app.backfill.binance import binance_layout, is_binance
from tickflight_server.app.backfill.cells import Cells, shown
from tickflight_server.app.backfill.files import SourceFile, failures
from tickflight_server.app.backfill.layout import Layout, Wishes
from tickflight_server.app.backfill.lines import Lines, cut_lines, cut_rows
from tickflight_server.app.backfill.own import is_own, own_layout
from tickflight_server.app.backfill.tardis import is_tardis, tardis_layout
from tickflight_server.errors import InputError
from tickflight_server.schemas import NumericType

FORMATS = ("tardis", "binance", "tickflight")
_READ_ROWS = 1024  # of a Parquet file at once: a row with a full book may have 100 KB
_READ_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows of a file: their cells, the number of each one's line (or row), and its text for a message.

    ``bad`` are lines that have no cells at all: their numbers, texts and reasons.
    """

    cells: Cells
    lines: np.ndarray
    text: Callable[[int], str]
    bad: list[tuple[int, str, str]]


def find_layout(file: SourceFile, wishes: Wishes) -> Layout:
    """Return the layout of a file that is not empty, by what the user says, by its first line and its name.

    Raises:
        InputError: it cannot be told; the hint says what to give.
        UnsupportedError: no table takes what it holds.
    """
    if file.kind != "csv":
        if wishes.format not in (None, "tickflight"):
            raise InputError(
                f"{file.path} is not CSV, and {wishes.format} has CSV alone.",
                hint="Leave --format out, or give tickflight.",
            )
        schema = _schema(file)
        return own_layout(file, tuple(schema.names), wishes, schema.metadata)
    first = tuple(cell.strip() for cell in next(csv.reader([file.first_line()]), [""]))
    kind = wishes.format
    if kind is None:
        found = (is_tardis(first), is_binance(file, first), is_own(first))
        kind = next((name for name, yes in zip(FORMATS, found, strict=True) if yes), None)
    if kind == "tardis":
        return tardis_layout(file, first, wishes)
    if kind == "binance":
        return binance_layout(file, first, wishes)
    if kind == "tickflight":
        return own_layout(file, first, wishes)
    raise InputError(
        f"the layout of {file.path} is not known: neither its first line nor its name tells it.",
        hint="Give --format tardis, binance or tickflight; first line: " + shown(",".join(first)) + ".",
    )


def read_chunks(
    file: SourceFile, layout: Layout, numeric: NumericType, moved: Callable[[int], None]
) -> Iterator[Chunk]:
    """Yield the chunks of a file in order; ``moved`` is told how far it was read.

    Raises:
        InputError: it cannot be read.
    """
    if file.kind != "csv":
        yield from _read_columns(file, layout, numeric, moved)
        return
    with file.open(moved) as stream:
        for lines in cut_lines(
            stream,
            rows=layout.chunk_rows,
            nbytes=layout.chunk_bytes,
            header=layout.header,
            quoted=layout.quoted,
        ):
            yield _parse(lines, layout, numeric)


def _parse(lines: Lines, layout: Layout, numeric: NumericType) -> Chunk:
    bad: dict[int, str] = {}

    def wrong(row: arrow_csv.InvalidRow) -> str:
        bad.setdefault(row.number - 1, f"the line has {row.actual_columns} values and not {row.expected_columns}")
        return "skip"

    try:
        table = _read_csv(lines.data, layout, wrong)
    except pa.ArrowException:
        bad.clear()
        table = _read_text(lines, layout, wrong, bad)
    good = np.ones(len(lines.numbers), bool)
    good[list(bad)] = False
    places = np.flatnonzero(good)
    if table.num_rows != len(places):
        raise _unreadable(lines, "its quotes do not match")
    columns = {name: _one_chunk(table.column(name)) for name in table.column_names}
    told = [(int(lines.numbers[i]), lines.line(i), reason) for i, reason in sorted(bad.items())]
    cells = Cells(columns, table.num_rows, numeric)
    return Chunk(cells, lines.numbers[places], lambda row: lines.line(int(places[row])), told)


def _read_csv(data: bytes, layout: Layout, wrong: Callable[[arrow_csv.InvalidRow], str]) -> pa.Table:
    return arrow_csv.read_csv(
        pa.BufferReader(data),
        read_options=arrow_csv.ReadOptions(
            column_names=list(layout.columns), use_threads=False, block_size=len(data) + 1
        ),
        parse_options=arrow_csv.ParseOptions(
            quote_char='"' if layout.quoted else False,
            newlines_in_values=layout.quoted,
            invalid_row_handler=wrong,
            ignore_empty_lines=False,
        ),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=list(layout.used),
            column_types={name: pa.string() for name in layout.used},
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )


def _read_text(
    lines: Lines, layout: Layout, wrong: Callable[[arrow_csv.InvalidRow], str], bad: dict[int, str]
) -> pa.Table:
    """Read a chunk that holds bytes which are no text: each such line goes to ``bad``, a stand-in keeps its place."""
    kept: list[bytes] = []
    start = 0
    for place, end in enumerate(lines.ends.tolist()):
        line = lines.data[start:end]
        start = end
        try:
            line.decode()
        except UnicodeDecodeError:
            bad[place] = "the line is not UTF-8"
            line = b"?\n"  # one value: too few for any layout
        kept.append(line)
    try:
        return _read_csv(b"".join(kept), layout, wrong)
    except pa.ArrowException as error:
        raise _unreadable(lines, str(error).splitlines()[0].rstrip(".")) from None


def _unreadable(lines: Lines, reason: str) -> InputError:
    return InputError(
        f"lines {lines.numbers[0]} to {lines.numbers[-1]} cannot be read as CSV: {reason}.",
        hint="Mend the file at that place.",
    )


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _schema(file: SourceFile) -> pa.Schema:
    with failures(file.path):
        if file.kind == "parquet":
            return parquet.read_schema(file.path)
        with pa.memory_map(str(file.path)) as source:
            return pa.ipc.open_file(source).schema


def _read_columns(
    file: SourceFile, layout: Layout, numeric: NumericType, moved: Callable[[int], None]
) -> Iterator[Chunk]:
    first = 1
    for batch in cut_rows(_batches(file, layout, moved), layout.chunk_rows):
        columns = {name: batch.column(name) for name in batch.schema.names}
        numbers = np.arange(first, first + batch.num_rows)
        first += batch.num_rows
        yield Chunk(Cells(columns, batch.num_rows, numeric), numbers, _row_text(batch), [])


def _row_text(batch: pa.RecordBatch) -> Callable[[int], str]:
    return lambda row: str(batch.slice(row, 1).to_pylist()[0])


def _batches(file: SourceFile, layout: Layout, moved: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    used = list(layout.used)
    with failures(file.path):
        if file.kind == "parquet":
            source = parquet.ParquetFile(file.path, buffer_size=_READ_BYTES, pre_buffer=False)
            rows, done = source.metadata.num_rows, 0
            batches = source.iter_batches(
                batch_size=_READ_ROWS if layout.chunk_bytes < 8 << 20 else 16_384, columns=used
            )
        else:
            opened = pa.ipc.open_file(pa.memory_map(str(file.path)))
            rows, done = opened.num_record_batches, 0
            batches = (opened.get_batch(i).select(used) for i in range(rows))
    while True:
        with failures(file.path):
            batch = next(batches, None)
        if batch is None:
            return
        done += batch.num_rows if file.kind == "parquet" else 1
        moved(file.size * done // max(1, rows))
        yield batch
