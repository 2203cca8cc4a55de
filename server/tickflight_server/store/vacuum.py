"""Files that no table version needs any more: what a crash left, and parts that were removed long ago.

The rule of this file: a file goes only if its rows are known to be elsewhere, or to be meant to be gone; when anything
that should be there is missing, nothing is deleted.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import structlog

from tickflight_server.errors import StorageError
from tickflight_server.paths import parse_part_file_name
from tickflight_server.store.delta_log import FOLDER, removed_since

LOG = structlog.get_logger(__name__)
_YOUNG_MS = 3_600_000


def part_files(folder: Path) -> Iterator[str]:
    """Yield the parts below a table's folder, listed or not, each as its path relative to it.

    Raises:
        OSError: a folder cannot be listed.
    """
    for base, folders, files in _walk(folder):
        if not base and FOLDER in folders:
            folders.remove(FOLDER)
        for name in files:
            if parse_part_file_name(name) is not None:
                yield f"{base}/{name}" if base else name


def _walk(folder: Path, *, down: bool = True) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder's path relative to ``folder``, and the names in it; ``down``: before those below it.

    Names are plain texts: with a hundred thousand parts, paths of objects took seconds of Python's lock.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # somebody removed it meanwhile
            raise error

    root = str(folder)
    for base, folders, files in os.walk(root, topdown=down, onerror=fail):
        yield base[len(root) + 1 :], folders, files


def remove_crash_leftovers(folder: Path, table: str, live: Collection[str], last_seq: int, oldest_ms: int) -> int:
    """Delete the parts that were written for a version which was never committed; return how many.

    Their rows are in the log or in other parts, whose replay has ended at ``last_seq``. What a version removed at or
    after ``oldest_ms`` stays for its readers.

    Raises:
        StorageError: there is a part with rows that nothing knows of: a table version is missing, nothing is deleted.
    """
    found = set(part_files(folder))
    unlisted = sorted(p for p in found if p not in live)
    if not unlisted:
        return 0
    kept = removed_since(folder, oldest_ms)
    for relative in unlisted:
        first, last = parse_part_file_name(_name(relative)) or (0, 0)
        if last > last_seq:
            raise StorageError(
                f"table {table} has a part with rows {first} to {last}, which neither its versions nor the log know: "
                f"{_name(relative)}.",
                hint="A table version is missing: restore the table's _delta_log from a backup.",
            )
    if any("://" not in p and p not in found for p in live):
        LOG.error("vacuum.skipped", table=table, reason="live parts are missing")
        return 0
    gone = [p for p in unlisted if p not in kept]
    for relative in gone:
        LOG.info("vacuum.leftover_removed", table=table, part=relative)
        (folder / relative).unlink(missing_ok=True)
    return len(gone)


def vacuum(
    folder: Path,
    table: str,
    live: Collection[str],
    in_use: Collection[str],
    removed: Mapping[str, int],
    oldest_ms: int,
    *,
    dry_run: bool = False,
) -> list[str]:
    """Delete the parts that versions removed before ``oldest_ms`` (ms since 1970); return them.

    ``in_use`` are read by somebody; ``removed`` says when the kept versions removed a part. A file that none of them
    names is of one removed long ago or just being written: it goes when it is an hour old.

    Raises:
        StorageError: a live part is missing; nothing was deleted.
    """
    found = set(part_files(folder))
    missing = [p for p in live if "://" not in p and p not in found]
    if missing:
        raise StorageError(
            f"{len(missing)} live parts of table {table} are missing, {missing[0]} for one: nothing is deleted.",
            hint="Restore them from a backup; `tickflight-server check` lists them.",
        )
    young_ms = time.time_ns() // 1_000_000 - _YOUNG_MS
    gone = []
    for relative in sorted(p for p in found if p not in live and p not in in_use):
        path = folder / relative
        when = removed.get(relative)
        if (when >= oldest_ms) if when is not None else path.stat().st_mtime_ns // 1_000_000 >= young_ms:
            continue
        gone.append(relative)
        if not dry_run:
            path.unlink(missing_ok=True)
    if not dry_run:
        _remove_empty_folders(folder, young_ms)
    return gone


def _remove_empty_folders(folder: Path, young_ms: int) -> None:
    """Remove the folders of partitions that have no file, but those that somebody may be about to write to."""
    gone = set()
    for base, folders, files in _walk(folder, down=False):
        if files or "=" not in _name(base) or any(f"{base}/{name}" not in gone for name in folders):
            continue
        path = folder / base
        with contextlib.suppress(OSError):  # it has got files
            if path.stat().st_mtime_ns // 1_000_000 < young_ms:
                path.rmdir()
                gone.add(base)


def _name(relative: str) -> str:
    return relative.rpartition("/")[2]
