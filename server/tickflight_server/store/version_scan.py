"""A table's versions when they may be damaged: which files are bad, and which version is the newest that can be read.

The rule of this file: it never changes a table's folder. A version is tried in a folder of its own, of hard links to
the files that it needs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import pyarrow.parquet as pq

from tickflight_server.errors import StorageError
from tickflight_server.files import make_folder
from tickflight_server.store.delta_log import FOLDER, version_files
from tickflight_server.store.part_scan import first_line

HINT = "_last_checkpoint"


@dataclass
class VersionFiles:
    """The files of a table's Delta log: those that are whole, and what is wrong with the others, by name."""

    versions: dict[int, Path] = field(default_factory=dict)
    checkpoints: dict[int, Path] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    newest: int = -1  # of all, whole or not

    def candidates(self) -> Iterator[tuple[int, int]]:
        """Yield versions that could be read, each with the checkpoint to start from or -1, the newest first."""
        found = []
        for checkpoint in [-1, *self.checkpoints]:
            version = checkpoint
            while version + 1 in self.versions:
                version += 1
            if version >= 0:
                found.append((version, checkpoint))
        yield from sorted(found, reverse=True)

    @property
    def broken(self) -> list[str]:
        """The files that are bad and that the newest version needs: those behind the newest whole checkpoint."""
        start = max(self.checkpoints, default=-1)
        return [name for name in self.bad if not name[:20].isdigit() or int(name[:20]) > start]


def scan_versions(table: Path) -> VersionFiles:
    """Read every file of a table's Delta log; one is in memory at a time."""
    found = VersionFiles()
    for version, path in version_files(table):
        found.newest = version
        wrong = wrong_version(path)
        if wrong is None:
            found.versions[version] = path
        else:
            found.bad[path.name] = wrong
    folder = table / FOLDER
    for path in sorted(folder.glob("*.checkpoint.parquet")) if folder.is_dir() else ():
        try:
            pq.read_table(path)
            found.checkpoints[int(path.name[:20])] = path
        except Exception as error:  # bytes that are not what they should be can raise anything
            found.bad[path.name] = first_line(error)
        if path.name[:20].isdigit():
            found.newest = max(found.newest, int(path.name[:20]))
    if (hint := folder / HINT).exists() and (wrong := _wrong_hint(hint, found)) is not None:
        found.bad[HINT] = wrong
    return found


def _wrong_hint(path: Path, found: VersionFiles) -> str | None:
    try:
        version = int(json.loads(path.read_bytes())["version"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        return first_line(error)
    return None if version in found.checkpoints else f"it names checkpoint {version}, which is missing or damaged"


def wrong_version(path: Path) -> str | None:
    """Return what is wrong with the file of a version, or None."""
    try:
        lines = path.read_bytes().splitlines()
        if not all(isinstance(json.loads(line), dict) for line in lines):
            return "a line is not an action"
    except (ValueError, OSError) as error:
        return first_line(error)
    return None if lines else "it is empty"


def actions(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the actions of a version's file that can be read, each on a line of its own, whatever the others are."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            action = json.loads(line)
        except ValueError:
            continue
        if isinstance(action, dict):
            yield action


def marks_of(path: Path) -> dict[str, int]:
    """Return the application transactions that a version's file records, as far as it can be read."""
    found: dict[str, int] = {}
    for action in actions(path):
        mark = action.get("txn")
        if isinstance(mark, dict) and isinstance(mark.get("appId"), str) and isinstance(mark.get("version"), int):
            found[mark["appId"]] = mark["version"]
    return found


def find_table_writers(table: Path) -> set[UUID]:
    """Return who wrote the table, as its versions say."""
    writers = set()
    for _, path in version_files(table):
        for name in marks_of(path):
            owner, _, rest = name.partition("/")
            if rest == table.name and owner != "producer":
                try:
                    writers.add(UUID(owner))
                except ValueError:
                    continue
    return writers


def removed_parts(found: VersionFiles, upto: int) -> set[str]:
    """Return the parts that versions up to ``upto`` say were removed."""
    return {
        unquote(remove["path"])
        for version, path in found.versions.items()
        if version <= upto
        for action in actions(path)
        if isinstance(remove := action.get("remove"), dict) and isinstance(remove.get("path"), str)
    }


def probe(table: Path, found: VersionFiles, place: Path, load: Callable[[Path], None]) -> int:
    """Make at ``place`` a table of hard links that ``load`` can read, as new as can be; return its version.

    Without one, ``load`` is given an empty folder, and -1 returned.

    Raises:
        OSError: the links cannot be made.
        StorageError: ``load`` refuses even an empty folder.
    """
    for version, checkpoint in found.candidates():
        shutil.rmtree(place, ignore_errors=True)
        folder = place / FOLDER
        make_folder(folder)
        if checkpoint >= 0:
            os.link(found.checkpoints[checkpoint], folder / found.checkpoints[checkpoint].name)
        for number, path in version_files(table):
            if checkpoint <= number <= version:  # of the checkpoint's own version only the name is needed
                os.link(path, folder / path.name)
        for newest in range(version, max(0, checkpoint) - 1, -1):
            try:
                load(place)
            except StorageError:
                (folder / f"{newest:020d}.json").unlink(missing_ok=True)
                continue
            return newest
    shutil.rmtree(place, ignore_errors=True)
    load(place)
    return -1
