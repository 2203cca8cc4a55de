"""A crash at any operation of the disk loses nothing that was acknowledged, doubles nothing and makes nothing up."""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from crash_points import Failure, Point, Way, check_in_pool, find_points, record
from disk_model import Disk, read_tree
from disk_shim import Entry, Kind, read_journal

PROCESSES = 2
SEEN_MAX = 20  # failures that are shown


@pytest.fixture(scope="module")
def recorded(shim: Path, seed: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder and the journal of one run of the workload."""
    return record(shim, tmp_path_factory.mktemp("recorded").resolve(), seed)


def test_nothing_changes_the_folder_unseen(recorded: tuple[Path, Path]) -> None:
    folder, journal = recorded
    entries = read_journal(journal)
    disk = Disk()
    for entry in entries:
        disk.apply(entry)
    assert disk.killed() == read_tree(folder)
    assert not [e for e in entries if e.kind is Kind.ESCAPE]


def test_the_run_does_all_that_a_crash_can_meet(recorded: tuple[Path, Path]) -> None:
    done = [e for e in read_journal(recorded[1]) if not e.error]

    def happened(kind: Kind, text: str) -> bool:
        return any(e.kind is kind and text in e.path for e in done)

    assert happened(Kind.UNLINK, "/log/"), "a log file is released"
    assert happened(Kind.TRUNCATE, "/log/"), "a torn tail is cut"
    assert happened(Kind.UNLINK, ".parquet"), "an orphan is deleted"
    assert happened(Kind.RENAME, ".checkpoint.parquet"), "Delta writes a checkpoint"
    logs = {e.path for e in done if e.kind is Kind.OPEN_WRITE and "/log/" in e.path}
    assert len(logs) > 2 * 5, "the log rolls"


def test_what_was_acknowledged_survives_a_crash_at_any_point_once(
    recorded: tuple[Path, Path], campaign: Any, seed: int, scratch: Path, counts: Counter[str], kept: Path
) -> None:
    entries = read_journal(recorded[1])
    points = choose(entries, campaign.crash_points, seed)
    counts["crash points"] += len(points)
    failures = check_in_pool(recorded[1], seed, points, scratch, processes=PROCESSES)
    assert not failures, report(failures, recorded[1], kept, seed)


def choose(entries: list[Entry], count: int | None, seed: int) -> list[Point]:
    """Return ``count`` points, or all: as many of each kind of operation and way to die as there are, rare ones too."""
    points = find_points(entries)
    if count is None:
        return points
    chance = random.Random(seed)
    chance.shuffle(points)
    groups: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        entry = entries[min(point.number, len(entries) - 1)]
        folder = "log" if "/log/" in entry.path else "versions" if "_delta_log" in entry.path else "other"
        groups.setdefault((entry.kind, folder, point.way.startswith(Way.KILL.value)), []).append(point)
    chosen: list[Point] = []
    while len(chosen) < count:
        chosen += [group.pop() for group in groups.values() if group]
    return sorted(chosen[:count])


def report(failures: list[Failure], journal: Path, kept: Path, seed: int) -> str:
    """Keep the journal, and say how each point is tried again."""
    copy = kept / journal.name
    shutil.copy(journal, copy)
    again = f"{Path(sys.executable).name} tests/support/crash_points.py {copy} --seed {seed} --point"
    lines = [f"{f.point}: {f.said.splitlines()[-1]}\n    {again} {f.point}" for f in failures[:SEEN_MAX]]
    return "\n".join([f"{len(failures)} points failed", *lines])
