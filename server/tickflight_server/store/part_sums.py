"""Checksums of a part's columns, so that a query need not read what it does not look at to know that the rest is whole.

The rule of this file: what is said to be whole was compared, byte for byte, with what was written; the footer and the
checksums themselves are, by the checksum of the file's end in the part's name.

They stand in the file between the last row group and Parquet's footer, where readers of Parquet do not look, since the
footer says where each column is:

    for each row group and column: offset, bytes, xxh3_64      3 unsigned numbers of 8 bytes
    names of the columns of the file, one a line               UTF-8; of a nested one the outermost
    row groups, columns, bytes of the names                    3 unsigned numbers of 4 bytes
    "TFS1"
    Parquet's footer, its length in 4 bytes, "PAR1"

All numbers are little endian. The file's *end* is all of this, and whatever stands before it behind the last column.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

_MAGIC = b"TFS1"
_SIZES = struct.Struct("<III4s")
_FOOTER = struct.Struct("<I4s")
_END_LEAST, _END_SHIFT = 4 << 10, 9  # of a file's end, read at once: a footer is about a thousandth of a large one
_READ_MAX = 4 << 20
_OF_THREAD = threading.local()

Run = list[tuple[int, int, int]]
"""Chunks that lie side by side: offset, bytes, checksum."""


def with_sums(data: pa.Buffer) -> tuple[bytes, str]:
    """Return a Parquet file with the checksums of its columns, and the checksum of its end, 16 hex digits."""
    metadata = pq.read_metadata(pa.BufferReader(data))
    footer = data.size - _FOOTER.size - _FOOTER.unpack(data[data.size - _FOOTER.size :])[0]
    groups, columns = metadata.num_row_groups, metadata.num_columns
    table = np.empty((groups, columns, 3), dtype="<u8")
    view = memoryview(data)
    behind = 4  # the file's magic
    for i in range(groups):
        group = metadata.row_group(i)
        for j in range(columns):
            chunk = group.column(j)
            offset = chunk.data_page_offset
            if chunk.dictionary_page_offset:
                offset = min(offset, chunk.dictionary_page_offset)
            size = chunk.total_compressed_size
            table[i, j] = offset, size, xxhash.xxh3_64_intdigest(view[offset : offset + size])
            behind = max(behind, offset + size)
    names = "\n".join(metadata.schema.column(j).path.partition(".")[0] for j in range(columns)).encode()
    sums = table.tobytes() + names + _SIZES.pack(groups, columns, len(names), _MAGIC)
    whole = b"".join((view[:footer], sums, view[footer:]))
    return whole, xxhash.xxh3_64_hexdigest(memoryview(whole)[behind:])


class Sums(NamedTuple):
    """What a part's end says: offset, bytes and checksum of each chunk, by row group and column, and columns' names."""

    chunks: npt.NDArray[np.uint64]
    names: list[str]


def read_sums(path: Path, end: str) -> Sums | None:
    """Return what the end of a part says, None if it is not as its checksum ``end`` says.

    Raises:
        OSError: the file cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _read_end(descriptor, end)
    finally:
        os.close(descriptor)


def chunks_are_whole(path: Path, sums: Sums, columns: Collection[str]) -> bool:
    """Return whether ``columns`` of a part are as ``sums`` says.

    Raises:
        OSError: the file cannot be read.
    """
    wanted = np.flatnonzero(np.array([n in columns for n in sums.names], dtype=bool))
    chunks = [(int(o), int(s), int(x)) for o, s, x in sums.chunks[:, wanted].reshape(-1, 3).tolist()]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        runs = list(_runs(chunks))
        for run in runs:
            os.posix_fadvise(descriptor, run[0][0], _length(run), os.POSIX_FADV_WILLNEED)
        return _are_whole(descriptor, runs)
    finally:
        os.close(descriptor)


def _read_end(descriptor: int, end: str) -> Sums | None:
    """Return the chunks and the names of the columns; None if the end is not as ``end`` says."""
    size = os.fstat(descriptor).st_size
    data = _last(descriptor, size, min(size, max(_END_LEAST, size >> _END_SHIFT)))
    try:
        length = _FOOTER.size + _FOOTER.unpack(data[-_FOOTER.size :])[0] + _SIZES.size
        data = _last(descriptor, size, length, data)
        groups, columns, named, magic = _SIZES.unpack_from(data, len(data) - length)
        length += named + groups * columns * 24
        if magic != _MAGIC or length > size:
            return None
        data = _last(descriptor, size, length, data)
        sums = data[len(data) - length :]
        table = np.frombuffer(sums, dtype="<u8", count=groups * columns * 3).reshape(groups, columns, 3)
        behind = max(4, int((table[:, :, 0] + table[:, :, 1]).max(initial=0)))
        if behind > size - length:
            return None
        data = _last(descriptor, size, size - behind, data)
        if xxhash.xxh3_64_hexdigest(data[len(data) - (size - behind) :]) != end:
            return None
        names = sums[groups * columns * 24 :][:named].decode()
    except (struct.error, ValueError):
        return None
    return Sums(table, names.split("\n"))


def _are_whole(descriptor: int, runs: list[Run]) -> bool:
    """Compare runs of chunks, each read at once, one after the other into the same memory."""
    space = _space(max(map(_length, runs), default=0))
    for run in runs:
        start, length = run[0][0], _length(run)
        got = 0
        while got < length and (more := os.preadv(descriptor, [space[got:length]], start + got)):
            got += more
        for offset, size, wanted in run:
            if xxhash.xxh3_64_intdigest(space[offset - start : offset - start + size]) != wanted:
                return False
    return True


def _space(size: int) -> memoryview:
    """Return memory of the thread, at least ``size`` bytes; new memory would cost as much as reading into it."""
    found: memoryview | None = getattr(_OF_THREAD, "space", None)
    if found is None or len(found) < size:
        found = memoryview(bytearray(size))
        if size <= _READ_MAX:
            _OF_THREAD.space = found
    return found


def _runs(chunks: Run) -> Iterator[Run]:
    """Yield chunks in runs that lie side by side, of at most ``_READ_MAX`` or one chunk."""
    run = chunks[:1]
    for offset, size, wanted in chunks[1:]:
        before, length, _ = run[-1]
        if before + length != offset or offset + size - run[0][0] > _READ_MAX:
            yield run
            run = []
        run.append((offset, size, wanted))
    if run:
        yield run


def _length(run: Run) -> int:
    return run[-1][0] + run[-1][1] - run[0][0]


def _last(descriptor: int, size: int, length: int, known: bytes = b"") -> bytes:
    """Return the last ``length`` bytes of a file of ``size``, or more of them if more are ``known``."""
    return known if len(known) >= length else _read(descriptor, max(0, size - length), min(size, length))


def _read(descriptor: int, offset: int, size: int) -> bytes:
    """Return bytes of a file; fewer at its end."""
    pieces = []
    while size > 0 and (piece := os.pread(descriptor, min(size, _READ_MAX), offset)):
        pieces.append(piece)
        offset, size = offset + len(piece), size - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
