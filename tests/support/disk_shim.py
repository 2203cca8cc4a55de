"""The disk shim from Python's side: compile it, run a process under it, order faults, leave marks in its journal.

The rule of this file: nothing here knows the store. Structs and numbers are those of tests/crash/disk_shim.c, and the
page is proto-notes/crash-testing.md.
"""

from __future__ import annotations

import ctypes
import enum
import json
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent
SOURCE = SUPPORT.parent / "crash" / "disk_shim.c"
_ENTRY_HEAD_BYTES = 56


class Kind(enum.IntEnum):
    """What an operation is; ``OPEN_READ`` and ``READ`` change nothing and are not numbered."""

    MARK = 1
    ESCAPE = 2
    OPEN_WRITE = 3
    OPEN_READ = 4
    OPEN_FOLDER = 5
    WRITE = 6
    SYNC = 7
    RENAME = 8
    LINK = 9
    UNLINK = 10
    RMDIR = 11
    MKDIR = 12
    TRUNCATE = 13
    READ = 14


CHANGING = frozenset(Kind) - {Kind.MARK, Kind.ESCAPE, Kind.OPEN_READ, Kind.READ}
"""The numbered kinds: those whose failure a writer must bear."""


class Action(enum.IntEnum):
    """What happens to an operation that is hit. Kills are SIGKILL, which no thread outlives."""

    FAIL = 1
    SHORT_THEN_FAIL = 2  # half of the first write is done and reported; later hits fail
    KILL_BEFORE = 3
    KILL_MIDDLE = 4  # half of a write is done
    KILL_AFTER = 5


class _Control(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("armed", "action", "error", "hit_kind")),
        *((name, ctypes.c_uint64) for name in ("kinds", "first", "last", "matched", "hits", "total", "escapes")),
        ("pattern", ctypes.c_char * 256),
        ("hit_path", ctypes.c_char * 1024),
    )


class Control:
    """The control file of a shim, mapped: orders take effect at the next operation of whoever runs under it."""

    def __init__(self, path: Path, *, make: bool = False) -> None:
        self.path = path
        if make:
            path.write_bytes(bytes(ctypes.sizeof(_Control)))
        with path.open("r+b") as file:
            self._block = _Control.from_buffer(mmap.mmap(file.fileno(), 0))

    def arm(
        self,
        action: Action,
        *,
        first: int = 1,
        last: int | None = None,
        error: int = 0,
        kinds: Iterable[Kind] = CHANGING,
        pattern: str = "",
    ) -> None:
        """Order ``action`` for operations ``first`` to ``last`` (without end if None) of those that match.

        Counting begins now, from 1. ``pattern`` is of ``fnmatch``, over the path relative to the folder.
        """
        block = self._block
        block.armed = 0
        block.action, block.error, block.pattern = action, error, pattern.encode()
        block.kinds = sum(1 << kind for kind in set(kinds))
        block.first, block.last = first, (1 << 63 if last is None else last)
        block.matched = block.hits = 0
        block.hit_kind, block.hit_path = 0, b""
        block.armed = 1

    def disarm(self) -> None:
        """Let everything through."""
        self._block.armed = 0

    @property
    def hits(self) -> int:
        """Operations that were hit since ``arm``."""
        return int(self._block.hits)

    @property
    def matched(self) -> int:
        """Operations that matched kinds and pattern since ``arm``."""
        return int(self._block.matched)

    @property
    def total(self) -> int:
        """Numbered operations since the control file was made."""
        return int(self._block.total)

    @property
    def escapes(self) -> int:
        """Calls that may have changed the disk and are in no journal."""
        return int(self._block.escapes)

    @property
    def hit(self) -> str:
        """The first operation that was hit, for people."""
        kind, path = self._block.hit_kind, self._block.hit_path.decode()
        return f"{Kind(kind).name.lower()} {path or '.'}" if kind else "nothing"


@dataclass(frozen=True)
class Entry:
    """One entry of a journal; paths are relative to the folder, ``error`` is 0 where the operation went well."""

    kind: Kind
    flags: int
    error: int
    number: int
    handle: int
    offset: int
    path: str
    path2: str
    data: bytes

    @property
    def mark(self) -> dict[str, Any]:
        """What the workload said here."""
        assert self.kind is Kind.MARK
        found: dict[str, Any] = json.loads(self.data)
        return found

    def __str__(self) -> str:
        names = f"{self.path or '.'} -> {self.path2}" if self.path2 else self.path or "."
        size = f", {len(self.data)} bytes at {self.offset}" if self.kind is Kind.WRITE else ""
        return f"{self.kind.name.lower()} {names}{size}" + (f" ({os.strerror(self.error)})" if self.error else "")


def read_journal(path: Path) -> list[Entry]:
    """Return the entries of a journal in true order; one that a kill cut short is left out."""
    return list(_entries(path.read_bytes()))


def _entries(data: bytes) -> Iterator[Entry]:
    at = 0
    while at + _ENTRY_HEAD_BYTES <= len(data):
        head = EntryHead.from_buffer_copy(data, at)
        end = at + head.size
        if end > len(data):
            return
        texts = at + _ENTRY_HEAD_BYTES
        paths = texts + head.path_size
        rest = paths + head.path2_size
        yield Entry(
            kind=Kind(head.kind),
            flags=head.flags,
            error=head.error,
            number=head.number,
            handle=head.handle,
            offset=head.offset,
            path=data[texts:paths].decode(),
            path2=data[paths:rest].decode(),
            data=data[rest:end],
        )
        at = end


class EntryHead(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("size", "kind", "flags")),
        ("error", ctypes.c_int32),
        *((name, ctypes.c_uint64) for name in ("number", "handle")),
        ("offset", ctypes.c_int64),
        *((name, ctypes.c_uint32) for name in ("path_size", "path2_size", "data_size", "thread")),
    )


assert ctypes.sizeof(EntryHead) == _ENTRY_HEAD_BYTES


def missing_compiler() -> str | None:
    """Return why the shim cannot be compiled here, None if it can."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return "the disk shim is written for Linux on 64 bits"
    if shutil.which("cc") is None and find_spec("ziglang") is None:
        return "there is no C compiler: neither cc nor the package ziglang"
    return None


def compile_shim(folder: Path) -> Path:
    """Compile the shim into ``folder`` and return the library."""
    library = folder / "disk_shim.so"
    compiler = ["cc"] if shutil.which("cc") else [sys.executable, "-m", "ziglang", "cc"]
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*compiler, *options, "-o", str(library), str(SOURCE), "-ldl", "-lpthread"], check=True, timeout=120)
    return library


def shim_environment(
    library: Path, folder: Path, *, journal: Path | None = None, control: Path | None = None
) -> dict[str, str]:
    """Return the environment of a process that runs under the shim; ``folder`` has no symbolic link in its path."""
    found = {**os.environ, "LD_PRELOAD": str(library), "DISK_SHIM_ROOT": str(folder)}
    if journal is not None:
        found["DISK_SHIM_JOURNAL"] = str(journal)
    if control is not None:
        found["DISK_SHIM_CONTROL"] = str(control)
    found["PYTHONPATH"] = os.pathsep.join(p for p in (str(SUPPORT), found.get("PYTHONPATH", "")) if p)
    return found


def mark(what: dict[str, Any]) -> None:
    """Put ``what`` into the journal of this process, which runs under the shim, behind all that it has done."""
    text = json.dumps(what).encode()
    ctypes.CDLL(None).disk_shim_mark(text, ctypes.c_size_t(len(text)))
