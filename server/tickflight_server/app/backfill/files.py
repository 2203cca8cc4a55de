"""A file to import: what kind it is, what is in it, and a stream of its bytes.

The rule of this file: a file is read through once before a row of it is sent, so that what is cut off or damaged is
refused whole; its identity is the digest of what it holds, not of how it is packed or named.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from tickflight_server.errors import InputError, NotFoundError

Kind = Literal["csv", "parquet", "arrow"]
BLOCK = 1 << 20
_PACKED = {".gz": "gz", ".zip": "zip", ".zst": "zst"}
_KINDS: dict[str, Kind] = {".csv": "csv", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}


@dataclass(frozen=True)
class Content:
    """What a file holds: the number of its bytes once unpacked, and their digest."""

    nbytes: int
    digest: str


@dataclass(frozen=True)
class SourceFile:
    """A file to import. ``packed`` is "gz", "zip", "zst" or "", ``size`` is that of the file as it lies there."""

    path: Path
    kind: Kind
    packed: str
    size: int

    @property
    def name(self) -> str:
        """The file's name without the endings of packing and kind: ``BTCUSDT-trades-2024-01-01``."""
        name = self.path.name
        for ending in (*_PACKED, *_KINDS):
            name = name.removesuffix(ending)
        return name

    @contextmanager
    def open(self, moved: Callable[[int], None] = lambda _: None) -> Iterator[Any]:
        """Give a stream of the unpacked bytes; ``moved`` is told how far the packed file was read.

        Raises:
            InputError: the file cannot be read or is damaged; also from ``read`` of the stream.
        """
        with ExitStack() as stack:
            with failures(self.path):
                raw = _Watched(stack.enter_context(self.path.open("rb")), moved)
                stream: Any = raw
                if self.packed == "gz":
                    stream = gzip.GzipFile(fileobj=raw)
                elif self.packed == "zst":
                    stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
                elif self.packed == "zip":
                    archive = stack.enter_context(zipfile.ZipFile(raw))
                    stream = stack.enter_context(archive.open(self._member(archive)))
            yield _Stream(self.path, stream)

    def inspect(self, moved: Callable[[int], None] = lambda _: None) -> Content:
        """Read the file through; return what it holds.

        Raises:
            InputError: it cannot be read, is cut off or damaged.
        """
        digest = hashlib.blake2b(digest_size=32)
        nbytes = 0
        with self.open(moved) as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                nbytes += len(block)
        return Content(nbytes, digest.hexdigest())

    def first_line(self) -> str:
        """Return the first line, at most ``BLOCK`` bytes of it, without its end and without a byte-order mark."""
        with self.open() as stream:
            data = bytes(stream.read(BLOCK))
        return data.split(b"\n", 1)[0].removeprefix(b"\xef\xbb\xbf").rstrip(b"\r").decode("utf-8", "replace")

    def _member(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        found = [i for i in archive.infolist() if not i.is_dir() and not i.filename.startswith("__MACOSX/")]
        if len(found) != 1:
            raise InputError(f"{self.path} holds {len(found)} files.", hint="Unpack it and import the files.")
        return found[0]


@contextmanager
def failures(path: Path) -> Iterator[None]:
    """Turn what reading a file may raise into an ``InputError`` that names it."""
    try:
        yield
    except (EOFError, zlib.error, zipfile.BadZipFile, pa.ArrowException, RuntimeError, OSError) as error:
        reason = (str(getattr(error, "strerror", None) or error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"cannot read {path}: {reason}.", hint="Check the path and its permissions.") from None
        # what unpacks has no number for its errors
        raise InputError(
            f"{path} is cut off or damaged: {reason}.", hint="Fetch it again; nothing of it was stored."
        ) from None


class _Stream:
    """The unpacked bytes of a file; a failure to read names the file."""

    def __init__(self, path: Path, stream: Any) -> None:
        self._path = path
        self._stream = stream

    def read(self, size: int) -> bytes:
        with failures(self._path):
            return bytes(self._stream.read(size))


class _Watched(io.RawIOBase):
    """A file that tells how far it was read."""

    def __init__(self, file: Any, moved: Callable[[int], None]) -> None:
        self._file = file
        self._moved = moved

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        got = int(self._file.readinto(buffer))
        self._moved(self._file.tell())
        return got

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())


def find_files(paths: tuple[Path, ...]) -> tuple[list[SourceFile], list[Path]]:
    """Return the files to import below ``paths``, in order of their names, and the other files of the folders there.

    Raises:
        NotFoundError: a path is not there.
        InputError: a path that was named itself is of no known kind, or there is nothing to import.
    """
    files: list[SourceFile] = []
    others: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.is_file())
            known = [f for f in map(_source, below) if f is not None]
            files += known
            others += sorted(set(below) - {f.path for f in known})
        elif path.is_file():
            found = _source(path)
            if found is None:
                raise InputError(
                    f"{path} is of no kind that can be imported.",
                    hint="Endings are .csv, .csv.gz, .csv.zst, .zip, .parquet and .arrow.",
                )
            files.append(found)
        else:
            raise NotFoundError(f"there is no file {path}.", hint="Check the path.")
    if not files:
        raise InputError(f"there is nothing to import in {paths[0]}.", hint="Name files, or folders that hold some.")
    return files, others


def _source(path: Path) -> SourceFile | None:
    endings = [s.lower() for s in path.suffixes]
    packed = _PACKED.get(endings[-1], "") if endings else ""
    if packed:
        endings.pop()
    kind = _KINDS.get(endings[-1]) if endings else None
    if kind is None and packed == "zip":
        kind = "csv"  # Binance names an archive after its only member, without .csv
    if kind is None or (packed and kind != "csv"):
        return None
    return SourceFile(path, kind, packed, path.stat().st_size)
