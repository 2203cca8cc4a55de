"""Local copies of parts that live in an object store: what a query needs is fetched first, and stays while it runs.

The rule of this file: the copies, those on their way included, never take more than ``bytes_max``; a copy that is held
is not evicted, and nobody sees one that is not whole.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from tickflight_server.errors import BusyError, StorageError, TooLargeError
from tickflight_server.files import make_folder
from tickflight_server.paths import cache_file_name, is_cache_file_name
from tickflight_server.store.tier import Tier, part_fault

LOG = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Copy:
    """One file of the cache. Without ``job`` it is from an earlier run and is looked at before it is used."""

    path: Path
    nbytes: int
    job: Future[None] | None = None
    ready: bool = False
    holders: int = 0


class Held:
    """Where the parts that were asked for can be read, ``paths`` by URL, until ``close``. A context manager."""

    def __init__(self, paths: dict[str, Path], copies: Sequence[_Copy], cache: PartCache) -> None:
        self.paths = paths
        self._copies = copies
        self._cache = cache

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the copies go; they may be evicted from now on. Once is enough."""
        copies, self._copies = self._copies, ()
        self._cache.release(copies)


class PartCache:
    """The cache of one store. Any thread may call.

    Args:
        folder: where the copies are; made if missing. Copies of an earlier run are used again, anything else in it is
            removed.
        tier: where the parts are; its metrics also count ``tier_cache_hits``.
        bytes_max: room for the copies.
        fetches_max: parts fetched at once, for all queries together.

    Raises:
        StorageError: the folder cannot be used.
    """

    def __init__(self, folder: Path, tier: Tier, bytes_max: int, fetches_max: int) -> None:
        self._folder = folder
        self._tier = tier
        self._bytes_max = bytes_max
        self._copies: OrderedDict[str, _Copy] = OrderedDict()  # by file name, least recently used first
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()
        try:
            make_folder(folder)
            self._load()
        except OSError as error:
            raise StorageError(f"cannot use the folder {folder}: {error.strerror}.", hint="Check its rights.") from None
        self._pool = ThreadPoolExecutor(fetches_max, thread_name_prefix="tier-fetch")

    def _load(self) -> None:
        """Take over the copies of an earlier run, and remove what a crash left."""
        found = []
        for path in self._folder.iterdir():
            if is_cache_file_name(path.name):
                stat = path.stat()
                found.append((stat.st_mtime_ns, path, stat.st_size))
            else:
                path.unlink()
        for _, path, nbytes in sorted(found):
            self._copies[path.name] = _Copy(path, nbytes)
            self._bytes += nbytes
        with self._changed:
            self._make_room({})

    @property
    def nbytes(self) -> int:
        """Bytes of all copies, those on their way included."""
        return self._bytes

    def hold(self, urls: Sequence[str], nbytes: Sequence[int] | None = None) -> Held:
        """Fetch what is missing of ``urls`` and return where all of them can be read.

        ``nbytes`` are the parts' sizes as the catalog has them; without them, the store is asked. Ask for all parts of
        a query in one call: two calls of many queries may wait for each other's room.

        Raises:
            TooLargeError: the parts do not fit the cache.
            BusyError: other queries held the room for longer than ``lakehouse.tier.timeout_s``.
            StorageError: a part is damaged or missing, or the store cannot be reached.
        """
        sizes: dict[str, int | None] = dict.fromkeys(urls)
        if nbytes is not None:
            sizes = {url: int(size) for url, size in zip(urls, nbytes, strict=True)}
        paths = {url: path for url in sizes if (path := self._tier.local_path(url)) is not None}
        for url, path in paths.items():
            if not path.exists():
                raise StorageError(f"the part {url} is not there.", hint="Is the disk of lakehouse.tier.url mounted?")
        copies = self._reserve(self._sized({url: size for url, size in sizes.items() if url not in paths}))
        try:
            for url, copy in copies.items():
                assert copy.job is not None
                copy.job.result()
                paths[url] = copy.path
        except FutureCancelledError:
            self.release(list(copies.values()))
            raise _closed() from None
        except BaseException:
            self.release(list(copies.values()))
            raise
        return Held(paths, list(copies.values()), self)

    def _sized(self, sizes: Mapping[str, int | None]) -> dict[str, int]:
        """Ask the store for the sizes that the caller did not know, several at once."""
        unknown = [url for url, size in sizes.items() if size is None]
        try:
            asked = dict(zip(unknown, self._pool.map(self._tier.size, unknown), strict=True))
        except (RuntimeError, FutureCancelledError):  # the pool is shut down
            raise _closed() from None
        return {url: asked[url] if size is None else size for url, size in sizes.items()}

    def _reserve(self, sizes: Mapping[str, int]) -> dict[str, _Copy]:
        """Return the held copies of all ``sizes``, on their way or ready, as soon as there is room for them."""
        total = sum(sizes.values())
        if total > self._bytes_max:
            raise TooLargeError(
                f"the query needs {len(sizes)} remote parts of {total} bytes together, above lakehouse.tier.cache_mb "
                f"({self._bytes_max} bytes).",
                hint="Narrow the query by timestamp, exchange or symbol, or raise lakehouse.tier.cache_mb.",
            )
        names = {cache_file_name(url): size for url, size in sizes.items()}
        with self._changed:
            roomy = self._changed.wait_for(lambda: self._closed or self._make_room(names), self._tier.timeout_s)
            if self._closed:
                raise _closed()
            if not roomy:
                raise BusyError(
                    "no room for remote parts: other queries hold those in the cache.",
                    hint="Ask again later, or raise lakehouse.tier.cache_mb.",
                )
            return {url: self._take(url, size) for url, size in sizes.items()}

    def _make_room(self, wanted: Mapping[str, int]) -> bool:
        """Evict idle copies, least recently used first, until ``wanted`` fits; return False, nothing done, if not."""
        present = {name: copy for name in wanted if (copy := self._copies.get(name)) is not None}
        excess = self._bytes + sum(wanted.values()) - sum(c.nbytes for c in present.values()) - self._bytes_max
        idle = []
        for name, copy in self._copies.items():
            if excess <= 0:
                break
            # one without holders may still be on its way
            if copy.holders == 0 and name not in wanted and (copy.ready or copy.job is None):
                idle.append(copy)
                excess -= copy.nbytes
        if excess > 0:
            return False
        for copy in idle:
            copy.path.unlink(missing_ok=True)
            self._drop(copy)
        return True

    def _take(self, url: str, nbytes: int) -> _Copy:
        """Return the copy of ``url``, held once more; the caller holds the lock and has made room."""
        name = cache_file_name(url)
        copy = self._copies.get(name)
        if copy is None:
            copy = self._copies[name] = _Copy(self._folder / name, nbytes)
            self._bytes += nbytes
        elif copy.nbytes != nbytes and copy.holders == 0 and (copy.ready or copy.job is None):
            # not the file that the catalog means: looked at again, and then fetched anew
            self._bytes += nbytes - copy.nbytes
            copy.nbytes, copy.job, copy.ready = nbytes, None, False
        if copy.ready and not _touch(copy.path):
            copy.job, copy.ready = None, False
        if copy.ready:
            self._tier.metrics.add("tier_cache_hits")
        elif copy.job is None:
            copy.job = self._pool.submit(self._obtain, url, copy)
        copy.holders += 1
        self._copies.move_to_end(name)
        return copy

    def _obtain(self, url: str, copy: _Copy) -> None:
        """Make the copy of ``url`` be there, whole; runs in the pool."""
        try:
            if copy.path.exists():
                fault = part_fault(copy.path, url.rpartition("/")[2], copy.nbytes)
                if fault is None:
                    self._tier.metrics.add("tier_cache_hits")
                else:
                    LOG.warning("tier.copy_damaged", url=url, fault=fault)
                    copy.path.unlink()
            if not copy.path.exists():
                self._tier.fetch(url, copy.path, copy.nbytes)
        except BaseException as error:
            with self._changed:
                with suppress(OSError):
                    copy.path.unlink(missing_ok=True)
                self._drop(copy)
            if isinstance(error, OSError):
                raise StorageError(f"cannot use the copy of {url}: {error.strerror}.", hint=_DISK) from None
            raise
        with self._changed:
            copy.ready = True
            self._changed.notify_all()

    def _drop(self, copy: _Copy) -> None:
        """Forget a copy; the caller holds the lock and has seen to the file."""
        if self._copies.get(copy.path.name) is copy:
            del self._copies[copy.path.name]
            self._bytes -= copy.nbytes
            self._changed.notify_all()

    def release(self, copies: Sequence[_Copy]) -> None:
        """Hold ``copies`` once less; what nobody waits for any more and has not begun is not fetched."""
        with self._changed:
            for copy in copies:
                copy.holders -= 1
                assert copy.holders >= 0
                if copy.holders == 0 and not copy.ready and copy.job is not None and copy.job.cancel():
                    if copy.path.exists():
                        copy.job = None  # from an earlier run, and still to be looked at
                    else:
                        self._drop(copy)
            self._changed.notify_all()

    def close(self) -> None:
        """Fetch nothing more, and wait for what is under way. The copies stay for the next run."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._pool.shutdown(wait=True, cancel_futures=True)


_DISK = "Look at the disk of lakehouse.storage_path."


def _closed() -> StorageError:
    return StorageError("the cache of remote parts is closed.")


def _touch(path: Path) -> bool:
    """Note on the disk that a copy was used; return False if somebody took it away."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True
