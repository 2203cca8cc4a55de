"""The two kinds of places that hold old parts: a folder on another disk, and an object store through obstore.

The rule of this file: under a key there is a whole file or none; bytes and errors pass through, and what they mean for
a part is decided in ``tier``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from tickflight_server.config import MIB, TierSettings
from tickflight_server.errors import ConfigError
from tickflight_server.files import make_folders, sync_folder
from tickflight_server.paths import is_partial_file_name, partial_file_name

CHUNK_BYTES = 8 * MIB  # one request of an upload, one piece of a download
# With these, requests to a store that refuses connections end after some 5 s; one that stalls, after 2 × timeout_s.
_RETRIES_MAX = 6
_BACKOFF_MAX_S = 2.0
_DOWNLOAD_S_MAX = 3600.0  # obstore's own default would end a large part's download after 30 s
_STORES: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}


class DamagedError(Exception):
    """What was read or written is not what it should be; a second try may do better."""


class Place(Protocol):
    """Where files lie under keys, ``a/b/c``; errors are ``OSError`` and obstore's."""

    def put(self, source: Path, key: str) -> bool:
        """Copy ``source`` there; return False if the same file was there already.

        Raises:
            DamagedError: what came to lie there is not what was sent.
        """
        ...

    def delete(self, key: str) -> None:
        """Delete a file; a missing one is fine."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int, int]]:
        """Yield key, bytes and time of change (µs) of each file below the folder ``prefix``."""
        ...

    def size(self, key: str) -> int:
        """Return a file's bytes."""
        ...

    def read(self, key: str) -> Iterator[Any]:
        """Yield a file's contents in pieces.

        Raises:
            DamagedError: the contents broke off.
        """
        ...


class Folder:
    """A folder on another disk. It must exist: a disk that is not mounted is not written to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # one copy at a time, so that one that a crash left is overwritten and never written by two
        self._copying = threading.Lock()

    def put(self, source: Path, key: str) -> bool:
        """Copy, sync, compare, rename."""
        target = self.root / key
        with self._copying:
            if target.exists() and _same(source, target):
                return False
            self.root.stat()  # raises what is wrong with it
            folders = make_folders(target.parent, self.root)
            partial = target.with_name(partial_file_name(target.name))
            try:
                with source.open("rb") as reader, open_private(partial) as writer:
                    shutil.copyfileobj(reader, writer, CHUNK_BYTES)
                    writer.flush()
                    os.fsync(writer.fileno())
                if not _same(source, partial):
                    raise DamagedError("the copy differs from its source")
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
            for folder in folders:
                sync_folder(folder)
        return True

    def delete(self, key: str) -> None:
        """Delete the file, not the folders that it leaves empty."""
        self.root.stat()  # a missing disk is not a missing file
        (self.root / key).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[tuple[str, int, int]]:
        """Walk the folder; what is half copied is not listed."""
        self.root.stat()  # as above
        for folder, _, names in os.walk(self.root / prefix):
            for name in sorted(names):
                if is_partial_file_name(name):
                    continue
                path = Path(folder) / name
                stat = path.stat()
                yield str(path.relative_to(self.root)), stat.st_size, stat.st_mtime_ns // 1000

    def size(self, key: str) -> int:
        """Ask the file system."""
        return (self.root / key).stat().st_size

    def read(self, key: str) -> Iterator[bytes]:
        """Read the file."""
        with (self.root / key).open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece


class Bucket:
    """A bucket of an object store, or what lies below a prefix in it.

    Raises:
        ConfigError: an option or a credential cannot be used.
    """

    def __init__(self, settings: TierSettings) -> None:
        scheme, _, rest = settings.url.partition("://")
        bucket, _, prefix = rest.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        config = {**settings.options, **_credentials(settings)}
        seconds = settings.timeout_s
        try:
            # an upload is cut into requests, each of which ends in time; a download is one request of any length
            self._store = _connect(scheme, bucket, config, seconds, timeout=timedelta(seconds=seconds))
            self._downloads = _connect(
                scheme,
                bucket,
                config,
                seconds,
                timeout=timedelta(seconds=max(_DOWNLOAD_S_MAX, seconds)),
                read_timeout=timedelta(seconds=seconds),
            )
        except (BaseError, ValueError, TypeError) as error:
            raise ConfigError(
                f"lakehouse.tier cannot be used: {explain(error)[0]}.",
                hint="lakehouse.tier.options takes obstore's settings of that kind of store.",
            ) from None

    def put(self, source: Path, key: str) -> bool:
        """Upload, in pieces if it is large, and compare what the store tells of it."""
        size, etags = _etags(source)
        if self._holds(source, key, size, etags):
            return False
        obstore.put(self._store, self._prefix + key, source, chunk_size=CHUNK_BYTES, max_concurrency=2)
        if not self._holds(source, key, size, etags):
            self.delete(key)
            raise DamagedError("the store holds something else than what was sent")
        return True

    def _holds(self, source: Path, key: str, size: int, etags: set[str]) -> bool:
        """Return whether ``source`` is there: by size, and by the store's MD5; where it tells none, by reading it."""
        try:
            found = obstore.head(self._store, self._prefix + key)
        except FileNotFoundError:
            return False
        if found["size"] != size:
            return False
        if (found["e_tag"] or "").strip('"') in etags:
            return True
        with source.open("rb") as file:
            return all(file.read(len(piece)) == bytes(piece) for piece in self.read(key)) and not file.read(1)

    def delete(self, key: str) -> None:
        """Delete the object. S3 says nothing of a missing one, the others do."""
        try:
            obstore.delete(self._store, self._prefix + key)
        except FileNotFoundError:
            return

    def list(self, prefix: str) -> Iterator[tuple[str, int, int]]:
        """Ask the store for a thousand at a time."""
        for found in obstore.list(self._store, self._prefix + prefix, chunk_size=1000):
            for meta in found:
                micros = (meta["last_modified"].timestamp() * 1_000_000).__round__()
                yield meta["path"].removeprefix(self._prefix), meta["size"], micros

    def size(self, key: str) -> int:
        """Ask the store."""
        return obstore.head(self._store, self._prefix + key)["size"]

    def read(self, key: str) -> Iterator[Any]:
        """Stream the object; obstore goes on where it broke off, if the store can."""
        result = obstore.get(self._downloads, self._prefix + key)
        try:
            yield from result.stream(min_chunk_size=CHUNK_BYTES)
        except (BaseError, OSError) as error:
            raise DamagedError(f"it broke off: {explain(error)[0]}") from None


