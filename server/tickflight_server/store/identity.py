"""Whose folder this is: one running server per data folder, and the identity that the server keeps for life.

The rule of this file: a folder is used by one process at a time, is private to its owner, and says who holds it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path

from tickflight_server.errors import ConfigError, FolderInUseError
from tickflight_server.files import claim_folder, close_to_others, sync_folder, write_all
from tickflight_server.paths import Layout


class FolderLock:
    """The data folder, held by this process until ``close``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fd = -1

    def acquire(self) -> None:
        """Make the folder if missing and hold it.

        Raises:
            ConfigError: the folder cannot be made or written, is another user's, others may write in it, or another
                process holds it.
        """
        root, internal = self._layout.root, self._layout.internal
        try:
            # a folder with other things in it keeps its mode: what is made in it is private by itself
            claim_folder(root, ours=internal.is_dir())
            claim_folder(internal)
            tables = (path for path in root.iterdir() if (path / "_delta_log").is_dir())
            for path in (*internal.iterdir(), *tables):
                close_to_others(path)
            fd = os.open(self._layout.lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unusable(root, error) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = " ".join(os.read(fd, 512).decode(errors="replace").split()) or "unknown"
            os.close(fd)
            raise FolderInUseError(
                f"the data folder {root} is used by another server (process {owner}).",
                hint="Stop it, or give this one a lakehouse.storage_path of its own.",
                owner=owner,
            ) from None
        try:
            os.ftruncate(fd, 0)
            since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            write_all(fd, f"{os.getpid()} on {socket.gethostname()} since {since}\n".encode())
        except OSError as error:
            os.close(fd)
            raise _unusable(root, error) from None
        self._fd = fd

    def close(self) -> None:
        """Let the folder go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _unusable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot use the data folder {folder}: {error.strerror}.",
        hint="Give lakehouse.storage_path a folder that this user may write.",
    )


def load_writer(layout: Layout) -> uuid.UUID:
    """Return the identity of this folder's writer, made once and kept.

    Raises:
        ConfigError: the file holds something else, or cannot be made.
    """
    path: Path = layout.writer
    try:
        if not path.exists():
            _make_writer(path)
    except OSError as error:
        raise _unusable(layout.root, error) from None
    try:
        return uuid.UUID(path.read_text().strip())
    except (ValueError, OSError):
        raise ConfigError(
            f"{path} does not hold the writer's identity.", hint="Restore it from a backup; do not make a new one."
        ) from None


def _make_writer(path: Path) -> None:
    """Write a new identity; the file has its name only when all of it is on disk."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(fd, f"{uuid.uuid4()}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    sync_folder(path.parent)
