"""Parts made ready for the engine: there, whole, and local.

The rule of this file: nothing is answered from a part whose contents are not those that were written; the engine
verifies no checksum of its own (measured: proto-notes/decisions). A column of a file is compared when this process
needs it first, and again whenever the file has changed on disk; a file of an older version is compared whole. A file's
end, by which readers find their way, is compared before anybody reads the file; who can keep an answer back may read
columns while they are compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from tickflight_server.errors import CancelledError, StorageError
from tickflight_server.metrics import Metrics
from tickflight_server.paths import part_checksum, part_end_checksum
from tickflight_server.store.health import Health
from tickflight_server.store.part_cache import Held, PartCache
from tickflight_server.store.part_sums import Sums, chunks_are_whole, read_sums
from tickflight_server.store.partition import DAMAGED_HINT
from tickflight_server.store.parts import PartIndex
from tickflight_server.store.tier import file_checksum

Verify = Literal["first_use", "never"]
Columns = frozenset[str] | None
"""Columns by name, None for all."""
T = TypeVar("T")
_PARALLEL = 4
_SLICE_MAX = 16
_WRONG = "its checksum is wrong"


class Comparing:
    """Parts that are being compared in the threads of ``pool``, in the order of ``calls``."""

    def __init__(self, pool: ThreadPoolExecutor, calls: Sequence[Callable[[], None]]) -> None:
        self._stopped = False
        self._jobs = [pool.submit(self._run, some) for some in _slices(calls)]

    def _run(self, calls: Sequence[Callable[[], None]]) -> None:
        for call in calls:
            if self._stopped:
                return
            call()

    def wait(self) -> None:
        """Return when all have been found whole.

        Raises:
            StorageError: one is damaged.
            CancelledError: ``cancel`` was called.
        """
        for job in self._jobs:
            job.result()
        if self._stopped:
            raise CancelledError("the query was cancelled.")

    def cancel(self) -> None:
        """Compare no more; who waits gets an error soon."""
        self._stopped = True

    def stop(self) -> None:
        """Compare no more; when this returns nobody reads the parts."""
        self._stopped = True
        for job in self._jobs:
            job.cancel()
        wait(self._jobs)


def _slices(items: Sequence[T]) -> list[Sequence[T]]:
    """Return ``items`` in slices, each worth handing to another thread, enough of them for all threads."""
    size = max(1, min(_SLICE_MAX, len(items) // (4 * _PARALLEL)))
    return [items[i : i + size] for i in range(0, len(items), size)]


class OpenParts:
    """Parts that are ready to be read until ``close``; ``paths`` are where the engine finds them.

    What was read is whole once ``wait`` has returned.
    """

    def __init__(
        self,
        paths: list[str],
        close: Callable[[], None] | None = None,
        *,
        evolved: bool = False,
        comparing: Comparing | None = None,
    ) -> None:
        self.paths = paths
        self.evolved = evolved
        self._close = close
        self._comparing = comparing

    def wait(self) -> None:
        """Return when all that may be read is known to be whole.

        Raises:
            StorageError: a part is damaged; the message names it.
            CancelledError: ``cancel`` was called.
        """
        if self._comparing is not None:
            self._comparing.wait()

    def cancel(self) -> None:
        """Let who waits wait no more."""
        comparing = self._comparing  # another thread may close this
        if comparing is not None:
            comparing.cancel()

    def close(self) -> None:
        """Let the parts go; a second call does nothing."""
        if self._comparing is not None:
            self._comparing.stop()
            self._comparing = None
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

        def check(part: tuple[str, int]) -> None:
            left = self._look(table, *part, columns)
            if left is not None:
                left()

        self._each(check, self._unknown(parts, columns))

    def begin(self, table: str, parts: Sequence[tuple[str, int]], columns: Columns = None) -> Comparing:
        """See that each file of ``parts`` is there, with a whole end, and begin to compare ``columns`` of it.

        Raises:
            StorageError: one is missing or damaged; the message names it.
        """
        looked = self._each(lambda part: self._look(table, *part, columns), self._unknown(parts, columns))
        return Comparing(self._pool, [left for left in looked if left is not None])

    def _unknown(self, parts: Sequence[tuple[str, int]], columns: Columns) -> list[tuple[str, int]]:
        return [(path, size) for path, size in parts if not self._is_known(path, columns)]

    def _each(self, do: Callable[[tuple[str, int]], T], parts: Sequence[tuple[str, int]]) -> list[T]:
        if len(parts) <= _PARALLEL:
            return [do(part) for part in parts]
        done = self._pool.map(lambda some: [do(part) for part in some], _slices(parts))
        return [one for some in done for one in some]

    def _is_known(self, path: str, columns: Columns) -> bool:
        known = self._known.get(path)
        if known is None or not _covers(known[2], columns):
            return False
        try:
            status = os.stat(path)  # noqa: PTH116 (a Path for each of many parts costs more than the look)
        except OSError:
            return False
        return known[:2] == (status.st_size, status.st_mtime_ns)

    def _look(self, table: str, name: str, size: int, columns: Columns) -> Callable[[], None] | None:
        """See that a file is there, and its end whole; return what is left to compare, as a call, None for nothing.

        Where the end says nothing of columns, the whole file is compared at once.
        """
        path = Path(name)
        with self._reading(table, path):
            status = path.stat()
            if status.st_size != size:
                raise self._damaged(table, path, f"it has {status.st_size} bytes instead of {size}")
            state = (status.st_size, status.st_mtime_ns)
            known = self._known.get(str(path))
            met = known[2] if known is not None and known[:2] == state else frozenset()
            wanted, end = part_checksum(path.name), part_end_checksum(path.name)
            if self._verify == "first_use" and wanted is not None and not _covers(met, columns):
                self._metrics.add("parts_checked")
                if columns is not None and met is not None and end is not None:
                    sums = read_sums(path, end)
                    if sums is None:
                        raise self._damaged(table, path, _WRONG)
                    return partial(self._compare, table, path, state, sums, columns - met, columns | met)
                if file_checksum(path) != wanted:
                    raise self._damaged(table, path, _WRONG)
                columns = None
        self._met(path, state, columns)
        return None

    def _compare(
        self, table: str, path: Path, state: tuple[int, int], sums: Sums, columns: Collection[str], met: Columns
    ) -> None:
        """Compare ``columns`` of a file; then ``met`` are whole."""
        with self._reading(table, path):
            if not chunks_are_whole(path, sums, columns):
                raise self._damaged(table, path, _WRONG)
        self._met(path, state, met)

    def _met(self, path: Path, state: tuple[int, int], columns: Columns) -> None:
        """Note what is whole of a file."""
        self._known[str(path)] = (*state, columns)
        self._bad.discard(str(path))
        if not self._bad:
            self._health.ok("parts")

    @contextmanager
    def _reading(self, table: str, path: Path) -> Iterator[None]:
        """Report errors of the block as ones of the file."""
        try:
            yield
        except OSError as error:
            raise self._damaged(table, path, (error.strerror or str(error)).lower()) from None

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

    def open(
        self, table: str, parts: PartIndex, evolved_seq: int, columns: Columns = None, *, meanwhile: bool = False
    ) -> OpenParts:
        """Make ``columns`` of ``parts`` of ``table`` ready; those up to ``evolved_seq`` may have another schema.

        ``meanwhile``: they are still being compared when this returns; see ``OpenParts.wait``.

        Raises:
            StorageError: one is missing or damaged, or its place cannot be reached; the message names it.
        """
        held = self._fetch(parts)
        evolved = bool((parts.last <= evolved_seq).any())
        try:
            away = {url: str(path) for url, path in held.paths.items()} if held else {}
            root = f"{self._root}/"
            paths = [away.get(p) or f"{root}{table}/{p}" for p in parts.path]
            files = list(zip(paths, parts.nbytes.tolist(), strict=True))
            comparing = None
            if meanwhile and not evolved:
                comparing = self._checker.begin(table, files, columns)
            else:
                self._checker.check(table, files, None if evolved else columns)
        except BaseException:
            if held is not None:
                held.close()
            raise
        names = [path.removeprefix(root) for path in paths]
        return OpenParts(names, held.close if held else None, evolved=evolved, comparing=comparing)

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
