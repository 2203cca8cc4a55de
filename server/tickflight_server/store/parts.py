"""The live parts of one table version, as columns: what a query is planned over.

The rule of this file: an index never changes; a flush makes a new one. Bounds lie in NumPy arrays, so that a hundred
thousand parts are weighed in a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from tickflight_server.store.partition import Part

Ints = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class PartIndex:
    """Columns of equal length, one entry a part; the fields are those of ``Part``, its units included."""

    path: Objects
    exchange: Objects
    symbol: Objects
    day: Ints
    rows: Ints
    nbytes: Ints
    min_us: Ints
    max_us: Ints
    min_seq: Ints
    max_seq: Ints

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

    def extended(self, parts: Sequence[Part]) -> PartIndex:
        """Return the index with ``parts`` added."""
        added = make_index(parts)
        return PartIndex(*(np.concatenate([getattr(self, f.name), getattr(added, f.name)]) for f in fields(self)))

    def chosen(self, mask: npt.NDArray[np.bool_]) -> PartIndex:
        """Return the parts where ``mask`` is true."""
        if mask.all():
            return self
        return PartIndex(*(getattr(self, f.name)[mask] for f in fields(self)))


_OBJECT_FIELDS = ("path", "exchange", "symbol")


def make_index(parts: Iterable[Part]) -> PartIndex:
    """Return the index of ``parts``, in their order."""
    items = list(parts)
    columns = []
    for field in fields(PartIndex):
        values = [getattr(p, field.name) for p in items]
        if field.name in _OBJECT_FIELDS:
            column = np.empty(len(items), dtype=object)
            column[:] = values
            columns.append(column)
        else:
            columns.append(np.array(values, dtype=np.int64))
    return PartIndex(*columns)


EMPTY = make_index(())
