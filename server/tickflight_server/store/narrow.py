"""Rows that may be seen, chosen from those that are there: of segments row by row, of parts whole.

The rule of this file: what is chosen has nothing of what was left out, neither rows nor columns nor, in the
dictionaries of labels, names; where everything may be seen nothing is copied.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickflight_server.identity.rights import TableRights
from tickflight_server.store.parts import PartIndex
from tickflight_server.store.ring import Segment

Mask = npt.NDArray[np.bool_]
_TABLE_MAX = 1 << 22  # of numbers that are counted by a table of them


def permitted_parts(parts: PartIndex, rights: TableRights) -> Mask:
    """Return which of ``parts`` are of an exchange and symbol that may be seen."""
    pairs = (parts.exchange_code << 32) | parts.symbol_code
    distinct, places = np.unique(pairs, return_inverse=True)
    exchanges, symbols = parts.exchanges.values, parts.symbols.values
    permitted = [rights.permits(exchanges[pair >> 32], symbols[pair & 0xFFFF_FFFF]) for pair in distinct.tolist()]
    return np.array(permitted, dtype=bool)[places]


def narrowed_segment(segment: Segment, rights: TableRights, since_us: int | None, upto: int | None) -> Segment | None:
    """Return what may be seen of ``segment``, with timestamps from ``since_us`` on and ``seq`` up to ``upto``.

    None if nothing is.
    """
    if since_us is not None and segment.max_us < since_us:
        return None
    pairs = {(e, s) for e in segment.exchanges for s in segment.symbols if rights.permits(e, s)}
    if not pairs and rights.rows is not None:
        return None
    late = upto is not None and segment.last_seq > upto
    old = since_us is not None and segment.min_us < since_us
    if rights.rows is None and rights.columns is None and not late and not old:
        return segment
    # also where all rows may be seen: a dictionary may have names that no row has
    return _NarrowSegment(segment, rights, since_us if old else None, upto if late else None, pairs)


class _NarrowSegment(Segment):
    """What may be seen of a segment; ``batch`` is made when it is first asked for.

    The bounds are those of the rows that it is made of, or narrower.
    """

    def __init__(
        self, of: Segment, rights: TableRights, since_us: int | None, upto: int | None, pairs: set[tuple[str, str]]
    ) -> None:
        every = rights.rows is None
        last_seq = of.last_seq if upto is None else upto
        self.__dict__.update(
            _of=of,
            _rights=rights,
            _since_us=since_us,
            _upto=upto,
            first_seq=of.first_seq,
            last_seq=last_seq,
            min_us=of.min_us if since_us is None else since_us,
            max_us=of.max_us,
            exchanges=of.exchanges if every else frozenset(e for e, _ in pairs),
            symbols=of.symbols if every else frozenset(s for _, s in pairs),
            nbytes=of.nbytes,
        )

    @cached_property
    def batch(self) -> pa.RecordBatch:
        """The rows."""
        of: Segment = self.__dict__["_of"]
        values = self.__dict__
        return narrowed_batch(of, of.batch, values["_rights"], values["_since_us"], values["_upto"])


def narrowed_batch(
    segment: Segment, rows: pa.RecordBatch, rights: TableRights, since_us: int | None, upto: int | None
) -> pa.RecordBatch:
    """Return those of ``rows``, some of a segment's, that may be seen, with the columns that may, as they lie there."""
    masks: list[Mask] = []
    if rights.rows is not None:
        masks.append(_permitted(rows, rights))
    if since_us is not None and segment.min_us < since_us:
        masks.append(np.asarray(rows.column("timestamp").view(pa.int64())) >= since_us)
    if upto is not None and segment.last_seq > upto:
        masks.append(np.asarray(rows.column("seq")) <= upto)
    if rights.columns is not None:
        rows = rows.select([name for name in rows.schema.names if name in rights.columns])
    if masks and not (keep := np.logical_and.reduce(masks)).all():
        rows = rows.take(pa.array(np.flatnonzero(keep)))
    if rights.rows is None:
        return rows
    arrays = [compact(c) if pa.types.is_dictionary(c.type) else c for c in rows.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=rows.schema)


def _permitted(rows: pa.RecordBatch, rights: TableRights) -> Mask:
    """Return which rows are of an exchange and symbol that may be seen."""
    exchanges, symbols = rows.column("exchange"), rows.column("symbol")
    names = ["", *exchanges.dictionary.to_pylist()], ["", *symbols.dictionary.to_pylist()]
    width = len(names[1])
    pairs = _codes(exchanges) * width + _codes(symbols)
    distinct = _distinct(pairs, len(names[0]) * width)
    known = np.array([rights.permits(names[0][p // width], names[1][p % width]) for p in distinct.tolist()], dtype=bool)
    return np.isin(pairs, distinct[known], kind="table" if len(names[0]) * width < _TABLE_MAX else None)


def _distinct(codes: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return which of the numbers below ``count`` are among ``codes``, in order."""
    return np.flatnonzero(np.bincount(codes, minlength=1)) if count < _TABLE_MAX else np.unique(codes)


def _codes(labels: pa.DictionaryArray) -> npt.NDArray[np.int64]:
    """Return the places of labels in their dictionary, counted from 1; 0 is none."""
    return np.asarray(labels.indices.fill_null(-1)).astype(np.int64) + 1


def compact(labels: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return ``labels`` with a dictionary of only those that occur.

    A part's dictionary, too, may hold labels of other partitions, which were flushed with it.
    """
    count = len(labels.dictionary)
    codes = _codes(labels)
    used = _distinct(codes, count + 1)
    used = used[used > 0]
    if len(used) == count:
        return labels
    places = np.zeros(count + 1, dtype=np.int32)
    places[used] = np.arange(len(used), dtype=np.int32)
    indices = pa.array(places[codes], mask=codes == 0)
    return pa.DictionaryArray.from_arrays(indices, labels.dictionary.take(pa.array(used - 1)))
