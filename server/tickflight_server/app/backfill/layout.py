"""What a layout is: the columns of a kind of file, and how a chunk of them becomes rows of our tables.

The rule of this file: a layout knows nothing of packing, chunks' numbers or where rows go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from tickflight_server.app.backfill.cells import Cells
from tickflight_server.errors import InputError
from tickflight_server.schemas import TIMESTAMP

Rows = tuple[str, pa.RecordBatch]
"""A table's name and rows for it."""

CHUNK_ROWS = 65_536
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; None is to be found out."""

    format: str | None = None
    table: str | None = None
    exchange: str | None = None
    symbol: str | None = None


@dataclass(frozen=True)
class Layout:
    """A kind of file.

    ``columns`` are the file's, in order, and ``used`` those that are read; ``header`` says that the first line names
    them; ``mapping`` is all that decides what the rows become besides the content, and part of the file's identity;
    ``convert`` takes the chunks in order and ``finish`` returns what it held back for the next one.
    """

    name: str
    columns: tuple[str, ...]
    used: tuple[str, ...]
    header: bool
    tables: tuple[str, ...]
    mapping: Mapping[str, str | None]
    convert: Callable[[Cells], list[Rows]]
    finish: Callable[[], list[Rows]] = list
    quoted: bool = False
    chunk_rows: int = CHUNK_ROWS
    chunk_bytes: int = CHUNK_BYTES
    notes: tuple[str, ...] = field(default=())


def batch_of(cells: Cells, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """Return the rows without a fault; columns of int64 named like times become timestamps."""
    arrays = {n: a.cast(TIMESTAMP) if n in _TIMES and a.type == pa.int64() else a for n, a in columns.items()}
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    good = cells.good()
    return batch if good is None else batch.filter(good)


_TIMES = frozenset({"timestamp", "receipt_timestamp", "start", "stop", "next_funding_time"})


def choose_table(wanted: str | None, offered: tuple[str, ...], what: str) -> str:
    """Return the table that is asked for, or the first of those that a kind of file can go to.

    Raises:
        InputError: it cannot go to the one that is asked for.
    """
    if wanted is None:
        return offered[0]
    name = wanted.removeprefix("market.")
    if name not in offered:
        raise InputError(f"{what} cannot go to table {wanted}.", hint=f"They go to {' or '.join(offered)}.")
    return name
