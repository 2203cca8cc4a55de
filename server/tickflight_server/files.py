"""The few file-system calls that durability needs, in one place.

The rule of this file: what is made here is its owner's alone, and each call says what is on disk when it returns.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from tickflight_server.errors import ConfigError


def sync_folder(folder: Path) -> None:
    """Make names that were made or removed in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make the contents of ``path`` durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data``: a disk that is nearly full takes a part of it without an error."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_again(path: Path) -> None:
    """Put a copy of ``path`` on disk in its place, with its time; the name is durable once its folder is synced.

    A sync that succeeds after one that failed says nothing: the system may have dropped what it could not write, and
    still show it.
    """
    data, status = path.read_bytes(), path.stat()
    beside = path.with_name(f"{path.name}.again")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, data)
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(fd)
    finally:
        os.close(fd)
    beside.replace(path)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, private to their owner, their names durable."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    # pathlib's parents=True would give the parents the umask's mode
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def make_folders(folder: Path, below: Path) -> list[Path]:
    """Make ``folder``, private to its owner, and return it and its parents down from ``below`` for syncing."""
    chain = [folder]
    while chain[-1] != below:
        chain.append(chain[-1].parent)
    if not folder.is_dir():
        make_folder(below)
        for missing in reversed(chain[:-1]):
            missing.mkdir(mode=0o700, exist_ok=True)
    return chain


def claim_folder(folder: Path, *, ours: bool = True) -> None:
    """Make ``folder`` if it is missing, and see that it is this user's, and nobody else writes there.

    It is closed to all others if it is ``ours`` or nothing is in it.

    Raises:
        ConfigError: it belongs to another user, or others may write in it.
        OSError: it cannot be made.
    """
    make_folder(folder)
    status = folder.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        owner, user = _user_name(status.st_uid), _user_name(os.geteuid())
        raise ConfigError(
            f"the folder {folder} belongs to another user ({owner}).",
            hint=f"Run as {owner}, or give it to {user}: chown -R {user} {folder}",
        )
    empty = not any(folder.iterdir())
    if mode & 0o022 and not empty:
        raise ConfigError(
            f"others may write in the folder {folder} (mode {mode:04o}).",
            hint=f"See whether anything in it was changed, then close it to them: chmod -R go-rwx {folder}",
        )
    if ours or empty:
        close_to_others(folder)


def close_to_others(path: Path) -> None:
    """Let nobody but its owner read or write a file or folder; a link stays as it is."""
    mode = path.lstat().st_mode
    if mode & 0o077 and not stat.S_ISLNK(mode):
        path.chmod(stat.S_IMODE(mode) & 0o700)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
