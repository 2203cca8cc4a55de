"""What a part's footer says of the keys in it, and reading the keys of a part.

The rule of this file: the footer's entry is written and read here. A part without one, or with one for other columns,
is read whole, once; so a part of any age is judged rightly.

The entry is JSON under ``tickflight.keys``, and says which columns, how many plain integers and how many other keys,
the least and greatest integer, and the least ``seq``::

    {"columns": ["id"], "integers": 3, "least": 7, "greatest": 12, "texts": 0, "min_seq": 41}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tickflight_server.store.key_columns import INTEGER, TEXT, Entries, Hasher, KeyRows, join, key_rows

FOOTER_KEY = b"tickflight.keys"


@dataclass(frozen=True)
class PartKeys:
    """The keys of a part: ``integers`` plain ones from ``least`` to ``greatest`` (-1 if none), and other ``texts``.

    Its rows have ``seq`` from ``min_seq`` on, 0 if that is not known.
    """

    path: Path
    integers: int
    least: int
    greatest: int
    texts: int
    min_seq: int

    @property
    def rows(self) -> int:
        """Rows that have a key."""
        return self.integers + self.texts


def key_metadata(rows: pa.Table, columns: Sequence[str]) -> dict[bytes, bytes]:
    """Return the footer's entry for a part that holds ``rows``, whose keys are in ``columns``.

    ``columns`` are those beside exchange and symbol. The result is to be merged into the schema's metadata.
    """
    keys = _describe(Path(), _rows_of(rows, columns))
    seq = rows.column("seq").combine_chunks().to_numpy() if "seq" in rows.column_names else np.zeros(1, np.int64)
    entry = {
        "columns": list(columns),
        "integers": keys.integers,
        "least": keys.least,
        "greatest": keys.greatest,
        "texts": keys.texts,
        "min_seq": int(seq.min()) if len(seq) else 0,
    }
    return {FOOTER_KEY: json.dumps(entry).encode()}


def parse_metadata(path: Path, metadata: dict[bytes, bytes], columns: Sequence[str]) -> PartKeys | None:
    """Return what a footer's ``metadata`` says, None if it says nothing (readable) about ``columns``."""
    text = metadata.get(FOOTER_KEY)
    if text is None:
        return None
    try:
        entry = json.loads(text)
        if entry["columns"] != list(columns):
            return None
        return PartKeys(path, *(int(entry[n]) for n in ("integers", "least", "greatest", "texts", "min_seq")))
    except (ValueError, KeyError, TypeError):
        return None


def read_part(path: Path, columns: Sequence[str]) -> PartKeys:
    """Return what a part holds, from its footer, or from its columns where that does not tell.

    Raises:
        OSError, pa.ArrowException: the part is gone or cannot be read.
    """
    found = parse_metadata(path, pq.read_metadata(path).metadata or {}, columns)
    return found or _describe(path, _read_rows(path, columns))


def read_entries(path: Path, columns: Sequence[str], hasher: Hasher, pair: int) -> Entries:
    """Return the entries of a part's rows; ``pair`` stands for its exchange and symbol.

    Raises:
        OSError, pa.ArrowException: the part is gone or cannot be read.
    """
    return entries_of(_read_rows(path, columns, pair), hasher)


def entries_of(rows: KeyRows, hasher: Hasher) -> Entries:
    """Return the entries of all ``rows`` that have a key, the integers first."""
    found = []
    for kind in (INTEGER, TEXT):
        numbers = rows.of_kind(kind)
        some = rows if numbers is None else rows.take(numbers)
        if len(some):
            pairs = some.pairs
            found.append(hasher.integers(some.values, pairs) if kind == INTEGER else hasher.texts(some.columns, pairs))
    return join(found) if found else Entries(np.empty(0, np.uint64), np.empty(0, np.uint64))


def _read_rows(path: Path, columns: Sequence[str], pair: int = 0) -> KeyRows:
    with pq.ParquetFile(path) as file:
        table = file.read(columns=list(columns))
    return _rows_of(table, columns, pair)


def _rows_of(table: pa.Table, columns: Sequence[str], pair: int = 0) -> KeyRows:
    pairs = np.full(table.num_rows, pair, np.int32)
    # a part from before a column was added has no key
    arrays = [
        _one(table.column(name)) if name in table.column_names else pa.nulls(table.num_rows, pa.string())
        for name in columns
    ]
    return key_rows(arrays, pairs)


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _describe(path: Path, rows: KeyRows) -> PartKeys:
    numbers = rows.of_kind(INTEGER)
    values = rows.values if numbers is None else rows.values[numbers]
    texts = 0 if rows.kinds is None else int((rows.kinds == TEXT).sum())
    least, greatest = (int(values.min()), int(values.max())) if len(values) else (-1, -1)
    return PartKeys(path, len(values), least, greatest, texts, 0)