def _connect(scheme: str, bucket: str, config: dict[str, str], seconds: float, **client: Any) -> Any:
    limit = timedelta(seconds=seconds)
    return _STORES[scheme](
        bucket,
        config=config,
        client_options={"connect_timeout": limit, **client},
        retry_config={
            "max_retries": _RETRIES_MAX,
            "retry_timeout": 2 * limit,
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=_BACKOFF_MAX_S),
                "base": 2,
            },
        },
    )


def _credentials(settings: TierSettings) -> dict[str, str]:
    values = {}
    for name, variable in settings.credentials.items():
        value = os.environ.get(variable)
        if not value:
            raise ConfigError(
                f"lakehouse.tier: environment variable {variable} for {name} is not set.",
                hint=f"export {variable}=…, or take {name} out of lakehouse.tier.credentials.",
            )
        values[name] = value
    return values


def _etags(source: Path) -> tuple[int, set[str]]:
    """Return bytes and the two entity tags that S3 gives: the MD5, and for an upload in pieces that of their MD5s."""
    whole = hashlib.md5(usedforsecurity=False)
    pieces = []
    size = 0
    with source.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            size += len(piece)
            whole.update(piece)
            pieces.append(hashlib.md5(piece, usedforsecurity=False).digest())
    joined = hashlib.md5(b"".join(pieces), usedforsecurity=False).hexdigest()
    return size, {whole.hexdigest(), f"{joined}-{len(pieces)}"}


def _same(left: Path, right: Path) -> bool:
    """Return whether two files have the same contents."""
    if left.stat().st_size != right.stat().st_size:
        return False
    with left.open("rb") as one, right.open("rb") as other:
        while piece := one.read(CHUNK_BYTES):
            if piece != other.read(CHUNK_BYTES):
                return False
    return True


def open_private(path: Path) -> Any:
    """Open ``path`` for writing from the start; it is its owner's alone."""
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))


_HTTP_STATUS = re.compile(r"status code: (\d{3})")
_S3_CODE = re.compile(r"<Code>(\w+)</Code>")


def explain(error: Exception) -> tuple[str, str | None]:
    """Return what went wrong at a place, without addresses' queries, which may hold keys, and what to do about it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror, "Look at the disk: is it mounted, writable, and not full?"
    text = str(error).partition("Debug source")[0]
    status, code = _HTTP_STATUS.search(text), _S3_CODE.search(text)
    said = " ".join(found[1] for found in (status, code) if found)
    if isinstance(error, FileNotFoundError):
        if code and code[1] == "NoSuchBucket":
            return "there is no such bucket", "Make it, or mend lakehouse.tier.url."
        return "it is not there", "Restore it from a backup of the store, if there is one."
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or (status and status[1] in ("401", "403")):
        hint = "Check lakehouse.tier.credentials, or obstore's environment variables, and the rights that they have."
        return f"the store refuses ({said or 'permission denied'})", hint
    line = re.sub(r"\?\S+", "", " ".join(text.split("<?xml")[0].split()))[:300].rstrip(" .:")
    if "HTTP error" in line:
        return f"the store does not answer: {line}", "Check lakehouse.tier.options.endpoint and the network."
    return f"{line} {code[1]}" if code else line, None
