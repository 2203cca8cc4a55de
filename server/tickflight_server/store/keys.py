"""The check for duplicates: which rows of a batch have a key that is not stored yet.

The rule of this file: the first row with a key is new, and every later one is not, whatever the order, however late it
comes, and after every restart; ``KeyIndex`` splits batches by partition and day, ``key_day`` decides.

A partition is an exchange, a symbol and a UTC day; equal keys in different partitions are different rows. In here an
exchange and symbol go by a small number, their *pair*.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from tickflight_server.metrics import Metrics
from tickflight_server.store.key_columns import Hasher, KeyRows, Mask, Pairs, key_rows
from tickflight_server.store.key_day import DayKeys, KeySource
from tickflight_server.store.key_parts import PartKeys, key_metadata

__all__ = ["KeyIndex", "PartKeys", "key_metadata"]

LOG = structlog.get_logger(__name__)

DAY_US = 86_400_000_000
_DAYS_MAX = 64  # a day that is in parts altogether is forgotten when there are more


class KeyIndex:
    """The keys of one table. Not thread-safe: the caller holds the store's append lock in every call.

    Args:
        columns: the key's columns besides exchange and symbol, at least one.
        parts_of: gives the live parts of an exchange, symbol and day (counted from 1970-01-01): all rows up to the
            ``seq`` of the last ``release`` are in what it gives. It is not asked again before the next release, unless
            a part is gone.
        bytes_max: memory for keys of parts and rows, above what is not released yet.
        metrics: counts ``rows_duplicate``, ``dedup_parts_read`` and ``dedup_drops`` (memory was short).
    """

    def __init__(
        self,
        columns: Sequence[str],
        parts_of: Callable[[str, str, int], Sequence[Path]],
        *,
        bytes_max: int,
        metrics: Metrics,
    ) -> None:
        assert columns, "a key has a column of its own"
        self._pairs = PairNumbers()
        names = self._pairs.names
        self._source = KeySource(
            tuple(columns),
            Hasher(len(columns)),
            lambda pair, day: parts_of(*names[pair], day),
            bytes_max,
            metrics,
        )
        self._days: OrderedDict[int, DayKeys] = OrderedDict()  # the one used last comes last
        self._last_seq = 0
        self._warned = False

    @property
    def nbytes(self) -> int:
        """Memory of the days' sets, at most ``bytes_max`` between calls."""
        return sum(day.nbytes for day in self._days.values())

    def fresh(self, batch: pa.RecordBatch, first_seq: int) -> Mask | None:
        """Return which rows of ``batch`` are new, None for all, and take their keys.

        The new ones get ``seq`` from ``first_seq`` on, without gaps. Of rows with the same key in the batch the first
        is new. A row with a null in a key column has no key and is always new.

        Raises:
            StorageError: a part cannot be read; nothing was taken.
        """
        if not batch.num_rows:
            return None
        groups = [(self._day(day, first_seq), rows, numbers) for day, rows, numbers in self._split(batch)]
        verdicts = [day.check(rows) for day, rows, _ in groups]
        fresh: Mask | None = None
        if any(v.fresh is not None for v in verdicts):
            fresh = np.ones(batch.num_rows, bool)
            for (_, _, numbers), verdict in zip(groups, verdicts, strict=True):
                if verdict.fresh is not None:
                    fresh[numbers] = verdict.fresh
        count = batch.num_rows if fresh is None else int(fresh.sum())
        self._advance(first_seq, count)
        for (day, rows, _), verdict in zip(groups, verdicts, strict=True):
            day.take(rows, verdict, self._last_seq)
        if count < batch.num_rows:
            self._source.metrics.add("rows_duplicate", batch.num_rows - count)
        self._make_room()
        return fresh

    def restore(self, batch: pa.RecordBatch, last_seq: int) -> None:
        """Take the keys of ``batch``: all stored rows that are in no live part; none of them is above ``last_seq``.

        For a new index, or after ``reset``; nothing is checked.
        """
        self._last_seq = last_seq
        if batch.num_rows:
            for day, rows, _ in self._split(batch):
                self._day(day, last_seq + 1).take(rows, None, last_seq)
            self._make_room()

    def release(self, seq: int) -> None:
        """Let go of keys in memory: all rows up to ``seq`` are in live parts now."""
        for day in self._days.values():
            day.release(seq)

    def reset(self) -> None:
        """Forget all rows, until ``restore``."""
        self._days.clear()
        self._last_seq = 0

    def _advance(self, first_seq: int, count: int) -> None:
        assert first_seq > self._last_seq, "rows come in order of seq"
        self._last_seq = first_seq + count - 1

    def _day(self, number: int, first_seq: int) -> DayKeys:
        day = self._days.get(number)
        if day is None:
            day = self._days[number] = DayKeys(number, first_seq, self._source)
        self._days.move_to_end(number)
        return day

    def _split(self, batch: pa.RecordBatch) -> Iterator[tuple[int, KeyRows, npt.NDArray[np.intp] | slice]]:
        """Yield each day of ``batch``, its rows, and their numbers in the batch."""
        rows = key_rows([batch.column(c) for c in self._source.columns], self._pairs.number(batch))
        days = batch.column("timestamp").cast(pa.int64()).to_numpy()
        first, last = int(days.min()) // DAY_US, int(days.max()) // DAY_US
        if first == last:
            yield first, rows, slice(None)
            return
        days = days // DAY_US
        for day in np.unique(days).tolist():
            numbers = np.flatnonzero(days == day)
            yield day, rows.take(numbers), numbers

    def _make_room(self) -> None:
        """Drop sets, those of the days used longest ago first, and days, until the limits hold."""
        held = self.nbytes
        for day in list(self._days.values()):
            if held <= self._source.bytes_max:
                break
            held -= day.nbytes
            if day.nbytes:
                day.drop_set()
                self._source.metrics.add("dedup_drops")
                if held == 0 and not self._warned:
                    self._warned = True
                    LOG.warning("dedup.memory_short", bytes_max=self._source.bytes_max, hint="raise lakehouse.dedup_mb")
        if len(self._days) > _DAYS_MAX:
            idle = [number for number, day in self._days.items() if day.idle]
            for number in idle[: len(self._days) - _DAYS_MAX]:
                del self._days[number]


