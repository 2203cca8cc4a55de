"""Whose folder this is: one running server per data folder, and the identity that the server keeps for life.

The rule of this file: a folder is used by one process at a time, is private to its owner, and says who holds it.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path

from tickflight_server.errors import ConfigError
from tickflight_server.paths import Layout
from tickflight_server.store.files import sync_folder


class FolderLock:
    """The data folder, held by this process until ``close``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fd = -1

    def acquire(self) -> None:
        """Make the folder if missing and hold it.

        Raises:
            ConfigError: the folder cannot be made or written, or another process holds it.
        """
        root = self._layout.root
        try:
            self._layout.internal.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._layout.lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                f"cannot use the data folder {root}: {error.strerror}.",
                hint="Give lakehouse.storage_path a folder that this user may write.",
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(fd, 64).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise ConfigError(
                f"the data folder {root} is used by another server (process {owner}).",
                hint="Stop it, or give this one a lakehouse.storage_path of its own.",
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        self._fd = fd

    def close(self) -> None:
        """Let the folder go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def load_writer(layout: Layout) -> uuid.UUID:
    """Return the identity of this folder's writer, made once and kept.

    Raises:
        ConfigError: the file holds something else.
    """
    path: Path = layout.writer
    if not path.exists():
        identity = uuid.uuid4()
        temporary = path.with_suffix(".new")
        with temporary.open("w") as file:
            file.write(f"{identity}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    try:
        return uuid.UUID(path.read_text().strip())
    except (ValueError, OSError):
        raise ConfigError(
            f"{path} does not hold the writer's identity.", hint="Restore it from a backup; do not make a new one."
        ) from None
