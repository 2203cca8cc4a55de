"""Files that hold what lets somebody in: who may read them, how they change, and how a change is noticed.

The rule of this file: what others may read or write is refused, never mended in silence; a file is replaced whole.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tickflight_server.errors import ConfigError
from tickflight_server.redact import learn

BYTES_MAX = 16 << 20
Stamp = tuple[int, int, int] | None
"""Time of the last change (ns), size and number of a file; None where there is none."""


def stamp(path: Path) -> Stamp:
    """Return what changes when the file does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_secret(path: Path, *, private: bool = True) -> bytes:
    """Return what a file holds.

    With ``private`` nobody else may read it; otherwise nobody else may write it.

    Raises:
        ConfigError: it cannot be read, others may, or it is too large.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            _check(path, os.fstat(fd), private=private)
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.", hint="Check the name and whose it is.") from None
    if len(data) > BYTES_MAX:
        raise ConfigError(f"{path} has more than {BYTES_MAX >> 20} MiB.", hint="It is not the file that was meant.")
    return data


def read_secret_text(path: Path) -> str:
    """Return the one secret that a file holds, without space around it; no log has it from now on.

    Raises:
        ConfigError: it cannot be read, others may read it, or it holds nothing.
    """
    text = read_secret(path).decode(errors="replace").strip()
    if not text:
        raise ConfigError(f"{path} is empty.", hint="It is to hold a secret.")
    learn([text])
    return text


def _check(path: Path, status: os.stat_result, *, private: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is no file.", hint="Name a file.")
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{path} belongs to another user.", hint=f"chown it to the one that runs this: {path}.")
    others = 0o077 if private else 0o022
    if stat.S_IMODE(status.st_mode) & others:
        what = "read" if private else "written"
        raise ConfigError(
            f"{path} can be {what} by others (mode {stat.S_IMODE(status.st_mode):04o}).",
            hint=f"chmod {'600' if private else '644'} {path}; and change what it held, if others had it.",
        )


def write_secret(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put ``data`` in the place of what the file held: when this returns it is on disk, and its owner's alone.

    Raises:
        ConfigError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        beside.unlink(missing_ok=True)
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, mode)
                file.write(data)
                file.flush()
                os.fsync(fd)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}.", hint="Check whose folder it is in.") from None


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Let nobody else change the file meanwhile; its folder is made if it is missing.

    Raises:
        ConfigError: the folder cannot be had.
    """
    try:
        missing = []
        folder = path.parent
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot use {path.parent}: {error.strerror}.", hint="Check whose folder it is.") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
