"""Files of a Delta table's log that delta-rs neither syncs nor tells of: durability, metadata commits, removed parts.

The rule of this file: bytes and names as the Delta protocol has them (https://github.com/delta-io/delta, PROTOCOL.md);
a version appears by one link of a finished file.
"""

from __future__ import annotations

import json
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from deltalake import DeltaTable, Schema

from tickflight_server.errors import StorageError
from tickflight_server.files import close_to_others, sync_file, sync_folder, write_again, write_all

FOLDER = "_delta_log"
_VERSION = re.compile(r"(\d{20})\.json")


def version_files(table: Path) -> list[tuple[int, Path]]:
    """Return the versions whose commit file is kept, oldest first, each with its file."""
    folder = table / FOLDER
    if not folder.is_dir():
        return []
    return sorted((int(m[1]), p) for p in folder.iterdir() if (m := _VERSION.fullmatch(p.name)))


def set_torn_aside(table: Path) -> int | None:
    """Take the newest version out of the log if it was cut off while it was written; return which it was.

    delta-rs does not sync: power may go before a version's contents are on disk. Such a version was not yet synced by
    ``sync_version``, so the log still has the rows of its flush. The file stays, under another name.
    """
    kept = version_files(table)
    if not kept:
        return None
    for version, path in kept[:-1]:
        if path.stat().st_size == 0:
            # delta-rs would take it for a version without changes
            raise StorageError(
                f"version {version} of table {table.name} is empty: {path.name}.",
                hint="Keep a copy of the folder, then run `tickflight-server check --repair`.",
            )
    version, path = kept[-1]
    lines = path.read_bytes().splitlines()
    try:
        if lines and all(json.loads(line) for line in lines):
            return None
    except ValueError:
        if not _is_cut(lines):
            return None  # damaged, and said so by whoever reads it
    path.rename(path.with_suffix(".json.torn"))
    sync_folder(path.parent)
    return version


def set_torn_checkpoints_aside(table: Path) -> list[str]:
    """Take checkpoints out of the log that were cut off while they were written; return their names.

    The versions that they stand for are still there: they are only deleted behind a checkpoint that is on disk.
    """
    folder = table / FOLDER
    torn = [p for p in folder.glob("*.checkpoint.parquet") if not _is_parquet(p)]
    pointer = folder / "_last_checkpoint"
    if pointer.exists():
        try:
            named = folder / f"{json.loads(pointer.read_bytes())['version']:020d}.checkpoint.parquet"
        except (ValueError, KeyError, TypeError):
            torn.append(pointer)
        else:
            torn += [pointer] if named in torn or not named.exists() else []
    for path in torn:
        path.rename(path.with_name(path.name + ".torn"))
    if torn:
        sync_folder(folder)
    return [p.name for p in torn]


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < 12:
            return False
        file.seek(size - 8)
        length, magic = struct.unpack("<I4s", file.read())
        file.seek(0)
        return magic == b"PAR1" and length + 12 <= size and file.read(4) == b"PAR1"


def _is_cut(lines: list[bytes]) -> bool:
    """Return whether all lines but the last are whole, and the last one stops in the middle."""
    try:
        whole = all(json.loads(line) for line in lines[:-1])
    except ValueError:
        return False
    return whole and not lines[-1].rstrip(b"\0").endswith(b"}")


def sync_version(table: Path, version: int) -> None:
    """Make a version that delta-rs wrote durable, with its checkpoint if it has one."""
    _settle(table, version, sync_file)


def write_version_again(table: Path, version: int) -> None:
    """Make a version durable that may have been synced in vain."""
    _settle(table, version, write_again)


def _settle(table: Path, version: int, settle: Callable[[Path], None]) -> None:
    folder = table / FOLDER
    name = f"{version:020d}"
    # delta-rs makes them as the umask says
    close_to_others(folder)
    for made in folder.glob(f"{name}.*"):
        close_to_others(made)
    settle(folder / f"{name}.json")
    if (checkpoint := folder / f"{name}.checkpoint.parquet").exists():
        # whoever opens the table next starts from it
        settle(checkpoint)
        if (pointer := folder / "_last_checkpoint").exists():
            close_to_others(pointer)
            settle(pointer)
    sync_folder(folder)
    sync_folder(table)
    sync_folder(table.parent)


def write_metadata(table: Path, delta: DeltaTable, schema: Schema, configuration: dict[str, str]) -> None:
    """Commit a version that only changes schema and configuration; durable when this returns.

    delta-rs adds columns, but neither widens a type nor does both in one version.

    Raises:
        FileExistsError: somebody else committed this version.
        OSError: it cannot be written.
    """
    now = {"timestamp": time.time_ns() // 1_000_000, "operation": "CHANGE METADATA", "operationParameters": {}}
    metadata = delta.metadata()
    action = {
        "id": str(metadata.id),
        "name": metadata.name,
        "description": metadata.description,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": schema.to_json(),
        "partitionColumns": metadata.partition_columns,
        "configuration": metadata.configuration | configuration,
        "createdTime": metadata.created_time,
    }
    text = "".join(json.dumps(line) + "\n" for line in ({"commitInfo": now}, {"metaData": action}))
    folder = table / FOLDER
    aside = folder / ".metadata.tmp"
    aside.unlink(missing_ok=True)
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.link(aside, folder / f"{delta.version() + 1:020d}.json")
    aside.unlink()
    sync_folder(folder)


def removed_since(table: Path, oldest_ms: int) -> dict[str, int]:
    """Return the parts that versions removed at or after ``oldest_ms`` (ms since 1970), each with that time."""
    found: dict[str, int] = {}
    for _, path in version_files(table):
        if path.stat().st_mtime_ns // 1_000_000 >= oldest_ms:
            found |= {part: when for part, when in _removed_by(path).items() if when >= oldest_ms}
    return found


class Removals:
    """What the kept versions of a table removed; the file of a version is read once, as it never changes."""

    def __init__(self, table: Path) -> None:
        self._table = table
        self._by_version: dict[int, dict[str, int]] = {}

    def read(self) -> dict[str, int]:
        """Return the parts that were removed, each with the time of that, ms since 1970."""
        known = self._by_version
        self._by_version = {v: known[v] if v in known else _removed_by(path) for v, path in version_files(self._table)}
        return {part: when for removed in self._by_version.values() for part, when in removed.items()}


def _removed_by(path: Path) -> dict[str, int]:
    with path.open(encoding="utf-8") as lines:
        removed = [remove for line in lines if (remove := json.loads(line).get("remove"))]
    return {unquote(r["path"]): int(r.get("deletionTimestamp") or 0) for r in removed}
