"""The live parts of one table version, as columns: what a query is planned over.

The rule of this file: an index never changes; a flush makes a new one. Bounds lie in NumPy arrays and names are
numbered, so that a hundred thousand parts are weighed in a millisecond.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickflight_server.paths import parse_part_file_name
from tickflight_server.store.partition import DAY_US, Part, PartitionKey
from tickflight_server.store.row_keys import RowKeys, grid_codes

Ints = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]
_BITS = 24  # of a key for the day and the symbol each: 16 million of either


class Names:
    """Numbers for names, given as they come and never changed; indexes of one table share one."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self._codes: dict[str, int] = {}
        self._lock = threading.Lock()

    def code(self, name: str) -> int:
        """Return the number of ``name``, a new one if it has none."""
        found = self._codes.get(name)
        if found is None:
            with self._lock:
                found = self._codes.get(name)
                if found is None:
                    found = len(self.values)
                    self.values.append(name)
                    self._codes[name] = found
        return found

    def codes(self, names: Iterable[str]) -> Ints:
        """Return the numbers of ``names``."""
        return np.fromiter((self.code(n) for n in names), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class PartIndex:
    """Columns of equal length, one entry a part; the fields are those of ``Part``, its units included.

    ``exchange_code`` and ``symbol_code`` count into ``exchanges`` and ``symbols``. ``first`` and ``last`` are what the
    parts' names say: together with the others of its partition, a part holds all of its rows up to ``last``.
    """

    path: Objects
    exchange_code: Ints
    symbol_code: Ints
    day: Ints
    rows: Ints
    nbytes: Ints
    min_us: Ints
    max_us: Ints
    min_seq: Ints
    max_seq: Ints
    first: Ints
    last: Ints
    exchanges: Names = field(default_factory=Names)
    symbols: Names = field(default_factory=Names)

    COLUMNS: ClassVar[tuple[str, ...]] = (
        *("path", "exchange_code", "symbol_code", "day", "rows", "nbytes"),
        *("min_us", "max_us", "min_seq", "max_seq", "first", "last"),
    )

    def __len__(self) -> int:
        return len(self.path)

    @property
    def total_rows(self) -> int:
        """Rows of all parts."""
        return int(self.rows.sum())

    @property
    def total_bytes(self) -> int:
        """Bytes of all parts."""
        return int(self.nbytes.sum())

    @property
    def exchange(self) -> Objects:
        """The exchange of each part."""
        return _names(self.exchanges, self.exchange_code)

    @property
    def symbol(self) -> Objects:
        """The symbol of each part."""
        return _names(self.symbols, self.symbol_code)

    @property
    def keys(self) -> Ints:
        """One number a part for its partition: see ``key``."""
        return np.asarray(self.key(self.exchange_code, self.symbol_code, self.day))

    @staticmethod
    def key(exchange_code: Any, symbol_code: Any, day: Any) -> Any:
        """Return the number of a partition, or of each of many."""
        return (((exchange_code << _BITS) | symbol_code) << _BITS) | (day & ((1 << _BITS) - 1))

    def labels(self, column: str) -> tuple[Ints, list[str]]:
        """Return codes and values of column ``exchange`` or ``symbol``."""
        if column == "exchange":
            return self.exchange_code, self.exchanges.values
        return self.symbol_code, self.symbols.values

    def extended(self, parts: Sequence[Part]) -> PartIndex:
        """Return the index with ``parts`` added."""
        added = make_index(parts, self.exchanges, self.symbols)
        return self._with({n: np.concatenate([getattr(self, n), getattr(added, n)]) for n in _COLUMNS})

    def chosen(self, mask: npt.NDArray[np.bool_]) -> PartIndex:
        """Return the parts where ``mask`` is true."""
        if mask.all():
            return self
        return self.taken(np.flatnonzero(mask))

    def taken(self, places: Ints) -> PartIndex:
        """Return the parts at ``places``, in that order."""
        return self._with({n: getattr(self, n)[places] for n in _COLUMNS})

    def _with(self, columns: Mapping[str, Any]) -> PartIndex:
        return PartIndex(**columns, exchanges=self.exchanges, symbols=self.symbols)

    def without(self, paths: Iterable[str]) -> PartIndex:
        """Return the index without the parts ``paths``."""
        gone = set(paths)
        return self.chosen(np.fromiter((p not in gone for p in self.path), dtype=bool, count=len(self)))

    def covered(self) -> dict[int, int]:
        """Return the last ``seq`` up to which all of a partition's rows are in these parts, by the partition's key."""
        keys, order = self.keys, np.lexsort((self.last, self.keys))
        keys = keys[order]
        places = order[np.flatnonzero(np.r_[keys[1:] != keys[:-1], np.ones(min(1, len(keys)), dtype=bool)])]
        return dict(zip(self.keys[places].tolist(), self.last[places].tolist(), strict=True))

    def row_keys(self, rows: pa.Table) -> Ints:
        """Return the partition's key of each row of ``rows``, a table's in its schema in memory."""
        keys = [self.batch_keys(batch).keys for batch in rows.to_batches()]
        return np.concatenate(keys) if keys else np.empty(0, np.int64)

    def batch_keys(self, batch: pa.RecordBatch) -> RowKeys:
        """Return the partition of each row of ``batch``, one of a table's in its schema in memory."""
        if batch.num_rows == 0:
            return RowKeys(np.empty(0, np.int32), np.empty(0, np.int64))
        exchanges, symbols = (
            names.codes(batch.column(column).dictionary.to_pylist())
            for column, names in (("exchange", self.exchanges), ("symbol", self.symbols))
        )
        grid = grid_codes(batch, DAY_US)
        if grid is not None:
            codes, size, first = grid
            days = np.arange(first, first + size[2])
            return RowKeys(codes, self.key(exchanges[:, None, None], symbols[:, None], days).ravel())
        days = batch.column("timestamp").cast(pa.int64()).to_numpy() // DAY_US
        labels = (np.asarray(batch.column(c).indices) for c in ("exchange", "symbol"))
        keys = self.key(exchanges[next(labels)], symbols[next(labels)], days)
        distinct, places = np.unique(keys, return_inverse=True)
        return RowKeys(places.astype(np.int32), distinct)

    def misses(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """Return which of ``rows`` are in none of these parts."""
        if rows.num_rows == 0:
            return np.empty(0, dtype=bool)
        batches = rows.to_batches()
        found = [self.batch_keys(batch) for batch in batches]
        keys = np.unique(np.concatenate([f.distinct for f in found]))
        last = self._ends(keys)
        masks = [
            np.asarray(b.column("seq")) > last[np.searchsorted(keys, f.distinct)][f.codes]
            for b, f in zip(batches, found, strict=True)
        ]
        return np.concatenate(masks)

    def _ends(self, keys: Ints) -> Ints:
        """Return the last ``seq`` of each of the partitions ``keys``, sorted, as ``covered`` does; 0 without parts."""
        ends = np.zeros(len(keys), np.int64)
        mine = self.keys
        places = np.minimum(np.searchsorted(keys, mine), len(keys) - 1)
        known = keys[places] == mine
        np.maximum.at(ends, places[known], self.last[known])
        return ends

    def part(self, place: int) -> Part:
        """Return the part at ``place``."""
        key = PartitionKey(
            self.exchanges.values[self.exchange_code[place]],
            self.symbols.values[self.symbol_code[place]],
            int(self.day[place]),
        )
        return Part(self.path[place], key, **{n: int(getattr(self, n)[place]) for n in _NUMBERS})


_COLUMNS = PartIndex.COLUMNS
_NUMBERS = _COLUMNS[4:10]


def _names(names: Names, codes: Ints) -> Objects:
    values = np.empty(len(names.values), dtype=object)
    values[:] = names.values
    return values[codes]


def make_index(parts: Iterable[Part], exchanges: Names | None = None, symbols: Names | None = None) -> PartIndex:
    """Return the index of ``parts``, in their order, numbering names by those given."""
    items = list(parts)
    exchanges, symbols = exchanges or Names(), symbols or Names()
    path = np.empty(len(items), dtype=object)
    path[:] = [p.path for p in items]
    first, _ = name_bounds(path)
    return PartIndex(
        path=path,
        exchange_code=exchanges.codes(p.key.exchange for p in items),
        symbol_code=symbols.codes(p.key.symbol for p in items),
        day=np.array([p.key.day for p in items], dtype=np.int64),
        first=first,
        last=np.array([p.last for p in items], dtype=np.int64),
        exchanges=exchanges,
        symbols=symbols,
        **{n: np.array([getattr(p, n) for p in items], dtype=np.int64) for n in _NUMBERS},
    )


def name_bounds(paths: Iterable[str]) -> tuple[Ints, Ints]:
    """Return the first and the last ``seq`` that the names of ``paths`` say, 0 where a name says none."""
    bounds = [parse_part_file_name(p.rpartition("/")[2]) or (0, 0) for p in paths]
    table = np.array(bounds, dtype=np.int64).reshape(len(bounds), 2)
    return table[:, 0], table[:, 1]


EMPTY = make_index(())