class PairNumbers:
    """Gives each exchange and symbol that is met a number, from 0."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []
        self._exchanges = _Labels()
        self._symbols = _Labels()
        self._grid: Pairs = np.full((1, 64), -1, np.int32)  # by the numbers of exchange and symbol

    def number(self, batch: pa.RecordBatch) -> Pairs:
        """Return the pair of each row of ``batch``."""
        exchanges, symbols = _labels(batch, "exchange"), _labels(batch, "symbol")
        places = self._exchanges.places(exchanges.dictionary), self._symbols.places(symbols.dictionary)
        self._grow(len(self._exchanges), len(self._symbols))
        # a row's place in the table of all pairs of the batch's labels, of which many may not occur
        codes = symbols.indices.to_numpy()
        if len(places[0]) > 1:
            codes = codes + exchanges.indices.to_numpy().astype(np.int64) * len(places[1])
        table: Pairs = self._grid[np.ix_(*places)].ravel()
        pairs: Pairs = table[codes]
        if table.min() < 0 and (missing := pairs < 0).any():
            for code in np.unique(codes[missing]).tolist():
                exchange, symbol = (int(p[c]) for p, c in zip(places, divmod(code, len(places[1])), strict=True))
                if self._grid[exchange, symbol] < 0:  # a dictionary may have a label twice
                    self._grid[exchange, symbol] = len(self.names)
                    self.names.append((self._exchanges.names[exchange], self._symbols.names[symbol]))
            pairs = self._grid[np.ix_(*places)].ravel()[codes]
        return pairs

    def _grow(self, exchanges: int, symbols: int) -> None:
        before = self._grid.shape
        if exchanges > before[0] or symbols > before[1]:
            shape = tuple(n if n <= m else 2 * n for n, m in zip((exchanges, symbols), before, strict=True))
            grid = np.full(np.maximum(shape, before), -1, np.int32)
            grid[: before[0], : before[1]] = self._grid
            self._grid = grid


def _labels(batch: pa.RecordBatch, name: str) -> pa.DictionaryArray:
    column = batch.column(name)
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


class _Labels:
    """Gives each label of a column a number; remembers the last dictionary, which often comes again."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._last: pa.Array | None = None
        self._places: npt.NDArray[np.intp] = np.empty(0, np.intp)

    def __len__(self) -> int:
        return len(self.names)

    def places(self, dictionary: pa.Array) -> npt.NDArray[np.intp]:
        """Return the number of each entry of a column's dictionary."""
        if self._last is None or not self._last.equals(dictionary):
            self._last = dictionary
            self._places = np.array([self._number(v) for v in dictionary.to_pylist()], np.intp)
        return self._places

    def _number(self, label: str) -> int:
        number = self._numbers.get(label)
        if number is None:
            number = self._numbers[label] = len(self.names)
            self.names.append(label)
        return number


class TableKeys:
    """The keys of a table that has some, or of one that stores all rows; its calls hold the store's append lock."""

    def __init__(self, index: KeyIndex | None) -> None:
        self._index = index
        self._released = 0

    def fresh(self, batch: pa.RecordBatch, first_seq: int, flushed_seq: int) -> pa.RecordBatch:
        """Return the rows of ``batch`` whose keys no stored row has, and take these; see ``KeyIndex``."""
        if self._index is None:
            return batch
        if flushed_seq > self._released:
            self._index.release(flushed_seq)
            self._released = flushed_seq
        mask = self._index.fresh(batch, first_seq)
        return batch if mask is None else batch.filter(pa.array(mask))

    def restore(self, rows: pa.Table, position: int, flushed_seq: int) -> None:
        """Begin anew with ``rows``, all that are in no part; ``position`` is the newest row's ``seq``."""
        if self._index is None:
            return
        self._index.reset()
        for batch in rows.unify_dictionaries().combine_chunks().to_batches():
            self._index.restore(batch, position)
        self._released = flushed_seq
