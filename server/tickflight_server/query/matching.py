"""Queries that choose columns of those rows of memory that their whole WHERE lets through, without the engine.

The rule of this file: what the engine would answer is answered. A query is taken only if its WHERE is understood whole
and exactly (``query/conditions``) and no part can match; a small answer is whole before the query's call goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain

import pyarrow as pa

from tickflight_server.errors import CancelledError
from tickflight_server.query.filters import Compare, Filter, In
from tickflight_server.query.sieve import conditions, places
from tickflight_server.query.sources import hold, opened_of
from tickflight_server.store import Segment, TableSnapshot
from tickflight_server.store.part_reader import as_type
from tickflight_server.store.ring import cut


class MatchingScan:
    """The rows of ``segments`` that meet ``where``, as batches of ``reader``, until it is stopped.

    Args:
        columns: what is taken of each row, as (column, type).
        schema: of the result.
        upto: rows with a later ``seq`` are left out, if given.
        batch_rows: most rows of a batch, and of a result that is made at once.
        held: keeps the snapshot.
    """

    evolved = False

    def __init__(
        self,
        snapshot: TableSnapshot,
        segments: Sequence[Segment],
        where: Filter,
        columns: Sequence[tuple[str, pa.DataType]],
        schema: pa.Schema,
        *,
        upto: int | None,
        batch_rows: int,
        held: ExitStack,
    ) -> None:
        hold(snapshot, held)
        self.table = snapshot.table.name
        self.opened = opened_of(segments)
        self._segments = segments
        self._where: list[Compare | In] = list(conditions(where))
        if upto is not None:
            self._where.append(Compare("<=", "seq", upto))
        self._columns, self._schema, self._batch_rows = columns, schema, batch_rows
        self._stopped = False
        batches, first, rows = self._batches(), list[pa.RecordBatch](), 0
        while rows <= batch_rows and (batch := next(batches, None)) is not None:
            first.append(batch)
            rows += batch.num_rows
        if rows > batch_rows:
            self.reader = pa.RecordBatchReader.from_batches(schema, chain(first, batches))
        else:
            self.reader = pa.Table.from_batches(first, schema).combine_chunks().to_reader()
        held.callback(self._let_go)

    def _let_go(self) -> None:
        # the reader holds what makes batches, which holds this: over C++, where no collector sees the circle
        del self.reader

    def stop(self) -> None:
        """Let whoever reads get an error in place of the next batch."""
        self._stopped = True

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for segment in self._segments:
            if self._stopped:
                raise CancelledError("the query was cancelled.")
            found = places(segment, self._where)
            if found is None:
                pieces = [segment.batch.column(name) for name, _ in self._columns]
            elif len(found):
                taken = pa.array(found)
                pieces = [segment.batch.column(name).take(taken) for name, _ in self._columns]
            else:
                continue
            arrays = [as_type(piece, kind) for piece, (_, kind) in zip(pieces, self._columns, strict=True)]
            yield from cut(pa.RecordBatch.from_arrays(arrays, schema=self._schema), self._batch_rows)
