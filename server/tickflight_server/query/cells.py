"""Databases of their own for statements whose memory is limited: the engine limits a database, and no statement.

The rule of this file: one statement at a time runs in a cell, and nothing of it is left there. A cell has the server's
tables as the common database has them, and nothing that users have made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import duckdb

from tickflight_server.config import QuerySettings
from tickflight_server.query.connections import looking_as
from tickflight_server.query.session import Options
from tickflight_server.query.statement import Statement

_KEPT_MAX = 8  # cells that wait for their next statement; each has some megabytes and threads that sleep


@dataclass(eq=False)
class Cell:
    """A database with limits, in MiB."""

    memory_mb: int
    spill_mb: int
    database: duckdb.DuckDBPyConnection

    def memory(self) -> int | None:
        """Return the bytes that its statement has of the engine's memory, None if nobody can tell."""
        with suppress(duckdb.Error):
            with self.database.cursor() as cursor:
                row = cursor.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchone()
            return int(row[0]) if row else None
        return None


class Cells:
    """The cells of one engine.

    Args:
        make: makes a database with the memory and the room to spill of settings, and a name for its folder.
        settings: the engine's; no cell has more.
        is_ours: tells whether a statement names nothing that users have made.
    """

    def __init__(
        self,
        make: Callable[[QuerySettings, str], duckdb.DuckDBPyConnection],
        settings: QuerySettings,
        is_ours: Callable[[Statement, Options], bool],
    ) -> None:
        self._make = make
        self._settings = settings
        self._is_ours = is_ours
        self._lock = threading.Lock()
        self._kept: list[Cell] = []  # longest unused first
        self._made = 0

    def are_for(self, statement: Statement, options: Options) -> bool:
        """Return whether a statement runs in a cell: its caller's roles limit its memory, and it needs nothing else."""
        limits = options.caller.limits
        if limits.memory_mb is None and limits.spill_mb is None:
            return False
        return self._is_ours(statement, options)

    def connect(self, options: Options, held: ExitStack) -> duckdb.DuckDBPyConnection:
        """Return a connection of a cell, which is given back when ``held`` is closed."""
        limits, settings = options.caller.limits, self._settings
        memory_mb = settings.memory_mb if limits.memory_mb is None else min(limits.memory_mb, settings.memory_mb)
        spill_mb = settings.spill_mb if limits.spill_mb is None else min(limits.spill_mb, settings.spill_mb)
        cell = self.take(memory_mb, spill_mb)
        held.callback(self.give_back, cell)
        if options.run is not None:
            options.run.memory = cell.memory
        return looking_as(cell.database.cursor(), options)

    def take(self, memory_mb: int, spill_mb: int) -> Cell:
        """Return a cell for one statement; ``give_back`` it."""
        with self._lock:
            for place in reversed(range(len(self._kept))):
                cell = self._kept[place]
                if (cell.memory_mb, cell.spill_mb) == (memory_mb, spill_mb):
                    return self._kept.pop(place)
            self._made += 1
            name = f"cell{self._made}"
        limits = self._settings.model_copy(update={"memory_mb": memory_mb, "spill_mb": spill_mb})
        return Cell(memory_mb, spill_mb, self._make(limits, name))

    def give_back(self, cell: Cell) -> None:
        """Keep a cell for the next statement, or let the longest unused one go."""
        with self._lock:
            self._kept.append(cell)
            gone = self._kept.pop(0) if len(self._kept) > _KEPT_MAX else None
        if gone is not None:
            gone.database.close()

    def close(self) -> None:
        """Let all cells go."""
        with self._lock:
            kept, self._kept = self._kept, []
        for cell in kept:
            cell.database.close()
