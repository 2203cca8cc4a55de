"""The partition of each row of a batch, as a small number: what flushes count, choose and compare rows by.

The rule of this file: work per row is a few additions of small integers; whatever is larger is done once for each
distinct partition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.signedinteger]
_GRID_MAX = 1 << 16  # combinations of the labels of a batch that may be listed, though few of them occur


@dataclass(frozen=True, eq=False)
class RowKeys:
    """Rows' partitions: row i is of that with the key ``distinct[codes[i]]``; one may be there twice, or for no row."""

    codes: Codes
    distinct: Ints

    @property
    def keys(self) -> Ints:
        """The key of each row."""
        return self.distinct[self.codes]

    def counts(self) -> list[tuple[int, int]]:
        """Return keys and how many rows each has; of a key that is there twice, each time some."""
        counts = np.bincount(self.codes, minlength=len(self.distinct))
        used = np.flatnonzero(counts)
        return list(zip(self.distinct[used].tolist(), counts[used].tolist(), strict=True))

    def among(self, keys: Ints) -> npt.NDArray[np.bool_]:
        """Return which rows have one of ``keys``."""
        return np.asarray(np.isin(self.distinct, keys)[self.codes])

    def chosen(self, mask: npt.NDArray[np.bool_]) -> RowKeys:
        """Return those of the rows where ``mask`` is true."""
        return RowKeys(self.codes[mask], self.distinct)


def join(items: list[RowKeys]) -> RowKeys:
    """Return the keys of all of ``items``' rows, one after the other."""
    distinct, place = np.unique(np.concatenate([i.distinct for i in items]), return_inverse=True)
    starts = np.cumsum([0, *(len(i.distinct) for i in items)])
    codes = [place[start:][i.codes].astype(np.int32) for i, start in zip(items, starts, strict=False)]
    return RowKeys(np.concatenate(codes), distinct)


def grid_codes(batch: pa.RecordBatch, day_us: int) -> tuple[Codes, tuple[int, int, int], int] | None:
    """Return each row's place in the grid of exchanges, symbols and days, the grid's size, and its first day.

    Exchanges and symbols are numbered as in the columns' dictionaries. None where the grid would be too large, as for
    rows of many years.
    """
    exchanges, symbols = batch.column("exchange"), batch.column("symbol")
    times = np.asarray(batch.column("timestamp").cast(pa.int64()))
    first, last = int(times.min()) // day_us, int(times.max()) // day_us
    size = (len(exchanges.dictionary), len(symbols.dictionary), last - first + 1)
    if size[0] * size[1] * size[2] > _GRID_MAX:
        return None
    codes: Codes = symbols.indices.to_numpy()
    if size[0] > 1:
        codes = codes + exchanges.indices.to_numpy() * np.int32(size[1])
    if size[2] > 1:
        codes = codes * np.int32(size[2]) + (times // day_us - first).astype(np.int32)
    return codes, size, first
