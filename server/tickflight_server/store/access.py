"""Parts made ready for the engine: there, whole, and local.

The rule of this file: a part whose contents are not those that were written is never read; the engine verifies no
checksum of its own (measured: proto-notes/decisions). A column of a file is checked when this process needs it first,
and again whenever the file has changed on disk; a file of an older version is checked whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from tickflight_server.errors import StorageError
from tickflight_server.metrics import Metrics
from tickflight_server.paths import part_checksum, part_end_checksum
from tickflight_server.store.health import Health
from tickflight_server.store.part_cache import Held, PartCache
from tickflight_server.store.part_sums import columns_are_whole
from tickflight_server.store.partition import DAMAGED_HINT
from tickflight_server.store.parts import PartIndex
from tickflight_server.store.tier import file_checksum

Verify = Literal["first_use", "never"]
Columns = frozenset[str] | None
"""Columns by name, None for all."""
_PARALLEL = 4


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


class PartChecker:
    """Knows which files have been found whole.

    Args:
        root: the data folder, for naming what lies in it.
        health: is told of missing and damaged parts.
        verify: ``first_use`` reads each column of a part once to check it; ``never`` only sees that the file is there.
    """

    def __init__(self, root: Path, health: Health, metrics: Metrics, verify: Verify) -> None:
        self._root = root
        self._health = health
        self._metrics = metrics
        self._verify = verify
        self._known: dict[str, tuple[int, int, Columns]] = {}  # size, time of change, what was compared
        self._bad: set[str] = set()
        self._pool = ThreadPoolExecutor(_PARALLEL, "part-check")

    def check(self, table: str, parts: Sequence[tuple[str, int]], columns: Columns = None) -> None:
        """See that each file of ``parts``, given with its size in bytes, is there, and ``columns`` of it are whole.

        Raises:
            StorageError: one is missing or damaged; the message names it.
        """
        unknown = [(path, size) for path, size in parts if not self._is_known(path, columns)]
        if len(unknown) <= _PARALLEL:
            for path, size in unknown:
                self._check(table, Path(path), size, columns)
        else:
            list(self._pool.map(lambda item: self._check(table, Path(item[0]), item[1], columns), unknown))

    def _is_known(self, path: str, columns: Columns) -> bool:
        known = self._known.get(path)
        if known is None or not _covers(known[2], columns):
            return False
        try:
            status = os.stat(path)  # noqa: PTH116 (a Path for each of many parts costs more than the look)
        except OSError:
            return False
        return known[:2] == (status.st_size, status.st_mtime_ns)

    def _check(self, table: str, path: Path, size: int, columns: Columns) -> None:
        try:
            status = path.stat()
            if status.st_size != size:
                raise self._damaged(table, path, f"it has {status.st_size} bytes instead of {size}")
            state = (status.st_size, status.st_mtime_ns)
            known = self._known.get(str(path))
            met = known[2] if known is not None and known[:2] == state else frozenset()
            if self._verify == "first_use":
                columns = self._compare(table, path, columns, met)
        except OSError as error:
            raise self._damaged(table, path, (error.strerror or str(error)).lower()) from None
        self._known[str(path)] = (*state, columns)
        self._bad.discard(str(path))
        if not self._bad:
            self._health.ok("parts")

    def _compare(self, table: str, path: Path, columns: Columns, met: Columns) -> Columns:
        """Compare ``columns`` of a file, of which ``met`` were compared before; return what is whole now."""
        wanted, end = part_checksum(path.name), part_end_checksum(path.name)
        if wanted is None or _covers(met, columns):
            return columns
        self._metrics.add("parts_checked")
        if columns is None or met is None or end is None:
            whole, columns = file_checksum(path) == wanted, None
        else:
            whole, columns = columns_are_whole(path, end, columns - met), columns | met
        if not whole:
            raise self._damaged(table, path, "its checksum is wrong")
        return columns

    def _damaged(self, table: str, path: Path, what: str) -> StorageError:
        self._bad.add(str(path))
        self._metrics.add("parts_damaged")
        name = path.relative_to(self._root) if path.is_relative_to(self._root) else path.name
        error = StorageError(f"part {name} of table {table} cannot be read: {what}.", hint=DAMAGED_HINT)
        self._health.report("parts", "degraded", error.message, DAMAGED_HINT)
        return error

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False)


def _covers(met: Columns, columns: Columns) -> bool:
    """Return whether all of ``columns`` are in ``met``."""
    return met is None or (columns is not None and columns <= met)


class PartAccess:
    """Makes parts ready: fetches those that live in the tier, and checks all of them.

    Args:
        root: the data folder.
        checker: what is known to be whole.
        cache: copies of remote parts, None without a tier.
    """

    def __init__(self, root: Path, checker: PartChecker, cache: PartCache | None, health: Health) -> None:
        self._root = root
        self._checker = checker
        self._cache = cache
        self._health = health

    def open(self, table: str, parts: PartIndex, evolved_seq: int, columns: Columns = None) -> OpenParts:
        """Make ``columns`` of ``parts`` of ``table`` ready; those up to ``evolved_seq`` may have another schema.

        Raises:
            StorageError: one is missing or damaged, or its place cannot be reached; the message names it.
        """
        held = self._fetch(parts)
        evolved = bool((parts.last <= evolved_seq).any())
        try:
            away = {url: str(path) for url, path in held.paths.items()} if held else {}
            root = f"{self._root}/"
            paths = [away.get(p) or f"{root}{table}/{p}" for p in parts.path]
            self._checker.check(
                table, list(zip(paths, parts.nbytes.tolist(), strict=True)), None if evolved else columns
            )
        except BaseException:
            if held is not None:
                held.close()
            raise
        return OpenParts([path.removeprefix(root) for path in paths], held.close if held else None, evolved=evolved)

    def _fetch(self, parts: PartIndex) -> Held | None:
        """Bring those of ``parts`` here that live in the tier."""
        away = [i for i, p in enumerate(parts.path) if "://" in p]
        if not away:
            return None
        if self._cache is None:
            raise _elsewhere(parts.path[away[0]])
        try:
            return self._cache.hold([parts.path[i] for i in away], [int(parts.nbytes[i]) for i in away])
        except StorageError as error:
            self._health.report("tier", "degraded", error.message, error.hint)
            raise

    def local(self, table: str, path: str) -> Path:
        """Return where part ``path`` of ``table`` can be read now; a copy may be evicted again.

        Raises:
            StorageError: its place cannot be reached.
        """
        if "://" not in path:
            return self._root / table / path
        if self._cache is None:
            raise _elsewhere(path)
        with self._cache.hold([path]) as held:
            return held.paths[path]

    def close(self) -> None:
        """Let threads and copies go."""
        self._checker.close()
        if self._cache is not None:
            self._cache.close()


def _elsewhere(path: str) -> StorageError:
    text = f"part {path} lives in another place."
    return StorageError(text, hint="Configure lakehouse.tier as it was when the part was moved.")
