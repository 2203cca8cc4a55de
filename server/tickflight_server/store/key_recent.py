"""Keys of rows that are not in parts for sure: what came since the last release, batch by batch.

The rule of this file: what is dropped was released, and every row that was not is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_TAIL_MAX = 64  # so many small chunks become one
_CHUNK_ROWS_MAX = 131_072

Columns = tuple[npt.NDArray[Any], ...]


@dataclass(eq=False)
class Chunk:
    """Keys of rows with ``seq`` up to ``last_seq``: arrays of equal length. ``indexed``: they are in the day's set."""

    columns: Columns
    last_seq: int
    indexed: bool


class RecentKeys:
    """Chunks in order of ``seq``."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self._tail = 0  # chunks at the end that were not merged yet

    def append(self, chunk: Chunk) -> None:
        """Add the newest rows; small chunks are merged now and then."""
        self.chunks.append(chunk)
        self._tail += 1
        if self._tail >= _TAIL_MAX:
            tail = self.chunks[-self._tail :]
            del self.chunks[-self._tail :]
            self.chunks += _merged(tail)
            self._tail = 0

    def drop(self, seq: int) -> list[Chunk]:
        """Let go of the chunks whose rows all have a ``seq`` up to ``seq``; return them."""
        count = sum(c.last_seq <= seq for c in self.chunks)
        dropped = self.chunks[:count]
        del self.chunks[:count]
        self._tail = min(self._tail, len(self.chunks))
        return dropped

    def forget_index(self) -> None:
        """Say that no chunk is in a set any more."""
        for chunk in self.chunks:
            chunk.indexed = False


def _merged(chunks: list[Chunk]) -> list[Chunk]:
    """Return ``chunks`` with neighbours made one, as far as they are in the set alike and not large together."""
    merged: list[Chunk] = []
    run: list[Chunk] = []
    rows = 0
    for chunk in chunks:
        size = len(chunk.columns[0])
        large = 2 * size >= _CHUNK_ROWS_MAX  # is not worth a copy
        if run and (large or chunk.indexed != run[0].indexed or rows + size > _CHUNK_ROWS_MAX):
            merged.append(_one(run))
            run, rows = [], 0
        run.append(chunk)
        rows += size
    return [*merged, _one(run)]


def _one(chunks: list[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    columns = tuple(np.concatenate(c) for c in zip(*(c.columns for c in chunks), strict=True))
    return Chunk(columns, chunks[-1].last_seq, chunks[0].indexed)
