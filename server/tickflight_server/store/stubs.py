"""MERGE: what ``Store`` is to offer and this branch only emulates; goes when the store's own is merged.

The rule of this file: names, arguments, results and errors are those that ``query`` and ``flight`` build upon; what is
behind them is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from tickflight_server.errors import NotFoundError, StorageError
from tickflight_server.store.parts import PartIndex
from tickflight_server.store.snapshot import TableSnapshot
from tickflight_server.store.table import Table


@dataclass(frozen=True)
class Condition:
    """The state of a component since ``since_us``: ok, degraded or failed."""

    component: str
    state: str
    since_us: int
    detail: str = ""
    hint: str = ""


class Health:
    """The conditions of all components."""

    def __init__(self) -> None:
        self._conditions: list[Condition] = []

    @property
    def state(self) -> str:
        """The worst state of any component."""
        states = {c.state for c in self._conditions}
        return "failed" if "failed" in states else "degraded" if "degraded" in states else "ok"

    def conditions(self) -> Iterator[Condition]:
        """Yield the condition of each component."""
        yield from self._conditions


class OpenParts:
    """Parts that are ready to be read until ``close``; ``paths`` are where the engine finds them."""

    def __init__(self, paths: list[str], close: Callable[[], None] | None = None, *, evolved: bool = False) -> None:
        self.paths = paths
        self.evolved = evolved
        self._close = close

    def close(self) -> None:
        """Let the parts go; a second call does nothing."""
        if self._close is not None:
            self._close()
            self._close = None


class StoreStubs:
    """What this branch emulates of ``Store``."""

    _tables: dict[str, Table]

    @cached_property
    def health(self) -> Health:
        """What is wrong at the moment."""
        return Health()

    @property
    def root(self) -> Path:
        """The data folder."""
        raise NotImplementedError

    def _table(self, name: str) -> Table:
        raise NotImplementedError

    def snapshot(self, table: str, upto: int | None = None) -> TableSnapshot:
        """Return a consistent cut over ``table`` as it is now, or of its rows with ``seq`` up to ``upto``."""
        return replace(self._table(table).snapshot(), upto=upto)

    def snapshot_at(self, table: str, version: int) -> TableSnapshot:
        """Return the rows of the parts of a table version.

        Raises:
            NotFoundError: there is no such version, or it is gone; the message says which there are.
        """
        found = self._table(table)
        kept = self._versions(table)
        if version not in kept:
            hint = f"Versions {min(kept)} to {max(kept)} are kept." if kept else "It has no version yet."
            raise NotFoundError(f"table {table} has no version {version}.", hint=hint)
        try:
            delta = DeltaTable(str(self.root / table), version=version)
            parts = found._catalog._read_parts(delta)
        except (DeltaError, OSError) as error:
            raise StorageError(f"version {version} of table {table} cannot be read: {error}.") from None
        last_seq = int(parts.max_seq.max()) if len(parts) else 0
        return TableSnapshot(found.schema, (), parts, version, last_seq)

    def version_at(self, table: str, timestamp_us: int) -> int:
        """Return the newest version of ``table`` that was committed up to ``timestamp_us``.

        Raises:
            NotFoundError: there was none yet, or it is gone.
        """
        kept = {v: ms for v, ms in self._versions(table).items() if ms * 1000 <= timestamp_us}
        if not kept:
            raise NotFoundError(f"table {table} has no version of that time.")
        return max(kept)

    def _versions(self, table: str) -> Mapping[int, int]:
        folder = self.root / table
        if not DeltaTable.is_deltatable(str(folder)):
            return {}
        return {entry["version"]: entry["timestamp"] for entry in DeltaTable(str(folder)).history()}

    def open_parts(self, snapshot: TableSnapshot, parts: PartIndex) -> OpenParts:
        """Make ``parts`` readable.

        Raises:
            StorageError: a part is missing or damaged.
        """
        return OpenParts([f"{snapshot.table.name}/{path}" for path in parts.path], evolved=False)
