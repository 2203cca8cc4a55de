"""The tier: the one place besides the data folder where parts may live, a folder on another disk or an object store.

The rule of this file: a part goes and comes whole and checked, or not at all; a URL in the catalog is the place's own
followed by the part's key, both as they are, without percent-encoding.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash
from obstore.exceptions import BaseError

from tickflight_server.config import MIB, TierSettings
from tickflight_server.errors import StorageError
from tickflight_server.files import sync_folder
from tickflight_server.metrics import Metrics
from tickflight_server.paths import parse_part_file_name, part_checksum, partial_file_name
from tickflight_server.store.places import Bucket, DamagedError, Folder, Place, explain, open_private

_PARQUET = b"PAR1"  # a Parquet file begins and ends with it


class Tier:
    """One place of parts. Any thread may call; each call has ended when it returns.

    ``timeout_s`` is that of the settings; ``metrics`` counts ``tier_puts``, ``tier_put_bytes``, ``tier_fetches``,
    ``tier_fetch_bytes`` and ``tier_failures``.

    Raises:
        ConfigError: an option or a credential cannot be used.
    """

    def __init__(self, settings: TierSettings, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self.timeout_s = settings.timeout_s
        self.url = settings.url
        scheme, _, path = settings.url.partition("://")
        self._folder = Folder(Path(path)) if scheme == "file" else None
        self._place: Place = self._folder or Bucket(settings)

    def put(self, source: Path, key: str) -> str:
        """Copy the part ``source`` there and return its URL; when this returns, it is there whole and durable.

        ``key`` is ``<table>/…/<name of the part>``. A part that is there already is left as it is, a differing file
        under its key is replaced.

        Raises:
            StorageError: the part is damaged here already, or it could not be copied; the source is left alone.
        """
        assert _is_key(key), key
        url = f"{self.url}/{key}"
        with self._doing("move a part to", url):
            if fault := part_fault(source, source.name):
                raise DamagedError(f"its source is damaged: {fault}")
            copied = self._place.put(source, key)
        if copied:
            self.metrics.add("tier_puts")
            self.metrics.add("tier_put_bytes", source.stat().st_size)
        return url

    def delete(self, url: str) -> None:
        """Delete a part; a missing one is fine.

        Raises:
            StorageError: it could not be deleted.
        """
        key = self._key(url)
        with self._doing("delete", url):
            self._place.delete(key)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int, int]]:
        """Yield URL, bytes and time of change (µs since 1970) of each file below the folder ``prefix``.

        Raises:
            StorageError: the place does not answer.
        """
        with self._doing("list", f"{self.url}/{prefix}"):
            for key, nbytes, changed_us in self._place.list(prefix):
                yield f"{self.url}/{key}", nbytes, changed_us

    def size(self, url: str) -> int:
        """Return a part's bytes.

        Raises:
            StorageError: it is not there, or the place does not answer.
        """
        key = self._key(url)
        with self._doing("find", url):
            return self._place.size(key)

    def fetch(self, url: str, target: Path, nbytes: int | None = None) -> None:
        """Copy a part to ``target``, of ``nbytes`` bytes if given; when this returns, it is there whole and durable.

        A copy that is damaged or broke off is tried once again.

        Raises:
            StorageError: the part could not be copied; ``target`` is as it was.
        """
        key = self._key(url)
        with self._doing("fetch", url):
            try:
                fetched = self._fetch(key, target, nbytes)
            except DamagedError:
                fetched = self._fetch(key, target, nbytes)
        self.metrics.add("tier_fetches")
        self.metrics.add("tier_fetch_bytes", fetched)

    def _fetch(self, key: str, target: Path, nbytes: int | None) -> int:
        partial = target.with_name(partial_file_name(f"{target.name}.{secrets.token_hex(4)}"))
        try:
            with open_private(partial) as file:
                for piece in self._place.read(key):
                    file.write(piece)
                fetched: int = file.tell()
                file.flush()
                os.fsync(file.fileno())
            if fault := part_fault(partial, key.rpartition("/")[2], nbytes):
                raise DamagedError(fault)
            partial.replace(target)
            sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)
        return fetched

    @property
    def root(self) -> Path | None:
        """The folder that the tier is, None for an object store."""
        return self._folder.root if self._folder else None

    def owns(self, url: str) -> bool:
        """Return whether ``url`` is one of this place."""
        return url.startswith(f"{self.url}/") and _is_key(url.removeprefix(f"{self.url}/"))

    def local_path(self, url: str) -> Path | None:
        """Return where a part of a folder can be read in place, None for an object store's.

        Raises:
            StorageError: the part is of another place.
        """
        key = self._key(url)
        return self._folder.root / key if self._folder else None

    def _key(self, url: str) -> str:
        if not self.owns(url):
            raise StorageError(
                f"the part {url} is not in lakehouse.tier.url ({self.url}).",
                hint="lakehouse.tier.url must stay what it was when parts moved there.",
            )
        return url.removeprefix(f"{self.url}/")

    @contextmanager
    def _doing(self, what: str, url: str) -> Iterator[None]:
        try:
            yield
        except (DamagedError, BaseError, OSError) as error:
            self.metrics.add("tier_failures")
            reason, hint = (str(error), None) if isinstance(error, DamagedError) else explain(error)
            raise StorageError(f"cannot {what} {url}: {reason}.", hint=hint) from None


def file_checksum(path: Path) -> str:
    """Return the xxh3 of a file's contents, 16 hex digits: what the names of parts carry."""
    state = xxhash.xxh3_64()
    with path.open("rb") as file:
        while piece := file.read(MIB):
            state.update(piece)
    return state.hexdigest()


def part_fault(path: Path, name: str, nbytes: int | None = None) -> str | None:
    """Return what is wrong with the file at ``path``, which holds the part called ``name``, or None.

    The contents must fit the checksum in the name; an older name has none, and a file of it must begin and end as
    Parquet does. ``nbytes`` is the size that it must have, if that is known.
    """
    size = path.stat().st_size
    if nbytes is not None and size != nbytes:
        return f"it has {size} bytes instead of {nbytes}"
    wanted = part_checksum(name)
    if wanted is not None:
        found = file_checksum(path)
        return None if found == wanted else f"its contents have the checksum {found}, its name says {wanted}"
    if parse_part_file_name(name) is None:
        return None
    with path.open("rb") as file:
        first = file.read(4)
        file.seek(max(size - 4, 0))
        return None if first == file.read(4) == _PARQUET else "it is no whole Parquet file"


def _is_key(key: str) -> bool:
    return all(component not in ("", ".", "..") for component in key.split("/"))
