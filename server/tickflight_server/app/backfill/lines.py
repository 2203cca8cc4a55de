"""Cutting a stream of bytes into chunks of whole lines, and batches into chunks of rows.

The rule of this file: where a chunk ends follows from the content alone, never from how it was read, since the number
of a chunk is its sequence in the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.errors import InputError

LINE_BYTES_MAX = 64 << 20
LEVELS_MAX = 262_144  # list entries of a chunk: with decimals 4 MiB a column
_NEWLINE, _QUOTE = 10, 34


@dataclass(frozen=True, eq=False)
class Lines:
    """Whole lines of a file: their bytes, where each ends in them, and its number in the file, from 1."""

    data: bytes
    ends: np.ndarray
    numbers: np.ndarray

    def line(self, row: int) -> str:
        """Return a line's text, without its end."""
        start = int(self.ends[row - 1]) if row else 0
        return self.data[start : int(self.ends[row])].rstrip(b"\r\n").decode("utf-8", "replace")


def cut_lines(stream: Any, *, rows: int, nbytes: int, header: bool, quoted: bool) -> Iterator[Lines]:
    """Yield chunks of at most ``rows`` lines and, but for a longer single line, ``nbytes`` bytes; no empty lines.

    ``header`` leaves the first line out; ``quoted`` takes a line end inside quotes as part of its value.

    Raises:
        InputError: a line is longer than ``LINE_BYTES_MAX``.
    """
    pending, ended, number = b"", False, 1
    first = True
    while True:
        pending, ended = _fill(stream, pending, nbytes, ended)
        if first:
            first = False
            pending = pending.removeprefix(b"\xef\xbb\xbf")
            if header:
                _, _, pending = pending.partition(b"\n")
                number += 1
                continue
        if not pending:
            return
        ends = _ends(pending, ended, quoted)
        while len(ends) == 0:
            if len(pending) > LINE_BYTES_MAX:
                raise InputError(
                    f"line {number} is longer than {LINE_BYTES_MAX >> 20} MiB.", hint="Is it text? Check the file."
                )
            pending, ended = _fill(stream, pending, len(pending) * 2, ended)
            ends = _ends(pending, ended, quoted)
        count = max(1, int(np.searchsorted(ends[:rows], nbytes, side="right")))
        stop = int(ends[count - 1])
        chunk = _without_blanks(pending[:stop], ends[:count], np.arange(number, number + count))
        number += count
        pending = pending[stop:]
        if len(chunk.ends):
            yield chunk


def _fill(stream: Any, pending: bytes, wanted: int, ended: bool) -> tuple[bytes, bool]:
    blocks, have = [pending], len(pending)
    while not ended and have < wanted:
        block = stream.read(1 << 20)
        ended = not block
        blocks.append(block)
        have += len(block)
    return b"".join(blocks), ended


def _ends(data: bytes, ended: bool, quoted: bool) -> np.ndarray:
    """Return the offset behind each line; at the file's end the last line needs no line end."""
    octets = np.frombuffer(data, np.uint8)
    found = np.flatnonzero(octets == _NEWLINE)
    if quoted and b'"' in data:
        quotes = np.flatnonzero(octets == _QUOTE)
        found = found[np.searchsorted(quotes, found) % 2 == 0]
    ends = found + 1
    if ended and (len(ends) == 0 or ends[-1] != len(data)):
        ends = np.r_[ends, len(data)]
    return ends


def _without_blanks(data: bytes, ends: np.ndarray, numbers: np.ndarray) -> Lines:
    starts = np.r_[0, ends[:-1]]
    lengths = ends - starts
    octets = np.frombuffer(data, np.uint8)
    blank = (lengths <= 2) & np.isin(octets[starts], (_NEWLINE, 13))
    if not blank.any():
        return Lines(data, ends, numbers)
    kept = np.flatnonzero(~blank)
    joined = b"".join(data[starts[i] : ends[i]] for i in kept)
    return Lines(joined, np.cumsum(lengths[kept]), numbers[kept])


def cut_rows(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield ``batches`` anew: at most ``rows`` rows and, but for a longer single row, ``LEVELS_MAX`` list entries."""
    waiting: list[pa.RecordBatch] = []
    weights: list[np.ndarray] = []
    for batch in batches:
        waiting.append(batch)
        weights.append(_weights(batch))
        while (count := _count(weights, rows)) is not None:
            piece, waiting, weights = _take(waiting, weights, count)
            yield piece
    while waiting and sum(map(len, weights)):
        count = _count(weights, rows) or sum(map(len, weights))
        piece, waiting, weights = _take(waiting, weights, count)
        yield piece


def _weights(batch: pa.RecordBatch) -> np.ndarray:
    total = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            total += pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    return total


def _count(weights: list[np.ndarray], rows: int) -> int | None:
    """Return how many rows the next chunk has, None if that depends on rows still to come."""
    known = np.cumsum(np.concatenate(weights)) if weights else np.zeros(0, np.int64)
    fitting = int(np.searchsorted(known, LEVELS_MAX, side="right"))
    if fitting < min(len(known), rows):
        return max(1, fitting)
    return rows if len(known) >= rows else None


def _take(
    waiting: list[pa.RecordBatch], weights: list[np.ndarray], count: int
) -> tuple[pa.RecordBatch, list[pa.RecordBatch], list[np.ndarray]]:
    table = pa.Table.from_batches(waiting)
    rest = table.slice(count)
    piece = table.slice(0, count).unify_dictionaries().combine_chunks().to_batches()[0]
    weight = np.concatenate(weights)[count:]
    return piece, rest.to_batches(), [weight]
